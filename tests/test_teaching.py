"""Teaching: what is said of tiles becomes a head, and the archive as it sees it, at once or not at all."""

import dataclasses
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from macl_tf import cli
from macl_tf.artifacts import versions
from macl_tf.evaluation.retrieval import evaluate
from macl_tf.index.index import Index, build_index
from macl_tf.index.items import Items
from macl_tf.index.plot import placed
from macl_tf.index.version import write_version
from macl_tf.labels import LabelStatistics
from macl_tf.losses.registry import LOSSES
from macl_tf.models.descriptor_names import features_in
from macl_tf.pipeline.samplers import BesideUnlabelled, make_sampler
from macl_tf.search.engine import SearchEngine
from macl_tf.search.query import QueryError
from macl_tf.server.schemas import TaughtResult
from macl_tf.teaching import job
from macl_tf.teaching.collections import Collections
from macl_tf.teaching.judging import held_out, pooled
from macl_tf.teaching.lessons import gather, vectors_at
from macl_tf.teaching.suggestions import suggest
from macl_tf.teaching.teach import REPORT, Taught, teach
from macl_tf.training.heads import HeadTrainer
from macl_tf.training.settings import load_settings
from tests.runs import ROBUST_DIM, SIZE

NUMBERS = 40  # tiles of the small index, called t00 to t39
QUICK = ("epochs=2", "batch_size=16", "embedding_dim=4")


@pytest.fixture
def small(tmp_path):
    """An index without a label, whose tiles lie in a ring: neighbours are alike."""
    angles = np.linspace(0, 2 * np.pi, NUMBERS, endpoint=False)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    items = Items.of((), [f"t{number:02}" for number in range(NUMBERS)])
    build_index(tmp_path / "index", items, vectors, info={"encoder": None}, progress=False)
    return tmp_path


def ids(*numbers):
    return [f"t{number:02}" for number in numbers]


def gathered(small, **options):
    return gather(Index.open(small / "index").snapshot, Collections(small).all(), **options)


def test_right_tiles_hold_a_collection_s_name_wrong_ones_do_not(small):
    Collections(small).mark("ships", right=[*ids(0, 1, 2, 3), "gone"], wrong=ids(20, 21))
    Collections(small).mark("Big Docks", right=ids(3, 4))
    Collections(small).mark("one", right=ids(9))
    Index.open(small / "index").relabel("big-docks", {"t05": True, "t03": False})
    lessons = gathered(small)
    assert lessons.names == ("big-docks", "ships") and lessons.left_out == ("one",)  # a label by another spelling is it
    assert lessons.collections == ("big-docks", "ships")
    held = {
        name: lessons.positions[column > 0].tolist()
        for name, column in zip(lessons.names, lessons.labels.T, strict=True)
    }
    assert held == {"big-docks": [3, 4, 5], "ships": [0, 1, 2, 3]}
    assert {20, 21} <= set(lessons.positions[~lessons.held].tolist())


def test_tiles_like_the_right_ones_are_no_negatives_unless_marked_wrong(small):
    Collections(small).mark("ships", right=ids(0, 1, 2, 39), wrong=ids(3))
    lessons = gathered(small)
    negatives = lessons.positions[~lessons.held]
    assert 3 in negatives and len(negatives) > NUMBERS / 2
    assert not {4, 5, 36, 37, 38} & set(negatives.tolist()) and {18, 19, 20, 21, 22} <= set(negatives.tolist())


