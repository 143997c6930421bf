"""The one reader of pictures: what it reads is right to the last bit, all else is refused with one sentence."""

from __future__ import annotations

import os
import re
import struct
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from macl_tf.datasets.images import IMAGE_SUFFIXES, decode_image, is_image_name, open_image, resize_image
from macl_tf.datasets.picture_kinds import RASTER_SUFFIXES, RULE, PictureError
from macl_tf.datasets.tiff import open_tiff
from tests import gdal_programs
from tests.generated import photo, save
from tests.pictures import encoded, pictures_of_other_kinds, pixels
from tests.tiffs import bands_of, read_tiffs, refused_tiffs, tiff

RED = Image.new("RGB", (3, 2), (200, 100, 50))


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (RED, "PNG", (200, 100, 50)),
        (RED, "TIFF", (200, 100, 50)),
        (RED, "BMP", (200, 100, 50)),
        (RED.convert("P", palette=Image.Palette.ADAPTIVE), "PNG", (200, 100, 50)),
        (RED.convert("RGBA"), "PNG", (200, 100, 50)),
        (RED.convert("RGBA"), "TIFF", (200, 100, 50)),
        (Image.new("RGBA", (3, 2), (200, 100, 50, 0)), "PNG", (200, 100, 50)),  # transparency is dropped
        (Image.new("L", (3, 2), 77), "PNG", (77, 77, 77)),
        (Image.new("LA", (3, 2), (77, 9)), "PNG", (77, 77, 77)),
        (Image.new("1", (3, 2), 1), "PNG", (255, 255, 255)),
        (Image.new("YCbCr", (3, 2), (77, 128, 128)), "TIFF", (77, 77, 77)),
    ],
)
def test_every_kind_of_image_becomes_rgb(image: Image.Image, kind: str, expected: tuple[int, ...]) -> None:
    decoded = decode_image(encoded(image, kind), "x")
    assert decoded.dtype == np.uint8 and decoded.shape == (2, 3, 3)
    assert (decoded == expected).all()


def test_palette_with_transparency_is_read_without_a_warning() -> None:
    image = RED.convert("P", palette=Image.Palette.ADAPTIVE)
    assert (decode_image(encoded(image, "PNG", transparency=bytes([0, 255])), "x") == (200, 100, 50)).all()


@pytest.mark.parametrize("name", read_tiffs())
def test_tiffs_are_read_to_the_last_bit(name: str, tmp_path: Path) -> None:
    data, expected = read_tiffs()[name]
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    for given in (data, path):
        decoded = decode_image(given, name)
        assert decoded.flags.c_contiguous and decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, expected)


def test_a_jpeg_inside_a_tiff_is_rgb_again() -> None:
    base = pixels()
    for options in ({"photometric": "ycbcr"}, {"photometric": "rgb"}, {"interleave": "band", "photometric": "rgb"}):
        decoded = decode_image(tiff(bands_of(base), compress="jpeg", JPEG_QUALITY=95, **options), "x")
        # JPEG is lossy. In other colours than its own (Y, Cb and Cr taken for RGB) it would be far off.
        assert np.abs(decoded.astype(int) - base).mean() < 3, options


@pytest.mark.parametrize("name", refused_tiffs())
def test_other_tiffs_are_refused_and_described(name: str, tmp_path: Path) -> None:
    data, words = refused_tiffs()[name]
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    for given in (data, path):
        with pytest.raises(PictureError) as caught:
            decode_image(given, "scene/a.tif")
        assert str(caught.value).startswith(f"scene/a.tif {RULE}, got ") and caught.value.problem == "kind"
        assert words in caught.value.got and caught.value.got.endswith(("(TIFF)", ")"))
        assert caught.value.remedy and str(caught.value).endswith(caught.value.remedy)


def _jpeg_2000(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "JPEG2000", **options)


