"""Embedding as a Beam pipeline: the rows of the local command, whatever is lost and however often it is run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import apache_beam
import numpy as np
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics.metric import MetricsFilter

from macl_tf.cli import main
from macl_tf.datasets.bands import Bands
from macl_tf.datasets.vectors import VectorFiles
from macl_tf.embedding.beam import EmbedShards, Job, beam_options, embed_on_beam, plan_shards
from macl_tf.embedding.embedding import EmbeddingReport, embed_images
from macl_tf.embedding.remote import PatternSource, put
from macl_tf.embedding.shards import Origin, read_record, read_shards, shard_paths
from macl_tf.embedding.sources import FolderSource
from macl_tf.tiling.geoparquet import Row, write_footprints
from tests.beam_workers import ElsewhereFileSystem, FailsAtEighth
from tests.generated import photo, save
from tests.scene_files import UTM, raster
from tests.stub_encoder import DIM, SIZE, StubEncoder
from tests.test_embedding import bad_files, snapshot

INFO = {"labels": ["sea", "sand"], "dim": DIM, "image_size": SIZE, **StubEncoder().info}
SMALL = {"shard_size": 4, "thumbnail_size": 12, "batch_size": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten pictures and a GeoTIFF in two folders, three files that are none, and a table of labels."""
    root = tmp_path / "tiles"
    for number in range(10):
        save(root / "ab"[number % 2] / f"{number}.png", photo(number, 10 + number, 30 - number))
    raster(root / "b" / "placed.tif", np.full((3, 9, 9), 7, np.uint8), crs=UTM)
    (root / "a" / "text.jpg").write_text("no image")
    (root / "b" / "half.png").write_bytes((root / "b" / "1.png").read_bytes()[:60])
    (root / "empty.tif").touch()
    corners = np.array([[8.5, 47.2], [8.6, 47.2], [8.6, 47.1], [8.5, 47.1]])
    write_footprints(root / "footprints.parquet", [Row("a/0.png", "", "", None, [], corners)])
    (root / "labels.csv").write_text("image,labels,split,date\na/0,sea,test,2021-07-31\nb/3,sand;mud,train,\n")
    return root


def on_beam(
    source: Any, output: Path | str, *options: str, runner: str = "DirectRunner", **given: Any
) -> EmbeddingReport:
    place = str(getattr(source, "folder", "") or source.root)
    given = {"load": StubEncoder, **SMALL} | given
    load = given.pop("load")
    return embed_on_beam(load, INFO, 1, source, place, str(output), beam_options(runner, options), **given)


def rows(output: Path) -> dict[str, Any]:
    items, vectors, thumbnails = read_shards(output)
    told = {"labels": items.labels, "splits": items.splits, "dates": items.dates, "sources": items.sources}
    return {
        "ids": items.ids.tolist(),
        "names": items.label_names,
        **{name: np.asarray(values).tolist() for name, values in told.items()},
        "footprints": np.nan_to_num(items.footprints, nan=-999).tolist(),
        "vectors": vectors.tolist(),
        "thumbnails": list(thumbnails or ()),
    }


def test_the_shards_hold_the_rows_of_the_local_command(folder: Path, tmp_path: Path) -> None:
    source = FolderSource(folder, "labels.csv")
    local = embed_images(StubEncoder(), source, tmp_path / "local", progress=False, **SMALL)
    report = on_beam(source, tmp_path / "beam")
    found = rows(tmp_path / "beam")
    assert found == rows(tmp_path / "local")
    placed = [name for name, corners in zip(found["ids"], found["footprints"], strict=True) if corners[0][0] > -999]
    assert placed == ["a/0.png", "b/placed.tif"]
    assert (tmp_path / "beam" / "bad_files.csv").read_bytes() == (tmp_path / "local" / "bad_files.csv").read_bytes()
    assert (report.embedded, report.before, report.bad) == (local.embedded, 0, local.bad) == (11, 0, 3)
    # Part i of the list of 14 is shard i, and the shards know what the local command asks for changes.
    assert [read_record(path).rows for path in shard_paths(tmp_path / "beam")] == [4, 3, 3, 1]
    assert VectorFiles(tmp_path / "beam" / "stac" / "collection.json").count == 11
    before = snapshot(tmp_path / "beam")
    again = embed_images(StubEncoder(), source, tmp_path / "beam", progress=False, **SMALL)
    assert (again.embedded, again.changed, again.gone, again.before) == (0, 0, 0, 11)
    assert snapshot(tmp_path / "beam") == before


