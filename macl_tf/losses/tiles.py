"""The rows of a pairwise loss on TensorFlow: gradient written out, and row tiles that never hold a B x B matrix.

With W_ij = V_ij / n_i, m_i = sum_j W_ij and p_ij = softmax_j(s_ij / T_ij),

    L_i       = m_i log sum over a != i of exp(s_ia / T_ia) - sum_j W_ij s_ij / T_ij
    dL / ds_ij = (m_i p_ij - W_ij) / T_ij

The dense form keeps the matrices between forward and backward. The tiled form takes some anchors at a time against
all keys and lets each tile go: with the row sums of a tile its part of the gradient of sum a_i L_i is known too, where
a are the weights of the anchors in the loss. That gradient, (B, D), is all that stays, and backward it is multiplied by
one number: three products of B x B x D and one softmax, as few as the dense form has. Only where something else weighs
the rows (sample weights) are the tiles made once more on the way back.

Weights and temperatures depend on labels alone, and tiles of an archive hold few distinct sets of labels: they
are computed once per distinct set among the anchors of a tile, and the rows are copied to its anchors.
Letters: B keys, b anchors, t anchors of one tile, D dimensions, C labels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from macl_tf.losses.batch_loss import MASKED, Batch
from macl_tf.losses.targets import Parameters, Target

Tensor = Any

# Measured (benchmarks/speed/losses.py): the dense form has two products where tiles have three, and is the faster one
# at any size, but at B = 16,384 it takes 6 GiB; a tile should stay in the caches, and below 64 rows its products are
# too thin.
DENSE_PAIRS = 1 << 24  # b x B up to which the dense form is chosen anyhow: 64 MiB for each of its matrices
DENSE_BYTES = 24  # of the dense form at its peak, for each pair
DENSE_SHARE = 0.4  # of the memory that is free when the loss is traced: what the dense form may take
TILE_PAIRS = 1 << 20  # t x B of a tile: 4 MiB for each of its matrices
FEWEST_ROWS = 64
BLOCK_PAIRS = 1 << 22  # of sets that are compared at a time: 16 MiB for each matrix


def rows(
    target: Target,
    parameters: Parameters,
    given: Batch,
    importance: Tensor,
    *,
    whole: bool,
    tile_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """L_i (b,) and whether anchor i has a positive (b,), as `pairwise.dense_rows` gives them.

    The anchors are the keys if they are the `whole` batch. `importance` (b,) are a_i >= 0, what the loss weighs the
    anchors with; their sum's gradient is prepared. `tile_size` is None, 0 or the anchors per tile.
    """
    batch = (given.embeddings,) if whole else (given.embeddings, given.all_embeddings)
    of_tile = (parameters, given.labels, given.all_labels, given.offset, importance)
    if tile_size is not None:
        tile = Tiles(target, *of_tile)
        return tiled(tile, *batch, width=tile_size) if tile_size else dense(tile, *batch)
    number, keys = size(given.labels), size(given.all_labels)
    if isinstance(number, int) and isinstance(keys, int):
        tile = Tiles(target, *of_tile)
        return dense(tile, *batch) if number * keys <= dense_pairs() else tiled(tile, *batch)

    # All tensors of a branch must be its own: a gradient that reaches past the branch cannot be built.
    def in_branch(form: Callable) -> Callable:
        def branch() -> tuple[Tensor, Tensor]:
            *own, rows = tf.nest.map_structure(tf.identity, (*of_tile, batch))
            return form(Tiles(target, *own), *rows)

        return branch

    few = tf.cast(number, tf.int64) * tf.cast(keys, tf.int64) <= dense_pairs()
    return tf.cond(few, in_branch(dense), in_branch(tiled))


def dense_pairs() -> int:
    """Pairs b x B up to which a replica takes the dense form: as many as its share of the free memory holds.

    Of a GPU it is not known what is free, so there it is `DENSE_PAIRS`.
    """
    if tf.config.list_physical_devices("GPU"):
        return DENSE_PAIRS
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return max(DENSE_PAIRS, int(DENSE_SHARE * free_bytes() / replicas) // DENSE_BYTES)


def free_bytes(system: Path = Path("/")) -> int:
    """Memory that this process may still take, by Linux and by its control group; 0 where neither says so."""
    try:
        said = (system / "proc/meminfo").read_text()
        free = next(int(line.split()[1]) << 10 for line in said.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 0
    try:
        most, used = ((system / "sys/fs/cgroup" / name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(most) - int(used))
    except (OSError, ValueError):  # not in a group, or "max": no limit
        return free


class Forward(NamedTuple):
    """What the anchors of a tile give, each (t,); `share` and `mass` are 0 for an anchor without a positive."""

    losses: Tensor
    log_sums: Tensor
    mass: Tensor  # m_i
    share: Tensor  # 1 / n_i
    slope: Callable[[Tensor], Tensor]  # dL / ds (t, B) for what comes back to the losses


class Tiles:
    """The tile of any anchors against all keys: what does not depend on embeddings is prepared once."""

    def __init__(
        self,
        target: Target,
        parameters: Parameters,
        labels: Tensor,
        all_labels: Tensor,
        offset: Tensor,
        importance: Tensor,
    ) -> None:
        self.target, self.parameters, self.offset, self.importance = target, parameters, offset, importance
        sets, self.set_of = distinct(labels)
        self.anchors = target.describe(labels if sets is None else sets, parameters)
        self.keys = target.describe(all_labels, parameters)
        self.number, self.dtype = size(labels), labels.dtype

    def __call__(self, chosen: Tensor, anchors: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (t, B), weights V (t, B) and 1 / T, (t, B), (t, 1) or a scalar, of the chosen anchors.

        Themselves are masked.
        """
        if self.set_of is None:
            described, copy = take(self.anchors, chosen), tf.identity
        else:
            used, place = tf.unique(tf.gather(self.set_of, chosen))
            described, copy = take(self.anchors, used), lambda table: tf.gather(table, place)
        weights, inverse = self.target.weigh(described, self.keys, self.parameters)
        weights = copy(weights)
        inverse = copy(inverse) if inverse.shape.rank else inverse
        if of_rows(inverse):
            logits = tf.matmul(anchors * inverse, keys, transpose_b=True)
        else:
            logits = tf.matmul(anchors, keys, transpose_b=True) * inverse
        if not self.target.include_self:
            own = tf.stack([tf.range(tf.size(chosen)), chosen + self.offset], axis=1)
            logits = tf.tensor_scatter_nd_update(logits, own, tf.fill(tf.shape(chosen), tf.cast(MASKED, self.dtype)))
            weights = tf.tensor_scatter_nd_update(weights, own, tf.zeros_like(chosen, self.dtype))
        return logits, weights, inverse

    def forward(self, chosen: Tensor, anchors: Tensor, keys: Tensor) -> Forward:
        """What the chosen anchors (t,) give; of what lies below a row's top, so that no loss is rounded below 0."""
        logits, weights, inverse = self(chosen, anchors, keys)
        norms = mass = tf.reduce_sum(weights, axis=1)
        if self.target.normalised_by == "count":
            norms = tf.math.count_nonzero(weights, axis=1, dtype=self.dtype)
        share = tf.math.divide_no_nan(tf.ones_like(norms), norms)
        mass = mass * share
        top = tf.maximum(tf.reduce_max(logits, axis=1), tf.cast(MASKED, logits.dtype))
        below = logits - top[:, None]
        exponentials = tf.exp(below)
        total = tf.reduce_sum(exponentials, axis=1)
        losses = mass * tf.math.log(total) - share * tf.reduce_sum(weights * below, axis=1)

        def slope(upstream: Tensor) -> Tensor:
            repel = tf.math.divide_no_nan(upstream * mass, total)
            return slopes(exponentials, repel, weights, upstream * share, inverse)

        return Forward(tf.where(norms > 0, losses, 0.0), top + tf.math.log(total), mass, share, slope)


