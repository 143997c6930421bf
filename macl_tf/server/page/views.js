// How results are shown: map, number, versions, and the theme of the page.

import { FORMATS, attempt, roundOf, tilesOf } from "./collections.js";
import { element, find } from "./element.js";
import { asks, hasFilter, isOpen } from "./link.js";
import { RANDOM } from "./rounds.js";
import { saveResults } from "./searching.js";

const NUMBERS = [12, 24, 48, 96];

/** `teach` begins rounds from the query, and is null where nothing can be written. */
export function showViews(search, archive, change, teach) {
  const { info } = archive;
  const searching = asks(search);
  const focused = document.activeElement?.id;
  const parts = [];
  const { collection } = search;
  const button = (id, text, onclick, first) =>
    parts.push(element("button", { type: "button", id, class: first ? "primary" : undefined, onclick }, text));
  if (collection && !search.round && info.writable)
    button("round", "Find all, in rounds", () => change(roundOf(search, collection)), true);
  if (searching && !collection && teach) button("teach", "Find all, in rounds…", teach, true);
  if (search.marks)
    button("like-these", "Find more like these", () => change({ ...search, marks: false }), !info.writable);
  if (search.round) {
    button("marked", "Marked tiles", () => change(tilesOf(search, collection)));
    const numbers = [...new Set([...RANDOM, search.random])].sort((a, b) => a - b).map((some) => [some, String(some)]);
    const random = (value) => change({ ...search, random: Number(value) });
    parts.push(choice("random", "At random", search.random, numbers, random));
  } else if (!searching && !search.marks) {
    parts.push(
      element(
        "button",
        { type: "button", id: "others", onclick: () => change({ ...search, seed: search.seed + 1 }) },
        "Other tiles",
      ),
    );
  }
  if (info.has_places) {
    parts.push(
      element(
        "button",
        {
          type: "button",
          id: "map-toggle",
          "aria-pressed": search.map,
          onclick: () => change({ ...search, map: !search.map }),
        },
        "Map",
      ),
    );
  }
  if (!search.round && (searching || search.marks || hasFilter(search))) {
    const number = Math.min(search.k, info.limits.k);
    const numbers = [...new Set([...NUMBERS, number])]
      .filter((some) => some <= info.limits.k)
      .sort((a, b) => a - b);
    parts.push(
      choice(
        "number",
        "Show",
        number,
        numbers.map((some) => [some, String(some)]),
        (value) => change({ ...search, k: Number(value) }),
      ),
    );
  }
  if (searching) {
    const versions = info.versions.map((entry) => [entry.version, versionName(entry, info)]);
    // One that a link names and that is gone must stand there: else no other can be chosen instead.
    const among = (chosen) => {
      const gone = chosen !== null && !info.versions.some(({ version }) => version === chosen);
      return gone ? [...versions, [chosen, `${chosen} (not there)`]] : versions;
    };
    if (versions.length > 1 || search.index !== null) {
      parts.push(
        choice("index", "Index", search.index ?? "", [["", "newest"], ...among(search.index)], (value) =>
          change({ ...search, index: value === "" ? null : Number(value) }),
        ),
      );
    }
    if (versions.length > 1 || search.versus !== null) {
      parts.push(
        choice("versus", "Beside", search.versus ?? "", [["", "nothing"], ...among(search.versus)], (value) =>
          change({ ...search, versus: value === "" ? null : Number(value) }),
        ),
      );
    }
  }
  if (searching || (hasFilter(search) && !isOpen(search))) parts.push(downloads(search, archive));
  find("views").replaceChildren(...parts);
  if (focused)
    find("views")
      .querySelector(`#${CSS.escape(focused)}`)
      ?.focus();
}

/** A menu that saves the results that are shown. */
function downloads(search, archive) {
  const shown = () => document.querySelector(".tiles")?.children.length || search.k;
  const known = FORMATS.filter(([format]) => format !== "geojson" || archive.info.has_places); // it holds places only
  const entries = known.map(([format, text]) => {
    const onclick = () => {
      menu.open = false;
      attempt(() => saveResults(search, archive, shown(), format));
    };
    return element("button", { type: "button", onclick }, text);
  });
  const menu = element(
    "details",
    { class: "menu", id: "download" },
    element("summary", {}, "Download"),
    element("div", { class: "entries" }, entries),
  );
  menu.addEventListener("focusout", (event) => (menu.open &&= menu.contains(event.relatedTarget)));
  menu.addEventListener("keydown", (event) => event.key === "Escape" && (menu.open = false));
  return menu;
}

/** "2 (encoder 1)"; descriptor and archive only where they are not the same in all versions. */
export function versionName(version, info) {
  const mixed = (key) => new Set(info.versions.map((entry) => entry[key])).size > 1;
  const more = ["descriptor", "archive"].filter((key) => mixed(key) && version[key]).map((key) => version[key]);
  return `${version.version} (${[`encoder ${version.encoder_version}`, ...more].join(", ")})`;
}

function choice(id, text, value, options, change) {
  return element(
    "label",
    {},
    `${text} `,
    element(
      "select",
      { id, onchange: (event) => change(event.target.value) },
      options.map(([key, name]) => element("option", { value: key, selected: String(key) === String(value) }, name)),
    ),
  );
}

const NEXT = { "": "light", light: "dark", dark: "" };
const button = find("theme");
const name = () => (button.textContent = `Theme: ${document.documentElement.dataset.theme || "auto"}`);
button.addEventListener("click", () => {
  const theme = NEXT[document.documentElement.dataset.theme] ?? "";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("macl-theme", theme);
  name();
});
name();
