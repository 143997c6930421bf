"""Names of the descriptors of an encoder, by its head. Imports no Keras, for a quick `--help`."""

from __future__ import annotations

# What follows the feature maps; the first is what the loss sees.
DESCRIPTORS = {"projection": ("projection", "backbone"), "spoc": ("spoc", "multi-scale")}
# And what a classifier adds: the probabilities of the labels, alone and beside others.
PROBABILITIES = "probabilities"
OF_CLASSIFIER = {
    "projection": (PROBABILITIES, f"projection+{PROBABILITIES}", f"backbone+{PROBABILITIES}"),
    "spoc": (PROBABILITIES, f"spoc+{PROBABILITIES}"),
}
