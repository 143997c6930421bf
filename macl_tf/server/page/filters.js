// Which tiles may be found: by labels with their counts, dates and place.

import { count, element, find, written } from "./element.js";
import { hasFilter, isOpen, withoutFilter } from "./link.js";
import { star } from "./results.js";

const QUICK = 40; // labels in the line
const MANY = 12; // labels from which a field to find one is worth its place

/** A search in which a label is wanted as well, or no longer: one of several, or all of them. */
function toggled(search, name, key = search.all_of.length ? "all_of" : "any_of") {
  const list = search[key];
  const next = list.includes(name) ? list.filter((other) => other !== name) : [...list, name];
  return key === "none_of"
    ? { ...without(search, name, ["any_of", "all_of"]), none_of: next }
    : { ...without(search, name, ["none_of"]), [key]: next };
}

const without = (search, name, keys) =>
  Object.fromEntries(
    Object.entries(search).map(([key, value]) => [
      key,
      keys.includes(key) ? value.filter((other) => other !== name) : value,
    ]),
  );

/**
 * Shows the filter of a search: labels in a line, and all conditions in a drawer. `change` takes the next search, `archive`
 * holds the labels and `left`, what the filter leaves: {count, labels}, or null.
 */
export function showFilters(search, archive, change) {
  const focused = document.activeElement?.dataset?.key;
  const sought = find("label-search")?.value ?? "";
  const chosen = search.any_of.length + search.all_of.length + search.none_of.length;
  const number = chosen + Boolean(search.bbox) + Boolean(search.since || search.until);
  find("filter-count").hidden = !number;
  find("filter-count").textContent = `${number} on`;

  const parts = [];
  if (hasFilter(search)) {
    const { left } = archive;
    const told = left && `${written(left.count)} of ${count(archive.info.index.count, "tile")}`;
    const clear = { type: "button", "data-key": "clear", onclick: () => change(withoutFilter(search)) };
    parts.push(
      element("div", { class: "row" }, element("button", clear, "Clear the filter"), element("span", { id: "left", class: "quiet" }, told)),
    );
  }
  if (search.bbox) parts.push(placePart(search, change));
  if (archive.dated || search.since || search.until) parts.push(datePart(search, change));
  const named = new Set([...search.any_of, ...search.all_of, ...search.none_of]);
  // A label that no tile holds narrows nothing; one that a link names must be there to be taken back.
  const labels = archive.labels.filter((label) => label.count || named.has(label.name));
  if (labels.length) parts.push(...labelPart(search, labels, archive.left, change, sought));
  const usable = parts.length > 0 && !isOpen(search); // tiles of a collection are shown all
  find("filter-toggle").hidden = !usable;
  find("filters").hidden = !usable || !isDrawn();
  find("filter-toggle").setAttribute("aria-expanded", String(isDrawn()));
  find("filter-body").replaceChildren(...parts);
  find("quick").hidden = !usable || !labels.length;
  find("quick").replaceChildren(...(usable ? quick(search, labels, change) : []));
  narrow(sought);
  // What was pressed was made anew: the keyboard stays where it was.
  if (focused) document.querySelector(`:is(#filter-body, #quick) [data-key="${CSS.escape(focused)}"]`)?.focus();
}

const DRAWN = "macl-filter";
const isDrawn = () => localStorage.getItem(DRAWN) === "open";

/** Opens the drawer of the filter, or closes it; it is so again next time. */
export function drawFilters(open = !isDrawn()) {
  localStorage.setItem(DRAWN, open ? "open" : "");
  find("filters").hidden = !open || find("filter-toggle").hidden;
  find("filter-toggle").setAttribute("aria-expanded", String(open));
}

