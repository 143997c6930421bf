// Which tiles may be found: by labels with their counts, dates and place.

import { element, find } from "./element.js";
import { hasFilter, isOpen, withoutFilter } from "./link.js";

const MANY = 12; // labels from which a field to find one is worth its place

/** Shows the filter of a search. `change` takes the next search, `archive` holds the labels. */
export function showFilters(search, archive, change) {
  const focused = document.activeElement?.dataset?.key;
  const sought = find("label-search")?.value ?? "";
  const chosen = search.any_of.length + search.all_of.length + search.none_of.length;
  const number = chosen + Boolean(search.bbox) + Boolean(search.since || search.until);
  find("filter-count").hidden = !number;
  find("filter-count").textContent = `${number} on`;

  const parts = [];
  if (hasFilter(search)) {
    parts.push(
      element("button", { type: "button", onclick: () => change(withoutFilter(search)) }, "Clear the filter"),
    );
  }
  if (search.bbox) parts.push(placePart(search, change));
  if (archive.dated || search.since || search.until) parts.push(datePart(search, change));
  const named = new Set([...search.any_of, ...search.all_of, ...search.none_of]);
  // A label that no tile holds narrows nothing; one that a link names must be there to be taken back.
  const labels = archive.labels.filter((label) => label.count || named.has(label.name));
  if (labels.length) parts.push(...labelPart(search, labels, change, sought));
  find("filters").hidden = !parts.length || isOpen(search); // tiles of a collection are shown all
  find("filter-body").replaceChildren(...parts);
  narrow(sought);
  // What was pressed was made anew: the keyboard stays where it was.
  if (focused)
    find("filter-body")
      .querySelector(`[data-key="${CSS.escape(focused)}"]`)
      ?.focus();
}

function labelPart(search, labels, change, sought) {
  const every = search.all_of.length > 0;
  const key = every ? "all_of" : "any_of";
  const wanted = search[key];
  const most = labels.reduce((largest, label) => Math.max(largest, label.count), 1);
  const toggled = (list, name) => (list.includes(name) ? list.filter((other) => other !== name) : [...list, name]);

  const rows = [...labels]
    .sort((a, b) => b.count - a.count)
    .map(({ name, count, rare }) => {
      const bar = element("span", { class: "bar-of-count", "aria-hidden": "true" });
      bar.style.width = `${(count / most) * 100}%`;
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
            onchange: () =>
              change({
                ...search,
                [key]: toggled(wanted, name),
                none_of: search.none_of.filter((other) => other !== name),
              }),
          }),
          element(
            "span",
            { class: "label" },
            rare ? element("span", { class: "star", role: "img", "aria-label": "rare" }, "★ ") : null,
            element("bdi", {}, name),
          ),
          element("span", { class: "count" }, count.toLocaleString("en")),
          bar,
        ),
        element(
          "button",
          {
            type: "button",
            class: "not",
            "aria-pressed": excluded,
            "aria-label": `Without ${name}`,
            "data-key": `without ${name}`,
            onclick: () =>
              change({
                ...search,
                none_of: toggled(search.none_of, name),
                any_of: search.any_of.filter((other) => other !== name),
                all_of: search.all_of.filter((other) => other !== name),
              }),
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
