"""`macl collections`: tiles that were marked right and wrong, under a name."""

from __future__ import annotations

import argparse
import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from macl_tf.cli.index import ID_HELP, ids_of

if TYPE_CHECKING:
    from macl_tf.index.index import Index
    from macl_tf.teaching.collections import Collection, Collections

COLLECTIONS_HELP = """\
Keeps collections: tiles marked right or wrong, by whom and when, beside the index of SERVED. Marks are durable when the
command returns, and stay when the index gets a new version or a tile is deleted.

actions:
  list                    what there is (default)
  show NAME               the marks of one, the last ones first; -n 0 for all
  mark NAME               marks tiles by --right, --wrong, --skipped, which are neither and not asked for again, and
                          --neither, which takes a mark back; makes the collection
  round NAME              which tiles to mark next: the best candidates, the most uncertain ones, and some drawn at
                          random, from which it estimates how many right ones are left
  export NAME FILE        as .csv, .geojson or .parquet (GeoParquet)
  import FILE [NAME]      marks of such a file, or of a list of ids: all or, where one cannot be, none
  rename NAME NEW
  delete NAME
  to-label NAME [LABEL]   right tiles hold the label from now on, wrong ones do not

`macl search SERVED --collection NAME` searches with the tiles of one.

examples:
  macl collections served mark ships --right harbor07.jpg harbor12.jpg --wrong pier03.jpg
  macl collections served round ships
  macl collections served export ships ships.geojson
  macl collections served to-label ships
"""


def add_commands(commands: Any) -> None:
    """Adds the subcommand to those of `macl`."""
    parser = commands.add_parser(
        "collections", help="keep tiles that were marked right and wrong", description=COLLECTIONS_HELP
    )
    parser.set_defaults(run=run_collections)
    option = parser.add_argument
    option("served", metavar="SERVED", help="what `macl export` wrote")
    option("action", metavar="ACTION", nargs="?", default="list", choices=[*_ACTIONS], help=", ".join(_ACTIONS))
    option("names", metavar="NAME", nargs="*", help="a collection, and what else the action takes")
    many: dict[str, Any] = {"nargs": "+", "action": "extend", "default": [], "metavar": "ID"}
    option("--right", help=f"tiles to mark as right: {ID_HELP}", **many)
    option("--wrong", help="tiles to mark as wrong", **many)
    option("--skipped", help="tiles that are neither for now", **many)
    option("--neither", help="tiles whose marks are taken back", **many)
    option("--by", help="who says so (your login name)")
    option("--as", dest="mark", choices=("right", "wrong"), default="right",
           help="what tiles of an imported file are that does not say it: right (default) or wrong")  # fmt: skip
    option("--new-label", action="append", default=[], metavar="LABEL", dest="new_labels",
           help="the label that a collection becomes is new, and meant, however near it is to another")  # fmt: skip
    option("-n", type=int, default=20, help="marks to show (20)")
    for kind, number in (("best", 24), ("uncertain", 8), ("sampled", 5)):
        option(f"--{kind}", type=int, default=number, metavar="N", help=f"{kind} tiles in a round ({number})")
    option("--json", action="store_true", help="list, show and round: print JSON for programs")


def run_collections(options: argparse.Namespace) -> int:
    """`macl collections`."""
    least, most, act = _ACTIONS[options.action]
    if not least <= len(options.names) <= most:
        takes = {0: "no name", 1: "one name"}.get(most, f"{least} or {most} names" if least < most else f"{most} names")
        raise ValueError(f"{options.action} takes {takes}, got {len(options.names)}. See macl collections --help.")
    if (options.right or options.wrong or options.skipped or options.neither) and options.action != "mark":
        raise ValueError(f"--right, --wrong, --skipped and --neither are for mark, not for {options.action}.")
    from macl_tf.index.index import Index
    from macl_tf.teaching.collections import Collections

    options.by = _login() if options.by is None else options.by
    act(Collections(options.served), Index.open(Path(options.served) / "index", exact=True, verify=False), options)
    return 0


