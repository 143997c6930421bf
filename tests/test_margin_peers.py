"""Our margin and proxy losses beside pytorch-metric-learning's: one label per image, all that it takes."""

import numpy as np
import pytest

from macl_tf.losses.boundary import RankedList
from macl_tf.losses.margin import LiftedStructure, TripletHard
from macl_tf.losses.multi_similarity import MultiSimilarity
from macl_tf.losses.proxy import ProxyAnchor, ProxyHead
from tests.loss_checks import assert_same, drawn, value_and_gradient
from tests.oracles import margins as oracle

pytestmark = pytest.mark.peers

REASON = "needs the extra `peers` (CPU torch and pytorch-metric-learning)"
torch = pytest.importorskip("torch", reason=REASON)
losses = pytest.importorskip("pytorch_metric_learning.losses", reason=REASON)
miners = pytest.importorskip("pytorch_metric_learning.miners", reason=REASON)
reducers = pytest.importorskip("pytorch_metric_learning.reducers", reason=REASON)

# A batch in which class 4 has one image alone.
CLASSES = np.array([0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 3, 3])


def theirs(loss, z, miner=None):
    z = torch.tensor(z, requires_grad=True)
    classes = torch.tensor(CLASSES)
    value = loss(z, classes, miner(z, classes) if miner else None)
    value.backward()
    return value.item(), z.grad.numpy()


def ours(loss, z):
    return value_and_gradient(loss, np.eye(5)[CLASSES], z)


def along_the_sphere(z, value, gradient):
    """The library normalises embeddings once more, which takes the radial part from its gradient."""
    return value, gradient - z * (z * gradient).sum(axis=1, keepdims=True)


@pytest.fixture
def z():
    return drawn(rows=len(CLASSES), width=6, dtype="float64")[1]


@pytest.mark.parametrize("epsilon", [0.1, 0.4])
def test_multi_similarity(z, epsilon):
    known = theirs(losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5), z, miners.MultiSimilarityMiner(epsilon))
    assert_same(along_the_sphere(z, *ours(MultiSimilarity(epsilon=epsilon, dtype="float64"), z)), known)


@pytest.mark.parametrize("soft", [False, True])
def test_triplet_hard(z, soft):
    loss = losses.TripletMarginLoss(margin=0 if soft else 0.4, smooth_loss=soft, reducer=reducers.MeanReducer())
    known = theirs(loss, z, miners.BatchHardMiner())
    assert_same(along_the_sphere(z, *ours(TripletHard(margin=0.4, soft=soft, dtype="float64"), z)), known)


def test_lifted_structure(z):
    known = theirs(losses.LiftedStructureLoss(neg_margin=0.7, reducer=reducers.MeanReducer()), z)
    assert_same(along_the_sphere(z, *ours(LiftedStructure(margin=0.7, dtype="float64"), z)), known)


@pytest.mark.filterwarnings("ignore:Values of Tp or Tn are too high")
@pytest.mark.parametrize("temperature", [2, 10])
def test_ranked_list(z, temperature):
    """The oracle agrees once it adds what the library adds to its denominators; ours differ by just that."""
    value, gradient = theirs(losses.RankedListLoss(margin=0.4, Tn=temperature, alpha=1.2, imbalance=0.5), z)
    y = np.eye(5)[CLASSES]
    guarded = oracle.ranked_list(y, z, temperature=temperature, guard=1e-5)
    np.testing.assert_allclose(2 * value, guarded, rtol=1e-9)
    known = 2 * value + oracle.ranked_list(y, z, temperature=temperature) - guarded
    mine = along_the_sphere(z, *ours(RankedList(weight_scale=temperature, dtype="float64"), z))
    np.testing.assert_allclose(mine[0], known, rtol=1e-9)
    assert_same(mine, (2 * value, 2 * gradient), rtol=5e-4)  # 14 columns x 1e-5 to weights of 1 and more


def test_proxy_anchor(z):
    loss = losses.ProxyAnchorLoss(5, 6, margin=0.1, alpha=32).double()
    head = ProxyHead(5, dtype="float64")
    head.build(z.shape)
    head.proxies.assign(loss.proxies.detach().numpy())
    known = theirs(loss, z)

    class WithHead(ProxyAnchor):
        def __call__(self, labels, embeddings):
            return super().__call__(labels, head(embeddings))

    assert_same(ours(WithHead(dtype="float64"), z), known)
