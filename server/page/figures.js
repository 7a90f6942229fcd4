/** Figures of a run, and where a step's time went. */

import { byId, element } from "./dom.js";

/** Shows the figures of a turn; remembers how fast plain decoding was when it was last measured. */
export class Figures {
  #list = byId("figures");
  #plainRate = 0;

  show(turn) {
    const { run, plain } = turn;
    if (plain?.status === "done" && plain.rate) this.#plainRate = plain.rate;
    const gain = run.rate && this.#plainRate ? run.rate / this.#plainRate : 0;
    const figures = [
      ["τ, tokens per step", run.tau ? run.tau.toFixed(2) : "–"],
      ["tokens per second", run.rate ? run.rate.toFixed(run.rate < 100 ? 1 : 0) : "–"],
      ["against plain", gain ? `${gain.toFixed(2)} ×` : "–"],
      ["tokens", String(run.tokens.length)],
      ["nodes verified", String(run.numNodes)],
    ];
    this.#list.replaceChildren(
      ...figures.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    );
  }
}

/** What a step took, part by part; and whose nodes it verified, if several texts shared it. */
export function showTimes(step) {
  const told = byId("times");
  if (!step) return told.replaceChildren();
  const known = step.drafting_ms + step.target_ms + step.choosing_ms;
  const parts = [
    ["drafting", step.drafting_ms],
    ["target pass", step.target_ms],
    ["choosing", step.choosing_ms],
    ["the rest", Math.max(0, step.step_ms - known)],
  ];
  const bar = element("div", { className: "parts", ariaHidden: "true" });
  const words = element("ul", { ariaLabel: "Time of this step" });
  for (const [place, [name, milliseconds]] of parts.entries()) {
    const part = element("span", { data: { part: place } });
    part.style.flexGrow = milliseconds;
    bar.append(part);
    words.append(element("li", { data: { part: place } }, `${name} ${milliseconds.toFixed(2)} ms`));
  }
  const lines = [sizeOf(step), bar, words];
  if (step.nodes_by_text.length > 1) lines.push(companyOf(step));
  told.replaceChildren(...lines);
}

function sizeOf(step) {
  const nodes = step.num_nodes === 1 ? "1 node" : `${step.num_nodes} nodes`;
  const shown = step.nodes.length && step.nodes.length < step.num_nodes ? `, ${step.nodes.length} shown` : "";
  const drafts = step.num_accepted === 1 ? "1 draft" : `${step.num_accepted} drafts`;
  return element("p", {}, `${nodes} verified in one pass${shown}: ${drafts} accepted, 1 bonus token, ${step.step_ms.toFixed(2)} ms`);
}

function companyOf(step) {
  const sizes = step.nodes_by_text.map((size, place) => (place === step.place ? `${size} of this text` : `${size}`));
  return element("p", { className: "muted" }, `Nodes of ${sizes.length} texts in the pass: ${sizes.join(" + ")}`);
}
