"""What TensorFlow Serving relies on, tested without its binary."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework.tensor_pb2 import TensorProto

from macl_tf.artifacts import ArtifactError, versions
from macl_tf.export.deployment import FILES, deploy_files, models_config, write_deployment
from macl_tf.export.saved_model import ExportedEncoder, export_encoder
from macl_tf.export.warmup import BATCH_SIZES, prediction_log
from tests.loopback import loopback_server
from tests.pictures import good_pictures
from tests.runs import ROBUST_DIM
from tests.serving_messages import MESSAGES

pytestmark = pytest.mark.slow

WARMUP = "assets.extra/tf_serving_warmup_requests"


@pytest.fixture(scope="module")
def served(small_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    export_encoder(small_run, folder / "served")
    write_deployment(folder / "served")
    return folder / "served"


@pytest.fixture(scope="module")
def encoder(served):
    return ExportedEncoder.load(served)


@pytest.fixture(scope="module")
def server(served):
    with loopback_server(served / "encoder", {"stable": 1, "canary": 1}) as url:
        yield url


def parsed(kind, path):
    return text_format.Parse(Path(path).read_text(), MESSAGES[kind]())


def fake_versions(served, *numbers):
    for number in numbers:
        (served / "encoder" / str(number)).mkdir(parents=True)
    return served


# Warm-up


def warmup_records(served):
    return [record.numpy() for record in tf.data.TFRecordDataset(str(served / "encoder" / "1" / WARMUP))]


def test_warmup_requests_are_read_and_answered(served, encoder):
    seen = []
    for record in warmup_records(served):
        log = MESSAGES["PredictionLog"].FromString(record)
        assert log.SerializeToString(deterministic=True) == record, "nothing in it that the messages do not know"
        request = log.predict_log.request
        assert request.model_spec.name == "encoder"
        tensors = {entry.key: tf.make_ndarray(TensorProto.FromString(entry.value)) for entry in request.inputs}
        inputs = {name: tf.constant(value) for name, value in tensors.items()}
        outputs = encoder._signatures[request.model_spec.signature_name](**inputs)
        seen.append((request.model_spec.signature_name, *outputs["embedding"].shape))
        assert outputs.get("valid", tf.constant(True)).numpy().all()
        np.testing.assert_allclose(np.linalg.norm(outputs["embedding"], axis=1), 1, rtol=1e-5)
    assert seen == [*(("serving_default", size, ROBUST_DIM) for size in BATCH_SIZES), ("embed_pixels", 1, ROBUST_DIM)]


@pytest.mark.peers
def test_our_messages_are_those_of_tensorflow_serving(served):
    """The package depends on another TensorFlow: pip install --no-deps tensorflow-serving-api."""
    package = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="optional, see the docstring")
    from tensorflow_serving.config import model_server_config_pb2

    for record in warmup_records(served):
        log = package.PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.SerializeToString(deterministic=True) == record
        assert tf.make_ndarray(next(iter(log.predict_log.request.inputs.values()))).size
    text = (served / "deploy" / "models.config").read_text()
    theirs = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    ours = text_format.Parse(text, MESSAGES["ModelServerConfig"]())
    # As map entries have no order, compare after a way through the other's parser.
    assert MESSAGES["ModelServerConfig"].FromString(ours.SerializeToString()) == ours
    assert dict(theirs.model_config_list.config[0].version_labels) == {"stable": 1, "canary": 1}


def test_a_long_message_has_its_length_in_several_bytes():
    data = np.array([b"x" * 300, b"y" * 70_000], object)
    log = MESSAGES["PredictionLog"].FromString(prediction_log("s", {"image_bytes": data}))
    tensor = TensorProto.FromString(log.predict_log.request.inputs[0].value)
    assert tf.make_ndarray(tensor).tolist() == data.tolist()


# Configuration


def test_configurations_are_what_the_server_parses(served):
    batching = parsed("BatchingParameters", served / "deploy" / "batching.config")
    assert batching.max_execution_batch_size.value == max(BATCH_SIZES), "warm up to what is run"
    assert batching.max_execution_batch_size.value <= batching.max_batch_size.value
    assert batching.enable_large_batch_splitting.value and not batching.allowed_batch_sizes
    assert parsed("MonitoringConfig", served / "deploy" / "monitoring.config").prometheus_config.enable
    (model,) = parsed("ModelServerConfig", served / "deploy" / "models.config").model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == ("encoder", "/models/encoder", "tensorflow")
    assert model.model_version_policy.HasField("all")
    assert {label.key: label.value for label in model.version_labels} == {"stable": 1, "canary": 1}


def labels(text):
    (model,) = text_format.Parse(text, MESSAGES["ModelServerConfig"]()).model_config_list.config
    return {label.key: label.value for label in model.version_labels}


def test_stable_stays_until_it_is_moved_or_gone(tmp_path):
    served = fake_versions(tmp_path, 3)
    write_deployment(served)
    config = served / "deploy" / "models.config"
    assert labels(config.read_text()) == {"stable": 3, "canary": 3}
    fake_versions(served, 4, 5)
    write_deployment(served)
    assert labels(config.read_text()) == {"stable": 3, "canary": 5}
    config.write_text(config.read_text().replace("value: 3", "value: 4"))  # promoted by hand
    fake_versions(served, 12)
    assert labels(models_config(served)) == {"stable": 4, "canary": 12}
    (served / "encoder" / "4").rmdir()
    assert labels(models_config(served)) == {"stable": 12, "canary": 12}


def test_files_that_were_tuned_stay(tmp_path):
    served = fake_versions(tmp_path, 1)
    folder = write_deployment(served)
    assert {path.name for path in folder.iterdir()} == {*FILES, "models.config"}
    for name in FILES:
        assert (folder / name).read_bytes() == (deploy_files() / name).read_bytes()
    (folder / "batching.config").write_text("# mine\n")
    (folder / "client.py").unlink()
    write_deployment(served)
    assert (folder / "batching.config").read_text() == "# mine\n" and (folder / "client.py").is_file()


def test_nothing_is_written_without_an_encoder(tmp_path):
    with pytest.raises(ArtifactError, match="holds no encoder"):
        write_deployment(tmp_path)
    assert not list(tmp_path.iterdir())


def test_compose_file(served):
    yaml = pytest.importorskip("yaml", reason="not among our requirements")
    service = yaml.safe_load((served / "deploy" / "compose.yaml").read_text())["services"]["encoder"]
    assert service["ports"] == ["127.0.0.1:8501:8501"], "for this machine only"
    mounts = dict(volume.split(":", 1) for volume in service["volumes"])
    assert mounts == {"../encoder": "/models/encoder:ro", ".": "/deploy:ro"}
    flags = dict(flag.removeprefix("--").split("=") for flag in service["command"])
    named = [Path(value).name for value in flags.values() if value.startswith("/deploy/")]
    assert sorted(named) == ["batching.config", "models.config", "monitoring.config"]
    assert all((served / "deploy" / name).is_file() for name in named)
    assert flags["allow_version_labels_for_unavailable_models"] == flags["enable_batching"] == "true"


@pytest.mark.skipif(not shutil.which("bash"), reason="the server's image has bash")
def test_health_check(served, server):
    line = next(line for line in (served / "deploy" / "compose.yaml").read_text().splitlines() if '["CMD"' in line)
    _, *command = json.loads(line.split("test: ")[1])
    port = server.rsplit(":", 1)[1]
    for tried, healthy in ((port, True), ("9", False)):
        ported = [part.replace("8501", tried) for part in command]
        assert (subprocess.run(ported, capture_output=True, timeout=20).returncode == 0) is healthy


# REST


def run_client(server, *paths):
    script = deploy_files() / "client.py"
    environment = {"MACL_SERVER": server, "PATH": ""}
    command = [sys.executable, "-I", str(script), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)


def test_client(server, encoder, tmp_path):
    good = good_pictures()
    images = {"a tile.jpg": good["jpeg"], "b.gif": good["gif"], "c.jpg": b"a text file", "d.png": good["png"]}
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    result = run_client(server, *(tmp_path / name for name in images))
    assert result.returncode == 0, result.stderr
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(answer["path"]).name for answer in answers] == list(images)
    assert [answer["valid"] for answer in answers] == [True, True, False, True]
    expected, _ = encoder.embed_bytes(list(images.values()))
    np.testing.assert_allclose([answer["embedding"] for answer in answers], expected, rtol=1e-5, atol=1e-6)


def test_client_without_a_server_or_a_file(server, tmp_path):
    picture = tmp_path / "tile.jpg"
    picture.write_bytes(good_pictures()["jpeg"])
    for address, path, said in (("http://127.0.0.1:9", picture, "refused"), (server, tmp_path / "no", "No such file")):
        result = run_client(address, path)
        assert result.returncode == 1 and said in result.stderr and "Traceback" not in result.stderr
    result = run_client(server)
    assert result.returncode == 1 and "No values in 'instances'" in result.stderr


def test_client_is_short():
    lines = (deploy_files() / "client.py").read_text().splitlines()
    code = [line for line in lines if line.strip() and not re.match(r'\s*(#|""")', line)]
    assert len(code) <= 20


