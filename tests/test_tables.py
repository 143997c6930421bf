"""Label tables as people write them, and what is said about those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from macl_tf.datasets.tables import LabelTable, read_label_table


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


@pytest.mark.parametrize("first", ["split,image,labels", "labels,image,split", "sea,image,split"])
def test_a_byte_order_mark_is_no_part_of_the_first_column_s_name(tmp_path: Path, first: str) -> None:
    row = {"image": "a.png", "labels": "sea", "split": "test", "sea": "1"}
    text = f"\ufeff{first}\n{','.join(row[name] for name in first.split(','))}\n"
    table = read_label_table(write_table(tmp_path, text))
    assert (table.label_names, table.splits, table.labels.tolist()) == (("sea",), ("test",), [[1]])


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
    table = read_label_table(write_table(tmp_path, "image,labels\na,Inland waters\nb,Mixed forest\nc,Sea\n"))
    assert table.label_names == ("Inland waters", "Mixed forest", "Sea")
    assert table.notes[0].endswith("blanks are part of a label, since no word recurs without the others "
                                   "(write ';' between labels)")  # fmt: skip
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


BEACHES = "Beaches, dunes, sands"
BOTH = [[BEACHES, "Sea"], ["Sea"]]


def held(table: LabelTable) -> list[list[str]]:
    return [[name for name, holds in zip(table.label_names, row, strict=True) if holds] for row in table.labels]


@pytest.mark.parametrize(
    "text",
    [
        f'image,labels\na,"{BEACHES};Sea"\nb,Sea\n',
        f'image,labels\na,"{BEACHES}|Sea"\nb,Sea\n',
        f'image,labels\na,"""{BEACHES}"",""Sea"""\nb,Sea\n',
        f"image,labels\na,\"'{BEACHES}', 'Sea'\"\nb,Sea\n",
        f"image,labels\na,\"['{BEACHES}', 'Sea']\"\nb,['Sea']\n",
        f'image,labels\na,"[""{BEACHES}"", ""Sea""]"\nb,"[""Sea""]"\n',
        f"image,labels\na,\"['{BEACHES}'\n 'Sea']\"\nb,['Sea']\n",  # NumPy breaks its lines
        f'image,labels\na,"{BEACHES}\nSea"\nb,Sea\n',  # a cell of two lines
        f"image\tlabels\na\t{BEACHES};Sea\nb\tSea\n",
        f'image\tlabels\na\t"{BEACHES}","Sea"\nb\tSea\n',
        f'image\tlabels\na\t"{BEACHES}";"Sea"\nb\t"Sea"\n',
        f'\ufeffimage;labels\r\na;"{BEACHES}","Sea"\r\nb;Sea\r\n',
        f"image;labels\na;{BEACHES}|Sea\nb;Sea\n",
        f'image labels\na "{BEACHES}";Sea\nb Sea\n',
        f'image,label\na,"{BEACHES}"\na,Sea\nb,Sea\n',  # a row for each label
        f'image,labels\na,"{BEACHES}"\na,Sea\nb,Sea\n',
        f'image,"{BEACHES}",Sea\na,1,1\nb,0,1\n',
        f'image;"{BEACHES}";Sea\na;1;1\nb;0;1\n',
        f"image;{BEACHES};Sea\na;1;1\nb;0;1\n",
    ],
)
def test_a_label_with_commas_stays_one(tmp_path: Path, text: str) -> None:
    table = read_label_table(write_table(tmp_path, text))
    assert (table.image_names, held(table)) == (("a", "b"), BOTH)


def test_a_label_in_quotes_stays_one_in_every_cell_of_its_column(tmp_path: Path) -> None:
    text = f'"image"\t"labels"\na\t"{BEACHES}","Sea"\nb\t"{BEACHES}"\n'
    assert held(read_label_table(write_table(tmp_path, text))) == [[BEACHES, "Sea"], [BEACHES]]


@pytest.mark.parametrize(
    ("text", "labels", "how"),
    [
        ("a,sea;sand|x\nb,sea;sand\n", [["sand|x", "sea"], ["sand", "sea"]], STRONG.format("';'")),
        ("a,sea;sand\nb,sea|trees\n", [["sand", "sea"], ["sea", "trees"]], STRONG.format("';' and '|'")),
        ('a,"sea,sand"\nb,\n', [["sand", "sea"], []], COMMAS),
        ("a,Arable land (non-irrigated);(other)\nb,\n", [["(other)", "Arable land (non-irrigated)"], []],
         STRONG.format("';'")),
        ("a,\"[None, 'sea']\"\nb,[nan]\n", [["sea"], []], COMMAS),
        ("a,sea \"bare soil\"\nb,sea\n", [["bare soil", "sea"], ["sea"]],
         ", separated by blanks; a label of several words must be quoted or the labels separated by ';'"),
    ],
)  # fmt: skip
def test_what_separates_is_said(tmp_path: Path, text: str, labels: list[list[str]], how: str) -> None:
    table = read_label_table(write_table(tmp_path, "image,labels\n" + text))
    assert held(table) == labels
    assert table.notes == (f"column 'labels' read as lists of labels{how}",)


def test_a_column_of_one_label_each_may_hold_commas(tmp_path: Path) -> None:
    table = read_label_table(write_table(tmp_path, f'image,class\na,"{BEACHES}"\nb,Inland waters\n'))
    assert held(table) == [[BEACHES], ["Inland waters"]]
    assert "commas are part of a label" in table.notes[0]
    # ... but what recurs without them was a list.
    table = read_label_table(write_table(tmp_path, 'image,label\na,"sea,sand"\nb,sea\nc,"sand,trees"\n'))
    assert held(table) == [["sand", "sea"], ["sea"], ["sand", "trees"]]


@pytest.mark.parametrize("names", [("नदी", "नाद", "नद"), ("😀", "😃"), ("1.1", "11"), ("C", "C++"), ("-", "_")])
def test_different_labels_stay_different(tmp_path: Path, names: tuple[str, ...]) -> None:
    table = read_label_table(write_table(tmp_path, f"image,labels\na,{';'.join(names)}\nb,{names[0]}\n"))
    assert table.label_names == tuple(sorted(names)) and held(table)[1] == [names[0]]
    table = read_label_table(write_table(tmp_path, f"image,{','.join(names)}\na{',1' * len(names)}\n"))
    assert table.label_names == names


def test_joined_spellings_are_named(tmp_path: Path) -> None:
    rows = "".join(f"a{n},L{n}x\nb{n},l-{n} X\n" for n in range(12))
    table = read_label_table(write_table(tmp_path, f"image,labels\n{rows}c,Bare Soil;sea\nd,bare-soil;baresoil\n"))
    assert len(table.label_names) == 14
    assert table.notes[1] == "read as one label: Bare Soil, bare-soil, baresoil"
    assert len(table.notes) == 12 and table.notes[-1] == "3 more labels are spelled in several ways"


LONG = [
    "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,sea,1,2,3,4\na.jpg,9,9,sand,0,0,1,1\n"
    "a.jpg,9,9,sea,5,5,6,6\nb.jpg,9,9,Sea,1,2,3,4\n",
    "filename,class,difficult,xmin\na.jpg,sea,0,7\na.jpg,sand,1,8\nb.jpg,sea,0,9\n",
    "ImageID,Source,LabelName,Confidence\na.jpg,human,sea,1\na.jpg,human,sand,1\nb.jpg,human,sea,1\n"
    "b.jpg,human,sand,0\n",
    "ImageID,Source,LabelName,Confidence\na.jpg,machine,sea,0.9\na.jpg,human,sand,1\nb.jpg,machine,sea,0.2\n"
    "b.jpg,machine,sand,0.0\n",
    "annotator,image_id,label\n0,a.jpg,sea\n1,a.jpg,sand\n0,b.jpg,sea\n",
    "image_id,label,annotator\na.jpg,sea,x\na.jpg,sea,y\na.jpg,sand,x\nb.jpg,sea,y\n",
    "id,file_path,category\n1,a.jpg,sea\n2,a.jpg,sand\n3,b.jpg,sea\n",
    "id,label\na.jpg,sea\na.jpg,sand\nb.jpg,sea\n",
    "img;tag\na.jpg;sea\na.jpg;sand\nb.jpg;sea\n",
    "split,image,labels\ntrain,a.jpg,sea\ntrain,a.jpg,sand\ntest,b.jpg,sea\n",
    "image,label,value\na.jpg,sea,1\na.jpg,sand,true\nb.jpg,sea,1.0\nb.jpg,sand,False\n",
    "image,scene,label\na.jpg,port,sea\na.jpg,port,sand\nb.jpg,port,sea\n",
    'image_id,category_id,category_name,bbox\na.jpg,1,sea,"[1, 2]"\na.jpg,2,sand,"[2, 3]"\nb.jpg,1,sea,"[0, 1]"\n',
]


@pytest.mark.parametrize("text", LONG)
def test_rows_of_one_label_each_add_up(tmp_path: Path, text: str) -> None:
    table = read_label_table(write_table(tmp_path, text))
    assert table.image_names == ("a.jpg", "b.jpg") and table.adds_up
    assert [sorted(name.casefold() for name in names) for names in held(table)] == [["sand", "sea"], ["sea"]]
    rows = len(text.splitlines()) - 1
    assert f"a row for each label: {rows} rows of 2 images, which hold the labels of all their rows" in table.notes


def test_columns_beside_a_label_are_ignored_and_named(tmp_path: Path) -> None:
    table = read_label_table(write_table(tmp_path, "filename,width,class,xmin\na,9,sea,1\nb,9,sand,1\n"))
    assert held(table) == [["sea"], ["sand"]]
    assert table.notes == ("column 'class' read as the label", "columns of the table that were ignored: width, xmin")
    # ... unless the others are labels of 0 and 1: then the first is the scene, and a wrong cell is an error.
    text = "image,class,sea,sand\na,beach,1,0\nb,port,0,{}\n"
    assert read_label_table(write_table(tmp_path, text.format(1))).scenes == ("beach", "port")
    with pytest.raises(ValueError, match="line 3, column 'sand': a label must be 0 or 1, got '7'"):
        read_label_table(write_table(tmp_path, text.format(7)))


def test_a_label_that_is_denied_is_not_held(tmp_path: Path) -> None:
    text = "image,label,presence\na,sea,1\na,sand,0\nb,trees,0\n"
    table = read_label_table(write_table(tmp_path, text))
    assert held(table) == [["sea"], []] and table.label_names == ("sand", "sea", "trees")
    assert table.denied == {0: {0}, 1: {2}}
    assert "0 in column 'presence' read as a label that the image does not hold, 2 times" in table.notes
    text = "image,label,confidence\na,sea,0.7\nb,sand,0\n"
    assert (
        read_label_table(write_table(tmp_path, text)).notes[-1].endswith("1 times; everything above 0 counts as held")
    )
    text = "image,label,confidence\na,sea,70\nb,sand,0\n"  # not a share: it says nothing that is known
    table = read_label_table(write_table(tmp_path, text))
    assert held(table) == [["sea"], ["sand"]]
    assert table.notes[-1] == "columns of the table that were ignored: confidence"


@pytest.mark.parametrize(
    ("header", "image"),
    [
        ("image_id,file_name,label", "file_name"),
        ("id,image,label", "image"),
        ("index,img,label", "img"),
        ("label,tile_id,note", "tile_id"),
        ("note,reference,label", "note"),
    ],
)
def test_the_column_of_images_is_found(tmp_path: Path, header: str, image: str) -> None:
    table = read_label_table(write_table(tmp_path, f"{header}\nx,y,z\nv,w,z\n"))
    assert table.image_names == (("x", "v"), ("y", "w"), ("z", "z"))[header.split(",").index(image)]


def test_a_column_of_file_names_is_that_of_the_images(tmp_path: Path) -> None:
    table = read_label_table(write_table(tmp_path, "reference,chip,label\n17,a.tif,sea\n18,b.tif,sand\n"))
    assert table.image_names == ("a.tif", "b.tif")
    table = read_label_table(write_table(tmp_path, "tile,road,path\na,1,0\nb,0,1\n"))  # a path is land cover, too
    assert table.image_names == ("a", "b") and table.label_names == ("road", "path")


def test_a_quote_that_is_never_closed_is_found_where_it_begins(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 3: not a readable table \(a quote is never closed.*written twice"):
        read_label_table(write_table(tmp_path, 'image,labels\na,sea\nb,"sand\nc,trees\nd,sea\n'))


def test_names_of_classes_go_before_their_numbers(tmp_path: Path) -> None:
    text = ",Filename,Label,ClassName\n0,a.jpg,3,Forest\n1,b.jpg,0,River\n"  # EuroSAT as it is on Kaggle
    assert held(read_label_table(write_table(tmp_path, text))) == [["Forest"], ["River"]]
