"""Labels of tiles from vectors: polygons by area, points and lines by presence, in any coordinate system."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform, transform_bounds

from macl_tf.datasets.archives import normalise_label
from macl_tf.datasets.class_tables import ClassTable
from macl_tf.datasets.walk import shorten
from macl_tf.tiling.geoparquet import no_column, read_geoparquet
from macl_tf.tiling.scenes import Grid
from macl_tf.tiling.windows import Chunk, Held
from macl_tf.versions import need

_POINT, _LINE, _POLYGON = 0, 1, 2  # dimensions, as shapely counts them
_STEPS = 64  # pieces of a line as long as a scene
_MARGIN = 0.01  # of a scene's extent, around it: its outline bends in another coordinate system


@dataclass(frozen=True, eq=False)
class Shapes:
    """The features of a vector file that can be used, each of one dimension and with one label."""

    geometries: NDArray[Any]
    labels: NDArray[np.int64]
    names: tuple[str, ...]  # of the labels
    features: NDArray[np.int64]  # whose part each is, by its row in the file
    crs: Any
    counts: Mapping[str, int] = field(default_factory=dict)  # features: all, without a label, ignored, ...

    def notes(self) -> list[str]:
        """Lines that say what was left out or mended."""
        return [f"features {what}: {count:,}" for what, count in self.counts.items() if count]

    def near(self, grid: Grid) -> NDArray[np.bool_]:
        """Which lie in the box around a scene, or touch it."""
        import shapely

        west, south, east, north = self._box(grid)
        low_x, low_y, high_x, high_y = shapely.bounds(self.geometries).T
        found: NDArray[np.bool_] = (low_x <= east) & (high_x >= west) & (low_y <= north) & (high_y >= south)
        return found

    def on(self, grid: Grid) -> SceneShapes:
        """Those that touch a scene, in its pixels."""
        import shapely

        numbers = np.flatnonzero(self.near(grid))
        box = self._box(grid)
        shapes = self.geometries[numbers].copy()
        # Of what reaches far beyond the scene only the part around it can be projected, a continent as well.
        low, high = np.split(shapely.bounds(shapes), 2, axis=1)
        far = (low < box[:2]).any(axis=1) | (high > box[2:]).any(axis=1)
        shapes[far] = shapely.intersection(shapes[far], shapely.box(*box))
        other = grid.crs != self.crs
        if other:  # straight lines bend
            shapes = shapely.segmentize(shapes, max((box[3] - box[1]) / _STEPS, 1e-9))

        def to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
            if other and len(points):
                points = np.array(transform(self.crs, grid.crs, *points.T.tolist())[:2]).T
            return grid.pixels(points)

        # A valid polygon may cross itself by a hair in other coordinates.
        moved = shapely.make_valid(shapely.transform(shapes, to_pixels))
        inside = shapely.intersects(moved, shapely.box(0, 0, grid.width, grid.height))
        return SceneShapes(moved[inside], self.labels[numbers[inside]])

    def _box(self, grid: Grid) -> tuple[float, float, float, float]:
        """West, south, east and north of a scene, and a bit more, in the coordinates of the shapes."""
        if not grid.placed:
            raise ValueError("vectors need a scene with a coordinate system, which this one does not have.")
        if self.crs is None:
            raise ValueError("vectors must say their coordinate system, and the file names none. Write it with one.")
        x, y = grid.corners().T
        west, south, east, north = x.min(), y.min(), x.max(), y.max()
        if grid.crs != self.crs:
            west, south, east, north = transform_bounds(grid.crs, self.crs, west, south, east, north, densify_pts=21)
        if west > east:  # the scene crosses the antimeridian: all longitudes are looked at
            west, east = -180.0, 180.0
        margin = _MARGIN * max(east - west, north - south)
        return west - margin, south - margin, east + margin, north + margin


class SceneShapes:
    """Features in the pixels of a scene, and the number of each one's label."""

    def __init__(self, geometries: NDArray[Any], labels: NDArray[np.int64]) -> None:
        import shapely

        self._geometries, self._labels = geometries, labels
        self._dimensions = shapely.get_dimensions(geometries)
        self._tree = shapely.STRtree(geometries)

    def shares(self, chunk: Chunk, size: int) -> list[Held]:
        """What each tile holds: polygons by area, points and lines by presence."""
        import shapely

        low, high, left = chunk.row, chunk.row + size, chunk.columns[0]
        strip = shapely.box(left, low, chunk.columns[-1] + size, high)
        near = self._tree.query(strip, predicate="intersects")
        if not len(near):
            return [Held({}) for _ in chunk.columns]
        labels, dimensions = self._labels[near], self._dimensions[near]
        # A coast of a million points is cut once for the row, not once for each tile.
        parts = shapely.intersection(self._geometries[near], strip)
        tree = shapely.STRtree(parts)
        found = []
        for column in chunk.columns:
            tile = shapely.box(column, low, column + size, high)
            held = tree.query(tile, predicate="intersects")
            pieces = shapely.intersection(parts[held], tile)
            shares: dict[int, float] = {}
            present = []
            for label in np.unique(labels[held]).tolist():
                own = labels[held] == label
                area = shapely.area(shapely.union_all(pieces[own & (dimensions[held] == _POLYGON)]))
                if area > 0:
                    shares[label] = min(float(area) / size**2, 1.0)
                if _present(pieces[own], dimensions[held][own], column + size, high):
                    present.append(label)
            found.append(Held(shares, tuple(present)))
        return found


