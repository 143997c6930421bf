// Footprints of the results on a map of our own: a graticule, no tiles from anywhere.

import { element, find, shortName, svg } from "./element.js";
import { boxOf, graticule, interesting, panned, toPixels, unrolled, viewOf, zoomed } from "./geography.js";

const SMALL = 9; // pixels below which a footprint is drawn as a dot
let view = null;
let shown = null;

/**
 * Shows tiles with places on the map; false where there is none.
 *
 * `box` is drawn, `query` are the examples' tiles; linkTo(id) gives the search from a tile, filterTo(box) is called with
 * what the map shows.
 */
export function showMap(tiles, query, box, { linkTo, filterTo }) {
  const placed = tiles.filter((tile) => tile.bbox);
  const asked = query.filter((tile) => tile?.bbox);
  const boxes = [...placed, ...asked].map((tile) => tile.bbox);
  const frame = find("map");
  if (!boxes.length && !box) {
    frame.replaceChildren(element("p", { class: "quiet" }, "None of these tiles has a place."));
    shown = null;
    return false;
  }
  const flat = unrolled(box ? [...boxes, box] : boxes);
  shown = {
    tiles: placed.map((tile, number) => ({ tile, box: flat[number] })),
    query: asked.map((tile, number) => ({ tile, box: flat[placed.length + number] })),
    area: box ? flat.at(-1) : null,
    linkTo,
  };
  const canvas = svg("svg", {
    class: "map",
    tabindex: 0,
    role: "group",
    "aria-label": `Map of ${placed.length} tiles. Arrow keys move it, plus and minus zoom.`,
  });
  const button = (text, label, act) => element("button", { type: "button", "aria-label": label, onclick: act }, text);
  frame.replaceChildren(
    canvas,
    element(
      "div",
      { class: "map-buttons" },
      button("+", "Zoom in", () => zoom(1.6)),
      button("−", "Zoom out", () => zoom(1 / 1.6)),
      button("All", "Show all footprints", fit),
      element("button", { type: "button", onclick: () => filterTo(boxOf(view)) }, "Only this area"),
    ),
  );
  handle(canvas);
  fit();
  new ResizeObserver(() => {
    if (view && canvas.isConnected && canvas.clientWidth) {
      move({ ...view, width: canvas.clientWidth, height: canvas.clientHeight });
    }
  }).observe(canvas);
  return true;

  function fit() {
    const all = [...shown.tiles, ...shown.query].map((entry) => entry.box);
    move(viewOf(shown.area ? [...all, shown.area] : all, canvas.clientWidth || 600, canvas.clientHeight || 340));
  }
}

/** Draws one footprint stronger; null none. */
export function highlight(id) {
  for (const node of document.querySelectorAll("#map [data-id]"))
    node.classList.toggle("looked-at", node.dataset.id === id);
}

function move(next) {
  view = next;
  if (shown) draw();
}

/** By button or key: around the footprint that has the focus, else around one of those that are seen. */
function zoom(factor) {
  const all = [...shown.tiles, ...shown.query];
  const focused = all.filter(({ tile }) => tile.id === document.activeElement?.dataset?.id);
  move(zoomed(view, factor, ...interesting(view, (focused.length ? focused : all).map((entry) => entry.box))));
}

function draw() {
  const canvas = find("map").querySelector("svg");
  canvas.setAttribute("viewBox", `0 0 ${view.width} ${view.height}`);
  const { meridians, parallels } = graticule(view);
  const lines = [
    ...meridians.map(({ at }) => svg("line", { x1: at, x2: at, y1: 0, y2: view.height })),
    ...parallels.map(({ at }) => svg("line", { x1: 0, x2: view.width, y1: at, y2: at })),
  ];
  const names = [
    ...meridians.map(({ at, name }) => svg("text", { x: at + 3, y: view.height - 4 }, name)),
    ...parallels
      .filter(({ at }) => at < view.height - 20)
      .map(({ at, name }) => svg("text", { x: 4, y: at - 3 }, name)),
  ];
  // Worst first, so that the best lies on top.
  const prints = [...shown.tiles].reverse().map(({ tile, box }) => footprint(tile, box, "found"));
  const asked = shown.query.map(({ tile, box }) => footprint(tile, box, "asked"));
  const focused = canvas.contains(document.activeElement) ? document.activeElement.dataset.id : null;
  canvas.replaceChildren(
    svg("g", { class: "graticule", "aria-hidden": "true" }, ...lines, ...names),
    ...(shown.area ? [rectangle(shown.area, { class: "area" })] : []),
    svg("g", {}, ...prints),
    svg("g", {}, ...asked),
  );
  if (focused) canvas.querySelector(`[data-id="${CSS.escape(focused)}"]`)?.focus();
}

function footprint(tile, box, kind) {
  const said = kind === "asked" ? `the query, ${shortName(tile.id)}` : `${tile.rank ?? ""} ${shortName(tile.id)}`;
  const { width } = extent(box);
  const [x, y] = toPixels(view, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2);
  const shape = width < SMALL ? svg("circle", { cx: x, cy: y, r: 6 }) : rectangle(box, {});
  return svg(
    "a",
    { class: kind, href: shown.linkTo(tile.id), "data-id": tile.id, "aria-label": said },
    svg("title", {}, said),
    shape,
    ...(width > 20 && tile.rank && kind === "found"
      ? [svg("text", { x, y: y + 4, "text-anchor": "middle" }, String(tile.rank))]
      : []),
  );
}

function extent(box) {
  const [left, top] = toPixels(view, box[0], box[3]);
  const [right, bottom] = toPixels(view, box[2], box[1]);
  return { left, top, width: right - left, height: bottom - top };
}

function rectangle(box, attributes) {
  const { left, top, width, height } = extent(box);
  return svg("rect", { x: left, y: top, width, height, ...attributes });
}

function handle(canvas) {
  const pointers = new Map();
  let moved = false;
  const place = (event) => {
    const frame = canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      move(zoomed(view, Math.exp(-event.deltaY / 400), ...place(event)));
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, place(event));
    moved = false;
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    if (!moved && Math.hypot(now[0] - before[0], now[1] - before[1]) < 4) return; // a click that trembles
    if (!moved) canvas.setPointerCapture(event.pointerId);
    moved = true;
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, now);
    if (!other) return move(panned(view, before[0] - now[0], before[1] - now[1]));
    const far = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]);
    move(zoomed(view, far(now) / Math.max(far(before), 1), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2));
  });
  for (const end of ["pointerup", "pointercancel"])
    canvas.addEventListener(end, (event) => pointers.delete(event.pointerId));
  canvas.addEventListener("click", (event) => moved && event.preventDefault(), { capture: true });
  canvas.addEventListener("dragstart", (event) => event.preventDefault());
  canvas.addEventListener("keydown", (event) => {
    const step = 60;
    const steps = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (steps[event.key]) move(panned(view, ...steps[event.key]));
    else if (event.key === "+" || event.key === "=") zoom(1.6);
    else if (event.key === "-") zoom(1 / 1.6);
    else return;
    event.preventDefault();
  });
}
