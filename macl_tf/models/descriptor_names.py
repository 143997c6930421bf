"""Names of the descriptors and of the trained parts of an encoder. Imports no Keras, for a quick `--help`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# What follows the feature maps; the first is what the loss sees.
ROBUST = "robust"
LEARNED = 0.5  # share w of the learned embedding in it
DESCRIPTORS = {"projection": ("projection", "backbone", ROBUST), "spoc": ("spoc", "multi-scale")}
# And what a classifier adds: the probabilities of the labels, alone and beside others.
PROBABILITIES = "probabilities"
OF_CLASSIFIER = {
    "projection": (PROBABILITIES, f"projection+{PROBABILITIES}", f"backbone+{PROBABILITIES}"),
    "spoc": (PROBABILITIES, f"spoc+{PROBABILITIES}"),
}
# What is trained of an encoder.
ALL, HEAD = "all", "head"
_LAST = re.compile(r"last:([1-9]\d*)")


def features_in(info: Mapping[str, Any]) -> int:
    """How many first columns of an encoder's vectors are what its backbone gives, by what it says about itself.

    A head can be trained on these. Of "robust" they are all, where the whole network was trained: what it learned is in
    the rest. 0 where a head made all of the vector.
    """
    if "taught" in info:
        return int(info["taught"]["features"])
    settings, dim = info["settings"], int(info["dim"])
    first, _, beside = str(info["descriptor"]).partition("+")
    if first == ROBUST:
        frozen = settings["trainable"] == HEAD or bool(settings["features"])
        return dim - int(settings["embedding_dim"]) if frozen else dim
    if first in ("backbone", *DESCRIPTORS["spoc"]):
        return dim - (len(info["labels"]) if beside else 0)
    return 0


def last_stages(trainable: str) -> int | None:
    """N of "last:N", None of "all" and "head".

    Raises:
        ValueError: For anything else.
    """
    if trainable in (ALL, HEAD):
        return None
    found = _LAST.fullmatch(trainable)
    if found is None:
        raise ValueError(f"trainable must be all, head, or last:N for the last N stages, got '{trainable}'.")
    return int(found[1])