def test_run_again_it_makes_what_is_missing_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    source, output = FolderSource(folder), tmp_path / "out"
    on_beam(source, output)
    whole, before = rows(output), snapshot(output)
    again = on_beam(source, output)
    assert (again.embedded, again.before, again.bad) == (0, 11, 3)
    assert str(again).startswith("nothing to do: 11 images were embedded before; 3 bad files")
    (output / "part-00001.parquet").unlink()  # as a worker leaves it that dies between the two
    (output / "part-00003.parquet").write_bytes(b"cut off")
    (output / ".part-0-part-00002.parquet").touch()
    report = on_beam(source, output)
    assert (report.embedded, report.before) == (4, 7)
    assert rows(output) == whole and snapshot(output).keys() == before.keys()
    for name in ("part-00000.parquet", "part-00002.parquet"):
        assert snapshot(output)[name] == before[name]


def test_a_part_that_is_given_twice_is_made_once(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = Job(
        StubEncoder, Origin("a" * 64, "projection", 1, ("sea", "sand"), DIM, 12), str(output), str(folder), "tiles"
    )
    source = FolderSource(folder)
    numbers, count = plan_shards(job, source, 4, {}, source.reader)
    assert numbers == [0, 1, 2, 3] and count == 4
    pipeline = apache_beam.Pipeline(options=beam_options("DirectRunner"))
    pipeline | apache_beam.Create([0, 1, 2, 3, 1, 2, 0]) | EmbedShards(job)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("macl_tf"))["counters"]
    counters = {counter.key.metric.name: counter.committed for counter in found}
    assert counters == {"tiles": 11, "bad_files": 3, "shards": 4, "shards_there": 3}
    assert len(read_shards(output)[0]) == 11


