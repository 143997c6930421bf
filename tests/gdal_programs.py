"""GDAL's command-line programs, so that a message's advice can be followed to the letter.

Where they are not installed they are run from the library that rasterio brings, which holds them as functions.
"""

import ctypes
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import rasterio


def _library():
    found = sorted(Path(rasterio.__file__).parents[1].glob("rasterio.libs/libgdal*.so*"))
    if not found:
        pytest.skip("neither gdal_translate nor the library of rasterio's wheel is here")
    library = ctypes.CDLL(str(found[0]))
    for name in ("GDALOpenEx", "GDALTranslateOptionsNew", "GDALTranslate", "GDALBuildVRTOptionsNew", "GDALBuildVRT"):
        getattr(library, name).restype = ctypes.c_void_p
    library.GDALAllRegister()
    return library


def _strings(words):
    return (ctypes.c_char_p * (len(words) + 1))(*(word.encode() for word in words), None)


def _open(library, name):
    dataset = library.GDALOpenEx(name.encode(), 0, None, None, None)
    assert dataset, f"GDAL cannot open {name}"
    return ctypes.c_void_p(dataset)


def run(command):
    """Runs a line of gdal_translate or gdalbuildvrt, several joined by &&, with absolute paths."""
    for part in command.split("&&"):
        program, *words = shlex.split(part)
        assert program in ("gdal_translate", "gdalbuildvrt"), program
        if shutil.which(program):
            subprocess.run([program, *words], check=True, capture_output=True)
            continue
        library, failed = _library(), ctypes.c_int(0)
        with rasterio.Env():  # GDAL's messages go to the log
            if program == "gdal_translate":
                options = library.GDALTranslateOptionsNew(_strings(words[:-2]), None)
                source = _open(library, words[-2])
                made = library.GDALTranslate(words[-1].encode(), source, ctypes.c_void_p(options), ctypes.byref(failed))
                sources = [source]
            else:
                assert words[0] == "-separate"
                options = library.GDALBuildVRTOptionsNew(_strings(["-separate"]), None)
                sources = [_open(library, name) for name in words[2:]]
                made = library.GDALBuildVRT(
                    words[1].encode(), len(sources), (ctypes.c_void_p * len(sources))(*sources), _strings(words[2:]),
                    ctypes.c_void_p(options), ctypes.byref(failed),
                )  # fmt: skip
            assert made and not failed.value, f"failed: {part}"
            for dataset in (ctypes.c_void_p(made), *sources):
                library.GDALClose(dataset)
