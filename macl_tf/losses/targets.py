"""What the losses of the pairwise family want: from labels to target weights and temperatures.

Letters: b anchors, B keys, C labels; O_ij labels that i and j share, J_ij their Jaccard overlap. All of it is
`keras.ops`, and runs on every Keras backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

Tensor = Any
Described = dict[str, Tensor]  # tensors with a row per image
Parameters = dict[str, Tensor]  # hyper-parameters and counts, the temperature among them


def by_labels(labels: Tensor, parameters: Parameters) -> Described:
    """Images described by the labels they hold and their number, at least 1, so that it may divide."""
    return {"labels": labels, "held": ops.maximum(ops.sum(labels, axis=1), 1.0)}


def alike(labels: Tensor, parameters: Parameters) -> Tensor:
    """(B,) ones: all anchors count the same."""
    return ops.ones_like(labels[:, 0])


def shares_a_label(anchors: Described, keys: Described, parameters: Parameters) -> Tensor:
    """(b, B) boolean: O_ij > 0."""
    return shared_labels(anchors, keys) > 0


@dataclass(frozen=True)
class Target:
    """One loss of the family: whom it pulls together, how strongly, and at which temperature.

    Functions of labels alone, at the top of a module, so that all losses of a kind share one compiled graph. What they
    say of an image depends on its own labels, and of a pair on those of the two: equal labels are looked at once. What
    depends on the batch belongs into the parameters.

    Args:
        compare: (anchors, keys, parameters) to the weights V (b, B), >= 0 and 0 for pairs that are not
            positive, and the inverse temperatures 1 / T > 0, (b, B), (b, 1) or a scalar: a temperature of each
            anchor, or of all, costs no matrix. None: 1 for all positive pairs.
        describe: (labels, parameters) to what `compare` needs to know of each image.
        positive: (anchors, keys, parameters) to a boolean (b, B), true where V > 0; cheaper than V.
        importance: (labels, parameters) to (B,), how much an anchor with a positive counts in the mean.
        normalised_by: "sum" for W_ij = V_ij / sum_j V_ij, "count" for V_ij / number of positives.
        include_self: Whether an image is among its own keys.
    """

    compare: Callable[[Described, Described, Parameters], tuple[Tensor, Tensor]] | None = None
    describe: Callable[[Tensor, Parameters], Described] = by_labels
    positive: Callable[[Described, Described, Parameters], Tensor] = shares_a_label
    importance: Callable[[Tensor, Parameters], Tensor] = alike
    normalised_by: str = "sum"
    include_self: bool = False

    def weigh(self, anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """V and 1 / T, as `compare` has them."""
        if self.compare is None:
            return ops.cast(self.positive(anchors, keys, parameters), anchors["held"].dtype), sharpness(parameters)
        return self.compare(anchors, keys, parameters)


def sharpness(parameters: Parameters) -> Tensor:
    """1 / T where all pairs have the same temperature, a scalar."""
    return 1.0 / parameters["temperature"]


def shared_labels(anchors: Described, keys: Described) -> Tensor:
    """O_ij (b, B)."""
    return ops.matmul(anchors["labels"], ops.transpose(keys["labels"]))


def label_union(anchors: Described, keys: Described, shared: Tensor) -> Tensor:
    """Labels that i or j holds (b, B), where they share one; at least 1 everywhere, so that it may divide."""
    return anchors["held"][:, None] + keys["held"] - shared


def label_overlap(labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """O_ij (b, B) and J_ij (b, B), 0 where the union is empty, of multi-hot rows (b, C) and (B, C)."""
    anchors, keys = by_labels(labels, {}), by_labels(others, {})
    shared = shared_labels(anchors, keys)
    return shared, shared / label_union(anchors, keys, shared)


def mean_over_labels(labels: Tensor, values: Tensor) -> Tensor:
    """(B,) mean of `values` (C,) over the labels of each row of `labels` (B, C), 0 for a row without."""
    return ops.matmul(labels, values) / ops.maximum(ops.sum(labels, axis=1), 1.0)


def same_number(anchors: Described, keys: Described, parameters: Parameters) -> Tensor:
    """(b, B) boolean: i and j are views of one image, whose number is the one column of its "labels"."""
    return anchors["labels"] == ops.transpose(keys["labels"])


def same_labels(anchors: Described, keys: Described, parameters: Parameters) -> Tensor:
    """(b, B) boolean: i and j hold the same labels, at least one."""
    shared = shared_labels(anchors, keys)
    return ops.logical_and(shared == anchors["held"][:, None], shared == keys["held"])


def jaccard(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """V_ij = J_ij."""
    shared = shared_labels(anchors, keys)
    return shared / label_union(anchors, keys, shared), sharpness(parameters)


def overlaps_enough(anchors: Described, keys: Described, parameters: Parameters) -> Tensor:
    """(b, B) boolean: J_ij >= min_overlap, and not 0."""
    return multisupcon(anchors, keys, parameters)[0] > 0


def multisupcon(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """V_ij = J_ij where J_ij >= min_overlap."""
    overlap, sharp = jaccard(anchors, keys, parameters)
    return ops.where(overlap >= parameters["min_overlap"], overlap, 0.0), sharp


def mulsupcon(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """V_ij = sum over the labels c that i and j share of 1 / |P_c(i)|, where |P_c(i)| = n_c - 1 in the batch."""
    shares = anchors["labels"] / ops.maximum(parameters["batch_counts"] - 1.0, 1.0)
    return ops.matmul(shares, ops.transpose(keys["labels"])), sharpness(parameters)


def labels_with_company(labels: Tensor, parameters: Parameters) -> Tensor:
    """(B,) the number of labels of each image that another image of the batch holds too."""
    return ops.matmul(labels, ops.cast(parameters["batch_counts"] > 1, labels.dtype))


def similarity_dissimilarity(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """V_ij = O_ij / |y_i| / (1 + labels of j that i lacks)."""
    shared = shared_labels(anchors, keys)
    extra = keys["held"] - shared
    return shared / (anchors["held"][:, None] * (1.0 + extra)), sharpness(parameters)


def shared_count(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """V_ij = O_ij."""
    return shared_labels(anchors, keys), sharpness(parameters)


_LEAST_FOCUS = 1e-20


def scaled_rarity(counts: Tensor, power: Tensor) -> Tensor:
    """(C,) r_c scaled to [0, 1] over the labels that occur; its mean, which scaling takes out, is not computed."""
    most, inverse = ops.max(counts), ops.power(ops.maximum(counts, 1.0), -power)
    low = ops.power(ops.maximum(most, 1.0), -power)
    spread = ops.max(ops.where(counts > 0, inverse, 0.0)) - low
    # Equal counts give equal rarities up to rounding; below that there is nothing to scale by.
    return ops.divide_no_nan(inverse - low, ops.where(spread > 1e-6 * (spread + low), spread, 0.0))


def held_pairs(labels: Tensor) -> Tensor:
    """(B, C (C + 1) / 2) multi-hot: which pairs of labels c <= d each image holds."""
    num_labels = labels.shape[1]
    first, second = np.triu_indices(num_labels)
    members = np.eye(num_labels)[first] + np.eye(num_labels)[second]  # c = d counts twice
    number = ops.matmul(labels, ops.transpose(ops.convert_to_tensor(members, dtype=labels.dtype)))
    return ops.cast(number > 1.5, labels.dtype)


def pair_rarity(cooccurrence: Tensor, power: Tensor) -> Tensor:
    """(C (C + 1) / 2,) M_cd^-power of each pair c <= d, twice where c < d, since c, d and d, c are summed."""
    num_labels = cooccurrence.shape[0]
    first, second = np.triu_indices(num_labels)
    multiplicity = ops.convert_to_tensor(np.where(first == second, 1.0, 2.0), dtype=cooccurrence.dtype)
    counts = ops.take(ops.reshape(cooccurrence, (-1,)), (first * num_labels + second).astype("int32"))
    return ops.power(ops.maximum(counts, 1.0), -power) * multiplicity


def by_pairs_of_labels(labels: Tensor, parameters: Parameters) -> Described:
    """Images described by their pairs of labels as well, and by 1 / T towards images they share nothing with."""
    scaled = scaled_rarity(parameters["counts"], parameters["reweighting_power"])
    rarity = ops.clip(mean_over_labels(labels, scaled), 0.0, 1.0)
    temperature = parameters["temperature"] * (1.0 - parameters["rarity_scale"] * rarity)
    return {**by_labels(labels, parameters), "pairs": held_pairs(labels), "sharpness": 1.0 / temperature}


def plr(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """V_ij by PLR, as `MACL` states it, the labels that i and j share, and their union.

    J_ij^(gamma kappa) is kept from vanishing in float32: who shares a label stays a positive, whatever the powers.

    The sum over pairs of shared labels is one matrix product,

        sum over c, d in O_ij of M_cd^-gamma = sum over c <= d of [y_ic y_id] (2 - [c = d]) M_cd^-gamma [y_jc y_jd]

    with images described by the pairs of labels they hold: no array of B x B x C ever exists.
    """
    shared = shared_labels(anchors, keys)
    union = label_union(anchors, keys, shared)
    rarity = pair_rarity(parameters["cooccurrence"], parameters["reweighting_power"])
    information = ops.matmul(anchors["pairs"] * rarity, ops.transpose(keys["pairs"]))
    focus = ops.power(shared / union, parameters["reweighting_power"] * parameters["overlap_power"])
    # J_ij / |O_ij|^2 = 1 / (|O_ij| |union|)
    weights = ops.divide_no_nan(information * ops.maximum(focus, _LEAST_FOCUS), shared * union)
    return weights, shared, union


def macl(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """V_ij by PLR and T_ij by DTS, as `MACL` states them, for any alpha."""
    weights, shared, union = plr(anchors, keys, parameters)
    # 1 / (1 + alpha J_ij), with one division
    falling = union / (union + parameters["overlap_scale"] * shared)
    return weights, ops.minimum(falling * anchors["sharpness"][:, None], 1.0 / parameters["min_temperature"])


def macl_by_anchor(anchors: Described, keys: Described, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """The same for alpha = 0, where a temperature is its anchor's, 1 / T (b, 1)."""
    weights, _, _ = plr(anchors, keys, parameters)
    return weights, ops.minimum(anchors["sharpness"], 1.0 / parameters["min_temperature"])[:, None]


