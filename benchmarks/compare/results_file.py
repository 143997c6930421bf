"""The results of a comparison in one compressed Parquet file: runs, trials and floors.

A row is a run (name and seed), the trials of a loss, or a floor. `facts` is JSON: settings, command, versions, figures.
`values` holds for each descriptor the values of each test query, in thousandths: NDCG, AP at Jaccard >= 0.5, and AP of
each label that the query holds, as triples of query, label and AP.

    pandas.read_parquet("benchmarks/results/compare_ucm.parquet")
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from macl_tf.files import locked, written_whole

RUN, TRIALS, FLOOR = "run", "trials", "floor"
VALUES = ("ndcg", "jaccard50", "query", "label", "label_ap")
SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("name", pa.string()),
        ("seed", pa.int32()),
        ("facts", pa.string()),
        ("values", pa.map_(pa.string(), pa.struct([(name, pa.list_(pa.int16())) for name in VALUES]))),
    ]
)
RENAMED: dict[str, str] = {}  # settings that had another name when they were recorded: that name to today's

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    """All rows: kind, name and seed beside the facts, with the values of queries where `add` was given them."""
    return [unpacked(row) for row in pq.read_table(path).to_pylist()] if path.is_file() else []


def unpacked(row: Row) -> Row:
    """A row as it was before `packed`, with the settings' names of today."""
    found: Row = {key: row[key] for key in ("kind", "name", "seed")} | json.loads(row["facts"])
    for descriptor, values in row["values"]:
        found["results"][descriptor]["test"]["per_query"] = values
    if found["kind"] == RUN:
        found["settings"] = {RENAMED.get(key, key): value for key, value in found["settings"].items()}
    return found


def packed(row: Row) -> Row:
    """A row of the file."""
    facts = json.loads(json.dumps({key: value for key, value in row.items() if key not in ("kind", "name", "seed")}))
    tests = {name: parts["test"] for name, parts in facts.get("results", {}).items() if "test" in parts}
    values = [(name, test.pop("per_query")) for name, test in tests.items() if "per_query" in test]
    own = {key: row.get(key) for key in ("kind", "name", "seed")}
    return {**own, "facts": json.dumps(facts), "values": values}


def add(path: Path, *rows: Row) -> None:
    """Puts rows into the file, in place of those of the same kind, name and seed; whole or not at all.

    Several processes may add to one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([packed(row) for row in rows], SCHEMA)
    with locked(path.with_suffix(".lock")):
        if path.is_file():
            new = {(row.get("kind"), row.get("name"), row.get("seed")) for row in rows}
            old = pq.read_table(path, schema=SCHEMA)
            keys = zip(*(old[key].to_pylist() for key in ("kind", "name", "seed")), strict=True)
            table = pa.concat_tables([old.filter(pa.array([key not in new for key in keys], pa.bool_())), table])
        with written_whole(path) as temporary:
            pq.write_table(table, temporary, compression="zstd", compression_level=12)
