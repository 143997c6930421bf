// Small pictures in the plot: of as many tiles as have room, more of them the nearer one looks.

import { showPicture } from "./api.js";

const SIDE = 38; // pixels of a picture in the whole plot; it grows as one looks nearer
const MOST = 2.6; // times as large
const GAP = 1.25; // of a side, from one to the next
const KEPT = 600; // pictures that are held
const CALM = 90; // milliseconds without a move, after which pictures are asked for

export class Atlas {
  /** `changed()` is called when pictures have come. */
  constructor(changed) {
    Object.assign(this, { changed, pictures: new Map(), chosen: null, shown: new Map(), waiting: 0, asked: 0 });
  }

  clear() {
    this.pictures.clear();
    this.chosen = null;
  }

  /** Whether the picture of a tile was drawn the last time. */
  shows(place) {
    return this.shown.has(place);
  }

  /** The tile whose picture lies at a place of the canvas, or -1. */
  at(x, y) {
    for (const [place, [left, top, side]] of this.shown)
      if (x >= left && y >= top && x <= left + side && y <= top + side) return place;
    return -1;
  }

  /** Draws pictures of the spots; those of `found` and `asked`, the first two of `spots.first`, have borders of colour. */
  draw(context, viewport, spots, addressOf, colours) {
    const level = Math.floor(Math.log2(viewport.scale));
    const within = viewport.scale / 2 ** level; // 1 to 2
    const least = Math.round(SIDE * Math.min(MOST, Math.max(1, viewport.magnified / within) ** 0.3));
    const key = [level, least, spots.ids, spots.left, ...spots.first];
    if (!this.chosen?.key.every((part, place) => part === key[place]))
      this.chosen = { key, places: this.#choose(spots, (GAP * least) / 2 ** level) };
    const side = least * within ** 0.8;
    this.shown.clear();
    const missing = [];
    for (const place of this.chosen.places) {
      if (!viewport.sees(spots.x[place], spots.y[place])) continue;
      const image = this.pictures.get(place);
      if (!image) missing.push(place);
      if (!image?.naturalWidth) continue;
      const [left, top] = [viewport.across(spots.x[place]) - side / 2, viewport.down(spots.y[place]) - side / 2];
      const border = spots.first[0].has(place) ? colours.asked : spots.first[1].has(place) ? colours.found : null;
      if (border) {
        context.fillStyle = border;
        context.fillRect(left - 3, top - 3, side + 6, side + 6);
      }
      context.drawImage(image, left, top, side, side);
      this.shown.set(place, [left, top, side]);
    }
    clearTimeout(this.waiting);
    if (missing.length) this.waiting = setTimeout(() => this.#ask(missing, spots.ids, addressOf), CALM);
  }

  /** Tiles that lie so far from each other: the query's, the results, then any. */
  #choose({ x, y, left, first }, cell) {
    const taken = new Map();
    const chosen = [];
    const near = (place) => {
      const [column, row] = [Math.floor(x[place] / cell), Math.floor(y[place] / cell)];
      for (let across = column - 1; across <= column + 1; across++)
        for (let down = row - 1; down <= row + 1; down++) {
          const other = taken.get(across * 65536 + down);
          if (other !== undefined && Math.max(Math.abs(x[other] - x[place]), Math.abs(y[other] - y[place])) < cell) return true;
        }
      taken.set(column * 65536 + row, place);
      return false;
    };
    const take = (place) => near(place) || chosen.push(place);
    for (const places of first) for (const place of places) take(place);
    for (let place = 0; place < x.length; place++) if (!left || left.has(place)) take(place);
    return chosen;
  }

  #ask(missing, ids, addressOf) {
    for (const place of missing) {
      const image = new Image();
      this.pictures.set(place, image);
      image.addEventListener("load", () => this.changed());
      showPicture(image, addressOf(ids[place]));
    }
    for (const place of this.pictures.keys()) {
      if (this.pictures.size <= KEPT) break;
      if (!this.shown.has(place)) this.pictures.delete(place);
    }
  }
}
