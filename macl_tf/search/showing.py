"""Answers for people and programs: a table, JSON, a contact sheet."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from macl_tf.datasets.images import decode_image
from macl_tf.datasets.label_lists import listed
from macl_tf.figures import contact_sheet
from macl_tf.labels import rarest
from macl_tf.search.engine import SearchEngine
from macl_tf.search.pictures import read_picture
from macl_tf.search.query import Answer


def as_table(answers: Sequence[Answer]) -> str:
    """Rank, score, id and labels of every result; labels that the query holds stand apart where it is known."""
    blocks = []
    for answer in answers:
        heading = f"{answer.query}: {listed(answer.labels)}" if answer.labels else answer.query
        if not answer.results:
            blocks.append(f"{heading}\n  No tile meets the filter.")
            continue
        rows = [["rank", "score", "id", *(["labels"] if answer.labels is None else ["shared labels", "other labels"])]]
        for result in answer.results:
            held = result.item["labels"]
            other = [label for label in held if label not in result.shared]
            labels = [held] if answer.labels is None else [result.shared, other]
            rows.append([str(result.rank), f"{result.score:.3f}", result.id, *map(listed, labels)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        line = "  ".join(f"{{:{'>' if place < 2 else '<'}{width}}}" for place, width in enumerate(widths))
        blocks.append("\n".join([heading, *(line.format(*row).rstrip() for row in rows)]))
    return "\n\n".join(blocks)


def as_json(engine: SearchEngine, answers: Sequence[Answer]) -> dict[str, Any]:
    """Everything that is known about the results, and which versions gave them."""
    return {
        "index": {"version": engine.index.version, "kind": engine.index.info["kind"]},
        "encoder": engine.index.info["encoder"],
        "answers": [
            {
                "query": answer.query,
                "labels": None if answer.labels is None else list(answer.labels),
                "more": answer.more,
                "results": [
                    {
                        "rank": result.rank,
                        "score": result.score,
                        **result.item,
                        "shared": list(result.shared) if answer.labels is not None else None,
                    }
                    for result in answer.results
                ],
            }
            for answer in answers
        ],
    }


def draw_sheet(engine: SearchEngine, answers: Sequence[Answer], path: str | os.PathLike[str]) -> Path:
    """Draws queries beside what was found, from the small pictures in the index; a ValueError if that is nothing."""
    if not all(answer.results for answer in answers):
        raise ValueError(
            "There is nothing to draw: no tile was found. Widen --filter, or add tiles if the index is empty."
        )
    depth = min(len(answer.results) for answer in answers)
    names = engine.index.label_names
    rare = rarest(engine.index.snapshot.label_counts).tolist()
    known = bool(names) and all(answer.labels is not None for answer in answers)

    def held(labels: Sequence[str] | None) -> list[bool]:
        return [name in (labels or ()) for name in names]

    def small(id_: str) -> np.ndarray:
        data = engine.index.thumbnail(id_)
        return decode_image(data, id_) if data else np.full((8, 8, 3), 235, np.uint8)

    def query(name: str) -> np.ndarray:
        reader = engine.encoder.reader
        there = all(file.is_file() for file in reader.files(Path(name)))
        return reader.show(read_picture(name, reader=reader)) if there else small(name)

    shown = [answer.results[:depth] for answer in answers]
    return contact_sheet(
        [query(answer.query) for answer in answers],
        [held(answer.labels) for answer in answers] if known else None,
        [[small(result.id) for result in row] for row in shown],
        [[held(result.item["labels"]) for result in row] for row in shown],
        [[result.score for result in row] for row in shown],
        path,
        label_names=names,
        rare=rare,
        names=[[answer.query, *(result.id for result in row)] for answer, row in zip(answers, shown, strict=True)],
    )