def dense(tile: Tiles, *batch: Tensor) -> tuple[Tensor, Tensor]:
    """Losses and positives with b x B matrices, which stay for the way back."""

    @tf.custom_gradient
    def losses_of(*batch: Tensor) -> tuple[tuple[Tensor, Tensor], Callable]:
        anchors, keys = batch[0], batch[-1]
        found = tile.forward(tf.range(tile.number), anchors, keys)

        def gradient(upstream: Tensor, _: Tensor) -> Any:
            slope = found.slope(upstream)
            if len(batch) == 1:  # both sides of each pair in one product
                return tf.matmul(slope + tf.transpose(slope), anchors)
            return tf.matmul(slope, keys), tf.matmul(slope, anchors, transpose_a=True)

        return (found.losses, found.share > 0), gradient

    return losses_of(*batch)


def tiled(tile: Tiles, *batch: Tensor, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Losses and positives, `width` anchors at a time: per anchor some numbers and a gradient are all that stays."""
    number = tile.number
    # The anchors with equal labels side by side, so that a tile holds few distinct sets.
    order = tf.range(number) if tile.set_of is None else tf.argsort(tile.set_of, stable=True)
    keys = size(batch[-1])
    largest = max if isinstance(keys, int) else tf.maximum
    width = width or largest(TILE_PAIRS // largest(keys, 1), FEWEST_ROWS)
    width = min(width, number) if isinstance(width, int) and isinstance(number, int) else tf.minimum(width, number)
    # The last tile begins early enough to be a whole one, and so meets some anchors a second time.
    count = (number + width - 1) // tf.maximum(width, 1)

    def anchors_of(step: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors (t,) of a tile, and their part of `scale` (b,), 0 for those that a tile has met before."""
        start = tf.minimum(step * width, number - width)
        chosen = tf.slice(order, [start], [width])
        return chosen, tf.where(start + tf.range(width) >= step * width, tf.gather(scale, chosen), 0.0)

    def loop(body: Callable, initial: tuple) -> tuple:
        def tile_by_tile(step: Tensor, *values: Tensor) -> tuple:
            return (step + 1, *body(step, *values))

        start = (tf.constant(0), *initial)
        return tf.while_loop(lambda step, *_: step < count, tile_by_tile, start, parallel_iterations=1)[1:]

    def carried(slope: Tensor, chosen: Tensor, mine: Tensor, keys: Tensor, found: tuple) -> tuple:
        """The gradients by anchor (b, D) and by key (B, D) with those of a tile added."""
        by_anchor = tf.tensor_scatter_nd_add(found[0], chosen[:, None], tf.matmul(slope, keys))
        return by_anchor, found[1] + tf.matmul(slope, mine, transpose_a=True)

    def of_batch(gradients: tuple) -> Any:
        return gradients[0] + gradients[1] if len(batch) == 1 else gradients

    @tf.custom_gradient
    def losses_of(*batch: Tensor) -> tuple[tuple[Tensor, Tensor], Callable]:
        anchors, keys = batch[0], batch[-1]

        def forward(step: Tensor, *kept: Tensor) -> tuple:
            chosen, scale = anchors_of(step, tile.importance)
            mine = tf.gather(anchors, chosen)
            *found, slope = tile.forward(chosen, mine, keys)
            rows = (tf.tensor_scatter_nd_update(k, chosen[:, None], f) for k, f in zip(kept[:4], found, strict=True))
            return (*rows, *carried(slope(scale), chosen, mine, keys, kept[4:]))

        empty = tf.zeros_like(anchors[:, 0])
        initial = (empty,) * 4 + (tf.zeros_like(anchors), tf.zeros_like(keys))
        losses, log_sums, mass, share, *prepared = loop(forward, initial)

        def gradient(upstream: Tensor, _: Tensor) -> Any:
            def backward(step: Tensor, *found: Tensor) -> tuple:
                chosen, scale = anchors_of(step, upstream)
                mine = tf.gather(anchors, chosen)
                logits, weights, inverse = tile(chosen, mine, keys)
                exponentials = tf.exp(logits - tf.gather(log_sums, chosen)[:, None])
                repel, pull = scale * tf.gather(mass, chosen), scale * tf.gather(share, chosen)
                slope = slopes(exponentials, repel, weights, pull, inverse)
                return carried(slope, chosen, mine, keys, found)

            common, factor = common_factor(upstream, tile.importance, share > 0)
            return tf.cond(
                common,
                lambda: of_batch(tuple(factor * part for part in prepared)),
                lambda: of_batch(loop(backward, (tf.zeros_like(anchors), tf.zeros_like(keys)))),
            )

        return (losses, share > 0), gradient

    return losses_of(*batch)


def common_factor(upstream: Tensor, importance: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Whether upstream (b,) is importance (b,) times one number on all anchors that count, and that number."""
    ratio = tf.math.divide_no_nan(upstream, importance)
    counted = tf.logical_and(positive, importance > 0)
    high = tf.reduce_max(tf.where(counted, ratio, ratio.dtype.min))
    low = tf.reduce_min(tf.where(counted, ratio, ratio.dtype.max))
    nobody = tf.logical_not(tf.reduce_any(counted))
    # Rounding parts equal ratios by some 1e-7. NaN compares to nothing, and so reaches the gradient by the other way.
    common = high - low <= 1e-6 * tf.maximum(tf.abs(high), tf.abs(low))
    return tf.logical_or(nobody, common), tf.where(nobody, tf.zeros_like(high), high)


def slopes(exponentials: Tensor, repel: Tensor, weights: Tensor, pull: Tensor, inverse: Tensor) -> Tensor:
    """The slope dL / ds (t, B): what the softmax repels minus what the weights pull, over the temperature."""
    repel, pull = repel[:, None], pull[:, None]
    if of_rows(inverse):
        return exponentials * (repel * inverse) - weights * (pull * inverse)
    return (exponentials * repel - weights * pull) * inverse


def of_rows(inverse: Tensor) -> bool:
    """Whether all pairs of an anchor have one temperature, so that no matrix is to be scaled."""
    return inverse.shape.rank == 0 or inverse.shape[1] == 1


def with_positive(target: Target, parameters: Parameters, labels: Tensor) -> Tensor:
    """(B,) boolean: which images of a batch have a positive in it, from its distinct sets of labels."""
    sets, set_of = distinct(labels)
    if set_of is None:
        sets, set_of = labels, tf.range(size(labels))
    described = target.describe(sets, parameters)
    images = tf.math.bincount(set_of, minlength=tf.shape(sets)[0], dtype=labels.dtype)
    width = tf.clip_by_value(BLOCK_PAIRS // tf.maximum(tf.shape(sets)[0], 1), 1, tf.maximum(tf.shape(sets)[0], 1))

    def body(start: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        chosen = tf.range(start, tf.minimum(start + width, tf.shape(sets)[0]))
        positive = tf.cast(target.positive(take(described, chosen), described, parameters), labels.dtype)
        own = tf.gather_nd(positive, tf.stack([tf.range(tf.size(chosen)), chosen], axis=1))
        number = tf.linalg.matvec(positive, images) - (0.0 if target.include_self else own)
        return start + width, tf.tensor_scatter_nd_update(found, chosen[:, None], number > 0)

    nobody = tf.zeros(tf.shape(sets)[0], tf.bool)
    found = tf.while_loop(
        lambda start, _: start < tf.shape(sets)[0], body, (tf.constant(0), nobody), parallel_iterations=1
    )[1]
    return tf.gather(found, set_of)


def distinct(labels: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The distinct rows (U, C) of labels (B, C), and which of them each row is (B,); two None under XLA.

    XLA fixes all shapes when it compiles, and U is known only then.
    """
    if control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()):
        return None, None
    sets, set_of = tf.raw_ops.UniqueV2(x=labels, axis=[0])
    return tf.ensure_shape(sets, [None, labels.shape[1]]), tf.ensure_shape(set_of, [labels.shape[0]])


def take(described: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """The given rows of every tensor."""
    return {name: tf.gather(tensor, rows) for name, tensor in described.items()}


def size(tensor: Tensor) -> int | Tensor:
    """Number of rows, as an integer where it is known."""
    return tensor.shape[0] if tensor.shape[0] is not None else tf.shape(tensor)[0]
