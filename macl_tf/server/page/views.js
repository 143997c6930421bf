// What can be done with what is shown, the menu of what few ask for, and the theme of the page.

import { FORMATS, attempt, roundOf, tilesOf } from "./collections.js";
import { element, find, icon } from "./element.js";
import { asks, hasFilter, isOpen } from "./link.js";
import { RANDOM } from "./rounds.js";
import { saveResults } from "./searching.js";

const NUMBERS = [24, 48, 96, 200];

/**
 * What can be done with what is shown, beside its title. begin() begins rounds from the query, part() opens the dropped
 * picture that is searched from, to draw a box on it; each is null where it cannot be done.
 */
export function showViews(search, archive, change, { begin, part }) {
  const { info } = archive;
  const { collection } = search;
  const searching = asks(search);
  const focused = document.activeElement?.id;
  const button = (id, text, onclick, more = {}) => element("button", { type: "button", id, onclick, ...more }, text);
  const first = { class: "primary" };
  const parts = [];
  if (collection && !search.round && info.writable)
    parts.push(button("round", "Find all, in rounds", () => change(roundOf(search, collection)), first));
  if (searching && !collection && begin) parts.push(button("begin", "Find all, in rounds…", begin, first));
  if (part) parts.push(button("part", "A part of it…", part));
  if (search.marks)
    parts.push(
      button("like-these", "Find more like these", () => change({ ...search, marks: false }), info.writable ? {} : first),
    );
  if (search.round) parts.push(button("marked", "Marked tiles", () => change(tilesOf(search, collection))));
  else if (search.within) parts.push(button("unbox", "Clear the box", () => change({ ...search, within: null })));
  else if (!searching && !search.marks && !search.suggest)
    parts.push(button("others", "Other tiles", () => change({ ...search, seed: search.seed + 1 })));
  if (!search.round && !search.suggest) parts.push(judging());
  if (info.has_places)
    parts.push(
      button("map-toggle", [icon("map"), word("Map")], () => change({ ...search, map: !search.map }), {
        "aria-pressed": search.map,
        "aria-label": "Map",
      }),
    );
  parts.push(
    button("plot-toggle", [icon("plot"), word("Plot")], () => change({ ...search, plot: !search.plot }), {
      "aria-pressed": search.plot,
      "aria-label": "Plot",
    }),
  );
  if (search.suggest) {
    const others = archive.collections.filter(({ label }) => !label); // the rest belongs to labels
    const names = new Set([...archive.labels.filter((label) => label.count), ...others].map(({ name }) => name));
    const known = [...names.add(search.suggest)].sort().map((name) => [name, name]);
    parts.push(choice("suggest", "Label", search.suggest, known, (name) => change({ ...search, suggest: name })));
  }
  find("views").replaceChildren(...parts);
  if (focused)
    find("views")
      .querySelector(`#${CSS.escape(focused)}`)
      ?.focus();
}

/** What a narrow screen leaves out beside an icon. */
const word = (text) => element("span", { class: "word" }, text);

/** Shows on every tile, not only on the one that is pointed at, the buttons that mark it. */
function judging() {
  const on = () => document.body.classList.contains("judging");
  const node = element(
    "button",
    {
      type: "button",
      id: "judging",
      "aria-pressed": on(),
      "aria-label": "Mark",
      onclick: () => node.setAttribute("aria-pressed", String(document.body.classList.toggle("judging"))),
    },
    icon("mark"),
    word("Mark"),
  );
  return node;
}

/** What few ask for, in the menu: how many, which version of the index, files; `learn` are buttons that teach it. */
export function showControls(search, archive, change, learn) {
  const { info } = archive;
  const searching = asks(search);
  const focused = document.activeElement?.id;
  const parts = [];
  if (search.round) {
    const numbers = [...new Set([...RANDOM, search.random])].sort((a, b) => a - b).map((some) => [some, String(some)]);
    parts.push(
      choice("random", "At random", search.random, numbers, (value) => change({ ...search, random: Number(value) })),
    );
  } else if (!search.suggest && (searching || search.marks || search.within || hasFilter(search))) {
    const number = Math.min(search.k, info.limits.k);
    const numbers = [...new Set([...NUMBERS, number])].filter((some) => some <= info.limits.k).sort((a, b) => a - b);
    const known = numbers.map((some) => [some, String(some)]);
    parts.push(choice("number", "Show", number, known, (value) => change({ ...search, k: Number(value) })));
  }
  if (searching) {
    const versions = info.versions.map((entry) => [entry.version, versionName(entry, info)]);
    // One that a link names and that is gone must stand there: else no other can be chosen instead.
    const among = (chosen) => {
      const gone = chosen !== null && !info.versions.some(({ version }) => version === chosen);
      return gone ? [...versions, [chosen, `${chosen} (not there)`]] : versions;
    };
    const versionChoice = (key, text, none) =>
      parts.push(
        choice(key, text, search[key] ?? "", [["", none], ...among(search[key])], (value) =>
          change({ ...search, [key]: value === "" ? null : Number(value) }),
        ),
      );
    if (versions.length > 1 || search.index !== null) versionChoice("index", "Index", "newest");
    if (versions.length > 1 || search.versus !== null) versionChoice("versus", "Compare with", "nothing");
  }
  if (searching || (hasFilter(search) && !isOpen(search) && !search.within)) parts.push(downloads(search, archive));
  find("controls").replaceChildren(...parts, ...learn);
  if (focused)
    find("controls")
      .querySelector(`#${CSS.escape(focused)}`)
      ?.focus();
}

/** Buttons that save the results that are shown. */
function downloads(search, archive) {
  const shown = () => document.querySelector(".tiles")?.children.length || search.k;
  const known = FORMATS.filter(([format]) => format !== "geojson" || archive.info.has_places); // it holds places only
  const entries = known.map(([format, text]) =>
    element(
      "button",
      { type: "button", onclick: () => attempt(() => saveResults(search, shown(), format)) },
      text,
    ),
  );
  return element(
    "div",
    { class: "group-of-buttons", id: "download", role: "group", "aria-label": "Download the results" },
    "Download",
    entries,
  );
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

// A menu is closed by what is chosen in it, by what is pressed elsewhere, and by Escape.
for (const menu of document.querySelectorAll("details.menu")) {
  addEventListener("click", (event) => {
    const chosen = menu.contains(event.target) && event.target.closest("a, .entries button:not(.plain, #theme)");
    if (!menu.contains(event.target) || chosen) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !menu.open) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });
}
