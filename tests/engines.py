"""The engines that hold an index, made of the same items, and what a dictionary says that they must answer."""

import itertools

import numpy as np

from macl_tf.datasets.tile_facts import NOWHERE
from macl_tf.index.filters import Filter
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.milvus.connection import Address
from macl_tf.index.milvus.filling import Source, fill
from macl_tf.index.milvus.index import MilvusIndex

DIM = 8
# As people write them: with what means something to a condition, to `like` or to a list.
LABELS = ("sea", "rock; gravel", 'say "hi"', "it's", "back\\slash", "100%_x", "Überschwemmung", "line\nbreak")
SPLITS = ("train", "test", "o'ther", "")
EXACT = ("files", "FLAT")
ENGINES = (*EXACT, "hashing", "HNSW", "IVF_FLAT", "IVF_SQ8")
_names = itertools.count()


def id_of(number):
    return (f"a/tile {number}.tif", f"it's {number}.tif", f'b/"{number}"_%.tif')[number % 3]


def tiles(numbers, seed, dim=DIM, labels=LABELS):
    """Items, vectors of several clusters, and pictures; every third without a place, every fifth without a date."""
    generator = np.random.default_rng(seed)
    count = len(numbers)
    centres = np.random.default_rng(99).normal(size=(6, dim))
    vectors = centres[generator.integers(0, 6, count)] + 0.7 * generator.normal(size=(count, dim))
    corners, days = [], []
    for place in range(count):
        west, south = generator.uniform(-180, 180), generator.uniform(-80, 80)
        box = [(west, south + 1), (west + 5, south + 1), (west + 5, south), (west, south)]
        corners.append([((x + 180) % 360 - 180, y) for x, y in box] if place % 3 else NOWHERE)
        days.append(np.datetime64(int(generator.integers(-40, 400)), "D") if place % 5 else None)
    items = Items.of(
        labels,
        [id_of(number) for number in numbers],
        generator.integers(0, 2, (count, len(labels))) & generator.integers(0, 2, (count, 1)),
        paths=[f"{number}.png" for number in numbers],
        splits=generator.choice(SPLITS, count).tolist(),
        sources=generator.choice(["S2", ""], count).tolist(),
        footprints=corners,
        dates=days,
    )
    pictures = [b"\xff\xd8 jpeg %d" % number if number % 4 else None for number in numbers]
    return items, vectors.astype(np.float32), pictures


class Made:
    """An index of one engine; `again` opens it as another process would, `publish` makes a new version of it."""

    def __init__(self, kind, folder, uri, items, vectors, pictures):
        self.kind, self.root = kind, folder / f"index {next(_names)}"
        self.files = kind in ("files", "hashing")
        self.address = Address(uri, f"tiles_{next(_names)}")
        self.publish(items, vectors, pictures)

    def publish(self, items, vectors, pictures):
        if self.files:
            kind = "brute_force" if self.kind == "files" else self.kind
            build_index(self.root, items, np.asarray(vectors), info={}, thumbnails=pictures, kind=kind, progress=False)
        else:
            vectors = np.asarray(vectors)
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            source = Source(items, vectors, pictures, {}, f"source {next(_names)}")
            fill(self.address, source, kind=self.kind, discard_changes=True, progress=False)

    def again(self):
        return Index.open(self.root, verify=False) if self.files else MilvusIndex.open(self.address)


class Model:
    """A dictionary of ids to (description, unit vector, picture)."""

    def __init__(self, items, vectors, pictures):
        self.rows = {}
        self.upsert(items, vectors, pictures)

    def upsert(self, items, vectors, pictures):
        for place, id_ in enumerate(items.ids):
            vector = np.asarray(vectors[place], np.float64)
            self.rows[id_] = items.describe(place), vector / np.linalg.norm(vector), pictures[place] or None

    def relabel(self, label, holds):
        changed = {}
        for id_, held in holds.items():
            if id_ in self.rows and (label in self.rows[id_][0]["labels"]) != held:
                item, *rest = self.rows[id_]
                labels = [name for name in item["labels"] if name != label] + [label] * held
                self.rows[id_] = ({**item, "labels": labels}, *rest)
                changed[id_] = held
        return changed

    def matching(self, filter, without=()):
        return [id_ for id_, (item, *_) in self.rows.items() if keeps(filter, item) and id_ not in without]

    def scores(self, query, ids):
        query = np.asarray(query, np.float64) / np.linalg.norm(query)
        return {id_: float(self.rows[id_][1] @ query) for id_ in ids}


def keeps(filter, item):
    """Whether an item meets a filter, from its description."""
    held = set(item["labels"])
    if filter is None:
        return True
    if (filter.any_of and not held & set(filter.any_of)) or not set(filter.all_of) <= held:
        return False
    if held & set(filter.none_of) or (filter.split and (item["split"] or "") not in filter.split):
        return False
    if (filter.since is not None or filter.until is not None) and item["date"] is None:
        return False
    if filter.since is not None and item["date"] < str(filter.since):
        return False
    if filter.until is not None and item["date"] > str(filter.until):
        return False
    return filter.bbox is None or (item["footprint"] is not None and touches(item["footprint"], filter.bbox))


def touches(footprint, box):
    west, south, east, north = box
    longitudes = [x for x, _ in footprint]
    if max(longitudes) - min(longitudes) > 180:
        longitudes = [x + 360 * (x < 0) for x in longitudes]
    latitudes = [y for _, y in footprint]
    if min(latitudes) > north or max(latitudes) < south:
        return False
    east += 360 * (west > east)
    return any(min(longitudes) <= east + turn and max(longitudes) >= west + turn for turn in (-360, 0, 360))


def some_filter(generator, labels):
    """Conditions of all kinds, some of them together; None for none."""

    def few():
        return tuple(generator.choice(labels, int(generator.integers(1, 4)), replace=False).tolist())

    given = {}
    for name in ("any_of", "all_of", "none_of"):
        if generator.random() < 0.25:
            given[name] = few()[: 1 if name == "all_of" else 3]
    if generator.random() < 0.2:
        given["split"] = tuple(generator.choice(SPLITS[:3], 2, replace=False).tolist())
    if generator.random() < 0.2:
        given["since"] = np.datetime64(int(generator.integers(-50, 300)), "D")
    if generator.random() < 0.2:
        given["until"] = np.datetime64(int(generator.integers(300, 420)), "D")
    if generator.random() < 0.25:
        west, south = generator.uniform(-180, 180), generator.uniform(-90, 60)
        given["bbox"] = (west, south, (west + 80 + 180) % 360 - 180, south + 30)
    return Filter(**given) if given else None


def check_hits(model, hits, query, k, filter, exact, without=()):
    """The right number of right items with their right scores; the very best ones where it is exact. Gives recall."""
    matching = model.matching(filter, without)
    scores = model.scores(query, matching)
    assert len(hits) == min(k, len(matching)), "a filter never costs results"
    assert len({hit.id for hit in hits}) == len(hits) and {hit.id for hit in hits} <= set(matching)
    np.testing.assert_allclose([hit.score for hit in hits], [scores[hit.id] for hit in hits], rtol=0, atol=2e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    best = sorted(scores.values(), reverse=True)[:k]
    if exact:
        np.testing.assert_allclose([hit.score for hit in hits], best, rtol=0, atol=2e-6)
    return 1.0 if not best else sum(hit.score >= best[-1] - 2e-6 for hit in hits) / len(best)
