"""Losses compared under one budget: trained alike, tuned alike, judged on tiles that none of them saw.

    python -m benchmarks.compare.encoders --dataset ucm --data-dir UCM --work DIR --losses macl,wmacl,supcon-any --seeds 0,1,2
        [--samplers weighted,uniform] [--joint 0,20] [--tune 3] [--set image_size=64 --set epochs=30] [--jobs 2]
        [--variant NAME:KEY=VALUE,KEY=VALUE]

Every loss is trained with every seed, sampler and weight of classification: same encoder, augmentation, epochs and
batches. `bce` is classification alone. With --tune N each loss first gets N trials of the one number that it has
(temperature or margin; the learning rate where it has neither), by retrieval among validation tiles (the mean of
NDCG, mAP of the rarest third and mAP at Jaccard >= 0.5); the best is then used in all its runs, and so is what was
searched by then (projection, backbone or probabilities). --tune-set are settings of the trials alone: "gap=0.1" keeps
their validation tiles away from training's. Where --joint has several weights of classification, the joint form of each
loss gets trials of its own, each of the N with each weight. A --variant is a training of its own, for ablations:
"no-plr:loss=macl,reweighting_power=0". What a run without trials is searched by is chosen on its own validation tiles.

Each run leaves one JSON file in --out (figures, and the test queries' own values, for intervals) as soon as it is
done, and its folder under --work is then removed, unless --keep-runs. Stopped and started again, it goes on where it
was. As many trainings run at a time as there are processors, up to four, each on its own share of them; --jobs says
otherwise. `python -m benchmarks.compare.report --results OUT` writes the report.
"""

from __future__ import annotations

import argparse
import os
import shutil
from itertools import pairwise, product
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.compare.evaluate_run import LEADING, leading_mean
from benchmarks.compare.runs import at_once, in_process, run_directory, train
from benchmarks.environment import circumstances, settings_without_places, without_places
from macl_tf.files import read_json, write_json
from macl_tf.training.settings import MACL_ALONE, load_settings

TUNING_SEED = 1000  # of trials, which no compared run has
TEMPERATURES, RATES = (0.1, 0.2, 0.05, 0.3, 0.07), (1e-3, 3e-3, 3e-4, 2e-3, 5e-4)
MARGIN_FACTORS = (1.0, 0.5, 2.0, 0.25, 1.5)


def grid(loss: str, trials: int) -> list[str]:
    """The settings that are tried for a loss: as many for each."""
    from macl_tf.training.build import own_number

    setting, own = own_number(loss) or ("learning_rate", None)
    values = {
        "temperature": TEMPERATURES,
        "margin": [factor * (own or 1.0) for factor in MARGIN_FACTORS],
        "learning_rate": RATES,
    }
    return [f"{setting}={value:g}" for value in values[setting][:trials]]


def views(loss: str) -> list[str]:
    """InfoNCE finds its positives among views."""
    return ["--set", "views=2"] if loss == "infonce" else []


def tune(options: argparse.Namespace, common: list[str]) -> dict[str, tuple[str, str]]:
    """The best settings of each loss and of its joint form on validation tiles, by name ("macl", "macl+bce").

    And what it was searched by then.
    """
    wanted = {loss: grid(loss, options.tune) for loss in options.losses}
    weights = [f"classification_weight={weight:g}" for weight in options.joint if weight]
    if len(weights) > 1:
        joint = {loss: list(product(wanted[loss], weights)) for loss in options.losses if loss != "bce"}
        wanted |= {f"{loss}+bce": [",".join(pair) for pair in pairs] for loss, pairs in joint.items()}
    asked = without_places([*options.set, *options.tune_set])
    known: dict[str, dict[str, Any]] = {}
    for name in wanted:
        path = trials_path(options, name)
        found = read_json(path) if path.is_file() else {"settings": asked, "seed": TUNING_SEED, "trials": {}}
        if found["settings"] != asked:
            raise SystemExit(f"'{path}' is of --set {found['settings']}, not {asked}: choose another --out.")
        known[name] = found
    turns = [(name, text) for name, texts in wanted.items() for text in texts if text not in known[name]["trials"]]

    def trial(turn: tuple[str, str]) -> dict[str, list[float]]:
        name, text = turn
        run = run_directory(options.work, f"{name}@{text}", TUNING_SEED)
        words = [*of_loss(name.removesuffix("+bce")), *said_of(text), *said_of(",".join(options.tune_set))]
        train(run, [*common, *words, "--set", f"seed={TUNING_SEED}"])
        found = validated(run)
        finished(run, options)
        return found

    for (name, text), value in at_once(options.jobs, trial, turns, "tuning"):
        known[name]["trials"][text] = value
        write_json(trials_path(options, name), known[name])
        tqdm.write(f"{name}, {text}: {', '.join(f'{by} {leading_mean(found):.3f}' for by, found in value.items())}")
    return {name: best_trial({text: known[name]["trials"][text] for text in wanted[name]}) for name in wanted}


