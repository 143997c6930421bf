"""Label tables as Excel, PyArrow, pandas and annotation tools write them; each file is made as its tool makes it."""

from __future__ import annotations

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from macl_tf.datasets import load_archive
from macl_tf.datasets.folder import load_folder
from macl_tf.datasets.table_files import find_table, read_rows
from macl_tf.datasets.tables import LabelTable, read_label_table
from macl_tf.embedding.sources import FolderSource
from tests.generated import UCM_LABELS, UCM_STEMS, photo, save, write_ucm, write_whdld


def held(table: LabelTable) -> dict[str, list[str]]:
    return {
        name: [table.label_names[label] for label in np.flatnonzero(row)]
        for name, row in zip(table.image_names, table.labels, strict=True)
    }


def workbook(path: Path, *sheets: tuple[str, list[list[Any]]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


WIDE = [["image", "sea", "bare soil"], ["a.png", 1, 0.0], ["b.png", False, True]]


# Spreadsheets and text


def test_a_sheet_of_excel(tmp_path: Path) -> None:
    table = read_label_table(workbook(tmp_path / "labels.xlsx", ("Tabelle1", WIDE)))
    assert held(table) == {"a.png": ["sea"], "b.png": ["bare soil"]}
    assert (table.lines, table.notes) == ((2, 3), ())


def test_a_sheet_as_people_keep_it(tmp_path: Path) -> None:
    rows: list[list[Any]] = [["Labels of our tiles, 2021"], [], ["image", "date", "labels", "split", None],
            [1, date(2021, 7, 31), "sea; sand", "train"], [], [2, None, None, "test"]]  # fmt: skip
    path = workbook(tmp_path / "mine.xlsx", ("About", [["see the other sheet"]]), ("Labels", rows), ("Old", WIDE))
    table = read_label_table(path)
    assert held(table) == {"1": ["sand", "sea"], "2": []}
    assert (table.splits, table.dates, table.lines) == (("train", "test"), ("2021-07-31", ""), (4, 6))
    assert table.notes[0] == "sheet 'Labels' of mine.xlsx read, not Old"


def test_a_hidden_sheet_is_not_read(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ("lists", [["image", "sea"], ["x", 1]]), ("Sheet", WIDE))
    book = openpyxl.load_workbook(path)
    book["lists"].sheet_state = "hidden"
    book.save(path)
    assert read_label_table(path).image_names == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 torn", r"must be a workbook of Excel \(\.xlsx\), but is not"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", r"is of old Excel \(\.xls\)\. Save it as \.xlsx"),
        (b"PAR1 torn", "must be a Parquet file, but cannot be read"),
    ],
)
def test_broken_files_say_what_they_should_be(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.xlsx"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_label_table(path)


def test_a_workbook_without_a_table(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ("Sheet1", [["only a title"], ["and a line"]]))
    with pytest.raises(ValueError, match=r"must hold a sheet with a header, .* none of its 1 sheets does"):
        read_label_table(path)


def test_published_archives_take_their_workbook(tmp_path: Path) -> None:
    labels = write_ucm(tmp_path / "ucm", table=False)
    rows = [[stem, *row] for stem, row in zip(UCM_STEMS, labels.tolist(), strict=True)]
    workbook(
        tmp_path / "ucm/LandUse_Multilabeled.xlsx", ("LandUse_Multilabeled", [["IMAGE\\LABEL", *UCM_LABELS], *rows])
    )
    np.testing.assert_array_equal(load_archive("ucm", tmp_path, cache_dir=tmp_path / "cache").labels, labels)
    write_whdld(tmp_path / "WHDLD")
    for mask in (tmp_path / "WHDLD/ImagesPNG").iterdir():
        mask.unlink()
    names = ["building", "road", "pavement", "vegetation", "bare soil", "water"]
    workbook(tmp_path / "WHDLD/whdld_label.xlsx", ("Sheet1", [["image", *names], ["wh0002", 0, 1, 0, 0, 0, 1]]))
    archive = load_archive("whdld", tmp_path / "WHDLD", cache_dir=tmp_path / "cache")
    assert (archive.file_names, archive.labels.tolist()) == (("wh0002.jpg",), [[0, 1, 0, 0, 0, 1]])


@pytest.mark.parametrize("text", [
    "\ufeffimage;labels\r\na.png;\"sea; sand\"\r\nb.png;\r\n",  # Excel, CSV UTF-8, where commas are decimal
    "\ufeffimage,labels\r\na.png,\"sea,sand\"\r\nb.png,\r\n",
    "image,labels\na.png,\"['sand', 'sea']\"\nb.png,[]\n",  # pandas
    "image\tlabels\na.png\t[\"sand\", \"sea\"]\nb.png\t[]\n",
    "image,sand,sea\r\na.png,TRUE,TRUE\r\nb.png,FALSE,FALSE\r\n",  # Excel and R
    "image,sand,sea\na.png,1.0,1.0\nb.png,0.0,0.0\n",  # pandas, where cells were missing once
    "\ufeffsep=;\r\nimage;sand;sea\r\na.png;WAHR;WAHR\r\nb.png;FALSCH;FALSCH\r\n",  # Excel in German
    "image;sand;sea\r\na.png;1,0;1,0\r\nb.png;0,0;0,0\r\n",
    "image,sand,sea\ra.png,1,1\rb.png,0,0\r",  # Excel for Macs, once
])  # fmt: skip
def test_texts_as_programs_write_them(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    assert held(read_label_table(path)) == {"a.png": ["sand", "sea"], "b.png": []}


# Parquet


def test_a_parquet_table_of_columns(tmp_path: Path) -> None:
    columns = {"file": ["a", "b"], "sea": [True, False], "sand": [1.0, 0.0], "ship": pa.array([0, 1], pa.int8())}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    assert held(read_label_table(tmp_path / "labels.parquet")) == {"a": ["sea", "sand"], "b": ["ship"]}


def test_a_parquet_table_of_lists_beside_what_is_no_text(tmp_path: Path) -> None:
    columns = {
        "patch_id": pa.array(["a", "b"]).dictionary_encode(),
        "labels": [["Beaches, dunes, sands", "Sea"], None],
        "split": ["train", "test"],
        "embedding": [[0.5, 1.5], [2.5, 3.5]],
        "geometry": [b"\x01", b"\x02"],
    }
    pq.write_table(pa.table(columns), tmp_path / "meta.parquet")
    table = read_label_table(tmp_path / "meta.parquet")
    assert held(table) == {"a": ["Beaches, dunes, sands", "Sea"], "b": []}
    assert table.splits == ("train", "test")
    assert table.notes[0] == "columns of meta.parquet that hold no text, ignored: embedding, geometry"


def test_a_parquet_table_of_pandas_whose_index_names_the_images(tmp_path: Path) -> None:
    columns = {"sea": [1, 0], "sand": [0, 1], "__index_level_0__": ["a.tif", "b.tif"]}
    pq.write_table(pa.table(columns), tmp_path / "labels.parquet")
    assert held(read_label_table(tmp_path / "labels.parquet")) == {"a.tif": ["sea"], "b.tif": ["sand"]}


# Annotation tools


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco() -> dict[str, Any]:
    images = [
        {"id": number, "file_name": f"tiles/{name}.png", "width": 8, "height": 8} for number, name in enumerate("abc")
    ]
    boxes = [(0, 1), (0, 3), (0, 1), (2, 3)]
    return {
        "info": {"year": 2021}, "licenses": [], "images": images,
        "categories": [{"id": 1, "name": "sea", "supercategory": "water"}, {"id": 3, "name": "bare soil"}],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 0}
            for number, (image, category) in enumerate(boxes)
        ],
    }  # fmt: skip


