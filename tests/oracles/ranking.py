"""The retrieval metrics of method.md as plain float64 loops; nothing of macl_tf is imported."""

import math


def ranking(similarities, own):
    """Positions by descending similarity, ties by position, the query itself (position `own`) left out."""
    positions = [j for j in range(len(similarities)) if j != own]
    return sorted(positions, key=lambda j: (-similarities[j], j))


def overlap(a, b):
    return sum(1 for x, y in zip(a, b, strict=True) if x and y)


def jaccard(a, b):
    union = sum(1 for x, y in zip(a, b, strict=True) if x or y)
    return overlap(a, b) / union if union else 0.0


def cosine_gain(a, b):
    return overlap(a, b) / math.sqrt(sum(a) * sum(b)) if overlap(a, b) else 0.0


def average_precision(relevant, k):
    """`relevant` is the whole ranking; None where it holds nothing."""
    total = sum(relevant)
    if not total:
        return None
    k = len(relevant) if k is None else k
    hits, result = 0, 0.0
    for r, d in enumerate(relevant[:k], start=1):
        hits += d
        result += d * hits / r
    return result / min(k, total)


def dcg(gains, k):
    return sum(gain / math.log2(1 + r) for r, gain in enumerate(gains[:k], start=1))


def ndcg(gains, k):
    ideal = dcg(sorted(gains, reverse=True), k)
    return dcg(gains, k) / ideal if ideal else None


def weighted_average_precision(gains, k):
    """0 where matches exist but not among the first K; None where none exists."""
    if not any(gains):
        return None
    total, hits, result = 0.0, 0, 0.0
    for r, gain in enumerate(gains[:k], start=1):
        total += gain
        if gain:
            hits += 1
            result += total / r
    return result / hits if hits else 0.0


def scores(similarities, query, items, own, k, precision_k, map_k):
    """All metrics of one query, None where undefined, and those of each label that it holds and can find."""
    order = ranking(similarities, own)
    ranked = [items[j] for j in order]
    shared = [overlap(query, item) for item in ranked]
    jaccards = [jaccard(query, item) for item in ranked]
    relevant = [int(o > 0) for o in shared]
    total = sum(relevant)
    ap = "map" if map_k is None else f"map@{map_k}"
    result = {
        f"{ap}_any": average_precision(relevant, map_k),
        f"{ap}_jaccard50": average_precision([int(j >= 0.5) for j in jaccards], map_k),
        f"ndcg@{k}_jaccard": ndcg(jaccards, k),
        f"ndcg@{k}_shared": ndcg([2.0**o - 1 for o in shared], k),
        f"ndcg@{k}_cosine": ndcg([cosine_gain(query, item) for item in ranked], k),
        f"wap@{k}": weighted_average_precision(shared, k),
        f"acg@{k}": sum(shared[:k]) / len(shared[:k]) if shared else None,
        "r_precision": sum(relevant[:total]) / total if total else None,
    }
    for cutoff in precision_k:
        first = relevant[:cutoff]
        result[f"precision@{cutoff}"] = sum(first) / len(first) if first else None
        result[f"recall@{cutoff}"] = sum(first) / total if total else None
    labels = {}
    for c, held in enumerate(query):
        holding = [int(bool(item[c])) for item in ranked]
        if held and sum(holding):
            labels[c] = {"ap": average_precision(holding, map_k)}
            for cutoff in precision_k:
                first = holding[:cutoff]
                labels[c][f"precision@{cutoff}"] = sum(first) / len(first)
                labels[c][f"recall@{cutoff}"] = sum(first) / sum(holding)
                labels[c][f"hit@{cutoff}"] = float(any(first))
    return result, labels


def evaluate(similarities, queries, items, own, k=100, precision_k=(1, 10, 100), map_k=None, counts=None):
    """(means, left out, {metric: mean} by label); `own[q]` is the position of query q in the database or -1."""
    rows = [scores(s, q, items, o, k, precision_k, map_k) for s, q, o in zip(similarities, queries, own, strict=True)]
    means, left_out = {}, {}
    for key in rows[0][0]:
        defined = [row[key] for row, _ in rows if row[key] is not None]
        means[key] = sum(defined) / len(defined) if defined else None
        left_out[key] = len(rows) - len(defined)
    num_labels = len(items[0])
    by_label = []
    for c in range(num_labels):
        found = [labels[c] for _, labels in rows if c in labels]
        by_label.append({key: sum(values[key] for values in found) / len(found) for key in (found or [{}])[0]})
    counts = [sum(item[c] for item in items) for c in range(num_labels)] if counts is None else counts
    held = sorted((c for c in range(num_labels) if counts[c] > 0), key=lambda c: (counts[c], c))
    rarest = held[: -(-len(held) // 3)]
    for key, chosen in (("map_per_label", range(num_labels)), ("map_rarest_third", rarest)):
        defined = [by_label[c]["ap"] for c in chosen if by_label[c]]
        means[key] = sum(defined) / len(defined) if defined else None
        left_out[key] = len(chosen) - len(defined)
    return means, left_out, by_label