def _present(pieces: NDArray[Any], dimensions: NDArray[Any], right: float, bottom: float) -> bool:
    """Whether a point or a line is in a tile; on its right or lower edge it is in the next one."""
    import shapely

    if (shapely.length(pieces[dimensions == _LINE]) > 0).any():
        return True
    points = shapely.get_coordinates(pieces[dimensions == _POINT])
    return bool(((points[:, 0] < right) & (points[:, 1] < bottom)).any())


def read_shapes(path: Path, column: str, table: ClassTable | None = None, layer: str = "") -> Shapes:
    """Reads a vector file: GeoPackage, GeoJSON, shapefile, GeoParquet, and what else GDAL knows.

    Args:
        path: The file.
        column: The column with the label of each feature.
        table: What its values are called, where they are not the names themselves; other values are left out.
        layer: The layer, of a file with several.

    Raises:
        ValueError: Where the column or the layer is not there, or no feature can be used.
    """
    need("gis")
    import shapely

    if not path.exists():
        raise FileNotFoundError(f"the vectors must be there, but there is no '{path}'.")
    parquet = path.suffix.lower() in (".parquet", ".geoparquet", ".pq")
    bodies, cells, crs = read_geoparquet(path, column) if parquet else _read(path, column, layer)
    geometries = shapely.force_2d(shapely.from_wkb(np.asarray(bodies, object), on_invalid="ignore"))
    counts: Counter[str] = Counter()
    empty = shapely.is_missing(geometries) | shapely.is_empty(geometries)
    nameless = np.array([cell is None or not _text(cell) for cell in cells], bool)
    counts["without a geometry, left out"] = int(empty.sum())
    counts[f"without a value in the column '{column}', left out"] = int((nameless & ~empty).sum())
    broken = ~shapely.is_valid(geometries) & ~empty
    counts["with an invalid outline, repaired"] = int(broken.sum())
    geometries[broken] = shapely.make_valid(geometries[broken])
    used = np.flatnonzero(~empty & ~nameless)
    texts = [_text(cells[int(row)]) for row in used]
    if table is None:
        spellings: dict[str, str] = {}
        for text in sorted(set(texts)):
            spellings.setdefault(normalise_label(text), text)
        names = tuple(spellings.values())
        numbers = {key: number for number, key in enumerate(spellings)}
        labels = np.array([numbers[normalise_label(text)] for text in texts], np.int64)
    else:
        known = dict(table.values) | {name: number for number, name in enumerate(table.names)}
        unknown = Counter(text for text in texts if text not in known)
        if unknown:
            held = shorten([f"{text} ({count:,})" for text, count in unknown.most_common()], 10)
            counts[f"whose value the class table does not have, left out ({held})"] = unknown.total()
        names = table.names
        labels = np.array([known.get(text, -1) for text in texts], np.int64)
        counts["that the class table ignores"] = sum(known.get(text) == -1 for text in texts)
        used, labels = used[labels >= 0], labels[labels >= 0]
    if not len(used):
        told = "; ".join(f"{what}: {count:,}" for what, count in counts.items() if count)
        raise ValueError(
            f"'{path}' must hold a feature with a label, but of its {len(cells):,} features: {told or 'none'}."
        )
    # A collection may hold points and polygons: each part counts by its own kind.
    parts, of = shapely.get_parts(geometries[used], return_index=True)
    while (nested := shapely.get_type_id(parts) >= 4).any():
        inner, which = shapely.get_parts(parts[nested], return_index=True)
        parts, of = np.concatenate([parts[~nested], inner]), np.concatenate([of[~nested], of[nested][which]])
    return Shapes(parts, labels[of], names, used[of], crs, {f"in '{path.name}'": len(cells), **counts})


def _read(path: Path, column: str, layer: str) -> tuple[Any, Sequence[Any], Any]:
    """WKB, cells and coordinate system of a file that GDAL reads."""
    import pyogrio

    try:
        layers = [str(name) for name, kind in pyogrio.list_layers(path) if kind is not None]
        if layer not in layers and (layer or len(layers) != 1):
            rule = f"'{path}' has the layers {', '.join(layers) or 'none with geometries'}"
            raise ValueError(
                f"{rule}, got {layer!r}. Say which by --layer." if layer else f"{rule}. Say which by --layer."
            )
        layer = layer or layers[0]
        columns = list(pyogrio.read_info(path, layer=layer)["fields"])
        if column not in columns:
            raise no_column(path, column, columns)
        meta, _, bodies, fields = pyogrio.raw.read(path, layer=layer, columns=[column])
    except pyogrio.errors.DataSourceError as error:
        raise ValueError(f"'{path}' must be a vector file that GDAL reads, but: {error}") from error
    return bodies, fields[0], CRS.from_user_input(meta["crs"]) if meta["crs"] else None


def _text(cell: Any) -> str:
    """A cell as a label: 3 of 3.0, which a column of whole numbers becomes where some are missing."""
    if isinstance(cell, float | np.floating):
        return "" if np.isnan(cell) else f"{cell:g}" if cell != int(cell) else str(int(cell))
    return str(cell).strip()