def test_a_label_table_says_more(small, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,labels\nt00,sea\nt01,sea\nt02,sea;sand\nt03,sea\nt04,\nnowhere,sea\n")
    lessons = gathered(small, table=table)
    assert lessons.names == ("sea",) and lessons.positions[lessons.held].tolist() == [0, 1, 2, 3]
    assert 4 in lessons.positions
    Collections(small).mark("sea", wrong=ids(3), right=ids(10))  # a person's mark wins
    lessons = gathered(small, table=table)
    assert lessons.positions[lessons.held].tolist() == [0, 1, 2, 10]
    table.write_text("image,labels\nnowhere,sea\n")
    with pytest.raises(ValueError, match=r"no row of .*labels.csv names one of the 40 ids"):
        gathered(small, table=table)


@pytest.mark.parametrize(("right", "got"), [([], "got 'none'"), ([0, 1, 2], r"got 'ships 3'\. Mark more tiles right")])
def test_nothing_to_learn_is_refused(small, right, got):
    if right:
        Collections(small).mark("ships", right=ids(*right), wrong=ids(7, 8, 9))
    with pytest.raises(QueryError, match=f"a label or collection that 4 tiles hold.*{got}"):
        gathered(small)


def test_vectors_are_those_of_the_positions_with_what_was_written_since(small):
    index = Index.open(small / "index")
    index.upsert(Items.of((), ["new"]), [[0.6, 0.8]])
    index.delete(ids(1))
    state = index.snapshot
    everything = np.concatenate([*state.blocks()])
    chosen = np.array([0, 1, 30, len(state) - 1])
    np.testing.assert_array_equal(vectors_at(state, chosen), everything[chosen])
    np.testing.assert_allclose(vectors_at(state, chosen)[-1], [0.6, 0.8], rtol=1e-6)


def test_negatives_stand_beside_the_labelled_ones():
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 0], [1, 1], [0, 0]])
    sampler = BesideUnlabelled(make_sampler("uniform", labels, 2, seed=0, steps=5), labels, 3)
    rows = sampler.rows(0)
    assert rows.shape == (5, 5) and set(rows[:, :2].ravel()) == {0, 2, 4} and set(rows[:, 2:].ravel()) == {1, 3, 5}
    np.testing.assert_array_equal(rows, sampler.rows(0))
    assert (rows != sampler.rows(1)).any()
    assert sampler.weights.sum() == pytest.approx(1) and sampler.weights[[1, 3, 5]] == pytest.approx(0.2)
    with pytest.raises(ValueError, match="count must be >= 1 of images without a label, got 2 of 0"):
        BesideUnlabelled(make_sampler("uniform", labels[[0, 2]], 2, seed=0), labels[[0, 2]], 2)


def test_each_tile_is_held_out_once_and_labels_are_spread():
    labels = np.zeros((90, 2), np.uint8)
    labels[:9, 0], labels[6:12, 1] = 1, 1
    parts = [*held_out(labels, seed=0)]
    assert len(parts) == 3 and (np.sum(parts, axis=0) == 1).all()
    assert [labels[part].sum(axis=0).tolist() for part in parts] == [[3, 2]] * 3
    labels[5:] = 0
    assert len([*held_out(labels, seed=0)]) == 2  # five tiles: two parts, with two at least
    many = np.ones((2_500, 1), np.uint8)
    assert [int(part.sum()) for part in held_out(many, seed=0)] == [833]


def test_the_reports_of_parts_are_one_of_all_their_queries():
    rng = np.random.default_rng(0)
    reports = []
    for count in (6, 9, 4):
        labels = np.pad(np.eye(2, dtype=int)[rng.integers(0, 2, count)], ((0, 0), (0, 1)))  # nobody holds the third
        reports.append(evaluate(rng.normal(size=(count, 3)), labels, label_counts=[9, 8, 0], precision_k=(1,)))
    whole = pooled(reports)
    assert whole.num_queries == 19 and set(whole.values) == set(reports[0].values)
    counted = [report.num_queries - report.left_out["map_any"] for report in reports]
    assert whole["map_any"] == pytest.approx(np.average([report["map_any"] for report in reports], weights=counted))
    aps = [entry["ap"] for entry in whole.per_label]
    assert aps[2] is None and whole["map_per_label"] == pytest.approx(np.mean(aps[:2]))
    assert whole.left_out["map_per_label"] == 1 and [entry["rare"] for entry in whole.per_label] == [
        entry["rare"] for entry in reports[0].per_label
    ]


def facts(descriptor, **settings):
    settings = {"trainable": "all", "features": "", "embedding_dim": 128, **settings}
    return {"descriptor": descriptor, "dim": 1408, "labels": ["a", "b"], "settings": settings}


