"""The result of a retrieval evaluation, as numbers, JSON and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What the keys mean, in the order of the tables. {k} is the cut-off.
_WORDS = {
    "ndcg@{k}_jaccard": "NDCG@{k}, Jaccard gain",
    "ndcg@{k}_shared": "NDCG@{k}, gain 2^shared - 1",
    "ndcg@{k}_cosine": "NDCG@{k}, cosine gain",
    "map_jaccard50": "mAP, Jaccard >= 0.5",
    "map@{k}_jaccard50": "mAP@{k}, Jaccard >= 0.5",
    "map_per_label": "mAP per label, mean over labels",
    "map_rarest_third": "mAP per label, rarest third of labels",
    "map_any": "mAP, shares a label",
    "map@{k}_any": "mAP@{k}, shares a label",
    "wap@{k}": "WAP@{k}, shared labels",
    "acg@{k}": "ACG@{k}, shared labels",
    "r_precision": "R-precision, shares a label",
    "precision@{k}": "Precision@{k}, shares a label",
    "recall@{k}": "Recall@{k}, shares a label",
}
_PLACES = {template: place for place, template in enumerate(_WORDS)}


def describe(key: str) -> str:
    """Words for a key of a report, as the tables print it; the key itself where it is unknown."""
    template, cutoff = _template(key)
    return _WORDS.get(template, key).replace("{k}", cutoff)


def _template(key: str) -> tuple[str, str]:
    """("ndcg@{k}_shared", "100") of "ndcg@100_shared"."""
    head, at, tail = key.partition("@")
    cutoff, underscore, kind = tail.partition("_")
    return (f"{head}@{{k}}{underscore}{kind}", cutoff) if at else (key, "")


@dataclass(frozen=True)
class RetrievalReport:
    """Retrieval quality of an embedding, from `macl_tf.evaluate`.

    Args:
        values: Key of the metric to its mean, None where no query has it defined.
        left_out: For each key, how many queries its mean leaves out because it is undefined for them (nothing relevant
            in the database). For `map_per_label` and `map_rarest_third` these are labels.
        per_label: One entry for each label: `name`, `train_count`, `rare` (of the rarest third), `queries` that hold
            it, `left_out` of them because no other item holds it, and means over the others (None without any) where
            relevant is what holds the label: `ap`; `precision@k`; `recall@k`, the share of what is relevant that is
            among the first k; `hit@k`, whether anything is, which is what metric learning calls Recall@K.
        num_queries: Q.
        num_database: N.

    Example:
        >>> from macl_tf.evaluation.retrieval import evaluate
        >>> report = evaluate([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], [[1, 0], [1, 0], [0, 1]])
        >>> report["map_any"], report.left_out["map_any"]  # the third query has no match
        (1.0, 1)
    """

    values: Mapping[str, float | None]
    left_out: Mapping[str, int]
    per_label: Sequence[Mapping[str, Any]]
    num_queries: int
    num_database: int

    def __getitem__(self, key: str) -> float:
        """The mean of a metric, NaN where it is undefined for every query."""
        if key not in self.values:
            raise KeyError(f"no metric '{key}' in this report; it has {', '.join(self.values)}.")
        value = self.values[key]
        return math.nan if value is None else value

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the metrics by key, and `left_out`, `per_label`, `num_queries`, `num_database`."""
        return {
            **self.values,
            "left_out": dict(self.left_out),
            "per_label": [dict(entry) for entry in self.per_label],
            "num_queries": self.num_queries,
            "num_database": self.num_database,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> RetrievalReport:
        """The report that `to_dict` described; a ValueError if something is missing."""
        values = dict(content)
        rest = ("left_out", "per_label", "num_queries", "num_database")
        missing = [name for name in rest if name not in values]
        if missing:
            raise ValueError(f"a report must have {', '.join(rest)}, got one without {', '.join(missing)}.")
        left_out, per_label, queries, database = (values.pop(name) for name in rest)
        return cls(values, left_out, tuple(per_label), queries, database)

    def table(self, per_label: bool = False) -> str:
        """The report as text: metric, value, how many queries (or labels) the mean leaves out; and `label_table`."""
        keys = _ordered(self.values)
        rows = [(describe(key), _number(self.values[key]), str(self.left_out.get(key, 0))) for key in keys]
        text = f"{self.num_queries} queries, database of {self.num_database}\n"
        text += _text(("metric", "value", "left out"), rows)
        return f"{text}\n\n{self.label_table()}" if per_label else text

    def label_table(self) -> str:
        """A line for each label, rarest first, and their mean: AP, P@k (precision), R@k (recall), hit@k."""
        entries = sorted(self.per_label, key=lambda entry: entry["train_count"])
        figures = ["ap", *(key for key in (entries[0] if entries else {}) if "@" in key and key != "hit@1")]
        figures.sort(key=lambda key: ("ap", "precision", "recall", "hit").index(key.split("@")[0]))  # stable
        lines = [
            (
                f"{entry['name']}{' (rare)' if entry['rare'] else ''}",
                *(str(entry[column]) for column in ("train_count", "queries", "left_out")),
                *(_number(entry[key]) for key in figures),
            )
            for entry in entries
        ]
        defined = {key: [entry[key] for entry in entries if entry[key] is not None] for key in figures}
        means = (_number(sum(values) / len(values) if values else None) for values in defined.values())
        sums = (str(sum(entry[column] for entry in entries)) for column in ("queries", "left_out"))
        words = [key.replace("ap", "AP").replace("precision", "P").replace("recall", "R") for key in figures]
        head = ("label", "images", "queries", "left out", *words)
        return _text(head, [*lines, ("mean", "", *sums, *means)])


def compare_table(reports: Mapping[str, RetrievalReport]) -> str:
    """Reports side by side, by heading: a line for each metric, "-" where it is undefined; what means leave out."""
    if not reports:
        raise ValueError("reports must hold at least one report, got none.")
    keys = _ordered(dict.fromkeys(key for report in reports.values() for key in report.values))
    rows = [(describe(key), *(_number(report.values.get(key)) for report in reports.values())) for key in keys]
    table = _text(("metric", *reports), rows)
    notes = {note: None for report in reports.values() if (note := _left_out(report))}
    return "\n".join([table, *(f"\n{note}" for note in notes)])


def _left_out(report: RetrievalReport) -> str:
    queries = report.left_out.get("r_precision", 0)
    labels = report.left_out.get("map_per_label", 0)
    parts = [
        f"{queries} of {report.num_queries} queries match nothing in the database" if queries else "",
        f"{labels} of {len(report.per_label)} labels have no query with a match" if labels else "",
    ]
    words = "; ".join(part for part in parts if part)
    return f"Left out of the means that are undefined for them: {words}." if words else ""


def _ordered(keys: Iterable[str]) -> list[str]:
    return sorted(keys, key=lambda key: _PLACES.get(_template(key)[0], len(_PLACES)))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    forms = [f"{{:{'>' if place else '<'}{width}}}" for place, width in enumerate(widths)]
    return "\n".join("  ".join(forms).format(*line) for line in lines)