def test_all_signatures_over_rest(server, encoder):
    from urllib.request import urlopen

    def ask(**body):
        with urlopen(f"{server}/v1/models/encoder:predict", json.dumps(body).encode()) as answer:
            return json.load(answer)["predictions"]

    (text,) = ask(signature_name="model_info", instances=[""])
    assert json.loads(text) == encoder.info
    pixels = np.arange(2 * 3 * 4 * 3).reshape(2, 3, 4, 3) % 256
    found = ask(signature_name="embed_pixels", instances=pixels.tolist())
    np.testing.assert_allclose(found, encoder.embed_pixels(pixels.astype(np.uint8)), rtol=1e-5, atol=1e-6)


# As the server loads it: into a session, without Python objects


def test_saved_model_cli_shows_and_runs_the_signatures(served, encoder, tmp_path, run_python):
    good = good_pictures()
    images = [good["jpeg"], b"junk", good["png alpha"], good["gif animated"]]
    np.save(tmp_path / "images.npy", np.array(images, "S"))
    model = ["--dir", str(served / "encoder" / "1"), "--tag_set", "serve"]
    file = f"image_bytes={tmp_path / 'images.npy'}"
    show = ["show", *model, "--all"]
    run = ["run", *model, "--signature_def", "serving_default", "--inputs", file, "--outdir", str(tmp_path)]
    script = """
import contextlib, json, sys
from tensorflow.python.tools.saved_model_cli import main
for arguments in json.loads(sys.argv.pop()):
    sys.argv[1:] = arguments
    with contextlib.suppress(SystemExit):  # its own, after each command
        main()
"""
    text = run_python(script, json.dumps([show, run]), warm=True).stdout

    found = {}
    for name, block in re.findall(r"signature_def\['(\w+)'\]:(.*?)Method name", text, re.DOTALL):
        pattern = r"(inputs|outputs)\['(\w+)'\] tensor_info:\s+dtype: (\w+)\s+shape: \(([^)]*)\)"
        found[name] = {(way, key): (dtype, shape) for way, key, dtype, shape in re.findall(pattern, block)}
    found.pop("__saved_model_init_op", None)
    assert found == {
        "serving_default": {
            ("inputs", "image_bytes"): ("DT_STRING", "-1"),
            ("outputs", "embedding"): ("DT_FLOAT", f"-1, {ROBUST_DIM}"),
            ("outputs", "valid"): ("DT_BOOL", "-1"),
        },
        "embed_pixels": {
            ("inputs", "pixels"): ("DT_UINT8", "-1, -1, -1, 3"),
            ("outputs", "embedding"): ("DT_FLOAT", f"-1, {ROBUST_DIM}"),
        },
        "model_info": {("inputs", "request"): ("DT_STRING", "-1"), ("outputs", "json"): ("DT_STRING", "-1")},
    }
    expected, _ = encoder.embed_bytes(images)
    assert np.load(tmp_path / "valid.npy").tolist() == [True, False, True, True]
    np.testing.assert_allclose(np.load(tmp_path / "embedding.npy"), expected, rtol=1e-5, atol=1e-6)


def test_batches_of_a_session(served, encoder):
    good = list(good_pictures().values())
    batches = [[], good[:1], [b"junk"], [*good, b"", *good, *good][:64]]
    expected = [encoder.embed_bytes(batch) for batch in batches]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(served / "encoder" / "1"))
        signature = meta.signature_def["serving_default"]
        names = {key: info.name for key, info in signature.outputs.items()}
        for batch, (embedding, valid) in zip(batches, expected, strict=True):
            found = session.run(names, {signature.inputs["image_bytes"].name: np.array(batch, object)})
            assert found["valid"].tolist() == valid.tolist()
            np.testing.assert_allclose(found["embedding"], embedding, rtol=1e-5, atol=1e-6)


def test_versions_are_whole_numbers_to_the_server_too(served):
    """It takes every child of the base path that is a whole number for a version, and no other."""
    names = [path.name for path in (served / "encoder").iterdir()]
    assert [int(name) for name in names if re.fullmatch(r"\d+", name)] == versions(served / "encoder") == [1]
    files = {path.name for path in (served / "encoder" / "1").iterdir()}
    assert {"saved_model.pb", "variables", "assets.extra", "manifest.json"} <= files
