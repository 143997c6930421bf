"""Exact and approximate search against NumPy's own sort, and against each other."""

import json
import os
import threading
import tracemalloc

import numpy as np
import pytest

from macl_tf.evaluation.retrieval import nearest
from macl_tf.index.searchers import exact, scann
from macl_tf.index.searchers.exact import ExactSearcher
from macl_tf.index.searchers.scann import OutOfReachError, ScannSearcher, kind_for, scann_module, search_module
from macl_tf.index.searchers.tuning import Setting, sample_queries, tune


def unit(size, dim=32, seed=0, clusters=20):
    """Unit vectors around some centres."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, dim))
    rows = centres[generator.integers(0, clusters, size)] + generator.standard_normal((size, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def oracle(vectors, queries, k, allowed=None):
    """Cosines in float64, rounded to float32; ties by position."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    places = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    order = np.argsort(-scores[:, places], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores[:, places], order, axis=1), places[order]


def recall(found, true):
    """The share of the true neighbours (Q, K) that were found (Q, J)."""
    return np.mean([np.isin(line, row).mean() for line, row in zip(true, found, strict=True)])


@pytest.fixture(scope="module")
def rows():
    return unit(4000)


@pytest.fixture(scope="module")
def tree(rows):
    return ScannSearcher.build(rows, kind="tree", num_queries=500, progress=False)


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in {"_QUERIES": 3, "_ROWS": 64, "_GROUPS": 8}.items():
        monkeypatch.setattr(exact, name, value)


@pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 200])
@pytest.mark.parametrize("k", [1, 3, 70, 500])
def test_exact_search_is_a_sort(small_blocks, size, k):
    vectors, queries = unit(size, 5, seed=size), unit(8, 5, seed=1)
    vectors[size // 2 :] = vectors[: size - size // 2]  # every vector twice: ties
    scores, positions = ExactSearcher(vectors).search(queries, k)
    expected, order = oracle(vectors, queries, k)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=6e-8)
    assert scores.dtype == np.float32 and positions.dtype == np.int64


def test_exact_search_in_blocks_of_its_own_size():
    vectors, queries = unit(40_000, 16), unit(60, 16, seed=1)
    for k in (1, 10, 1000):
        np.testing.assert_array_equal(ExactSearcher(vectors).search(queries, k)[1], oracle(vectors, queries, k)[1])


def test_exact_search_ranks_as_the_metrics_do():
    vectors, queries = unit(3000), unit(20, seed=1)
    vectors[100:200] = vectors[:100]
    scores, positions = ExactSearcher(vectors).search(queries, 50)
    expected_scores, expected = nearest(queries, vectors, 50)
    np.testing.assert_array_equal(positions, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-7)


def test_all_vectors_equal(small_blocks):
    vectors = np.repeat(unit(1), 300, axis=0)
    scores, positions = ExactSearcher(vectors).search(unit(4, seed=1), 5)
    np.testing.assert_array_equal(positions, np.tile(np.arange(5), (4, 1)))
    assert (scores == scores[:, :1]).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_exact_search_among_the_allowed(small_blocks, share):
    vectors, queries = unit(500), unit(9, seed=1)
    allowed = np.random.default_rng(2).random(500) < share
    scores, positions = ExactSearcher(vectors).search(queries, 20, allowed=allowed)
    assert positions.shape == scores.shape == (9, min(20, allowed.sum()))
    np.testing.assert_array_equal(positions, oracle(vectors, queries, 20, allowed)[1])


def test_a_query_finds_the_same_alone_and_in_a_batch():
    vectors, queries = unit(20_001), unit(70, seed=1)
    searcher = ExactSearcher(vectors)
    together = searcher.search(queries, 10)
    for number in range(0, 70, 7):
        alone = searcher.search(queries[number : number + 1], 10)
        for one, all_ in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], all_[number])


