// Tiles marked as right or wrong, until the next search takes them up or a collection keeps them.

import { element, find } from "./element.js";
import { showMark } from "./results.js";

const marks = new Map(); // id to {tile, how}: "right", "wrong", "skipped", or "none" where what was kept is taken back
let kept = new Map(); // id to "right", "wrong" or "skipped": of tiles that are shown as those of a collection
let bar = {};

/**
 * What the bar below offers. `again(right, wrong)` is called with examples when the marks are to be searched with,
 * `save(said)` with lists of ids, right, wrong, skipped and neither, when they are to be kept. `canSave()` is whether
 * they can be, `into()` the name of the collection or label that is open, or "", `saying()` what saving is called there, or "".
 */
export function listenForMarks(offers) {
  bar = offers;
}

/** Whether a tile is marked "right", "wrong" or "skipped", or not at all. */
export function howOf(id) {
  const how = marks.get(id)?.how ?? kept.get(id);
  return how === "none" ? undefined : how;
}

/** Marks a tile "right", "wrong" or "skipped"; the same mark twice takes it back. */
export function mark(tile, how) {
  const next = howOf(tile.id) === how ? "none" : how;
  if (next === (kept.get(tile.id) ?? "none")) marks.delete(tile.id);
  else marks.set(tile.id, { tile, how: next });
  show();
}

export function clearMarks() {
  marks.clear();
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

const ids = (how) => [...marks.values()].filter((entry) => entry.how === how).map(({ tile }) => tile.id);

/** What is marked and not kept yet: lists of ids. */
export const said = () => ({ right: ids("right"), wrong: ids("wrong"), skipped: ids("skipped"), neither: ids("none") });

function show() {
  for (const node of document.querySelectorAll(".tile")) showMark(node, howOf(node.dataset.id));
  const node = find("marks");
  node.hidden = !marks.size;
  const { right, wrong, skipped, neither } = said();
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
    { type: "button", id: "save", class: into ? "primary" : undefined, onclick: () => bar.save(said()) },
    bar.saying() || (into ? element("span", {}, "Save to ", element("bdi", {}, into)) : "Save…"),
  );
  node.replaceChildren(
    element("p", { role: "status" }, text.join(", ")),
    ...(into ? [save] : [again, ...(bar.canSave?.() ? [save] : [])]),
    element("button", { type: "button", onclick: clearMarks }, "Clear"),
  );
}
