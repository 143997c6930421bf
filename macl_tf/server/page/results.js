// Results: a grid of tiles, each a link to the search from it, with score, labels and marks.

import { showPicture } from "./api.js";
import { element, icon, shortName } from "./element.js";
import { onLook } from "./looking.js";

onLook((id) => {
  for (const node of document.querySelectorAll(".tile")) node.classList.toggle("looked-at", node.dataset.id === id);
});

/**
 * One list of tiles.
 *
 * context: linkTo(id) -> fragment; queryLabels: Set; rare: Set; howOf(id) -> "right", "wrong", "skipped" or undefined; mark(tile,
 * how), how being one of these; scored: whether scores mean something, and meaning: what; looked(id or null): a tile is pointed at;
 * open(id): it is shown in large; archive: its name; skips: whether tiles may be skipped.
 */
export function resultList(name, context) {
  const list = element("ol", { class: "tiles", "aria-label": name });
  list.addEventListener("keydown", moveBetween);
  list.addEventListener("focusin", (event) => makeCurrent(event.target.closest(".tile")));
  return {
    list,
    /** Adds tiles; gives the first new one. */
    add(tiles) {
      const cards = tiles.map((tile) => card(tile, context));
      list.append(...cards);
      if (!list.querySelector('a[tabindex="0"]') && cards.length) makeCurrent(cards[0]);
      return cards[0];
    },
  };
}

function card(tile, context) {
  const { howOf, rare, queryLabels } = context;
  const shared = new Set([...(tile.shared ?? []), ...tile.labels.filter((label) => queryLabels.has(label))]);
  const weight = (label) => 2 * !shared.has(label) + !rare.has(label);
  const labels = [...tile.labels].sort((a, b) => weight(a) - weight(b));

  const blank = element("span", { class: "blank" }, "no picture");
  const image = element("img", {
    alt: "",
    loading: "lazy",
    decoding: "async",
    width: 256,
    height: 256,
    onerror: () => image.replaceWith(blank),
  });
  if (tile.thumbnail) showPicture(image, tile.thumbnail);
  const said = [
    `Search from ${shortName(tile.id)}`,
    tile.stands ? `stands for ${tile.stands}` : "",
    context.scored ? `score ${tile.score.toFixed(3)}` : "",
    shared.size ? `shared: ${[...shared].join(", ")}` : "",
    labels.length > shared.size ? `labels: ${labels.filter((label) => !shared.has(label)).join(", ")}` : "",
  ];
  const link = element(
    "a",
    { class: "picture", href: context.linkTo(tile.id), tabindex: -1, "aria-label": said.filter(Boolean).join("; ") },
    tile.thumbnail ? image : blank,
    context.scored && tile.share !== undefined ? barOf(tile.share) : null,
  );
  const facts = about(tile, context.archive);
  const node = element(
    "li",
    { class: "tile", "data-id": tile.id },
    link,
    element(
      "div",
      { class: "over" },
      context.scored ? score(tile, context.meaning) : null,
      element("p", { class: "name", title: tile.id }, shortName(tile.id)),
      facts ? element("p", { class: "facts" }, facts) : null,
      labels.length
        ? element(
            "ul",
            { class: "chips", "aria-label": "Labels" },
            labels.map((label) => chip(label, shared.has(label), rare.has(label))),
          )
        : null,
    ),
    element(
      "button",
      {
        type: "button",
        class: "details",
        title: "Details (o)",
        "aria-label": `Details of ${shortName(tile.id)}`,
        tabindex: -1,
        onclick: () => context.open(tile.id),
      },
      icon("large"),
    ),
    element(
      "div",
      { class: "judge", role: "group", "aria-label": `Is ${shortName(tile.id)} what you look for?` },
      judge("right", "Right (y)", "✓"),
      judge("wrong", "Wrong (n)", "✕"),
      context.skips ? judge("skipped", "Skip (k)", "–") : null,
    ),
    tile.stands
      ? element("p", { class: "stands" }, rare.has(tile.stands) ? star() : null, element("bdi", {}, tile.stands))
      : null,
    element("p", { class: "elsewhere", hidden: true }),
  );
  for (const [event, id] of [
    ["pointerenter", tile.id],
    ["pointerleave", null],
    ["focusin", tile.id],
    ["focusout", null],
  ]) {
    node.addEventListener(event, () => context.looked(id));
  }
  showMark(node, howOf(tile.id));
  return node;

  function judge(how, name, text) {
    const onclick = () => context.mark(tile, how);
    const said = { title: name, "aria-label": name.split(" ")[0] };
    return element("button", { type: "button", class: how, "data-how": how, tabindex: -1, onclick, ...said }, text);
  }
}

