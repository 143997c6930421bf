// Tiles marked as right or wrong for a question, until the next search takes them up or a collection keeps them.

import { element, find } from "./element.js";
import { showMark } from "./results.js";

const marked = new Map(); // question to its marks: id to "right", "wrong", "skipped", or "none" where what was kept is taken back
let question = "";
let kept = new Map(); // id to "right", "wrong", "skipped" or "none": of tiles that are shown, what their collection has
let bar = {};

/**
 * What the bar below offers. `again(right, wrong)` is called with examples when the marks are to be searched with,
 * `save(said)` with lists of ids, right, wrong, skipped and neither, when they are to be kept. `canSave()` is whether
 * they can be, `into()` the name of the collection or label that is open, or "", `saying()` what saving is called there, or "".
 */
export function listenForMarks(offers) {
  bar = offers;
  addEventListener("beforeunload", (event) => {
    if (bar.canSave() && [...marked.values()].some(({ size }) => size)) event.preventDefault(); // the browser asks
  });
}

const marksOf = (of) => marked.get(of) ?? marked.set(of, new Map()).get(of);

/** Turns to the marks of a question. Those of others stay with them, for as long as the page is open. */
export function turnTo(next) {
  question = next;
  show();
}

/** Whether a tile is marked "right", "wrong" or "skipped", or not at all. */
export function howOf(id) {
  const how = marksOf(question).get(id) ?? kept.get(id);
  return how === "none" ? undefined : how;
}

/** Marks a tile "right", "wrong" or "skipped"; the same mark twice takes it back. */
export function mark(tile, how) {
  const next = howOf(tile.id) === how ? "none" : how;
  if (next === (kept.get(tile.id) ?? "none")) marksOf(question).delete(tile.id);
  else marksOf(question).set(tile.id, next);
  show();
}

export function clearMarks() {
  marksOf(question).clear();
  show();
}

/** A tile that is gone: it has no mark to keep. */
export function forgetMark(id) {
  for (const marks of marked.values()) marks.delete(id);
  show();
}

/** Marks of a question that are saved now, as `said` gave them; those made since are still to be kept. */
export function keepMarks(of, { right, wrong, skipped, neither }) {
  for (const [how, ids] of Object.entries({ right, wrong, skipped, none: neither })) {
    for (const id of ids) {
      if (marksOf(of).get(id) === how) marksOf(of).delete(id);
      if (of === question) kept.set(id, how);
    }
  }
  show();
}

/** Tiles of a collection, whose marks are kept already; none where others are shown. */
export function setKept(entries) {
  kept = new Map(entries);
}

/** More of them. */
export function addKept(entries) {
  for (const [id, how] of entries) kept.set(id, how);
}

/** What is marked for a question and not kept yet: lists of ids. */
export function said(of) {
  const ids = (how) => [...marksOf(of)].filter(([, some]) => some === how).map(([id]) => id);
  return { right: ids("right"), wrong: ids("wrong"), skipped: ids("skipped"), neither: ids("none") };
}

function show() {
  for (const node of document.querySelectorAll(".tile")) showMark(node, howOf(node.dataset.id));
  const node = find("marks");
  node.hidden = !marksOf(question).size;
  const { right, wrong, skipped, neither } = said(question);
  const words = [
    [right, "right"],
    [wrong, "wrong"],
    [skipped, "skipped"],
    [neither, "taken back"],
  ];
  const text = words.filter(([some]) => some.length).map(([some, word]) => `${some.length} ${word}`);
  const into = bar.canSave?.() ? bar.into() : "";
  const examples = (some) => some.map((id) => ({ id }));
  const again = element(
    "button",
    { type: "button", id: "again", class: "primary", onclick: () => bar.again(examples(right), examples(wrong)) },
    "Search again",
  );
  const save = element(
    "button",
    { type: "button", id: "save", class: into ? "primary" : undefined, onclick: () => bar.save(said(question)) },
    bar.saying() || (into ? element("span", {}, "Save to ", element("bdi", {}, into)) : "Save…"),
  );
  node.replaceChildren(
    element("p", { role: "status" }, text.join(", ")),
    ...(into ? [save] : [again, ...(bar.canSave?.() ? [save] : [])]),
    element("button", { type: "button", onclick: clearMarks }, "Clear"),
  );
}
