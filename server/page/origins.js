/**
 * Who may propose a token, and the mark of each: a colour, a kind of line and a shape, so that no
 * mark is told apart by its colour alone.
 */

import { drawn, element } from "./dom.js";

const KNOWN = {
  target: "the model itself",
  draft: "draft model",
  head: "draft head",
  ngram: "n-grams and look-up",
  recycle: "recycled proposals",
  prediction: "your prediction",
  grammar: "forced by the grammar",
};

const MARKS = { target: 0, draft: 1, head: 1, ngram: 2, recycle: 3, prediction: 4, grammar: 5 };

/** Corners of each mark's shape in a square of 8, for marks 1 to 5; 0 has none. */
const SHAPES = [
  "",
  "M4 .5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 1 1 0-7z",
  "M4 0l4 4-4 4-4-4z",
  "M.7.7h6.6v6.6h-6.6z",
  "M4 .4l4 7h-8z",
  "M2.7 0h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",
];

/** 0 for the target; a stage that is not known here shares the last mark. */
export function markOf(origin) {
  return MARKS[origin] ?? 5;
}

export function nameOf(origin) {
  return KNOWN[origin] ?? origin;
}

/** The shape of an origin with its corner at x, y. */
export function shapeOf(origin, x, y) {
  return drawn("path", { d: SHAPES[markOf(origin)], class: "shape", transform: `translate(${x} ${y})` });
}

/** Shows who has proposed how many tokens of a run: 0 where trees had nodes of theirs alone. */
export class Legend {
  #list;
  #told = "";

  constructor(list) {
    this.#list = list;
  }

  show(run) {
    const counts = new Map([...(run?.origins ?? [])].map((origin) => [origin, 0]));
    for (const token of run?.tokens ?? []) counts.set(token.origin, (counts.get(token.origin) ?? 0) + 1);
    const origins = [...counts.keys()].sort((one, other) => markOf(one) - markOf(other));
    const told = origins.map((origin) => `${origin} ${counts.get(origin)}`).join();
    if (told === this.#told) return;
    this.#told = told;
    this.#list.replaceChildren(
      ...origins.map((origin) =>
        element(
          "li",
          { data: { mark: markOf(origin) } },
          drawn("svg", { viewBox: "0 0 8 8", "aria-hidden": "true" }, shapeOf(origin, 0, 0)),
          element("span", { className: "token" }, nameOf(origin)),
          element("span", { className: "count" }, String(counts.get(origin))),
        ),
      ),
    );
  }
}
