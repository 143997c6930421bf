"""The kinds of images that are read, and the error for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP")
# What is read. Whoever remembers that a file could be read says by which of these: it goes up when they change.
READER = 2
RULE = "must be 8-bit RGB, grey or palette, as JPEG, PNG, TIFF, BMP, GIF or WebP"
# Suffixes of rasters that are known and not read. They are listed, so that such files are named and not passed over;
# what is in a file decides, not its suffix: a .jfif is a JPEG, and read.
RASTER_SUFFIXES = {
    **dict.fromkeys((".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"), "JPEG 2000"),
    **dict.fromkeys((".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".heic", ".heif"), "HEIF"),
    **dict.fromkeys((".gtiff", ".geotiff"), "TIFF"),
    **dict.fromkeys((".hdf", ".h4"), "HDF"),
    **dict.fromkeys((".h5", ".he5", ".hdf5"), "HDF5"),
    **dict.fromkeys((".ntf", ".nitf"), "NITF"),
    **dict.fromkeys((".grb", ".grib", ".grib2"), "GRIB"),
    **dict.fromkeys((".bil", ".bip", ".bsq"), "raw bands"),
    ".jxl": "JPEG XL", ".avif": "AVIF", ".img": "ERDAS Imagine", ".vrt": "GDAL virtual raster", ".nc": "NetCDF",
    ".ecw": "ECW", ".sid": "MrSID",
}  # fmt: skip
# How files of other formats begin.
_BEGINNINGS = {
    "JPEG 2000": (b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    "JPEG XL": (b"\x00\x00\x00\x0cJXL \r\n\x87\n", b"\xff\x0a"),
    "ERDAS Imagine": (b"EHFA_HEADER_TAG",),
    "GDAL virtual raster": (b"<VRTDataset",),
    "NetCDF": (b"CDF\x01", b"CDF\x02", b"CDF\x05"),
    "HDF5": (b"\x89HDF\r\n\x1a\n",),
    "HDF": (b"\x0e\x03\x13\x01",),
    "NITF": (b"NITF", b"NSIF"),
    "GRIB": (b"GRIB",),
}
_PHOTOGRAPHS = ("JPEG XL", "HEIF", "AVIF")  # formats that GDAL often cannot open, and programs for photographs can


class PictureError(ValueError):
    """Why a picture is not read. Its text names the picture.

    `problem` is "kind" for one of another kind than those read, "bands" for one without the bands that are asked for,
    "format" for what is no picture of a known format, "pixels" for too many, "broken" for one that is damaged or not
    there. `got` says what it is, `remedy` what to do, where that is known, and `format` its format, where its kind is
    the problem.
    """

    def __init__(self, text: str, problem: str, got: str = "", remedy: str = "", format: str = "") -> None:
        super().__init__(text)
        self.problem, self.got, self.remedy, self.format = problem, got, remedy, format


def refusal(name: str, got: str, remedy: str, format: str) -> PictureError:
    """The one sentence that refuses a picture of a kind that is not read."""
    return PictureError(f"{name} {RULE}, got {got}. {remedy}", "kind", got, remedy, format)


def broken(name: str, reason: str, problem: str = "broken") -> PictureError:
    """The error for a picture that cannot be decoded."""
    return PictureError(f"{name} cannot be read as an image: {reason}.", problem, reason)


def too_many_pixels(name: str, size: str, most: int) -> PictureError:
    """The error for a picture that is too large, which is known before it is decoded."""
    text = f"{name} cannot be read as an image: it has {size} pixels, more than {most:,}; cut it into tiles."
    return PictureError(text, "pixels", f"{size} pixels")


def as_they_are(error: str) -> str:
    """What else can be done about tiles that such a refusal is of, as a sentence to put behind it; "" if nothing."""
    if RULE not in error or "gdal_translate" not in error:
        return ""
    return " Or take the bands of all tiles as they are: --set bands=all, and macl index --bands all."


class Kind(NamedTuple):
    """What a picture is, as its header says."""

    format: str
    bands: int
    numbers: str  # "8-bit integers", "32-bit floating-point numbers"
    colours: str = ""  # "grey", "RGB", or the bands' own names; "" where nothing is known
    layout: str = ""  # "interleaved by pixel" or "planar"; "" for one band
    take: tuple[int, ...] = (1, 2, 3)  # the bands, from 1, that make a picture of it
    options: str = ""  # more options of gdal_translate that its conversion needs
    remedy: str = ""  # what to do, where gdal_translate does not do it

    def __str__(self) -> str:
        bands = f"{self.bands} band{'s' * (self.bands != 1)} of {self.numbers}"
        return ", ".join(filter(None, (bands, self.layout, self.colours))) + f" ({self.format})"


def not_read(name: str, kind: Kind) -> PictureError:
    """The one refusal of a picture that is whole, but of a kind that is not read.

    Example:
        >>> refused = not_read("a.tif", Kind("TIFF", 3, "16-bit integers", "RGB", "planar"))
        >>> refused.got
        '3 bands of 16-bit integers, planar, RGB (TIFF)'
        >>> refused.remedy.partition(" (")[0]
        'Convert it to 8-bit RGB: gdal_translate -ot Byte -scale -b 1 -b 2 -b 3 IN OUT.tif'
    """
    if kind.remedy:
        return refusal(name, str(kind), kind.remedy, kind.format)
    scaled = kind.numbers != "8-bit integers" and "-expand" not in kind.options
    picked = [f"-b {band}" for band in kind.take] if kind.bands >= 3 else ["-b 1"] * (kind.bands == 2)
    options = " ".join(filter(None, ["-ot Byte -scale" * scaled, *picked, kind.options]))
    hints = ["-b: the bands to be seen as red, green and blue"] * (
        kind.bands > 3 and not kind.colours.startswith("RGB")
    )
    hints += ["to treat all tiles alike: -scale LOW HIGH 0 255"] * scaled
    hint = f" ({'; '.join(hints)})" if hints else ""
    colours = "RGB" if kind.bands >= 3 or "rgb" in kind.options else "grey"
    remedy = f"Convert it to 8-bit {colours}: gdal_translate {options}{' ' * bool(options)}IN OUT.tif{hint}."
    return refusal(name, str(kind), remedy, kind.format)


def not_one_page(name: str, kind: Kind, pages: int) -> PictureError:
    """The same for a stack: several pages of one band each, which are as likely the bands of one picture."""
    got = f"{pages} pages, the first of {kind}"
    bands = " ".join(f"GTIFF_DIR:{page}:IN" for page in ((1, 2, 3) if pages >= 3 else (1, 2)))
    remedy = (
        f"If these are its bands, put them into one page: gdalbuildvrt -separate BANDS.vrt {bands} && gdal_translate "
        "BANDS.vrt OUT.tif. If the first page is the picture, take it out: gdal_translate GTIFF_DIR:1:IN OUT.tif."
    )
    return refusal(name, got, remedy, kind.format)


def other_format(name: str, head: bytes) -> PictureError | None:
    """The same for a file of another format, told by how it begins, else by its suffix; None where it is not known."""
    found = next((what for what, begins in _BEGINNINGS.items() if head.startswith(begins)), None)
    if found is None and head[4:8] == b"ftyp":
        found = "AVIF" if head[8:12] == b"avif" else "HEIF" if head[8:10] in (b"he", b"mi", b"ms") else None
    found = found or next((what for suffix, what in RASTER_SUFFIXES.items() if name.lower().endswith(suffix)), None)
    if found in (None, "JPEG", "TIFF"):
        return None
    if found == "JPEG 2000" and (shape := _jpeg_2000(head)):
        return not_read(name, Kind(found, *shape))
    if found in _PHOTOGRAPHS:
        return refusal(name, found, "Save it as PNG or JPEG.", found)
    remedy = (
        "Convert it, choosing three bands or one: gdal_translate -ot Byte -scale -b RED -b GREEN -b BLUE IN OUT.tif."
    )
    return refusal(name, found, remedy, found)


def _jpeg_2000(head: bytes) -> tuple[int, str] | None:
    """Bands and numbers of a JPEG 2000, by its header box or, where there are no boxes, by its first marker."""
    box, marker = head.find(b"ihdr"), head.startswith(b"\xff\x4f\xff\x51")
    place, bits = (box + 12, box + 14) if box > 0 else (40, 42)
    if len(head) <= bits or not (box > 0 or marker):
        return None
    return int.from_bytes(head[place : place + 2]), integers((head[bits] & 127) + 1, signed=head[bits] > 127)


def integers(bits: int, *, signed: bool = False) -> str:
    """How whole numbers are called."""
    return f"{bits}-bit {'signed ' * signed}integers"


def colours_of(interpretations: Sequence[str]) -> str:
    """The colours of bands in words, by what their file declares of each ("red", "alpha", "undefined")."""
    bands = list(interpretations)
    if len(bands) == 1:
        return {"gray": "grey", "undefined": "grey"}.get(bands[0], bands[0])
    if bands[:3] == ["red", "green", "blue"]:
        words, rest = ["RGB"], bands[3:]
    elif set(bands) <= {"gray", "undefined", "alpha"}:
        words = ["grey" if len(bands) == 2 and "alpha" in bands else "colours not declared"]
        rest = [band for band in bands if band == "alpha"]
    else:
        words, rest = [", ".join(bands[:6]) + ", ..." * (len(bands) > 6)], []
    undeclared = rest.count("undefined")
    others = [band for band in rest if band != "undefined"][:4]
    return " and ".join([*words, *others, *[f"{undeclared} not declared"] * (undeclared > 0)])
