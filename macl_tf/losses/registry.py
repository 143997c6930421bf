"""All losses by name, each told once: the command line, `compile(loss="macl")`, docs/losses.md and the tests read this.

To add a loss: its class in a file of this folder, one entry here, and its name in `__init__` for type checkers.
Nothing here imports Keras; `load` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Settings that no loss but MACL, weighted or not, reads.
OF_MACL = ("reweighting_power", "overlap_power", "overlap_scale", "rarity_scale", "min_temperature")


@dataclass(frozen=True)
class Entry:
    """One loss of a run.

    Args:
        kind: Name of its class.
        home: Module of the class, of this folder or of Keras.
        positive: What counts as positive.
        how: Weights of the positives, or what is pushed away.
        source: Who published it.
        fixed: What makes the class this loss.
        reads: What it takes of a run: settings, and `label_statistics`. A margin of 0 is the loss's own.
        ends_in: What the model must end in: the embedding, "proxies" or "classifier".
        of_labels: Whether it learns from labels.
    """

    kind: str
    home: str
    positive: str
    how: str
    source: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    reads: tuple[str, ...] = ()
    ends_in: str = "embedding"
    of_labels: bool = True

    def load(self) -> Any:
        """The class. Imports Keras."""
        home = self.home if "." in self.home else f"macl_tf.losses.{self.home}"
        return getattr(importlib.import_module(home), self.kind)


ANY, ADDONS, OURS = "shares a label", "tensorflow-addons 0.23", "this project (formulas)"
PAIR = "shares a label, or J_ij >= `min_overlap`"
TEMPERATURE, MARGIN = ("temperature",), ("margin",)
SHARE = "1 / number of positives"

LOSSES: dict[str, Entry] = {
    "macl": Entry("MACL", "macl", ANY,
                  "J_ij^3 and the rarity of shared label pairs, sum 1; T_ij falls with the anchor's rarity",
                  f"arXiv 2512.16294 (ideas), {OURS}", reads=("label_statistics", *TEMPERATURE, *OF_MACL)),
    "wmacl": Entry("MACL", "macl", ANY, "as `macl`; anchors weighted by rarity", f"arXiv 2512.16294 (name), {OURS}",
                   fixed={"weighted": True}, reads=("label_statistics", *TEMPERATURE, *OF_MACL)),
    "info-nce": Entry("InfoNCE", "supcon", "another view of the image (`--set views=2`)", "1",
                      "van den Oord 2018, Chen 2020", reads=TEMPERATURE, of_labels=False),
    "supcon-any": Entry("SupCon", "supcon", ANY, SHARE, "Khosla 2020", fixed={"positives": "any"}, reads=TEMPERATURE),
    "supcon-all": Entry("SupCon", "supcon", "has the same labels", SHARE, "Khosla 2020", fixed={"positives": "all"},
                        reads=TEMPERATURE),
    "jaccard": Entry("JaccardSupCon", "supcon", ANY, "J_ij / sum of J_ip", "Audibert 2024", reads=TEMPERATURE),
    "multisupcon": Entry("MultiSupCon", "supcon", "J_ij >= `min_overlap`", "J_ij / number of positives",
                         "Zaigrajew and Zieba 2022", reads=TEMPERATURE),
    "mulsupcon": Entry("MulSupCon", "supcon", "for each label of i: holds it",
                       "1 / number that hold it, averaged over all (i, label)", "Zhang and Wu 2024", reads=TEMPERATURE),
    "similarity-dissimilarity": Entry("SimilarityDissimilarity", "supcon", ANY,
                                      "falls with labels missing and labels too many", "arXiv 2410.13439",
                                      reads=TEMPERATURE),
    "n-pairs": Entry("NPairs", "supcon", f"{ANY}, itself included", "O_ij / sum of O_ik, of raw dot products", ADDONS),
    "triplet-semi-hard": Entry("TripletSemiHard", "margin", PAIR,
                               "the nearest negative beyond each positive, within the margin", ADDONS, reads=MARGIN),
    "triplet-hard": Entry("TripletHard", "margin", PAIR, "the nearest negative against the farthest positive", ADDONS,
                          reads=MARGIN),
    "margin-contrastive": Entry("MarginContrastive", "margin", PAIR, "negatives nearer than the margin", ADDONS,
                                reads=MARGIN),
    "lifted-structure": Entry("LiftedStructure", "margin", PAIR, "all negatives of a pair, softly", ADDONS,
                              reads=MARGIN),
    "multi-similarity": Entry("MultiSimilarity", "multi_similarity", f"{PAIR}; mined", "mined negatives, softly",
                              "Wang, Han 2019"),
    "ranked-list": Entry("RankedList", "boundary", PAIR, "negatives within the boundary, the near ones more",
                         "Wang, Hua 2019", reads=MARGIN),
    "proxy-anchor": Entry("ProxyAnchor", "proxy", "holds the proxy's label", "images that do not", "Kim 2020",
                          ends_in="proxies"),
    "dcl": Entry("DCL", "boundary", PAIR, "the nearest of each of the hardest classes, weighted by distance",
                 "Fan, Zhao, Zhao 2020", reads=MARGIN),
    "bce": Entry("BinaryCrossentropy", "keras.losses", "holds the label", "each label on its own: classification",
                 "Keras; what a practitioner trains without any of this", fixed={"from_logits": True},
                 ends_in="classifier"),
}  # fmt: skip

# Ours, each class once, by the name that Keras knows it by.
BY_NAME = {
    ("supcon" if entry.kind == "SupCon" else name.replace("-", "_")): entry
    for name, entry in LOSSES.items()
    if entry.home != "keras.losses" and name not in ("wmacl", "supcon-all")
}


def make(name: str, **settings: Any) -> Any:
    """The loss of a run, from all settings of the run.

    Args:
        name: One of `LOSSES`.
        **settings: Values by name; what the loss does not read is left out, what is left out is the loss's own.
    """
    entry = LOSSES[name]
    chosen = {key: settings[key] for key in entry.reads if key in settings and (key != "margin" or settings[key])}
    return entry.load()(**entry.fixed, **chosen)
