// A picture that was dropped, in large: a box is drawn on it, to search by what is in the box; or it becomes a tile of the archive.

import * as api from "./api.js";
import { withToken } from "./collections.js";
import { element, find, icon } from "./element.js";
import { meaning, sending } from "./forms.js";
import { notice } from "./notices.js";
import { drawBoxes } from "./parts.js";

/**
 * Opens a picture {sources, file}, the addresses of which the first that can be drawn is shown. `searchPart(box)` searches by a part
 * of it; `added(id)` is called when it is a tile.
 */
export function openUpload({ sources, file }, archive, { searchPart, added }) {
  const dialog = find("tile");
  const image = element("img", { alt: "", width: 1024, height: 1024 });
  const left = [...sources];
  const next = () => left.length && (image.src = left.shift());
  image.addEventListener("error", next);
  next();
  const stage = element("div", { class: "large" }, image);
  let part = null;
  const failure = element("div", { role: "alert" });
  const act = async () => {
    go.disabled = true;
    try {
      await searchPart(part);
      dialog.close();
    } catch (error) {
      failure.replaceChildren(notice(error, null));
    }
    go.disabled = false;
  };
  const go = element("button", { type: "button", class: "primary", hidden: true, onclick: act }, "Find this part");
  const tip = element("p", { class: "quiet" }, "Draw a box on the picture to search for what is in it.");
  const { has_parts: partly, writable } = archive.info;
  const close = element("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"));
  if (partly)
    drawBoxes(stage, (drawn) => {
      part = drawn;
      go.hidden = !drawn;
      tip.hidden = Boolean(drawn);
    });
  dialog.replaceChildren(
    stage,
    element(
      "div",
      { class: "about" },
      element("div", { class: "head" }, element("h2", { id: "tile-title" }, file.name), close),
      partly ? element("div", { class: "row" }, go, tip) : null,
      failure,
      writable ? adding(file, archive, failure, async (id) => (dialog.close(), await added(id))) : null,
    ),
  );
  dialog.onkeydown = null;
  dialog.onclick = (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  };
  dialog.onclose = () => dialog.replaceChildren();
  dialog.showModal();
}

/** A form that adds a picture to the archive, under an id and with labels. */
function adding(file, archive, failure, added) {
  const labels = new Set();
  const id = element("input", { id: "tile-id", value: file.name, autocomplete: "off", spellcheck: "false", required: true, maxlength: 512 });
  const field = element("input", { id: "tile-label", list: "known-labels", autocomplete: "off", maxlength: 200, placeholder: "a label" });
  const options = archive.labels.map(({ name }) => element("option", { value: name }));
  const chips = element("ul", { class: "chips", "aria-label": "Its labels" });
  const show = () =>
    chips.replaceChildren(
      ...[...labels].map((label) => {
        const away = () => (labels.delete(label), show());
        const button = element("button", { type: "button", "aria-label": `Take away ${label}`, onclick: away }, icon("close"));
        return element("li", { class: "chip" }, element("bdi", {}, label), button);
      }),
    );
  const take = () => {
    if (field.value.trim()) labels.add(field.value.trim());
    field.value = "";
    show();
  };
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing || !field.value.trim()) return;
    event.preventDefault();
    take();
  });
  const form = element(
    "form",
    { class: "adding labelled" },
    element("h3", {}, "Add it to the archive"),
    element("label", { for: "tile-id" }, "Id"),
    id,
    element("label", { for: "tile-label" }, "Labels, if you know them"),
    chips,
    element("div", { class: "row" }, field, element("button", { type: "button", onclick: take }, "Add label")),
    element("datalist", { id: "known-labels" }, options),
    element("button", { class: "primary" }, "Add to the archive"),
  );
  const saying = meaning("press again");
  let there = null; // an id of which was told that a tile has it
  sending(form, async () => {
    take();
    failure.replaceChildren();
    const name = id.value.trim();
    try {
      if (there !== name && (await isThere(name))) {
        there = name;
        const remedy = "Choose another id, or press again to replace the tile's picture.";
        throw new api.Failure({ rule: "A tile of the archive has this id.", value: name, remedy });
      }
      const known = new Set(archive.labels.map((label) => label.name));
      const fresh = [...labels].filter((label) => !known.has(label));
      const send = (meant) => withToken(() => api.addTile({ image: file, id: name, labels: [...labels], new_labels: meant }));
      await added((await saying(fresh, send)).id);
    } catch (error) {
      failure.replaceChildren(notice(error, null));
      failure.scrollIntoView({ block: "nearest" });
    }
  });
  return form;
}

/** Whether the archive has a tile of that id. */
const isThere = (id) =>
  api.item(id).then(
    () => true,
    (error) => (error.status === 404 ? false : Promise.reject(error)),
  );
