"""What of an archive has been cut: options, and of each scene a journal that a kill at any moment leaves readable.

    .tiling/options.json      what the archive is cut with
    .tiling/SCENE.jsonl       first what the scene is, then a line for each part of it that is cut

A part's line is written when all of its tiles have their names. What is cut and not written there is cut again, under
the same names.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from macl_tf.files import PARTIAL, locked, read_json, told_if_full, write_json

STATE, TILES = ".tiling", "tiles"
_OPTIONS = "options.json"


class Tile(NamedTuple):
    """A tile that is there."""

    row: int  # of its upper left pixel in the scene
    column: int
    bytes: int
    shares: dict[str, float]  # by the number of the label
    present: list[int]


@contextmanager
def opened(output: Path, asked: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Holds an archive for one process, and gives the names of its scenes' folders.

    Raises:
        ValueError: Where it is of something else, or was cut otherwise than `asked`.
        BlockingIOError: Where another process works in it.
    """
    state = output / STATE
    if output.exists() and not (output.is_dir() and (state.is_dir() or not any(output.iterdir()))):
        raise ValueError(f"the output must be a new or empty folder, or one that macl tile began, got '{output}'.")
    state.mkdir(parents=True, exist_ok=True)
    with locked(state / "lock", busy=f"another macl tile works in '{output}'. Wait until it has ended."):
        options = state / _OPTIONS
        before = read_json(options) if options.is_file() else None
        if before is None or next(heads(output), None) is None:  # nothing was cut: another try is a new one
            write_json(options, asked)
        elif before != asked:
            names = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
            told = [_differ(name, before.get(name), asked.get(name)) for name in names]
            raise ValueError(
                f"'{output}' must be gone on with as it was begun, but was cut with {'; '.join(told)}. Give the same, "
                "or another --output."
            )
        yield {head["key"]: path.stem for path, head in heads(output)}


def heads(output: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The journals of an archive, sorted, with what each says of its scene."""
    for path in sorted((output / STATE).glob("*.jsonl")):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            line = file.readline()
        if line.endswith("\n"):  # else it was killed before it had said what it is
            yield path, json.loads(line)


def tile_name(scene: str, row: int, column: int, digits: int, suffix: str) -> str:
    """The file of a tile; its numbers are pixels of the scene."""
    return f"{scene}_{row:0{digits}}_{column:0{digits}}.{suffix}"


class Journal:
    """The journal of one scene; whoever writes has opened the archive."""

    def __init__(self, output: Path, name: str, suffix: str) -> None:
        self.path = output / STATE / f"{name}.jsonl"
        self.folder = output / TILES / name
        self._name, self._suffix = name, suffix

    def tile_name(self, row: int, column: int, digits: int) -> str:
        """The file of a tile, in the scene's folder; its numbers are pixels of the scene."""
        return tile_name(self._name, row, column, digits, self._suffix)

    def begin(self, head: dict[str, Any]) -> tuple[set[int], bool]:
        """The parts that need not be cut again, and whether there were such of another state of the scene."""
        done: set[int] = set()
        before = changed = None
        with suppress(OSError, ValueError):
            before, lines = self.read()
            if before == head:
                digits = head["digits"]
                for number, tiles, _ in lines:
                    # Bytes that a power cut lost show by the size.
                    if all(self._there(tile, digits) for tile in tiles):
                        done.add(number)
            else:
                changed = True
        if not done:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.path.write_text(_line(head), encoding="utf-8", errors="surrogateescape")
        else:
            for left in self.folder.glob(f"{PARTIAL}*"):
                left.unlink(missing_ok=True)
            self._mend()
        self.folder.mkdir(parents=True, exist_ok=True)
        return done, bool(changed)

    def add(self, number: int, tiles: list[Tile], nodata: int) -> None:
        """Says that a part is cut."""
        with (
            told_if_full(self.path, "the archive is as far as it was cut"),
            open(self.path, "a", encoding="utf-8") as file,
        ):
            file.write(_line([number, tiles, nodata]))

    def read(self) -> tuple[dict[str, Any], list[tuple[int, list[Tile], int]]]:
        """What the scene is, and its parts that are cut: number, tiles and windows left out; each part once."""
        with open(self.path, encoding="utf-8", errors="surrogateescape") as file:
            head, *lines = [line for line in file if line.endswith("\n")]  # a kill may leave a part of the last one
        parts = {number: (number, [Tile(*tile) for tile in tiles], nodata)
                 for number, tiles, nodata in map(json.loads, lines)}  # fmt: skip
        return json.loads(head), [parts[number] for number in sorted(parts)]

    def forget(self) -> None:
        """Removes the scene's tiles and its journal, in this order: what is left over is cut anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.path.unlink(missing_ok=True)

    def _there(self, tile: Tile, digits: int) -> bool:
        try:
            return (self.folder / self.tile_name(tile.row, tile.column, digits)).stat().st_size == tile.bytes
        except OSError:
            return False

    def _mend(self) -> None:
        """Cuts off a part of a line that a kill left."""
        with open(self.path, "rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)


def put(path: Path, pieces: Sequence[bytes | memoryview]) -> int:
    """Writes a tile whole, and says its bytes. It does not wait for the disk: the size tells what a power cut lost."""
    temporary = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
    with told_if_full(path, "the archive is as far as it was cut"):
        with open(temporary, "wb", buffering=0) as file:
            for piece in pieces:
                left = memoryview(piece)
                while left:  # a disk that fills takes a part
                    left = left[file.write(left) :]
        os.replace(temporary, path)
    return sum(len(piece) for piece in pieces)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _differ(name: str, before: Any, now: Any) -> str:
    texts = [json.dumps(value, ensure_ascii=False) for value in (before, now)]
    return f"{name}={texts[0]}, now {texts[1]}" if max(map(len, texts)) < 60 else f"other {name} than now"
