"""One search behind three doors: examples, pages, filters and refusals, by the same words from each of them."""

import dataclasses
import inspect
import json

import numpy as np
import pytest

from macl_tf import cli
from macl_tf.index.filters import _READERS, Filter
from macl_tf.search.direction import direction
from macl_tf.search.engine import SearchEngine
from macl_tf.search.query import NotThereError, QueryError
from macl_tf.server import schemas
from tests.serving_process import (
    COUNT,
    Client,
    items_of,
    load_stub,
    make_served,
    name_of,
    running,
    tile,
    upload,
    vectors_of,
)
from tests.stub_encoder import DIM

VECTORS = vectors_of(range(COUNT)).astype(np.float64)
ITEMS = items_of(range(COUNT))
WORDS = ("positive", "negative", "k", "offset", "filter", "labels", "exact")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("query") / "served")


@pytest.fixture(scope="module")
def client(served):
    with running(served) as url, Client(url, served) as client:
        yield client


@pytest.fixture
def engine(served, monkeypatch):
    monkeypatch.setattr("macl_tf.search.engine.load_encoder", lambda *made, verify: load_stub(*made))
    return SearchEngine.open(served)


def ids(answer):
    return [result.id for result in answer.results]


def ranked(vector, leave_out=()):
    """Ids by cosine with a vector, by NumPy in float64."""
    order = np.argsort(-(VECTORS @ vector), kind="stable")
    return [name_of(number) for number in order if number not in leave_out]


def direction_of(positive, negative, marked):
    """Of rows, and the numbers of the tiles among them: the others are so few here that all are the background."""
    return direction(np.array(positive), np.array(negative), np.delete(VECTORS, marked, axis=0))


def test_examples_are_weighed_as_documented(engine):
    other = np.random.default_rng(2).normal(size=DIM)
    wanted = direction_of(VECTORS[[3, 4]], [VECTORS[9], other / np.linalg.norm(other)], [3, 4, 9])
    (answer,) = engine.search(positive=[name_of(3), name_of(4)], negative=[name_of(9), 17 * other], k=COUNT)
    assert ids(answer) == ranked(wanted, [3, 4, 9]) and answer.labels is None and not answer.more
    np.testing.assert_allclose(answer.vector, wanted / np.linalg.norm(wanted), atol=1e-6)
    scores = VECTORS @ (wanted / np.linalg.norm(wanted))
    for result in answer.results:
        assert result.score == pytest.approx(scores[int(result.id[-7:-4])], abs=1e-6)


def test_examples_join_every_query_and_may_be_pictures(engine, tmp_path):
    file = tmp_path / "tile.png"
    file.write_bytes(upload(11))
    for negative in (file, upload(11), tile(11)):
        answers = engine.search(ids=[name_of(5), name_of(6)], positive=[name_of(7)], negative=[negative], k=9)
        for answer, number in zip(answers, (5, 6), strict=True):
            assert answer.query == name_of(number)
            wanted = direction_of(VECTORS[[number, 7]], VECTORS[[11]], [number, 7])
            assert ids(answer) == ranked(wanted, [number, 7])[:9]  # the picture is no tile, even if one looks like it
    (joined,) = engine.search(tile(5), positive=name_of(6), k=9)
    assert ids(joined) == ranked(direction_of(VECTORS[[5, 6]], VECTORS[:0], [6]), [6])[:9]
    assert ids(engine.search(positive=[tile(5)], k=3)[0]) == ids(engine.search(tile(5), k=3)[0])


@pytest.mark.parametrize("size", [1, 7, 9, COUNT])
@pytest.mark.parametrize(("positive", "negative"), [([3], []), ([3, 4], []), ([3], [9, 11]), ([3, 4, 5], [39])])
def test_pages_are_one_list_without_the_examples(engine, size, positive, negative):
    """What is left out must not shorten a page, nor come twice."""
    of = {"positive": list(map(name_of, positive)), "negative": list(map(name_of, negative))}
    (whole,) = engine.search(**of, k=COUNT)
    assert len(whole.results) == COUNT - len(positive) - len(negative) and not whole.more
    pages = [engine.search(**of, k=size, offset=offset)[0] for offset in range(0, len(whole.results), size)]
    assert [result for page in pages for result in page.results] == list(whole.results)
    assert [page.more for page in pages] == [True] * (len(pages) - 1) + [False]
    (after,) = engine.search(**of, k=size, offset=COUNT)
    assert after.results == () and not after.more


def test_a_page_of_what_the_filter_lets_through(engine):
    (whole,) = engine.search(ids=name_of(3), k=COUNT, filter="any_of=sea; split=test")
    assert {r.id for r in whole.results} == {
        name_of(n) for n in range(COUNT)
        if n != 3 and "sea" in ITEMS.describe(n)["labels"] and ITEMS.describe(n)["split"] == "test"
    }  # fmt: skip
    (second,) = engine.search(ids=name_of(3), k=2, offset=2, filter=Filter(any_of=["sea"], split="test"))
    assert second.results == whole.results[2:4] and [r.rank for r in second.results] == [3, 4] and second.more


