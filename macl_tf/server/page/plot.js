// The plot: all tiles in two dimensions, those that are alike near each other. Results are marked, and a box shows its tiles.

import * as api from "./api.js";
import { element, find, shortName, written } from "./element.js";
import { look, onLook } from "./looking.js";
import { notice } from "./notices.js";
import { Atlas } from "./atlas.js";
import { Viewport } from "./viewport.js";

const NEAR = 12; // pixels from a dot at which it is meant
let held = null; // {version, ids, x, y, placeOf} that the server drew
let plot = null; // what is on the page

/**
 * Shows the plot of a version of the index; where it has none, why, and what to do.
 *
 * page: version; count of its tiles, or null where it does not change; filter, or null; results and asked, ids; within, a box; linkTo(id); tileOf(id), what is known
 * of a tile; picture(id), the address of its small picture; boxTo(box) shows the tiles in a box.
 */
export async function showPlot(page, signal) {
  const frame = find("plot");
  try {
    const grown = held && page.count !== null && page.count !== held.count; // written to meanwhile
    if (grown || held?.version !== page.version) held = await loaded(page.version, signal);
    const fits = page.filter ? await api.plotted({ filter: page.filter, k: 0, index: page.version }, signal) : null;
    if (signal.aborted) return;
    plot ??= make(frame);
    plot.show(held, { ...page, left: fits && new Set(fits.places) });
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    if (error.status === 401) throw error;
    held = plot = null;
    frame.replaceChildren(notice(error, null));
  }
}

async function loaded(version, signal) {
  const { ids, x, y, count } = await api.plot(version, signal);
  const share = (values) => Float32Array.from(values, (value) => value / 65535);
  const placeOf = new Map(ids.map((id, place) => [id, place]));
  return { version, ids, x: share(x), y: share(y), count, placeOf };
}

onLook((id) => plot?.look(id));