def test_coco(tmp_path: Path) -> None:
    table = read_label_table(write_json(tmp_path / "instances_default.json", coco()))
    assert held(table) == {"tiles/a.png": ["bare soil", "sea"], "tiles/b.png": [], "tiles/c.png": ["bare soil"]}
    assert table.notes[0] == "read as COCO: 4 annotations of 2 categories"


def test_coco_that_lacks_something(tmp_path: Path) -> None:
    content = coco()
    del content["annotations"][1]["category_id"]
    with pytest.raises(ValueError, match="a category_id for each annotation; it lacks 'category_id'"):
        read_label_table(write_json(tmp_path / "a.json", content))


def tasks() -> list[dict[str, Any]]:
    """Two tasks of a project with a Choices tag, the second annotated twice; as "JSON" exports them."""

    def annotation(*choices: str, **more: Any) -> dict[str, Any]:
        result = {"value": {"choices": list(choices)}, "id": "x", "from_name": "choice", "to_name": "image",
                  "type": "choices", "origin": "manual"}  # fmt: skip
        return {"id": 1, "completed_by": 1, "result": [result], "was_cancelled": False, "ground_truth": False, **more}

    first = [annotation("sea", "bare soil")]
    second = [annotation("sand", ground_truth=True), annotation("sea"), annotation(was_cancelled=True)]
    return [
        {
            "id": 1,
            "annotations": first,
            "file_upload": "0f3a9c1e-a.png",
            "data": {"image": "/data/upload/1/0f3a9c1e-a.png"},
        },
        {"id": 2, "annotations": second, "data": {"image": "/data/local-files/?d=tiles%2Fb.png"}},
        {"id": 3, "annotations": [], "data": {"image": "s3://bucket/tiles/c.png"}},
    ]


