"""The full retrieval report beside scikit-learn and ranx: time and peak memory.

    python -m benchmarks.speed.metrics [--queries 10000 --database 10000]

Each program runs in a process of its own over the same generated embeddings and labels and computes, of the figures of
the report, those that it has, in the fastest way we found in it: scikit-learn's `label_ranking_average_precision_score`
and `ndcg_score(ignore_ties=True)`, ranx's compiled loops over arrays (no dictionaries; compiling is not counted).
All of them take the same similarities. They loop over queries, so they may be given fewer queries and their time scaled
up; the table says where. The means over the same queries are compared, and must agree.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from importlib.metadata import version

import numpy as np

from benchmarks import command
from benchmarks.command import in_process
from benchmarks.tables import markdown
from macl_tf.evaluation.retrieval import evaluate
from macl_tf.metrics import gains, score_queries
from macl_tf.metrics.ranking import order
from macl_tf.metrics.similarity import cosine_similarities

K = 100
CUTOFFS = (1, 10, 100)
BLOCK = 100  # queries handed to the other programs at a time, which keeps their memory small
PROGRAMS = ("macl_tf", "scikit-learn", "ranx")


def generate(arguments: argparse.Namespace) -> tuple[np.ndarray, ...]:
    """Long-tailed labels, about three for each image, and float32 embeddings that carry them under noise."""
    generator = np.random.default_rng(arguments.seed)
    share = 1 / np.arange(2, arguments.labels + 2) ** 0.9
    directions = generator.standard_normal((arguments.labels, arguments.dimensions))
    result = []
    for size in (arguments.queries, arguments.database):
        labels = (generator.random((size, arguments.labels)) < share).astype(np.uint8)
        labels[labels.sum(axis=1) == 0, 0] = 1  # the others have no notion of an undefined value
        noise = generator.standard_normal((size, arguments.dimensions))
        result += [(noise + 0.7 * labels @ directions).astype(np.float32), labels]
    return tuple(result)


def run_macl_tf(queries, query_labels, items, item_labels, count):
    """The whole report."""
    start = time.perf_counter()
    report = evaluate(queries[:count], query_labels[:count], items, item_labels, k=K)
    return time.perf_counter() - start, dict(report.values), peak()


def expected(queries, query_labels, items, item_labels, count):
    """Our means over the first `count` queries, to compare the others with."""
    similarities, _, _ = cosine_similarities(queries, items)
    scores = score_queries(similarities, query_labels[:count], item_labels, k=K)
    pairs = {"map_over_label_pairs": scores.label_ap}
    return {key: float(np.nanmean(value)) for key, value in (scores.values | pairs).items()}


def pair_gains(query_labels, item_labels):
    """Shared labels, and the three gains as NDCG takes them."""
    shared = query_labels.astype(np.float32) @ item_labels.T.astype(np.float32)
    sizes = query_labels.sum(axis=1)[:, None], item_labels.sum(axis=1)
    graded = {kind: gains(shared, *sizes, kind) for kind in ("jaccard", "cosine")}
    return shared, graded | {"shared": 2.0**shared - 1}


def run_scikit_learn(queries, query_labels, items, item_labels, count):
    """AP by any label, by Jaccard, by label; NDCG for the three gains."""
    from sklearn.metrics import label_ranking_average_precision_score, ndcg_score

    similarities, _, _ = cosine_similarities(queries, items)
    sums: dict[str, list[float]] = {}

    def add(key: str, mean: float, weight: int) -> None:
        entry = sums.setdefault(key, [0.0, 0])
        entry[0] += mean * weight
        entry[1] += weight

    begin = time.perf_counter()
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        scores, labels = similarities(start, stop), query_labels[start:stop]
        shared, graded = pair_gains(labels, item_labels)
        for kind, values in graded.items():
            add(f"ndcg@{K}_{kind}", ndcg_score(values, scores, k=K, ignore_ties=True), stop - start)
        rows, columns = np.nonzero(labels)
        relevant = {
            "map_any": (shared > 0, slice(None)),
            "map_jaccard50": (graded["jaccard"] >= 0.5, slice(None)),
            "map_over_label_pairs": (item_labels.T[columns] > 0, rows),
        }
        for key, (flags, chosen) in relevant.items():
            some = flags.any(axis=1)
            add(key, label_ranking_average_precision_score(flags[some], scores[chosen][some]), int(some.sum()))
    seconds = time.perf_counter() - begin
    return seconds, {key: total / weight for key, (total, weight) in sums.items()}, peak()


def run_ranx(queries, query_labels, items, item_labels, count):
    """AP by any label, by Jaccard, by label; NDCG for the three gains; precision, recall, R-precision."""
    import numba
    import ranx

    similarities, _, _ = cosine_similarities(queries, items)
    sums: dict[str, list[np.ndarray]] = {}

    def block(start: int, stop: int) -> None:
        scores, labels = similarities(start, stop), query_labels[start:stop]
        shared, graded = pair_gains(labels, item_labels)
        ranked = order(scores, np.full(stop - start, -1))  # ranx takes sorted arrays; this is how fast they can be had
        fall = -np.arange(float(len(items)))
        run = numba.typed.List([np.stack([row.astype(float), fall], axis=1) for row in ranked])

        def judge(values, chosen, metrics) -> None:
            judged = numba.typed.List()
            for row in np.asarray(values, float):
                found = np.flatnonzero(row)
                best = found[np.argsort(-row[found], kind="stable")]
                judged.append(np.stack([best.astype(float), row[best]], axis=1))
            found_by = numba.typed.List([run[q] for q in chosen])
            for key, (metric, k) in metrics.items():
                sums.setdefault(key, []).append(metric(judged, found_by, k))

        everyone = range(stop - start)
        average_precision, m = ranx.metrics.average_precision, ranx.metrics
        at_k = {f"precision@{k}": (m.precision, k) for k in CUTOFFS} | {f"recall@{k}": (m.recall, k) for k in CUTOFFS}
        binary = {"map_any": (average_precision, 0), "r_precision": (m.r_precision, 0)}
        judge(shared, everyone, binary | at_k | {f"ndcg@{K}_shared": (m.ndcg_burges, K)})
        for kind in ("jaccard", "cosine"):  # linear gain, scaled because ranx drops relevance below 1
            judge(graded[kind] * 1000.0, everyone, {f"ndcg@{K}_{kind}": (m.ndcg, K)})
        half = graded["jaccard"] >= 0.5
        some = np.flatnonzero(half.any(axis=1))
        judge(half[some], some, {"map_jaccard50": (average_precision, 0)})
        rows, columns = np.nonzero(labels)
        judge(item_labels.T[columns], rows, {"map_over_label_pairs": (average_precision, 0)})

    block(0, 12)  # compiles
    sums.clear()
    begin = time.perf_counter()
    for start in range(0, count, BLOCK):
        block(start, min(start + BLOCK, count))
    seconds = time.perf_counter() - begin
    return seconds, {key: float(np.concatenate(parts).mean()) for key, parts in sums.items()}, peak()


def peak() -> float:
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(program: str, arguments: argparse.Namespace) -> dict:
    """One program, in this process; the memory that the data and the imports take is measured before."""
    data = generate(arguments)
    before = peak()
    run = {"macl_tf": run_macl_tf, "scikit-learn": run_scikit_learn, "ranx": run_ranx}[program]
    wanted = {"scikit-learn": arguments.sklearn_queries, "ranx": arguments.ranx_queries}
    count = min(wanted.get(program, arguments.queries), arguments.queries)
    seconds, values, after = run(*data, count)
    result = {
        "program": program,
        "version": "here" if program == "macl_tf" else version(program),
        "queries_run": count,
        "seconds_run": seconds,
        "seconds": seconds * arguments.queries / count,
        "figures": len(values),
        "peak_mb": after,
        "peak_mb_over_data": after - before,
        "values": values,
    }
    if program != "macl_tf":
        ours = expected(*data, count)
        result["largest_difference"] = max(abs(values[key] - ours[key]) for key in values)
    return result


def table(summary: dict) -> str:
    """The documents' table."""
    ours = summary["results"][0]["seconds"]
    rows = [
        [
            row["program"],
            row["figures"],
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / ours:.0f}x",
            f"{row['peak_mb']:.0f}",
        ]
        for row in summary["results"]
    ]
    return markdown(["program", "figures", "seconds", "times ours", "peak MB"], rows)


def main() -> None:
    """Runs every program and prints the table."""
    parser = command.parser(__doc__, "metrics")
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--database", type=int, default=10_000)
    parser.add_argument("--labels", type=int, default=17)
    parser.add_argument("--dimensions", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sklearn-queries", type=int, default=1000, help="queries for scikit-learn, then scaled up")
    parser.add_argument("--ranx-queries", type=int, default=200, help="queries for ranx, then scaled up")
    parser.add_argument("--measure", choices=PROGRAMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
        return

    results = []
    for program in PROGRAMS:
        print(f"running {program} ...", file=sys.stderr)
        results.append(json.loads(in_process("benchmarks.speed.metrics", *sys.argv[1:], "--measure", program)))
    for result in results:
        result["ratio"] = result["seconds"] / results[0]["seconds"]
    facts = {"seed": arguments.seed, "results": results}
    command.record(arguments.out, "benchmarks.speed.metrics", ["numpy", "scikit-learn", "ranx"], facts, table)
    for result in results[1:]:
        difference = result["largest_difference"]
        print(f"{result['program']}: {result['queries_run']} queries; differs from macl_tf by {difference:.0e} at most")


if __name__ == "__main__":
    main()