def validated(run: Path) -> dict[str, list[float]]:
    """The figures of a run's validation tiles, for each descriptor."""
    in_process(
        "benchmarks.compare.evaluate_run", [str(run), "--out", str(run / "judged.json"), "--parts", "validation"]
    )
    found = read_json(run / "judged.json")["results"]
    return {by: [parts["validation"][key] for key in LEADING] for by, parts in found.items()}


def best_trial(trials: dict[str, dict[str, list[float]]]) -> tuple[str, str]:
    """The settings, and what they were searched by, with the best mean of figures; the first among equals."""
    tried = [(text, by) for text in trials for by in trials[text]]
    return max(tried, key=lambda trial: leading_mean(trials[trial[0]][trial[1]]))


def trials_path(options: argparse.Namespace, name: str) -> Path:
    """Where the trials of a loss or its joint form lie."""
    return Path(options.out) / "tuning" / f"{name}.json"


def said_of(settings: str) -> list[str]:
    """The words that ask for settings with commas between them."""
    return [word for text in settings.split(",") if text for word in ("--set", text)]


def of_loss(loss: str) -> list[str]:
    """The words that ask for a loss, with what it cannot do without."""
    return ["--set", f"loss={loss}", *views(loss)]


def variants(options: argparse.Namespace, chosen: dict[str, tuple[str, str]]) -> dict[str, list[str]]:
    """Name of each compared training to its words for `macl train`, which end in what it is searched by if tried."""
    found: dict[str, list[str]] = {}
    for loss in options.losses:
        alone, by_alone = chosen.get(loss, ("", ""))
        for weight in [0.0] if loss == "bce" else options.joint:
            joint = f"{alone},classification_weight={weight:g}" if weight else alone
            best, by = chosen.get(f"{loss}+bce", (joint, "")) if weight else (alone, by_alone)
            if weight and not best.endswith(f"classification_weight={weight:g}"):
                continue
            for sampler in options.samplers:
                name = f"{loss}{f'+bce{weight:g}' if weight else ''}-{sampler}"
                searched = ["--set", f"descriptor={by}"] if by else []
                found[name] = [*of_loss(loss), *said_of(best), "--set", f"sampler={sampler}", *searched]
    for text in options.variant:
        name, colon, settings = text.partition(":")
        if not colon or not name or name in found:
            raise SystemExit(f"--variant must be NAME:KEY=VALUE,KEY=VALUE with a new name, got '{text}'.")
        found[name] = said_of(settings)
    return found


def finished(run: Path, options: argparse.Namespace) -> None:
    """A run takes 200 MB, and all that is asked of it stands in its JSON."""
    if not options.keep_runs:
        shutil.rmtree(run)


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(word) for word in text.split(",")]


def words(text: str) -> list[str]:
    """Words with commas between them."""
    return [word for word in text.split(",") if word]