def test_what_a_vector_holds_of_the_backbone():
    assert features_in(facts("robust", trainable="head")) == features_in(facts("robust", features="x.npz")) == 1280
    assert features_in(facts("robust")) == features_in(facts("backbone")) == features_in(facts("multi-scale")) == 1408
    assert features_in(facts("backbone+probabilities")) == features_in(facts("spoc+probabilities")) == 1406
    assert features_in(facts("projection")) == features_in(facts("projection+probabilities")) == 0
    assert features_in({**facts("robust"), "taught": {"features": 7}}) == 7


# One teaching for all tests that look at what it made.


@pytest.fixture(scope="module")
def taught(small_served, tmp_path_factory):
    """A copy of the small served folder that was taught, while others wrote to it; and what `teach` returned."""
    served = tmp_path_factory.mktemp("taught") / "served"
    shutil.copytree(small_served, served)
    names = SearchEngine.open(served).index.items.ids.tolist()
    Collections(served).mark("ours", right=names[:6], wrong=names[6:9])
    others, said = SearchEngine.open(served), []

    def meanwhile(stage, share):
        if not said:
            others.upsert([np.full((SIZE, SIZE, 3), 200, np.uint8)], ["during the training"], labels=["new label"])
        said.append((stage, share))

    def late(*given, **options):
        write_version(*given, **options)
        others.upsert([np.full((SIZE, SIZE, 3), 90, np.uint8)], ["while it is published"])
        others.index.delete(names[20:21])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("macl_tf.index.index.write_version", late)
        done = teach(served, settings=QUICK, publish="always", on_progress=meanwhile)
    return served, done, said, others


def test_encoder_and_index_get_a_version_together_and_the_old_one_stays(taught, small_served):
    served, done, said, _ = taught
    assert done.published == served / "index" / "2" and versions(served / "encoder") == [1, 2]
    engine = SearchEngine.open(served)
    assert engine.encoder.version == 2 and engine.encoder.dim == engine.index.dim == ROBUST_DIM + 4
    assert versions(served / "retriever") == [1, 2]
    before = Index.open(served / "index", 1).snapshot
    assert before.info["encoder"]["version"] == 1 and before.holds("during the training")
    stages = [stage for stage, _ in said]
    assert stages == ["training"] * (len(said) - 1) + ["indexing"]
    assert [share for _, share in said] == sorted(share for _, share in said)


def test_pictures_and_the_projected_archive_meet(taught, small_served):
    """The graph with the new head gives what the archive was projected to, of pictures that it was made of."""
    served, *_ = taught
    engine, old = SearchEngine.open(served), SearchEngine.open(small_served)
    pictures = [np.full((SIZE, SIZE, 3), value, np.uint8) for value in (200, 90)]
    found = engine.index.snapshot.vectors_of(["during the training", "while it is published"])
    np.testing.assert_allclose(engine.embed(pictures), found, atol=1e-5)
    assert np.abs(found - old.embed(pictures)[:, :1]).max() > 0.01
    stored = engine.index.snapshot.stored
    np.testing.assert_allclose(
        stored.plot[1], placed(np.asarray(stored.vectors)), atol=1e-5
    )  # as the new head sees them
    assert engine.search(pictures[0])[0].results[0].id == "during the training"
    (hit,) = engine.search(ids=["while it is published"], k=1)[0].results
    assert hit.score < 1 and hit.item["labels"] is not None


def test_what_others_wrote_meanwhile_is_there_and_a_server_that_was_open_sees_it(taught):
    served, _, _, others = taught
    assert "new label" in Index.open(served / "index").label_names
    others.index.refresh()
    state = others.index.snapshot
    assert state.version == 2 and state.holds("while it is published") and state.holds("during the training")
    assert len(state) == 60 + 2 - 1 and state.num_changes == 2  # the last two were handed over
    others.upsert([np.zeros((SIZE, SIZE, 3), np.uint8)], ["after it"])
    assert others.encoder.version == 2


