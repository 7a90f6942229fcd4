/** A turn as text: what was asked, and each run's tokens, marked by who proposed them. */

import { element } from "./dom.js";
import { markOf, nameOf } from "./origins.js";

/** One run's text. A step's tokens lie together, so that a step is marked by one element. */
class Pane {
  #run;
  #steps = [];
  #lit = -1;
  #numShown = 0;
  #caption = element("span", { className: "muted" });

  /** `choose(at)` is called with the step of a token that is pointed at, `go(by)` by arrow keys. */
  constructor(run, given, isNamed, choose, go) {
    this.#run = run;
    this.text = element("div", {
      className: "text",
      tabIndex: 0,
      role: "group",
      ariaLabel: `${run.name}: left and right arrows go from step to step`,
    });
    if (given) this.text.append(element("span", { className: "given" }, given));
    this.text.addEventListener("click", ({ target }) => {
      const step = target.closest(".step");
      if (step) choose(Number(step.dataset.at));
    });
    this.text.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      go(by);
    });
    this.root = element("div", { className: "pane" });
    if (isNamed) this.root.append(element("h3", {}, run.name, " ", this.#caption));
    this.root.append(this.text);
  }

  /** Add the steps that have come since; `told` is said of the run. */
  update(told) {
    this.#caption.textContent = told;
    for (const step of this.#run.steps.slice(this.#steps.length)) {
      const at = this.#steps.length;
      const tokens = step.tokens.map((token) =>
        element(
          "span",
          { className: "token", title: nameOf(token.origin), data: { mark: markOf(token.origin) } },
          token.text,
        ),
      );
      this.#steps.push(element("span", { className: "step", data: { at } }, ...tokens));
      this.text.append(this.#steps.at(-1));
      this.#numShown = this.#steps.length;
    }
  }

  /** Light one step, and dim those from `end` on, which are not there yet. */
  mark(lit, end) {
    this.#steps[this.#lit]?.classList.remove("lit");
    this.#lit = lit;
    this.#steps[lit]?.classList.add("lit");
    const [from, to] = [Math.min(end, this.#numShown), Math.max(end, this.#numShown)];
    for (const step of this.#steps.slice(from, to)) step.classList.toggle("later", end < this.#numShown);
    this.#numShown = Math.min(end, this.#steps.length);
    this.#show(this.#steps[lit] ?? this.#steps[end - 1]);
  }

  /** Scroll a step into sight, in this pane alone: the page must not move under a slider. */
  #show(step) {
    if (!step) return;
    const [box, inside] = [this.text.getBoundingClientRect(), step.getBoundingClientRect()];
    if (inside.bottom > box.bottom) this.text.scrollTop += inside.bottom - box.bottom;
    if (inside.top < box.top) this.text.scrollTop -= box.top - inside.top;
  }
}

/** All of one turn. `view` is what is looked at: see scrubber.js. */
export class TurnView {
  #turn;
  #verdict = element("p", { className: "verdict", role: "status" });

  constructor(turn, isChat, view) {
    this.#turn = turn;
    const given = isChat ? "" : turn.prompt;
    const isNamed = turn.plain !== null;
    this.panes = turn.runs.map(
      (run) =>
        new Pane(run, given, isNamed, (at) => view.choose(turn, run.steps[at].time), (by) => view.go(turn, by)),
    );
    this.root = element("article", { className: isChat ? "turn chat" : "turn" });
    if (isChat) this.root.append(element("p", { className: "said" }, turn.prompt));
    this.root.append(element("div", { className: "panes" }, ...this.panes.map((pane) => pane.root)));
    if (turn.plain) this.root.append(this.#verdict);
  }

  /** Show all of it, or of the turn that is looked at what there was by a time that is not null. */
  update(isLookedAt, timeOfView) {
    const time = isLookedAt ? timeOfView : null;
    for (const [place, pane] of this.panes.entries()) {
      const run = this.#turn.runs[place];
      const lit = time === null ? run.steps.length - 1 : run.stepBy(time);
      const end = time === null ? run.steps.length : lit + 1;
      pane.update(captionOf(run, time === null ? run.tokens.length : numTokensBy(run, end)));
      pane.mark(isLookedAt && place === 0 ? lit : -1, end);
    }
    const verdict = this.#turn.verdict;
    if (verdict && this.#verdict.textContent !== verdict.text) {
      this.#verdict.textContent = verdict.text;
      this.#verdict.dataset.equal = verdict.isEqual;
    }
  }
}

function numTokensBy(run, end) {
  return end < run.steps.length ? run.steps[end].first : run.tokens.length;
}

function durationOf(milliseconds) {
  return milliseconds < 1000 ? `${milliseconds.toFixed(0)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

function captionOf(run, num) {
  if (run.status === "waiting") return "waits for its turn";
  const count = num === run.tokens.length ? `${num} tokens` : `${num} of ${run.tokens.length}`;
  return run.isOver && run.time ? `${count}, ${durationOf(run.time)}` : count;
}
