"""Thousands of broken pictures, sent to a server in a process of its own: no failure, no growth, no dead worker."""

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import ROOT
from tests.pictures import encoded, pixels
from tests.serving_process import Client, make_served, name_of, upload

FEW, MANY = 150, 1500  # of each format
KINDS = {
    "JPEG": [{"quality": 85}, {"progressive": True}],
    "PNG": [{}, {"optimize": True}],
    "TIFF": [{"compression": kind} for kind in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("uploads") / "served")


@pytest.fixture(scope="module")
def server(served):
    """A server as it runs outside of tests, where a warning is no error; its process."""
    command = [sys.executable, "-c", "from tests.serving_process import main; main()", str(served)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    process.url = process.stdout.readline().strip()
    yield process
    process.terminate()
    process.wait(10)
    process.stdout.close()


def resident(process):
    """Bytes of memory that a process has."""
    with open(f"/proc/{process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def mutant(data, generator):
    """A file with bytes changed, taken out, put in, doubled, or cut off."""
    broken = bytearray(data)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        place = generator.randrange(min(len(broken), generator.choice((64, 512, 1 << 20))))
        match generator.randrange(6):
            case 0:
                broken[place] = generator.randrange(256)
            case 1:
                broken[place] ^= 1 << generator.randrange(8)
            case 2:
                del broken[place : place + generator.randrange(1, 9)]
            case 3:
                broken[place:place] = generator.randbytes(generator.randrange(1, 9))
            case 4:
                broken[place : place + 4] = generator.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"))
            case 5:
                del broken[max(place, 8) :]
        if not broken:
            break
    return bytes(broken)


@pytest.mark.parametrize("mutants", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_broken_pictures_break_nothing(server, served, kind, mutants):
    generator = random.Random(kind)
    good = [encoded(pixels(seed), kind, **options) for seed, options in enumerate(KINDS[kind])]
    files = [mutant(good[number % len(good)], generator) for number in range(mutants)]
    with Client(server.url, served) as client, ThreadPoolExecutor(4) as pool:

        def send(data):
            return client.post("/api/v1/search/image", files={"image": ("a", data)}).status_code

        half = mutants // 2
        statuses = list(pool.map(send, files[:half]))
        before = resident(server)
        statuses += list(pool.map(send, files[half:]))
        grown = resident(server) - before
        assert set(statuses) <= {200, 413, 415, 422}  # a change need not be a break
        assert statuses.count(200) < mutants * 0.9 and statuses.count(422) > mutants * 0.05
        assert grown < 24 << 20, f"{grown / (1 << 20):.0f} MB more after as many pictures again"
        assert server.poll() is None
        assert client.search_image(upload(5), k=1)["results"][0]["id"] == name_of(5)
