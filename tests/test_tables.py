"""Label tables as people write them, and what is said about those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from macl_tf.datasets.tables import read_label_table


def write_table(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "labels.csv"
    path.write_bytes(text.encode(encoding))
    return path


WIDE = [
    "image,sea,bare soil\na.png,1,0\nb.png,0,1\n",
    "image;sea;bare soil\r\na.png;1;0\r\nb.png;0;1\r\n",
    "\ufeffIMAGE\\LABEL\tsea\tbare soil\r\na\t1\t0\r\nb\t0\t1\r\n",
    'image|sea|"bare soil"\n\na|1.0|0.0\nb|False|True\n\n',
    ",image,sea,bare soil,\n0,a.png,1,0,\n1,b.png,0,1,\n",  # a row index in front, a comma behind
]


STRONG = ", separated by {} and nothing else"
COMMAS = ", separated by ','; a label that itself holds a comma must be quoted or the labels separated by ';'"


@pytest.mark.parametrize("text", WIDE)
def test_wide_tables(tmp_path: Path, text: str) -> None:
    table = read_label_table(write_table(tmp_path, text))
    assert table.label_names == ("sea", "bare soil")
    assert table.labels.tolist() == [[1, 0], [0, 1]]
    assert [Path(name).stem for name in table.image_names] == ["a", "b"]
    assert (table.scenes, table.splits, table.notes) == (None, None, ())


def test_table_of_runs_of_spaces_and_of_utf16(tmp_path: Path) -> None:
    table = read_label_table(write_table(tmp_path, "image  building road\nwh0001  0    1\n"))
    assert (table.label_names, table.labels.tolist()) == (("building", "road"), [[0, 1]])
    table = read_label_table(write_table(tmp_path, "image\tforêt\na\t1\n", encoding="utf-16"))
    assert table.label_names == ("forêt",)


@pytest.mark.parametrize(
    ("cells", "notes"),
    [
        (("sea;bare soil", "", "Bare-Soil"), (STRONG.format("';'"), "read as one label: bare soil, Bare-Soil")),
        (("sea | bare soil", "", "bare_soil"), (STRONG.format("'|'"), "read as one label: bare soil, bare_soil")),
        (('"sea, bare soil"', "", "bare soil"), (COMMAS,)),
        (("\"['sea', 'bare soil']\"", "[]", "['bare soil']"), ("",)),
    ],
)
def test_lists_of_labels(tmp_path: Path, cells: tuple[str, str, str], notes: tuple[str, ...]) -> None:
    text = "image,labels,source\n" + "".join(f"{name},{cell},x\n" for name, cell in zip("abc", cells, strict=True))
    table = read_label_table(write_table(tmp_path, text))
    assert table.label_names == ("bare soil", "sea")  # sorted, the first spelling, one label for all spellings
    assert table.labels.tolist() == [[1, 1], [0, 0], [1, 0]]
    assert table.notes == (
        f"column 'labels' read as lists of labels{notes[0]}",
        *notes[1:],
        "columns of the table that were ignored: source",
    )


def test_spaces_separate_only_where_nothing_else_does(tmp_path: Path) -> None:
    table = read_label_table(write_table(tmp_path, "image,tags\na,sea sand\nb,sand\n"))
    assert (table.label_names, table.labels.tolist()) == (("sand", "sea"), [[1, 1], [1, 0]])
    table = read_label_table(write_table(tmp_path, "image,class\na,dense residential\nb,harbor\n"))
    assert (table.label_names, table.labels.tolist()) == (("dense residential", "harbor"), [[1, 0], [0, 1]])


def test_split_and_scene_columns(tmp_path: Path) -> None:
    text = "split,filename,class,sea,sand\nTraining,a,beach,1,1\nval,b,beach,0,1\ntest,c,port,1,0\n"
    table = read_label_table(write_table(tmp_path, text))
    assert table.image_names == ("a", "b", "c")
    assert table.splits == ("train", "validation", "test")
    assert table.scenes == ("beach", "beach", "port")
    assert table.label_names == ("sea", "sand")
    table = read_label_table(write_table(tmp_path, "image,scene\na,beach\nb,port\n"))
    assert (table.scenes, table.label_names) == (("beach", "port"), ("beach", "port"))


@pytest.mark.parametrize(
    "text, message",
    [
        ("image,a,b\nx,1,0\ny,1,2\n", r"line 3, column 'b': a label must be 0 or 1, got '2'"),
        ("image,a,b\nx,1,\n", r"column 'b': a label must be 0 or 1, got ''"),
        ("image,a\nx,-1\n", r"got '-1'"),
        ("image,kind\nx,sea;sand\n", r"if it holds lists of labels, call it 'labels'"),
        ("x,1,0\ny,0,1\n", r"must begin with a row that names its columns.*'x,1,0'"),
        ("image,labels\nx,a,b\n", r"line 2: a row must have as many cells as the header, 2, got 3"),
        ("image,a,b\nx,1\n", r"line 2: a row must have as many cells as the header, 3, got 2"),
        ("image,bare-soil,baresoil\nx,1,0\n", r"'bare-soil' and 'baresoil' are one label"),
        ("image,,a\nx,1,0\n", r"each column must have a name"),
        ("image,a\nx,1\n,1\n", r"line 3: a row must name its image, but column 'image' is empty"),
        ("image,labels\nx,\n", r"must hold labels beside the images"),
        ("image,split\nx,train\n", r"must hold labels beside the images"),
        ("image,split,a\nx,later,1\n", r"column 'split': a split must be train, validation or test, got 'later'"),
        ("labels,row\na,x\n", r"must have a column with the images' names"),
        ("", r"must be a table with a header"),
        ("image,a\n", r"0 rows below it"),
        ("image\nx\n", r"at least two columns"),
        ('image,labels\nx,"' + "a" * 200_000 + '"\n', r"line 2: not a readable table \(field larger"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_label_table(write_table(tmp_path, text))


def test_table_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Save the table as 'CSV UTF-8'"):
        read_label_table(write_table(tmp_path, "image,forêt\na,1\n", encoding="latin-1"))
