// What is known of the archive; it is learnt anew where the server answers from a version of the index that is not known yet.

import * as api from "./api.js";

export const archive = {
  info: null,
  labels: [],
  rare: new Set(),
  dated: false,
  left: null, // what the filter leaves
  shown: null, // the version of the index whose tiles are on the page
  collections: [],
  collectionTotal: 0,
};

export async function learn() {
  const none = { collections: [], total: 0 }; // where they are damaged, all else goes on
  const kept = api.collections().catch((error) => (error.status === 503 ? none : Promise.reject(error)));
  const [info, { labels }, { collections, total }] = await Promise.all([api.info(), api.labels(), kept]);
  Object.assign(archive, {
    info,
    labels,
    collections,
    collectionTotal: total,
    rare: new Set(labels.filter((label) => label.rare).map((label) => label.name)),
  });
}

/**
 * The answer that `ask(version)` resolves to, null being the newest version of the index. Where another became the newest than is
 * known here, what was asked may not fit it, as vectors of the encoder before: it is learnt, and asked once more of that one.
 */
export async function upToDate(version, ask) {
  const known = archive.info.index.version;
  try {
    const found = await ask(version);
    if (version !== null || found.index_version === known) return found;
  } catch (error) {
    if (error.name === "AbortError" || error.temporary || (await api.info()).index.version === known) throw error;
  }
  await learn();
  return ask(version ?? archive.info.index.version);
}
