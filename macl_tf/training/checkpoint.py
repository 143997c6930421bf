"""Checkpoints: the state of a run after each epoch, from which it resumes bit for bit."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from macl_tf.files import written_whole

STATE, BEST, HISTORY = "state.npz", "best.weights.h5", "history.csv"


class Checkpoint(keras.callbacks.Callback):
    """Keeps the last epoch's state, the best epoch's weights and the history in a run directory.

    The state is one file, replaced whole: model and optimizer variables and the history, so that a run that
    is killed at any moment goes on from its last finished epoch. Everything else that a step depends on is a
    function of (seed, epoch, step). Put it after the callbacks that add to the logs.

    Args:
        directory: The run directory.
        monitor: The logged figure, larger is better, that says which epoch is best.
        patience: Stop after this many epochs without a better one; 0 never stops.
    """

    def __init__(self, directory: str | Path, monitor: str, patience: int = 0) -> None:
        super().__init__()
        self.directory, self.monitor, self.patience = Path(directory), monitor, patience
        self.history: list[dict[str, float]] = []

    def restore(self, model: keras.Model) -> int:
        """Loads the last state, if there is one, into a compiled model of the same variables; epochs finished."""
        path = self.directory / STATE
        if not path.is_file():
            return 0
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as state:
                history = json.loads(str(state["history"]))
                values = [state[f"v{i}"] for i in range(len(state.files) - 1)]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
        variables = self._variables(model)
        if [value.shape for value in values] != [tuple(variable.shape) for variable in variables]:
            raise ValueError(
                f"'{path}' holds the state of another model. Use another --run-dir, or move this one away."
            )
        self.history = history
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return len(self.history)

    def restore_best(self, model: keras.Model) -> None:
        """Loads the weights of the best epoch into a model without an optimizer."""
        path = self.directory / BEST
        try:
            model.load_weights(path)
        except Exception as error:  # of many kinds, by what is broken
            raise _damaged(path, error) from error

    @property
    def best_epoch(self) -> int | None:
        """Index of the epoch with the highest monitored figure, the first of equals; None without one."""
        scores = [row.get(self.monitor, math.nan) for row in self.history]
        known = [(score, -epoch) for epoch, score in enumerate(scores) if not math.isnan(score)]
        return -max(known)[1] if known else None

    @property
    def finished_early(self) -> bool:
        """Whether patience is used up. It follows from the history alone, so a restored run knows it too."""
        best = self.best_epoch
        return self.patience > 0 and best is not None and len(self.history) - 1 - best >= self.patience

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes best weights, then the history, then the state, which makes the epoch count."""
        row = {key: float(value) for key, value in (logs or {}).items()}
        self.history = [*self.history, {"epoch": float(epoch + 1), **row}]
        if self.best_epoch == epoch:
            with written_whole(self.directory / BEST) as path:
                without_optimizer(self.model).save_weights(path)
        columns = self.columns()
        with written_whole(self.directory / HISTORY) as path, open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
        variables = map(keras.ops.convert_to_tensor, self._variables(self.model))  # mirrored ones too
        arrays = {f"v{i}": keras.ops.convert_to_numpy(value) for i, value in enumerate(variables)}
        with written_whole(self.directory / STATE) as path, open(path, "wb") as file:
            np.savez(file, history=np.array(json.dumps(self.history)), **arrays)
        if self.finished_early:
            self.model.stop_training = True

    def columns(self) -> dict[str, list[float]]:
        """The history by name, NaN where an epoch has no such figure."""
        names = list(dict.fromkeys(name for row in self.history for name in row))
        return {name: [row.get(name, math.nan) for row in self.history] for name in names}

    @staticmethod
    def _variables(model: keras.Model) -> list[keras.Variable]:
        return [*model.variables, *model.optimizer.variables]


def _damaged(path: Path, error: Exception) -> ValueError:
    why = f"{type(error).__name__}: {error}"
    return ValueError(f"'{path}' cannot be read ({why}). Put it back, or use another --run-dir.")


def without_optimizer(model: keras.Model) -> keras.Model:
    """The same layers as a model that was never compiled: saved, it is a third of the size."""
    return keras.Model(model.inputs, model.outputs, name=model.name)
