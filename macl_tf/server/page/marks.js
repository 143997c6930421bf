// Tiles marked as right or wrong, until the next search takes them up.

import { element, find } from "./element.js";
import { showMark } from "./results.js";

export const marks = new Map(); // id to {tile, how}
let again = () => {};

/** `search(right, wrong)` is called with examples when the marks are to be searched with. */
export function listenForMarks(search) {
  const those = (how) => [...marks.values()].filter((entry) => entry.how === how).map(({ tile }) => ({ id: tile.id }));
  again = () => search(those("right"), those("wrong"));
}

/** Marks a tile "right" or "wrong"; the same mark twice takes it back. */
export function mark(tile, how) {
  if (marks.get(tile.id)?.how === how) marks.delete(tile.id);
  else marks.set(tile.id, { tile, how });
  show();
}

export function clearMarks() {
  marks.clear();
  show();
}

function show() {
  for (const node of document.querySelectorAll(".tile")) showMark(node, marks.get(node.dataset.id)?.how);
  const bar = find("marks");
  bar.hidden = !marks.size;
  const number = (how) => [...marks.values()].filter((entry) => entry.how === how).length;
  const said = ["right", "wrong"]
    .filter(number)
    .map((how) => `${number(how)} ${how}`)
    .join(", ");
  bar.replaceChildren(
    element("p", { role: "status" }, said),
    element("button", { type: "button", id: "again", class: "primary", onclick: () => again() }, "Search again"),
    element("button", { type: "button", onclick: clearMarks }, "Clear"),
  );
}
