"""`macl train` and `macl evaluate`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from macl_tf.training.settings import Settings, load_settings, settings_help

TRAIN_HELP = """\
Trains an encoder for retrieval, evaluates it on tiles that it never saw, and writes everything to a run directory.
The same command again resumes the run, or shows the figures of a finished one.

examples:
  macl train                                               # the built-in synthetic archive, from ImageNet weights
  macl train --dataset ucm --data-dir UCMerced_LandUse     # UC Merced, in the folder that was unpacked
  macl train --dataset folder --data-dir TILES --table labels.csv
  macl train --dataset whdld --data-dir WHDLD --set epochs=30 --set image_size=224
  macl train --set trainable=head                          # the head alone, in seconds, on features computed once
  macl train --dataset folder --data-dir TILES --set features=VECTORS.parquet   # a head on vectors of another model
  macl train --dataset ucm --data-dir /shared/UCM --workers node1:2222,node2:2222    # the same on both machines
  macl train --config configs/pretraining.toml --run-dir PRE         # an encoder to start from, of synthetic tiles
  macl train --dataset ucm --data-dir UCMerced_LandUse --set backbone=resnet18 --set weights=PRE/encoder.keras
"""

EVALUATE_HELP = """\
Evaluates the encoder of a finished run again: on the run's own test tiles, wherever their archive lies now, or on all
tiles of another archive with the same labels.
"""


def add_commands(commands: Any) -> None:
    """Adds `train` and `evaluate` to the subcommands of `macl`."""
    train = commands.add_parser(
        "train",
        help="train and evaluate an encoder",
        description=TRAIN_HELP,
        epilog=f"settings (configs/<dataset>.toml may say otherwise):\n{settings_help()}",
    )
    option = train.add_argument
    option("--dataset", help="synthetic (default), ucm, dlrsd, whdld, mlaid, mlrsnet, bigearthnet or folder")
    option("--data-dir", metavar="DIR", help="folder of the archive")
    option("--table", metavar="FILE", help="its label table, if it is a folder that holds several or none")
    option("--run-dir", metavar="RUN", help="directory of the run; default runs/<dataset>-<hash of settings>")
    option("--config", metavar="FILE", help="TOML file of settings instead of configs/<dataset>.toml")
    option("--set", metavar="KEY=VALUE", action="append", default=[], help="one setting; may be given many times")
    option("--quiet", action="store_true", help="no progress bars; the final table and warnings only")
    option(
        "--workers",
        metavar="HOST:PORT,...",
        help="train on several machines: the address of each, the chief first; the same command on all. TF_CONFIG "
        "says the same",
    )
    option("--worker-index", metavar="I", type=int, help="which of them this is, from 0; default by its host")
    option(
        "--worker-wait",
        metavar="SECONDS",
        type=float,
        default=600.0,
        help="how long the workers wait for each other to begin (600)",
    )
    train.set_defaults(run=run_train, after_interrupt="The same command goes on after the last finished epoch.")

    again = "evaluate a finished run again, here or on another archive"
    evaluate = commands.add_parser("evaluate", help=again, description=EVALUATE_HELP)
    option = evaluate.add_argument
    option("--run-dir", metavar="RUN", required=True, help="a finished run")
    option(
        "--data-dir",
        metavar="DIR",
        default="",
        help="where the run's archive lies now, or another with the same labels",
    )
    option("--table", metavar="FILE", default="", help="its label table, if it is a folder")
    option("--features", metavar="FILE", default="", help="vectors of its tiles, if the run was trained on vectors")
    option("--json", metavar="FILE", help="also write the figures to a file")
    evaluate.set_defaults(run=run_evaluate)


def run_train(options: argparse.Namespace) -> int:
    """`macl train`."""
    flags = {"dataset": options.dataset, "data_dir": options.data_dir, "table": options.table}
    given = {key: value for key, value in flags.items() if value is not None}
    asked: Settings = load_settings(options.config, options.set, **given)
    from macl_tf.evaluation.retrieval import RetrievalReport, compare_table
    from macl_tf.training.run_directory import default_run_dir, is_finished, placed
    from macl_tf.training.train import train

    settings, cluster = placed(asked), asked_cluster(options)
    run = Path(options.run_dir) if options.run_dir else default_run_dir(settings)
    finished = is_finished(run)
    result = train(settings, run, progress=not options.quiet, cluster=cluster)
    print(f"\n{'Finished before' if finished else 'Finished'}: {settings.dataset}, {result['split']}")
    print(f"Retrieval among test tiles, by {settings.descriptor}, best epoch {result['best_epoch']}:\n")
    floor = settings.floor
    found = {f"untrained, {floor}": result["untrained"][floor], "trained": result["trained"][settings.descriptor]}
    compared = {part: RetrievalReport.from_dict(report) for part, report in found.items()}
    print(compare_table(compared))
    if settings.labels == "scene":
        print(f"\nBy scene, trained:\n\n{compared['trained'].label_table()}")
    if cluster is not None and cluster.index:
        print(f"\nEverything is in {run}/ of {cluster.named(0)}.")
        return 0
    pictures = ", ".join(sorted(path.name for path in run.glob("*.png")))
    print(f"\nEverything is in {run}/: metrics.json (every descriptor), encoder.keras, history.csv, and the pictures")
    print(f"{pictures}.")
    return 0


def asked_cluster(options: argparse.Namespace) -> Any:
    """The workers that the options or TF_CONFIG name; None for this machine alone."""
    from macl_tf.training.workers import cluster_of, cluster_of_environment

    text, index, wait = os.environ.get("TF_CONFIG", ""), options.worker_index, options.worker_wait
    if options.workers is not None:
        cluster = cluster_of(options.workers, index, wait)
    elif index is not None:
        raise ValueError(f"--worker-index must come with --workers, got {index} alone. Add the addresses of all.")
    elif text:
        cluster = cluster_of_environment(text, wait)
    else:
        return None
    return cluster if len(cluster.addresses) > 1 else None


def run_evaluate(options: argparse.Namespace) -> int:
    """`macl evaluate`."""
    from macl_tf.evaluation.retrieval import compare_table
    from macl_tf.files import write_json
    from macl_tf.training.evaluate import evaluate_run

    where = {"data_dir": options.data_dir, "table": options.table, "features": options.features}
    found = evaluate_run(options.run_dir, **where)
    print(f"\nRetrieval among {found.tiles}, each a query against the others, by each descriptor:\n")
    print(compare_table(found.reports))
    if options.json:
        write_json(options.json, {name: report.to_dict() for name, report in found.reports.items()})
    return 0
