"""Items that show how different those of an index are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def centres(vectors: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Positions of `count` of the (N, D) unit rows, or of all where there are fewer; always the same for the same rows.

    Greedy k-centre (Gonzalez, 1985): from the row that is most like the mean on, each is the one that is least like all
    before it. So far out lie the odd ones; in their places stand the rows in the middle of what lies nearest to them.
    """
    count = min(count, len(vectors))
    if not count:
        return np.zeros(0, np.intp)
    chosen = [int(np.argmax(vectors @ vectors.mean(axis=0)))]
    nearest, group = vectors @ vectors[chosen[0]], np.zeros(len(vectors), np.intp)
    for number in range(1, count):
        nearest[chosen] = np.inf  # equal rows may stand there twice, the same row may not
        chosen.append(int(np.argmin(nearest)))
        likeness = vectors @ vectors[chosen[-1]]
        nearer = likeness > nearest
        nearest[nearer], group[nearer] = likeness[nearer], number
    group[chosen] = np.arange(count)
    middles = []
    for number in range(count):
        (members,) = np.nonzero(group == number)
        middles.append(members[np.argmax(vectors[members] @ vectors[members].mean(axis=0))])
    return np.array(middles)
