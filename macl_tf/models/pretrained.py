"""Weights to start from: a run's encoder, a weights file, ImageNet.

An encoder of `macl_tf` names its weights alike in every run, so those of one trained elsewhere (on `synthetic`, say,
or on a larger archive) are found by name.
"""

from __future__ import annotations

from pathlib import Path

import keras


def check_weights(path: Path) -> None:
    """Raises a FileNotFoundError for a weights file that is not there."""
    if not path.is_file():
        raise FileNotFoundError(
            f"weights must be 'imagenet', a run's encoder.keras or a .weights.h5 file, and '{path}' is not there."
        )


def with_weights(encoder: keras.Model, weights: str | Path | None) -> keras.Model:
    """The encoder, with the weights of an earlier run's or of a `.weights.h5` file where one is named."""
    if weights is None:
        return encoder
    path = Path(weights)
    check_weights(path)
    take = _take_trained if path.suffix == ".keras" else keras.Model.load_weights
    try:
        take(encoder, path)
        return encoder
    except Exception as error:
        raise ValueError(
            f"weights '{path}' do not fit this encoder ({encoder.count_params():,} parameters). Use the "
            f"backbone, head, width and embedding_dim that they were trained with; a damaged file, copy anew. Keras "
            f"says: {error}"
        ) from error


def _take_trained(encoder: keras.Model, path: Path) -> None:
    """Takes what has the same name: all of the backbone, and the projection if its shapes are alike; no classifier."""
    loaded = keras.saving.load_model(path, compile=False)
    # Of the embedding alone: the backbone as it began, which may lie beside, has the same names.
    trained = {weight.path: weight for weight in keras.Model(loaded.inputs, loaded.outputs[0]).weights}
    own = {weight.path: weight for weight in encoder.weights}
    strange = {at for at, weight in own.items() if at not in trained or trained[at].shape != weight.shape}
    projection = {at for at in own if at.startswith("projection_")}
    if missing := sorted(strange - projection):
        raise ValueError(f"{len(missing)} weights are not there or have other shapes, '{missing[0]}' among them.")
    for at in set(own) - (projection if strange else set()):
        own[at].assign(trained[at])
