// Land and borders below the footprints, where no base map is: Natural Earth at 1:110 million.

const L = window.L;
const SHARP = 9; // the zoom up to which so coarse an outline says where something is
const COPIES = [-360, 0, 360]; // maps of both sides of the antimeridian show parts of the next world

/** Draws them on a map, as soon as they are there. */
export async function drawOutline(map) {
  const pane = map.createPane("outline");
  pane.style.zIndex = 150;
  const near = () => map.getContainer().classList.toggle("near", map.getZoom() > SHARP);
  map.on("zoomend", near);
  const response = await fetch("vendor/natural-earth/outline.json").catch(() => null);
  if (!response?.ok || !pane.isConnected) return;
  const { steps, land, borders } = await response.json();
  const style = { pane: "outline", renderer: L.svg({ pane: "outline", padding: 0.3 }), interactive: false };
  const drawn = (lines) => COPIES.flatMap((shift) => lines.map((line) => points(line, steps, shift)));
  L.polygon(drawn(land).map((ring) => [ring]), { ...style, className: "land" }).addTo(map);
  L.polyline(drawn(borders), { ...style, className: "border" }).addTo(map);
}

function points(line, steps, shift) {
  let [x, y] = [0, 0];
  const found = [];
  for (let place = 0; place < line.length; place += 2) {
    x += line[place];
    y += line[place + 1];
    found.push([y / steps, x / steps + shift]);
  }
  return found;
}
