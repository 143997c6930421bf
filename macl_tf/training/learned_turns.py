"""Turns learned: one pass gives a part of what the mean over the quarter turns of a tile gives, at no cost in search.

After training, the head (what follows the pooled features) is taught by itself:

    z*(x) = g / ||g||,  g = sum over four quarter turns t of z(t x)
    loss = 1 - mean over tiles x and turns t of z_s(t x) . z*(x)

z is the head as it was trained, z_s the one that learns, which begins there and sees features with some set to 0. A
classifier learns the mean probabilities of its labels in the same way. The backbone stays as it is, so that its
features are computed once. What it gives is measured in docs/results.md.
"""

from __future__ import annotations

import keras
import numpy as np
from tqdm import tqdm

from macl_tf.datasets.archives import Archive
from macl_tf.evaluation.retrieval import embed
from macl_tf.models.fine_tuning import backbone_part, detached_head, take_head
from macl_tf.training.inputs import tile_inputs
from macl_tf.training.settings import Settings

TURNS = 4
MOST = 16_384  # tiles to learn from: some minutes for an archive of any size, and 0.3 GB of features
_PART = 1024  # tiles whose pixels are in memory
_EPOCHS, _BATCH, _RATE, _DROPOUT = 20, 256, 1e-3, 0.3  # chosen on UC Merced's validation tiles


def learn_turns(
    encoder: keras.Model, archive: Archive, rows: np.ndarray, settings: Settings, *, progress: bool = True
) -> None:
    """Teaches the head of a trained encoder, in place, what its four quarter turns give on average.

    Args:
        encoder: From pixels (B, S, S, C) to the embedding (B, D), and the logits of a classifier if it has one, with a
            layer called `features`.
        archive: Where its training tiles are.
        rows: (N,) positions of these in it. Of more than 16,384 a sample is taken.
        settings: Of the run; its seed decides the sample and the order.
        progress: Whether to show bars.
    """
    keras.utils.set_random_seed(settings.seed)  # a run that goes on here learns the same
    rng = np.random.default_rng(settings.seed)
    chosen = np.sort(rng.choice(rows, min(len(rows), MOST), replace=False))
    features = _of_turns(encoder, archive, chosen, settings, progress=progress)
    trained = detached_head(encoder)
    teach_turns(trained, features, progress=progress)
    take_head(encoder, trained)


def teach_turns(head: keras.Model, features: np.ndarray, *, progress: bool = True) -> None:
    """Teaches a head, in place, from features (T, N, F) of N tiles in T turns."""
    found = [head.predict(turn, batch_size=1024, verbose=0) for turn in features]
    outputs = [np.stack(one) for one in (zip(*found, strict=True) if isinstance(found[0], list) else [found])]
    targets, losses = [_mean_embedding(outputs[0])], [keras.losses.CosineSimilarity()]
    if len(outputs) == 2:
        targets.append(keras.ops.convert_to_numpy(keras.ops.sigmoid(outputs[1])).mean(axis=0))
        losses.append(keras.losses.BinaryCrossentropy(from_logits=True))
    inputs = keras.Input(features.shape[2:])
    student = keras.Model(inputs, head(keras.layers.Dropout(_DROPOUT)(inputs)))
    shown = features.reshape(-1, features.shape[-1])
    steps = _EPOCHS * -(-len(shown) // _BATCH)
    schedule = keras.optimizers.schedules.CosineDecay(_RATE, steps)
    student.compile(keras.optimizers.AdamW(schedule, weight_decay=1e-4), loss=losses if len(losses) > 1 else losses[0])
    student.optimizer.build(student.trainable_variables)  # else the first step is traced twice
    wanted = [np.concatenate([target] * len(features)) for target in targets]
    with tqdm(desc="learning turns", total=_EPOCHS, unit="epoch", disable=not progress) as bar:
        told = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: bar.update())
        options = {"batch_size": _BATCH, "epochs": _EPOCHS, "verbose": 0, "callbacks": [told]}
        student.fit(shown, wanted if len(wanted) > 1 else wanted[0], **options)


def _mean_embedding(turns: np.ndarray) -> np.ndarray:
    """The direction (N, D) of the mean of unit-norm embeddings (T, N, D)."""
    total = turns.sum(axis=0)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _of_turns(
    encoder: keras.Model, archive: Archive, rows: np.ndarray, settings: Settings, *, progress: bool
) -> np.ndarray:
    """Features (4, N, F) of tiles in all quarter turns."""
    backbone, found = backbone_part(encoder), []
    with tqdm(desc="features of turns", total=len(rows), unit="img", disable=not progress) as bar:
        for start in range(0, len(rows), _PART):
            tiles = tile_inputs(archive, rows[start : start + _PART], settings, progress=False)
            turns = (np.ascontiguousarray(np.rot90(tiles, turn, axes=(1, 2))) for turn in range(TURNS))
            found.append(np.stack([embed(backbone, turn, progress=False) for turn in turns]))
            bar.update(len(tiles))
    return np.concatenate(found, axis=1)
