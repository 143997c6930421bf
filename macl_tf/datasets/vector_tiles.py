"""Joins an archive's tiles with vectors from elsewhere, by name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from macl_tf.datasets.archives import Archive
from macl_tf.datasets.matching import match_rows, stem_of
from macl_tf.datasets.tables import LabelTable
from macl_tf.datasets.vectors import VectorFiles
from macl_tf.datasets.walk import shorten

_NAMED = 3


def with_features(archive: Archive, source: VectorFiles) -> Archive:
    """The tiles of an archive that have a vector, with these as `features`; notes tell what was left out.

    Rows and tiles are joined as a label table's are (`macl_tf.datasets.matching`). Of the vectors, only those of tiles
    are in memory. A ValueError where no tile has one, or where a file breaks a rule of `VectorFiles`.
    """
    stems = {stem_of(name) for name in archive.file_names}
    ids: list[str] = []
    strange: list[str] = []  # the first that are of no tile
    places: list[int] = []
    vectors = [np.empty((0, source.dim), np.float32)]
    others = seen = 0
    for rows in source.batches(facts=False):
        kept = [row for row, id_ in enumerate(rows.ids) if stem_of(id_) in stems]
        strange += [id_ for id_ in rows.ids if stem_of(id_) not in stems][: _NAMED - len(strange)]
        others += len(rows.ids) - len(kept)
        ids += [rows.ids[row] for row in kept]
        places += [seen + row for row in kept]
        vectors.append(rows.vectors[kept])
        seen += len(rows.ids)
    no_labels = np.empty((len(ids), 0), np.uint8)
    table = LabelTable(source.path, tuple(ids), tuple(places), (), no_labels, None, None, ())
    _, row_of, findings = match_rows(table, archive.file_names)
    found = {problem: [each.name for each in findings if each.problem == problem]
             for problem in ("missing", "ambiguous", "orphan", "duplicate")}  # fmt: skip
    several = set(found["duplicate"])
    chosen = [place for place, name in enumerate(archive.file_names) if name in row_of and name not in several]
    if not chosen:
        raise ValueError(
            f"'{source.path}' must hold vectors of the archive's tiles, but none of its {source.count:,} ids "
            f"({shorten([*ids, *strange])}) names one of the {len(archive):,} tiles "
            f"({shorten(archive.file_names)}). Ids must be the tiles' names, with or without extension and folders."
        )
    without = found["missing"] + strange
    lines = {
        "tiles without a vector, left out": (len(found["orphan"]), found["orphan"]),
        "tiles with several vectors, left out": (len(several), found["duplicate"]),
        "vectors without a tile, not used": (others + len(found["missing"]), without),
        "vectors that fit several tiles (write the path as id), not used": (
            len(found["ambiguous"]),
            found["ambiguous"],
        ),
    }
    notes = [f"{words}: {count:,} ({shorten(names[:_NAMED])})" for words, (count, names) in lines.items() if count]
    features = np.concatenate(vectors)[[row_of[archive.file_names[place]] for place in chosen]]
    return replace(
        taken(archive, chosen),
        features=features,
        contents=tuple(hashlib.sha256(vector.tobytes()).hexdigest() for vector in features),
        notes=(*archive.notes, f"{len(chosen):,} tiles with vectors of {source.dim} numbers, {source.name}", *notes),
    )


def taken(archive: Archive, places: Sequence[int]) -> Archive:
    """The same archive with some of its tiles, in ascending order."""
    chosen = list(places)
    columns: dict[str, Any] = {
        name: getattr(archive, name) for name in ("file_names", "scenes", "official_split", "contents", "groups")
    }
    columns = {name: column and tuple(column[place] for place in chosen) for name, column in columns.items()}
    for name in ("labels", "label_areas", "numbers", "features", "days"):
        array = getattr(archive, name)
        columns[name] = None if array is None else array[chosen]
    places_of, file_day = archive.places, archive.file_day
    return replace(
        archive,
        **columns,
        read_image=lambda index: archive.read_image(chosen[index]),
        places=places_of and (lambda indices: places_of(np.asarray(chosen)[indices])),
        file_day=file_day and (lambda index: file_day(chosen[index])),
    )
