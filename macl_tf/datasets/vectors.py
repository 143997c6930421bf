"""Vectors from elsewhere: what other programs computed of tiles, read as it is published, batch by batch.

* NPZ: arrays `id` (N,) and `vector` (N, F).
* Parquet: columns `id` and `vector`, lists of numbers. GeoParquet, as Earth Index and Major TOM publish it: `id` or
  `unique_id`, `embedding`, `geometry` in WKB, with metadata under the keys `geo` and `emb`; days in `date`, `datetime`
  or `timestamp`; `source` or `product_id`. Of what `macl embed` writes also labels, split, path and small picture.
* STAC with the extension for embeddings: an item, whose asset `embeddings` is such a file, or a collection of items.
* A folder of such files, which are read as one.

Every id stands once, every vector has the same width, is finite and not zero: what breaks this is refused, with the
file, the row and the id.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from macl_tf.datasets.vector_rows import BATCH, IDS, VECTORS, Said, VectorFile, VectorRows, refuse
from macl_tf.datasets.walk import list_images
from macl_tf.files import read_json

_PARQUET, _NPZ, _STAC = (".parquet", ".geoparquet", ".gpq", ".pq"), (".npz",), (".json", ".geojson")
KINDS = f"{', '.join(_PARQUET + _NPZ)}, or the .json of a STAC item or collection"


class VectorFiles:
    """The vectors of a file or folder, opened: N rows of width F in all.

    Example:
        >>> import numpy as np, tempfile
        >>> file = tempfile.mkdtemp() + "/vectors.npz"
        >>> np.savez(file, id=["a.png", "b.png"], vector=[[1.0, 2.0, 2.0], [0.0, 3.0, 4.0]])
        >>> source = VectorFiles(file)
        >>> source.count, source.dim, [rows.ids for rows in source.batches()]
        (2, 3, [['a.png', 'b.png']])

    Raises:
        FileNotFoundError: If there is no such file, or none in the folder.
        ValueError: If a file is damaged, of another kind, without the columns, or all are empty.
        ImportError: For Parquet where pyarrow is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self.files = list(_files(self.path))
        self.name = self.path.resolve().stem
        self.count = sum(file.count for file in self.files)
        self.model = next((file.said.model for file in self.files if file.said.model), "")
        self.label_names = tuple(dict.fromkeys(name for file in self.files for name in file.label_names))
        if not self.count:
            refuse(self.path, "hold a vector at least", "none", "Write the vectors anew.")
        first = next(file for file in self.files if file.count)
        self.dim = next(first.read(1, facts=False)).vectors.shape[1]

    def ids(self) -> Iterator[str]:
        """The ids, in order, unchecked."""
        for file in self.files:
            yield from file.ids()

    def batches(self, *, facts: bool = True) -> Iterator[VectorRows]:
        """The rows in order, checked; only ids and vectors without `facts`. A ValueError names the first bad row."""
        seen: set[str] = set()
        for file in self.files:
            start = 0
            for rows in file.read(BATCH, facts=facts):
                _check(file.path, rows, start, self.dim, seen)
                yield rows
                start += len(rows.ids)


