/** What has come of one request so far: its tokens, its steps with their trees, its figures. */

export class Run {
  tokens = [];
  /** As the stream tells them, each with `first` token, `time` since the first one in ms. */
  steps = [];
  /** Who has proposed anything, accepted or not. */
  origins = new Set();
  content = "";
  seed = null;
  finish = null;
  metrics = null;
  /** waiting, writing, done, stopped, failed */
  status = "waiting";
  #firstAt = 0;
  #lastAt = 0;

  constructor(name) {
    this.name = name;
  }

  /** Take a chunk of a completion or of a chat that came now, by performance.now(). */
  take(chunk, now) {
    this.metrics = chunk.metrics ?? this.metrics;
    const choice = chunk.choices[0];
    if (!choice) return;
    this.status = "writing";
    this.seed = choice.seed;
    this.finish = choice.finish_reason ?? this.finish;
    this.content += choice.text ?? choice.delta.content ?? "";
    for (const step of choice.trace ?? []) this.#add(step);
    if (!this.#firstAt) this.#firstAt = now;
    this.#lastAt = now;
  }

  /**
   * The engine's own time, since the browser hears of several steps at once. The first step is left
   * out: before its token nothing is drafted, and the prompt has been read meanwhile.
   */
  #add(step) {
    const before = this.steps.at(-1);
    const time = before ? before.time + step.step_ms : 0;
    this.steps.push({ ...step, first: this.tokens.length, time });
    const at = this.steps.length - 1;
    this.tokens.push(...step.tokens.map((token) => ({ ...token, at })));
    for (const node of step.nodes) if (node.parent !== null) this.origins.add(node.origin);
  }

  get isOver() {
    return this.status !== "waiting" && this.status !== "writing";
  }

  /** Mean tokens of a step, the bonus token included, as the server counts it. */
  get tau() {
    const accepted = this.steps.reduce((sum, step) => sum + step.num_accepted, 0);
    return this.steps.length ? 1 + accepted / this.steps.length : 0;
  }

  get numNodes() {
    return this.steps.reduce((sum, step) => sum + step.num_nodes, 0);
  }

  /** Tokens a second after the first: the server's figure once it has told it. */
  get rate() {
    if (this.metrics?.mean_itl_ms) return 1000 / this.metrics.mean_itl_ms;
    const seconds = (this.#lastAt - this.#firstAt) / 1000;
    return seconds > 0 ? (this.tokens.length - 1) / seconds : 0;
  }

  /** When the last step was over. */
  get time() {
    return this.steps.at(-1)?.time ?? 0;
  }

  /** The last step that was over by this time; -1 for none. */
  stepBy(time) {
    let [low, high] = [0, this.steps.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.steps[middle].time <= time + 1e-6) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }
}

/** Where two texts part, by their tokens; null where they are equal as far as both go. */
export function parting(one, other) {
  const both = Math.min(one.tokens.length, other.tokens.length);
  for (let at = 0; at < both; at += 1) {
    if (one.tokens[at].id !== other.tokens[at].id) return at;
  }
  const isWhole = one.status === "done" && other.status === "done";
  if (isWhole && (one.tokens.length !== other.tokens.length || one.content !== other.content)) return both;
  return null;
}