/** Presses the buttons of one tile as its mark says. */
export function showMark(node, how) {
  node.dataset.mark = how ?? "";
  for (const button of node.querySelectorAll("[data-how]")) {
    button.setAttribute("aria-pressed", String(button.dataset.how === how));
  }
}

/** Says on each tile of two lists where the other has it; gives how many stand in both. */
export function compareLists(left, right) {
  const rows = [left, right].map((list) => [...list.children]);
  const ranks = rows.map((nodes) => new Map(nodes.map((node, place) => [node.dataset.id, place + 1])));
  rows.forEach((nodes, side) => {
    nodes.forEach((node, place) => {
      const other = ranks[1 - side].get(node.dataset.id);
      const line = node.querySelector(".elsewhere");
      line.hidden = false;
      line.classList.toggle("lonely", !other);
      line.textContent = !other ? "only here" : other === place + 1 ? "same place" : `there at ${other}`;
    });
  });
  return [...ranks[0].keys()].filter((id) => ranks[1].has(id)).length;
}

function chip(label, shared, rare) {
  const said = [shared ? "shared" : "", rare ? "rare" : ""].filter(Boolean).join(", ");
  return element(
    "li",
    { class: `chip${shared ? " shared" : ""}${rare ? " rare" : ""}`, title: said || undefined },
    shared ? element("span", { role: "img", "aria-label": "shared" }, "✓ ") : null,
    rare ? star() : null,
    element("bdi", {}, label),
  );
}

export const star = () => element("span", { class: "star", role: "img", "aria-label": "rare" }, "★ ");

function barOf(share) {
  const bar = element("span", { class: "bar-of-score", "aria-hidden": "true" });
  bar.style.width = `${100 * share}%`;
  return bar;
}

/**
 * Gives each tile its `share`, 0.04 to 1: how far its score lies above that of the last of the first page, beside the best.
 * Cosines of one page differ little among themselves; where they fall is what one wants to see.
 */
export function compareScores(tiles, [best, last] = [tiles[0]?.score, tiles.at(-1)?.score]) {
  const share = (score) => (best > last ? Math.max(0, (score - last) / (best - last)) : 1);
  for (const tile of tiles) tile.share = 0.04 + 0.96 * share(tile.score);
  return [best, last];
}

function score(tile, meaning) {
  return element(
    "p",
    { class: "score", title: meaning },
    element("span", { class: "rank" }, String(tile.rank)),
    element("b", {}, tile.score.toFixed(3)),
  );
}

/** Date and source, or in a collection who marked it and when; not the source that all tiles of the archive have. */
function about(tile, archive) {
  const { marked } = tile;
  const known = marked
    ? [[marked.by ?? "?", marked.at.slice(0, 10)].join(", "), tile.gone && "not in the index now"]
    : [tile.date, tile.source === archive ? "" : tile.source];
  return known.filter(Boolean).join(" · ");
}

/** Only the current tile is on the way of the Tab key: a hundred tiles are not a hundred stops. */
function makeCurrent(node) {
  if (!node) return;
  for (const other of node.parentElement.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
  for (const stop of node.querySelectorAll("a, button")) stop.tabIndex = 0;
}

function moveBetween(event) {
  const node = event.target.closest(".tile");
  if (!node || event.altKey || event.ctrlKey || event.metaKey || event.target.tagName !== "A") return;
  const nodes = [...node.parentElement.children];
  const columns = nodes.findIndex((other) => other.offsetTop > nodes[0].offsetTop);
  const width = columns < 1 ? nodes.length : columns;
  const last = nodes.length - 1;
  const place = nodes.indexOf(node);
  const aims = {
    ArrowRight: place + 1,
    ArrowLeft: place - 1,
    ArrowDown: place + width,
    ArrowUp: place - width,
    Home: 0,
    End: last,
  };
  const aim = nodes[aims[event.key]];
  if (aims[event.key] === undefined) return;
  event.preventDefault();
  aim?.querySelector("a").focus();
}
