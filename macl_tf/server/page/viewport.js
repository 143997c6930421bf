// A square [0, 1] x [0, 1] on a canvas that is moved and zoomed: by wheel, drag, pinch and keys; a box is dragged on it.

const EDGE = 0.06; // of the canvas around the square that is shown whole
const MOST = 200; // times as large as that
const STILL = 4; // pixels within which a press is no drag

export class Viewport {
  /**
   * tell: changed() is called when all is to be drawn anew; pointed(x, y) where somebody points, pressed(x, y) where
   * one clicks, in pixels of the canvas; chosen([left, top, right, bottom]) with a box, in shares of the square.
   */
  constructor(canvas, tell) {
    Object.assign(this, { canvas, tell, scale: 1, left: 0, top: 0, magnified: 1, choosing: false, box: null });
    this.pointers = new Map();
    this.width = this.height = 0;
    new ResizeObserver(() => this.#resized()).observe(canvas);
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel", "keydown"])
      canvas.addEventListener(name, (event) => this[name](event), { passive: false });
  }

  across(x) {
    return this.left + x * this.scale;
  }

  down(y) {
    return this.top + y * this.scale;
  }

  /** Whether a place of the square is on the canvas, or just beside it. */
  sees(x, y) {
    const [across, down] = [this.across(x), this.down(y)];
    return across > -60 && down > -60 && across < this.width + 60 && down < this.height + 60;
  }

  /** The context of the empty canvas, in CSS pixels. */
  begin() {
    const context = this.canvas.getContext("2d");
    const ratio = devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    return context;
  }

  /** Shows all of the square. */
  fit() {
    this.scale = this.#least();
    this.left = (this.width - this.scale) / 2;
    this.top = (this.height - this.scale) / 2;
    this.magnified = 1;
    this.tell.changed();
  }

  /** Zooms by a factor; what lies at a place of the canvas, by default its middle, stays there. */
  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const least = this.#least();
    const scale = Math.min(MOST * least, Math.max(0.7 * least, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.magnified = scale / least;
    this.tell.changed();
  }

  move(across, down) {
    this.left += across;
    this.top += down;
    this.tell.changed();
  }

  #least() {
    return Math.max(1, Math.min(this.width, this.height) * (1 - 2 * EDGE));
  }

  #resized() {
    const { clientWidth, clientHeight } = this.canvas;
    if (!clientWidth || (clientWidth === this.width && clientHeight === this.height)) return;
    const ratio = devicePixelRatio || 1;
    const begun = this.width > 0;
    const middle = begun && [(this.width / 2 - this.left) / this.scale, (this.height / 2 - this.top) / this.scale];
    Object.assign(this.canvas, { width: clientWidth * ratio, height: clientHeight * ratio });
    [this.width, this.height] = [clientWidth, clientHeight];
    if (!begun) return this.fit();
    this.scale = this.magnified * this.#least();
    this.left = this.width / 2 - middle[0] * this.scale;
    this.top = this.height / 2 - middle[1] * this.scale;
    this.tell.changed();
  }

  #at({ clientX, clientY }) {
    const { left, top } = this.canvas.getBoundingClientRect();
    return [clientX - left, clientY - top];
  }

  pointerdown(event) {
    if (event.button) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.#at(event));
    this.begun = this.pointers.size === 1 ? this.#at(event) : null;
    this.boxed = this.begun && (this.choosing || event.shiftKey) ? this.begun : null;
  }

  pointermove(event) {
    const [x, y] = this.#at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.tell.pointed(x, y);
    if (this.boxed) {
      this.box = this.#boxTo(x, y);
      return this.tell.changed();
    }
    this.pointers.set(event.pointerId, [x, y]);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (this.begun && Math.hypot(x - this.begun[0], y - this.begun[1]) < STILL) return;
    this.begun = null;
    if (!others.length) return this.move(x - before[0], y - before[1]);
    const [other] = others;
    const width = (place) => Math.max(1, Math.hypot(place[0] - other[0], place[1] - other[1]));
    this.move((x - before[0]) / 2, (y - before[1]) / 2);
    this.zoom(width([x, y]) / width(before), (x + other[0]) / 2, (y + other[1]) / 2);
  }

  pointerup(event) {
    const [x, y] = this.#at(event);
    const { begun, boxed } = this;
    this.#released(event);
    if (boxed) {
      const box = this.#boxOf(boxed, [x, y]);
      if (Math.hypot(x - boxed[0], y - boxed[1]) >= STILL) this.tell.chosen(box);
      else this.tell.changed();
    } else if (begun) this.tell.pressed(x, y);
  }

  pointercancel(event) {
    this.#released(event);
    this.tell.changed();
  }

  pointerleave() {
    this.tell.pointed(-1e6, -1e6);
  }

  #released(event) {
    this.pointers.delete(event.pointerId);
    this.begun = this.boxed = this.box = null;
  }

  #boxTo(x, y) {
    return this.#boxOf(this.boxed, [x, y]);
  }

  #boxOf(one, other) {
    const x = [one[0], other[0]].map((value) => (value - this.left) / this.scale).sort((a, b) => a - b);
    const y = [one[1], other[1]].map((value) => (value - this.top) / this.scale).sort((a, b) => a - b);
    return [x[0], y[0], x[1], y[1]];
  }

  wheel(event) {
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0022)), ...this.#at(event));
  }

  keydown(event) {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const factors = { "+": 1.6, "=": 1.6, "-": 1 / 1.6 };
    if (event.ctrlKey || event.metaKey || event.altKey || !(steps[event.key] || factors[event.key])) return;
    event.preventDefault();
    event.stopPropagation();
    if (factors[event.key]) this.zoom(factors[event.key]);
    else this.move(...steps[event.key]);
  }
}
