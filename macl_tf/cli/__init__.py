"""`macl`, the one way in from the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from macl_tf.cli import collections, index, inspect, serve, teach, tile, train
from macl_tf.versions import need

_MORE = "Close other programs, or use a machine with more of it."
_LESS_MEMORY = {
    "train": "Compute the same in less: --set microbatch=N, N a part of batch_size, and --set cache_gib=0. Or lower "
    "image_size or width.",
    "embed": "Lower --workers or --shard-size.",
    "tile": "Lower --workers.",
}


def parser() -> argparse.ArgumentParser:
    """The parser of `macl` and its subcommands."""
    main_parser = argparse.ArgumentParser(
        prog="macl", description="Rare-class-aware image search for Earth observation archives."
    )
    main_parser.set_defaults(after_interrupt="")
    as_written: Any = partial(argparse.ArgumentParser, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = main_parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=as_written)
    tile.add_commands(commands)
    inspect.add_commands(commands)
    train.add_commands(commands)
    index.add_commands(commands)
    collections.add_commands(commands)
    teach.add_commands(commands)
    serve.add_commands(commands)
    return main_parser


def with_boxes(arguments: Sequence[str]) -> list[str]:
    """The same arguments, with each --bbox and its value in one: argparse takes -5,48,-4,49 for an option."""
    words: list[str] = []
    for word in arguments:
        if words and words[-1] == "--bbox":
            words[-1] = f"--bbox={word}"
        else:
            words.append(word)
    return words


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, or 2 for input that cannot be used."""
    main_parser = parser()
    options, rest = main_parser.parse_known_args(with_boxes(sys.argv[1:] if arguments is None else arguments))
    if rest:
        # argparse does not find a list of positionals that is parted by options: macl search SERVED -k 5 tile.jpg
        more = getattr(options, "more", None)
        if more is None or any(word.startswith("-") for word in rest):
            main_parser.error(f"unrecognized arguments: {' '.join(rest)}")
        getattr(options, more).extend(rest)
    for name, value in vars(options).items():
        setattr(options, name, with_home(value))
    # Before TensorFlow is imported. Not even its errors: they are raised as exceptions as well, and what is left is
    # oneDNN's regret, once in each process, that it has no kernel for uint8 on this processor.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        need("train" if options.command in ("inspect", "train", "evaluate") else "index")
        return options.run(options)
    except KeyboardInterrupt:
        print(f"\nInterrupted. {options.after_interrupt}".rstrip(), file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("MACL_TRACEBACK"):
            raise
        print(f"macl {options.command}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if os.environ.get("MACL_TRACEBACK") or not out_of_memory(error):
            raise  # a fault of ours: where it is, helps
        print(f"macl {options.command}: the memory does not suffice. {_LESS_MEMORY.get(options.command, _MORE)}",
              file=sys.stderr)  # fmt: skip
        return 2


def out_of_memory(error: Exception) -> bool:
    """Whether the machine or its accelerator has no memory left; TensorFlow has an error of its own for it."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def with_home(value: Any) -> Any:
    """A path, or a list of them, that the shell left as it was typed: --run-dir=~/x means the home folder."""
    if isinstance(value, list):
        return [with_home(part) for part in value]
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~/") else value
