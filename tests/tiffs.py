"""TIFFs of every kind that archives of Earth observation hold, as bytes, written by rasterio and Pillow."""

import warnings

import numpy as np
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning

from tests.pictures import encoded, pixels

PALETTE = {index: (index, 255 - index, index * 7 % 256, 255) for index in range(256)}


def tiff(bands, colours=None, palette=None, mask=None, overviews=(), **options):
    """A file of (C, H, W) bands. `colours` are the names of their meaning, `options` those of GDAL's driver."""
    shape = {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype.name}
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK="YES"),
        rasterio.MemoryFile() as memory,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="GTiff", **shape, **options) as file:
            if colours:
                file.colorinterp = [ColorInterp[name] for name in colours]
            if palette:
                file.write_colormap(1, palette)
            file.write(bands)
            if mask is not None:
                file.write_mask(mask)
            if overviews:
                file.build_overviews(overviews)
        return memory.read()


def pages(*pictures):
    """A file of several pages."""
    first, *others = map(Image.fromarray, pictures)
    return encoded(first, "TIFF", save_all=True, append_images=others)


def bands_of(picture):
    """(H, W, C) as (C, H, W)."""
    return np.ascontiguousarray(np.moveaxis(picture, 2, 0))


def read_tiffs():
    """What is read, by name: the file, and its pixels, found without a reader wherever they are not lossy."""
    base = pixels()
    rgb, grey = bands_of(base), base[:, :, :1]
    opaque = np.full_like(rgb[:1], 255)
    deep = {"photometric": "rgb", "interleave": "band"}
    three = np.repeat(grey, 3, axis=2)
    table = np.array([PALETTE[index][:3] for index in range(256)], np.uint8)
    fours = rgb[:1] >> 4
    found = {
        "rgb": (tiff(rgb, photometric="rgb"), base),
        "rgb planar": (tiff(rgb, **deep), base),
        "black is zero": (tiff(rgb, photometric="minisblack"), base),
        "black is zero, planar": (tiff(rgb, photometric="minisblack", interleave="band"), base),
        "bands declared the other way round": (tiff(rgb[::-1].copy(), ["blue", "green", "red"]), base),
        "opaque alpha": (tiff(np.concatenate([rgb, opaque]), photometric="rgb", alpha="yes"), base),
        "opaque alpha, planar": (tiff(np.concatenate([rgb, opaque]), alpha="yes", **deep), base),
        "grey": (tiff(rgb[:1]), three),
        "grey and opaque alpha": (tiff(np.concatenate([rgb[:1], opaque]), ["gray", "alpha"]), three),
        "white is zero": (tiff(rgb[:1], photometric="miniswhite"), 255 - three),
        "4 bits": (tiff(fours, nbits=4), np.repeat(np.moveaxis(fours, 0, 2) * np.uint8(17), 3, axis=2)),
        "4 bits, white is zero": (
            tiff(fours, nbits=4, photometric="miniswhite"),
            np.repeat(np.moveaxis(15 - fours, 0, 2) * np.uint8(17), 3, axis=2),
        ),
        "1 bit": (tiff(rgb[:1] >> 7, nbits=1), np.repeat((grey >> 7) * np.uint8(255), 3, axis=2)),
        "1 bit, group 4": (
            tiff(rgb[:1] >> 7, nbits=1, compress="ccittfax4"),
            np.repeat((grey >> 7) * np.uint8(255), 3, axis=2),
        ),
        "palette": (tiff(rgb[:1], palette=PALETTE), table[grey[:, :, 0]]),
        "palette of 4 bits": (
            tiff(fours, palette={index: PALETTE[index] for index in range(16)}, nbits=4),
            table[fours[0]],
        ),
        "mask": (tiff(rgb, photometric="rgb", mask=rgb[0] > 99), base),
        "overviews": (tiff(rgb[:1], overviews=[2, 4], mask=rgb[0] > 99), three),
        "no data": (tiff(rgb, photometric="rgb", nodata=0), base),
        "big": (tiff(rgb, photometric="rgb", BIGTIFF="YES"), base),
        "big, big endian": (tiff(rgb, photometric="rgb", BIGTIFF="YES", ENDIANNESS="BIG"), base),
        "big endian": (tiff(rgb, photometric="rgb", ENDIANNESS="BIG"), base),
        "pages": (pages(base, base[::-1]), base),
    }
    for compress in ("lzw", "deflate", "zstd", "packbits"):
        for interleave in ("pixel", "band"):
            options = {"compress": compress, "interleave": interleave, "photometric": "rgb"}
            found[f"{compress} by {interleave}"] = (tiff(rgb, **options), base)
            tiles = {"tiled": True, "blockxsize": 16, "blockysize": 32}
            found[f"{compress} by {interleave}, tiled"] = (tiff(rgb, **options, **tiles), base)
    return found


