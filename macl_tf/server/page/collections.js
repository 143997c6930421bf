// Collections, marks that are kept under a name: the list beside the results, and dialogs that save, label and delete.

import * as api from "./api.js";
import { askForToken } from "./dialogs.js";
import { count, element, find } from "./element.js";
import { CLOSED, EMPTY } from "./link.js";
import { notice, say } from "./notices.js";

const AUTHOR = "macl-author";
export const FORMATS = [
  ["csv", "CSV"],
  ["geojson", "GeoJSON"],
  ["parquet", "GeoParquet"],
];

/** The link's search that shows the tiles of a collection. */
export const tilesOf = (search, name) => ({ ...search, like: [], unlike: [], ...CLOSED, collection: name, marks: true });

/** The one that shows which tiles are to be marked next. */
export const roundOf = (search, name) => ({ ...tilesOf(search, name), marks: false, round: true });

/** "12 right, 3 wrong" */
export const countsOf = ({ right, wrong, skipped }) =>
  `${right.toLocaleString("en")} right, ${wrong.toLocaleString("en")} wrong${skipped ? `, ${skipped} skipped` : ""}`;

/**
 * Shows the collections, the one that is open with what can be done with it.
 *
 * page: search, archive, change(search), changed(): what is known of the archive is out of date, toFragment(search).
 */
export function showCollections(page) {
  const { search, archive, toFragment } = page;
  const { collections } = archive;
  const box = find("collections");
  box.hidden = !collections.length;
  const rows = collections.map((one) =>
    element(
      "li",
      {},
      element(
        "a",
        {
          href: toFragment(tilesOf({ ...EMPTY, map: search.map }, one.name)),
          "aria-current": one.name === search.collection ? "true" : undefined,
        },
        element("bdi", {}, one.name),
      ),
      element("span", { class: "quiet", title: countsOf(one) }, `✓ ${one.right} ✕ ${one.wrong}`),
    ),
  );
  find("collection-count").textContent = String(archive.collectionTotal);
  const open = collections.find(({ name }) => name === search.collection);
  const left = archive.collectionTotal - collections.length;
  find("collection-body").replaceChildren(
    element("ul", { class: "collections", "aria-label": "Collections" }, rows),
    ...(left > 0 ? [element("p", { class: "quiet" }, `and ${left} more: macl collections lists them`)] : []),
    ...(open ? [actions(open, page)] : []),
  );
}

function actions(open, { archive, change, changed }) {
  const button = (text, onclick) => element("button", { type: "button", class: "plain", onclick }, text);
  const downloads = FORMATS.map(([format, text]) =>
    button(`↓ ${text}`, () => attempt(() => api.download(open.name, format))),
  );
  const writes = [
    button("Make it a label…", () => askForLabel(open, changed)),
    button("Delete…", () =>
      askToDelete(open, async () => {
        await changed();
        change(EMPTY);
      }),
    ),
  ];
  return element(
    "div",
    { class: "actions", role: "group", "aria-label": open.name },
    element("div", { class: "row" }, element("span", { class: "unseen" }, "Download"), ...downloads),
    archive.info.writable ? element("div", { class: "row" }, ...writes) : null,
  );
}

/**
 * Asks which collection marks are saved to, and saves them; resolves to its name, or null.
 *
 * said: right, wrong, skipped and neither, lists of ids; others: the ids of the query, {right, wrong}, which may be saved too;
 * suggested: a name, or "".
 */
export function askToSave(said, others, archive, suggested) {
  const names = archive.collections.map(({ name }) => name);
  const name = element("input", {
    id: "collection-name",
    list: "collection-names",
    autocomplete: "off",
    required: true,
    value: suggested,
    maxlength: 200,
    placeholder: names.length ? "a new name, or one of these" : "harbors",
  });
  const by = authorField();
  const some = others.right.length + others.wrong.length;
  const too = element("input", { type: "checkbox", checked: true });
  const marked = Object.values(said).flat().length;
  const parts = [
    element("p", {}, element("label", { for: "collection-name" }, "Collection"), name),
    element("datalist", { id: "collection-names" }, names.map((known) => element("option", { value: known }))),
    by.part,
    element("p", { class: "quiet" }, `${countsOf(lengths(marked ? said : others))}.`),
    ...(marked && some
      ? [element("label", {}, too, ` with the tiles of the query: ${countsOf(lengths(others))}`)]
      : []),
  ];
  return dialog("Save the marks", parts, "Save", async () => {
    const both = !marked || (some && too.checked);
    const known = new Set(Object.values(said).flat());
    const rest = (how) => (both ? others[how].filter((id) => !known.has(id)) : []);
    const body = {
      name: name.value.trim(),
      right: [...said.right, ...rest("right")],
      wrong: [...said.wrong, ...rest("wrong")],
      skipped: said.skipped,
      neither: said.neither,
      by: by.value(),
    };
    const saved = await save(body);
    return saved.name;
  });
}

