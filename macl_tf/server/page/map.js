// Footprints of the results on a map, by Leaflet: over a base map where the server names one, else over a graticule.

import { element, find, shortName } from "./element.js";
import { boxOf, graticule, unrolled } from "./geography.js";

const L = window.L;
const SMALL = 9; // pixels below which a footprint is a dot
let map = null;
let lines = null;
let shapes = null;
let drawn = []; // {tile, shape, link, box} of each footprint
let area = null;
let filter = null;

/**
 * Shows tiles with places on the map; false where there is none.
 *
 * `box` is drawn, `query` are the examples' tiles; linkTo(id) gives the search from a tile, filterTo(box) is called with
 * what the map shows, baseMap {url, attribution} is what lies below.
 */
export function showMap(tiles, query, box, { linkTo, filterTo, baseMap }) {
  const placed = tiles.filter((tile) => tile.bbox);
  const asked = query.filter((tile) => tile?.bbox);
  const boxes = [...placed, ...asked].map((tile) => tile.bbox);
  const frame = find("map");
  if (!boxes.length && !box) {
    map?.remove();
    map = null;
    frame.replaceChildren(element("p", { class: "quiet" }, "None of these tiles has a place."));
    return false;
  }
  if (!map) make(frame, baseMap);
  filter = filterTo;
  map
    .getContainer()
    .setAttribute("aria-label", `Map of ${placed.length} tiles. Arrow keys move it, plus and minus zoom.`);
  shapes.clearLayers();
  const flat = unrolled(box ? [...boxes, box] : boxes);
  area = box ? L.rectangle(cornersOf(flat.at(-1)), { className: "area", interactive: false }).addTo(shapes) : null;
  const entries = [...placed, ...asked].map((tile, place) => ({ tile, box: flat[place], asked: place >= placed.length }));
  // Worst first, so that the best lies on top.
  const order = [...entries.filter((entry) => !entry.asked).reverse(), ...entries.filter((entry) => entry.asked)];
  drawn = order.map((entry) => footprint(entry, linkTo));
  fit();
  return true;
}

/** Draws one footprint stronger; null none. */
export function highlight(id) {
  for (const { tile, shape, link } of drawn)
    for (const node of [shape.getElement(), link]) node?.classList.toggle("looked-at", tile.id === id);
}

function make(frame, baseMap) {
  const canvas = element("div", { class: baseMap ? "map pictured" : "map", role: "group" });
  const button = (text, label, act) => element("button", { type: "button", "aria-label": label, onclick: act }, text);
  frame.replaceChildren(
    canvas,
    element(
      "div",
      { class: "map-buttons" },
      button("+", "Zoom in", () => zoom(1)),
      button("−", "Zoom out", () => zoom(-1)),
      button("All", "Show all footprints", fit),
      element("button", { type: "button", onclick: () => filter(boxOf(seen())) }, "Only this area"),
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
  } else lines = L.layerGroup().addTo(map);
  shapes = L.layerGroup().addTo(map);
  map.on("moveend", redraw);
  new ResizeObserver(() => canvas.isConnected && map?.invalidateSize({ animate: false })).observe(canvas);
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

function footprint({ tile, box, asked }, linkTo) {
  const said = asked ? `the query, ${shortName(tile.id)}` : `${tile.rank ?? ""} ${shortName(tile.id)}`;
  const kind = asked ? "asked" : "found";
  const link = element(
    "a",
    { class: kind, href: linkTo(tile.id), "data-id": tile.id, "aria-label": said, title: said },
    asked ? "" : String(tile.rank ?? ""),
  );
  const shape = L.rectangle(cornersOf(box), { className: kind });
  shape.on("click", () => link.click()).addTo(shapes);
  L.marker([(box[1] + box[3]) / 2, (box[0] + box[2]) / 2], {
    icon: L.divIcon({ html: link, className: "place", iconSize: [0, 0] }),
    interactive: false,
    keyboard: false,
    zIndexOffset: 1e4 * drawn.length,
  }).addTo(shapes);
  return { tile, shape, link, box };
}

/** What depends on the zoom: which footprints are dots, and the graticule. */
function redraw() {
  for (const { shape, link } of drawn) {
    const bounds = shape.getBounds();
    const width = map.latLngToLayerPoint(bounds.getNorthEast()).x - map.latLngToLayerPoint(bounds.getSouthWest()).x;
    link.classList.toggle("dot", width < SMALL);
    link.classList.toggle("narrow", width < 20);
  }
  if (!lines) return;
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
  map.fitBounds(area ? all.extend(area.getBounds()) : all, { padding: [25, 25], maxZoom: 20, animate: false });
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
