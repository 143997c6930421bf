"""The rows of a pairwise loss on TensorFlow: gradient written out, and row tiles that never hold a B x B matrix.

With W_ij = V_ij / n_i, m_i = sum_j W_ij and p_ij = softmax_j(s_ij / T_ij),

    L_i       = m_i log sum over a != i of exp(s_ia / T_ia) - sum_j W_ij s_ij / T_ij
    dL / ds_ij = (m_i p_ij - W_ij) / T_ij

What pulls, the second term of each, depends on labels, and an archive holds few distinct sets of labels. With s = z . k
it is a product of a matrix with a row for each set of anchors and a column for each set of keys, and of sums of the
embeddings with equal labels: no pair is looked at. What pushes, the softmax, takes some anchors at a time against all
keys and lets each tile go: three products of t x B x D and one softmax. As the loss is made, so is the gradient of sum
a_i L_i, where a are the weights of the anchors in the loss: (B, D), all that stays. Backward it is multiplied by one
number; only where something else weighs the rows (sample weights) is all made once more. Under XLA, which fixes shapes
before it knows how many sets there are, each row is a set of its own.

A loss is known to some units in the last place of its largest s_ij / T_ij, 1e-5 at T = 0.01: both terms are of that
size.

Letters: B keys, b anchors, t anchors of one tile, v and u distinct sets of labels of keys and anchors, D dimensions, C
labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from macl_tf.losses.batch_loss import MASKED, Batch
from macl_tf.losses.targets import Parameters, Target

Tensor = Any

# Measured (benchmarks/speed/losses.py): from 256 to 16,384 rows a tile takes the same time for each, with fewer its
# products are too thin. What is small is quicker without a loop.
AT_ONCE = 1 << 24  # b x B up to which there is one tile, and one block of sets: 64 MiB for each matrix
TILE_PAIRS = 1 << 23  # t x B of a tile beyond: 32 MiB for each of its matrices, more where that is too few rows
FEWEST_ROWS = 256
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
    anchors with; their sum's gradient is prepared. `tile_size` is None, 0 for one tile, or the anchors per tile.
    """
    sets = LabelSets(target, parameters, given.labels, given.all_labels, given.offset)
    number, keys = size(given.labels), size(given.all_labels)
    width: Tensor = tile_size
    if tile_size is None:
        width = tf.maximum(TILE_PAIRS // tf.maximum(keys, 1), FEWEST_ROWS)
    at_once = few(number, keys) if tile_size is None else tile_size == 0

    @tf.custom_gradient
    def losses_of(*batch: Tensor) -> tuple[tuple[Tensor, Tensor], Callable]:
        anchors, batch_keys = batch[0], batch[-1]

        def gradient_of(scale: Tensor) -> tuple[Tensor, Tensor, Any]:
            pull = sets.pull(scale, anchors, batch_keys)
            log_sums, *pushed = push(sets, pull, scale, anchors, batch_keys, width, at_once)
            pushed = [one - other for one, other in zip(pushed, (pull.by_anchor, pull.by_key), strict=True)]
            losses = pull.mass * log_sums - pull.attraction
            return losses, pull.norms > 0, pushed[0] + pushed[1] if len(batch) == 1 else tuple(pushed)

        losses, positive, prepared = gradient_of(importance)

        def gradient(upstream: Tensor, _: Tensor) -> Any:
            common, factor = common_factor(upstream, importance, positive)
            return tf.cond(
                common,
                lambda: tf.nest.map_structure(lambda part: factor * part, prepared),
                lambda: gradient_of(upstream)[2],
            )

        # Rounding may have brought a loss below 0.
        return (tf.where(positive, tf.maximum(losses, 0.0), 0.0), positive), gradient

    return losses_of(*((given.embeddings,) if whole else (given.embeddings, given.all_embeddings)))


class Pull(NamedTuple):
    """What pulls the anchors (b,), and its part of the gradient."""

    norms: Tensor  # sum_j V_ij, or the number of positives
    mass: Tensor  # m_i, 0 for an anchor without a positive
    sharpness: Tensor  # 1 / T_i, 1 where temperatures are of pairs
    attraction: Tensor  # sum_j W_ij s_ij / T_ij
    by_anchor: Tensor  # (b, D)
    by_key: Tensor  # (B, D)


class LabelSets:
    """The distinct sets of labels of anchors and keys, and what the target says of them.

    Args:
        labels: (b, C) of the anchors.
        all_labels: (B, C) of the keys, among them the anchors' from row `offset` on; the same tensor if all are.
    """

    def __init__(
        self, target: Target, parameters: Parameters, labels: Tensor, all_labels: Tensor, offset: Tensor
    ) -> None:
        self.target, self.parameters, self.dtype = target, parameters, labels.dtype
        sets, self.set_of = distinct(labels)
        key_sets, self.key_set_of = (sets, self.set_of) if all_labels is labels else distinct(all_labels)
        self.anchors = target.describe(labels if sets is None else sets, parameters)
        self.keys = target.describe(all_labels if key_sets is None else key_sets, parameters)
        self.count = size(labels if sets is None else sets)
        self.key_count = size(all_labels if key_sets is None else key_sets)
        self.own = tf.range(size(labels)) + offset  # (b,) where each anchor stands among the keys
        # Which set of the keys the anchors of each set hold.
        first = self.own if self.set_of is None else tf.math.unsorted_segment_min(self.own, self.set_of, self.count)
        self.own_set = first if self.key_set_of is None else tf.gather(self.key_set_of, first)
        one = target.weigh(take(self.anchors, tf.range(tf.minimum(self.count, 1))), self.keys, parameters)[1]
        self.by_pair = not of_rows(one)  # whether temperatures are of pairs

    def pull(self, scale: Tensor, anchors: Tensor, keys: Tensor) -> Pull:
        """Of anchors (b, D), whose losses count as `scale` (b,) says, and keys (B, D).

        Of V_ij with j != i the part of the anchor's own set is V_own times the sum over its other keys, which is
        exactly 0 where there are none; the rest are products of sets.
        """
        scaled = scale[:, None] * anchors
        # In float64: the sum less one of many is to be the sum of the others.
        wide = tf.cast(keys, tf.float64)
        sums = summed(wide, self.key_set_of, self.key_count)
        numbers = summed(tf.ones_like(wide[:, 0]), self.key_set_of, self.key_count)
        wanted = summed(tf.cast(scaled, tf.float64), self.set_of, self.count)
        beside = spread(tf.gather(sums, self.own_set), self.set_of) - tf.gather(wide, self.own)
        own_number = tf.cast(tf.gather(numbers, self.own_set) - 1.0, self.dtype)
        sums, numbers, wanted, beside = (tf.cast(one, self.dtype) for one in (sums, numbers, wanted, beside))

        def block(chosen: Tensor, new: Tensor) -> tuple[tuple, tuple]:
            weights, inverse = self.target.weigh(take(self.anchors, chosen), self.keys, self.parameters)
            own_weight = own_sharp = tf.zeros_like(new)
            if not self.target.include_self:
                own = tf.stack([tf.range(tf.size(chosen)), tf.gather(self.own_set, chosen)], axis=1)
                own_weight = tf.gather_nd(weights, own)
                weights = tf.tensor_scatter_nd_update(weights, own, tf.zeros_like(new))
                own_sharp = tf.gather_nd(inverse, own) if self.by_pair else tf.ones_like(new)
            others = tf.gather(own_number, chosen)
            norms = total = tf.linalg.matvec(weights, numbers) + own_weight * others
            if self.target.normalised_by == "count":
                counted, own_counted = (tf.cast(one > 0, self.dtype) for one in (weights, own_weight))
                norms = tf.linalg.matvec(counted, numbers) + own_counted * others
            share = tf.math.divide_no_nan(tf.ones_like(norms), norms)
            pulls = weights * share[:, None]  # W, over T where that is of each pair
            pulls = pulls * inverse if self.by_pair else pulls
            sharp = tf.ones_like(new) if self.by_pair else tf.reshape(inverse * tf.ones_like(new)[:, None], [-1])
            columns = (norms, share * total, sharp, share * own_weight * own_sharp, tf.matmul(pulls, sums))
            by_key = tf.matmul(pulls, (new * sharp)[:, None] * tf.gather(wanted, chosen), transpose_a=True)
            return columns, (by_key,)

        empty = tf.zeros_like(wanted[:, 0])
        width = tf.maximum(BLOCK_PAIRS // tf.maximum(self.key_count, 1), 1)
        at_once = few(size(anchors), size(keys))
        initial = ((*(empty,) * 4, tf.zeros_like(wanted)), (tf.zeros_like(sums),))
        columns, (by_set,) = by_blocks(self.count, width, at_once, None, block, initial)
        norms, mass, sharp, own_pull, pulled = (spread(one, self.set_of) for one in columns)
        by_key = spread(by_set, self.key_set_of)
        if not self.target.include_self:
            pulled += own_pull[:, None] * beside
            # By the keys of an anchor's own set: sums over anchors, less the key itself where it is one.
            own = self.own_set[:, None]
            of_set = tf.scatter_nd(own, wanted, tf.shape(sums))
            drawn = tf.scatter_nd(own, columns[2] * columns[3], tf.shape(numbers))
            mine = tf.scatter_nd(self.own[:, None], scaled, tf.shape(keys))
            by_key += spread(drawn, self.key_set_of)[:, None] * (spread(of_set, self.key_set_of) - mine)
        attraction = sharp * tf.reduce_sum(anchors * pulled, axis=1)
        return Pull(norms, mass, sharp, attraction, (scale * sharp)[:, None] * pulled, by_key)

    def sharpness(self, chosen: Tensor) -> Tensor:
        """1 / T (t, B) of the chosen anchors and all keys, where temperatures are of pairs."""
        place = None
        if self.set_of is not None:
            chosen, place = tf.unique(tf.gather(self.set_of, chosen))
        found = self.target.weigh(take(self.anchors, chosen), self.keys, self.parameters)[1]
        found = found if self.key_set_of is None else tf.gather(found, self.key_set_of, axis=1)
        return spread(found, place)


def push(
    sets: LabelSets, pull: Pull, scale: Tensor, anchors: Tensor, keys: Tensor, width: Tensor, at_once: bool | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of log sum over a != i of exp(s_ia / T_ia): itself (b,), and m_i times its gradient by anchor and by key.

    The gradients are of what `scale` (b,) says of each anchor's loss.
    """

    def tile(chosen: Tensor, new: Tensor) -> tuple[tuple, tuple]:
        mine, force = tf.gather(anchors, chosen), tf.gather(scale * pull.mass, chosen)
        if sets.by_pair:
            inverse = sets.sharpness(chosen)
            logits = tf.matmul(mine, keys, transpose_b=True) * inverse
        else:
            inverse = tf.gather(pull.sharpness, chosen)
            logits, force = tf.matmul(mine * inverse[:, None], keys, transpose_b=True), force * inverse
        if not sets.target.include_self:
            itself = tf.stack([tf.range(tf.size(chosen)), tf.gather(sets.own, chosen)], axis=1)
            logits = tf.tensor_scatter_nd_update(logits, itself, tf.fill(tf.shape(new), tf.cast(MASKED, sets.dtype)))
        softmax = tf.nn.softmax(logits)
        log_sums = tf.reduce_max(logits, axis=1) - tf.math.log(tf.reduce_max(softmax, axis=1))
        slope = softmax * inverse if sets.by_pair else softmax
        by_key = tf.matmul(slope, (new * force)[:, None] * mine, transpose_a=True)
        return (log_sums, force[:, None] * tf.matmul(slope, keys)), (by_key,)

    # The anchors with equal labels side by side, so that a tile's temperatures are of few sets.
    sort = sets.by_pair and sets.set_of is not None and at_once is not True
    order = tf.argsort(sets.set_of, stable=True) if sort else None
    initial = ((tf.zeros_like(anchors[:, 0]), tf.zeros_like(anchors)), (tf.zeros_like(keys),))
    (log_sums, by_anchor), (by_key,) = by_blocks(size(anchors), width, at_once, order, tile, initial)
    return log_sums, by_anchor, by_key


def few(anchors: int | Tensor, keys: int | Tensor) -> bool | Tensor:
    """Whether so many rows are taken at once; a tensor where it is not known yet."""
    if isinstance(anchors, int) and isinstance(keys, int):
        return anchors * keys <= AT_ONCE
    return tf.cast(anchors, tf.int64) * tf.cast(keys, tf.int64) <= AT_ONCE


def by_blocks(
    number: Tensor, width: Tensor, at_once: bool | Tensor, order: Tensor | None, body: Callable, initial: tuple
) -> tuple[tuple, tuple]:
    """What `body` says of `number` rows, all `at_once` or, in an order, `width` at a time.

    It gets their places (w,) and 1.0 for those that it meets for the first time (w,), else 0.0, and gives columns with
    a row for each of them, and sums, which are added up. The last block begins early enough to be a whole one, and so
    meets some rows again: XLA fixes all shapes. `initial` are both before anything was met.
    """
    dtype = initial[0][0].dtype

    def whole() -> tuple[tuple, tuple]:
        places = tf.range(number)
        return body(places, tf.ones_like(places, dtype))

    def looped() -> tuple[tuple, tuple]:
        rows = tf.minimum(width, number)
        count = (number + rows - 1) // tf.maximum(rows, 1)

        def step(block: Tensor, columns: tuple, sums: tuple) -> tuple:
            places = tf.minimum(block * rows, number - rows) + tf.range(rows)
            new = tf.cast(places >= block * rows, dtype)
            places = places if order is None else tf.gather(order, places)
            found, more = body(places, new)
            columns = tuple(set_rows(old, places, now) for old, now in zip(columns, found, strict=True))
            return block + 1, columns, tuple(old + now for old, now in zip(sums, more, strict=True))

        first = (tf.constant(0), *initial)
        return tf.while_loop(lambda block, *_: block < count, step, first, parallel_iterations=1)[1:]

    if isinstance(at_once, bool):
        return whole() if at_once else looped()
    return tf.cond(at_once, whole, looped)


def set_rows(table: Tensor, chosen: Tensor, rows: Tensor) -> Tensor:
    """A table with some rows replaced."""
    return tf.tensor_scatter_nd_update(table, chosen[:, None], rows)


def spread(of_sets: Tensor, set_of: Tensor | None) -> Tensor:
    """Rows of sets as rows of those that hold them; None: each holds one of its own."""
    return of_sets if set_of is None else tf.gather(of_sets, set_of)


def summed(rows: Tensor, set_of: Tensor | None, number: Tensor) -> Tensor:
    """Sums over the rows with the same set."""
    return rows if set_of is None else tf.math.unsorted_segment_sum(rows, set_of, number)


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