def refused_tiffs():
    """What is refused, by name: the file, and words of the sentence that say what it is."""
    base = pixels()
    rgb = bands_of(base)
    wide = rgb.astype(np.uint16) * 12  # up to 3,060, as reflectance is
    infrared = rgb[::-1][:1]
    opaque = np.full_like(infrared, 255)
    image = Image.fromarray(base)
    kinds = {
        "16 bits, planar": (
            tiff(wide, photometric="rgb", interleave="band"),
            "3 bands of 16-bit integers, planar, RGB",
        ),
        "16 bits": (tiff(wide, photometric="rgb"), "3 bands of 16-bit integers, interleaved by pixel, RGB"),
        "16 bits, one band": (tiff(wide[:1]), "1 band of 16-bit integers, grey"),
        "12 bits": (tiff(wide[:1], nbits=12), "1 band of 12-bit integers, grey"),
        "3 bits": (tiff(rgb[:1] >> 5, nbits=3), "1 band of 3-bit integers, grey"),
        "4 bits, three bands": (tiff(rgb >> 4, nbits=4), "3 bands of 4-bit integers"),
        "16 bits, palette": (tiff(rgb[:1].astype(np.uint16), palette=PALETTE), "1 band of 16-bit integers, palette"),
        "16 bits, white is zero": (tiff(wide[:1], photometric="miniswhite"), "16-bit integers, grey, white is zero"),
        "signed 8 bits": (tiff(rgb[:1].astype(np.int8)), "1 band of 8-bit signed integers, grey"),
        "signed 16 bits": (tiff(wide[:1].astype(np.int16)), "1 band of 16-bit signed integers, grey"),
        "32 bits": (tiff(wide[:1].astype(np.uint32)), "1 band of 32-bit integers, grey"),
        "float": (tiff(wide[:1] / np.float32(1e4)), "1 band of 32-bit floating-point numbers, grey"),
        "double": (tiff(wide / 1e4), "3 bands of 64-bit floating-point numbers"),
        "complex": (tiff(wide[:1].astype(np.complex64)), "1 band of 64-bit complex numbers"),
        "two bands": (tiff(rgb[:2]), "2 bands of 8-bit integers, interleaved by pixel, colours not declared"),
        "five bands": (tiff(np.concatenate([rgb, rgb[:2]])), "5 bands of 8-bit integers"),
        "twelve bands": (tiff(np.concatenate([wide] * 4)), "12 bands of 16-bit integers"),
        "near infrared declared alpha": (
            tiff(np.concatenate([rgb, infrared])),
            "4 bands of 8-bit integers, interleaved by pixel, RGB and alpha that is not opaque",
        ),
        "near infrared": (
            tiff(np.concatenate([rgb, infrared]), ["red", "green", "blue", "nir"]),
            "4 bands of 8-bit integers, interleaved by pixel, RGB and nir",
        ),
        "a fourth band of no meaning": (
            tiff(np.concatenate([rgb, opaque]), photometric="rgb", alpha="no"),
            "RGB and 1 not declared",
        ),
        "four bands of no meaning": (
            tiff(np.concatenate([rgb, opaque]), photometric="minisblack"),
            "4 bands of 8-bit integers, interleaved by pixel, colours not declared",
        ),
        "blue first, infrared last": (
            tiff(np.concatenate([rgb[::-1], infrared]), ["blue", "green", "red", "nir"]),
            "blue, green, red, nir",
        ),
        "infrared in false colours": (tiff(rgb, ["nir", "red", "green"]), "nir, red, green"),
        "cmyk": (encoded(image.convert("CMYK"), "TIFF"), "4 bands of 8-bit integers, interleaved by pixel, CMYK"),
        "lab": (encoded(Image.frombytes("LAB", image.size, base.tobytes()), "TIFF"), "CIELAB"),
        "bands as pages": (
            pages(*rgb),
            "3 pages, the first of 1 band of 8-bit integers, grey",
        ),
    }
    return kinds
