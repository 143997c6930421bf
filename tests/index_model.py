"""What an index must answer, from a dict and NumPy alone; and small archives for the tests of the index."""

import numpy as np

from macl_tf.index.items import Items

NAMES = ("cars", "sea", "trees")
DIM = 6


def archive(count, seed=0, dim=DIM, prefix="tile"):
    """Items and vectors of several clusters, some vectors equal."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(max(count // 10, 2), dim))
    vectors = centres[generator.integers(0, len(centres), count)] + 0.3 * generator.normal(size=(count, dim))
    twins = np.arange(count) % 5 == 4
    vectors[twins] = vectors[np.flatnonzero(twins) - 1]
    west, south = generator.uniform(-10, 10, (2, count))
    corners = np.stack([west, south, west + 1, south, west + 1, south + 1, west, south + 1], axis=1).reshape(-1, 4, 2)
    items = Items.of(
        NAMES,
        [f"{prefix} {n}" for n in range(count)],
        generator.integers(0, 2, (count, len(NAMES))),
        paths=[f"{prefix}/{n}.png" for n in range(count)],
        splits=generator.choice(["train", "test"], count),
        footprints=corners,
        dates=generator.integers(0, 100, count).astype("datetime64[D]"),
    )
    return items, vectors.astype(np.float32)


class Model:
    """Ids in their order to (description, unit vector in float64, thumbnail)."""

    def __init__(self):
        self.rows = {}

    def upsert(self, items, vectors, thumbnails):
        for n in range(len(items)):
            vector = np.asarray(vectors[n], np.float64)
            self.rows.pop(items.ids[n], None)  # a replaced item goes to the end
            self.rows[items.ids[n]] = (
                items.describe(n),
                vector / np.linalg.norm(vector),
                (thumbnails[n] or None) if thumbnails else None,
            )

    def delete(self, ids):
        return sum(self.rows.pop(id_, None) is not None for id_ in dict.fromkeys(ids))

    def search(self, query, k, keep=lambda item: True):
        """Positions and cosines of the k best, ties by position: cosines closer than float32 tells apart are equal."""
        query = np.asarray(query, np.float64) / np.linalg.norm(query)
        scored = [
            (-round(float(vector @ query), 6), position, id_)
            for position, (id_, (item, vector, _)) in enumerate(self.rows.items())
            if keep(item)
        ]
        return [(id_, -score, position) for score, position, id_ in sorted(scored)[:k]]


def assert_same_hits(found, expected):
    """The same cosines rank by rank; the same items, but for neighbours whose cosines rounding cannot tell apart."""
    assert len(found) == len(expected)
    np.testing.assert_allclose([hit.score for hit in found], [score for _, score, _ in expected], rtol=0, atol=2e-6)
    scores = np.array([hit.score for hit in found])
    for hit, (id_, _, position) in zip(found, expected, strict=True):
        close = np.abs(scores - np.float32(hit.score)) < 4e-6
        if close.sum() == 1:
            assert (hit.id, hit.position) == (id_, position)
    order = [(-hit.score, hit.position) for hit in found]
    assert order == sorted(order)
    assert len({hit.id for hit in found}) == len(found)
