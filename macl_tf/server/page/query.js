// The examples that results should and should not be like.

import { showPicture } from "./api.js";
import { element, find, wholeName } from "./element.js";
import { keyOf, pictureSource } from "./link.js";
import { previewOf } from "./searching.js";

/** Shows the examples of a search. `tiles` maps ids to what is known of them; `change` takes the next search. */
export function showQuery(search, tiles, change) {
  const without = (key, example) => ({
    ...search,
    [key]: search[key].filter((other) => keyOf(other) !== keyOf(example)),
  });
  const none = () => change({ ...search, like: [], unlike: [] });
  const anew = element("button", { type: "button", class: "plain", onclick: none }, "Begin anew");
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
    const head = element("div", { class: "head" }, element("h3", {}, title), key === "like" ? anew : null);
    return [head, element("ul", { class: "examples" }, entries)];
  };
  find("examples").replaceChildren(
    ...row("like", search.unlike.length ? "✓ Like" : "Like", "right"),
    ...row("unlike", "✕ Not like", "wrong"),
  );
  find("add").hidden = !search.like.length;
  find("choose").textContent = search.like.length ? "New picture" : "Choose a picture";
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