def holds_vectors(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as vectors: a file or its name, or a folder that holds files of them and no image."""
    found = Path(path).expanduser()
    if not found.is_dir():
        return found.is_file() or found.suffix.lower() in _PARQUET + _NPZ + _STAC
    return bool(_listed(found)) and next(list_images(found), None) is None


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _PARQUET + _NPZ and path.name[0] != ".")


def _files(path: Path, said: Said | None = None) -> Iterator[VectorFile]:
    if path.is_dir():
        found = _listed(path)
        if not found:
            raise FileNotFoundError(f"'{path}' must hold files of vectors ({', '.join(_PARQUET + _NPZ)}), got none.")
        for file in found:
            yield from _files(file, said)
        return
    if not path.is_file():
        raise FileNotFoundError(f"vectors must be a file, or a folder of files, but '{path}' is not there.")
    kind = path.suffix.lower()
    if kind in _STAC:
        yield from _of_stac(path)
    elif kind in _NPZ:
        yield _NpzFile(path, said or Said())
    elif kind in _PARQUET:
        try:
            from macl_tf.datasets.vector_parquet import ParquetFile
        except ModuleNotFoundError as error:
            raise ImportError("pyarrow is needed for vectors in Parquet: pip install 'macl_tf[index]'.") from error
        yield ParquetFile(path, said)
    else:
        refuse(path, f"be one of {KINDS}", kind or "no suffix", "Write the vectors as one of these.")


def _of_stac(path: Path, *, item: bool = False) -> Iterator[VectorFile]:
    """The files of an item, or of the items of a collection."""
    try:
        content = read_json(path)
        assets, properties = content.get("assets", {}), content.get("properties", {})
        links = [link["href"] for link in content.get("links", []) if link.get("rel") == "item"]
        kind, link = content["type"], assets["embeddings"]["href"] if "embeddings" in assets else ""
        quantization = properties.get("emb:quantization") or {}
        said = Said(
            day=str(properties.get("datetime") or properties.get("start_datetime") or ""),
            source=str(content.get("collection") or ""),
            scale=tuple(map(float, quantization.get("scale") or ())),
            offset=tuple(map(float, quantization.get("offset") or ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        refuse(path, "be a STAC item or collection", "another JSON", f"Vectors are read from {KINDS}.")
    if kind == "Collection" and links and not item:
        for href in links:
            yield from _of_stac(_local(path, href), item=True)
    elif link:
        yield from _files(_local(path, link), said)
    else:
        remedy = "Name the item whose asset 'embeddings' is a file of vectors, or that file itself."
        rule = "have an asset 'embeddings', or be a collection with links to items that have"
        refuse(path, rule, ", ".join(assets) or "no asset", remedy)


def _local(beside: Path, href: str) -> Path:
    """The file that a link in another file means."""
    parts = urlsplit(href)
    if parts.scheme not in ("", "file"):
        remedy = "Download it, and write its name into the 'href'."
        refuse(beside, "name files on this disk", href, remedy)
    return beside.parent / unquote(parts.path)


class _NpzFile(VectorFile):
    """Arrays of NumPy, of which only the rows that are asked for are read where they are not compressed."""

    def __init__(self, path: Path, said: Said) -> None:
        super().__init__(path, said)
        try:
            with zipfile.ZipFile(path) as arrays:
                names = [name.removesuffix(".npy") for name in arrays.namelist()]
        except zipfile.BadZipFile as error:
            refuse(path, "be an NPZ of NumPy", f"another file ({error})", "Write it by np.savez(id=..., vector=...).")
        chosen = [next((name for name in known if name in names), "") for known in (IDS, VECTORS)]
        if not all(chosen):
            remedy = "Write it by np.savez(FILE, id=ids, vector=vectors)."
            refuse(path, "hold the arrays 'id' and 'vector'", ", ".join(names) or "none", remedy)
        self._names = chosen
        (ids, text), (vectors, numbers) = (self._header(name) for name in chosen)
        if len(ids) != 1 or text.kind not in "USiu":
            remedy = "np.array(ids, str) makes text of a list, of numbers too."
            refuse(path, "hold ids as one array of text", f"{text} of shape {ids}", remedy)
        if len(vectors) != 2 or not vectors[1] or numbers.kind not in "fiu":
            refuse(path, "hold vectors as numbers of shape (N, F)", f"{numbers} of shape {vectors}", "np.stack them.")
        if ids[0] != vectors[0]:
            refuse(path, "hold an id for each vector", f"{ids[0]:,} ids and {vectors[0]:,} vectors", "Write it anew.")
        self.count = ids[0]

    def ids(self) -> Iterator[str]:
        """The ids."""
        for part in self._parts(self._names[0], BATCH):
            yield from _texts_of(part)

    def read(self, size: int, *, facts: bool) -> Iterator[VectorRows]:
        """The rows."""
        for ids, vectors in zip(*(self._parts(name, size) for name in self._names), strict=True):
            yield self.rows(_texts_of(ids), vectors)

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as member:
            shape, _, dtype = _npy_header(member)
            return shape, dtype

    def _parts(self, name: str, size: int) -> Iterator[NDArray[Any]]:
        """The rows of an array, so many at a time."""
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as member:
            shape, by_columns, dtype = _npy_header(member)
            if by_columns and len(shape) > 1:  # they are not one after another
                whole = np.frombuffer(member.read(), dtype).reshape(shape, order="F")
                yield from (whole[start : start + size] for start in range(0, len(whole), size))
                return
            row = dtype.itemsize * int(np.prod(shape[1:]))
            for start in range(0, shape[0], size):
                count = min(size, shape[0] - start)
                yield np.frombuffer(member.read(count * row), dtype).reshape(count, *shape[1:])


def _npy_header(member: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)


def _texts_of(ids: NDArray[Any]) -> list[str]:
    return [text.decode() if isinstance(text, bytes) else str(text) for text in ids.tolist()]


def _check(path: Path, rows: VectorRows, start: int, dim: int, seen: set[str]) -> None:
    """Refuses what cannot be searched or trained with; `seen` takes the ids in."""

    def wrong(row: int, rule: str, got: str, remedy: str) -> NoReturn:
        name = f" ('{rows.ids[row]}')" if rows.ids[row] else ""
        refuse(path, f"{rule}, but row {start + row}{name}", got, remedy)

    if rows.vectors.shape[1] != dim:
        wrong(0, f"hold vectors of {dim} numbers as the rows before", f"{rows.vectors.shape[1]}", "Use one model.")
    for row, id_ in enumerate(rows.ids):
        if not id_ or id_ in seen:
            rule = "hold each id once" if id_ else "name each vector by an id"
            wrong(row, rule, "an id that an earlier row has" if id_ else "none", "Leave the row out, or name it anew.")
        seen.add(id_)
    largest = np.abs(rows.vectors).max(axis=1, initial=0)
    bad = np.flatnonzero(~((largest > 1e-30) & (largest < np.inf)))
    if bad.size:
        row = int(bad[0])
        got = "zeros, which have no direction" if largest[row] <= 1e-30 else "NaN, or a number beyond float32"
        more = f" ({bad.size:,} such rows in this batch)" if bad.size > 1 else ""
        wrong(row, "hold vectors that are finite and not zero", got + more, "Leave such rows out.")
