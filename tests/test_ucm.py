"""UC Merced on generated archives.

Plain pytest, and not tfds.testing.DatasetBuilderTestCase: that wants example files in the repository and a builder made
without arguments, and looks for checksum files through a package that TFDS does not install. What it checks
(registered, readable as a tf.data.Dataset, shapes and types as declared, no example twice) is checked here.
"""

from __future__ import annotations

import io
import pickle
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tensorflow_datasets as tfds
from PIL import Image

from macl_tf.datasets import load_archive, preparing, ucm
from macl_tf.datasets.preparing import prepare, read_archive
from macl_tf.files import locked
from tests.generated import UCM_LABELS, UCM_STEMS, photo, save, ucm_labels, ucm_matrix, write_ucm
from tests.pictures import encoded
from tests.tiffs import bands_of, refused_tiffs, tiff

NAMES = tuple(f"{stem[:-2]}/{stem}.tif" for stem in UCM_STEMS)


def test_images_labels_names_and_numbers_are_kept(tmp_path: Path) -> None:
    labels = write_ucm(tmp_path / "UCMerced_LandUse")
    archive = load_archive("ucm", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.name == "ucm" and archive.label_names == tuple(UCM_LABELS)
    assert archive.file_names == NAMES
    np.testing.assert_array_equal(archive.labels, labels)
    assert archive.scenes == ("agricultural", "agricultural", "airplane", "airplane", "beach", "tenniscourt")
    assert archive.numbers.tolist() == [0, 1, 0, 7, 42, 99]
    assert archive.default_split == "blocks" and archive.official_split is None and archive.label_areas is None
    assert archive.notes == ()
    for index in range(len(archive)):
        expected = photo(index, 25, 23) if index == 4 else photo(index)  # beach42 has an odd size
        np.testing.assert_array_equal(archive.read_image(index), expected)


def test_images_are_read_from_many_threads(tmp_path: Path) -> None:
    write_ucm(tmp_path)
    archive = load_archive("ucm", tmp_path, cache_dir=tmp_path / "cache")
    order = list(range(len(archive))) * 20
    with ThreadPoolExecutor(8) as pool:
        for index, image in zip(order, pool.map(archive.read_image, order), strict=True):
            np.testing.assert_array_equal(image, photo(index, 25, 23) if index == 4 else photo(index))


def test_a_transposed_matrix_serves_where_there_is_no_table(tmp_path: Path) -> None:
    labels = write_ucm(tmp_path, table=False)
    for number, matrix in enumerate((ucm_matrix(UCM_STEMS, labels), ucm_matrix(UCM_STEMS, labels).T)):
        scipy.io.savemat(tmp_path / "LandUse_multilabels.mat", {"labels": matrix})
        archive = load_archive("ucm", tmp_path, cache_dir=tmp_path / f"cache{number}")
        np.testing.assert_array_equal(archive.labels, labels)
        assert archive.notes[0].startswith("2094 rows of LandUse_multilabels.mat have no image")
    scipy.io.savemat(tmp_path / "LandUse_multilabels.mat", {"labels": np.zeros((17, 5))})
    with pytest.raises(ValueError, match=r"must hold 'labels' of 17 x 2100, got an array of shape \(17, 5\)"):
        load_archive("ucm", tmp_path, cache_dir=tmp_path / "cache")


def test_a_text_table_goes_before_the_matrix(tmp_path: Path) -> None:
    labels = write_ucm(tmp_path)
    scipy.io.savemat(tmp_path / "LandUse_multilabels.mat", {"labels": np.zeros((17, 2100), np.uint8)})
    np.testing.assert_array_equal(load_archive("ucm", tmp_path, cache_dir=tmp_path / "cache").labels, labels)


def test_no_table_is_said_and_nothing_is_prepared(tmp_path: Path) -> None:
    write_ucm(tmp_path / "data", table=False)
    with pytest.raises(FileNotFoundError, match=r"no label table LandUse_Multilabeled\.txt"):
        load_archive("ucm", tmp_path / "data", cache_dir=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_is_left_out_is_counted_and_named(tmp_path: Path) -> None:
    write_ucm(tmp_path)
    (tmp_path / "Images/airplane/airplane00.tif").unlink()
    save(tmp_path / "Images/airplane/airplane55.tif", photo(9))
    broken = tmp_path / "Images/beach/beach42.tif"
    broken.write_bytes(broken.read_bytes()[:200])
    table = tmp_path / "LandUse_Multilabeled.txt"
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:-1], "tenniscourt99\t" + "\t".join("0" * 17)]))
    archive = load_archive("ucm", tmp_path, cache_dir=tmp_path / "cache")
    assert archive.file_names == tuple(name for name in NAMES if "airplane00" not in name and "beach" not in name)
    assert archive.labels[-1].sum() == 0
    assert archive.notes[:2] == (
        "1 image has no row in LandUse_Multilabeled.txt and was left out: airplane55.tif",
        "1 row of LandUse_Multilabeled.txt has no image: airplane00",
    )
    assert archive.notes[2].startswith("1 image was left out: beach/beach42.tif cannot be read as an image")
    assert archive.notes[3] == "1 image has no label and was kept: tenniscourt/tenniscourt99.tif"


