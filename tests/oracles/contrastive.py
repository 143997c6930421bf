"""MACL and its limits as plain float64 loops, straight from the method's equations."""

import math

import numpy as np


def unit(z):
    """Rows of norm 1, those of norm below 1e-6 aside."""
    z = np.asarray(z, np.float64)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-6)


def overlap(a, b):
    shared = sum(1 for x, y in zip(a, b, strict=True) if x and y)
    union = sum(1 for x, y in zip(a, b, strict=True) if x or y)
    return shared, (shared / union if union else 0.0)


def counted(labels):
    """(n, M), with zeros where nothing was seen."""
    y = np.asarray(labels, np.int64)
    return y.sum(0), y.T @ y


def macl(
    labels,
    z,
    counts=None,
    pairs=None,
    *,
    temperature=0.1,
    gamma=1.0,
    kappa=2.0,
    alpha=0.0,
    beta=0.3,
    floor=0.01,
    weighted=False,
):
    y, z = np.asarray(labels, np.int64), np.asarray(z, np.float64)
    size, num_labels = y.shape
    if counts is None:
        counts, pairs = counted(y)
    n = [max(int(c), 1) for c in counts]
    present = [c for c in range(num_labels) if counts[c] > 0]
    mean = sum(n[c] ** -gamma for c in present) / max(len(present), 1)
    r = [n[c] ** -gamma / mean if present else 0.0 for c in range(num_labels)]
    low, high = (min(r[c] for c in present), max(r[c] for c in present)) if present else (0.0, 0.0)

    def pair_rarity(c, d):
        return max(int(pairs[c][d]), 1) ** -gamma

    losses, importance = [], []
    for i in range(size):
        held = [c for c in range(num_labels) if y[i, c]]
        a_i = sum(r[c] for c in held) / len(held) if held else 0.0
        rare = (a_i - low) / (high - low) if held and high - low > 1e-12 else 0.0
        v, tau = {}, {}
        for j in range(size):
            if j == i:
                continue
            shared, jac = overlap(y[i], y[j])
            tau[j] = max(floor, temperature * (1 + alpha * jac) * (1 - beta * rare))
            if shared:
                both = [c for c in held if y[j, c]]
                v[j] = jac ** (1 + gamma * kappa) * sum(pair_rarity(c, d) for c in both for d in both) / shared**2
        if not v:
            continue
        logits = {j: float(z[i] @ z[j]) / tau[j] for j in tau}
        top = max(logits.values())
        log_sum = top + math.log(sum(math.exp(s - top) for s in logits.values()))
        total = sum(v.values())
        losses.append(-sum(v[p] / total * (logits[p] - log_sum) for p in v))
        importance.append(a_i)
    if not losses:
        return 0.0
    if weighted:
        return sum(a * x for a, x in zip(importance, losses, strict=True)) / sum(importance)
    return sum(losses) / len(losses)


def supcon(labels, z, temperature, weight):
    """Weighted supervised contrastive loss; weight(i, j) is normalised over the positives of i."""
    z, size = np.asarray(z, np.float64), len(labels)
    losses = []
    for i in range(size):
        w = {j: weight(i, j) for j in range(size) if j != i and overlap(labels[i], labels[j])[0]}
        if not w:
            continue
        log_sum = math.log(sum(math.exp(z[i] @ z[a] / temperature) for a in range(size) if a != i))
        losses.append(-sum(w[p] * (z[i] @ z[p] / temperature - log_sum) for p in w) / sum(w.values()))
    return sum(losses) / len(losses)
