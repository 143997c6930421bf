"""A part of a picture in place of the whole, and which part matches: an exported encoder cut at its last mean.

An encoder that pools its feature maps by their mean gives an embedding of any part, if the mean is over that part
alone; and of each cell of the maps. Both come from the graph as it was exported, whatever head is behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike, NDArray

Tensor = Any
After = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Regions:
    """The embeddings of parts of pictures.

    Args:
        encode: An exported encoder's graph, from float32 pixels (B, S, S, N) to (B, D) of unit norm.
        turns: How many turns of a picture it looks at.

    Raises:
        ValueError: For an encoder that does not end in a mean over its maps, as one of tokens does not, or that looks
            at a picture several times, by turns or scales.
    """

    def __init__(self, encode: Any, turns: int = 1) -> None:
        means = last_means(encode.graph, turns)
        maps = [node.inputs[0] for node in means]
        self.grid = tuple(maps[0].shape[1:3])  # h, w
        self.dim = int(encode.outputs[0].shape[1])
        graph = encode.graph.as_graph_def()
        self._maps = _cut(graph, encode.inputs, maps)
        self._behind = _cut(graph, [node.outputs[0] for node in means], encode.outputs)
        self._after: After = np.asarray

    def followed_by(self, after: After) -> Regions:
        """The same with a step behind the head: from embeddings (B, D) to others of as many numbers, of unit norm."""
        other = copy.copy(self)
        other._after = after
        return other

    def embed(self, pixels: ArrayLike, boxes: ArrayLike) -> NDArray[np.float32]:
        """Embeddings (B, D) of unit norm of a box in each picture.

            z = head(sum over cells of a f / sum of a),  a the area of the cell's part in the box

        Args:
            pixels: (B, S, S, N), as the encoder takes them.
            boxes: (B, 4) left, top, right, bottom in shares of width and height.
        """
        inside = np.stack([shares(box, *self.grid) for box in np.asarray(boxes, np.float64)])[..., None]
        maps = self._maps(tf.cast(pixels, tf.float32))
        means = [tf.reduce_sum(each * inside.astype(np.float32), axis=(1, 2)) for each in maps]
        return self._after(self._behind(*means)[0].numpy())

    def matches(self, pixels: ArrayLike, vectors: ArrayLike) -> NDArray[np.float32]:
        """How well each part of each picture matches a vector: (B, h, w), the cosine of each cell.

        It is that of the mean of the cell and its neighbours, so that it does not jump from cell to cell.

        Args:
            pixels: (B, S, S, N), as the encoder takes them.
            vectors: (D,) or (B, D) of unit norm.
        """
        maps = self._maps(tf.cast(pixels, tf.float32))
        around = [tf.nn.avg_pool2d(each, 3, 1, "SAME") for each in maps]  # of those that are there, at the edges too
        flat = [tf.reshape(each, (-1, each.shape[-1])) for each in around]
        found = self._after(self._behind(*flat)[0].numpy()).reshape(-1, *self.grid, self.dim)
        rows = np.broadcast_to(np.asarray(vectors, np.float32), (len(found), found.shape[-1]))
        return np.einsum("bhwd,bd->bhw", found, rows)


def shares(box: ArrayLike, height: int, width: int) -> NDArray[np.float64]:
    """Which part of a box lies in each cell of a grid (height, width); the sum is 1."""
    left, top, right, bottom = np.asarray(box, np.float64)

    def along(first: float, last: float, cells: int) -> NDArray[np.float64]:
        edges = np.arange(cells + 1) / cells
        return np.clip(np.minimum(edges[1:], last) - np.maximum(edges[:-1], first), 0, None)

    found = along(top, bottom, height)[:, None] * along(left, right, width)
    return found / found.sum()


def last_means(graph: Any, turns: int = 1) -> list[Any]:
    """The means over height and width of maps, behind which there is no other: the last step before the head.

    A ValueError for an encoder as `Regions` has none.
    """
    found = []
    for node in graph.get_operations():
        if node.type == "Mean" and node.inputs[0].shape.rank == 4 and not node.get_attr("keep_dims"):
            axes = tf.get_static_value(node.inputs[1])
            if axes is not None and sorted(np.ravel(axes) % 4) == [1, 2]:
                found.append(node)
    means = [node for node in found if not _reaches(node, {*found} - {node})]
    grids = {tuple(node.inputs[0].shape[1:3]) for node in means}
    if len(grids) != 1 or turns != 1:
        kind = f"turns={turns}" if turns != 1 else f"{len(grids)} kinds of maps"
        raise ValueError(
            f"a part of a picture needs an encoder with one mean over its feature maps, and this one has {kind}. "
            "Cut the part out and search by it, or export an encoder with turns=1 and a descriptor of one scale."
        )
    return means


def _reaches(start: Any, ends: set[Any]) -> bool:
    left, seen = [start], {start}
    while left:
        for output in left.pop().outputs:
            for node in output.consumers():
                if node in ends:
                    return True
                if node not in seen:
                    seen.add(node)
                    left.append(node)
    return False


def _cut(graph: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Callable[..., list[Tensor]]:
    """The part of a graph between tensors, as a function."""
    part = tf.compat.v1.GraphDef()
    part.CopyFrom(graph)
    given = {tensor.op.name: tensor.name for tensor in inputs}
    for node in part.node:
        if node.name in given:  # nothing before it is needed
            node.op, kept = "Placeholder", node.attr["T"].type or node.attr["dtype"].type
            del node.input[:]
            node.attr.clear()
            node.attr["dtype"].type = kept
    part = needed_for(part, [tensor.op.name for tensor in outputs])
    names = [tensor.name for tensor in outputs]

    @tf.function(
        autograph=False, input_signature=[tf.TensorSpec([None, *each.shape[1:]], tf.float32) for each in inputs]
    )
    def between(*values: Tensor) -> list[Tensor]:
        fed = dict(zip(given.values(), values, strict=True))
        return list(tf.graph_util.import_graph_def(part, fed, names, name=""))

    return between.get_concrete_function()


def needed_for(graph: Any, names: Sequence[str]) -> Any:
    """The nodes of a GraphDef that some of them need, in their order, with its functions."""
    nodes = {node.name: node for node in graph.node}
    left, needed = [*names], set[str]()
    while left:
        name = left.pop().removeprefix("^").partition(":")[0]
        if name not in needed:
            needed.add(name)
            left += nodes[name].input
    part = tf.compat.v1.GraphDef(versions=graph.versions, library=graph.library)
    part.node.extend(node for node in graph.node if node.name in needed)
    return part
