"""Retrieval metrics, pure NumPy: small functions of ranked relevance, and one engine that streams queries.

Letters: Q queries, N database items, C labels, K cut-off. `ranked` holds the definitions, `ranking` the order
(descending similarity, ties by database position), `streaming` all metrics of all queries, block by block.
"""

from macl_tf.metrics.ranked import (
    average_cumulative_gain,
    average_precision,
    discounted_cumulative_gain,
    gains,
    ndcg,
    precision_at_k,
    r_precision,
    recall_at_k,
    weighted_average_precision,
)
from macl_tf.metrics.ranking import rank
from macl_tf.metrics.streaming import QueryScores, score_queries

__all__ = [
    "QueryScores", "average_cumulative_gain", "average_precision", "discounted_cumulative_gain", "gains", "ndcg",
    "precision_at_k", "r_precision", "rank", "recall_at_k", "score_queries", "weighted_average_precision",
]  # fmt: skip