def test_exact_search_takes_bounded_memory(tmp_path):
    np.save(tmp_path / "vectors.npy", unit(200_000, 16))
    searcher = ExactSearcher(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    queries = unit(500, 16, seed=1)
    tracemalloc.start()
    searcher.search(queries, 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64e6  # all scores at once would be 400 MB


def test_nothing_to_search_or_to_search_for():
    scores, positions = ExactSearcher(np.empty((0, 4), np.float32)).search(np.eye(4), 3)
    assert scores.shape == positions.shape == (4, 0)
    scores, positions = ExactSearcher(unit(10, 4)).search(np.empty((0, 4)), 3)
    assert scores.shape == positions.shape == (0, 3)


def test_queries_of_any_norm():
    vectors, queries = unit(100), unit(5, seed=1)
    plain, scaled = (ExactSearcher(vectors).search(q, 5) for q in (queries, 37.5 * queries.astype(np.float64)))
    np.testing.assert_array_equal(plain[1], scaled[1])
    np.testing.assert_allclose(plain[0], scaled[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["exact", "tree"])
def test_bad_queries_are_refused(kind, rows, tree):
    searcher = tree if kind == "tree" else ExactSearcher(rows)
    good = unit(2, seed=1)
    for queries, words in (
        (good[:, :31], "queries must have the 32 dimensions of the index, got 31"),
        (good[0], r"queries must be .* of shape \(32,\)"),
        (np.where(np.arange(32) == 3, np.nan, good), "finite and not zero, got row 0"),
        (np.where(np.arange(32) == 3, np.inf, good), "finite and not zero, got row 0"),
        (good * np.array([[1], [0]]), "got row 1: zero"),
        (good.astype(str), "queries must be numbers"),
    ):
        with pytest.raises(ValueError, match=words):
            searcher.search(queries, 3)
    for k in (0, -1, 2.5, True, None):
        with pytest.raises(ValueError, match="k must be a whole number >= 1"):
            searcher.search(good, k)


@pytest.mark.parametrize("size", [300, 20_000])  # both ways of looking for candidates, and two blocks
def test_tiles_that_are_nearly_equal_are_ranked_as_in_float64(size):
    """Their float32 products are in another order than their cosines: rounding must have a margin."""
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal(128) + 1e-3 * generator.standard_normal((size, 128))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[:40]
    scores, positions = ExactSearcher(vectors).search(queries, 10)
    expected, order = oracle(vectors, queries, 10)
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_array_equal(scores, expected)


def test_kinds_by_size():
    assert [kind_for(n) for n in (0, 19_999, 20_000, 99_999, 100_000, 10**8)] == [
        *("brute_force", "brute_force", "hashing", "hashing", "tree", "tree")
    ]


@pytest.mark.parametrize("kind", ["hashing", "tree"])
@pytest.mark.parametrize("target", [0.8, 0.95])
def test_the_target_holds_for_queries_never_seen(rows, kind, target):
    searcher = ScannSearcher.build(rows, kind=kind, recall_target=target, num_queries=500, progress=False)
    assert searcher.parameters["recall"] >= target
    queries = unit(1000, seed=5)
    scores, positions = searcher.search(queries, 10)
    true_scores, true = ExactSearcher(rows).search(queries, 10)
    # Three standard errors of a mean of 1,000 below the target: ScaNN's training has no seed.
    assert recall(positions, true) >= target - 0.02
    assert (np.diff(scores, axis=1) <= 0).all() and (scores[:, 0] <= true_scores[:, 0] + 1e-6).all()
    # What is asked of it grows with k.
    assert recall(searcher.search(queries, 100)[1], ExactSearcher(rows).search(queries, 100)[1]) >= target - 0.05


def test_tuning_takes_the_cheapest_setting_that_reaches_the_target(rows):
    """A search that finds, of the true neighbours, one for each leaf and two for each candidate: known answers."""
    tuning, held_out = sample_queries(rows, 10, 50)
    assert not set(tuning.rows) & set(held_out.rows) and len(tuning.rows) == len(held_out.rows) == 50
    truth = ExactSearcher(rows)
    tried = set()

    def search(queries, k, setting):
        tried.add(setting)
        scores, positions = truth.search(queries, k)
        found = 1 + min(10, setting.leaves, setting.reorder // 2)  # itself, and as many others
        positions[:, found:] = -1
        scores[:, found:] = -np.inf
        return scores, positions

    assert tuning.recalls(search, Setting(4, 100)).tolist() == [0.4] * 50
    chosen = tune(search, tuning, held_out, 0.6, len(rows), 40, 1)
    assert chosen.setting == Setting(6, 13)  # 12 is between the steps
    assert chosen.recall == pytest.approx(0.6)
    assert tune(search, tuning, held_out, 1.0, len(rows), 40, 1).setting == Setting(10, 20)
    assert tune(search, tuning, held_out, 0.6, len(rows), 5, 1) is None
    assert len(tried) < 150


def test_the_longer_the_vectors_the_fewer_leaves_for_more_candidates(rows):
    """A search that finds five of ten with 8 leaves and 12 candidates, or with 2 leaves and 30."""
    samples = sample_queries(rows, 10, 50)
    truth = ExactSearcher(rows)

    def search(queries, k, setting):
        scores, positions = truth.search(queries, k)
        enough = setting.leaves * setting.reorder >= 60 and setting.leaves >= 2
        positions[:, 6 if enough else 1 :] = -1
        return scores, positions

    few, many = (tune(search, *samples, 0.5, 10_000, 100, blocks).setting for blocks in (8, 800))
    assert few.leaves > many.leaves == 2 and few.reorder < many.reorder


def test_recall_is_measured_on_queries_that_took_no_part_in_tuning(rows):
    """A search that does worse on them than on those it was tuned on, as tuning to a sample can."""
    samples = tuning, held_out = sample_queries(rows, 10, 50)
    truth = ExactSearcher(rows)

    def search_finding(others):
        def search(queries, k, setting):
            scores, positions = truth.search(queries, k)
            positions[:, 1 + others[np.array_equal(queries, held_out.queries)] :] = -1
            return scores, positions

        return search

    found = [sample.recalls(search_finding((10, 8)), Setting(1, 1)).mean() for sample in samples]
    assert found == pytest.approx([1.0, 0.8])
    chosen = tune(search_finding((10, 8)), tuning, held_out, 0.7, len(rows), 40, 1)
    assert chosen.recall == pytest.approx(0.8)
    assert tune(search_finding((10, 8)), tuning, held_out, 0.9, len(rows), 40, 1) is None


def test_own_neighbours_are_known_exactly(rows):
    sample, _ = sample_queries(rows, 10, 30)
    for row, query, kth in zip(sample.rows, sample.queries, sample.kth, strict=True):
        others = np.delete(rows.astype(np.float64) @ query, row)
        assert kth == pytest.approx(np.sort(others)[-10], abs=1e-6)


def test_equal_tiles_do_not_spoil_the_recall():
    vectors = unit(3000)
    vectors[:1500] = vectors[0]  # half of the archive is sea
    searcher = ScannSearcher.build(vectors, kind="tree", num_queries=300, progress=False)
    assert searcher.parameters["recall"] >= 0.95


def test_a_target_out_of_reach_is_said(rows, monkeypatch):
    monkeypatch.setattr("macl_tf.index.searchers.scann.tune", lambda *_: None)
    with pytest.raises(
        OutOfReachError, match=r"No setting of a hashing index of these 4,000 vectors reaches recall@10"
    ):
        ScannSearcher.build(rows, kind="hashing", progress=False)


def test_a_saved_index_moves_and_holds_no_pickle(rows, tree, tmp_path):
    (tmp_path / "here").mkdir()
    tree.save(tmp_path / "here")
    parameters = json.loads(json.dumps(tree.parameters))
    os.rename(tmp_path / "here", tmp_path / "there")
    loaded = ScannSearcher.load(tmp_path / "there", parameters)
    queries = unit(300, seed=1)
    for found, expected in zip(loaded.search(queries, 10), tree.search(queries, 10), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert loaded.parameters == tree.parameters and loaded.size == 4000
    for path in (tmp_path / "there").iterdir():
        assert path.suffix in (".npy", ".pb", ".pbtxt")
        assert str(tmp_path).encode() not in path.read_bytes()
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_the_vectors_need_not_be_written_twice(rows, tree, tmp_path):
    (tmp_path / "one" / "scann").mkdir(parents=True)
    np.save(tmp_path / "one" / "vectors.npy", rows)
    tree.save(tmp_path / "one" / "scann", vectors="../vectors.npy")
    assert not (tmp_path / "one" / "scann" / "dataset.npy").exists()
    os.rename(tmp_path / "one", tmp_path / "two")
    loaded = ScannSearcher.load(tmp_path / "two" / "scann", tree.parameters)
    np.testing.assert_array_equal(loaded.search(rows[:50], 10)[1], tree.search(rows[:50], 10)[1])


def test_what_cannot_be_loaded_says_so(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no ScaNN index: scann_assets\.pbtxt is missing"):
        ScannSearcher.load(tmp_path, tree.parameters)
    tree.save(tmp_path)
    with pytest.raises(ValueError, match="holds 4000 vectors, its parameters say 5"):
        ScannSearcher.load(tmp_path, tree.parameters | {"size": 5})
    (tmp_path / "scann_docids.pkl").write_bytes(b"no pickle is ever read")
    ScannSearcher.load(tmp_path, tree.parameters)
    (tmp_path / "hashed_dataset.npy").unlink()
    with pytest.raises(ValueError, match="could not be read by ScaNN"):
        ScannSearcher.load(tmp_path, tree.parameters)


def test_too_few_found_is_said(rows, tree):
    narrow = ScannSearcher(tree._native, tree.parameters | {"leaves_to_search": 1, "reorder": 20})
    scores, positions = narrow._at(rows[:20], 3000, Setting(1, 3000))
    missing = positions < 0
    assert missing[:, -1].all() and not missing[:, 0].any()
    assert (scores[missing] == -np.inf).all() and np.isfinite(scores[~missing]).all()


def test_the_query_itself_and_one_more_are_searched_for_as_tuned(rows, tree, monkeypatch):
    """An answer of 10 asks for 12: itself, and one that says whether there is another page."""
    asked = []
    monkeypatch.setattr(tree, "_at", lambda queries, k, setting: asked.append(setting))
    for k in (1, 10, 12, 13, 100):
        tree.search(rows[:2], k)
    tuned = Setting(tree.parameters["leaves_to_search"], tree.parameters["reorder"])
    assert asked[:3] == [tuned] * 3
    assert tuned.leaves <= asked[3].leaves <= asked[4].leaves and tuned.reorder < asked[3].reorder < asked[4].reorder


def test_no_query_and_more_than_there_are(rows, tree):
    scores, positions = tree.search(np.empty((0, 32), np.float32), 7)
    assert scores.shape == positions.shape == (0, 7) and positions.dtype == np.int64
    assert tree.search(rows[:3], 9999)[1].shape == (3, 4000)


@pytest.mark.parametrize("dim", [1, 3, 127])
def test_any_number_of_dimensions_in_any_memory_order(dim):
    vectors = np.asfortranarray(unit(600, dim))
    for kind in ("hashing", "tree"):
        searcher = ScannSearcher.build(vectors, kind=kind, progress=False)
        assert searcher.parameters["recall"] >= 0.95
        scores, positions = searcher.search(vectors[:50], 5)
        assert positions.shape == (50, 5)
        assert (scores[:, 0] > 1 - 1e-5).mean() > 0.9  # nearly every row finds itself, or its equal


def test_many_threads_search_at_once(rows, tree):
    searchers = {"exact": ExactSearcher(rows), "tree": tree}
    queries = [unit(count, seed=count) for count in (1, 5, 64, 200, 3, 100)]
    expected = {name: [s.search(q, 10)[1] for q in queries] for name, s in searchers.items()}
    failures = []

    def work(start):
        for step in range(30):
            number, name = (start + step) % len(queries), ("exact", "tree")[step % 2]
            if not np.array_equal(searchers[name].search(queries[number], 10)[1], expected[name][number]):
                failures.append((name, number))

    threads = [threading.Thread(target=work, args=(start,)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_scanns_tensorflow_ops_refuse_a_tensorflow_that_they_were_not_built_for(monkeypatch):
    """With which they end in an undefined symbol; search of NumPy arrays does not ask."""
    monkeypatch.setattr("macl_tf.versions.installed", {"tensorflow-cpu": (2, 21)}.get)
    with pytest.raises(ImportError, match=r"need TensorFlow 2\.20, found tensorflow-cpu 2\.21: pip uninstall -y"):
        scann.scann_tensorflow()
    assert scann.scann_pybind() is not None


def test_searching_does_not_wait_for_tensorflow(run_python):
    script = """
import sys
import numpy as np
from macl_tf.index.searchers.scann import ScannSearcher
vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
print(ScannSearcher.build(vectors, kind="hashing", progress=False).search(vectors[:1], 1)[1][0, 0])
assert not {"tensorflow", "keras", "scann"} & set(sys.modules), "`import scann` must still run its own __init__"
"""
    assert run_python(script).stdout.split() == ["0"]


def test_without_scann_it_says_what_to_do(run_python):
    script = """
import sys
sys.modules["scann"] = None
import numpy as np
from macl_tf.index.searchers.exact import ExactSearcher
from macl_tf.index.searchers.scann import ScannSearcher
vectors = np.eye(4, dtype=np.float32)
print(ExactSearcher(vectors).search(vectors[:1], 1)[1][0, 0])
try:
    ScannSearcher.build(vectors, kind="hashing", progress=False)
except ImportError as error:
    print(error)
"""
    words = run_python(script).stdout
    assert words.startswith("0\n") and "pip install 'scann~=1.4.2'" in words and "Exact search does without" in words


@pytest.mark.parametrize("kind", ["brute_force", "tree"])
def test_the_same_index_in_tensorflow(rows, kind):
    import tensorflow as tf

    parameters = {"kind": kind, "size": len(rows), "k": 10}  # as export.retriever has them of an index without ScaNN
    if kind == "tree":
        parameters = ScannSearcher.build(rows, kind=kind, num_queries=300, progress=False).parameters
    module = scann_module(rows, parameters)

    @tf.function
    def search(queries):
        return search_module(module, parameters, queries, 10)

    queries = unit(300, seed=1)
    scores, positions = (tensor.numpy() for tensor in search(tf.constant(queries)))
    expected, order = ExactSearcher(rows).search(queries, 10)
    assert recall(positions, order) >= (1.0 if kind == "brute_force" else 0.93)
    np.testing.assert_allclose(scores[:, 0], expected[:, 0], atol=0.5 if kind == "tree" else 1e-6)
    assert (scores <= expected + 1e-6).all()