def test_label_studio_json(tmp_path: Path) -> None:
    table = read_label_table(write_json(tmp_path / "project-1.json", tasks()))
    assert held(table) == {"/data/upload/1/0f3a9c1e-a.png": ["bare soil", "sea"], "tiles/b.png": ["sand"]}
    assert "tasks of Label Studio without a finished annotation, left out: 1" in table.notes


def min_records() -> list[dict[str, Any]]:
    """What its converter makes of them: one choice as text, several as an object."""
    more = {
        "annotator": 1,
        "created_at": "2024-01-01T00:00:00Z",
        "updated_at": "2024-01-01T00:00:00Z",
        "lead_time": 2.5,
    }
    return [
        {"image": "/data/upload/1/0f3a9c1e-a.png", "id": 1, "choice": {"choices": ["sea", "Beaches, dunes"]},
         "annotation_id": 1, **more},
        {"image": "/data/upload/1/77aa9c1e-b.png", "id": 2, "choice": "sand", "annotation_id": 2, **more},
    ]  # fmt: skip


def test_label_studio_json_min_and_csv(tmp_path: Path) -> None:
    write_json(tmp_path / "min.json", min_records())
    records = [{key: json.dumps(value) if isinstance(value, dict) else value for key, value in record.items()}
               for record in min_records()]  # fmt: skip
    with open(tmp_path / "project.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, sorted(records[0]), quoting=csv.QUOTE_NONNUMERIC)
        writer.writeheader()
        writer.writerows(records)
    for name, kind in (("min.json", "JSON-MIN"), ("project.csv", "CSV")):
        table = read_label_table(tmp_path / name)
        assert [*held(table).values()] == [["Beaches, dunes", "sea"], ["sand"]]
        assert table.notes[0] == f"read as Label Studio's {kind}: labels of choice"
    for letter in "ab":  # the names before they were uploaded
        save(tmp_path / f"{letter}.png", photo(ord(letter)))
    archive = load_folder(tmp_path, "min.json")
    assert archive.file_names == ("a.png", "b.png")
    assert archive.labels.tolist() == [[1, 0, 1], [0, 1, 0]]


def test_label_studio_boxes(tmp_path: Path) -> None:
    boxes = [{"x": 1, "y": 2, "width": 3, "height": 4, "rectanglelabels": [name]} for name in ("ship", "ship", "dock")]
    record = {**min_records()[0], "label": boxes}
    del record["choice"]
    assert [*held(read_label_table(write_json(tmp_path / "a.json", [record]))).values()] == [["dock", "ship"]]


def test_annotators_who_disagree_make_a_conflict(tmp_path: Path) -> None:
    """Also where each has chosen one label: these are two opinions and not two labels."""
    for letter in "ab":
        save(tmp_path / f"{letter}.png", photo(ord(letter)))
    record = {**min_records()[1], "image": "/data/upload/1/0f3a9c1e-a.png"}
    other = {**record, "annotator": 2, "annotation_id": 9, "choice": "sea"}
    write_json(tmp_path / "min.json", [record, other, min_records()[1]])
    archive = load_folder(tmp_path)
    assert (archive.file_names, archive.label_names) == (("b.png",), ("sand", "sea"))
    assert ("conflicting", "a.png") in [(found.problem, found.name) for found in archive.report.findings]


def test_label_studio_taxonomy(tmp_path: Path) -> None:
    """A node of a taxonomy brings those above it."""
    content = tasks()[:1]
    content[0]["annotations"][0]["result"] = [{"type": "taxonomy", "value": {"taxonomy": [["land", "field"], ["sea"]]}}]
    assert [*held(read_label_table(write_json(tmp_path / "a.json", content))).values()] == [["field", "land", "sea"]]


def samples() -> dict[str, Any]:
    def labels(*names: str) -> dict[str, Any]:
        one = [
            {"_id": {"$oid": "6f"}, "_cls": "Classification", "tags": [], "label": name, "logits": [0.5]}
            for name in names
        ]
        return {"_cls": "Classifications", "classifications": one, "logits": None}

    return {"samples": [
        {"_id": {"$oid": "6a"}, "filepath": "data/a.png", "tags": ["train"], "_media_type": "image",
         "metadata": {"_cls": "ImageMetadata", "width": 8}, "ground_truth": labels("sea", "bare soil"),
         "predictions": labels("wrong")},
        {"_id": {"$oid": "6b"}, "filepath": "data/b.png", "tags": ["test", "seen"], "ground_truth": None},
    ]}  # fmt: skip


def test_fiftyone_dataset(tmp_path: Path) -> None:
    path = write_json(tmp_path / "samples.json", samples())
    table = read_label_table(path)
    assert held(table) == {"data/a.png": ["bare soil", "sea"], "data/b.png": []}
    assert table.splits == ("train", "test")
    content = samples()
    content["samples"][0]["other"] = content["samples"][0].pop("ground_truth")
    with pytest.raises(ValueError, match=r"or one called ground_truth, got predictions, other\. Export the field"):
        read_label_table(write_json(path, content))


@pytest.mark.parametrize("labels", [
    {"a": ["sea", "bare soil"], "b": None},
    {"a": [1, 0], "b": None},
    {"a": [{"label": 0, "confidence": 0.5}, {"label": 1}], "b": []},
])  # fmt: skip
def test_fiftyone_image_classification(tmp_path: Path, labels: dict[str, Any]) -> None:
    path = write_json(tmp_path / "labels.json", {"classes": ["bare soil", "sea"], "labels": labels})
    assert held(read_label_table(path)) == {"a": ["bare soil", "sea"], "b": []}


def test_plain_records_lines_and_maps(tmp_path: Path) -> None:
    expected = {"a.png": ["bare soil", "sea"], "b.png": []}
    records = [{"file_name": "a.png", "labels": ["sea", "bare soil"], "n": 1}, {"file_name": "b.png", "labels": []}]
    assert held(read_label_table(write_json(tmp_path / "a.json", records))) == expected
    lines = tmp_path / "metadata.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert held(read_label_table(lines)) == expected
    content = {"a.png": ["sea", "bare soil"], "b.png": []}
    assert held(read_label_table(write_json(tmp_path / "map.json", content))) == expected
    frame = {"image": {"0": "a.png", "1": "b.png"}, "sea": {"0": 1, "1": 0}, "bare soil": {"0": 1, "1": 0}}
    assert held(read_label_table(write_json(tmp_path / "frame.json", frame))) == {
        "a.png": ["sea", "bare soil"],
        "b.png": [],
    }
    columns = [{"image": "a.png", "sea": True, "sand": 0}, {"image": "b.png", "sea": False, "sand": 1.0}]
    assert held(read_label_table(write_json(tmp_path / "c.json", columns))) == {"a.png": ["sea"], "b.png": ["sand"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"sea": 0, "sand": 1}',
            r"labels as a known tool writes them, got an object with sea, sand\. What is",
        ),
        ('{"type": "FeatureCollection", "features": []}', r"What is read: COCO .*, Label Studio .*, FiftyOne"),
        ("[1, 2]", "got list"),
        ("{torn", "must be JSON, but is not"),
    ],
)
def test_other_json_is_refused_with_what_is_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_table(path)


