// The examples that results should and should not be like.

import { showPicture } from "./api.js";
import { countsOf, tilesOf } from "./collections.js";
import { element, find, wholeName } from "./element.js";
import { CLOSED, isOpen, keyOf, pictureSource, toFragment } from "./link.js";
import { previewOf } from "./searching.js";

/**
 * Shows the examples of a search. `tiles` maps ids to what is known of them; `change` takes the next search, `save` asks
 * for a collection that keeps them, and is null where nothing can be written.
 */
export function showQuery(search, tiles, change, archive, save) {
  const without = (key, example) => ({
    ...search,
    [key]: search[key].filter((other) => keyOf(other) !== keyOf(example)),
  });
  const none = () => change({ ...search, like: [], unlike: [], ...CLOSED });
  const anew = element("button", { type: "button", class: "plain", onclick: none }, "Begin anew");
  const ids = [...search.like, ...search.unlike].filter(({ id }) => id !== undefined);
  const keep = element("button", { type: "button", class: "plain", onclick: save }, "Save…");
  const buttons = element("div", { class: "row" }, save && ids.length > 1 ? keep : null, anew);
  const row = (key, title, kind) => {
    if (!search[key].length) return [];
    const entries = search[key].map((example) => {
      const name = example.id ?? "your picture";
      return element(
        "li",
        { class: `example ${kind}` },
        picture(example, tiles),
        element("span", { class: "name", title: example.id }, wholeName(name)),
        element(
          "button",
          {
            type: "button",
            "aria-label": `Remove ${name} from the query`,
            onclick: () => change(without(key, example)),
          },
          "✕",
        ),
      );
    });
    const head = element("div", { class: "head" }, element("h3", {}, title), key === "like" ? buttons : null);
    return [head, element("ul", { class: "examples" }, entries)];
  };
  find("examples").replaceChildren(
    ...(search.collection ? [collectionRow(search, archive, change, none)] : []),
    ...row("like", search.unlike.length ? "✓ Like" : "Like", "right"),
    ...row("unlike", "✕ Not like", "wrong"),
  );
  find("add").hidden = !search.like.length && !search.collection;
  find("choose").textContent = search.like.length ? "New picture" : "Choose a picture";
}

/** The collection that is open: its name leads to its tiles. */
function collectionRow(search, archive, change, close) {
  const { collection: name } = search;
  const known = archive.collections.find((one) => one.name === name);
  return element(
    "div",
    { class: "collection" },
    element(
      "div",
      {},
      element("h3", {}, isOpen(search) ? "Collection" : "Like the collection"),
      element("a", { href: toFragment(tilesOf(search, name)) }, element("bdi", {}, name)),
      known ? element("p", { class: "quiet" }, countsOf(known)) : null,
    ),
    element("button", { type: "button", "aria-label": `Close ${name}`, onclick: close }, "✕"),
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
  if (!previewOf(example) && !source) return blank;
  const sources = [previewOf(example), source].filter(Boolean); // in full size while the page is open
  const next = () => {
    if (sources.length) image.src = sources.shift();
    else image.replaceWith(blank); // a link with half a picture
  };
  image.addEventListener("error", next); // a TIFF is no picture to browsers: the small JPEG of it is
  next();
  return image;
}
