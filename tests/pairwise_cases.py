"""The pairwise family by name, each loss with settings and the oracle of its value. Imports no Keras."""

from tests.oracles import contrastive, pairwise

MACL_NAMES = {
    "temperature": "temperature",
    "reweighting_power": "gamma",
    "overlap_power": "kappa",
    "overlap_scale": "alpha",
    "rarity_scale": "beta",
    "min_temperature": "floor",
    "weighted": "weighted",
}
ORACLES = {
    "InfoNCE": pairwise.info_nce,
    "SupCon": pairwise.supcon,
    "JaccardSupCon": pairwise.jaccard_supcon,
    "MultiSupCon": pairwise.multisupcon,
    "MulSupCon": pairwise.mulsupcon,
    "SimilarityDissimilarity": pairwise.similarity_dissimilarity,
    "NPairs": pairwise.n_pairs,
    "MACL": lambda y, z, **settings: contrastive.macl(y, z, **{MACL_NAMES[k]: v for k, v in settings.items()}),
}
DEFAULTS = [(name, {}) for name in ORACLES]
VARIANTS = [("SupCon", {"positives": "all"}), ("MACL", {"weighted": True})]
MEMBERS = DEFAULTS + VARIANTS  # every target of the family once
# Every way through the kernel once: labels that are numbers of images, one temperature, one an anchor and one a pair,
# weights over their sum, their number and the labels' company, anchors that weigh, an image among its own keys. Of what
# the kernel does (tiles, rows of replicas, laws) the other targets, which only say other weights, show nothing more.
KERNEL = [
    ("InfoNCE", {}),
    ("SupCon", {"positives": "all"}),
    ("MultiSupCon", {}),
    ("MulSupCon", {}),
    ("NPairs", {}),
    ("MACL", {"weighted": True}),
    ("MACL", {"overlap_scale": 0.5}),
]
SETTINGS = [
    *MEMBERS,
    ("InfoNCE", {"temperature": 0.5, "views": 3}),
    ("SupCon", {"temperature": 0.2}),
    ("MultiSupCon", {"min_overlap": 0.5, "temperature": 0.2}),
    ("MultiSupCon", {"min_overlap": 1.0}),
    ("MultiSupCon", {"min_overlap": 0.0}),
    ("MulSupCon", {"temperature": 0.01}),
    ("SimilarityDissimilarity", {"temperature": 1.0}),
    ("NPairs", {"normalize": True}),
    ("MACL", {"temperature": 0.2, "reweighting_power": 1.0, "overlap_power": 0.0}),
    ("MACL", {"overlap_scale": 0.5, "rarity_scale": 0.3}),
]


def expected(name, y, z, settings):
    """The oracle's value, in float64."""
    settings = dict(settings)
    if settings.pop("normalize", name != "NPairs"):
        z = contrastive.unit(z)
    return ORACLES[name](y, z, **settings)


def of(name, /, temperature, **settings):
    """Settings of a loss with a temperature, where it has one."""
    return settings if name == "NPairs" else {"temperature": temperature, **settings}
