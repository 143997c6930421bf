import importlib.util
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from macl_tf import metrics
from tests.oracles import ranking as oracle

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def generated(seed, queries=23, items=57, labels=6, levels=9):
    """Similarities on a grid (most values tie) and labels with empty rows and a label nobody has."""
    generator = np.random.default_rng(seed)
    similarities = generator.integers(-levels, levels + 1, (queries, items)) / levels
    rare = np.array([0.5, 0.4, 0.2, 0.1, 0.05, 0.0])[:labels]
    query_labels = (generator.random((queries, labels)) < rare).astype(np.uint8)
    item_labels = (generator.random((items, labels)) < rare).astype(np.uint8)
    query_labels[0] = item_labels[3] = 0
    return similarities, query_labels, item_labels


# ---------------------------------------------------------------- hand-worked


def test_average_precision_by_hand():
    # Hits at ranks 1, 3, 4 of 5: (1/1 + 2/3 + 3/4) / 3 = 29/36.
    ranked = [1, 0, 1, 1, 0]
    assert metrics.average_precision(ranked) == pytest.approx(29 / 36, rel=1e-15)
    # K = 3 sees 1/1 + 2/3 and divides by min(3, 3).
    assert metrics.average_precision(ranked, k=3) == pytest.approx(5 / 9, rel=1e-15)
    # K = 2 divides by min(2, 3) = 2: a perfect head would be 1.
    assert metrics.average_precision(ranked, k=2) == 0.5
    # Head of a longer ranking with 10 relevant items: (29/12) / 10.
    assert metrics.average_precision(ranked, num_relevant=10) == pytest.approx(29 / 120, rel=1e-15)
    assert metrics.average_precision(ranked, k=50) == metrics.average_precision(ranked)


def test_average_precision_of_rows():
    result = metrics.average_precision([[[1, 0], [0, 1]], [[0, 0], [1, 1]]])
    np.testing.assert_array_equal(result, [[1.0, 0.5], [np.nan, 1.0]])


def test_perfect_ranking_is_exactly_one():
    flags = np.arange(500) < 137
    assert metrics.average_precision(flags) == 1.0
    assert metrics.ndcg(flags * 0.7) == 1.0
    assert metrics.r_precision(flags) == 1.0


def test_ndcg_by_hand():
    # Discounts 1, 1/log2(3) = 0.6309297536, 1/2. DCG = 1 + 3 * 0.63093 + 0; ideal = 3 + 0.63093.
    half = 1 / math.log2(3)
    assert metrics.ndcg([1, 3, 0]) == pytest.approx((1 + 3 * half) / (3 + half), rel=1e-15)
    assert metrics.ndcg([1, 3, 0], k=1) == pytest.approx(1 / 3, rel=1e-15)
    # An item of gain 7 far down still counts for the ideal: 1 / 7.
    assert metrics.ndcg([1], ideal_gains=[0, 1, 7], k=1) == pytest.approx(1 / 7, rel=1e-15)
    assert math.isnan(metrics.ndcg([0, 0]))


def test_discounted_cumulative_gain_by_hand():
    # 3 / log2(2) + 2 / log2(3) + 4 / log2(4) = 3 + 1.2618595071 + 2
    assert metrics.discounted_cumulative_gain([3, 2, 4]) == pytest.approx(5 + 2 / math.log2(3), rel=1e-15)


def test_cumulative_gain_and_weighted_precision_by_hand():
    gains = [2, 0, 1, 3]
    assert metrics.average_cumulative_gain(gains, 2) == 1.0
    assert metrics.average_cumulative_gain(gains) == 1.5
    # ACG at the hits 1, 3, 4: 2/1, 3/3, 6/4; their mean is 1.5, above 1.
    assert metrics.weighted_average_precision(gains) == 1.5
    assert metrics.weighted_average_precision(gains, 2) == 2.0
    # Matches exist, none in the first K: 0, not undefined. No match at all: undefined.
    np.testing.assert_array_equal(metrics.weighted_average_precision([[0, 0, 1], [0, 0, 0]], 2), [0.0, np.nan])


def test_precision_recall_by_hand():
    ranked = [0, 1, 1, 0, 1]
    assert metrics.precision_at_k(ranked, 2) == 0.5
    assert metrics.precision_at_k(ranked, 9) == pytest.approx(3 / 5)
    assert metrics.recall_at_k(ranked, 2) == pytest.approx(1 / 3)
    assert metrics.recall_at_k(ranked, 2, num_relevant=4) == 0.25
    assert metrics.r_precision(ranked) == pytest.approx(2 / 3)
    assert math.isnan(metrics.recall_at_k([0, 0], 1)) and math.isnan(metrics.r_precision([0, 0]))
    assert metrics.precision_at_k([0, 0], 1) == 0.0
    assert math.isnan(metrics.precision_at_k([], 1))


