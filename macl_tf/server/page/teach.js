// Teaching on the page: begins it, shows how far it is, what came of it, and the new version beside the one before.

import * as api from "./api.js";
import { withToken } from "./collections.js";
import { count, element, find } from "./element.js";
import { EMPTY, only } from "./link.js";
import { notice } from "./notices.js";
import { tileWith } from "./searching.js";

const AGAIN = 1000; // milliseconds between two looks at how far it is
const PATIENCE = 60; // looks until a published version must be there

/** Opens the dialog. page: search, archive, change(search), renewed(): the index is another, ask for all again. */
export function openTeaching(page) {
  const dialog = find("teach-dialog");
  const body = element("div", { class: "teaching" });
  dialog.replaceChildren(element("h2", { id: "teach-title" }, "Teach the archive"), body);
  if (!dialog.open) dialog.showModal();
  attempt(async () => {
    const now = await api.teaching();
    return now.state === "running" ? follow() : arrived(now);
  });

  async function attempt(act) {
    try {
      await act();
    } catch (error) {
      body.replaceChildren(notice(error, null), buttons());
    }
  }

  function buttons(...first) {
    return element(
      "div",
      { class: "row" },
      ...first,
      element("button", { type: "button", onclick: () => dialog.close() }, "Close"),
    );
  }

  function shown({ state, error, result, losses }) {
    const loss = element("select", {}, losses.map((name) => element("option", { value: name }, name)));
    const begin = () => attempt(async () => (await withToken(() => api.teach({ loss: loss.value })), follow()));
    const words =
      "Trains a new head on all labels and collections, and judges it on tiles that are held out. If they are found " +
      "better, a new version of the index is published; the one before stays. Searches go on meanwhile.";
    const again = state !== "none" && result?.published ? "Teach again" : "Teach";
    body.replaceChildren(
      ...(state === "failed" ? [notice({ rule: error })] : []),
      ...(result ? report(result) : [element("p", {}, words)]),
      element("details", {}, element("summary", {}, "Settings"), element("label", { class: "row" }, "Loss", loss)),
      buttons(
        ...(result?.published ? [compare(result)] : []),
        element("button", { type: "button", class: result?.published ? undefined : "primary", onclick: begin }, again),
      ),
    );
  }

  async function follow() {
    const bar = element("progress", { max: 1, "aria-label": "How far it is" });
    const stage = element("p", { role: "status" });
    body.replaceChildren(bar, stage, buttons());
    while (dialog.open && bar.isConnected) {
      const now = await api.teaching();
      if (now.state !== "running") return arrived(now);
      bar.value = now.share;
      stage.textContent = `${now.stage ?? "starting"}, ${Math.round(100 * now.share)} %`;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
  }

  /** Waits until the server answers from what was published, where the page does not know of it yet. */
  async function arrived(now) {
    const fresh = now.result?.published > page.archive.info.index.version;
    for (let look = 0; fresh && look < PATIENCE; look++) {
      const { index } = await api.info();
      if (index.version >= now.result.published) break;
      await new Promise((resolve) => setTimeout(resolve, AGAIN));
    }
    shown(now);
    if (fresh) await page.renewed();
  }

  function compare({ published, labels }) {
    const { search, archive, change } = page;
    const before = Math.max(...archive.info.versions.map(({ version }) => version).filter((some) => some < published));
    const onclick = () =>
      attempt(async () => {
        const alone = search.like.length && !search.collection;
        const query = alone ? search : only({ ...EMPTY, k: search.k }, { id: await tileOf(mostGained(labels)) });
        dialog.close();
        change({ ...query, index: null, versus: before });
      });
    const possible = labels.length && Number.isFinite(before);
    return possible ? element("button", { type: "button", class: "primary", onclick }, "Compare with before") : null;
  }
}

/** What was learned best. One tile of it shows more than all its marks, which are no results themselves. */
const mostGained = (labels) => [...labels].sort((a, b) => b.after - b.before - (a.after - a.before))[0];

/** One tile that holds a label, or is right in a collection. */
async function tileOf({ name, collection }) {
  const id = collection ? await rightIn(name) : (await tileWith(name))?.id;
  if (id !== undefined) return id;
  const remedy = "Search from any tile, and choose Compare with in the menu.";
  throw new api.Failure({ rule: `No tile of ${name} is in the index now.`, remedy });
}

async function rightIn(collection, offset = 0) {
  const { marks, more } = await api.marksOf(collection, offset, 1000);
  const found = marks.find(({ mark, item }) => mark === "right" && item);
  return found || !more ? found?.id : rightIn(collection, offset + 1000);
}

function report(result) {
  const number = (value) => (value === null ? "–" : value.toFixed(3));
  const changed = (before, after) => (after > before ? "gain" : after < before ? "less" : undefined);
  const row = (name, note, { before, after }) =>
    element(
      "tr",
      {},
      element("th", { scope: "row" }, element("bdi", {}, name), element("span", { class: "quiet" }, note)),
      element("td", {}, number(before)),
      element("td", { class: changed(number(before), number(after)) }, number(after)),
    );
  const verdict = result.published
    ? `Version ${result.published} of the index is published.`
    : result.better
      ? "It was not published."
      : "Held-out tiles are not found better, so nothing was published: mark more tiles, and teach again.";
  return [
    element("p", {}, `${verdict} Learned from ${count(result.tiles, "tile")} in ${Math.round(result.seconds)} s.`),
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ["Held-out tiles", "before", "after"].map((text) => element("th", { scope: "col" }, text)))),
      element(
        "tbody",
        {},
        result.figures.map((figure) => row(figure.name, "", figure)),
        result.labels.map((label) =>
          row(label.name, ` ${label.collection ? "collection" : "label"}, ${count(label.tiles, "tile")}`, label),
        ),
      ),
    ),
  ];
}
