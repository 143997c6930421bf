// Footprints of the results on a map, by Leaflet: over a base map where the server names one, else over land and borders.

import { showPicture } from "./api.js";
import { element, find, shortName, written } from "./element.js";
import { boxOf, graticule, grouped, unrolled } from "./geography.js";
import { look, onLook } from "./looking.js";
import { drawOutline } from "./outline.js";

const L = window.L;
const SMALL = 24; // pixels below which a footprint is a pin with its picture
const APART = 46; // pixels between pins; what is nearer is counted
const PICTURED = 32; // pixels from which a footprint shows its picture
const STILL = 250; // milliseconds without a move, after which the view is searched
let map = null;
let lines = null;
let shapes = null;
let drawn = []; // {tile, asked, box, shape, link, image, overlay, group} of each footprint
let area = null;
let page = {};
let follows = false; // whether the results follow the view
let placing = false; // whether the page moves the map, and not a person
let waiting = 0;

/**
 * Shows tiles with places on the map; false where there is none.
 *
 * `box` is drawn, `query` are the examples' tiles; linkTo(id) gives the search from a tile, filterTo(box) is called with
 * what is to be searched, and null where nothing can be, baseMap {url, attribution} is what lies below. `view` is [lat, lon, zoom], or null for all
 * footprints, and viewed(view) is told where somebody moved.
 */
export function showMap(tiles, query, box, given) {
  const placed = tiles.filter((tile) => tile.bbox);
  const asked = query.filter((tile) => tile?.bbox);
  const boxes = [...placed, ...asked].map((tile) => tile.bbox);
  const frame = find("map");
  page = given;
  if (!boxes.length && !box) {
    map?.remove();
    map = null;
    frame.replaceChildren(element("p", { class: "quiet" }, "None of these tiles has a place."));
    return false;
  }
  if (!map) make(frame, given.baseMap);
  map
    .getContainer()
    .setAttribute("aria-label", `Map of ${placed.length} tiles. Arrow keys move it, plus and minus zoom.`);
  frame.querySelector(".below").hidden = !page.filterTo;
  shapes.clearLayers();
  const flat = unrolled(box ? [...boxes, box] : boxes);
  area = box ? L.rectangle(cornersOf(flat.at(-1)), { className: "area", interactive: false }).addTo(shapes) : null;
  const entries = [...placed, ...asked].map((tile, place) => ({ tile, box: flat[place], asked: place >= placed.length }));
  // Worst first, so that the best lies on top.
  const order = [...entries.filter((entry) => !entry.asked).reverse(), ...entries.filter((entry) => entry.asked)];
  drawn = [];
  for (const entry of order) drawn.push(footprint(entry));
  place(given.view);
  return true;
}

onLook((id) => {
  for (const { tile, shape, link, group } of drawn) {
    const within = tile.id === id || (id && group.some((other) => other.tile.id === id));
    shape.getElement()?.classList.toggle("looked-at", tile.id === id);
    link.classList.toggle("looked-at", Boolean(within));
  }
});

