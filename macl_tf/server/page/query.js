// The examples that results should and should not be like.

import { showPicture } from "./api.js";
import { countsOf, tilesOf } from "./collections.js";
import { element, find, icon, shortName } from "./element.js";
import { CLOSED, keyOf, pictureSource, toFragment } from "./link.js";
import { fileOf } from "./searching.js";

/**
 * Shows the examples of a search. `tiles` maps ids to what is known of them; `change` takes the next search, `save` asks
 * for a collection that keeps them, and is null where nothing can be written; open(example) shows a dropped picture in large,
 * and is null where nothing can be done with it there.
 */
export function showQuery(search, tiles, change, archive, { save, open }) {
  const without = (key, example) => ({
    ...search,
    [key]: search[key].filter((other) => keyOf(other) !== keyOf(example)),
  });
  const none = () => change({ ...search, like: [], unlike: [], ...CLOSED });
  const button = (name, onclick, text) =>
    element("button", { type: "button", title: name, "aria-label": name, onclick }, text);
  const entry = (key, kind) => (example) => {
    const name = `${example.box ? "part of " : ""}${example.id ?? example.name ?? "your picture"}`;
    return element(
      "li",
      { class: `example ${kind}`, title: name },
      open && fileOf(example)
        ? element(
            "button",
            { type: "button", class: "part", title: "Show it in large", "aria-label": `Show ${name} in large`, onclick: () => open(example) },
            picture(example, tiles),
          )
        : picture(example, tiles),
      element("span", { class: "name", title: name }, example.box ? `part of ${shortName(example.id)}` : shortName(name)),
      button(`Remove ${name} from the query`, () => change(without(key, example)), icon("close")),
    );
  };
  const list = (name, key, kind) =>
    search[key].length
      ? [element("ul", { class: "examples", "aria-label": name }, search[key].map(entry(key, kind)))]
      : [];
  const several = search.like.length + search.unlike.length;
  const ids = [...search.like, ...search.unlike].filter(({ id, box }) => id !== undefined && !box);
  const keep = element("button", { type: "button", class: "plain", onclick: save }, "Save…");
  const anew = element("button", { type: "button", class: "plain", onclick: none }, "Begin anew");
  find("examples").classList.toggle("several", several > 1);
  find("examples").replaceChildren(
    ...(search.collection ? [collectionRow(search, archive, none)] : []),
    ...list("Like", "like", "right"),
    ...list("Not like", "unlike", "wrong"),
    ...(save && ids.length > 1 ? [keep] : []),
    ...(several > 1 ? [anew] : []),
  );
  find("add").hidden = !search.like.length && !search.collection;
}

/** The collection that is open: its name leads to its tiles. */
function collectionRow(search, archive, close) {
  const { collection: name } = search;
  const known = archive.collections.find((one) => one.name === name);
  return element(
    "div",
    { class: "collection", title: known ? countsOf(known) : name },
    icon("collection"),
    element("a", { class: "name", href: toFragment(tilesOf(search, name)) }, element("bdi", {}, name)),
    element("button", { type: "button", "aria-label": `Close ${name}`, onclick: close }, icon("close")),
  );
}

function picture(example, tiles) {
  const image = element("img", { alt: "", width: 64, height: 64 });
  const blank = element("span", { class: "blank" });
  if (example.id !== undefined) {
    const known = tiles.get(example.id);
    if (!known?.thumbnail) return blank;
    showPicture(image, known.thumbnail);
    return image;
  }
  const source = example.picture ? pictureSource(example.picture) : null;
  const file = fileOf(example);
  const sources = [file && !file.box && file.preview, source].filter(Boolean); // in full size while the page is open
  if (!sources.length) return blank;
  const next = () => {
    if (sources.length) image.src = sources.shift();
    else image.replaceWith(blank); // a link with half a picture
  };
  image.addEventListener("error", next); // a TIFF is no picture to browsers: the small JPEG of it is
  next();
  return image;
}