def test_gains_by_hand():
    # Query of 2 labels, items of (4, 1, 3) labels sharing (2, 1, 0).
    shared, sizes = [2, 1, 0], [4, 1, 3]
    assert metrics.gains(shared, 2, sizes, "shared").tolist() == [2, 1, 0]
    assert metrics.gains(shared, 2, sizes, "jaccard").tolist() == [0.5, 0.5, 0]
    np.testing.assert_allclose(
        metrics.gains(shared, 2, sizes, "cosine"), [2 / math.sqrt(8), 1 / math.sqrt(2), 0], rtol=1e-15
    )
    assert metrics.gains(0, 0, 0, "jaccard") == metrics.gains(0, 0, 0, "cosine") == 0
    with pytest.raises(ValueError, match="kind must be one of shared, jaccard, cosine, got 'dice'"):
        metrics.gains(1, 1, 1, "dice")


# ---------------------------------------------------------------- ranking


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rank_orders_ties_by_position(dtype):
    similarities = np.array([[0.5, -0.0, 0.5, 0.0, -0.25, 0.75, -0.25]], dtype)
    assert metrics.rank(similarities).tolist() == [[5, 0, 2, 1, 3, 4, 6]]
    assert metrics.rank(similarities, exclude=[0]).tolist() == [[5, 2, 1, 3, 4, 6, 0]]
    assert metrics.rank(similarities, k=3, exclude=[5]).tolist() == [[0, 2, 1]]
    assert metrics.rank(-similarities, exclude=[-1]).tolist() == [[4, 6, 1, 3, 0, 2, 5]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("k", [None, 1, 7, 400])
def test_rank_is_a_stable_sort(dtype, k):
    generator = np.random.default_rng(3)
    extremes = [np.finfo(dtype).tiny, -np.finfo(dtype).tiny, np.finfo(dtype).max, np.finfo(dtype).min, 0, -0.0]
    pool = np.concatenate([generator.standard_normal(40), extremes]).astype(dtype)
    similarities = generator.choice(pool, (9, 300))
    before = similarities.copy()
    expected = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(metrics.rank(similarities, k), expected)
    np.testing.assert_array_equal(similarities, before)


def test_float64_ranks_what_float32_cannot_tell_apart():
    similarities = np.array([[0.5, 0.5 + 1e-12]])
    assert metrics.rank(similarities).tolist() == [[1, 0]]
    assert metrics.rank(similarities.astype(np.float32)).tolist() == [[0, 1]]


def test_rank_errors():
    with pytest.raises(ValueError, match="got nan for query 1 and database item 0"):
        metrics.rank([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(ValueError, match=r"shape \(queries, database\), got \(2,\)"):
        metrics.rank([1.0, 2.0])
    with pytest.raises(ValueError, match="k must be None or a whole number >= 1, got 0"):
        metrics.rank([[1.0]], k=0)
    for exclude in ([2], [-2], [0, 1]):
        with pytest.raises(ValueError, match="exclude must hold a position below 2"):
            metrics.rank([[1.0, 2.0]], exclude=exclude)


# ---------------------------------------------------------------- against the loops


def check_functions(gains, k):
    flags = gains > 0
    cases = [
        (metrics.average_precision(flags, k), lambda g: oracle.average_precision([int(x > 0) for x in g], k)),
        (metrics.ndcg(gains, k=k), lambda g: oracle.ndcg(g, k)),
        (metrics.weighted_average_precision(gains, k), lambda g: oracle.weighted_average_precision(g, k)),
        (metrics.average_cumulative_gain(gains, k), lambda g: sum(g[:k]) / len(g[:k])),
    ]
    for result, expected in cases:
        values = [expected(row) for row in gains.tolist()]
        np.testing.assert_allclose(result, [np.nan if v is None else v for v in values], **EXACT)


@pytest.mark.parametrize("k", [None, 1, 5, 40, 90])
def test_functions_equal_the_loops(k):
    generator = np.random.default_rng(11)
    gains = generator.integers(0, 4, (30, 40)) * (generator.random((30, 40)) < 0.3)
    gains[4] = 0
    check_functions(gains.astype(float), k)


@pytest.mark.parametrize("own", ["nobody", "everybody", "some"])
@pytest.mark.parametrize(("k", "map_k"), [(5, None), (57, 7), (500, 1), (1, 57), (56, 56)])
def test_engine_equals_the_loops(own, k, map_k):
    similarities, query_labels, item_labels = generated(1)
    exclude = {
        "nobody": np.full(23, -1),
        "everybody": np.arange(23) * 2,
        "some": np.where(np.arange(23) % 3, -1, np.arange(23)),
    }[own]
    cutoffs = (1, 6, 70)
    result = metrics.score_queries(
        similarities, query_labels, item_labels, exclude=exclude, k=k, precision_k=cutoffs, map_k=map_k
    )
    for q in range(23):
        expected, labels = oracle.scores(
            similarities[q].tolist(), query_labels[q].tolist(), item_labels.tolist(), exclude[q], k, cutoffs, map_k
        )
        assert result.values.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(result.values[key][q], np.nan if value is None else value, **EXACT, err_msg=key)
        row = [labels[c]["ap"] if c in labels else np.nan for c in range(6)]
        np.testing.assert_allclose(result.label_ap[q], row, **EXACT)
        for c, values in labels.items():
            recall = result.label_hits[q, c] / result.label_total[q, c]
            np.testing.assert_allclose(recall, [values[f"recall@{cutoff}"] for cutoff in cutoffs], **EXACT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_block_size_and_workers_change_nothing(dtype):
    similarities, query_labels, item_labels = generated(2)
    similarities = similarities.astype(dtype)
    results = [
        metrics.score_queries(source, query_labels, item_labels, k=9, block_size=block_size, workers=workers)
        for block_size in (1, 7, 23)
        for workers in (1, 2)
        for source in (similarities, lambda start, stop: similarities[start:stop].copy())
    ]
    for other in results[1:]:
        np.testing.assert_array_equal(other.label_ap, results[0].label_ap)
        for key, value in results[0].values.items():
            np.testing.assert_array_equal(other.values[key], value, err_msg=key)


def test_many_labels():
    # More labels than bits in any machine word, in the label sets and in the gain tables.
    generator = np.random.default_rng(5)
    query_labels, item_labels = (generator.random((n, 131)) < 0.1 for n in (5, 40))
    similarities = generator.random((5, 40))
    result = metrics.score_queries(similarities, query_labels, item_labels, k=10)
    for q in range(5):
        expected, _ = oracle.scores(
            similarities[q].tolist(), query_labels[q].tolist(), item_labels.tolist(), -1, 10, (1, 10, 100), None
        )
        for key, value in expected.items():
            np.testing.assert_allclose(result.values[key][q], np.nan if value is None else value, **EXACT, err_msg=key)


def test_labels_nobody_has_change_nothing():
    similarities, query_labels, item_labels = generated(4)
    plain = metrics.score_queries(similarities, query_labels, item_labels)
    more = metrics.score_queries(
        similarities, *(np.pad(labels, ((0, 0), (2, 5))) for labels in (query_labels, item_labels))
    )
    for key, value in plain.values.items():
        np.testing.assert_array_equal(more.values[key], value, err_msg=key)
    np.testing.assert_array_equal(more.label_ap[:, 2:-5], plain.label_ap)


def test_database_of_the_query_alone():
    result = metrics.score_queries([[1.0]], [[1]], [[1]], exclude=[0])
    assert all(np.isnan(value).all() for value in result.values.values())
    assert np.isnan(result.label_ap).all()


def test_progress_is_counted():
    similarities, query_labels, item_labels = generated(1)
    done = []
    metrics.score_queries(similarities, query_labels, item_labels, block_size=10, on_block=done.append)
    assert done == [10, 10, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a whole number >= 1, got 0"),
        ({"k": None}, "k must be a whole number >= 1, got None"),
        ({"map_k": -1}, "map_k must be None or a whole number >= 1, got -1"),
        ({"precision_k": (1, 2.5)}, "precision_k must be a whole number >= 1, got 2.5"),
        ({"block_size": 0}, "block_size and workers must be >= 1"),
        ({"workers": 0}, "block_size and workers must be >= 1"),
        ({"exclude": [5]}, "exclude must hold 1 positions below 2"),
        ({"similarities": [[1.0]]}, r"similarities must have shape \(1, 2\) to fit the labels, got \(1, 1\)"),
        ({"similarities": [[1.0, np.inf]]}, "similarities must be finite, got inf"),
        ({"query_labels": [[1]]}, "must have the same columns, got 1 and 2"),
        ({"query_labels": [[2, 0]]}, "query_labels must hold only 0 and 1"),
        ({"query_labels": [[np.nan, 0]]}, "query_labels must hold only 0 and 1"),
        ({"database_labels": np.zeros((0, 2))}, "database_labels must be multi-hot"),
        ({"query_labels": [1, 0]}, "query_labels must be multi-hot"),
    ],
)
def test_engine_errors(arguments, message):
    good = {"similarities": [[0.1, 0.2]], "query_labels": [[1, 0]], "database_labels": [[1, 0], [0, 1]]}
    with pytest.raises(ValueError, match=message):
        metrics.score_queries(**{**good, **arguments})


def test_function_errors():
    for k in (0, -3, 1.5, True):
        with pytest.raises(ValueError, match="k must be None or a whole number >= 1"):
            metrics.average_precision([1, 0], k=k)
    with pytest.raises(ValueError, match="got 1 where the ranking alone holds 2 relevant items"):
        metrics.average_precision([1, 1], num_relevant=1)


# ---------------------------------------------------------------- against other libraries


def untied(seed):
    """Labels of `generated`, similarities without ties (other libraries break them in their own ways)."""
    _, query_labels, item_labels = generated(seed)
    similarities = np.random.default_rng(seed).permuted(np.tile(np.linspace(0, 1, 57), (23, 1)), axis=1)
    keep = (query_labels @ item_labels.T > 0).any(axis=1)  # neither library has "undefined"
    return similarities[keep], query_labels[keep], item_labels


@pytest.mark.parametrize("k", [1, 10, 57])
def test_scikit_learn(k):
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is in the extra `test`")
    similarities, query_labels, item_labels = untied(6)
    result = metrics.score_queries(similarities, query_labels, item_labels, k=k)
    shared = query_labels.astype(float) @ item_labels.T
    sizes = query_labels.sum(1)[:, None], item_labels.sum(1)
    gains = {"shared": 2**shared - 1} | {kind: metrics.gains(shared, *sizes, kind) for kind in ("jaccard", "cosine")}
    for kind, values in gains.items():
        expected = [sklearn.ndcg_score([v], [s], k=k) for v, s in zip(values, similarities, strict=True)]
        np.testing.assert_allclose(result.values[f"ndcg@{k}_{kind}"], expected, **EXACT)
    relevant = shared > 0
    expected = [sklearn.average_precision_score(r, s) for r, s in zip(relevant, similarities, strict=True)]
    np.testing.assert_allclose(result.values["map_any"], expected, **EXACT)
    mean = sklearn.label_ranking_average_precision_score(relevant, similarities)
    np.testing.assert_allclose(result.values["map_any"].mean(), mean, **EXACT)


RANX = """
import json, sys
import ranx
qrels, run, names = json.loads(sys.stdin.read())
scores = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), names, return_mean=False)
print(json.dumps({name: list(map(float, values)) for name, values in scores.items()}))
"""


@pytest.mark.slow
def test_ranx():
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("ranx is in the extra `test`")
    similarities, query_labels, item_labels = untied(7)
    shared = query_labels.astype(int) @ item_labels.T
    qrels = {f"q{q:02}": {f"d{j:02}": int(o) for j, o in enumerate(row) if o} for q, row in enumerate(shared)}
    run = {f"q{q:02}": {f"d{j:02}": float(s) for j, s in enumerate(row)} for q, row in enumerate(similarities)}
    pairs = {
        "map": "map_any",
        "map@7": "map@7_any",
        "ndcg_burges@10": "ndcg@10_shared",
        "precision@10": "precision@10",
        "recall@10": "recall@10",
        "r-precision": "r_precision",
    }
    # Interpreted, in a process of its own: compiling these few loops with numba takes a minute or two.
    process = subprocess.run(
        [sys.executable, "-c", RANX],
        input=json.dumps([qrels, run, list(pairs)]),
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        timeout=240,
    )
    assert process.returncode == 0, process.stderr
    expected = json.loads(process.stdout.splitlines()[-1])
    result = metrics.score_queries(similarities, query_labels, item_labels, k=10).values
    result |= metrics.score_queries(similarities, query_labels, item_labels, k=10, map_k=7).values
    for theirs, ours in pairs.items():
        if theirs == "map@7":  # ranx divides by all relevant items, method.md by min(K, relevant)
            factor = (shared > 0).sum(axis=1) / np.minimum((shared > 0).sum(axis=1), 7)
            expected[theirs] = np.array(expected[theirs]) * factor
        np.testing.assert_allclose(result[ours], expected[theirs], **EXACT, err_msg=ours)
