"""Figures: the file is whole, of the expected size, and shows what it was given. No picture is compared as a whole."""

import math

import numpy as np
import pytest
from PIL import Image

from macl_tf.figures import contact_sheet, plot_history, plot_label_frequencies, plot_per_label
from macl_tf.figures.neighbours import CELL, GAP, HEADER, LINE

NAMES = ["airplane", "bare-soil", "cars", "mobile-home", "water"]
BLUE, ORANGE, SHADE = (0, 114, 178), (213, 94, 0), (252, 235, 221)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def has(picture, colour):
    return int((picture == np.array(colour)).all(axis=-1).sum())


def changed(before, after):
    """Rows and columns of the box around the pixels that differ."""
    rows, columns = np.nonzero((before != after).any(axis=-1))
    return rows.min(), rows.max(), columns.min(), columns.max()


def sheet(path, **changes):
    """Two queries with three neighbours: labels 0-2 each, grey images of growing brightness."""
    grey = [np.full((8, 8, 3), 20 * step, np.uint8) for step in range(1, 9)]
    arguments = {
        "query_images": grey[:2],
        "query_labels": np.array([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0]]),
        "neighbour_images": [grey[2:5], grey[5:8]],
        "neighbour_labels": np.array(
            [[[1, 0, 1, 0, 0], [1, 0, 0, 0, 1], [0, 0, 0, 0, 1]], [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]]
        ),
        "scores": np.array([[0.9, 0.5, 0.1], [0.8, 0.7, math.nan]]),
        "label_names": NAMES,
    }
    return pixels(contact_sheet(path=path, **{**arguments, **changes}))


def cell(picture, column, top=HEADER):
    left = GAP + column * (CELL + GAP) + (2 * GAP if column else 0)
    return picture[top : top + CELL, left : left + CELL]


def test_contact_sheet_has_the_size_of_its_cells(tmp_path):
    picture = sheet(tmp_path / "sheet.png")
    # Two rows, each of an image, a line of scores and a line of labels ("airplane, water" fits in one).
    rows = 2 * (CELL + 2 * LINE + 2 * GAP)
    assert picture.shape == (HEADER + rows, 4 * (CELL + GAP) + 3 * GAP, 3)


def test_contact_sheet_shows_each_image_in_its_place(tmp_path):
    picture = sheet(tmp_path / "sheet.png")
    second = HEADER + CELL + 2 * LINE + 2 * GAP
    for column, values in enumerate([(20, 40), (60, 120), (80, 140), (100, 160)]):
        for top, value in zip((HEADER, second), values, strict=True):
            centre = cell(picture, column, top)[20:-20, 20:-20]
            assert (abs(centre - value) <= 1).all()


