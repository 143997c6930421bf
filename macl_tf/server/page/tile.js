// One tile in large: its picture and what is known of it; who may write labels or deletes it there.

import * as api from "./api.js";
import { withToken } from "./collections.js";
import { element, find, icon, shortName, wholeName } from "./element.js";
import { meaning, sending } from "./forms.js";
import { notice, say } from "./notices.js";
import { drawBoxes, showMatches } from "./parts.js";

/**
 * Opens the tile of an id, and from there those before and after it in the results.
 *
 * page: tileOf(id), all that is known of it; archive; linkTo(id); howOf(id), mark(tile, how) and skips as for results;
 * forget(id): it is deleted; changed(): something was written, called once the dialog is left; findPart(id, box) searches for a part of a tile, and
 * matchesOf(id) gives the cells of a tile with how well they match what is searched for, or is null.
 */
export function openTile(id, page) {
  const dialog = find("tile");
  const { archive, howOf, mark, skips } = page;
  let written = false;
  let tile = null;

  const ids = () => [...find("lists").querySelectorAll(".tile")].map((node) => node.dataset.id);
  const beside = (step) => ids()[ids().indexOf(tile.id) + step];
  const go = (step) => beside(step) !== undefined && show(beside(step));
  const judge = (how) => {
    mark(tile, how);
    show(tile.id);
  };
  const keys = {
    ArrowLeft: () => go(-1),
    ArrowRight: () => go(1),
    y: () => judge("right"),
    n: () => judge("wrong"),
    ...(skips ? { k: () => judge("skipped") } : {}),
  };
  dialog.onkeydown = (event) => {
    if (event.repeat && event.key === "Enter") event.preventDefault(); // one that is held down answers nothing
    if (event.target.tagName === "INPUT" || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  };
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  };
  dialog.onclose = () => {
    dialog.replaceChildren();
    const card = [...document.querySelectorAll(".tile")].find((node) => node.dataset.id === tile.id);
    card?.querySelector("a.picture").focus({ preventScroll: true });
    if (written) page.changed();
  };
  dialog.showModal();
  show(id);

  function show(next) {
    tile = page.tileOf(next);
    const focused = document.activeElement?.dataset?.key;
    dialog.replaceChildren(...parts());
    dialog.querySelector(`[data-key="${focused ?? "close"}"]`)?.focus();
  }

  function button(text, key, onclick, more = {}) {
    return element("button", { type: "button", "data-key": key, onclick, ...more }, text);
  }

  function parts() {
    const image = element("img", { alt: "", width: 512, height: 512 });
    const where = `id=${encodeURIComponent(tile.id)}`;
    if (tile.thumbnail) api.showPicture(image, tile.thumbnail);
    if (archive.info.has_files) whole(image, where);
    const how = howOf(tile.id);
    const marks = [
      ["right", "✓ Right"],
      ["wrong", "✕ Wrong"],
      ...(skips ? [["skipped", "Skip"]] : []),
    ].map(([kind, text]) =>
      button(text, kind, () => judge(kind), { class: kind, "data-how": kind, "aria-pressed": String(how === kind) }),
    );
    const link = page.linkTo(tile.id);
    const close = button(icon("close"), "close", () => dialog.close(), { "aria-label": "Close", class: "icon" });
    const picture = tile.thumbnail || archive.info.has_files;
    const partly = tile.thumbnail && archive.info.has_parts;
    const box = button("Find this part", "part", () => (dialog.close(), page.findPart(tile.id, part)), { hidden: true });
    const tip = element("p", { class: "quiet" }, "To search for a part of it, draw a box on the picture.");
    let part = null;
    const stage = element(
      "div",
      { class: "large" },
      picture ? image : element("span", { class: "blank" }, "no picture"),
      button(icon("before"), "before", () => go(-1), {
        "aria-label": "Tile before",
        disabled: beside(-1) === undefined,
      }),
      button(icon("after"), "after", () => go(1), { "aria-label": "Tile after", disabled: beside(1) === undefined }),
    );
    if (partly)
      drawBoxes(stage, (drawn) => {
        part = drawn;
        box.hidden = !drawn;
        tip.hidden = Boolean(drawn);
      });
    return [
      stage,
      element(
        "div",
        { class: "about" },
        element("div", { class: "head" }, element("h2", { id: "tile-title" }, wholeName(tile.id)), close),
        element(
          "div",
          { class: "row" },
          element("a", { class: "button primary", href: link, onclick: () => dialog.close() }, "Find like this"),
          element("div", { class: "judge", role: "group", "aria-label": "Is it what you look for?" }, marks),
        ),
        partly
          ? element("div", { class: "row" }, box, page.matchesOf ? matching(stage) : null, tip)
          : null,
        element("div", { id: "tile-failure", role: "alert" }),
        labelled(),
        element("dl", {}, facts(tile)),
        element(
          "div",
          { class: "row" },
          button("Copy id", "copy", (event) => copy(event, tile.id)),
          tile.bbox ? button("Copy place", "copy place", (event) => copy(event, middleOf(tile.bbox).join(", "))) : null,
          archive.info.has_files
            ? button("Download", "download", () => told(() => api.downloadTile(tile.id, shortName(tile.id))))
            : null,
          archive.info.writable ? button("Delete…", "delete", remove) : null,
        ),
      ),
    ];
  }

  /** A button that shows where in the tile what is searched for is, and hides it again. */
  function matching(stage) {
    let shown = null;
    const toggle = button("Where it matches", "matches", () =>
      told(async () => {
        if (shown) shown.remove();
        shown = shown ? null : showMatches(stage, (await page.matchesOf(tile.id))[0]);
        toggle.setAttribute("aria-pressed", String(Boolean(shown)));
      }), { "aria-pressed": "false" });
    return toggle;
  }

  /** The tile itself, once it is there, in place of its small picture. */
  async function whole(image, where) {
    const large = element("img", { alt: "", width: 1024, height: 1024 });
    large.addEventListener("load", () => image.isConnected && image.replaceWith(large), { once: true });
    await api.showPicture(large, `picture?${where}`);
  }

  /** The labels, to be taken away and added where something can be written. */
  function labelled() {
    const { writable } = archive.info;
    if (!writable && !tile.labels.length) return null;
    const chips = tile.labels.map((label) =>
      element(
        "li",
        { class: `chip${archive.rare.has(label) ? " rare" : ""}` },
        element("bdi", {}, label),
        writable
          ? button(icon("close"), `without ${label}`, () => relabel(label, false), { "aria-label": `Take away ${label}` })
          : null,
      ),
    );
    const field = element("input", {
      id: "new-label",
      list: "known-labels",
      autocomplete: "off",
      required: true,
      maxlength: 200,
      placeholder: "a label",
      "aria-label": "Label to add",
      "data-key": "new label",
    });
    const known = archive.labels.map(({ name }) => name).filter((name) => !tile.labels.includes(name));
    const options = known.map((name) => element("option", { value: name }));
    const datalist = element("datalist", { id: "known-labels" }, options);
    const form = element("form", { class: "row" }, field, datalist, element("button", {}, "Add"));
    const saying = meaning("add it again");
    sending(form, async () => field.value.trim() && relabel(field.value.trim(), true, saying));
    return element(
      "div",
      { class: "labelled" },
      element("h3", {}, "Labels"),
      element("ul", { class: "chips" }, chips.length ? chips : element("li", { class: "quiet" }, "none")),
      writable ? form : null,
    );
  }

  async function relabel(given, holds, saying = (labels, send) => send([])) {
    const { id: of } = tile;
    await told(async () => {
      const body = { label: given, [holds ? "holds" : "lacks"]: [of] };
      const { label } = await saying([given], (meant) => withToken(() => api.relabel({ ...body, new_labels: meant })));
      written = true;
      const now = await api.item(of);
      Object.assign(page.tileOf(of), { labels: now.labels });
      if (!archive.labels.some(({ name }) => name === label))
        archive.labels.push({ name: label, count: 1, rare: false });
      show(of);
    });
  }

  async function remove(event) {
    const pressed = event.target;
    if (event.detail > 1) return; // the second click of a double one answers nothing
    if (!pressed.dataset.sure) {
      pressed.dataset.sure = "yes";
      pressed.textContent = "Really delete it?";
      return;
    }
    await told(async () => {
      await withToken(() => api.deleteTile(tile.id));
      page.forget(tile.id);
      written = true;
      dialog.close();
      say(`${shortName(tile.id)} is deleted.`);
    });
  }

  async function copy(event, text) {
    await navigator.clipboard?.writeText(text).catch(() => null);
    event.target.textContent = navigator.clipboard ? "Copied" : "Not over http";
  }

  async function told(act) {
    find("tile-failure")?.replaceChildren();
    try {
      await act();
    } catch (error) {
      find("tile-failure")?.replaceChildren(notice(error, null));
    }
  }
}

/** Latitude and longitude of the middle of a box, as maps take them. */
function middleOf([west, south, east, north]) {
  const across = east < west ? 360 : 0; // the antimeridian
  const lon = (((west + east + across) / 2 + 180) % 360) - 180;
  return [(south + north) / 2, lon].map((degrees) => degrees.toFixed(6));
}

function facts(tile) {
  const rows = [
    ["Rank, score", tile.score !== undefined && [tile.rank, tile.score.toFixed(4)].filter(Boolean).join(", ")],
    ["Date", tile.date],
    ["Source", tile.source],
    ["Part", tile.split],
    ["Lat, lon", tile.bbox && middleOf(tile.bbox).join(", ")],
    ["Box", tile.bbox && tile.bbox.map((degrees) => degrees.toFixed(4)).join(", ")],
    ["Marked", tile.marked && [tile.marked.mark, tile.marked.by ?? "?", tile.marked.at.slice(0, 10)].join(", ")],
  ];
  return rows
    .filter(([, value]) => value)
    .map(([name, value]) => [element("dt", {}, name), element("dd", {}, String(value))]);
}
