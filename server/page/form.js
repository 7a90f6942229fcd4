/** What the form asks for, as a turn. */

import { byId } from "./dom.js";
import { Turn } from "./turn.js";

const EXAMPLES = {
  completion: 'def merge(left, right):\n    """Merge two sorted lists."""\n    result = []\n',
  chat: "Name three rivers, and say where each of them ends.",
};

export class Form {
  #form = byId("ask");
  #fields = this.#form.elements;
  #prompt = byId("prompt");
  #isBusy = false;

  /** `write` is called when a text is to be written, `stop` when it is to end, `choose` with a mode. */
  constructor({ write, stop, clear, choose }) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.#isBusy) write();
    });
    this.#form.addEventListener("keydown", (event) => {
      const sends = event.ctrlKey || event.metaKey || (this.mode === "chat" && !event.shiftKey);
      if (event.key === "Enter" && event.target === this.#prompt && sends && !event.isComposing) {
        event.preventDefault();
        this.#form.requestSubmit();
      }
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#isBusy) stop();
    });
    byId("stop").addEventListener("click", stop);
    byId("clear").addEventListener("click", clear);
    for (const radio of this.#fields.mode) {
      radio.addEventListener("change", () => {
        this.#setMode();
        choose();
      });
    }
  }

  get mode() {
    return this.#fields.mode.value;
  }

  /** Offer what the model can do: chats need a template. */
  offer(hasChat) {
    const [, chat] = this.#fields.mode;
    chat.disabled = !hasChat;
    chat.parentElement.title = hasChat ? "" : "This model has no chat template";
    if (hasChat) this.#fields.mode.value = "chat";
    this.#setMode();
  }

  set isBusy(isBusy) {
    this.#isBusy = isBusy;
    byId("write").disabled = isBusy;
    byId("stop").disabled = !isBusy;
  }

  /** The turn that is asked for, after those before it in a chat. */
  turn(before) {
    const { temperature, top_p, max_tokens, seed, speculation, compare } = this.#fields;
    const common = {
      temperature: Number(temperature.value),
      top_p: Number(top_p.value),
      max_tokens: Number(max_tokens.value),
      ...(seed.value === "" ? {} : { seed: Number(seed.value) }),
    };
    const prompt = this.#prompt.value;
    if (this.mode === "completion") {
      return new Turn(prompt, "v1/completions", { ...common, prompt }, speculation.value, compare.checked);
    }
    const told = before.filter((turn) => turn.run.content);
    const messages = told.flatMap((turn) => [
      { role: "user", content: turn.prompt },
      { role: "assistant", content: turn.run.content },
    ]);
    messages.push({ role: "user", content: prompt });
    return new Turn(prompt, "v1/chat/completions", { ...common, messages }, speculation.value, compare.checked);
  }

  /** A message has been sent. */
  empty() {
    this.#prompt.value = "";
  }

  #setMode() {
    const isChat = this.mode === "chat";
    byId("prompt-label").textContent = isChat ? "Message" : "Prompt";
    byId("write").textContent = isChat ? "Send" : "Write";
    byId("clear").hidden = !isChat;
    this.#prompt.rows = isChat ? 2 : 3;
    const isExample = Object.values(EXAMPLES).includes(this.#prompt.value) || !this.#prompt.value;
    if (isExample) this.#prompt.value = EXAMPLES[this.mode];
    // Where it stands is where it is read and reached by keyboard: a message comes after the others.
    const [section, focused] = [byId("writing"), document.activeElement];
    if (isChat) section.append(this.#form, byId("status"));
    else section.prepend(this.#form, byId("status"));
    focused.focus(); // which moving takes away
  }
}
