"""JSON of annotation tools as rows of a label table: COCO, Label Studio, FiftyOne, and plain records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from macl_tf.datasets.archives import bare_name
from macl_tf.datasets.images import is_image_name
from macl_tf.datasets.table_columns import IMAGE_COLUMNS, IMAGE_ID_COLUMNS
from macl_tf.datasets.walk import shorten

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
READ = (
    "COCO (images, annotations, categories), Label Studio (JSON or JSON-MIN), FiftyOne (samples.json, or labels.json "
    'of image classification), records like [{"image": "a.jpg", "labels": ["sea"]}], or {"a.jpg": ["sea"]}'
)
# What Label Studio writes beside the results of its tags.
_OF_LABEL_STUDIO = {"annotator", "annotation_id", "lead_time", "created_at", "updated_at"}
_NO_RESULT = {*_OF_LABEL_STUDIO, "id", "agreement", "history"}
_PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}


class TableRows(NamedTuple):
    """A table as text: its header, its rows each with its line, row or entry from 1, and notes on how it was read."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    notes: tuple[str, ...] = ()
    by_annotator: bool = False  # several rows of an image are several opinions, which do not add up


def says_annotations(path: Path) -> bool:
    """Whether a JSON file is one of those that are read; one that is no JSON at all is none."""
    try:
        return _rows_of(path, _parsed(path)) is not None
    except (OSError, ValueError):
        return False


def read_annotations(path: Path) -> TableRows:
    """The rows of a JSON file of one of the tools; a ValueError names what is read."""
    content = _parsed(path)
    found = _rows_of(path, content)
    if found is None:
        shape = f"an object with {shorten(list(content), 5)}" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must be labels as a known tool writes them, got {shape}. What is read: {READ}.")
    if not found.rows:
        raise ValueError(f"{path} must name images, but it names none.")
    return found


def of_label_studio(table: TableRows) -> TableRows:
    """The table with names of images and lists of labels where it is a CSV of Label Studio; any other as it is."""
    if not set(table.header) >= _OF_LABEL_STUDIO:
        return table
    records = [dict(zip(table.header, map(_parsed_cell, cells), strict=True)) for _, cells in table.rows]
    return _label_studio_rows(records, "Label Studio's CSV", [line for line, _ in table.rows])


def _parsed(path: Path) -> Any:
    """The content of a JSON file, or of one with a JSON text in each line."""
    text = path.read_bytes().decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except ValueError as error:
        lines = [line for line in text.splitlines() if line.strip()]
        try:
            records = [json.loads(line) for line in lines]
        except ValueError:
            raise ValueError(f"{path} must be JSON, but is not ({error}). Export it anew.") from error
        return records


def _rows_of(path: Path, content: Any) -> TableRows | None:
    """The rows of what a known tool writes, or None."""
    if isinstance(content, dict):
        if isinstance(content.get("images"), list) and "annotations" in content:
            return _coco(path, content)
        if isinstance(content.get("samples"), list):
            return _fiftyone_samples(path, content["samples"])
        if isinstance(content.get("labels"), dict):
            return _fiftyone_labels(content)
        if content and sum(map(is_image_name, content)) * 2 > len(content):
            return _table((name, labels_of(value)) for name, value in content.items())
        columns = list(content.values())  # as DataFrame.to_json writes them
        if not columns or not all(
            isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns
        ):
            return None
        content = [{name: column[row] for name, column in content.items()} for row in columns[0]]
    if not isinstance(content, list) or not content or not all(isinstance(entry, dict) for entry in content):
        return None
    first = content[0]
    if "data" in first and ("annotations" in first or "completions" in first):
        return _label_studio_tasks(path, content)
    if set(first) >= _OF_LABEL_STUDIO:
        return _label_studio_rows(content, "Label Studio's JSON-MIN", range(1, len(content) + 1))
    return _records(content)


