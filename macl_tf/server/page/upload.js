// A picture that was dropped, in large: a box is drawn on it, to search by what is in the box.

import { element, find, icon } from "./element.js";
import { notice } from "./notices.js";
import { drawBoxes } from "./parts.js";

/** Opens a picture {sources, name}, the addresses of which the first that can be drawn is shown; `search(box)` searches by a part. */
export function openUpload({ sources, name }, search) {
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
      await search(part);
      dialog.close();
    } catch (error) {
      failure.replaceChildren(notice(error, null));
    }
    go.disabled = false;
  };
  const go = element("button", { type: "button", class: "primary", hidden: true, onclick: act }, "Find this part");
  const tip = element("p", { class: "quiet" }, "Draw a box on the picture to search for what is in it.");
  const close = element("button", { type: "button", class: "icon", "aria-label": "Close", onclick: () => dialog.close() }, icon("close"));
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
      element("div", { class: "head" }, element("h2", { id: "tile-title" }, name), close),
      element("div", { class: "row" }, go, tip),
      failure,
    ),
  );
  dialog.onkeydown = null;
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  dialog.onclose = () => dialog.replaceChildren();
  dialog.showModal();
}
