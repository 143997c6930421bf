"""Retrieval: embed images, find the nearest, evaluate. Arrays in, a report out.

Letters: Q queries, N database items, D embedding dimensions, C labels. Similarity is the cosine: rows are normalised
here, and a row of zeros has similarity 0 to everything. Embeddings of less than float64 are ranked by the cosine
rounded to float32, so that equal rows tie (`metrics/similarity.py` says how); ties go by database position.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from macl_tf.evaluation.report import RetrievalReport, compare_table
from macl_tf.labels import LabelStatistics, check_multi_hot
from macl_tf.metrics import QueryScores, rank, score_queries
from macl_tf.metrics.ranked import check_cutoff
from macl_tf.metrics.similarity import cosine_similarities, own_positions

__all__ = ["RetrievalReport", "compare_table", "embed", "evaluate", "nearest"]


def evaluate(
    query_embeddings: ArrayLike,
    query_labels: ArrayLike,
    database_embeddings: ArrayLike | None = None,
    database_labels: ArrayLike | None = None,
    *,
    label_names: Sequence[str] | None = None,
    label_counts: ArrayLike | None = None,
    k: int = 100,
    precision_k: Sequence[int] = (1, 10, 100),
    map_k: int | None = None,
    query_ids: Iterable[Any] | None = None,
    database_ids: Iterable[Any] | None = None,
    block_size: int = 64,
    workers: int | None = None,
    progress: bool = False,
) -> RetrievalReport:
    """Ranks the database for every query, exactly, and averages the metrics of `macl_tf.metrics`.

    Args:
        query_embeddings: (Q, D) finite; need not be normalised.
        query_labels: (Q, C) multi-hot.
        database_embeddings: (N, D), or None to search the queries among themselves, each without itself.
        database_labels: (N, C) multi-hot, given with `database_embeddings`.
        label_names: C names, "label 0", "label 1", ... by default.
        label_counts: (C,) images of the *training* set by label, of the database by default: which third is the rarest.
        k: Cut-off of NDCG, WAP and ACG.
        precision_k: Cut-offs of precision and recall.
        map_k: Cut-off of all average precisions, None for the whole ranking.
        query_ids: Q identities. An item of the database with the identity of the query is not ranked for it.
        database_ids: N identities, no two the same; given with `query_ids`.
        block_size: Queries ranked at a time; a block needs about 24 bytes x block_size x N per worker.
        workers: Threads, by default one for each core. Results do not depend on it.
        progress: Shows a progress bar.

    Returns:
        Keyed as `macl_tf.metrics.score_queries` is, and by `map_per_label` (mean over labels) and `map_rarest_third`.

    Raises:
        ValueError: For shapes that do not fit, values not finite, labels not 0 or 1, identities repeated or given for
            one side only, or a cut-off below 1.

    Example:
        >>> report = evaluate([[1.0, 0.0]], [[1, 0]], [[0.0, 1.0], [2.0, 0.1]], [[0, 1], [1, 1]], k=2)
        >>> report["map_any"], report["ndcg@2_jaccard"]
        (1.0, 1.0)
    """
    alone = database_embeddings is None
    if alone != (database_labels is None):
        raise ValueError("database_embeddings and database_labels must be given together, got only one of them.")
    labels = check_multi_hot(query_labels, "query_labels")
    items = labels if database_labels is None else check_multi_hot(database_labels, "database_labels")
    if items.shape[1] != labels.shape[1]:
        raise ValueError(
            f"query_labels and database_labels must have the same columns, got {labels.shape[1]} and {items.shape[1]}."
        )
    similarities, num_queries, num_database = cosine_similarities(query_embeddings, database_embeddings)
    for name, array, count in (("query", labels, num_queries), ("database", items, num_database)):
        if len(array) != count:
            raise ValueError(
                f"{name}_embeddings and {name}_labels must have the same rows, got {count} and {len(array)}."
            )
    names = [f"label {c}" for c in range(labels.shape[1])] if label_names is None else [*map(str, label_names)]
    if len(names) != labels.shape[1]:
        raise ValueError(f"label_names must name each of the {labels.shape[1]} labels, got {len(names)} names.")
    counts = np.asarray(items.sum(axis=0) if label_counts is None else label_counts)
    if counts.shape != (len(names),) or (counts < 0).any() or (counts != np.floor(counts)).any():
        raise ValueError(
            f"label_counts must hold {len(names)} whole numbers >= 0, the training images of each label, "
            f"got shape {counts.shape}."
        )
    exclude = own_positions(num_queries, num_database, alone, query_ids, database_ids)
    cutoffs: dict[str, Any] = {"k": k, "precision_k": precision_k, "map_k": map_k}
    effort: dict[str, Any] = {"block_size": block_size, "workers": workers}
    with _progress(num_queries, "ranking", progress) as bar:
        scores = score_queries(similarities, labels, items, exclude=exclude, on_block=bar.update, **cutoffs, **effort)
    values = {key: _mean(value) for key, value in scores.values.items()}
    left_out = {key: int(np.isnan(value).sum()) for key, value in scores.values.items()}
    label_ap = [_mean(column) for column in scores.label_ap.T]
    counts = counts.astype(np.int64)
    rarest = LabelStatistics(counts, np.diag(counts), int(counts.max())).rarest()
    for key, chosen in (("map_per_label", range(len(names))), ("map_rarest_third", rarest.tolist())):
        defined = [ap for c in chosen if (ap := label_ap[c]) is not None]
        values[key] = float(np.mean(defined)) if defined else None
        left_out[key] = len(chosen) - len(defined)
    queries = labels.sum(axis=0, dtype=np.int64)
    counted = (~np.isnan(scores.label_ap)).sum(axis=0)
    per_label = tuple(
        {
            "name": name,
            "train_count": int(counts[c]),
            "rare": c in set(rarest.tolist()),
            "queries": int(queries[c]),
            "left_out": int(queries[c] - counted[c]),
            "ap": label_ap[c],
            **_label_head(scores, c, precision_k, num_database - (exclude >= 0)),
        }
        for c, name in enumerate(names)
    )
    return RetrievalReport(values, left_out, per_label, num_queries, num_database)


def nearest(
    query_embeddings: ArrayLike,
    database_embeddings: ArrayLike | None = None,
    k: int = 10,
    *,
    query_ids: Iterable[Any] | None = None,
    database_ids: Iterable[Any] | None = None,
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The K nearest items of each query by cosine, exactly; ties by database position.

    Args:
        query_embeddings: (Q, D) finite; need not be normalised.
        database_embeddings: (N, D), or None to search the queries among themselves, each without itself.
        k: K.
        query_ids: Q identities. An item of the database with the identity of the query is not found.
        database_ids: N identities, no two the same; given with `query_ids`.

    Returns:
        Scores (Q, K) and positions (Q, K), best first. K is at most the number of items that every query can find.

    Raises:
        ValueError: For shapes that do not fit, values that are not finite, or `k` < 1.

    Example:
        >>> scores, positions = nearest([[1.0, 0.0]], [[0.0, 3.0], [2.0, 0.0], [-1.0, 0.0]], k=2)
        >>> scores.tolist(), positions.tolist()
        ([[1.0, 0.0]], [[1, 0]])
    """
    check_cutoff(k, optional=False)
    similarities, num_queries, num_database = cosine_similarities(query_embeddings, database_embeddings)
    exclude = own_positions(num_queries, num_database, database_embeddings is None, query_ids, database_ids)
    depth = min(k, num_database - bool((exclude >= 0).any()))
    scores, positions = [], []
    for start in range(0, num_queries, 64):
        block = similarities(start, min(start + 64, num_queries))
        positions.append(rank(block, max(depth, 1), exclude[start : start + 64])[:, :depth])
        scores.append(np.take_along_axis(block, positions[-1], axis=1))
    return np.concatenate(scores), np.concatenate(positions)