function make(frame, baseMap) {
  const canvas = element("div", { class: baseMap ? "map pictured" : "map", role: "group" });
  const button = (text, label, act) => element("button", { type: "button", "aria-label": label, onclick: act }, text);
  const follow = element("input", { type: "checkbox", checked: follows, onchange: (event) => following(event.target.checked) });
  frame.replaceChildren(
    canvas,
    element(
      "div",
      { class: "map-buttons" },
      button("+", "Zoom in", () => zoom(1)),
      button("−", "Zoom out", () => zoom(-1)),
      button("All", "Show all footprints", () => told(fit)),
    ),
    element(
      "div",
      { class: "map-buttons below" },
      element("button", { type: "button", onclick: searchView }, "Search this area"),
      element("label", { class: "button" }, follow, "as I move"),
    ),
  );
  map = L.map(canvas, {
    zoomControl: false,
    attributionControl: Boolean(baseMap),
    zoomSnap: baseMap ? 0.5 : 0, // pictures look best at whole zooms, nothing else asks for them
    maxZoom: 24,
    zoomAnimation: false,
    fadeAnimation: false,
    inertia: false,
  });
  if (baseMap) {
    map.attributionControl.setPrefix(false).addAttribution(escaped(baseMap.attribution));
    // Who gives tiles away may want to know who asks.
    L.tileLayer(baseMap.url, { maxZoom: 24, maxNativeZoom: 19, referrerPolicy: "strict-origin" }).addTo(map);
  } else {
    drawOutline(map);
    lines = L.layerGroup().addTo(map);
  }
  map.createPane("pictures").style.zIndex = 350;
  shapes = L.layerGroup().addTo(map);
  map.on("moveend", moved);
  const resized = () => (canvas.isConnected ? quietly(() => map?.invalidateSize({ animate: false })) : null);
  new ResizeObserver(resized).observe(canvas);
  // A drag that ends on a footprint is no click on it.
  canvas.addEventListener("click", (event) => event.detail && map.dragging.moved() && event.preventDefault(), true);
  const steps = { "+": 1, "=": 1, "-": -1 };
  canvas.addEventListener(
    "keydown",
    (event) => {
      if (!steps[event.key] || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      zoom(steps[event.key]);
    },
    true,
  );
}

/** Moves the map as the page wants it: nobody is told. */
function quietly(act) {
  placing = true;
  act();
  placing = false;
}

function place(view) {
  quietly(() => {
    if (!view) {
      clearTimeout(waiting); // of a move that is undone
      return fit();
    }
    map.setView([view[0], view[1]], view[2], { animate: false });
    const seen = map.getBounds();
    if (!area && drawn.length && !drawn.some(({ shape }) => seen.intersects(shape.getBounds()))) fit();
  });
  redraw();
}

function moved() {
  redraw();
  if (placing) return;
  told(() => null);
  if (!follows || !page.filterTo) return;
  clearTimeout(waiting);
  waiting = setTimeout(searchView, STILL);
}

/** Moves the map, and tells where it is then. */
function told(move) {
  quietly(move);
  const { lat, lng } = map.getCenter();
  page.viewed([Number(lat.toFixed(5)), Number(lng.toFixed(5)), Number(map.getZoom().toFixed(2))]);
}

function searchView() {
  if (!map) return;
  told(() => null);
  page.filterTo(boxOf(seen()));
}

function following(on) {
  follows = on;
  if (on) searchView();
}

function footprint({ tile, box, asked }) {
  const link = element("a", { class: asked ? "asked" : "found", href: page.linkTo(tile.id), "data-id": tile.id });
  const shape = L.rectangle(cornersOf(box), { className: asked ? "asked" : "found" });
  const entry = { tile, box, asked, shape, link, image: null, overlay: null, group: [] };
  shape
    .on("click", () => link.click())
    .on("mouseover", () => look(tile.id))
    .on("mouseout", () => look(null))
    .addTo(shapes);
  for (const [event, id] of Object.entries({ pointerenter: tile.id, pointerleave: null, focus: tile.id, blur: null }))
    link.addEventListener(event, ({ pointerType }) => pointerType === "touch" || look(id)); // a finger never leaves
  link.addEventListener("click", (event) => {
    if (entry.group.length > 1 && !event.defaultPrevented && approach(entry.group)) event.preventDefault();
  });
  L.marker([(box[1] + box[3]) / 2, (box[0] + box[2]) / 2], {
    icon: L.divIcon({ html: link, className: "place", iconSize: [0, 0] }),
    interactive: false,
    keyboard: false,
    zIndexOffset: 1e4 * drawn.length,
  }).addTo(shapes);
  return entry;
}

/** Zooms to what a pin counts; false where that is no nearer. */
function approach(group) {
  const bounds = L.latLngBounds(group.map(({ shape }) => shape.getBounds()));
  if (map.getBoundsZoom(bounds) < map.getZoom() + 0.3) return false;
  told(() => map.fitBounds(bounds, { padding: [40, 40], maxZoom: 20, animate: false }));
  return true;
}

/** What depends on the zoom: which footprints are pins, which show their pictures, and the graticule. */
function redraw() {
  const pixels = (bounds) => map.latLngToLayerPoint(bounds.getNorthEast()).x - map.latLngToLayerPoint(bounds.getSouthWest()).x;
  const small = [];
  for (const entry of drawn) {
    const width = pixels(entry.shape.getBounds());
    entry.group = [];
    entry.shape.getElement()?.classList.toggle("pinned", width < SMALL && !entry.asked);
    if (width < SMALL && !entry.asked) small.unshift(entry); // the best first
    else write(entry, width);
  }
  const centres = small.map(({ shape }) => map.latLngToLayerPoint(shape.getBounds().getCenter()));
  for (const places of grouped(centres, APART)) {
    const [first, ...others] = places.map((number) => small[number]);
    first.group = [first, ...others];
    pin(first);
    for (const other of others) {
      other.link.className = "found behind";
      picture(other, false);
    }
  }
  if (lines) rule();
}

/** A footprint that is large enough to be seen: its rank, and its picture where there is room. */
function write(entry, width) {
  const { tile, asked, link } = entry;
  const said = asked ? `the query, ${shortName(tile.id)}` : `${tile.rank ?? ""} ${shortName(tile.id)}`.trim();
  const kind = asked ? "asked" : "found";
  link.className = width < SMALL ? `${kind} dot` : kind;
  link.replaceChildren(asked ? "" : String(tile.rank ?? ""));
  for (const name of ["aria-label", "title"]) link.setAttribute(name, said);
  picture(entry, width >= PICTURED);
}

/** A small one: its picture, with the number of those that lie so near. */
function pin(entry) {
  const { tile, link, group } = entry;
  picture(entry, false);
  const number = group.length > 1 ? written(group.length) : "";
  link.className = tile.thumbnail ? "found pin" : "found dot";
  const badge = number ? element("span", { class: "number" }, number) : null;
  if (tile.thumbnail) entry.image ??= imageOf(tile);
  link.replaceChildren(...[entry.image, badge].filter(Boolean));
  const said = `${tile.rank ?? ""} ${shortName(tile.id)}`.trim();
  for (const name of ["aria-label", "title"]) link.setAttribute(name, number ? `${number} tiles, first ${said}` : said);
}

function imageOf({ thumbnail }) {
  const image = element("img", { alt: "" });
  showPicture(image, thumbnail);
  return image;
}

/** Lays the picture of a tile over its footprint, or takes it away. */
function picture(entry, there) {
  const wanted = there && entry.tile.thumbnail;
  for (const node of [entry.link, entry.shape.getElement()]) node?.classList.toggle("with-picture", Boolean(wanted));
  if (Boolean(entry.overlay) === Boolean(wanted)) return;
  entry.overlay?.remove();
  const options = { pane: "pictures", interactive: false };
  entry.overlay = wanted ? L.imageOverlay(imageOf(entry.tile), cornersOf(entry.box), options).addTo(shapes) : null;
}

function rule() {
  lines.clearLayers();
  const [west, south, east, north] = seen();
  const { meridians, parallels } = graticule([west, south, east, north], map.getSize().x / (east - west));
  const line = (from, to, name, place) => {
    L.polyline([from, to], { className: "graticule", interactive: false }).addTo(lines).bringToBack();
    const icon = L.divIcon({ html: element("span", {}, name), className: `graticule ${place}`, iconSize: [0, 0] });
    L.marker(from, { icon, interactive: false, keyboard: false }).addTo(lines);
  };
  for (const { at, name } of meridians) line([south, at], [north, at], name, "meridian");
  for (const { at, name } of parallels) line([at, west], [at, east], name, "parallel");
}

function fit() {
  const all = L.latLngBounds(drawn.map(({ shape }) => shape.getBounds()));
  map.fitBounds(area ? all.extend(area.getBounds()) : all, { padding: [40, 40], maxZoom: 20, animate: false });
}

/**
 * By button or key: around the footprint that has the focus, else around the one nearest to the middle, which then stays
 * where it is. Tiles lie together in places, and the middle is often empty.
 */
function zoom(step) {
  const middle = map.getSize().divideBy(2);
  const focused = drawn.filter(({ link }) => link === document.activeElement);
  const places = (focused.length ? focused : drawn)
    .map(({ shape }) => map.latLngToContainerPoint(shape.getBounds().getCenter()))
    .filter(({ x, y }) => x >= 0 && y >= 0 && x <= 2 * middle.x && y <= 2 * middle.y)
    .sort((a, b) => a.distanceTo(middle) - b.distanceTo(middle));
  map.setZoomAround(places[0] ?? middle, map.getZoom() + step, { animate: false });
}

const cornersOf = ([west, south, east, north]) => [
  [south, west],
  [north, east],
];

/** West, south, east and north of what is seen. */
function seen() {
  const bounds = map.getBounds();
  return [bounds.getWest(), bounds.getSouth(), bounds.getEast(), bounds.getNorth()];
}

/** Leaflet reads attributions as HTML. */
function escaped(text) {
  return element("i", {}, text).innerHTML;
}