def test_contact_sheet_frames_tell_the_overlap(tmp_path):
    picture = sheet(tmp_path / "sheet.png")
    same, some, none = (cell(picture, column)[CELL // 2, :4].mean(axis=0) for column in (1, 2, 3))
    assert abs(none - np.array(ORANGE)).max() < 40
    assert same[2] > same[0] and some[2] > some[0]  # both blue,
    assert same.sum() < some.sum()  # the same set darker than a third in common


def test_contact_sheet_emphasises_shared_labels_only(tmp_path):
    picture = sheet(tmp_path / "sheet.png")
    below = picture[HEADER + CELL + LINE : HEADER + CELL + 2 * LINE + GAP]
    width = CELL + GAP
    shared, partly, not_shared = (
        has(below[:, 3 * GAP + k * width : 2 * GAP + (k + 1) * width], BLUE) for k in (1, 2, 3)
    )
    assert shared > partly > not_shared == 0


def test_changed_image_changes_its_cell_and_nothing_else(tmp_path):
    before = sheet(tmp_path / "a.png")
    images = [[np.full((8, 8, 3), value, np.uint8) for value in row] for row in ((60, 250, 100), (120, 140, 160))]
    after = sheet(tmp_path / "b.png", neighbour_images=images)
    top, bottom, left, right = changed(before, after)
    first = GAP + 2 * (CELL + GAP) + 2 * GAP
    assert top >= HEADER and bottom < HEADER + CELL + 2 and first - 2 <= left and right < first + CELL + 2


def test_changed_label_changes_the_caption_of_its_cell(tmp_path):
    before = sheet(tmp_path / "a.png")
    labels = np.array(
        [[[1, 0, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 1]], [[0, 1, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]]
    )
    after = sheet(tmp_path / "b.png", neighbour_labels=labels)
    top, bottom, left, right = changed(before, after)  # "bare-soil" instead of "water"; J stays 1/3
    first = GAP + 2 * (CELL + GAP) + 2 * GAP
    assert top > HEADER + CELL + LINE and bottom < HEADER + CELL + 3 * LINE
    assert first <= left and right < first + CELL + GAP


def test_rare_labels_are_marked(tmp_path):
    before, after = sheet(tmp_path / "a.png"), sheet(tmp_path / "b.png", rare=iter([4]))
    top, _, left, _ = changed(before, after)
    assert top > HEADER + CELL and left >= GAP + 2 * (CELL + GAP)  # "water" is in the last columns only


def test_long_label_lists_wrap_and_make_the_sheet_higher(tmp_path):
    names = ["mobile-home", "bare-soil", "chaparral", "buildings", "airplane", "pavement", "$cars$"]
    image = np.zeros((4, 6, 3), np.uint8)
    picture = pixels(
        contact_sheet(
            [image], np.ones((1, 7)), [[image]], np.ones((1, 1, 7)), [[1.0]], tmp_path / "sheet.png", label_names=names
        )
    )
    extra = picture.shape[0] - (HEADER + CELL + 2 * LINE + 2 * GAP)
    assert extra in (2 * LINE, 3 * LINE, 4 * LINE)  # 63 letters at 20 to 25 a line
    outside = picture[HEADER + CELL + 4 :, -GAP // 2 :]
    assert (outside == 255).all()  # nothing runs over the right edge


def test_floating_point_images_are_scaled(tmp_path):
    half = [[np.full((4, 4, 3), 0.5)] * 3] * 2
    assert (abs(cell(sheet(tmp_path / "a.png", neighbour_images=half), 1)[20:-20, 20:-20] - 128) <= 1).all()
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], got float64 up to 200"):
        sheet(tmp_path / "b.png", query_images=[np.full((4, 4, 3), 200.0)] * 2)
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": np.zeros((2, 2))},
        {"query_labels": np.zeros((2, 4))},
        {"label_names": NAMES[:4]},
        {"neighbour_images": []},
        {"neighbour_images": [[np.zeros((4, 4, 3), np.uint8)] * 3] * 1},
    ],
)
def test_contact_sheet_refuses_shapes_that_do_not_fit(tmp_path, changes):
    with pytest.raises(ValueError, match="contact_sheet needs"):
        sheet(tmp_path / "sheet.png", **changes)


def test_history_has_a_panel_for_each_curve(tmp_path):
    one = pixels(plot_history({"loss": [3.0, 2.0]}, tmp_path / "one.png"))
    full = {
        "loss": [3.0, 2.0, 1.5],
        "val_loss": [3.1, 2.4, 2.2],
        "temperature": [0.07, 0.04, 0.01],
        "learning_rate": [1e-3, 5e-4, 0.0],
        "val_ndcg@100_jaccard": [0.5, 0.7, 0.6],
        "accuracy": [0, 0, 0],
    }
    four = pixels(plot_history(full, tmp_path / "four.png"))
    # Inches at 120 dots: 3.7 a column + 0.3 and 2.5 a row + 0.7. "accuracy" is not drawn; "val_loss" shares a panel.
    assert one.shape[:2] == (384, 480)
    assert four.shape[:2] == (684, 1368)
    assert has(one, BLUE) == 0 and has(four, BLUE) > 100
    assert has(four[342:, 456:], BLUE) == 0  # the fourth panel is the first of the second row, the rest stays empty


def test_history_marks_the_best_epoch(tmp_path):
    history = {"loss": [3.0, 2.0, 1.0], "val_a": [0.1, 0.9, 0.2], "val_b": [0.1, 0.2, 0.9]}
    first = pixels(plot_history(history, tmp_path / "a.png"))
    other = pixels(plot_history(history, tmp_path / "b.png", monitor="val_b"))
    loss_panel = np.s_[60:-60, 60:480]

    def line(picture):  # column of the dashed line in the panel of the loss
        red, _, blue = np.moveaxis(picture[loss_panel], -1, 0)
        return np.nonzero((red - blue > 60).sum(axis=0) > 40)[0].mean()

    assert line(first) < line(other)  # epoch 2 is left of epoch 3
    with pytest.raises(ValueError, match=r"monitor must be one of \['val_a', 'val_b'\], got 'loss'"):
        plot_history(history, tmp_path / "c.png", monitor="loss")


@pytest.mark.parametrize("values", [[math.nan, math.nan], [math.nan, 0.5], [None, 0.5, None], [math.inf, 1.0], [0.5]])
def test_history_with_values_missing(tmp_path, values):
    picture = pixels(plot_history({"loss": [1.0] * len(values), "val_map_any": values}, tmp_path / "h.png"))
    # The best epoch is marked in orange where there is one; with a single value the mark covers the curve.
    assert (has(picture, ORANGE) > 0) == any(v is not None and math.isfinite(v) for v in values)


def test_history_needs_something_to_draw(tmp_path):
    for history in ({}, {"loss": []}, {"accuracy": [1.0]}):
        with pytest.raises(ValueError, match="history must hold"):
            plot_history(history, tmp_path / "h.png")


def test_label_frequencies_are_sorted_and_show_both_shares(tmp_path):
    before = np.array([0.05, 0.6, 0.3, 0.02, 0.2])
    after = before[::-1].copy()
    picture = pixels(plot_label_frequencies(NAMES, before, after, tmp_path / "f.png", rarest=[3, 0]))
    assert picture.shape[:2] == (round((1.5 + 0.27 * 5) * 120), 1008)
    shaded = np.nonzero((picture == np.array(SHADE)).all(axis=-1).any(axis=1))[0]
    assert has(picture, SHADE) > 1000 and shaded.min() > 0.4 * picture.shape[0]  # the two rarest come last
    plain = pixels(plot_label_frequencies(NAMES, before, after, tmp_path / "g.png"))
    assert has(plain, SHADE) == 0
    # The order of the input does not matter, only the values: the same picture for permuted labels.
    order = np.array([4, 2, 0, 1, 3])
    again = plot_label_frequencies([NAMES[k] for k in order], before[order], after[order], tmp_path / "h.png")
    np.testing.assert_array_equal(pixels(again), plain)


def test_per_label_moves_one_dot_for_one_value(tmp_path):
    counts, untrained, trained = np.array([5, 900, 40, 3, 80]), np.full(5, 0.2), np.full(5, 0.6)
    before = pixels(plot_per_label(NAMES, counts, {"untrained": untrained, "trained": trained}, tmp_path / "a.png"))
    trained[1] = 0.9  # the most frequent: the top line
    after = pixels(plot_per_label(NAMES, counts, {"untrained": untrained, "trained": trained}, tmp_path / "b.png"))
    top, bottom, left, right = changed(before, after)
    assert bottom < 0.3 * before.shape[0] and bottom - top < 30 and right - left > 100


def test_per_label_says_where_there_is_no_value(tmp_path):
    counts, gone = np.arange(5), np.full(5, np.nan)
    half = np.array([0.1, np.nan, 0.3, np.nan, 0.5])
    some = pixels(plot_per_label(NAMES, counts, {"untrained": gone, "trained": half}, tmp_path / "a.png"))
    nothing = pixels(plot_per_label(NAMES, counts, {"untrained": gone, "trained": gone}, tmp_path / "b.png"))
    assert has(some, BLUE) > 3.5 * has(nothing, BLUE) > 0  # three values and the legend's dot against that alone


@pytest.mark.parametrize("values", [{}, {"a": np.zeros(4)}, {str(k): np.zeros(5) for k in range(5)}])
def test_per_label_refuses_what_does_not_fit(tmp_path, values):
    with pytest.raises(ValueError, match=r"5 labels need 1 to 4 series of shape \(5,\)"):
        plot_per_label(NAMES, np.arange(5), values, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"counts must have shape \(5,\).* got \(4,\)"):
        plot_per_label(NAMES, np.arange(4), values, tmp_path / "a.png")


def test_dollars_and_foreign_scripts_in_names_are_no_trouble(tmp_path):
    shares = np.array([0.5, 0.2, 0.1])
    path = plot_label_frequencies(["$x$ and $", "\u6c34", "100 %"], shares, shares, tmp_path / "a.png")
    other = plot_label_frequencies(["x and", "\u6c34", "100 %"], shares, shares, tmp_path / "b.png")
    assert (pixels(path) != pixels(other)).any()
    names = ["$x$ and $", "नदी", "😀", "Beaches, dunes, sands", "C++"]  # no warning of glyphs that the font lacks
    assert sheet(tmp_path / "sheet.png", label_names=names).any()


def test_folder_is_made_and_nothing_else_is_left(tmp_path):
    target = tmp_path / "new" / "history.png"
    assert plot_history({"loss": [1.0]}, str(target)) == target
    plot_history({"loss": [2.0, 1.0]}, target)
    assert [path.name for path in target.parent.iterdir()] == ["history.png"]
