// Collections, marks that are kept under a name: the list beside the results, and dialogs that save, rename, label, delete and import.

import * as api from "./api.js";
import { askForToken } from "./dialogs.js";
import { count, element, find } from "./element.js";
import { meaning, sending } from "./forms.js";
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
  const { writable } = archive.info;
  box.hidden = !collections.length && !writable;
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
  find("collection-count").textContent = archive.collectionTotal || "";
  const open = collections.find(({ name }) => name === search.collection);
  const left = archive.collectionTotal - collections.length;
  find("collection-body").replaceChildren(
    element("ul", { class: "collections", "aria-label": "Collections" }, rows),
    ...(left > 0 ? [element("p", { class: "quiet" }, `and ${left} more: macl collections lists them`)] : []),
    ...(open ? [actions(open, page)] : []),
    ...(writable ? [element("div", { class: "actions" }, button("Import…", () => askToImport(open?.name ?? "", page)))] : []),
  );
}

const button = (text, onclick) => element("button", { type: "button", class: "plain", onclick }, text);

function actions(open, { search, archive, change, changed }) {
  const downloads = FORMATS.map(([format, text]) =>
    button(`↓ ${text}`, () => attempt(() => api.download(open.name, format))),
  );
  const writes = [
    button("Make it a label…", () => askForLabel(open, changed)),
    button("Rename…", () =>
      askToRename(open, async (name) => {
        await changed();
        change({ ...search, collection: name });
      }),
    ),
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
  const name = nameField(archive, suggested);
  const by = authorField();
  const some = others.right.length + others.wrong.length;
  const too = element("input", { type: "checkbox", checked: true });
  const marked = Object.values(said).flat().length;
  const parts = [
    name.part,
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
      name: name.value(),
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
  const saying = meaning("press again");
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
    const done = await saying([label], (meant) => api.toLabel({ name: open.name, label, new_labels: meant }));
    await changed();
    say(`${count(done.gained, "tile")} got the label ${done.label}${done.lost ? `, ${done.lost} lost it` : ""}.`);
  });
}

function askToRename(open, renamed) {
  const name = element("input", { id: "new-name", value: open.name, autocomplete: "off", required: true, maxlength: 200 });
  const parts = [element("p", {}, element("label", { for: "new-name" }, "Name"), name)];
  return dialog(`Rename “${open.name}”`, parts, "Rename", async () => renamed((await api.rename(open.name, name.value.trim())).name));
}

/** Asks for a file of marks and takes them into a collection, which is open then. */
function askToImport(suggested, { search, archive, change, changed }) {
  const name = nameField(archive, suggested);
  const file = element("input", { id: "marks-file", type: "file", accept: ".csv,.geojson,.json,.parquet,.txt", required: true });
  file.addEventListener("change", () => file.files[0] && name.suggest(file.files[0].name.replace(/\.\w+$/, "")));
  const options = ["right", "wrong"].map((mark) => element("option", {}, mark));
  const mark = element("select", {}, options);
  const by = authorField();
  const parts = [
    element("p", {}, element("label", { for: "marks-file" }, "CSV, GeoJSON or GeoParquet, or ids, one in each line"), file),
    name.part,
    by.part,
    element("label", {}, "Tiles of which the file does not say it are ", mark),
  ];
  return dialog("Import marks", parts, "Import", async () => {
    const fields = { file: file.files[0], name: name.value(), mark: mark.value, by: by.value() };
    const done = await api.importMarks(fields);
    await changed();
    change(tilesOf({ ...EMPTY, map: search.map }, done.name));
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

/** A field for the name of a collection, one that is there or a new one; `suggest` fills it while it is empty. */
function nameField(archive, suggested) {
  const names = archive.collections.map(({ name }) => name);
  const field = element("input", {
    id: "collection-name",
    list: "collection-names",
    autocomplete: "off",
    required: true,
    value: suggested,
    maxlength: 200,
    placeholder: names.length ? "a new name, or one of these" : "harbors",
  });
  const known = element("datalist", { id: "collection-names" }, names.map((name) => element("option", { value: name })));
  const part = element("p", {}, element("label", { for: "collection-name" }, "Collection"), field, known);
  return { part, value: () => field.value.trim(), suggest: (name) => (field.value ||= name) };
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
    sending(form, async () => {
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
