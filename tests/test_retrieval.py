import json
import math
import re

import numpy as np
import pytest

from macl_tf.evaluation.report import RetrievalReport, describe
from macl_tf.evaluation.retrieval import compare_table, embed, evaluate, nearest
from tests.oracles import ranking as oracle

EXACT = {"rel": 1e-9, "abs": 1e-12}


def lattice(generator, rows, width=8):
    """Rows of four entries +-1/2: norm 1, and every dot product a multiple of 1/4, exactly. So: many ties."""
    signs = generator.choice([-0.5, 0.5], (rows, width))
    mask = np.argsort(generator.random((rows, width)), axis=1) < 4
    return signs * mask


def generated(seed, queries=21, items=83, labels=7):
    generator = np.random.default_rng(seed)
    share = np.array([0.5, 0.3, 0.3, 0.1, 0.05, 0.03, 0.0])[:labels]
    query_labels, item_labels = ((generator.random((n, labels)) < share).astype("uint8") for n in (queries, items))
    query_labels[2] = item_labels[5] = 0
    return lattice(generator, queries), query_labels, lattice(generator, items), item_labels


def cosines(a, b):
    """Float64 loops."""

    def unit(row):
        norm = math.sqrt(sum(x * x for x in row))
        return [x / norm if norm else 0.0 for x in row]

    a, b = ([unit(row) for row in np.asarray(x, float).tolist()] for x in (a, b))
    return [[math.fsum(x * y for x, y in zip(p, q, strict=True)) for q in b] for p in a]


def check(report, expected):
    means, left_out, by_label = expected
    assert set(report.values) == set(means)
    for key, value in means.items():
        assert report.values[key] == (None if value is None else pytest.approx(value, **EXACT)), key
        assert report.left_out[key] == left_out[key], key
    for entry, value in zip(report.per_label, by_label, strict=True):
        figures = {key: entry[key] for key in entry if key == "ap" or "@" in key}
        if value:
            assert figures == pytest.approx(value, **EXACT)
        else:
            assert set(figures.values()) == {None}


# ---------------------------------------------------------------- evaluate


def test_by_hand():
    # One query with labels {0, 1}; items by falling cosine: {0}, {2}, {0, 1}.
    report = evaluate(
        [[1.0, 0.0]],
        [[1, 1, 0]],
        [[0.0, 1.0], [3.0, 0.3], [1.0, 1.0]],
        [[1, 1, 0], [1, 0, 0], [0, 0, 1]],
        k=2,
        precision_k=(1, 2),
        label_counts=[9, 2, 5],
    )
    half = 1 / math.log2(3)
    assert report["map_any"] == pytest.approx((1 / 1 + 2 / 3) / 2)  # hits at 1 and 3
    assert report["map_jaccard50"] == pytest.approx((1 / 1 + 2 / 3) / 2)  # J = 1/2, 0, 1
    assert report["ndcg@2_jaccard"] == pytest.approx(0.5 / (1 + 0.5 * half))
    assert report["ndcg@2_shared"] == pytest.approx(1 / (3 + half))  # 2^1 - 1 against 2^2 - 1 and 2^1 - 1
    assert report["ndcg@2_cosine"] == pytest.approx(math.sqrt(0.5) / (1 + math.sqrt(0.5) * half))
    assert report["wap@2"] == 1.0  # ACG@1 = 1, the only hit
    assert report["acg@2"] == 0.5  # gains 1, 0
    assert (report["precision@1"], report["precision@2"]) == (1.0, 0.5)
    assert (report["recall@1"], report["recall@2"], report["r_precision"]) == (0.5, 0.5, 0.5)
    # Label 0 at ranks 1 and 3: 5/6. Label 1 at rank 3: 1/3. Label 2 has no query. Rarest third of 3 labels: label 1.
    assert report["map_per_label"] == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert report["map_rarest_third"] == pytest.approx(1 / 3)
    assert report.left_out["map_per_label"] == 1
    assert [entry["rare"] for entry in report.per_label] == [False, True, False]
    assert [entry["queries"] for entry in report.per_label] == [1, 1, 0]
    assert [entry["train_count"] for entry in report.per_label] == [9, 2, 5]
    assert (report.num_queries, report.num_database) == (1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [3, 83, 200])
