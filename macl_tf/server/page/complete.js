// Completion below the search bar: labels, collections and ids that hold what is typed (a combobox of WAI-ARIA).

import { showPicture } from "./api.js";
import { element, find, icon } from "./element.js";

const PAUSE = 120; // milliseconds without a key, after which is asked

/** `offers(text, signal)` resolves to entries {text, note, picture or icon, act}; one that is chosen acts. */
export function complete(offers) {
  const [field, list] = [find("id"), find("completions")];
  let entries = [];
  let chosen = -1;
  let asking = new AbortController();
  let timer = 0;

  const close = () => {
    clearTimeout(timer);
    asking.abort();
    list.hidden = true;
    chosen = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  };
  const choose = (place) => {
    close();
    field.value = "";
    entries[place].act();
  };
  const point = (place) => {
    chosen = (place + entries.length) % entries.length;
    [...list.children].forEach((node, at) => node.setAttribute("aria-selected", String(at === chosen)));
    list.children[chosen].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", list.children[chosen].id);
  };
  const show = (found) => {
    entries = found;
    chosen = -1;
    list.replaceChildren(...found.map(option));
    list.hidden = !found.length;
    field.setAttribute("aria-expanded", String(found.length > 0));
  };
  const option = (entry, place) => {
    const image = entry.picture ? element("img", { alt: "", width: 36, height: 36 }) : icon(entry.icon);
    if (entry.picture) showPicture(image, entry.picture);
    const [text, note] = [element("bdi", {}, entry.text), element("span", { class: "quiet" }, entry.note ?? "")];
    const node = element("li", { role: "option", id: `completion-${place}`, "aria-selected": "false" }, image, text, note);
    node.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
    node.addEventListener("click", () => choose(place));
    return node;
  };
  const ask = async () => {
    asking = new AbortController();
    const { signal } = asking;
    const found = await offers(field.value.trim(), signal).catch(() => []);
    if (!signal.aborted) show(found);
  };

  field.addEventListener("input", () => {
    close();
    if (field.value.trim()) timer = setTimeout(ask, PAUSE);
  });
  field.addEventListener("blur", close);
  find("by-id").addEventListener("submit", close);
  field.addEventListener("keydown", (event) => {
    if (list.hidden || event.isComposing) return;
    if (event.key === "ArrowDown") point(chosen + 1);
    else if (event.key === "ArrowUp") point(chosen < 0 ? -1 : chosen - 1);
    else if (event.key === "Enter" && chosen >= 0) choose(chosen);
    else if (event.key === "Escape") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
}