def labels_of(value: Any) -> list[str]:
    """The labels that a value of such a tool holds: a name, a list of names, or objects that have some."""
    if value is None or value == "":
        return []
    if isinstance(value, Mapping):
        if "label" in value:
            return labels_of(value["label"])
        marks = [
            marked for key, marked in value.items() if key in ("choices", "taxonomy") or str(key).endswith("labels")
        ]
        if marks:
            return [name for marked in marks for name in labels_of(marked)]
        # {"sea": 1, "sand": 0}
        return [str(name) for name, held in value.items() if held in (1, "1", True, "true")]
    if isinstance(value, str | int | float):
        return [str(value)]
    return list(dict.fromkeys(name for item in value for name in labels_of(item)))


def file_of(reference: str) -> str:
    """The file that a tool's reference to an image means, as far as its name tells.

    Example:
        >>> file_of("/data/local-files/?d=tiles%2Fa.jpg"), file_of("s3://bucket/tiles/a.jpg?x=1")
        ('tiles/a.jpg', 'tiles/a.jpg')
    """
    if "://" not in reference and "?d=" not in reference:
        return reference
    parts = urlsplit(reference)
    if local := parse_qs(parts.query).get("d"):
        return local[0].lstrip("/")
    return unquote(parts.path).lstrip("/")


def _table(entries: Iterable[tuple[str, Sequence[str]]], *notes: str) -> TableRows:
    rows = [(number, [file_of(name), _cell(labels)]) for number, (name, labels) in enumerate(entries, start=1)]
    return TableRows(["image", "labels"], rows, notes)


def _cell(labels: Sequence[str]) -> str:
    return json.dumps(list(labels), ensure_ascii=False)


def _parsed_cell(cell: str) -> Any:
    """What Label Studio wrote into a cell: text, or JSON of more than one name."""
    if cell[:1] in "[{" and cell:
        try:
            return json.loads(cell)
        except ValueError:
            pass
    return cell


