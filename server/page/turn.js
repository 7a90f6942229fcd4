/** A prompt and what was written for it: by speculation, and plainly too where they are compared. */

import { parting, Run } from "./run.js";

export class Turn {
  #abort = new AbortController();

  /** `body` is the request without its speculation; the plain run gets the other's seed. */
  constructor(prompt, path, body, speculation, isCompared) {
    this.prompt = prompt;
    this.path = path;
    this.body = body;
    this.speculation = speculation;
    this.run = new Run(isCompared ? `Speculation ${speculation}` : "Text");
    this.plain = isCompared ? new Run("Speculation off") : null;
  }

  get runs() {
    return this.plain ? [this.run, this.plain] : [this.run];
  }

  get isOver() {
    return this.runs.every((run) => run.isOver);
  }

  stop() {
    this.#abort.abort();
  }

  /**
   * Write all of it; `changed` is called whenever there is more. One after the other, since two
   * texts at once would share the engine's steps, and neither would be as fast as it is alone.
   * Throws a Refusal.
   */
  async write(server, changed) {
    try {
      await this.#writeRun(server, this.run, this.body, this.speculation, changed);
      if (this.plain) {
        await this.#writeRun(server, this.plain, { ...this.body, seed: this.run.seed }, "off", changed);
      }
    } finally {
      for (const run of this.runs) if (!run.isOver) run.status = "stopped";
      changed();
    }
  }

  async #writeRun(server, run, body, speculation, changed) {
    try {
      this.#abort.signal.throwIfAborted();
      const chunks = server.stream(this.path, { ...body, speculation }, this.#abort.signal);
      for await (const chunk of chunks) {
        run.take(chunk, performance.now());
        changed();
      }
      run.status = "done";
    } catch (error) {
      run.status = this.#abort.signal.aborted ? "stopped" : "failed";
      if (run.status === "failed") throw error;
    }
    changed();
  }

  /** In words, whether the two texts are the same, once both have been written. */
  get verdict() {
    if (!this.plain || !this.isOver || !this.plain.tokens.length) return null;
    const place = parting(this.run, this.plain);
    const both = Math.min(this.run.tokens.length, this.plain.tokens.length);
    if (place !== null) {
      return { isEqual: false, text: `The texts differ from token ${place + 1} on, as near ties may fall either way in low precision.` };
    }
    const gain = this.run.rate && this.plain.rate ? this.run.rate / this.plain.rate : 0;
    const speed = gain ? `, ${gain.toFixed(2)} times as fast with speculation` : "";
    return { isEqual: true, text: `The same text: ${both} tokens, compared one by one${speed}.` };
  }
}
