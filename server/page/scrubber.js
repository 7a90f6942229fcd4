/**
 * What is looked at: a turn, and a moment of it in milliseconds since its first token, or null for
 * as far as it has come. Steps are moments, so that a plain run can be shown as it was just then.
 */

import { byId, drawn } from "./dom.js";
import { summaryOf } from "./tree.js";

/** The whole of a turn is played in at least so long, however fast it was written. */
const LEAST_PLAYING_MS = 5000;

export class View {
  turn = null;
  time = null;
  #changed;
  #playing = 0;

  /** `changed` is called when something else is to be shown. */
  constructor(changed) {
    this.#changed = changed;
  }

  get isPlaying() {
    return this.#playing !== 0;
  }

  /** Look at a turn as it is being written. */
  follow(turn) {
    this.#show(turn, null);
  }

  /** Look at a moment of a turn. */
  choose(turn, time) {
    this.#show(turn, time);
  }

  /** Look at another step, so many further on. */
  go(turn, by) {
    const steps = turn.run.steps;
    const from = this.turn === turn ? this.stepAt : steps.length - 1;
    const to = Math.min(Math.max(from + by, 0), steps.length - 1);
    if (steps[to]) this.#show(turn, steps[to].time);
  }

  /** The place of the step that is looked at; -1 for none. */
  get stepAt() {
    const run = this.turn?.run;
    if (!run) return -1;
    return this.time === null ? run.steps.length - 1 : run.stepBy(this.time);
  }

  get step() {
    return this.turn?.run.steps[this.stepAt] ?? null;
  }

  /** Play all of it from the beginning, or stop playing. */
  play() {
    if (this.isPlaying) return this.stop();
    const end = Math.max(...this.turn.runs.map((run) => run.time));
    const pace = end / Math.max(end, LEAST_PLAYING_MS);
    const started = performance.now();
    const tick = (now) => {
      const time = Math.max(0, now - started) * pace;
      if (time >= end) return this.stop();
      this.time = time;
      this.#playing = requestAnimationFrame(tick);
      this.#changed();
    };
    this.#playing = requestAnimationFrame(tick);
    this.#changed();
  }

  stop() {
    this.#show(this.turn, null);
  }

  #show(turn, time) {
    cancelAnimationFrame(this.#playing);
    this.#playing = 0;
    this.turn = turn;
    this.time = time;
    this.#changed();
  }
}

/** The steps as bars, one of which is looked at, and what moves that: slider, buttons, pointer. */
export class Scrubber {
  #view;
  #bars = drawn("svg", { preserveAspectRatio: "none" });
  #known = { turn: null, num: 0 };
  #slider = byId("scrub");
  #back = byId("back");
  #forth = byId("forth");
  #play = byId("play");

  constructor(view) {
    this.#view = view;
    byId("bars").append(this.#bars);
    this.#slider.addEventListener("input", () => this.#choose(Number(this.#slider.value)));
    this.#back.addEventListener("click", () => view.go(view.turn, -1));
    this.#forth.addEventListener("click", () => view.go(view.turn, 1));
    this.#play.addEventListener("click", () => view.play());
    byId("bars").addEventListener("click", (event) => {
      const { left, width } = this.#bars.getBoundingClientRect();
      const num = view.turn?.run.steps.length ?? 0;
      if (num) this.#choose(Math.min(num - 1, Math.floor(((event.clientX - left) / width) * num)));
    });
  }

  #choose(at) {
    this.#view.choose(this.#view.turn, this.#view.turn.run.steps[at].time);
  }

  update() {
    const { turn, step, stepAt, isPlaying } = this.#view;
    const num = turn?.run.steps.length ?? 0;
    this.#slider.max = Math.max(0, num - 1);
    this.#slider.value = Math.max(0, stepAt);
    this.#slider.disabled = num < 2;
    this.#slider.ariaValueText = step ? summaryOf(step) : "";
    this.#back.disabled = stepAt < 1;
    this.#forth.disabled = stepAt >= num - 1;
    this.#play.disabled = num < 2 || !turn.isOver;
    this.#play.textContent = isPlaying ? "End" : "Play";
    byId("step-name").textContent = step ? `Step ${step.step} of ${num}` : "";
    this.#drawBars(turn, num);
    for (const bar of this.#bars.querySelectorAll(".lit")) bar.classList.remove("lit");
    this.#bars.children[stepAt]?.classList.add("lit");
  }

  /** A bar for each step, as high as it wrote tokens; the bonus token is the top of it. */
  #drawBars(turn, num) {
    if (this.#known.turn === turn && this.#known.num === num) return;
    if (this.#known.turn !== turn) this.#bars.replaceChildren();
    this.#known = { turn, num };
    if (!num) return;
    const steps = turn.run.steps;
    const highest = Math.max(4, ...steps.map((step) => step.tokens.length));
    this.#bars.setAttribute("viewBox", `0 0 ${num} ${highest}`);
    for (const [at, step] of steps.entries()) {
      const bar = this.#bars.children[at] ?? this.#bars.appendChild(barOf(at, step));
      bar.setAttribute("transform", `translate(0 ${highest})`);
    }
  }
}

function barOf(at, step) {
  const height = step.tokens.length;
  return drawn(
    "g",
    { class: "bar" },
    drawn("rect", { class: "drafts", x: at + 0.1, y: 1 - height, width: 0.8, height: Math.max(0, height - 1) }),
    drawn("rect", { class: "own", x: at + 0.1, y: -height, width: 0.8, height: Math.min(1, height) }),
  );
}
