"""Margin and proxy losses, and DCL, as plain float64 loops, straight from their equations."""

import math

import numpy as np

from tests.oracles.contrastive import overlap


def distance(a, b, metric="L2"):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if metric == "angular":
        return 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    square = sum(float(x) ** 2 for x in a - b)
    return square if metric == "squared-L2" else math.sqrt(square)


def related(labels, min_overlap=0.0):
    """For each image its positives and its negatives: all others, by shared labels and Jaccard overlap."""
    positives, negatives = [], []
    for i, a in enumerate(labels):
        shares = {}
        for j, b in enumerate(labels):
            if j != i:
                shared, jaccard = overlap(a, b)
                shares[j] = shared > 0 and jaccard >= min_overlap
        positives.append([j for j, same in shares.items() if same])
        negatives.append([j for j, same in shares.items() if not same])
    return positives, negatives


def mean(values):
    return sum(values) / len(values) if values else 0.0


def triplet_semi_hard(labels, z, margin=1.0, metric="L2", min_overlap=0.0):
    losses = []
    for i, (positives, negatives) in enumerate(zip(*related(labels, min_overlap), strict=True)):
        d = {j: distance(z[i], z[j], metric) for j in positives + negatives}
        for p in positives if negatives else []:
            outside = [d[n] for n in negatives if d[n] > d[p]]
            negative = min(outside) if outside else max(d[n] for n in negatives)
            losses.append(max(margin + d[p] - negative, 0.0))
    return mean(losses)


def triplet_hard(labels, z, margin=1.0, soft=False, metric="L2", min_overlap=0.0):
    losses = []
    for i, (positives, negatives) in enumerate(zip(*related(labels, min_overlap), strict=True)):
        if positives and negatives:
            farthest = max(distance(z[i], z[p], metric) for p in positives)
            gap = farthest - min(distance(z[i], z[n], metric) for n in negatives)
            losses.append(math.log1p(math.exp(gap)) if soft else max(gap + margin, 0.0))
    return mean(losses)


def margin_contrastive(labels, z, margin=1.0, min_overlap=0.0):
    losses = []
    for i, (positives, negatives) in enumerate(zip(*related(labels, min_overlap), strict=True)):
        losses += [distance(z[i], z[p], "squared-L2") for p in positives]
        losses += [max(margin - distance(z[i], z[n]), 0.0) ** 2 for n in negatives]
    return mean(losses)


def lifted_structure(labels, z, margin=1.0, min_overlap=0.0):
    positives, negatives = related(labels, min_overlap)
    losses = []
    for i in range(len(z)):
        for p in positives[i]:
            away = [(i, n) for n in negatives[i]] + [(p, n) for n in negatives[p]]
            if away:
                total = sum(math.exp(margin - distance(z[a], z[n])) for a, n in away)
                losses.append(max(distance(z[i], z[p]) + math.log(total), 0.0) ** 2 / 2)
    return mean(losses)


def multi_similarity(labels, z, alpha=2.0, beta=50.0, base=0.5, epsilon=0.1, min_overlap=0.0):
    losses = []
    for i, (positives, negatives) in enumerate(zip(*related(labels, min_overlap), strict=True)):
        s = {j: float(np.asarray(z[i], np.float64) @ np.asarray(z[j], np.float64)) for j in positives + negatives}
        loss = 0.0
        if positives and negatives:
            hardest, lowest = max(s[n] for n in negatives), min(s[p] for p in positives)
            near = [s[p] for p in positives if s[p] - epsilon < hardest]
            far = [s[n] for n in negatives if s[n] + epsilon > lowest]
            loss += math.log1p(sum(math.exp(-alpha * (x - base)) for x in near)) / alpha
            loss += math.log1p(sum(math.exp(beta * (x - base)) for x in far)) / beta
        losses.append(loss)
    return mean(losses)


def ranked_list(labels, z, boundary=1.2, margin=0.4, temperature=10.0, balance=1.0, min_overlap=0.0, guard=0.0):
    """`guard` is what pytorch-metric-learning adds to the weight of each of the B columns in its denominators."""
    losses = []
    for i, (positives, negatives) in enumerate(zip(*related(labels, min_overlap), strict=True)):
        near = boundary - margin
        beyond = [d - near for d in (distance(z[i], z[p]) for p in positives) if d > near]
        inside = [boundary - d for d in (distance(z[i], z[n]) for n in negatives) if d < boundary]
        weights = [math.exp(temperature * x) for x in inside]
        loss = sum(beyond) / (len(beyond) + guard * len(z)) if beyond else 0.0
        if inside:
            total = sum(weights) + guard * len(z)
            loss += balance * sum(w * x for w, x in zip(weights, inside, strict=True)) / total
        losses.append(loss)
    return mean(losses)


def proxy_anchor(labels, similarities, scale=32.0, margin=0.1):
    y, s = np.asarray(labels), np.asarray(similarities, np.float64)
    attract, repel = [], []
    for c in range(y.shape[1]):
        holders = [s[i, c] for i in range(len(y)) if y[i, c]]
        others = [s[i, c] for i in range(len(y)) if not y[i, c]]
        if holders:
            attract.append(math.log1p(sum(math.exp(-scale * (x - margin)) for x in holders)))
        repel.append(math.log1p(sum(math.exp(scale * (x + margin)) for x in others)))
    return mean(attract) + mean(repel)


def cosines(z, proxies):
    return [[1 - distance(a, p, "angular") for p in proxies] for a in z]


def dcl(labels, z, boundary=1.2, margin=0.4, temperature=10.0, hard=5, min_overlap=0.0):
    y = [tuple(int(x) for x in row) for row in labels]
    positives, _ = related(y, min_overlap)
    losses = []
    for i in range(len(y)):
        near = boundary - margin
        d = [distance(z[i], z[j]) for j in range(len(y))]
        hard_positives = sorted((d[p] for p in positives[i] if d[p] > near), reverse=True)
        balance = 0.0
        if hard_positives:
            ratio = len(hard_positives) / len(positives[i])
            balance = ratio * mean([x - near for x in hard_positives[:hard]])
        nearest = {}  # by class, which is the exact label set
        for j in range(len(y)):
            if j != i and overlap(y[i], y[j])[0] == 0:
                nearest[y[j]] = min(d[j], nearest.get(y[j], math.inf))
        closest = [x for x in sorted(nearest.values())[:hard] if x < boundary]
        v = [math.exp(temperature * (boundary - x)) for x in closest]
        ranking = sum(w * (boundary - x) for w, x in zip(v, closest, strict=True)) / sum(v) if v else 0.0
        losses.append(balance + ranking)
    return mean(losses)