# Which file is the table


def test_the_table_is_found_whatever_it_is(tmp_path: Path) -> None:
    write_json(tmp_path / "metadata.json", {"name": "tiles", "version": 1})
    write_json(tmp_path / "label_map.json", {"sea": 0, "sand": 1})
    (tmp_path / "about.txt").write_text("Tiles of the coast, with labels.\nMade by us; see the page.\n")
    (tmp_path / "classes.txt").write_text("sea\nsand\n")
    (tmp_path / "groups.csv").write_text("image,group\na,scene1\nb,scene1\n")
    assert find_table(tmp_path, None) is None
    found = [write_json(tmp_path / "export.json", coco())]
    pq.write_table(pa.table({"id": ["a"], "vector": [[0.5, 1.0]]}), tmp_path / "vectors.parquet")
    assert find_table(tmp_path, None) == found[0]
    pq.write_table(pa.table({"image": ["a"], "sea": [1]}), tmp_path / "table.parquet")
    assert find_table(tmp_path, None) == tmp_path / "table.parquet"
    workbook(tmp_path / "table.xlsx", ("Sheet1", WIDE))
    (tmp_path / "~$table.xlsx").write_bytes(b"of Excel, while the table is open")
    assert find_table(tmp_path, None) == tmp_path / "table.xlsx"
    (tmp_path / "table.txt").write_text("image sea sand\na 1 0\n")
    assert find_table(tmp_path, None) == tmp_path / "table.txt"


def test_a_json_beside_each_tile_is_no_table(tmp_path: Path) -> None:
    for number in range(30):
        write_json(tmp_path / f"{number}.json", {f"{number}.png": ["sea"]})
        (tmp_path / f"{number}.txt").write_text("0 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n")
    assert find_table(tmp_path, None) is None


def test_embedding_takes_such_tables_too(tmp_path: Path) -> None:
    save(tmp_path / "tiles/a.png", photo(0))
    write_json(tmp_path / "coco.json", coco())
    (tile,) = FolderSource(tmp_path, "coco.json")
    assert (tile.id, tile.labels) == ("tiles/a.png", ("bare soil", "sea"))


def test_rows_have_as_many_cells_as_the_header(tmp_path: Path) -> None:
    found = read_rows(workbook(tmp_path / "a.xlsx", ("S", [["image", "sea", "sand"], ["a", 1], ["b", None, 1]])))
    assert [cells for _, cells in found.rows] == [["a", "1", ""], ["b", "", "1"]]