def rarity_of_labels(labels: Tensor, parameters: Parameters) -> Tensor:
    """(B,) a_i: the mean over the labels of each image of their rarity, whose mean is 1 over those that occur."""
    counts = parameters["counts"]
    present = ops.cast(counts > 0, counts.dtype)
    inverse = ops.power(ops.maximum(counts, 1.0), -parameters["reweighting_power"])
    rarity = inverse * ops.maximum(ops.sum(present), 1.0) / ops.maximum(ops.sum(inverse * present), 1e-30)
    return mean_over_labels(labels, rarity)


INFO_NCE = Target(positive=same_number)
SUPCON_ANY = Target()
SUPCON_ALL = Target(positive=same_labels)
JACCARD = Target(jaccard)
MULTISUPCON = Target(multisupcon, positive=overlaps_enough, normalised_by="count")
MULSUPCON = Target(mulsupcon, importance=labels_with_company)
SIMILARITY_DISSIMILARITY = Target(similarity_dissimilarity, normalised_by="count")
N_PAIRS = Target(shared_count, include_self=True)
PLR_AND_DTS = {  # by whether anchors are weighed by rarity, and whether temperatures depend on pairs
    (weighted, of_pairs): Target(
        macl if of_pairs else macl_by_anchor,
        describe=by_pairs_of_labels,
        importance=rarity_of_labels if weighted else alike,
    )
    for weighted in (False, True)
    for of_pairs in (False, True)
}