def other_files() -> dict[str, tuple[bytes, str]]:
    image = Image.fromarray(pixels())
    deep = Image.fromarray(pixels()[:, :, 0].astype(np.uint16) * 12)
    kinds = pictures_of_other_kinds()
    return {
        "a.jpg": (kinds["jpeg cmyk"], "4 bands of 8-bit integers, interleaved by pixel, CMYK (JPEG)"),
        "grey.png": (kinds["png 16 bit grey"], "1 band of 16-bit integers, grey (PNG)"),
        "grey alpha.png": (kinds["png 16 bit grey alpha"], "2 bands of 16-bit integers"),
        "rgb.png": (kinds["png 16 bit"], "3 bands of 16-bit integers, interleaved by pixel, RGB (PNG)"),
        "alpha.png": (kinds["png 16 bit alpha"], "4 bands of 16-bit integers, interleaved by pixel, RGB and alpha"),
        "a.jp2": (_jpeg_2000(image), "3 bands of 8-bit integers (JPEG 2000)"),
        "named.tif": (_jpeg_2000(image), "3 bands of 8-bit integers (JPEG 2000)"),
        "deep.jp2": (_jpeg_2000(deep), "1 band of 16-bit integers (JPEG 2000)"),
        "stream.j2k": (_jpeg_2000(image, no_jp2=True), "3 bands of 8-bit integers (JPEG 2000)"),
        "a.img": (b"EHFA_HEADER_TAG\0" + bytes(50), "ERDAS Imagine"),
        "a.nc": (b"CDF\x01" + bytes(50), "NetCDF"),
        "a.hdf": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        "a.vrt": (b'<VRTDataset rasterXSize="1" rasterYSize="1">', "GDAL virtual raster"),
        "a.heic": (b"\0\0\0\x18ftypheic" + bytes(50), "HEIF"),
        "a.ecw": (b"whatever", "ECW"),
    }


@pytest.mark.parametrize("name", other_files())
def test_other_formats_are_refused_with_the_same_sentence(name: str, tmp_path: Path) -> None:
    data, words = other_files()[name]
    (tmp_path / name).write_bytes(data)
    for given in (data, tmp_path / name):
        with pytest.raises(PictureError) as caught:
            decode_image(given, name)
        assert str(caught.value).startswith(f"{name} {RULE}, got {words}") and caught.value.problem == "kind"


def _followed(remedy: str, source: Path, folder: Path) -> list[Path]:
    """What comes of a remedy, each of its commands run with our file in the place of IN."""
    made = []
    for command in re.findall(r"gdal\S+ .*?OUT\.tif", remedy):
        made.append(folder / f"out{len(made)}.tif")
        line = command.replace("OUT.tif", str(made[-1])).replace("BANDS.vrt", str(folder / "bands.vrt"))
        line = line.replace("RED", "1").replace("GREEN", "2").replace("BLUE", "3")
        gdal_programs.run(re.sub(r"\bIN\b", str(source), line))
    return made


BY_HAND = "16 bits, white is zero"  # gdal_translate keeps white as zero, whatever it is told
WHOLE = [name for name, (data, _) in other_files().items() if len(data) > 99]  # and not only a beginning


