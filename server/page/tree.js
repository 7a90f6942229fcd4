/** A step's token tree as a drawing: depth goes to the right, and the accepted path along the top. */

import { drawn, element, visible } from "./dom.js";
import { markOf, nameOf, shapeOf } from "./origins.js";

const ROW = 30;
const HEIGHT = 22;
const GAP = 26;
const CHARACTER = 7.3;
const MARGIN = 6;
const LONGEST = 16;

/**
 * Where everything goes: boxes with the node that each stands for, and its parent's box. The first
 * child goes on in its parent's row, every other one begins a row below all that came before. The
 * bonus token is drawn like a node, behind the accepted path, though it was never one.
 */
export function laidOut(step) {
  const onPath = new Set(step.path);
  const boxes = step.nodes.map((node, at) => ({ ...node, at, children: [], isAccepted: onPath.has(at) }));
  const bonus = { ...step.bonus, parent: step.path.at(-1) ?? 0, origin: "target", children: [], isBonus: true };
  bonus.depth = boxes[bonus.parent].depth + 1;
  for (const box of [...boxes, bonus]) {
    if (box.parent !== null) boxes[box.parent].children.push(box);
  }
  const widths = [];
  let numRows = 1;
  const place = (box, row) => {
    box.row = row;
    box.label = shortened(visible(box.text));
    box.width = Math.max(30, widthOf(box.label) + (markOf(box.origin) && box.depth ? 24 : 14));
    widths[box.depth] = Math.max(widths[box.depth] ?? 0, box.width);
    box.children.sort((one, other) => rank(other) - rank(one));
    box.children.forEach((child, nth) => place(child, nth === 0 ? row : numRows++));
  };
  place(boxes[0], 0);
  const starts = [MARGIN];
  for (const width of widths) starts.push(starts.at(-1) + width + GAP);
  const all = [...boxes, bonus];
  for (const box of all) {
    box.x = starts[box.depth];
    box.y = MARGIN + box.row * ROW;
    box.above = box.parent === null ? null : boxes[box.parent];
  }
  return { boxes: all, width: starts.at(-1) - GAP + MARGIN, height: numRows * ROW - (ROW - HEIGHT) + 2 * MARGIN };
}

/** The way of the text first, then what was thought likeliest. */
function rank(box) {
  return box.isAccepted || box.isBonus ? 2 : box.estimate;
}

function shortened(label) {
  const characters = [...label];
  return characters.length > LONGEST ? `${characters.slice(0, LONGEST - 1).join("")}…` : label;
}

/** Characters of Chinese and its neighbours are twice as wide. */
function widthOf(label) {
  return [...label].reduce((sum, each) => sum + (each > "\u2e7f" ? 2 : 1) * CHARACTER, 0);
}

/** The drawing of a step, or a line that says why there is none. */
export function treeOf(step) {
  if (!step.nodes.length) {
    return element("p", { className: "hint" }, "A reply tells the trees of its first 65,536 nodes; this step came after.");
  }
  const { boxes, width, height } = laidOut(step);
  const title = drawn("title", {}, summaryOf(step));
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }, title);
  // Of lines that overlap, those of the path lie on top.
  const below = boxes.filter((box) => box.above).sort((one, other) => isLit(one) - isLit(other));
  svg.append(...below.map(edgeOf), ...boxes.map(nodeOf));
  return svg;
}

function isLit(box) {
  return Number(Boolean(box.isAccepted || box.isBonus));
}

function edgeOf(box) {
  const [x, y] = [box.above.x + box.above.width, box.above.y + HEIGHT / 2];
  const end = box.y + HEIGHT / 2;
  const bend = box.x - GAP / 2;
  const way = end === y ? `M${x} ${y}H${box.x}` : `M${x} ${y}H${bend - 5}Q${bend} ${y} ${bend} ${y + 5}V${end - 5}Q${bend} ${end} ${bend + 5} ${end}H${box.x}`;
  return drawn("path", { d: way, class: isLit(box) ? "edge lit" : "edge" });
}

function kindOf(box) {
  if (box.isBonus) return "bonus";
  if (box.parent === null) return "root";
  return box.isAccepted ? "accepted" : "rejected";
}

function nodeOf(box) {
  const kind = kindOf(box);
  const hasShape = kind === "accepted" || kind === "rejected";
  const node = drawn("g", { class: `node ${kind}`, "data-mark": hasShape ? markOf(box.origin) : 0 });
  node.append(
    drawn("title", {}, describe(box, kind)),
    drawn("rect", { x: box.x, y: box.y, width: box.width, height: HEIGHT, rx: 5 }),
  );
  if (hasShape) {
    const share = (box.width - 8) * box.estimate;
    node.append(
      drawn("rect", { class: "estimate", x: box.x + 4, y: box.y + HEIGHT - 4, width: share, height: 2, rx: 1 }),
      shapeOf(box.origin, box.x + 7, box.y + 7),
    );
  }
  node.append(drawn("text", { x: box.x + (hasShape ? 19 : 7), y: box.y + 14.5 }, box.label));
  return node;
}

function describe(box, kind) {
  const name = `“${visible(box.text)}” (${box.id})`;
  if (kind === "root") return `${name}, the last token of the text`;
  if (kind === "bonus") return `${name}, the bonus token: the model's own choice, with no draft`;
  return `${name}, ${nameOf(box.origin)}, thought ${percent(box.estimate)} likely, ${kind}`;
}

function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
}

/** A step in a sentence, for whoever hears it. */
export function summaryOf(step) {
  const text = step.tokens.map((token) => token.text).join("");
  const nodes = step.num_nodes === 1 ? "1 node" : `${step.num_nodes} nodes`;
  return `Step ${step.step}: ${nodes} verified, ${step.num_accepted} accepted, and the bonus token; wrote “${text.trim()}”`;
}

/** The same tree as a table. */
export function tableOf(step) {
  const rows = laidOut(step).boxes.map((box) => {
    const kind = kindOf(box);
    const above = box.parent === null ? "" : String(box.parent);
    const share = kind === "accepted" || kind === "rejected" ? percent(box.estimate) : "";
    const cells = [box.at ?? "–", visible(box.text), box.id, above, box.depth, nameOf(box.origin), share, kind];
    return element("tr", {}, ...cells.map((cell) => element("td", {}, String(cell))));
  });
  const names = ["node", "token", "id", "parent", "depth", "proposed by", "estimate", ""];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}