def _coco(path: Path, content: Mapping[str, Any]) -> TableRows | None:
    """An image has the labels of the categories of all its annotations."""
    try:
        names = {category["id"]: str(category["name"]) for category in content.get("categories") or ()}
        held: dict[Any, list[str]] = {image["id"]: [] for image in content["images"]}
        strays = 0
        for annotation in content["annotations"]:
            of = annotation.get("category_ids") or [annotation["category_id"]]
            strays += annotation["image_id"] not in held
            held.setdefault(annotation["image_id"], []).extend(names[category] for category in of)
        files = [(str(image["file_name"]), dict.fromkeys(held[image["id"]])) for image in content["images"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must be COCO with an id and a file_name for each image, an id and a name for each category, and "
            f"an image_id and a category_id for each annotation; it lacks {error}. Export it for object detection or "
            "classification: captions and keypoints alone hold no labels."
        ) from error
    notes = [f"read as COCO: {len(content['annotations']):,} annotations of {len(names):,} categories"]
    notes += [f"annotations of images that {path.name} does not list, left out: {strays:,}"] if strays else []
    return _table(((file, list(labels)) for file, labels in files), *notes)


def _fiftyone_samples(path: Path, samples: Sequence[Mapping[str, Any]]) -> TableRows | None:
    """FiftyOneDataset: each sample has a file, tags, and fields, of which one holds the labels."""
    if not all(isinstance(sample, Mapping) and "filepath" in sample for sample in samples):
        return None
    kinds = ("classification", "detection", "polyline", "keypoint")
    fields = dict.fromkeys(
        name
        for sample in samples
        for name, value in sample.items()
        if isinstance(value, Mapping) and str(value.get("_cls", "")).lower().startswith(kinds)
    )
    chosen = "ground_truth" if "ground_truth" in fields else next(iter(fields), None)
    if chosen is None or (len(fields) > 1 and chosen != "ground_truth"):
        raise ValueError(
            f"{path} must hold one field of labels, or one called ground_truth, got "
            f"{shorten(list(fields), 5) or 'none'}. Export the field that is meant alone: "
            "dataset.select_fields(FIELD).export(...)."
        )

    def held(sample: Mapping[str, Any]) -> list[str]:
        value = sample.get(chosen) or {}
        return labels_of([value[key] for key in (*(f"{kind}s" for kind in kinds), "label") if key in value])

    parts = [[tag for tag in sample.get("tags") or () if str(tag).casefold() in _PARTS] for sample in samples]
    table = _table(((sample["filepath"], held(sample)) for sample in samples), f"read as FiftyOne, field {chosen!r}")
    if not all(len(part) == 1 for part in parts):
        return table
    rows = [(line, [*cells, part[0]]) for (line, cells), part in zip(table.rows, parts, strict=True)]
    return TableRows([*table.header, "split"], rows, table.notes)


def _fiftyone_labels(content: Mapping[str, Any]) -> TableRows:
    """FiftyOneImageClassificationDataset: the labels of each file's stem, by name or by place in `classes`."""
    classes = content.get("classes")

    def named(label: str) -> str:
        return str(classes[int(label)]) if classes and label.isdigit() and label not in classes else label

    entries = ((name, [named(label) for label in labels_of(value)]) for name, value in content["labels"].items())
    return _table(entries, "read as FiftyOne's image classification")


def _label_studio_tasks(path: Path, tasks: Sequence[Mapping[str, Any]]) -> TableRows:
    """Label Studio's JSON: a row for each annotation of a task; those of a ground truth alone where there are any."""
    entries: list[tuple[str, list[str]]] = []
    unfinished = 0
    for task in tasks:
        data = task.get("data") or {}
        image = _image_in(data)
        if image is None:
            raise ValueError(f"{path} must name the image of each task under 'data', got {shorten(list(data))}.")
        annotations = task.get("annotations") or task.get("completions") or []
        done = [one for one in annotations if not (one.get("was_cancelled") or one.get("skipped"))]
        done = [one for one in done if one.get("ground_truth")] or done
        unfinished += not done
        for one in done:
            entries.append((image, labels_of([result.get("value") for result in one.get("result") or ()])))
    notes = [f"tasks of Label Studio without a finished annotation, left out: {unfinished:,}"] if unfinished else []
    return _table(entries, "read as Label Studio's JSON", *notes)._replace(by_annotator=True)


def _label_studio_rows(records: Sequence[Mapping[str, Any]], kind: str, lines: Iterable[int]) -> TableRows:
    """JSON-MIN and CSV: what is no name of an image and none of the tool's own columns holds the labels."""
    columns = dict.fromkeys(name for record in records for name in record)
    images = [name for name in columns if any(_looks_like_image(record.get(name)) for record in records)]
    image = next((name for name in images if bare_name(name) in IMAGE_COLUMNS), images[0] if images else "image")
    results = [name for name in columns if name != image and name not in images and name not in _NO_RESULT]
    structured = [name for name in results if any(isinstance(record.get(name), list | dict) for record in records)]
    used = structured or [name for name in results if name.lower().startswith(("choice", "label", "class"))] or results

    def cells(record: Mapping[str, Any]) -> list[str]:
        return [file_of(str(record.get(image) or "")), _cell(labels_of([record.get(name) for name in used]))]

    rows = [(line, cells(record)) for line, record in zip(lines, records, strict=True)]
    return TableRows(["image", "labels"], rows, (f"read as {kind}: labels of {', '.join(used) or 'no column'}",), True)


def _image_in(data: Mapping[str, Any]) -> str | None:
    """The value of a task's data that names its image."""
    named = [value for key, value in data.items() if bare_name(key) in IMAGE_COLUMNS and isinstance(value, str)]
    return next(iter([*(value for value in data.values() if _looks_like_image(value)), *named]), None)


def _looks_like_image(value: Any) -> bool:
    return isinstance(value, str) and is_image_name(file_of(value))


def _records(records: Sequence[Mapping[str, Any]]) -> TableRows | None:
    """Plain records: the columns of a table, in which lists are lists of labels."""
    columns = list(dict.fromkeys(name for record in records for name in record))
    if len(columns) < 2 or not any(bare_name(name) in (*IMAGE_COLUMNS, *IMAGE_ID_COLUMNS) for name in columns):
        return None

    def text(value: Any) -> str:
        if isinstance(value, bool | int | float):
            return str(value).lower()
        return file_of(value) if isinstance(value, str) else "" if value is None else _cell(labels_of(value))

    rows = [(number, [text(record.get(name)) for name in columns]) for number, record in enumerate(records, start=1)]
    return TableRows(columns, rows)