/** Saves marks to a collection; gives what it holds then. */
export const save = (body) => api.mark({ ...body, by: body.by ?? localStorage.getItem(AUTHOR) ?? "" });

function askForLabel(open, changed) {
  const name = element("input", {
    id: "label-name",
    value: open.name,
    autocomplete: "off",
    required: true,
    maxlength: 200,
  });
  let refused = null; // a name that is near to another, and may be meant
  const parts = [
    element("p", {}, element("label", { for: "label-name" }, "Label"), name),
    element(
      "p",
      { class: "quiet" },
      `${count(open.right, "tile")} will hold it, the ${open.wrong} wrong ones will not. Others stay as they are.`,
    ),
  ];
  return dialog(`Make “${open.name}” a label`, parts, "Make it a label", async () => {
    const label = name.value.trim();
    const meant = refused === label ? [label] : [];
    refused = label;
    let done;
    try {
      done = await api.toLabel({ name: open.name, label, new_labels: meant });
    } catch (error) {
      // What programs are told to send, a person says by pressing again.
      if (error.remedy?.includes("new_labels"))
        error.remedy = `${error.remedy.split(" If ")[0]} If it is new, press again.`;
      throw error;
    }
    await changed();
    say(`${count(done.gained, "tile")} got the label ${done.label}${done.lost ? `, ${done.lost} lost it` : ""}.`);
  });
}

function askToDelete(open, changed) {
  const marks = `Its marks (${countsOf(open)}) are gone for the page and for searches.`;
  const told = element("p", {}, `${marks} Tiles and labels stay.`);
  return dialog(`Delete “${open.name}”?`, [told], "Delete", async () => {
    await api.deleteCollection(open.name);
    await changed();
    say(`${open.name} is deleted.`);
  });
}

function authorField() {
  const field = element("input", {
    id: "author",
    value: localStorage.getItem(AUTHOR) ?? "",
    autocomplete: "off",
    maxlength: 200,
    placeholder: "your name, if others mark too",
  });
  const value = () => {
    const given = field.value.trim();
    localStorage.setItem(AUTHOR, given);
    return given;
  };
  return { part: element("p", {}, element("label", { for: "author" }, "By"), field), value };
}

const lengths = ({ right, wrong }) => ({ right: right.length, wrong: wrong.length });

/** A dialog that stays until `act` succeeds; resolves to what it gives, or null where it was left. */
function dialog(title, parts, text, act) {
  const node = find("collection-dialog");
  return new Promise((resolve) => {
    const failure = element("div", { role: "alert" });
    const close = () => node.close();
    const form = element(
      "form",
      { method: "dialog" },
      element("h2", { id: "collection-title" }, title),
      failure,
      ...parts,
      element(
        "div",
        { class: "row" },
        element("button", { class: "primary" }, text),
        element("button", { type: "button", onclick: close }, "Cancel"),
      ),
    );
    let result = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      try {
        result = (await withToken(act)) ?? true;
        node.close();
      } catch (error) {
        failure.replaceChildren(notice(error, null));
      }
    });
    node.addEventListener("close", () => resolve(result), { once: true });
    node.replaceChildren(form);
    node.showModal();
  });
}

/** Does something that may need the token, which is asked for then. */
export async function withToken(act) {
  try {
    return await act();
  } catch (error) {
    if (error.status !== 401 || !(await askForToken(Boolean(api.token())))) throw error;
    return withToken(act);
  }
}

/** Does something of which a failure is told above the results. */
export async function attempt(act) {
  try {
    await withToken(act);
  } catch (error) {
    find("notice").replaceChildren(notice(error, null));
  }
}
