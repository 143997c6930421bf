// The map's arithmetic in degrees: the meridian where the map begins, filters' boxes, the graticule, what lies near each other. Pure.

const STEPS = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 45, 90];

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

/** An area of the map as a filter's box: longitudes in [-180, 180], west greater than east across the antimeridian. */
export function boxOf([west, south, east, north]) {
  const around = east - west >= 360;
  const round = (degrees) => Number(degrees.toFixed(5));
  return [
    around ? -180 : round(turn(west, -180)),
    round(Math.max(-90, south)),
    around ? 180 : round(turn(east, -180)),
    round(Math.min(90, north)),
  ];
}

/** Lines of longitude and latitude in an area, 90 pixels apart or more: each with its degree and its name. */
export function graticule([west, south, east, north], pixels) {
  const step = STEPS.find((candidate) => candidate * pixels >= 90) ?? STEPS.at(-1);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const lines = (low, high, name) => {
    const first = Math.ceil(low / step);
    const number = Math.max(0, Math.floor(high / step + 1e-12) - first + 1);
    return Array.from({ length: number }, (_, place) => (first + place) * step).map((at) => ({ at, name: name(at) }));
  };
  return {
    meridians: lines(west, east, (at) => named(turn(at, -180), digits, "E", "W")),
    parallels: lines(Math.max(-90, south), Math.min(90, north), (at) => named(at, digits, "N", "S")),
  };
}

function named(degrees, digits, positive, negative) {
  const size = Math.abs(degrees).toFixed(digits);
  const side = Number(size) === 0 || Number(size) === 180 ? "" : degrees > 0 ? positive : negative;
  return `${size}°${side}`;
}

const turn = (lon, start) => start + ((((lon - start) % 360) + 360) % 360);

/** Points {x, y} in groups, as their places: each with those after it that lie nearer than `apart` on both axes. */
export function grouped(points, apart) {
  const groups = [];
  points.forEach((point, place) => {
    const near = ([first]) => Math.abs(points[first].x - point.x) < apart && Math.abs(points[first].y - point.y) < apart;
    const group = groups.find(near);
    if (group) group.push(place);
    else groups.push([place]);
  });
  return groups;
}