def test_labels_of_a_query_are_those_given_or_of_its_only_tile(engine):
    own = tuple(ITEMS.describe(7)["labels"])
    assert engine.search(ids=[name_of(7)])[0].labels == own
    assert engine.search(positive=[name_of(7)])[0].labels == own
    assert engine.search(ids=[name_of(7)], labels="SNOW,Sea")[0].labels == ("snow", "sea")
    (refined,) = engine.search(ids=[name_of(7)], negative=[name_of(8)])
    assert refined.labels is None and not any(result.shared for result in refined.results)


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ({"positive": ["nobody"]}, NotThereError, "of a tile in the index, got 'nobody'"),
        ({"ids": ["nobody"]}, NotThereError, "of a tile in the index, got 'nobody'"),
        ({"ids": [name_of(1)], "negative": ["nobody"]}, NotThereError, "got 'nobody'"),
        ({"negative": [name_of(1)]}, ValueError, "exactly one of them, or positive examples"),
        ({"ids": [name_of(1)], "vectors": [[1.0] * DIM]}, ValueError, "exactly one of them"),
        ({"positive": [[1.0] * (DIM + 1)]}, QueryError, f"a vector has {DIM} numbers, .*, got {DIM + 1}"),
        ({"vectors": [[0.0] * DIM]}, QueryError, "not zero"),
        ({"vectors": [[np.nan] * DIM]}, QueryError, "finite"),
        ({"vectors": [[1e300] * DIM]}, QueryError, "below 1e30"),
        ({"positive": [np.ones(DIM), -np.ones(DIM)]}, QueryError, "must not cancel out"),
        ({"positive": [["a"] * DIM]}, QueryError, "a vector has"),
        ({"ids": [name_of(1)], "k": 0}, ValueError, "k must be a whole number >= 1, got 0"),
        ({"ids": [name_of(1)], "offset": -1}, QueryError, "offset must be .* got -1"),
        ({"ids": [name_of(1)], "offset": 1.5}, QueryError, "offset must be .* got 1.5"),
        ({"ids": [name_of(1)], "filter": "box=1,2,3,4"}, ValueError, "must be one of any_of, .* bbox"),
    ],
)
def test_what_cannot_be_searched_is_refused(engine, asked, error, words):
    with pytest.raises(error, match=words):
        engine.search(**asked)


def test_the_three_doors_have_the_same_words():
    python = inspect.signature(SearchEngine.search).parameters
    http = schemas.Query.model_fields
    for word in WORDS:
        assert word in python and word in http
        (option,) = (action for action in parser_of("search")._actions if action.dest == word)
        assert option.option_strings == ["-k" if word == "k" else f"--{word}"]
        if word not in ("positive", "negative", "filter", "labels"):
            assert option.default == python[word].default == http[word].default
    conditions = [field.name for field in dataclasses.fields(Filter)]
    assert conditions == list(schemas.Condition.model_fields) == list(_READERS)
    facts = {"labels", "date", "bbox", "split", "source"}
    assert facts <= {action.dest for action in parser_of("upsert")._actions}
    assert facts - {"labels", "bbox"} <= {"date", "split", "source"} and facts <= set(schemas.Item.model_fields)


def parser_of(command):
    return cli.parser()._subparsers._group_actions[0].choices[command]


def test_the_three_doors_give_the_same_answer(served, engine, client, capsys):
    filter_ = "none_of=snow; bbox=-180,0,180,5; since=2020-02-01; until=2020-11-30; split=train,test"
    (answer,) = engine.search(
        positive=[name_of(3), name_of(4)],
        negative=[name_of(9)],
        k=4,
        offset=3,
        filter=filter_,
        labels="sea",
        exact=True,
    )
    assert len(answer.results) == 4 and answer.more
    examples = ["--positive", "tile003.png", "--positive", name_of(4), "--negative", name_of(9)]
    words = ["-k", "4", "--offset", "3", "--filter", filter_, "--labels", "sea", "--exact", "--json"]
    assert cli.main(["search", str(served), *examples, *words]) == 0
    printed = json.loads(capsys.readouterr().out)["answers"][0]
    sent = client.search(
        {"id": name_of(3)}, {"id": name_of(4)}, negative=[{"id": name_of(9)}], k=4, offset=3, labels=["sea"],
        exact=True, filter={"none_of": ["snow"], "bbox": [-180, 0, 180, 5], "since": "2020-02-01",
                            "until": "2020-11-30", "split": ["train", "test"]},
    )  # fmt: skip
    assert printed["more"] and sent["more"]
    for mine, shown, told in zip(answer.results, printed["results"], sent["results"], strict=True):
        assert mine.rank == shown["rank"] == told["rank"] and list(mine.shared) == shown["shared"] == told["shared"]
        assert shown["score"] == mine.score and told["score"] == pytest.approx(mine.score, abs=1e-6)
        for name in ("id", "labels", "bbox", "split", "date", "source"):
            assert mine.item[name] == shown[name] == told[name], name
        assert mine.item["bbox"] and not {"path", "footprint"} & set(told)


def test_the_command_takes_pictures_as_examples(served, engine, tmp_path, capsys):
    file = tmp_path / "tile.png"
    file.write_bytes(upload(11))
    for examples, vector, left_out in (
        (["--positive", file], VECTORS[11], []),
        (["--positive", "tile005.png", "--negative", file], direction_of(VECTORS[[5]], VECTORS[[11]], [5]), [5]),
        (["--id", name_of(5), "--positive", name_of(6)], direction_of(VECTORS[[5, 6]], VECTORS[:0], [5, 6]), [5, 6]),
        ([file, "--positive", name_of(6)], direction_of(VECTORS[[11, 6]], VECTORS[:0], [6]), [6]),
    ):
        assert cli.main(["search", str(served), *map(str, examples), "-k", "5", "--json"]) == 0
        results = json.loads(capsys.readouterr().out)["answers"][0]["results"]
        assert [result["id"] for result in results] == ranked(vector, left_out)[:5]