function make(frame) {
  const canvas = element("canvas", { tabindex: 0, role: "img" });
  const tip = element("div", { class: "tip", hidden: true });
  const swatch = (name, text) => element("span", { class: `swatch ${name}` }, text);
  const legend = element("p", { class: "legend" });
  const button = (text, label, onclick, more = {}) =>
    element("button", { type: "button", "aria-label": label, onclick, ...more }, text);
  const choosing = button("Box", "Draw a box, whose tiles are shown (or drag with Shift)", () => choose(!viewport.choosing), {
    "aria-pressed": "false",
    id: "plot-box",
  });
  frame.replaceChildren(
    canvas,
    tip,
    legend,
    element(
      "div",
      { class: "map-buttons" },
      button("+", "Zoom in", () => viewport.zoom(1.6)),
      button("−", "Zoom out", () => viewport.zoom(1 / 1.6)),
      button("All", "Show all tiles of the plot", () => viewport.fit()),
      choosing,
    ),
  );
  let data = null;
  let page = {};
  let looked = -1;
  const colours = Object.fromEntries(
    ["rest", "found", "asked", "looked", "ground"].map((name) => [name, swatch(name, "")]),
  );
  legend.append(...Object.values(colours));
  const viewport = new Viewport(canvas, {
    changed: draw,
    pointed: (x, y) => point(nearest(x, y), true),
    pressed: (x, y) => {
      const place = nearest(x, y);
      if (place >= 0) location.hash = page.linkTo(data.ids[place]);
    },
    chosen: (box) => {
      choose(false);
      page.boxTo(box.map((edge) => Number(Math.min(1, Math.max(0, edge)).toFixed(4))));
    },
  });
  const atlas = new Atlas(draw);
  return { show, look: (id) => data && point(id === null ? -1 : (data.placeOf.get(id) ?? -1), false) };

  function show(next, given) {
    if (next !== data) atlas.clear();
    [data, page] = [next, given];
    const { ids, count } = data;
    const places = (some) => some.map((id) => data.placeOf.get(id)).filter((place) => place !== undefined);
    page.found = new Set(places(page.results));
    page.queried = new Set(places(page.asked));
    const drawn = ids.length < count ? `${written(ids.length)} of ${written(count)} tiles` : `${written(count)} tiles`;
    const left = page.left ? `, ${written(page.left.size)} meet the filter` : "";
    const shown = page.found.size ? `${written(page.found.size)} shown` : "";
    canvas.setAttribute("aria-label", `Plot of ${drawn}. Arrow keys move it, plus and minus zoom.`);
    colours.rest.textContent = `${drawn}${left}`;
    colours.found.textContent = shown;
    colours.asked.textContent = page.queried.size ? "query" : "";
    canvas.dataset.found = page.found.size; // so that a program can wait for it
    draw();
  }

  function choose(on) {
    viewport.choosing = on;
    choosing.setAttribute("aria-pressed", String(on));
    canvas.classList.toggle("choosing", on);
  }

  /** Which tile is meant at a place of the canvas, or -1. */
  function nearest(x, y) {
    if (!data) return -1;
    let [best, least] = [-1, NEAR ** 2];
    for (let place = 0; place < data.ids.length; place++) {
      if (page.left && !page.left.has(place)) continue;
      const [across, down] = [viewport.across(data.x[place]) - x, viewport.down(data.y[place]) - y];
      const gap = across * across + down * down;
      if (gap < least) [best, least] = [place, gap];
    }
    return best >= 0 ? best : atlas.at(x, y);
  }

  function point(place, here) {
    if (here) canvas.classList.toggle("pointing", place >= 0);
    if (place === looked) return;
    looked = place;
    if (here) look(place < 0 ? null : data.ids[place]);
    tip.hidden = place < 0 || !here;
    if (!tip.hidden) {
      const id = data.ids[place];
      const labels = page.tileOf(id)?.labels ?? [];
      const image = element("img", { alt: "", width: 132, height: 132, onerror: () => image.remove() });
      api.showPicture(image, page.picture(id));
      tip.replaceChildren(image, element("b", {}, shortName(id)), labels.length ? element("span", {}, labels.join(", ")) : "");
      const { width, height } = canvas.getBoundingClientRect();
      const [x, y] = [viewport.across(data.x[place]), viewport.down(data.y[place])];
      tip.style.left = `${x > width / 2 ? x - 172 : x + 22}px`;
      tip.style.top = `${Math.max(4, Math.min(y - 80, height - 200))}px`;
    }
    draw();
  }

  function draw() {
    if (!data) return;
    const context = viewport.begin();
    const colour = (name) => getComputedStyle(colours[name]).getPropertyValue("border-top-color");
    const spots = { x: data.x, y: data.y, ids: data.ids, left: page.left, first: [page.queried, page.found] };
    const dot = (place, size, outlined) => {
      context.beginPath();
      context.arc(viewport.across(data.x[place]), viewport.down(data.y[place]), size, 0, 2 * Math.PI);
      context.fill();
      if (outlined) context.stroke();
    };
    const size = Math.max(1.3, Math.min(4, 90 / Math.sqrt(data.ids.length))) * Math.min(1.6, Math.sqrt(viewport.magnified));
    context.fillStyle = colour("rest");
    for (let place = 0; place < data.ids.length; place++) {
      context.globalAlpha = !page.left || page.left.has(place) ? 0.75 : 0.13;
      if (viewport.sees(data.x[place], data.y[place])) dot(place, size);
    }
    context.globalAlpha = 1;
    atlas.draw(context, viewport, spots, page.picture, {
      found: colour("found"),
      asked: colour("asked"),
    });
    for (const [places, name] of [
      [page.found, "found"],
      [page.queried, "asked"],
    ]) {
      context.strokeStyle = colour("ground");
      context.fillStyle = colour(name);
      for (const place of places) if (!atlas.shows(place)) dot(place, size + 2, true);
    }
    if (looked >= 0) {
      context.strokeStyle = colour("looked");
      context.lineWidth = 3;
      context.beginPath();
      context.arc(viewport.across(data.x[looked]), viewport.down(data.y[looked]), size + 6, 0, 2 * Math.PI);
      context.stroke();
    }
    for (const box of [page.within, viewport.box]) {
      if (!box) continue;
      const [left, top, right, bottom] = box;
      context.strokeStyle = colour("looked");
      context.lineWidth = 2;
      context.setLineDash([7, 5]);
      const [x, y] = [viewport.across(left), viewport.down(top)];
      context.strokeRect(x, y, viewport.across(right) - x, viewport.down(bottom) - y);
      context.setLineDash([]);
    }
  }
}
