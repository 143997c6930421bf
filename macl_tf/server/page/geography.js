// The map's arithmetic: degrees and pixels, the meridian where the map begins, the graticule. Pure.
//
// A view is {lon, lat, scale, width, height}: its middle, pixels for a degree of latitude, and its size in pixels.
// A degree of longitude is narrower by the cosine of the middle latitude, so that a square tile looks square.

const STEPS = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45, 90];
const MOST = 200_000; // pixels for a degree: half a metre each

const squeeze = (lat) => Math.max(0.1, Math.cos((lat * Math.PI) / 180));

export function toPixels(view, lon, lat) {
  return [
    view.width / 2 + (lon - view.lon) * view.scale * squeeze(view.lat),
    view.height / 2 - (lat - view.lat) * view.scale,
  ];
}

export function toDegrees(view, x, y) {
  return [
    view.lon + (x - view.width / 2) / (view.scale * squeeze(view.lat)),
    view.lat - (y - view.height / 2) / view.scale,
  ];
}

/** Boxes [west, south, east, north] with longitudes in one piece: the widest empty stretch is left outside. */
export function unrolled(boxes) {
  const width = ([west, , east]) => (east - west === 360 ? 360 : turn(east - west, 0));
  const arcs = boxes.map((box) => [turn(box[0], 0), turn(box[0], 0) + width(box)]).sort((a, b) => a[0] - b[0]);
  let reach = Math.max(...arcs.map(([, end]) => end)) - 360; // how far east the boxes before have come
  let [start, widest] = [0, -Infinity];
  for (const [begin, end] of arcs) {
    if (begin - reach > widest) [start, widest] = [begin, begin - reach];
    reach = Math.max(reach, end);
  }
  const moved = boxes.map((box) => {
    const begin = turn(box[0], start);
    return [begin, box[1], begin + width(box), box[3]];
  });
  const shift = moved.length && start > 180 ? 360 : 0;
  return moved.map(([west, south, east, north]) => [west - shift, south, east - shift, north]);
}

/** The view in which all boxes are seen. They must be unrolled, and at least one. */
export function viewOf(boxes, width, height) {
  const west = Math.min(...boxes.map((box) => box[0]));
  const south = Math.min(...boxes.map((box) => box[1]));
  const east = Math.max(...boxes.map((box) => box[2]));
  const north = Math.max(...boxes.map((box) => box[3]));
  const lat = (south + north) / 2;
  const room = 0.85;
  const scale = Math.min(
    (room * width) / Math.max((east - west) * squeeze(lat), 1e-9),
    (room * height) / Math.max(north - south, 1e-9),
    MOST,
  );
  return limited({ lon: (west + east) / 2, lat, scale, width, height });
}

/** The view `factor` times closer, with the point under (x, y) staying where it is. */
export function zoomed(view, factor, x = view.width / 2, y = view.height / 2) {
  const [lon, lat] = toDegrees(view, x, y);
  const { scale } = limited({ ...view, scale: view.scale * factor });
  const middle = limited({ ...view, scale, lat: lat + (y - view.height / 2) / scale });
  return { ...middle, lon: lon - (x - view.width / 2) / (scale * squeeze(middle.lat)) };
}

/**
 * Where to zoom by button or key, [x, y]: the footprint nearest to the middle of what is seen, which then stays where
 * it is; the middle where none is seen. Tiles lie together in places, and the middle is often empty.
 */
export function interesting(view, boxes) {
  const middle = [view.width / 2, view.height / 2];
  const far = ([x, y]) => Math.hypot(x - middle[0], y - middle[1]);
  const seen = boxes
    .map(([west, south, east, north]) => toPixels(view, (west + east) / 2, (south + north) / 2))
    .filter(([x, y]) => x >= 0 && x <= view.width && y >= 0 && y <= view.height);
  return seen.reduce((best, place) => (far(place) < far(best) ? place : best), seen[0] ?? middle);
}

/** The view moved by pixels: positive shows what lies further right and down. */
export function panned(view, dx, dy) {
  const [lon, lat] = toDegrees(view, view.width / 2 + dx, view.height / 2 + dy);
  return limited({ ...view, lon, lat });
}

/** What the view shows as a filter's box: longitudes in [-180, 180], west greater than east across the antimeridian. */
export function boxOf(view) {
  const [west, north] = toDegrees(view, 0, 0);
  const [east, south] = toDegrees(view, view.width, view.height);
  const around = east - west >= 360;
  const round = (degrees) => Number(degrees.toFixed(5));
  return [
    around ? -180 : round(turn(west, -180)),
    round(Math.max(-90, south)),
    around ? 180 : round(turn(east, -180)),
    round(Math.min(90, north)),
  ];
}

/** Lines of longitude and latitude about 90 pixels apart or more, each with its place and its name. */
export function graticule(view) {
  const [west, north] = toDegrees(view, 0, 0);
  const [east, south] = toDegrees(view, view.width, view.height);
  const lines = (low, high, pixels, name, place) => {
    const step = STEPS.find((candidate) => candidate * pixels >= 90) ?? STEPS.at(-1);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const found = [];
    for (let number = Math.ceil(low / step); number * step <= high + 1e-12; number++) {
      found.push({ at: place(number * step), name: name(number * step, digits) });
    }
    return found;
  };
  return {
    meridians: lines(
      west,
      east,
      view.scale * squeeze(view.lat),
      (degrees, digits) => {
        const shown = turn(degrees, -180);
        return named(shown, digits, "E", "W", 180);
      },
      (degrees) => toPixels(view, degrees, 0)[0],
    ),
    parallels: lines(
      Math.max(-90, south),
      Math.min(90, north),
      view.scale,
      (degrees, digits) => named(degrees, digits, "N", "S"),
      (degrees) => toPixels(view, 0, degrees)[1],
    ),
  };
}

function named(degrees, digits, positive, negative, neither) {
  const size = Math.abs(degrees).toFixed(digits);
  const side = Number(size) === 0 || Number(size) === neither ? "" : degrees > 0 ? positive : negative;
  return `${size}°${side}`;
}

const turn = (lon, start) => start + ((((lon - start) % 360) + 360) % 360);

function limited(view) {
  const least = Math.max(view.height / 180, view.width / 360 / squeeze(view.lat)) * 0.5;
  return { ...view, scale: Math.min(MOST, Math.max(least, view.scale)), lat: Math.max(-85, Math.min(85, view.lat)) };
}