def test_the_report_says_before_and_after_of_each_label_and_collection(taught):
    served, done, *_ = taught
    report = json.loads((served / REPORT).read_text())
    assert report["published"] == 2 and report["collections"] == ["ours"] and "ours" in report["labels"]
    judged = {entry["name"]: entry for entry in report["after"]["per_label"]}
    assert judged["ours"]["train_count"] == 6 and judged["ours"]["queries"] == 6  # each right tile was held out once
    assert report["before"]["num_queries"] == report["after"]["num_queries"] == report["tiles"]
    table = done.table()
    assert "NDCG@100" in table and "AP of ours*" in table and "rarest third" in table
    facts = SearchEngine.open(served).encoder.info
    assert facts["figures"]["map_per_label"] == pytest.approx(done.after["map_per_label"])
    assert facts["settings"]["loss"] == "macl" and facts["settings"]["trainable"] == "head"


def test_a_server_can_tell_it(taught, small, capsys, monkeypatch):
    result = TaughtResult(**taught[1].summary())
    ours = next(label for label in result.labels if label.name == "ours")
    assert result.published == 2 and (ours.tiles, ours.collection) == (6, True) and 0 < ours.after <= 1
    monkeypatch.setattr(os, "nice", lambda more: more)
    assert job.main([json.dumps({"served": str(small)})]) == 2  # an index that no encoder made
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["failed"].startswith("teaching needs the features")


@pytest.mark.slow
def test_a_taught_index_is_taught_again_on_the_same_features(taught, tmp_path, capsys):
    """Heads do not pile up: the second stands on the backbone, too."""
    served = shutil.copytree(taught[0], tmp_path / "served")
    sets = [word for text in QUICK for word in ("--set", text)]
    asked = ["teach", str(served), "--quiet", "--publish", "always", "--loss", "bce", "--keep", "1", *sets]
    assert cli.main(asked) == 0
    said = capsys.readouterr().out
    assert f"Published: {served}/index/3" in said.replace(", although held-out tiles are found worse", "")
    engine = SearchEngine.open(served)
    assert engine.encoder.version == 3 and engine.encoder.info["taught"] == {"features": ROBUST_DIM}
    assert engine.encoder.info["descriptor"] == "backbone+probabilities"
    assert versions(served / "index") == [3]
    picture = np.full((SIZE, SIZE, 3), 200, np.uint8)
    found = engine.index.snapshot.vectors_of(["during the training"])
    np.testing.assert_allclose(engine.embed([picture]), found, atol=1e-5)
    # What is not better is not published.
    assert cli.main(["teach", str(served), "--quiet", "--publish", "never", "--set", "epochs=1"]) == 0
    assert "Not published, as asked for." in capsys.readouterr().out and versions(served / "encoder") == [
        1,
        3,
    ]  # 1 is stable in TF Serving


def test_what_was_taught_is_not_lost_by_an_export(taught, small_run):
    from macl_tf.export.exporting import check_taught

    with pytest.raises(ValueError, match=r"was taught by `macl teach`.*`macl upsert`.*--discard-changes") as refused:
        check_taught(taught[0], discard=False)
    assert "--from" not in str(refused.value)  # which would make an index of the new tiles alone
    check_taught(taught[0], discard=True)


@pytest.mark.parametrize(("before", "after", "better"), [(0.5, 0.4, False), (0.5, 0.5, True), (None, 0.1, True)])
def test_better_is_not_worse_by_the_mean_over_labels(taught, before, after, better):
    one, other = (
        dataclasses.replace(taught[1].before, values={**taught[1].before.values, "map_per_label": value})
        for value in (before, after)
    )
    assert Taught(Path(), taught[1].lessons, one, other, None, 0.0).better is better


def published(served):
    """The versions and what belongs to them, without lock files."""
    there = [path for part in ("encoder", "index") for path in (served / part).iterdir()]
    return sorted(path for path in there if path.name[0] != "." and "lock" not in path.name)


