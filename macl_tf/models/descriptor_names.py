"""Names of the descriptors and of the trained parts of an encoder. Imports no Keras, for a quick `--help`."""

from __future__ import annotations

import re

# What follows the feature maps; the first is what the loss sees.
ROBUST = "robust"
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