def test_a_prepared_archive_is_used_again_and_a_changed_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    write_ucm(tmp_path / "data")
    load_archive("ucm", tmp_path / "data", cache_dir=cache)
    with monkeypatch.context() as patched:
        patched.setattr(ucm.Ucm, "list_records", lambda *_: pytest.fail("prepared a second time"))
        assert len(load_archive("ucm", tmp_path / "data", cache_dir=cache)) == 6
    save(tmp_path / "data/Images/beach/beach42.tif", photo(77))
    np.testing.assert_array_equal(load_archive("ucm", tmp_path / "data", cache_dir=cache).read_image(4), photo(77))
    assert len(list(cache.iterdir())) == 2


def test_an_interrupted_preparation_is_not_taken_as_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ucm(tmp_path / "data")
    stored = ucm.Ucm._generate_examples
    for error in (KeyboardInterrupt, OSError):

        def stop_after_two(self: ucm.Ucm, records: list, error: type[BaseException] = error) -> Iterator:
            examples = stored(self, records)
            yield next(examples)
            yield next(examples)
            raise error("stopped")

        with monkeypatch.context() as patched:
            patched.setattr(ucm.Ucm, "_generate_examples", stop_after_two)
            with pytest.raises(error, match="stopped"):
                load_archive("ucm", tmp_path / "data", cache_dir=tmp_path / "cache")
    # What a killed process leaves, which cannot tidy up behind itself.
    (place,) = (tmp_path / "cache").iterdir()
    (place / "ucm" / "incomplete.ABCDEF_1.1.0").mkdir(parents=True)
    assert len(load_archive("ucm", tmp_path / "data", cache_dir=tmp_path / "cache")) == 6


def test_of_those_who_open_an_archive_at_once_one_prepares_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ucm(tmp_path / "data")
    stored, other_waits, prepared = ucm.Ucm._generate_examples, threading.Event(), []

    def slowly(self: ucm.Ucm, records: list) -> Iterator:
        prepared.append(threading.get_ident())
        assert other_waits.wait(60)
        yield from stored(self, records)

    @contextmanager
    def telling(path: Path) -> Iterator[None]:
        if prepared:
            other_waits.set()
        with locked(path):
            yield

    monkeypatch.setattr(ucm.Ucm, "_generate_examples", slowly)
    monkeypatch.setattr(preparing, "locked", telling)

    def open_it(number: int) -> tuple[str, ...]:
        while number and not prepared:
            time.sleep(0.01)
        return load_archive("ucm", tmp_path / "data", cache_dir=tmp_path / "cache").file_names

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(open_it, range(2))) == [NAMES, NAMES]
    assert len(prepared) == 1


def test_jpeg_and_png_are_stored_byte_for_byte(tmp_path: Path) -> None:
    write_ucm(tmp_path / "data")
    folder = tmp_path / "data/Images/agricultural"
    jpeg = save(tmp_path / "data/Images/agricultural/agricultural00.jpg", photo(0), quality=95)
    png = save(tmp_path / "data/Images/agricultural/agricultural01.png", photo(1))
    (folder / "agricultural00.tif").unlink()
    (folder / "agricultural01.tif").unlink()
    builder = prepare(ucm.Ucm(source_dir=tmp_path / "data", data_dir=tmp_path / "cache"))
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    stored = {example["file_name"].decode(): example["image"] for example in source}
    assert stored["agricultural/agricultural00.jpg"] == jpeg.read_bytes()
    assert stored["agricultural/agricultural01.png"] == png.read_bytes()
    with Image.open(io.BytesIO(stored["beach/beach42.tif"])) as image:
        assert image.format == "PNG"