def test_equals_the_loops_with_ties(dtype, k):
    queries, query_labels, items, item_labels = generated(1)
    counts = [50, 40, 30, 5, 4, 3, 0]
    report = evaluate(
        queries.astype(dtype),
        query_labels,
        items.astype(dtype),
        item_labels,
        k=k,
        precision_k=(1, 5, 100),
        label_counts=counts,
    )
    expected = oracle.evaluate(
        cosines(queries, items), query_labels.tolist(), item_labels.tolist(), [-1] * 21, k, (1, 5, 100), None, counts
    )
    check(report, expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_leave_one_out_equals_the_loops(dtype):
    _, _, items, item_labels = generated(2)
    report = evaluate(items.astype(dtype), item_labels, k=10, map_k=20)
    expected = oracle.evaluate(
        cosines(items, items), item_labels.tolist(), item_labels.tolist(), range(83), 10, (1, 10, 100), 20
    )
    check(report, expected)


def test_identity_excludes_not_distance():
    queries, query_labels, items, item_labels = generated(3)
    items[40] = queries[4]  # equal, but another image: stays
    query_ids = [f"image {q}" for q in range(21)]
    database_ids = [f"image {j}" if j % 2 else f"other {j}" for j in range(83)]
    report = evaluate(
        queries, query_labels, items, item_labels, query_ids=query_ids, database_ids=np.array(database_ids), k=7
    )
    own = [q if q % 2 else -1 for q in range(21)]
    check(report, oracle.evaluate(cosines(queries, items), query_labels.tolist(), item_labels.tolist(), own, 7))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_block_size_and_workers_change_nothing(dtype):
    generator = np.random.default_rng(4)
    _, query_labels, _, item_labels = generated(4, 150, 333)
    queries, items = (generator.standard_normal((n, 37)).astype(dtype) for n in (150, 333))
    reports = [
        evaluate(queries, query_labels, items, item_labels, block_size=block_size, workers=workers)
        for block_size in (1, 7, 64, 150)
        for workers in (1, 2)
    ]
    assert all(report == reports[0] for report in reports[1:])


@pytest.mark.parametrize("width", [3, 17, 100, 129])
def test_equal_rows_tie(width):
    # BLAS adds a row in the middle and a row at the end of a matrix in different orders; they must tie all the same.
    generator = np.random.default_rng(width)
    for dtype in (np.float32, np.float64):
        rows = np.tile(generator.standard_normal((1, width)), (211, 1)).astype(dtype)
        queries = generator.standard_normal((70, width)).astype(dtype)
        _, positions = nearest(queries, rows, k=211)
        np.testing.assert_array_equal(positions, np.tile(np.arange(211), (70, 1)))


def test_scale_does_not_matter_and_zero_rows_are_allowed():
    queries, query_labels, items, item_labels = generated(5)
    queries[3] = items[7] = 0
    report = evaluate(queries, query_labels, items, item_labels)
    scales = 2.0 ** np.arange(-100, -100 + 83)[:, None]
    assert evaluate(queries * 2.0**300, query_labels, items * scales, item_labels) == report
    check(report, oracle.evaluate(cosines(queries, items), query_labels.tolist(), item_labels.tolist(), [-1] * 21))


def test_nothing_relevant_anywhere():
    report = evaluate([[1.0, 0.0]], [[1, 0]], [[1.0, 0.0]], [[0, 1]])
    undefined = {key for key, value in report.values.items() if value is None}
    assert {"map_any", "map_jaccard50", "r_precision", "recall@10", "wap@100", "map_per_label"} < undefined
    assert report.values["precision@10"] == report.values["acg@100"] == 0.0
    assert report.left_out["map_any"] == 1 and report.left_out["precision@10"] == 0
    assert math.isnan(report["map_any"])
    assert "-" in report.table()


def test_perfect_embedding_scores_one():
    labels = np.repeat(np.eye(4, dtype=int), 6, axis=0)
    report = evaluate(labels.astype(np.float32), labels, precision_k=(5,))
    for key, value in report.values.items():
        assert value == 1.0 or key == "acg@100", key
    assert report["acg@100"] == pytest.approx(5 / 23)  # 5 matches among the 23 other items


GOOD = {
    "query_embeddings": [[1.0, 0.0]],
    "query_labels": [[1, 0]],
    "database_embeddings": [[1.0, 0.0], [0.0, 1.0]],
    "database_labels": [[1, 0], [0, 1]],
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query_embeddings": [1.0, 0.0]}, r"query_embeddings must have shape \(images, dimensions\).* got \(2,\)"),
        ({"database_embeddings": np.zeros((0, 2))}, r"database_embeddings must have shape .* got \(0, 2\)"),
        ({"database_embeddings": [[1.0], [2.0]]}, "must have the same width, got 2 and 1"),
        ({"database_embeddings": [[1.0, 0.0], [np.nan, 1.0]]}, "database_embeddings must be finite, got nan in row 1"),
        ({"query_embeddings": [[np.inf, 0.0]]}, "query_embeddings must be finite, got inf in row 0"),
        ({"query_labels": [[2, 0]]}, "query_labels must hold only 0 and 1, got 2 in row 0, column 0"),
        ({"query_labels": [[1, 0, 0]]}, "must have the same columns, got 3 and 2"),
        ({"query_labels": [[1, 0], [1, 0]]}, "query_embeddings and query_labels must have the same rows, got 1 and 2"),
        ({"database_labels": [[1, 0]]}, "database_embeddings and database_labels must have the same rows"),
        ({"database_labels": None}, "must be given together"),
        ({"k": 0}, "k must be a whole number >= 1, got 0"),
        ({"precision_k": [0]}, "precision_k must be a whole number >= 1, got 0"),
        ({"label_names": ["a"]}, "label_names must name each of the 2 labels, got 1"),
        ({"label_counts": [1, 2, 3]}, "label_counts must hold 2 whole numbers"),
        ({"label_counts": [1, -2]}, "label_counts must hold 2 whole numbers"),
        ({"query_ids": ["a"]}, "query_ids and database_ids must be given together"),
        ({"query_ids": ["a"], "database_ids": ["a"]}, "must have 1 and 2 entries, got 1 and 1"),
        ({"query_ids": ["a"], "database_ids": ["b", "b"]}, "database_ids must differ from each other, got 'b'"),
        ({"database_embeddings": None, "database_labels": None, "query_ids": [1]}, "need database_embeddings"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**{**GOOD, **arguments})


def test_progress_bar(capsys):
    evaluate(**GOOD, progress=True)
    assert "ranking" in capsys.readouterr().err
    evaluate(**GOOD)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------- report


def test_report_survives_json():
    queries, query_labels, items, item_labels = generated(6)
    report = evaluate(queries, query_labels, items, item_labels, label_names=[f"name {c}" for c in range(7)])
    again = RetrievalReport.from_dict(json.loads(json.dumps(report.to_dict(), allow_nan=False)))
    assert again == report
    assert again.per_label[3]["name"] == "name 3"
    with pytest.raises(ValueError, match="without left_out"):
        RetrievalReport.from_dict({"map_any": 0.5, "per_label": [], "num_queries": 1, "num_database": 1})
    with pytest.raises(KeyError, match="no metric 'map' in this report; it has ndcg@100_jaccard"):
        report["map"]


def test_table_names_every_metric():
    queries, query_labels, items, item_labels = generated(7)
    report = evaluate(queries, query_labels, items, item_labels, k=50, map_k=30, precision_k=(5,))
    lines = report.table().splitlines()
    assert lines[0] == "21 queries, database of 83"
    assert len(lines) == 3 + len(report.values)
    for key, value in report.values.items():
        assert describe(key) != key
        assert any(line.startswith(describe(key)) and f"{value:.4f}" in line for line in lines), key
    assert describe("ndcg@50_shared") == "NDCG@50, gain 2^shared - 1"
    assert describe("map@30_any") == "mAP@30, shares a label"
    assert len({len(line) for line in lines[1:]}) == 1  # aligned
    *by_label, mean = report.table(per_label=True).splitlines()[-8:]
    defined = [[entry[key] for entry in report.per_label] for key in ("ap", "precision@5", "recall@5", "hit@5")]
    assert re.split(r"  +", mean)[3:] == [f"{np.mean([v for v in values if v is not None]):.4f}" for values in defined]
    counts = [int(re.split(r"  +", line)[1]) for line in by_label]
    assert counts == sorted(item_labels.sum(axis=0).tolist())  # rarest first
    assert ["(rare)" in line for line in by_label] == [False, True, True, False, False, False, False]


def test_compare_table():
    queries, query_labels, items, item_labels = generated(8)
    first = evaluate(queries, query_labels, items, item_labels)
    second = evaluate(-queries, query_labels, items, item_labels, precision_k=(3,))
    reports = {"untrained": first, "tr|ained": second}
    text = compare_table(reports)
    row = next(line for line in text.splitlines() if line.startswith("mAP per label, rarest third"))
    assert row.split()[-2:] == [f"{first['map_rarest_third']:.4f}", f"{second['map_rarest_third']:.4f}"]
    assert next(line for line in text.splitlines() if line.startswith("Precision@3,")).split()[-2] == "-"
    assert f"of {len(queries)} queries match nothing in the database" in text
    with pytest.raises(ValueError, match="at least one report"):
        compare_table({})


# ---------------------------------------------------------------- nearest and embed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearest_equals_the_loops(dtype):
    queries, _, items, _ = generated(9, queries=70)
    similarities = cosines(queries, items)
    scores, positions = nearest(queries.astype(dtype), items.astype(dtype), k=9)
    expected = [oracle.ranking(row, -1)[:9] for row in similarities]
    assert positions.tolist() == expected
    assert scores.dtype == dtype
    assert scores.tolist() == [[row[j] for j in order] for row, order in zip(similarities, expected, strict=True)]
    _, alone = nearest(items.astype(dtype), k=500)
    assert alone.tolist() == [oracle.ranking(row, j) for j, row in enumerate(cosines(items, items))]


def test_nearest_excludes_by_identity():
    _, positions = nearest([[1.0, 0.0]], [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], 5, query_ids=[7], database_ids=[7, 8, 9])
    assert positions.tolist() == [[1, 2]]
    scores, positions = nearest([[1.0, 0.0]], k=3)
    assert scores.shape == positions.shape == (1, 0)
    with pytest.raises(ValueError, match="k must be a whole number >= 1, got 0"):
        nearest([[1.0]], k=0)


class Model:
    """Mean over pixels; remembers what it was given."""

    def __init__(self):
        self.shapes, self.dtypes = [], set()

    def predict_on_batch(self, batch):
        self.shapes.append(batch.shape)
        self.dtypes.add(batch.dtype.name)
        return batch.mean(axis=(1, 2))


@pytest.mark.parametrize("count", [1, 6, 7, 8])
def test_embed_arrays(count):
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    model = Model()
    result = embed(model, images, batch_size=4, progress=False)
    np.testing.assert_allclose(result, images.mean(axis=(1, 2)), rtol=1e-6)
    assert result.dtype == np.float32
    assert len(set(model.shapes)) == 1 and model.dtypes == {"uint8"}


def test_embed_keras_model_and_dataset():
    import keras
    import tensorflow as tf

    images = np.random.default_rng(1).integers(0, 256, (11, 8, 8, 3), dtype=np.uint8)
    traced = []

    class Traced(keras.layers.Layer):
        def call(self, x):
            traced.append(x.shape)
            return x

    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(Traced()(inputs)))
    traced.clear()
    expected = images.mean(axis=(1, 2))
    np.testing.assert_allclose(embed(model, images, 4, progress=False), expected, rtol=1e-5)
    assert len(traced) == 1  # the last batch of 3 was padded, not traced anew
    dataset = tf.data.Dataset.from_tensor_slices((images, np.zeros((11, 2)))).batch(4)
    np.testing.assert_allclose(embed(model, dataset, progress=False), expected, rtol=1e-5)
    assert len(traced) == 1
    with pytest.raises(ValueError, match="finite dataset"):
        embed(model, dataset.repeat(), progress=False)


def test_embed_errors():
    with pytest.raises(ValueError, match="at least one image"):
        embed(Model(), np.zeros((0, 4, 4, 3)), progress=False)
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        embed(Model(), np.zeros((1, 4, 4, 3)), batch_size=0)


def test_the_memory_order_of_the_labels_does_not_matter():
    generator = np.random.default_rng(4)
    embeddings, labels = generator.standard_normal((20, 6)), generator.integers(0, 2, (20, 5))
    assert evaluate(embeddings, np.asfortranarray(labels)) == evaluate(embeddings, labels)