def arguments() -> argparse.ArgumentParser:
    """What can be said."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="ucm", help="as of macl train")
    parser.add_argument("--data-dir", default="", help="as of macl train")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs while they train")
    parser.add_argument("--losses", type=words, default=[], help="names with commas between")
    parser.add_argument("--seeds", type=numbers, default=[0], help="seeds with commas between")
    parser.add_argument("--samplers", type=words, default=["weighted"], help="weighted,uniform")
    parser.add_argument(
        "--joint", type=lambda text: [float(word) for word in text.split(",")], default=[0.0],
        help="weights of classification beside each loss, 0 for none; with --tune, the best of several others",
    )  # fmt: skip
    parser.add_argument("--tune", type=int, default=0, help="trials for each loss, at most 5; 0: the settings' values")
    parser.add_argument(
        "--tune-set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the trials alone"
    )
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME:KEY=VALUE,...", help="one more training"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all runs")
    parser.add_argument(
        "--jobs", type=int, default=min(4, os.cpu_count() or 1), help="trainings at a time (%(default)s)"
    )
    parser.add_argument("--keep-runs", action="store_true", help="leave the runs under --work")
    parser.add_argument("--out", type=Path, help="folder of the results (benchmarks/results/compare/DATASET)")
    return parser


def main() -> None:
    """Tunes, trains and judges what is missing."""
    parser = arguments()
    options = parser.parse_args()
    options.out = options.out or Path(__file__).parent.parent / "results" / "compare" / options.dataset
    if not 0 <= options.tune <= len(TEMPERATURES):
        parser.error(f"--tune must be 0 to {len(TEMPERATURES)}, got {options.tune}.")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}.")
    if not options.losses and not options.variant:
        parser.error("name --losses, a --variant, or both.")
    common = ["--dataset", options.dataset, *(["--data-dir", options.data_dir] if options.data_dir else [])]
    common += [word for text in options.set for word in ("--set", text)]
    named = variants(options, tune(options, common) if options.tune else {})
    turns = [(name, seed) for seed in options.seeds for name in named]  # whole comparisons first, then further seeds
    missing = [turn for turn in turns if not is_there(options, *turn, [*common, *named[turn[0]]])]

    def work(turn: tuple[str, int]) -> dict[str, Any]:
        name, seed = turn
        run = run_directory(options.work, name, seed)
        train(run, [*common, *named[name], "--set", f"seed={seed}"])
        judged = run / "judged.json"
        floor = options.out / f"histogram_{seed}.json"  # a seed may draw the archive, or its parts
        in_process("benchmarks.compare.evaluate_run", [str(run), "--out", str(judged), "--histogram", str(floor)])
        result: dict[str, Any] = {"variant": name, "seed": seed, "command": command, **read_json(judged)}
        if any(word.startswith("descriptor=") for word in named[name]):  # by trials, or said by a variant
            result["searched_by"] = result["settings"]["descriptor"]
        write_json(result_path(options, name, seed), result)
        finished(run, options)
        return result

    command = circumstances("benchmarks.compare.encoders", [])["command"]
    for (name, seed), result in at_once(options.jobs, work, missing, "trainings"):
        leading = ", ".join(said(key, value) for key, value in result["results"].items())
        tqdm.write(f"{name}, seed {seed}: {leading}")


def is_there(options: argparse.Namespace, name: str, seed: int, words: list[str]) -> bool:
    """Whether a training's result lies in --out; not one of other settings under the same name.

    What other losses do not read, MACL's own settings, may differ: its defaults may change.
    """
    path = result_path(options, name, seed)
    if not path.is_file():
        return False
    sets = [after for before, after in pairwise(words) if before == "--set"]
    asked = settings_without_places(vars(load_settings(assignments=[*sets, f"seed={seed}"], dataset=options.dataset)))
    found = read_json(path)["settings"]
    unread = () if asked["loss"] in ("macl", "wmacl") else MACL_ALONE
    if other := [key for key in found if key in asked and key not in unread and found[key] != asked[key]]:
        differences = "; ".join(f"{key}={found[key]}, not {asked[key]}" for key in other)
        raise SystemExit(f"'{path}' was made with {differences}: choose another --out.")
    return True


def result_path(options: argparse.Namespace, name: str, seed: int) -> Path:
    """Where the figures of a run lie."""
    return Path(options.out) / f"{name}-seed{seed}.json"


def said(name: str, parts: dict[str, Any]) -> str:
    """A descriptor's two leading figures on validation tiles: those of the test are for the report."""
    figures = [parts["validation"][key] for key in ("ndcg@100_jaccard", "map_rarest_third")]
    return f"{name} " + "/".join("-" if value is None else f"{value:.3f}" for value in figures)


if __name__ == "__main__":
    main()