@pytest.mark.parametrize("name", [*(name for name in refused_tiffs() if name != BY_HAND), *WHOLE])
def test_the_remedy_works_when_it_is_followed(name: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    data, _ = (refused_tiffs() | other_files())[name]
    source.write_bytes(data)
    with pytest.raises(PictureError) as caught:
        decode_image(source, "x")
    made = _followed(caught.value.remedy, source, tmp_path)
    assert made
    for path in made:
        decoded = decode_image(path, "x")
        assert decoded.std() > 0, "a picture that says nothing"


def test_converted_pictures_are_the_right_ones(tmp_path: Path) -> None:
    """Of scaled reflectance, of bands in another order, and of bands that are pages: what was to be seen is seen."""
    expected = pixels()
    assert (expected.min(), expected.max()) == (0, 255), "so that scaling from the least to the most gives it back"
    for name in ("16 bits, planar", "near infrared", "near infrared declared alpha", "blue first, infrared last",
                 "bands as pages", "cmyk"):  # fmt: skip
        source = tmp_path / "in"
        source.write_bytes(refused_tiffs()[name][0])
        with pytest.raises(PictureError) as caught:
            decode_image(source, "x")
        made = _followed(caught.value.remedy, source, tmp_path)[0]
        scaled = 1 if name == "16 bits, planar" else 0
        np.testing.assert_allclose(decode_image(made, "x").astype(int), expected, atol=scaled, err_msg=name)
        made.unlink()


def test_a_high_byte_is_never_taken_for_the_picture() -> None:
    """Reflectance of 0 to 3,000 in 16 bits would be 0 to 11 of 255: black, with a confident answer."""
    for data in (tiff(np.full((1, 9, 9), 3000, np.uint16)), encoded(np.full((9, 9), 3000, np.uint16), "PNG")):
        with pytest.raises(PictureError, match="16-bit integers, grey"):
            decode_image(data, "x")


def test_decode_reads_a_path_and_names_what_it_cannot_read(tmp_path: Path) -> None:
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"a.{suffix}", photo(0))
        np.testing.assert_array_equal(decode_image(path, "a"), photo(0))
        whole = path.read_bytes()
        for broken in (b"", b"no image", whole[: len(whole) // 2], whole[:20]):
            with pytest.raises(PictureError, match=r"^scene/a cannot be read as an image"):
                decode_image(broken, "scene/a")
        with pytest.raises(PictureError, match=r"^scene/a cannot be read as an image: .*No such file"):
            decode_image(tmp_path / f"missing.{suffix}", "scene/a")


@pytest.mark.parametrize("compress", ["none", "lzw", "deflate", "zstd", "packbits", "jpeg", "lerc"])
def test_a_tiff_that_is_cut_off_is_refused(compress: str) -> None:
    data = tiff(bands_of(pixels()), compress=compress, photometric="rgb")
    for length in (30, len(data) // 3, len(data) * 9 // 10, len(data) - 5):
        with pytest.raises(PictureError) as caught:
            decode_image(data[:length], "a.tif")
        assert str(caught.value) == "a.tif cannot be read as an image: it is damaged or cut off."


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("something was decoded")

    blank = Image.new("1", (9000, 9000))  # 81 million pixels in some ten kilobytes
    bombs = [encoded(blank, "PNG"), encoded(blank, "TIFF", compression="group4")]
    # A tile of 36 million pixels for a picture of 256.
    bombs.append(tiff(np.zeros((1, 16, 16), np.uint8), tiled=True, blockxsize=16, blockysize=16, sparse_ok=True))
    bombs[2] = _with_tag(_with_tag(bombs[2], 322, 9008), 323, 9008)
    small, others = encoded(pixels(), "TIFF"), refused_tiffs()
    monkeypatch.setattr(Image.Image, "load", never)
    monkeypatch.setattr(rasterio.DatasetReader, "read", never)
    for bomb, size in zip(bombs, ("9000 x 9000", "9000 x 9000", "9008 x 9008"), strict=True):
        with pytest.raises(PictureError, match=f"{size} pixels, more than 64,000,000") as caught:
            decode_image(bomb, "bomb")
        assert caught.value.problem == "pixels"
    with pytest.raises(PictureError, match="50 x 37 pixels, more than 1,000"):
        open_image(small, "small", max_pixels=1000)
    for data, words in others.values():  # what the header says is told by the header, alpha excepted
        if "opaque" not in words:
            with pytest.raises(PictureError, match=re.escape(words)):
                decode_image(data, "x")


def _with_tag(data: bytes, tag: int, value: int) -> bytes:
    """A little-endian TIFF with another value in a tag that it has."""
    (page,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[page : page + 2])
    for entry in range(page + 2, page + 2 + 12 * count, 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == tag:
            return data[: entry + 2] + struct.pack("<HII", 4, 1, value) + data[entry + 12 :]
    raise AssertionError(f"no tag {tag}")


def test_only_what_stands_in_the_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(bands_of(pixels())[:1]))
    sidecar = "<PAMDataset><PAMRasterBand band='1'><ColorInterp>Palette</ColorInterp><ColorTable>{}</ColorTable>"
    entries = "".join(f'<Entry c1="{255 - index}" c2="0" c3="0" c4="255"/>' for index in range(256))
    (tmp_path / "a.tif.aux.xml").write_text(f"{sidecar.format(entries)}</PAMRasterBand></PAMDataset>")
    (tmp_path / "a.tif.msk").write_bytes(tiff(bands_of(pixels())[:1]))
    np.testing.assert_array_equal(decode_image(path, "a.tif")[:, :, 0], pixels()[:, :, 0])


@pytest.mark.parametrize("name", ["a#b!c?.tif", "zip+https:x.tif", "GTIFF_DIR:1:x.tif", "%20 é.tif", b"\xff.tif"])
def test_any_file_name_is_only_a_name(name: str | bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / (os.fsdecode(name) if isinstance(name, bytes) else name)
    path.write_bytes(encoded(pixels(), "TIFF"))
    monkeypatch.chdir(tmp_path)
    for given in (path, Path(path.name)):
        np.testing.assert_array_equal(decode_image(given, "x"), pixels())


def test_tiffs_are_read_in_threads_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    """Files without a place, of too many bands and damaged ones: no warning, and no line of GDAL on the terminal."""
    odd = [data for data, _ in [*read_tiffs().values(), *refused_tiffs().values()]]
    odd += [data[: len(data) // 2] for data in odd] + [data[:40] + b"\xff" * 8 + data[48:] for data in odd]
    outcomes: list[str] = []

    def read() -> None:
        for data in odd:
            try:
                decode_image(data, "x")
                outcomes.append("read")
            except PictureError as error:
                outcomes.append(error.problem)
            except BaseException as error:
                outcomes.append(repr(error))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 4 * len(odd) and set(outcomes) <= {"read", "kind", "pixels", "broken"}
    assert outcomes.count("read") >= 4 * len(read_tiffs())
    assert capfd.readouterr() == ("", "")


def test_the_warning_of_files_without_a_place_is_ignored_whatever_the_filters_are() -> None:
    data = encoded(pixels(), "TIFF")
    with warnings.catch_warnings(record=True) as heard:
        for action in ("error", "always"):
            warnings.simplefilter(action)
            with open_tiff(data) as dataset:
                assert dataset.count == 3
            warnings.warn("others are still heard", UserWarning, stacklevel=1) if action == "always" else None
    assert [str(warning.message) for warning in heard] == ["others are still heard"]


def test_names_of_pictures_and_of_rasters_that_are_not_read() -> None:
    assert all(is_image_name(f"a{suffix.upper()}", others=False) for suffix in IMAGE_SUFFIXES)
    assert all(is_image_name(f"a{suffix}") for suffix in RASTER_SUFFIXES)
    assert not any(is_image_name(f"a{suffix}", others=False) for suffix in RASTER_SUFFIXES)
    assert not any(is_image_name(name) for name in ("labels.csv", "a.txt", "a.mat", "a.tfw", "a.aux.xml", "tif"))
    # What is in a file decides, not its suffix.
    np.testing.assert_array_equal(decode_image(encoded(pixels(), "TIFF"), "a.jp2"), pixels())


def test_resize_is_the_antialiased_triangle_filter() -> None:
    # Halving a row of pixels: the triangle reaches over four, with weights 1 3 3 1 over 8, renormalised at the borders.
    row = np.array([0, 40, 80, 120, 160, 200], np.float64)
    padded_weights = [
        (3 * row[0] + 3 * row[1] + row[2]) / 7,
        (row[1] + 3 * row[2] + 3 * row[3] + row[4]) / 8,
        (row[3] + 3 * row[4] + 3 * row[5]) / 7,
    ]
    image = np.repeat(np.repeat(row.astype(np.uint8)[None, :, None], 6, axis=0), 3, axis=2)
    resized = resize_image(image, 3)
    np.testing.assert_allclose(resized[1, :, 0], padded_weights, atol=0.51)  # rounded to whole numbers
    assert resize_image(image, 6) is image
    with pytest.raises(ValueError, match="size must be > 0, got 0"):
        resize_image(image, 0)
