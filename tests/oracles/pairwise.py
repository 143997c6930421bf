"""The pairwise family as plain float64 loops over anchors and pairs, straight from the equations of each source."""

import math

import numpy as np

from tests.oracles.contrastive import overlap


def log_softmax(z, i, j, temperature, include_self=False):
    keys = [a for a in range(len(z)) if include_self or a != i]
    logits = [float(z[i] @ z[a]) / temperature for a in keys]
    top = max(logits)
    return float(z[i] @ z[j]) / temperature - top - math.log(sum(math.exp(s - top) for s in logits))


def others(y, i, condition):
    return [j for j in range(len(y)) if j != i and condition(j)]


def mean_over_anchors(losses):
    losses = [loss for loss in losses if loss is not None]
    return sum(losses) / len(losses) if losses else 0.0


def info_nce(labels, z, temperature=0.1, views=2):
    """Anchor (image, view) against every other view of the image, averaged over those, then over anchors."""
    z = np.asarray(z, np.float64)
    images = len(z) // views
    total = 0.0
    for image in range(images):
        rows = [image + view * images for view in range(views)]
        for i in rows:
            total += sum(-log_softmax(z, i, j, temperature) for j in rows if j != i) / (views - 1)
    return total / len(z)


def supcon(labels, z, temperature=0.1, positives="any"):
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)
    sets = [frozenset(np.flatnonzero(row)) for row in y]

    def anchor(i):
        if positives == "any":
            matches = others(y, i, lambda j: sets[i] & sets[j])
        else:
            matches = others(y, i, lambda j: sets[i] and sets[i] == sets[j])
        return -sum(log_softmax(z, i, p, temperature) for p in matches) / len(matches) if matches else None

    return mean_over_anchors([anchor(i) for i in range(len(y))])


def jaccard_supcon(labels, z, temperature=0.1):
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)

    def anchor(i):
        weights = {j: overlap(y[i], y[j])[1] for j in others(y, i, lambda j: overlap(y[i], y[j])[0])}
        terms = [w * log_softmax(z, i, p, temperature) for p, w in weights.items()]
        return -sum(terms) / sum(weights.values()) if weights else None

    return mean_over_anchors([anchor(i) for i in range(len(y))])


def multisupcon(labels, z, temperature=0.1, min_overlap=0.3):
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)

    def anchor(i):
        matches = others(y, i, lambda j: overlap(y[i], y[j])[0] and overlap(y[i], y[j])[1] >= min_overlap)
        terms = [overlap(y[i], y[p])[1] * log_softmax(z, i, p, temperature) for p in matches]
        return -sum(terms) / len(matches) if matches else None

    return mean_over_anchors([anchor(i) for i in range(len(y))])


def mulsupcon(labels, z, temperature=0.1):
    """The authors' form: each image stands once for each of its labels, and is a single-label anchor there."""
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)
    losses = []
    for c in range(y.shape[1]):
        holding = [i for i in range(len(y)) if y[i, c]]
        for i in holding:
            matches = [p for p in holding if p != i]
            if matches:
                losses.append(-sum(log_softmax(z, i, p, temperature) for p in matches) / len(matches))
    return sum(losses) / len(losses) if losses else 0.0


def similarity_dissimilarity(labels, z, temperature=0.1):
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)
    sets = [set(np.flatnonzero(row)) for row in y]

    def anchor(i):
        matches = others(y, i, lambda j: sets[i] & sets[j])
        terms = [
            len(sets[i] & sets[p]) / len(sets[i]) / (1 + len(sets[p] - sets[i])) * log_softmax(z, i, p, temperature)
            for p in matches
        ]
        return -sum(terms) / len(matches) if matches else None

    return mean_over_anchors([anchor(i) for i in range(len(y))])


def n_pairs(labels, z):
    """Rows with a label only: of one without, the published formula is 0 / 0."""
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)

    def anchor(i):
        shared = [overlap(y[i], y[j])[0] for j in range(len(y))]
        terms = [n * log_softmax(z, i, j, 1.0, include_self=True) for j, n in enumerate(shared)]
        return -sum(terms) / sum(shared) if sum(shared) else None

    return mean_over_anchors([anchor(i) for i in range(len(y))])
