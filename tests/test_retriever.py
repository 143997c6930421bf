"""Bytes in, ids out, in one SavedModel: against exact search over the same vectors."""

import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

from macl_tf.artifacts import ArtifactError, open_version, versions
from macl_tf.export.retriever import MAX_K, build_retriever
from macl_tf.export.saved_model import ExportedEncoder, export_encoder
from macl_tf.files import read_json
from macl_tf.index.index import build_index
from macl_tf.index.items import Items
from tests.pictures import encoded, pixels

pytestmark = pytest.mark.slow

pytest.importorskip("scann")

COUNT = 130  # more than MAX_K
IDS = [f"zürich/{number:03d}.png" for number in range(COUNT)]

# Loads the retriever as others do: ScaNN first, then TensorFlow, and neither Keras nor macl_tf.
ASK = """
import json, sys
sys.modules["keras"] = sys.modules["macl_tf"] = None
import scann
import tensorflow as tf
folder, images, sizes = sys.argv[1], sys.argv[2:-1], json.loads(sys.argv[-1])
serve = tf.saved_model.load(folder).signatures["serving_default"]
batch = tf.constant([open(name, "rb").read() for name in images], tf.string)
for data, k in [(batch, k) for k in sizes] + [(batch[:0], 3)]:
    found = {key: value.numpy() for key, value in serve(image_bytes=data, k=tf.constant(k)).items()}
    found["ids"] = [[name.decode() for name in row] for row in found["ids"].tolist()]
    print(json.dumps({key: value if key == "ids" else value.tolist() for key, value in found.items()}))
"""


@pytest.fixture(scope="module")
def made(small_run, tmp_path_factory):
    """A served folder with encoder and index of 130 pictures, the pictures, and their vectors."""
    folder = tmp_path_factory.mktemp("retriever")
    export_encoder(small_run, folder / "served")
    encoder = ExportedEncoder.load(folder / "served")
    images = [encoded(pixels(seed, 20, 24), "PNG") for seed in range(COUNT)]
    vectors, valid = encoder.embed_bytes(images)
    assert valid.all()
    write_index(folder / "served", IDS, vectors)
    return folder / "served", images, vectors


def write_index(served, ids, vectors, uuid=None):
    _, manifest = open_version(served / "encoder", "encoder")
    info = {"encoder": {"version": 1, "uuid": uuid or manifest["uuid"]}}
    return build_index(served / "index", Items.of(("sea",), ids), vectors, info=info, progress=False)


def ask(run_python, folder, images, sizes, tmp_path):
    names = []
    for number, data in enumerate(images):
        (tmp_path / str(number)).write_bytes(data)
        names.append(tmp_path / str(number))
    lines = run_python(ASK, folder, *names, json.dumps(sizes), PYTHONPATH=None).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_ids_are_those_of_exact_search(made, tmp_path, run_python):
    served, images, vectors = made
    path = build_retriever(served)
    assert path == served / "retriever" / "1"
    shutil.copytree(path, tmp_path / "moved")
    asked = [images[7], b"junk", images[100]]
    few, all_, none = ask(run_python, tmp_path / "moved", asked, [5, 1000], tmp_path)
    cosines = vectors[[7, 100]].astype(np.float64) @ vectors.T.astype(np.float64)
    order = np.argsort(-cosines, axis=1, kind="stable")
    for found, k in ((few, 5), (all_, MAX_K)):
        assert found["valid"] == [True, False, True]
        assert found["ids"][1] == [""] * k and found["scores"][1] == [0.0] * k
        for row, (ids, scores) in enumerate(zip(found["ids"][::2], found["scores"][::2], strict=True)):
            np.testing.assert_allclose(scores, cosines[row][order[row, :k]], atol=1e-5)
            # Equal but for places whose cosines differ by less than float32 can tell.
            positions = [IDS.index(name) for name in ids]
            np.testing.assert_allclose(cosines[row][positions], cosines[row][order[row, :k]], atol=1e-6)
            assert len(set(ids)) == k
    assert [row[0] for row in few["ids"][::2]] == [IDS[7], IDS[100]]
    assert none == {"ids": [], "scores": [], "valid": []}


def test_it_is_made_once_for_an_index_and_anew_for_another(made, tmp_path):
    served, images, vectors = made
    shutil.copytree(served, tmp_path / "served")
    served = tmp_path / "served"
    first = build_retriever(served)
    assert build_retriever(served) == first
    write_index(served, ["only"], vectors[:1])
    second = build_retriever(served, keep=1)
    assert versions(served / "retriever") == [int(first.name) + 1] == [int(second.name)]
    assert read_json(second / "manifest.json")["info"]["count"] == 1
    serve = tf.saved_model.load(str(second)).signatures["serving_default"]
    found = serve(image_bytes=tf.constant([images[3]]), k=tf.constant(10))
    assert found["ids"].numpy().tolist() == [[b"only"]]
    np.testing.assert_allclose(found["scores"], [[vectors[0] @ vectors[3]]], atol=1e-5)

    write_index(served, ["only"], vectors[:1], uuid="of another encoder")
    with pytest.raises(ArtifactError, match="made with another encoder"):
        build_retriever(served)
    assert versions(served / "retriever") == [int(second.name)]


def test_an_empty_index_has_no_retriever(made, tmp_path):
    served, _, vectors = made
    shutil.copytree(served / "encoder", tmp_path / "encoder")
    write_index(tmp_path, [], vectors[:0])
    with pytest.raises(ValueError, match="must hold at least one item"):
        build_retriever(tmp_path)
    assert not (tmp_path / "retriever").exists()


def test_it_needs_an_index(made, tmp_path):
    shutil.copytree(made[0] / "encoder", tmp_path / "encoder")
    with pytest.raises(ArtifactError, match="holds no index"):
        build_retriever(tmp_path)
