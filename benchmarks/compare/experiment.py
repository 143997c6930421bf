"""An experiment: what is compared, why, and what is expected, in one TOML file of `experiments/`."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.command import RESULTS

FOLDER = Path(__file__).parent / "experiments"
KINDS = ("encoders", "heads", "scenes")


@dataclass(frozen=True)
class Experiment:
    """What an experiment's file says.

    Args:
        name: Of its file, and so of its results.
        what: Is compared, in a line.
        why: The question that it answers.
        expected: The result, in the figures of the first table or in words.
        train: "encoders" (each a run of `macl train`), "heads" (on frozen features, in shared processes) or "scenes"
            (for one label a tile).
        dataset: As of `macl train`.
        held_out: "20-35": numbers of UC Merced's training tiles that are the test, for choices.
        parts: Of a folder: "test" and "validation", each with the beginnings of its tiles' names.
        encoder: The command that makes the encoder that all runs start from; empty: random weights.
        losses: Names as of `macl train --set loss=`.
        joint: Weights of classification beside each loss, 0 for none. With trials, the best of several others.
        samplers: "weighted", "uniform"; the name of a run then ends in its sampler. None: as the settings say.
        labelled: Of heads: shares of the training tiles that keep their labels.
        seeds: Of the runs.
        tune: Trials for each loss, of the one number that it has: temperature, margin, or else learning rate.
        test: Whether test tiles are searched; choices leave them alone.
        results: Name of the experiment in whose file the results are, if not in one of its own.
        set: Settings of all runs.
        tune_set: Settings of the trials alone.
        variants: Name of a further run to its settings, for ablations.
        report: tables (list of [reference, other, ...], the reference alone: all), labels (the runs of the table by
            label), picture (its file).
    """

    name: str
    what: str
    why: str
    expected: str
    train: str
    dataset: str = "ucm"
    held_out: str = ""
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    encoder: str = ""
    losses: tuple[str, ...] = ()
    joint: tuple[float, ...] = (0,)
    samplers: tuple[str, ...] = ()
    labelled: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    tune: int = 0
    test: bool = True
    results: str = ""
    set: Mapping[str, Any] = field(default_factory=dict)
    tune_set: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: ValueError: For what no experiment can mean."""
        if self.train not in KINDS:
            raise ValueError(f"train must be one of {', '.join(KINDS)}, got '{self.train}'.")
        if not self.losses and not self.variants:
            raise ValueError("an experiment needs losses or variants, got neither.")
        if self.held_out and self.dataset != "ucm":
            raise ValueError(f"held_out is of the numbers of ucm, got dataset '{self.dataset}'.")
        if not 0 <= self.tune <= 5:
            raise ValueError(f"tune must be 0 to 5, got {self.tune}.")

    def runs(self, chosen: Mapping[str, tuple[str, str]] | None = None) -> dict[str, list[str]]:
        """Name of each run to its settings.

        Args:
            chosen: What trials chose, by name ("macl", "macl+bce"): settings with commas between, and the descriptor.

        Raises:
            ValueError: For a variant that has the name of another run.
        """
        chosen, found = chosen or {}, {}
        for loss, weight in product(self.losses, self.joint):
            if loss in ("bce", "logistic-regression") and weight:
                continue
            alone, by = chosen.get(loss, ("", ""))
            best = alone
            if weight:
                joint = f"{alone},classification_weight={weight:g}".lstrip(",")
                best, by = chosen.get(f"{loss}+bce", (joint, ""))
                if not best.endswith(f"classification_weight={weight:g}"):
                    continue
            for sampler in self.samplers or ("",):
                name = f"{loss}{f'+bce{weight:g}' if weight else ''}{f'-{sampler}' if sampler else ''}"
                own = [*of_loss(loss), *split(best)]
                found[name] = [*own, *texts({"sampler": sampler, "descriptor": by})]
        for name, settings in self.variants.items():
            if name in found:
                raise ValueError(f"a variant must have a name of its own, got '{name}', which is a loss's run.")
            found[name] = texts(settings)
        return found

    def results_file(self) -> Path:
        """Where its results are kept."""
        return RESULTS / f"compare_{self.results or self.name}.parquet"

    def summary_file(self, results: Path) -> Path:
        """Where the figures of its tables are kept, beside results."""
        return results.with_name(f"compare_{self.name}.json")


def texts(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` takes them, without empty ones."""
    return [f"{key}={value}" for key, value in settings.items() if value != ""]


def split(settings: str) -> list[str]:
    """Settings with commas between."""
    return [text for text in settings.split(",") if text]


def of_loss(loss: str) -> list[str]:
    """The settings of a loss, with what it cannot do without: InfoNCE finds its positives among views."""
    return [f"loss={loss}", *(["views=2"] if loss == "info-nce" else [])]


def names() -> list[str]:
    """The experiments that are here."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Experiment:
    """An experiment of `experiments/` by its name, or any by its file.

    Raises:
        ValueError: If there is none, or its file says what no experiment can mean.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ValueError(f"there is no experiment '{name}'. Name a TOML file, or one of {', '.join(names())}.")
    known = {one.name: one for one in fields(Experiment) if one.name != "name"}
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        if unknown := given.keys() - known.keys():
            raise ValueError(f"unknown key {', '.join(sorted(unknown))}; known are {', '.join(known)}.")
        needed = [key for key, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
        if absent := [key for key in needed if not given.get(key)]:
            raise ValueError(f"{', '.join(absent)} must be given.")
        return Experiment(path.stem, **{key: tuple(v) if isinstance(v, list) else v for key, v in given.items()})
    except (ValueError, TypeError) as error:
        raise ValueError(f"'{path}' is no experiment: {error}") from None


def parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """A command's parser, whose first word is an experiment."""
    listed = "experiments:\n" + "\n".join(f"  {name:<26} {read(name).what}" for name in names())
    raw = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(f"python -m {module}", description=doc, epilog=listed, formatter_class=raw)
    found.add_argument("experiment", help="one of those below, or a TOML file of the same keys")
    found.add_argument("--out", type=Path, help="results, a .parquet file (benchmarks/results/compare_EXPERIMENT)")
    return found


def parsed(command: argparse.ArgumentParser) -> tuple[argparse.Namespace, Experiment]:
    """The words of the command line, and the experiment that they name."""
    options = command.parse_args()
    try:
        experiment = read(options.experiment)
    except ValueError as error:
        command.error(str(error))
    options.out = options.out or experiment.results_file()
    if options.out.suffix != ".parquet":
        command.error(f"--out must be a .parquet file, got '{options.out}'.")
    return options, experiment
