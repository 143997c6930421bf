// Results: a grid of tiles, each a link to the search from it, with score, labels and marks.

import { showPicture } from "./api.js";
import { element, shortName, wholeName } from "./element.js";

/**
 * One list of tiles.
 *
 * context: linkTo(id) -> fragment; queryLabels: Set; rare: Set; howOf(id) -> "right", "wrong", "skipped" or undefined; mark(tile,
 * how), how being one of these; scored: whether scores mean something; looked(id or null): a tile is pointed at;
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
    width: 128,
    height: 128,
    onerror: () => image.replaceWith(blank),
  });
  if (tile.thumbnail) showPicture(image, tile.thumbnail);
  const said = [
    `Search from ${shortName(tile.id)}`,
    context.scored ? `score ${tile.score.toFixed(3)}` : "",
    shared.size ? `shared: ${[...shared].join(", ")}` : "",
    labels.length > shared.size ? `labels: ${labels.filter((label) => !shared.has(label)).join(", ")}` : "",
  ];
  const link = element(
    "a",
    { class: "picture", href: context.linkTo(tile.id), tabindex: -1, "aria-label": said.filter(Boolean).join("; ") },
    tile.thumbnail ? image : blank,
  );
  const node = element(
    "li",
    { class: "tile", "data-id": tile.id },
    link,
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
      "⤢",
    ),
    context.scored ? score(tile) : null,
    element("p", { class: "name", title: tile.id }, wholeName(tile.id)),
    about(tile, context.archive),
    labels.length
      ? element(
          "ul",
          { class: "chips", "aria-label": "Labels" },
          labels.map((label) => chip(label, shared.has(label), rare.has(label))),
        )
      : null,
    element("p", { class: "elsewhere", hidden: true }),
    element(
      "div",
      { class: "judge", role: "group", "aria-label": `Is ${shortName(tile.id)} what you look for?` },
      judge("right", "✓ Right"),
      judge("wrong", "✕ Wrong"),
      context.skips ? judge("skipped", "Skip") : null,
    ),
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

  function judge(how, text) {
    return element(
      "button",
      { type: "button", class: how, "data-how": how, tabindex: -1, onclick: () => context.mark(tile, how) },
      text,
    );
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
    rare ? element("span", { class: "star", role: "img", "aria-label": "rare" }, "★ ") : null,
    element("bdi", {}, label),
  );
}

function score(tile) {
  const bar = element("span", { class: "bar-of-score", "aria-hidden": "true" });
  bar.style.width = `${Math.max(0, Math.min(1, tile.score)) * 100}%`;
  return element(
    "p",
    { class: "score", title: "Cosine similarity with the query" },
    element("span", { class: "rank" }, String(tile.rank)),
    element("b", {}, tile.score.toFixed(3)),
    bar,
  );
}

/** Date and source, or in a collection who marked it and when; not the source that all tiles of the archive have. */
function about(tile, archive) {
  const { marked } = tile;
  const known = marked
    ? [[marked.by ?? "?", marked.at.slice(0, 10)].join(", "), tile.gone && "not in the index now"]
    : [tile.date, tile.source === archive ? "" : tile.source];
  const facts = known.filter(Boolean).join(" · ");
  return facts ? element("p", { class: "facts" }, facts) : null;
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
