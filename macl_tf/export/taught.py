"""An encoder whose backbone is that of an exported one, and whose head is new: made of its graph, without the run.

A served folder holds no Keras model and no weights that could be trained, but a graph of constants. What lies before
the head is cut out of it, and the new head set behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from macl_tf.artifacts import ArtifactError
from macl_tf.export.regions import needed_for
from macl_tf.export.saved_model import FEATURES, ExportedEncoder, save_graphs
from macl_tf.export.warmup import write_warmup

if TYPE_CHECKING:
    from macl_tf.training.heads import Head

Tensor = Any


def scaled(rows: NDArray[Any]) -> NDArray[np.float32]:
    """Features (N, F) as a head is given them: of norm sqrt(F), so that their entries are about 1."""
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.float32(rows.shape[1] ** 0.5) / np.maximum(norms, np.float32(1e-12))


def write_taught(
    encoder: ExportedEncoder,
    head: Head,
    info: Mapping[str, Any],
    path: Path,
    scale: NDArray[np.float32] | None = None,
) -> None:
    """Writes a SavedModel of an encoder's backbone and a new head, as `saved_model.export_encoder` describes it.

    Args:
        encoder: What the head's features come from: the first columns of its vectors.
        head: The new head.
        info: What the new encoder says about itself.
        path: The folder to write to, of a version that is being made.
        scale: (D,) what the index that the head learned from has the encoder's vectors multiplied by; None for 1.

    Raises:
        ArtifactError: For an encoder that an older macl_tf exported.
    """
    facts = dict(info)
    graphs = {name: _with_head(graph, head, scale) for name, graph in encoder.graphs().items()}
    wanted = ("encode" if facts["image_size"] else "", "encode_vectors" if facts.get("features") else "")
    if missing := [name for name in wanted if name and name not in graphs]:
        raise ArtifactError(
            f"version {encoder.version} of the encoder must hold its graph to be taught, and has no {missing[0]!r}: an "
            "older macl_tf exported it. Export it again, with another --output."
        )
    save_graphs(graphs.get("encode"), facts, path, graphs.get("encode_vectors"))
    if facts["image_size"] and not facts["bands"]:
        write_warmup(path, facts["image_size"])


def _with_head(graph: Any, head: Head, scale: NDArray[np.float32] | None) -> Any:
    """A function from what `graph` takes to what the head makes of its features."""
    width = head.width
    before = _imported(graph, FEATURES)
    behind = _imported(head.graph.get_concrete_function(), None)
    (spec,) = graph.structured_input_signature[0] or graph.structured_input_signature[1].values()

    @tf.function(autograph=False, input_signature=[tf.TensorSpec(spec.shape, tf.float32)])
    def encode(inputs: Tensor) -> Tensor:
        rows = before(inputs)[:, :width] * (1.0 if scale is None else scale[:width])
        norms = tf.sqrt(tf.reduce_sum(tf.square(rows), axis=1, keepdims=True))
        features = tf.identity(rows * width**0.5 / tf.maximum(norms, 1e-12), name=FEATURES)
        return tf.ensure_shape(behind(tf.ensure_shape(features, (None, width))), (None, head.dim))

    return encode


def _imported(function: Any, node: str | None) -> Any:
    """A function that puts a graph, up to a node if it has it, into the graph that calls it: no function in between.

    What lies behind the node, such as the head that was there, is left out.
    """
    graph = function.graph.as_graph_def()
    there = node is not None and any(entry.name == node for entry in graph.node)
    output = node if there and node else function.outputs[0].op.name
    graph = needed_for(graph, [output])
    given = function.inputs[0].op.name

    def call(inputs: Tensor) -> Tensor:
        (found,) = tf.graph_util.import_graph_def(graph, {given: inputs}, [f"{output}:0"], name="")
        return found

    return call
