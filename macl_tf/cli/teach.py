"""`macl teach` and `macl suggest`: a new head from labels and collections, and tiles whose labels are worth a look."""

from __future__ import annotations

import argparse
from typing import Any

from macl_tf.losses.registry import LOSSES

TEACH_HELP = """\
Teaches an index what people marked: trains a new head on the features that it keeps, from all its labels and all
collections of SERVED, and publishes the archive as the new head sees it. No picture is read again: it takes seconds.

Right tiles of a collection hold its label, wrong ones do not; a collection that is no label is one by its name. Each
tile is held out once and searched for by a head that did not learn from it, and by the encoder before; of more than
2,000 labelled tiles a part is. If the new head finds held-out tiles worse (by the mean AP of labels and collections),
nothing is published, unless --publish always. The table is in SERVED/teaching/report.json, too.

Encoder and index appear together, at once or not at all; the version before is kept. Searches go on, and tiles that
are added meanwhile are in the new version.

examples:
  macl collections served mark ships --right harbor07.jpg harbor12.jpg harbor31.jpg dock02.jpg --wrong pier03.jpg
  macl teach served                                     # learn, judge, publish if it is better
  macl teach served --publish never                     # only judge
  macl teach served --labels labels.csv --loss supcon-any
  macl teach served --set embedding_dim=64 --set epochs=40
"""

SUGGEST_HELP = """\
Lists tiles that probably hold a label or collection and do not have it (missing), and tiles that have it and probably
do not (doubtful), the surest first. Each tile is looked at by a classifier that did not learn from it. Nothing is
changed: accept with `macl collections` or `macl upsert`.

examples:
  macl suggest served
  macl suggest served --label ships -n 50 --output ships.csv
"""


def add_commands(commands: Any) -> None:
    """Adds the subcommands to those of `macl`."""
    teach = commands.add_parser("teach", help="teach an index what was marked", description=TEACH_HELP)
    teach.set_defaults(run=run_teach, after_interrupt="The index is as it was.")
    option = teach.add_argument
    option("served", metavar="SERVED", help="what `macl export` or `macl index` wrote")
    option("--labels", metavar="FILE", help="a label table of its tiles, to learn from beside labels and collections")
    losses = tuple(name for name, entry in LOSSES.items() if entry.of_labels)
    option("--loss", choices=losses, default="macl", metavar="LOSS", help=f"{', '.join(losses)} (macl)")
    option("--set", metavar="KEY=VALUE", action="append", default=[],
           help="a setting of `macl train`, of head, loss, batches or optimizer; may be given many times")  # fmt: skip
    option("--publish", choices=("better", "always", "never"), default="better",
           help="when: better (default: held-out tiles are not found worse than before), always or never")  # fmt: skip
    option("--kind", default="",
           help="of the new index: auto, brute_force, hashing or tree; by default exact up to 150,000 tiles (others "
           "take minutes to build), else as the index is; `macl index SERVED` builds another any time")  # fmt: skip
    option("--keep", type=int, default=2, help="versions to keep (2); 0 keeps all")
    option("--quiet", action="store_true", help="no progress")

    suggest = commands.add_parser("suggest", help="list tiles whose labels are worth a look", description=SUGGEST_HELP)
    suggest.set_defaults(run=run_suggest)
    option = suggest.add_argument
    option("served", metavar="SERVED", help="what `macl export` or `macl index` wrote")
    option("--label", action="append", default=[], metavar="LABEL", help="look at this label or collection only")
    option("--labels", metavar="FILE", help="a label table of its tiles, beside labels and collections")
    option("-n", type=int, default=20, help="suggestions of each kind for each label (20)")
    option("--output", metavar="CSV", help="file to write; by default they are printed")


def run_teach(options: argparse.Namespace) -> int:
    """`macl teach`."""
    from macl_tf.teaching.teach import REPORT, teach

    done = teach(
        options.served,
        labels=options.labels,
        loss=options.loss,
        settings=options.set,
        publish=options.publish,
        kind=options.kind,
        keep=options.keep,
        progress=not options.quiet,
    )
    names, tiles = len(done.lessons.names), int(done.lessons.held.sum())
    print(f"\n{tiles:,} tiles with {names:,} labels and collections (*), {done.seconds:.0f} s.\n\n{done.table()}\n")
    if done.lessons.left_out:
        print(f"Left out, of fewer than two tiles: {', '.join(done.lessons.left_out)}.")
    if done.published is not None:
        worse = "" if done.better else ", although held-out tiles are found worse"
        print(f"Published{worse}: {done.published}. The version before is kept.")
    elif options.publish == "never":
        print("Not published, as asked for. The index is as it was.")
    else:
        print("Not published: held-out tiles are found worse than before. Mark more tiles, or add --publish always.")
    print(f"Report: {done.served / REPORT}")
    return 0


def run_suggest(options: argparse.Namespace) -> int:
    """`macl suggest`."""
    from macl_tf.files import write_text
    from macl_tf.teaching.suggestions import as_csv, counted, suggest

    found = suggest(options.served, labels=options.label, table=options.labels, most=options.n)
    if not options.output:
        print(as_csv(found), end="")
        return 0
    write_text(options.output, as_csv(found))
    for name, (missing, doubtful) in counted(found).items():
        print(f"{name}: {missing:,} probably hold it, {doubtful:,} probably do not.")
    print(f"{len(found):,} suggestions in {options.output}.")
    return 0