def _list(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    found = collections.all()
    if options.json:
        shown = [
            {"name": one.name, **one.counts, "skipped": len(one.skipped), "by": one.changed[0], "at": one.changed[1]}
            for one in found
        ]
        print(json.dumps(shown, indent=1, ensure_ascii=False))
        return
    rows = [["collection", "right", "wrong", "last mark"]]
    rows += [[one.name, f"{one.counts['right']:,}", f"{one.counts['wrong']:,}", _when(*one.changed)] for one in found]
    print(_table(rows) if found else "No collections yet. Make one: macl collections SERVED mark NAME --right ID")


def _show(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    found = collections.get(options.names[0])
    marks = found.seen[::-1][: options.n or None]
    if options.json:
        print(json.dumps([mark._asdict() for mark in marks], indent=1, ensure_ascii=False))
        return
    absent = set(found.absent(index.snapshot))
    print(f"{found.name}: {_counts(found)}{_absent([*absent])}.\n")
    notes = {True: "not in the index now", False: ""}
    rows = [[mark.mark, mark.id, _when(mark.by, mark.at), notes[mark.id in absent]] for mark in marks]
    print(_table([["mark", "id", "by, at", ""], *rows]))
    if len(marks) < len(found.seen):
        print(f"... and {len(found.seen) - len(marks):,} before these: -n 0 shows all.")


def _mark(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    from macl_tf.teaching.collections import MARKS

    state, name = index.snapshot, options.names[0]
    there = [one.name for one in collections.all()]
    given = {how: ids_of(state, getattr(options, how)) for how in (*MARKS, "neither")}
    found = collections.mark(name, **given, by=options.by, snapshot=state)
    made = "" if found.name in there else "New collection "
    print(f"{made}{found.name}: {_counts(found)}.")


def _round(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    from macl_tf.teaching.rounds import KINDS, as_json, next_round

    numbers = {kind: getattr(options, kind) for kind in KINDS}
    found = next_round(collections.get(options.names[0]), index.snapshot, **numbers)
    if options.json:
        print(json.dumps(as_json(found), indent=1, ensure_ascii=False))
        return
    said = [f"{found.collection.name}: {found.found:,} right tiles are found"]
    if found.precision:
        said.append(f"{found.precision.right} of the last {found.precision.of} marks are right")
    print("; ".join(said) + ".")
    if left := found.left:
        print(
            f"About {left.estimate:,} are left: {left.low:,} to {left.high:,} with 95 % confidence, by {left.sample:,} "
            "tiles drawn at random."
        )
    else:
        print("How many are left nobody knows before the sampled tiles are marked.")
    rows = [[kind, f"{one.score:.3f}", one.id] for kind in KINDS for one in getattr(found, kind)]
    print()
    print(_table([["kind", "score", "id"], *rows]) if rows else "All tiles are marked.")


def _export(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    from macl_tf.teaching.collection_files import export_collection

    found = collections.get(options.names[0])
    export_collection(found, options.names[1], index.snapshot)
    print(f"{len(found.seen):,} marks in {options.names[1]}{_absent(found.absent(index.snapshot))}.")


def _import(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    from macl_tf.teaching.collection_files import import_collection

    path, *name = options.names
    how = {"name": name[0] if name else "", "mark": options.mark, "by": options.by}
    done = import_collection(collections, path, index.snapshot, **how)
    print(
        f"{done.collection.name}: {done.read:,} marks read, {done.changed:,} of them new{_absent(done.absent)}. "
        f"It has {_counts(done.collection)}."
    )


def _rename(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    collections.rename(options.names[0], options.names[1], by=options.by)
    print(f"{options.names[0]} is called {options.names[1]} now.")


def _delete(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    found = collections.get(options.names[0])
    collections.delete(found.name, by=options.by)
    print(f"{found.name} is deleted; it had {_counts(found)}.")


def _to_label(collections: Collections, index: Index, options: argparse.Namespace) -> None:
    name, *label = options.names
    before = index.label_names
    changed, absent = collections.to_label(name, index, *label, new_labels=options.new_labels)
    got = sum(changed.values())
    new = "New in the index: " if index.label_names != before else ""
    lost = f", {len(changed) - got:,} hold it no more" if got < len(changed) else ""
    print(f"{new}{[*label, name][0]}. {got:,} tiles got it{lost}{_absent(absent)}.")


_Act = Callable[["Collections", "Index", argparse.Namespace], None]
# How many names an action takes, and what it does.
_ACTIONS: dict[str, tuple[int, int, _Act]] = {
    "list": (0, 0, _list),
    "show": (1, 1, _show),
    "mark": (1, 1, _mark),
    "round": (1, 1, _round),
    "export": (2, 2, _export),
    "import": (1, 2, _import),
    "rename": (2, 2, _rename),
    "delete": (1, 1, _delete),
    "to-label": (1, 2, _to_label),
}


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may know no name for its user
        return ""


def _counts(found: Collection) -> str:
    """How many tiles a collection has of each kind."""
    skipped = f", {len(found.skipped):,} skipped" if found.skipped else ""
    return f"{found.counts['right']:,} right, {found.counts['wrong']:,} wrong{skipped}"


def _when(by: str, at: str) -> str:
    return f"{by or '?'}, {at[:16].replace('T', ' ')}"


def _absent(ids: list[str]) -> str:
    """A remark about tiles that the index does not hold."""
    from macl_tf.datasets.walk import shorten

    return f"; {len(ids):,} not in the index now: {shorten(ids, 3)}" if ids else ""


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