/** Labels to filter by at once: those that are on, then the rarest. */
function quick(search, labels, change) {
  const on = ({ name }) => search.any_of.includes(name) || search.all_of.includes(name);
  return [...labels]
    .sort((a, b) => on(b) - on(a) || a.count - b.count)
    .slice(0, QUICK)
    .map((label) =>
      element(
        "li",
        {},
        element(
          "button",
          {
            type: "button",
            "aria-pressed": on(label),
            "data-key": `quick ${label.name}`,
            onclick: () => change(toggled(search, label.name)),
          },
          label.rare ? star() : null,
          element("bdi", {}, label.name),
          element("span", { class: "count" }, written(label.count)),
        ),
      ),
    );
}

function labelPart(search, labels, left, change, sought) {
  const every = search.all_of.length > 0;
  const key = every ? "all_of" : "any_of";
  const wanted = search[key];
  const among = new Map(left?.labels.map((label) => [label.name, label.count]));
  const rows = [...labels]
    .sort((a, b) => b.count - a.count)
    .map(({ name, count: all, rare }) => {
      const excluded = search.none_of.includes(name);
      return element(
        "li",
        { class: excluded ? "excluded" : undefined, "data-label": name.toLowerCase() },
        element(
          "label",
          {},
          element("input", {
            type: "checkbox",
            checked: wanted.includes(name),
            "data-key": `with ${name}`,
            onchange: () => change(toggled(search, name)),
          }),
          element(
            "span",
            { class: "label" },
            rare ? star() : null,
            element("bdi", {}, name),
          ),
          element(
            "span",
            { class: "count", title: left ? `${written(all)} in all` : undefined },
            written(left ? (among.get(name) ?? 0) : all),
          ),
        ),
        element(
          "button",
          {
            type: "button",
            class: "not",
            "aria-pressed": excluded,
            "aria-label": `Without ${name}`,
            "data-key": `without ${name}`,
            onclick: () => change(toggled(search, name, "none_of")),
          },
          "not",
        ),
      );
    });

  const mode = (value, text) =>
    element(
      "label",
      {},
      element("input", {
        type: "radio",
        name: "mode",
        checked: (value === "all") === every,
        "data-key": `mode ${value}`,
        disabled: wanted.length < 2 && (value === "all") !== every,
        onchange: () =>
          change({ ...search, any_of: value === "any" ? wanted : [], all_of: value === "all" ? wanted : [] }),
      }),
      ` ${text}`,
    );
  return [
    labels.length > MANY
      ? element("input", {
          id: "label-search",
          type: "search",
          "aria-label": "Find a label",
          placeholder: "Find a label",
          value: sought,
          autocomplete: "off",
          "data-key": "label search",
          oninput: (event) => narrow(event.target.value),
        })
      : "",
    wanted.length > 1
      ? element(
          "fieldset",
          { class: "row mode" },
          element("legend", { class: "unseen" }, "Tiles must hold"),
          mode("any", "any of them"),
          mode("all", "all of them"),
        )
      : "",
    element("ul", { class: "labels", "aria-label": "Labels, with the number of tiles" }, rows),
  ].filter(Boolean);
}

function datePart(search, change) {
  const field = (key, text) =>
    element(
      "label",
      {},
      text,
      element("input", {
        type: "date",
        value: search[key],
        "data-key": key,
        onchange: (event) => change({ ...search, [key]: event.target.value }),
      }),
    );
  return element(
    "fieldset",
    { class: "dates" },
    element("legend", {}, "Date"),
    field("since", "from "),
    field("until", "to "),
  );
}

function placePart(search, change) {
  const [west, south, east, north] = search.bbox.map((degrees) => Number(degrees.toFixed(4)));
  return element(
    "fieldset",
    { class: "row" },
    element("legend", {}, "Place"),
    element("span", {}, `${west}° to ${east}° E, ${south}° to ${north}° N`),
    element(
      "button",
      { type: "button", "data-key": "bbox", onclick: () => change({ ...search, bbox: null }) },
      "Anywhere",
    ),
  );
}

function narrow(sought) {
  for (const row of document.querySelectorAll(".labels > li"))
    row.hidden = !row.dataset.label.includes(sought.trim().toLowerCase());
}