def embed(model: Any, images: Any, batch_size: int = 256, *, progress: bool = True) -> NDArray[np.float32]:
    """Embeddings of all images, batch by batch.

    Args:
        model: Keras model from pixels (B, S, S, 3) to (B, D).
        images: (N, S, S, 3) array of any type (only a batch at a time is converted, so uint8 stays small), or a
            batched, finite `tf.data.Dataset` of images, or of tuples whose first entry is the images.
        batch_size: B, for arrays.
        progress: Shows a progress bar.

    Returns:
        (N, D) float32.

    Raises:
        ValueError: If there is no image, or `batch_size` < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}.")
    batches, total = images, -2
    if hasattr(images, "shape"):
        starts = range(0, len(images), batch_size)
        batches, total = (images[start : start + batch_size] for start in starts), len(starts)
    elif hasattr(images, "cardinality"):  # as tf.data has it: -1 is infinite, -2 unknown
        total = int(images.cardinality())
        if total == -1:
            raise ValueError("images must be a finite dataset, got an infinite one. Use .take(batches).")
    outputs: list[NDArray[np.float32]] = []
    size = 0
    with _progress(total if total >= 0 else None, "embedding", progress) as bar:
        for element in batches:
            batch = np.asarray(element[0] if isinstance(element, tuple | list) else element)
            count, size = len(batch), max(size, len(batch))
            if not count:
                continue
            if count < size:  # one shape for all batches, so that the model is traced and compiled once
                batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
            outputs.append(np.asarray(model.predict_on_batch(batch), np.float32)[:count])
            bar.update(1)
    if not outputs:
        raise ValueError("images must hold at least one image, got none.")
    return np.concatenate(outputs)


def _label_head(
    scores: QueryScores, label: int, cutoffs: Sequence[int], lengths: NDArray[np.int64]
) -> dict[str, float | None]:
    """Precision, recall and hit rate of a label at each cut-off, over the queries that hold it and can find it."""
    rows = np.flatnonzero(~np.isnan(scores.label_ap[:, label]))
    values: dict[str, float | None] = {}
    for hits, cutoff in zip(scores.label_hits[rows, label].T, cutoffs, strict=True):
        values[f"precision@{cutoff}"] = _mean(hits / np.minimum(cutoff, lengths[rows]))
        values[f"recall@{cutoff}"] = _mean(hits / scores.label_total[rows, label])
        values[f"hit@{cutoff}"] = _mean((hits > 0).astype(np.float64))
    return values


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _progress(total: int | None, words: str, shown: bool) -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:  # not among the base dependencies, and a bar only
        return nullcontext(SimpleNamespace(update=lambda done: None))
    return tqdm(total=total, desc=words, disable=not shown, leave=False)