def test_an_error_at_the_last_moment_leaves_all_as_it_was(small_served, tmp_path, monkeypatch):
    """The index is written and the encoder about to get its number, when the disk is full."""
    served, rename, fit, heads = shutil.copytree(small_served, tmp_path / "served"), os.rename, HeadTrainer.fit, []
    before = published(served)

    def full(source, target):
        if Path(target).parent.name == "encoder":
            raise OSError(28, "No space left on device")
        rename(source, target)

    def once(*given, **options):
        heads.append(heads[0] if heads else fit(*given, **options))
        return heads[-1]

    monkeypatch.setattr(HeadTrainer, "fit", once)
    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(OSError, match="No space left"):
        teach(served, settings=("epochs=1", "batch_size=16", "embedding_dim=2"), publish="always")
    monkeypatch.undo()
    assert published(served) == before
    assert SearchEngine.open(served).encoder.version == 1


def test_features_that_an_index_does_not_keep_are_asked_for(small):
    Collections(small).mark("ships", right=ids(0, 1, 2, 3))
    with pytest.raises(
        QueryError, match=r"teaching needs the features.*got 'an index without an encoder'.*--descriptor"
    ):
        teach(small)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": "maccl"}, "loss must be one of"),
        ({"loss": "info-nce"}, "loss must be one that learns from labels, got 'info-nce'"),
        ({"publish": "maybe"}, "publish must be one of better, always, never, got 'maybe'"),
        ({"settings": ["image_size=64"]}, "a setting of teaching must be one of .*, got image_size"),
        ({"settings": ["epoch=3"]}, "There is no setting 'epoch'. Did you mean epochs"),
        ({"settings": ["descriptor=projection"]}, "descriptor must be robust or backbone.*got 'projection'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(small, options, said):
    with pytest.raises(ValueError, match=said):
        teach(small, **options)


KILLED = """
import os, signal, sys
from macl_tf.teaching.teach import teach
real = os.rename
def rename(source, target):
    if str(target).endswith("index/2"):  # the encoder has its number, the index has not
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.rename = rename
teach(sys.argv[1], settings=["epochs=1", "batch_size=16", "embedding_dim=2"], publish="always")
"""


@pytest.mark.slow
def test_a_kill_at_the_very_moment_leaves_the_old_version(small_served, tmp_path, run_python):
    served = shutil.copytree(small_served, tmp_path / "served")
    assert run_python(KILLED, served, check=False).returncode == -signal.SIGKILL
    assert versions(served / "encoder") == [1, 2] and versions(served / "index") == [1]
    engine = SearchEngine.open(served)
    assert engine.encoder.version == 1 and engine.search(ids=engine.index.items.ids[:1].tolist())
    with pytest.raises(ValueError, match="no row of"):  # the next call begins by taking away what nobody uses
        teach(served, labels=write_table(tmp_path))
    assert versions(served / "encoder") == [1]


def write_table(folder):
    table = folder / "labels.csv"
    table.write_text("image,labels\nnowhere,sea\n")
    return table


def planted(folder):
    """An index of two clouds of labels, with a tile of each that lost its label and one that has it wrongly."""
    rng = np.random.default_rng(0)
    clouds = np.repeat([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], 20, axis=0)
    labels = np.zeros((60, 2), np.uint8)
    labels[:20, 0], labels[20:40, 1] = 1, 1
    labels[3, 0] = labels[25, 1] = 0  # lost
    labels[45, 0] = 1  # wrong
    items = Items.of(("sea", "sand, or gravel"), ids(*range(60)), labels)
    vectors = clouds + 0.2 * rng.normal(size=clouds.shape)
    build_index(folder / "index", items, vectors, info={"encoder": None}, progress=False)


def test_suggestions_are_labels_that_were_lost_and_those_that_are_wrong(tmp_path):
    planted(tmp_path)
    found = suggest(tmp_path, most=3)
    sure = {(one.label, one.id, one.kind) for one in found}
    assert {("sea", "t03", "missing"), ("sand, or gravel", "t25", "missing"), ("sea", "t45", "doubtful")} <= sure
    assert {one.id for one in found if one.kind == "doubtful"} == {"t45"}
    missing = [one for one in found if one.kind == "missing"]
    assert {one.id for one in missing} == {"t03", "t25"} and all(one.score >= 0.75 for one in missing)
    Collections(tmp_path).mark("sea", wrong=["t03"])  # somebody looked at it
    assert "t03" not in {one.id for one in suggest(tmp_path, labels=["sea"])}
    Collections(tmp_path).mark("Sand,_or gravel", wrong=["t25"])  # the label's collection, however it is spelled
    found = suggest(tmp_path, labels=["sand, or-gravel"])
    assert "t25" not in {one.id for one in found} and {one.label for one in found} <= {"sand, or gravel"}


def test_suggestions_as_a_table(tmp_path, capsys):
    planted(tmp_path)
    assert cli.main(["suggest", str(tmp_path), "-n", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "label,id,suggestion,score" and '"sand, or gravel",t25,missing,' in printed
    assert cli.main(["suggest", str(tmp_path), "-n", "1", "--output", str(tmp_path / "found.csv")]) == 0
    assert (tmp_path / "found.csv").read_text() == printed
    assert "sea: 1 probably hold it, 1 probably do not." in capsys.readouterr().out
    assert cli.main(["suggest", str(tmp_path), "--label", "seas"]) == 2
    assert "a label to look at must be one of sea, sand, or gravel" in capsys.readouterr().err
    assert cli.main(["suggest", str(tmp_path), "-n", "0"]) == 2


@pytest.mark.slow
def test_an_index_of_vectors_from_elsewhere_is_taught_too(tmp_path):
    from macl_tf.export.vector_index import index_vectors

    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(8)[:3], 12, axis=0) + 0.2 * rng.normal(size=(36, 8))
    np.savez(tmp_path / "vectors.npz", vectors=vectors.astype(np.float32), ids=np.array(ids(*range(36))))
    served = index_vectors(tmp_path / "vectors.npz", tmp_path / "served", progress=False)
    Collections(served).mark("ours", right=ids(*range(6)), wrong=ids(12, 13))
    assert teach(served, settings=QUICK, publish="always").published
    engine = SearchEngine.open(served)
    assert engine.index.dim == 8 + 4 and engine.encoder.info["features"] == 8 and not engine.encoder.image_size
    np.testing.assert_allclose(
        engine.encoder.of_features(vectors[4]), engine.index.snapshot.vectors_of(ids(4))[0], atol=1e-5
    )


@pytest.mark.slow
def test_a_run_whose_vectors_hold_no_features_is_exported_again(small_run, tmp_path):
    """The remedy of the refusal is one."""
    from macl_tf.export.exporting import export_run

    served = export_run(small_run, tmp_path / "served", descriptor="projection", progress=False)
    with pytest.raises(QueryError, match=r"got 'projection'\. Export the run again.*--descriptor robust"):
        teach(served)
    export_run(small_run, served, descriptor="robust", progress=False)
    assert teach(served, settings=QUICK, publish="always").published == served / "index" / "3"


@pytest.mark.slow
@pytest.mark.parametrize("loss", [name for name in LOSSES if LOSSES[name].of_labels and name != "macl"])
def test_every_loss_learns_beside_tiles_without_a_label(loss):
    rng = np.random.default_rng(0)
    labels = np.zeros((30, 2), np.uint8)
    labels[:10, 0], labels[8:18, 1] = 1, 1
    quick = ["dataset=folder", "epochs=2", "batch_size=8", "embedding_dim=4", "augment=false"]
    settings = load_settings(assignments=["trainable=head", f"loss={loss}", *quick])
    trainer = HeadTrainer(settings, 6, LabelStatistics.from_labels(labels[:18]), steps=3, negatives=4)
    features = rng.normal(size=(30, 6)).astype(np.float32)
    first, again = (trainer.fit(features, labels) for _ in range(2))
    found = first.describe(features)
    assert np.isfinite(found).all() and first.digest == again.digest
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
