/** The page: what is asked goes to the server, and what comes back is shown, once a frame. */

import { byId, onceAFrame } from "./dom.js";
import { Figures, showTimes } from "./figures.js";
import { Form } from "./form.js";
import { Legend } from "./origins.js";
import { Scrubber, View } from "./scrubber.js";
import { Seats } from "./seats.js";
import { Refusal, Server } from "./server.js";
import { TurnView } from "./text.js";
import { tableOf, treeOf } from "./tree.js";

const LOOK_AGAIN_MS = 1000;

class Page {
  #server = new Server();
  #seats = new Seats(this.#server);
  #turns = [];
  #texts = new Map();
  #shown = null;
  #draw = onceAFrame(() => this.#show());
  #view = new View(this.#draw);
  #scrubber = new Scrubber(this.#view);
  #figures = new Figures();
  #legend = new Legend(byId("legend"));
  #form = new Form({
    write: () => this.#write(),
    stop: () => this.#turns.at(-1).stop(),
    clear: () => this.#clear(),
    choose: () => this.#clear(),
  });

  async start() {
    byId("nodes").addEventListener("toggle", () => this.#showTable());
    const { model, needs_key } = await this.#server.ask("");
    document.title = `${model} · stagetree`;
    if (needs_key && !this.#server.hasKey) await this.#askForKey();
    await this.#waitUntilReady(model);
    const { chat_template } = await this.#withKey(() => this.#server.ask("props"));
    this.#form.offer(Boolean(chat_template));
    this.#seats.watch();
  }

  async #waitUntilReady(model) {
    for (;;) {
      const told = await this.#server.ask("ready", (status) => status === 503);
      if (told.status === "ready") {
        byId("model").textContent = `${model}, ${told.precision.split(",")[0]} on ${told.device}`;
        return;
      }
      byId("model").textContent = `${model}: ${told.phase}, ${Math.round(100 * told.progress)} %`;
      if (told.phase === "failed") throw new Refusal(503, told.message);
      await new Promise((done) => setTimeout(done, LOOK_AGAIN_MS));
    }
  }

  /** Do what needs the key, and ask for another as long as it is a wrong one. */
  async #withKey(work) {
    for (;;) {
      try {
        return await work();
      } catch (error) {
        if (error.status !== 401) throw error;
        byId("key-note").textContent = "That is not one of this server's keys.";
        await this.#askForKey();
      }
    }
  }

  #askForKey() {
    const dialog = byId("key");
    const form = dialog.querySelector("form");
    return new Promise((done) => {
      const take = () => {
        this.#server.key = form.elements.key.value;
        form.reset();
        done();
      };
      form.addEventListener("submit", take, { once: true });
      // Without a key there is nothing to be done here.
      dialog.oncancel = (event) => event.preventDefault();
      dialog.showModal();
    });
  }

  async #write() {
    if (this.#form.mode === "completion") this.#clear();
    const turn = this.#form.turn(this.#turns);
    this.#turns.push(turn);
    const text = new TurnView(turn, this.#form.mode === "chat", this.#view);
    this.#texts.set(turn, text);
    byId("turns").append(text.root);
    byId("failure").hidden = true;
    this.#form.isBusy = this.#seats.isHurried = true;
    this.#view.follow(turn);
    this.#tell("Writing …");
    try {
      await turn.write(this.#server, this.#draw);
      if (this.#form.mode === "chat" && turn.run.status === "done") this.#form.empty();
      this.#tell(endOf(turn));
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#form.isBusy = this.#seats.isHurried = false;
      this.#draw();
    }
  }

  #clear() {
    this.#turns.at(-1)?.stop();
    this.#turns = [];
    this.#texts.clear();
    byId("turns").replaceChildren();
  }

  #tell(words) {
    byId("status").textContent = words;
  }

  #fail(error) {
    this.#tell("");
    byId("failure").textContent = error.message;
    byId("failure").hidden = false;
  }

  #show() {
    const { turn, time, step } = this.#view;
    for (const [each, text] of this.#texts) text.update(each === turn, time);
    this.#scrubber.update();
    if (!turn) return;
    this.#figures.show(turn);
    this.#legend.show(turn.run);
    if (step && step !== this.#shown) {
      this.#shown = step;
      byId("tree").replaceChildren(treeOf(step));
      showTimes(step);
      this.#showTable();
    }
  }

  #showTable() {
    const details = byId("nodes");
    const isWanted = details.open && this.#shown?.nodes.length;
    details.querySelector(".table").replaceChildren(...(isWanted ? [tableOf(this.#shown)] : []));
  }
}

/** How a turn has ended, in a sentence that is also spoken. */
function endOf(turn) {
  const { run } = turn;
  if (turn.runs.some((each) => each.status === "stopped")) return `Stopped after ${run.tokens.length} tokens.`;
  const why = run.finish === "length" ? "as many as were asked for" : "the text ended";
  return `${run.tokens.length} tokens in ${run.steps.length} steps: ${why}. Seed ${run.seed}.`;
}

new Page().start().catch((error) => {
  byId("failure").textContent = error.message;
  byId("failure").hidden = false;
});
