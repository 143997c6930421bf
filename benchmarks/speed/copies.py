"""A served folder of many tiles, for measurements at a size of which nobody has pictures at hand.

    python -m benchmarks.speed.copies --served SERVED --output MANY [--copies 60]

Its encoder is that of SERVED, its tiles are copies of those there: under ids of their own, with the same small
pictures, labels and places, and with noise of a tenth of their vectors' norm.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items

_NOISE = 0.1


def copied(items: Items, copies: int) -> Items:
    """So many of each item; the first keeps its id."""
    many = items.take(np.tile(np.arange(len(items)), copies))
    many.ids[:] = [f"{id_}#{number}" if number else id_ for number in range(copies) for id_ in items.ids]
    return many


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--served", type=Path, required=True, help="what `macl index` or `macl export` wrote")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--copies", type=int, default=60, help="of each tile")
    options = parser.parse_args()
    state = Index.open(options.served / "index").snapshot
    count, copies = len(state), options.copies
    vectors = np.concatenate([*state.blocks()])
    many = np.tile(vectors, (copies, 1))
    noise = np.random.default_rng(0).standard_normal((count * (copies - 1), state.dim), np.float32)
    many[count:] += _NOISE / np.sqrt(state.dim) * noise

    def pictures() -> Iterator[bytes | None]:
        for position in range(count * copies):
            yield state.thumbnail(position % count)

    shutil.copytree(options.served / "encoder", options.output / "encoder")
    info = {name: state.info[name] for name in ("encoder", "built", "archive") if name in state.info}
    items = copied(state.items, copies)
    print(build_index(options.output / "index", items, many, info=info, thumbnails=pictures()))


if __name__ == "__main__":
    main()