def test_pictures_of_other_kinds_are_left_out_and_named(tmp_path: Path) -> None:
    write_ucm(tmp_path / "data")
    taken, deep, jp2, *_ = sorted((tmp_path / "data/Images").rglob("[a-z]*.tif"))
    taken.write_bytes(tiff(bands_of(photo(7)), photometric="minisblack", interleave="band"))
    deep.write_bytes(refused_tiffs()["16 bits, planar"][0])
    jp2.with_suffix(".jp2").write_bytes(encoded(Image.fromarray(photo(0)), "JPEG2000"))
    jp2.unlink()
    archive = load_archive("ucm", tmp_path / "data", cache_dir=tmp_path / "cache")
    names = [Path(name).name for name in archive.file_names]
    np.testing.assert_array_equal(archive.read_image(names.index(taken.name)), photo(7))
    assert not {deep.name, jp2.name} & set(names)
    (note,) = [note for note in archive.notes if "left out" in note and "must be 8-bit RGB" in note]
    assert note.startswith("2 images were left out")
    assert f"{deep.name} must be" in note and "got 3 bands of 16-bit integers, planar" in note
    assert f"{jp2.stem}.jp2 must be" in note and "JPEG 2000" in note


def test_tfds_loads_it_by_name(tmp_path: Path) -> None:
    labels = write_ucm(tmp_path / "data")
    ways = (
        {"builder_kwargs": {"source_dir": tmp_path / "data"}},
        {
            "download_and_prepare_kwargs": {
                "download_config": tfds.download.DownloadConfig(manual_dir=tmp_path / "data", try_download_gcs=False)
            }
        },
    )
    for number, way in enumerate(ways):
        dataset, info = tfds.load("ucm", split="train", data_dir=tmp_path / str(number), with_info=True, **way)
        assert info.features["labels"].feature.names == list(UCM_LABELS)
        assert info.splits["train"].num_examples == len(dataset) == 6
        examples = {example["file_name"].decode(): example for example in dataset.as_numpy_iterator()}
        assert sorted(examples) == list(NAMES)
        for index, name in enumerate(NAMES):
            assert examples[name]["labels"].tolist() == np.flatnonzero(labels[index]).tolist()
            np.testing.assert_array_equal(examples[name]["image"], photo(index, 25, 23) if index == 4 else photo(index))


def test_a_builder_survives_pickling_with_its_folder(tmp_path: Path) -> None:
    write_ucm(tmp_path / "data")
    builder = pickle.loads(pickle.dumps(ucm.Ucm(source_dir=tmp_path / "data", data_dir=tmp_path / "cache")))
    assert len(read_archive(prepare(builder))) == 6


def test_names_do_not_clash_with_those_of_tfds() -> None:
    from tensorflow_datasets.core import registered

    names = ("ucm", "dlrsd", "whdld", "mlaid", "mlrsnet")
    for name in names:
        import_module(f"macl_tf.datasets.{name}")
    # Importing registers: of two builders with one name TFDS would have raised here, or in its own modules.
    assert {"uc_merced", *names} <= set(registered.list_imported_builders())


class OfflineManager:
    """The part of TFDS's download manager that the builder uses, without a manual directory."""

    def __init__(self, places: dict[str, Path] | None = None) -> None:
        self.places = places

    @property
    def manual_dir(self) -> Path:
        raise AssertionError("Manual directory does not exist")

    def download_and_extract(self, urls: dict[str, str]) -> dict[str, Path]:
        assert self.places is not None and set(urls.values()) == set(ucm.Ucm.url_infos)
        return self.places


def test_without_a_network_one_message_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(ucm, "urlopen", no_network)
    with pytest.raises(FileNotFoundError) as caught:
        load_archive("ucm", cache_dir=tmp_path)
    text = str(caught.value)
    assert "could not be downloaded (OSError: Name or service not known)" in text
    for expected in ("LandUse_Multilabeled.txt", "Images/<scene>", ucm.IMAGES_URL, ucm.LABELS_URL):
        assert expected in text


def test_with_a_network_images_and_labels_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_ucm(tmp_path / "images/UCMerced_LandUse")
    (tmp_path / "labels/multilabels").mkdir(parents=True)
    shutil.move(tmp_path / "images/UCMerced_LandUse/LandUse_Multilabeled.txt", tmp_path / "labels/multilabels")
    monkeypatch.setattr(ucm, "urlopen", lambda *_, **__: io.BytesIO())
    places = {"images": tmp_path / "images", "labels": tmp_path / "labels"}
    builder = ucm.Ucm(data_dir=tmp_path / "cache")
    examples = dict(builder._split_generators(OfflineManager(places))["train"])
    assert sorted(examples) == list(NAMES)
    assert examples[NAMES[1]]["labels"] == np.flatnonzero(ucm_labels(UCM_STEMS)[1]).tolist()
