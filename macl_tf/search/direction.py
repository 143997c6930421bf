"""From marked tiles to the direction that ranks the others: what is right, what is wrong, and what is usual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEGATIVE = 0.5  # weight of the negative examples' mean, the positive ones' having 1
_STRENGTH = 0.3  # 1 / weight of the square of the classifier's norm, beside the mean loss times the number of rows
MOST = 600  # rows of each side that the classifier sees, drawn at random

Floats = NDArray[np.float64]


def rocchio(positive: Floats, negative: Floats) -> Floats:
    """normalise(mean(positive) - 0.5 mean(negative)) (D,), of unit rows (P, D), P >= 1, and (N, D); 0 if they cancel.

    Rocchio, "Relevance Feedback in Information Retrieval", 1971.
    """
    mean = positive.mean(axis=0)
    return unit(mean - NEGATIVE * negative.mean(axis=0) if len(negative) else mean)


def classifier(positive: Floats, others: Floats, strength: float = _STRENGTH) -> Floats:
    """The weights (D,), of unit norm, of a regularised logistic regression of positive rows against others.

        min over w, b of |w|^2 / 2 + strength sum_i c_i log(1 + exp(-t_i (w . x_i + b))),  t_i = +1 or -1

    where both sides weigh the same, c_i = n / 2P or n / 2N of n = P + N rows. By Newton's method, which solves systems
    of D + 1 or of n unknowns, whichever are fewer.
    """
    rows, sizes = np.concatenate([positive, others]), [len(positive), len(others)]
    target = np.repeat([1.0, 0.0], sizes)
    weight = strength * len(rows) / 2 / np.repeat(sizes, sizes)
    ones, score = np.ones(len(rows)), np.zeros(len(rows))
    of_rows = len(rows) <= rows.shape[1]
    known = rows @ rows.T if of_rows else np.column_stack([rows, ones])
    ridge = np.append(np.ones(rows.shape[1]), 0.0)  # none on b
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(score, -30, 30)))
        curvature = np.maximum(weight * p * (1 - p), 1e-9)
        # The stationary point of the quadratic model at the scores s, with C = diag(curvature).
        wanted, before = score + weight * (target - p) / curvature, score
        if of_rows:  # w = X' a: (X X' + C^-1) a + b 1 = wanted, with sum a = 0
            solved = np.linalg.solve(known + np.diag(1 / curvature), np.stack([wanted, ones], axis=1))
            b = solved[:, 0].sum() / solved[:, 1].sum()
            a = solved[:, 0] - b * solved[:, 1]
            w, score = rows.T @ a, known @ a + b
        else:  # (X' C X + I) w = X' C wanted, with a column of ones in X for b
            scaled = known * curvature[:, None]
            solved = np.linalg.solve(known.T @ scaled + np.diag(ridge), wanted @ scaled)
            w, score = solved[:-1], known @ solved
        if np.abs(score - before).max() < 1e-4:
            break
    return unit(w)


def direction(positive: Floats, negative: Floats, background: Floats) -> Floats:
    """The unit vector (D,) by whose cosine tiles are ranked: `rocchio` and `classifier`, half each.

    The mean finds what few marks show, the classifier what tells many apart (docs/searching.md has both measured).

    Args:
        positive: (P, D) unit rows, P >= 1.
        negative: (N, D) unit rows, N >= 0.
        background: (R, D) unit rows of tiles that nobody marked, R >= 0, for what is usual: they count as wrong.
    """
    return beside_classifier(rocchio(positive, negative), positive, np.concatenate([negative, background]))


def beside_classifier(near: Floats, positive: Floats, others: Floats) -> Floats:
    """A unit direction and the classifier's, half each; the direction alone where there are no others."""
    return unit(near + classifier(positive, others)) if len(others) else near


def unit(vector: Floats) -> Floats:
    """The vector at norm 1; zero where it is hardly longer than rounding."""
    norm = float(np.linalg.norm(vector))
    return np.zeros_like(vector) if norm < 1e-6 else vector / norm
