"""Values and gradients of tensorflow-addons 0.23, which our margin losses and N-pairs must reproduce.

tensorflow-addons has reached its end of life and imports under Keras 2 only, so this runs in an environment of its
own and commits what it found to tensorflow_addons.json; tests/test_margin_losses.py compares.

    python3.11 -m venv /tmp/addons
    /tmp/addons/bin/pip install tensorflow-cpu==2.15.1 keras==2.15.0 numpy==1.26.4 tensorflow-addons==0.23.0
    /tmp/addons/bin/python tests/reference/make_tensorflow_addons.py            # writes the values
    /tmp/addons/bin/python tests/reference/make_tensorflow_addons.py --check    # makes them again and compares
"""

import argparse
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

VALUES = Path(__file__).with_name("tensorflow_addons.json")
DIGITS = 9  # significant, as many as tell one float32 from the next

# Classes of 12 images. In `single`, class 3 has one image, and so an anchor without a positive.
CLASSES = {
    "unit": [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 3, 0],
    "raw": [0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2],
    "single": [0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 2, 0],
    "twins": [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2],
}
METRICS = ("L2", "squared-L2", "angular")


def make_batches():
    """Seeded embeddings: unit norm or not, and with two identical rows in `twins`."""
    batches = {}
    for seed, (name, classes) in enumerate(CLASSES.items()):
        rng = np.random.default_rng(seed)
        z = rng.normal(size=(len(classes), 5))
        if name != "raw":
            z /= np.linalg.norm(z, axis=1, keepdims=True)
        if name == "twins":
            z[3] = z[0]
        many = np.eye(4)[classes] + (rng.random((len(classes), 4)) < 0.2)  # for the multi-label loss
        batches[name] = {
            "classes": classes,
            "labels": np.minimum(many, 1).astype(int).tolist(),
            "embeddings": rounded(z),
        }
    return batches


def rounded(values):
    return [[float(f"{x:.{DIGITS}g}") for x in row] for row in np.asarray(values).tolist()]


def losses():
    """Name, arguments, and a function of (classes, multi-hot labels, embeddings)."""
    for margin in (1.0, 0.3):
        for metric in METRICS:
            arguments = {"margin": margin, "distance_metric": metric}
            yield "TripletSemiHardLoss", arguments, on_embeddings(tfa.losses.TripletSemiHardLoss(**arguments))
    for soft in (False, True):
        for metric in METRICS:
            arguments = {"margin": 0.5, "soft": soft, "distance_metric": metric}
            yield "TripletHardLoss", arguments, on_embeddings(tfa.losses.TripletHardLoss(**arguments))
    for margin in (1.0, 0.4):
        arguments = {"margin": margin}
        yield "LiftedStructLoss", arguments, on_embeddings(tfa.losses.LiftedStructLoss(**arguments))
        yield "ContrastiveLoss", arguments, on_pairs(tfa.losses.ContrastiveLoss(**arguments))
    npairs = tfa.losses.NpairsMultilabelLoss()
    yield "NpairsMultilabelLoss", {}, lambda _, y, z: npairs(y, tf.matmul(z, z, transpose_b=True))


def on_embeddings(loss):
    return lambda classes, _, z: loss(classes, z)


def on_pairs(loss):
    """tensorflow-addons takes distances of pairs: here those of all pairs i < j of the batch."""

    def value(classes, _, z):
        first, second = np.triu_indices(len(classes), 1)
        squares = tf.reduce_sum(tf.square(tf.gather(z, first) - tf.gather(z, second)), axis=1)
        apart = squares > 0  # tf.norm has no gradient between identical rows
        distances = tf.where(apart, tf.sqrt(tf.where(apart, squares, 1.0)), 0.0)
        same = np.asarray(classes)[first] == np.asarray(classes)[second]
        return loss(tf.constant(same, tf.int32), distances)

    return value


def make_values():
    batches, cases = make_batches(), []
    for name, batch in batches.items():
        z = tf.constant(batch["embeddings"], tf.float32)
        classes, labels = tf.constant(batch["classes"]), tf.constant(batch["labels"], tf.float32)
        for loss, arguments, function in losses():
            with tf.GradientTape() as tape:
                tape.watch(z)
                value = tf.reduce_mean(function(classes, labels, z))
            gradient = tf.convert_to_tensor(tape.gradient(value, z))
            cases.append(
                {
                    "loss": loss,
                    "batch": name,
                    "arguments": arguments,
                    "value": float(f"{float(value):.{DIGITS}g}"),
                    "gradient": rounded(gradient.numpy()),
                }
            )
    versions = {
        "python": platform.python_version(),
        "tensorflow-addons": tfa.__version__,
        "tensorflow-cpu": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
    }
    return {"versions": versions, "batches": batches, "cases": cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed values, write nothing")
    made = make_values()
    if parser.parse_args().check:
        known = json.loads(VALUES.read_text(encoding="utf-8"))
        for name, batch in known["batches"].items():
            np.testing.assert_allclose(batch["embeddings"], made["batches"][name]["embeddings"], rtol=1e-7)
        for old, new in zip(known["cases"], made["cases"], strict=True):
            label = f"{old['loss']} {old['batch']} {old['arguments']}"
            np.testing.assert_allclose(old["value"], new["value"], rtol=1e-6, err_msg=label)
            np.testing.assert_allclose(old["gradient"], new["gradient"], rtol=1e-5, atol=1e-6, err_msg=label)
        print(f"{len(made['cases'])} values as committed.")
    else:
        VALUES.write_text(json.dumps(made, indent=None, separators=(",", ":")).replace("},{", "},\n{") + "\n", "utf-8")
        print(f"{len(made['cases'])} values written to {VALUES}")


if __name__ == "__main__":
    main()