def test_other_tiles_and_other_encoders_are_refused_and_all_stays(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    on_beam(FolderSource(folder), output)
    before = snapshot(output)

    def refused(match: str, **given: Any) -> None:
        with pytest.raises(ValueError, match=match):
            on_beam(FolderSource(folder), output, **given)
        assert snapshot(output) == before

    refused("was made of other tiles than 'tiles' holds now", shard_size=5)
    refused("Use --thumbnail 12, or another", thumbnail_size=0)
    refused("shard_size must be >= 1, got 0", shard_size=0)
    save(folder / "a" / "2.png", photo(77))
    refused("came, went or changed since")
    shutil.rmtree(folder / "b")
    refused("or take the changes in by `macl embed` without --runner")
    report = embed_images(StubEncoder(), FolderSource(folder), output, progress=False, **SMALL)
    assert (report.changed, report.gone) == (1, 6)  # the remedy
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(FileNotFoundError, match="'tiles' must hold images, but none was found"):
        on_beam(FolderSource(folder), tmp_path / "other")


def test_elsewhere_all_goes_through_beams_file_systems(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles, shards, plans and bad files of a scheme that the disk does not know; one file is out of reach at first."""
    embed_images(StubEncoder(), FolderSource(folder, "labels.csv"), tmp_path / "local", progress=False, **SMALL)
    expected = rows(tmp_path / "local")
    (folder / "a" / ".hidden.png").write_bytes((folder / "a" / "0.png").read_bytes())
    (folder / "a" / "4.jp2").touch()  # 4.png is the picture that was made of it
    place, output = f"elsewhere:/{folder}", f"elsewhere:/{tmp_path}/out"

    def run(pattern: str = place) -> EmbeddingReport:
        return on_beam(PatternSource(pattern, folder / "labels.csv"), output)

    monkeypatch.setattr(ElsewhereFileSystem, "refused", frozenset({"3.png"}))
    assert (run().embedded, run().embedded) == (10, 0)
    assert bad_files(tmp_path / "out")["b/3.png"].startswith("cannot be read as an image: [Errno 13] Permission denied")
    monkeypatch.setattr(ElsewhereFileSystem, "refused", frozenset())
    assert run().bad == 3 and rows(tmp_path / "out") == expected
    assert bad_files(tmp_path / "out") == bad_files(tmp_path / "local")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith(".")]
    wild = PatternSource(f"{place}/b/*.png")
    assert [tile.id for tile in wild] == [f"{name}.png" for name in (1, 3, 5, 7, 9, "half")]
    assert (wild.name, wild.count()) == ("b", 6)


def test_a_pattern_on_this_disk_has_the_tiles_of_the_folder(folder: Path, tmp_path: Path) -> None:
    on_beam(FolderSource(folder), tmp_path / "out")
    assert on_beam(PatternSource(f"{folder}/**"), tmp_path / "out").before == 11
    with pytest.raises(ValueError, match="tiles with a file for each band"):
        PatternSource("gs://bucket/tiles", reader=Bands(("B02", "B03"), (0, 0, 0), "{tile}_{band}.tif"))


def test_what_fails_in_a_worker_is_told_and_what_was_written_stays(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"(?s)the pipeline failed: .*no eighth picture.*the same command goes on"):
        on_beam(FolderSource(folder), tmp_path / "out", load=FailsAtEighth)
    written = snapshot(tmp_path / "out")
    report = on_beam(FolderSource(folder), tmp_path / "out")
    assert report.before >= 1 and report.embedded + report.before == 11
    assert written.items() <= snapshot(tmp_path / "out").items()


def test_a_file_is_put_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").write_bytes(bytes(100))
    output = tmp_path / "out"
    seen: list[dict[str, int]] = []

    def rename(source: Any, destination: Any) -> None:
        seen.append({path.name: path.stat().st_size for path in output.iterdir()})
        raise OSError("the store is away")

    monkeypatch.setattr(FileSystems, "rename", rename)
    with pytest.raises(OSError, match="the store is away"):
        put(tmp_path / "a.parquet", f"elsewhere:/{output}")
    ((name, size),) = seen[0].items()
    assert name.startswith(".part-") and size == 100 and not list(output.iterdir())


def test_options_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="must be like key=value, got '--streaming'"):
        beam_options("DirectRunner", ["--streaming"])
    with pytest.raises(ValueError, match="DirectRunner must know its options, got direct_num_worker"):
        beam_options("DirectRunner", ["direct_num_worker=2"])
    options = beam_options("FlinkRunner", ["flink_master=host:8081", "number_of_worker_harness_threads=3"])
    assert options.get_all_options()["number_of_worker_harness_threads"] == 3
    assert main(["embed", "served", "--input", "x", "--output", "y", "--runner-option", "a=1"]) == 2
    assert "--runner-option is for --runner, which is not given" in capsys.readouterr().err


LOST = """
import signal, sys
from functools import partial
from macl_tf.embedding.sources import FolderSource
from macl_tf.tiling.geoparquet import Row, write_footprints
from tests.beam_workers import KilledOnce
from tests.test_beam import on_beam

folder, output = sys.argv[1:]
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in the background of a shell, where it once waited for ever
options = "direct_num_workers=2", "direct_running_mode=multi_processing"
try:
    print(on_beam(FolderSource(folder), output, *options, load=partial(KilledOnce, output, 1)))
except ChildProcessError as error:
    print(error)
assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_and_the_same_command_goes_on(
    folder: Path, tmp_path: Path, run_python: Any
) -> None:
    output = tmp_path / "out"
    said = run_python(LOST, folder, output).stdout
    assert "a worker process was lost (Worker subprocess exited with return code 137)" in said
    assert (tmp_path / "killed").exists()
    left = len(shard_paths(output))
    assert 1 <= left < 4  # what was finished stays
    assert "11 images were embedded" not in said and "; 3 bad files" in run_python(LOST, folder, output).stdout
    on_beam(FolderSource(folder), tmp_path / "whole")
    assert rows(output) == rows(tmp_path / "whole")
    assert sorted(path.name for path in output.iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(21):
        save(tmp_path / "tiles" / f"{number:02}.png", photo(number, 20 + number, 50 - number))
    (tmp_path / "tiles" / "10.png").write_text("no image")
    return tmp_path / "tiles"


def same(output: Path, expected: Path) -> None:
    """All but the last digits of vectors, whose sums depend on the batch."""
    found, wanted = rows(output), rows(expected)
    np.testing.assert_allclose(found.pop("vectors"), wanted.pop("vectors"), atol=1e-5)
    assert found == wanted and len(found["ids"]) == 20


@pytest.mark.slow
def test_two_processes_make_what_the_command_makes_alone(
    small_served: Path,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    run_python: Any,
) -> None:
    """By `macl embed`, with the exported encoder in each of them; and with one that lies elsewhere, as its tiles."""
    command = ["embed", str(small_served), "--input", str(pictures), "--shard-size", "6"]
    assert main([*command, "--output", str(tmp_path / "alone"), "--quiet"]) == 0
    capsys.readouterr()
    options = ["direct_num_workers=2", "direct_running_mode=multi_processing"]
    script = "import sys; from macl_tf.cli import main; main(sys.argv[1:])"
    asked = [word for option in options for word in ("--runner-option", option)]
    said = run_python(script, *command, "--output", tmp_path / "two", "--runner", "DirectRunner", *asked).stdout
    assert said.startswith("20 images embedded, ") and "; 1 bad file, see" in said
    same(tmp_path / "two", tmp_path / "alone")
    monkeypatch.chdir(pictures)
    assert (
        main([*command[:3], "*.png", *command[4:], "--output", str(tmp_path / "two"), "--runner", "DirectRunner"]) == 0
    )
    assert capsys.readouterr().out.startswith("nothing to do: 20 images were embedded before; 1 bad file")
    there = ["embed", f"elsewhere:/{small_served}", "--input", f"elsewhere:/{pictures}/*.png", "--shard-size", "6"]
    assert main([*there, "--output", f"elsewhere:/{tmp_path}/else", "--runner", "DirectRunner"]) == 0
    assert capsys.readouterr().out.startswith("20 images embedded, ")
    same(tmp_path / "else", tmp_path / "alone")


PORTABLE = """
import sys
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from macl_tf.embedding.sources import FolderSource
from tests.test_beam import on_beam

folder, output, staging = sys.argv[1:]
server = LocalJobServicer(staging)
job = f"job_endpoint=localhost:{server.start_grpc_server()}"
place, pool = BeamFnExternalWorkerPoolServicer.start(use_process=True)
environment = "environment_type=EXTERNAL", f"environment_config={place}"
try:
    print(on_beam(FolderSource(folder), output, job, *environment, runner="PortableRunner"))
finally:
    pool.stop(0)
    server.stop()
"""


@pytest.mark.slow
def test_a_job_server_runs_it(folder: Path, tmp_path: Path, run_python: Any) -> None:
    """Beam's own in Python, over the job API of Flink's and Spark's, with a pool of workers as on Kubernetes."""
    said = run_python(PORTABLE, folder, tmp_path / "out", tmp_path / "staging").stdout
    assert said.startswith("11 images embedded, ")
    on_beam(FolderSource(folder), tmp_path / "whole")
    assert rows(tmp_path / "out") == rows(tmp_path / "whole")
