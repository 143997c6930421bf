"""Losses of multi-label metric learning, each a `keras.losses.Loss` over (B, C) labels and (B, D) embeddings."""

from macl_tf.losses.dcl import DCL
from macl_tf.losses.joint import Joint, LabelCrossEntropy
from macl_tf.losses.macl import MACL
from macl_tf.losses.margin import LiftedStructure, MarginContrastive
from macl_tf.losses.multi_similarity import MultiSimilarity
from macl_tf.losses.n_pairs import InfoNCE, MultiLabelNPairs
from macl_tf.losses.proxy import ProxyAnchor, ProxyHead
from macl_tf.losses.ranked_list import RankedList
from macl_tf.losses.supcon import JaccardSupCon, MulSupCon, MultiSupCon, SimilarityDissimilarity, SupCon
from macl_tf.losses.triplet import TripletHard, TripletSemiHard

__all__ = [
    "DCL",
    "MACL",
    "InfoNCE",
    "JaccardSupCon",
    "Joint",
    "LabelCrossEntropy",
    "LiftedStructure",
    "MarginContrastive",
    "MulSupCon",
    "MultiLabelNPairs",
    "MultiSimilarity",
    "MultiSupCon",
    "ProxyAnchor",
    "ProxyHead",
    "RankedList",
    "SimilarityDissimilarity",
    "SupCon",
    "TripletHard",
    "TripletSemiHard",
]
