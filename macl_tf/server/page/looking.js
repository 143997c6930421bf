// The tile that somebody points at, in whatever view: all others show it too.

const views = [];

/** Calls `view(id)` with the id of the tile that is pointed at, and with null where none is. */
export const onLook = (view) => views.push(view);

export function look(id) {
  for (const view of views) view(id);
}
