"""A Milvus that is away, hangs, answers late, loses answers or restarts: clear errors, never wrong answers."""

import numpy as np
import pytest

from macl_tf.index.filters import Filter
from macl_tf.index.milvus import connection, filling
from macl_tf.index.milvus.connection import TOKEN, Address, Connection
from macl_tf.index.milvus.filling import Source, fill
from macl_tf.index.milvus.index import MilvusIndex
from macl_tf.index.view import EngineError
from tests.engines import LABELS, Model, check_hits, id_of, tiles
from tests.milvus_process import Proxy, Server

SHORT = 0.3  # seconds until a call to what never answers has failed


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "lite")
    yield server
    server.kill()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def source_of(content, key="one"):
    items, vectors, pictures = content
    return Source(items, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), pictures, {}, key)


@pytest.fixture
def filled(proxy, request):
    """An index of 30 tiles behind the proxy, and what it must answer."""
    content = tiles(range(30), 1)
    address = Address(proxy.uri, f"of_{request.node.name.partition('[')[0]}")
    fill(address, source_of(content), progress=False)
    return MilvusIndex.open(address), Model(*content)


def check(engine, model, query=1.0, condition=None):
    vector = np.full(8, query)
    vector[0] = 1
    check_hits(model, engine.search([vector], 9, filter=condition)[0], vector, 9, condition, True)


def patience(engine, seconds):
    engine._connection.read = engine._connection.write = seconds


@pytest.mark.slow
def test_one_that_hangs_is_said_and_answers_again_afterwards(server, filled):
    engine, model = filled
    check(engine, model)
    patience(engine, SHORT)
    with server.stopped():
        for ask in (
            lambda: engine.search([[1.0] * 8]),
            lambda: engine.snapshot.describe(id_of(1)),
            lambda: engine.snapshot.present([id_of(1)]),
            lambda: len(engine),
            lambda: engine.snapshot.label_counts,
            engine.refresh,
        ):
            with pytest.raises(EngineError, match=r"must answer within 0\.3 s, got 'no answer'\. It hangs"):
                ask()
        with pytest.raises(EngineError, match=r"The same call again is safe"):
            engine.delete([id_of(1)])
        with pytest.raises(EngineError, match=r"must be there|must answer within"):
            MilvusIndex.open(engine.address, read=SHORT)
    patience(engine, 30.0)
    check(engine, model)


def test_late_answers_are_never_those_to_another_question(proxy, filled):
    engine, model = filled
    patience(engine, SHORT)
    proxy.held.clear()
    with pytest.raises(EngineError, match="must answer within"):
        engine.search([[1.0] * 8], 3)
    proxy.held.set()
    patience(engine, 30.0)
    for query in (-1.0, 0.3, 5.0):
        check(engine, model, query)


def test_lost_connections_and_answers_are_asked_again_and_nothing_is_there_twice(proxy, filled):
    engine, model = filled
    for number in range(30, 36):
        proxy.lose_answer = True
        content = tiles([number, number - 3], number)
        engine.upsert(*content)
        model.upsert(*content)
        if number % 2:
            proxy.cut()
        assert len(engine) == len(model.rows)
        check(engine, model, number)
    proxy.lose_answer = True
    engine.delete([id_of(31), id_of(2)])
    model.rows = {id_: row for id_, row in model.rows.items() if id_ not in (id_of(31), id_of(2))}
    check(engine, model)


@pytest.mark.slow
def test_after_a_kill_all_that_was_acknowledged_is_there(server, filled):
    engine, model = filled
    for number in range(40, 42):
        content = tiles([number], number)
        engine.upsert(*content)
        model.upsert(*content)
        server.kill()
        patience(engine, SHORT)
        with pytest.raises(EngineError, match=r"must be there, got .*Start it|must answer within"):
            engine.search([[1.0] * 8])
        server.start()
        patience(engine, 30.0)
        check(engine, model)
        assert engine.relabel("sea", {id_of(number): True, id_of(4): False}) == model.relabel(
            "sea", {id_of(number): True, id_of(4): False}
        )
    check(MilvusIndex.open(engine.address), model)


def test_a_new_version_is_live_at_once_or_not_at_all(proxy, filled, monkeypatch):
    """The connection is cut for good after more and more bytes; the same command goes on, and writes nothing twice."""
    engine, old = filled
    monkeypatch.setattr(filling, "_ROWS", 10)
    content = tiles(range(20, 90), 7)
    new, source = Model(*content), source_of(content, "two")
    written, put = [], Connection.change

    def counted(self, name, *arguments, **options):
        if name == "upsert" and len(arguments[1]) == 10:
            written.append(arguments[1][0]["id"])
        return put(self, name, *arguments, **options)

    monkeypatch.setattr(Connection, "change", counted)
    cuts = 0
    for left in range(4_000, 10**9, 3_000):
        proxy.left = left
        try:
            fill(engine.address, source, progress=False, read=SHORT, write=1.0)
        except EngineError:
            cuts += 1
            proxy.left = None
            engine.refresh()
            assert engine.version == 1 and len(engine) == 30
            check(engine, old)
        else:
            break
    proxy.left = None
    engine.refresh()
    assert engine.version == 2 and len(engine) == 70 and cuts > 2
    check(engine, new, condition=Filter(none_of=["sea"]))
    for id_, (_, _, picture) in new.rows.items():
        assert engine.thumbnail(id_) == picture
    assert len(set(written)) == 7 and len(written) <= 7 + cuts, "only the block that was on its way is written again"
    held = {name for name in engine._connection.call("list_collections") if name.startswith(engine.address.collection)}
    assert held == {f"{engine.address.collection}{end}" for end in ("_v1", "_v2", "__about")}


def test_what_was_done_before_its_answer_was_lost_is_done(proxy, server, monkeypatch):
    """What makes a collection, an index or an alias fails where it is there."""
    change, lost = Connection._made, []

    def losing(self, name, *rest):
        if name.startswith(("create_", "load_", "flush")):
            lost.append(name)
            proxy.lose_answer = True
        return change(self, name, *rest)

    monkeypatch.setattr(Connection, "_made", losing)
    content = tiles(range(8), 4)
    fill(Address(proxy.uri, "lost"), source_of(content), progress=False)
    assert {"create_collection", "create_index", "create_alias"} <= set(lost)
    check(MilvusIndex.open(Address(f"http://127.0.0.1:{server.port}", "lost")), Model(*content))


def test_a_version_that_was_written_to_is_not_left_behind(filled):
    engine, model = filled
    content = tiles([50], 50)
    engine.upsert(*content)
    model.upsert(*content)
    newer = source_of(tiles(range(5), 8), "newer")
    with pytest.raises(ValueError, match=r"Version 1 of .* was written to .* Add --discard-changes"):
        fill(engine.address, newer, progress=False)
    check(engine, model)
    fill(engine.address, newer, progress=False, discard_changes=True)
    assert engine.delete([id_of(50), id_of(1)]) == 1, "what had the older version open writes to the newer one"
    assert (engine.version, len(engine), len(engine.at(1))) == (2, 4, 31)


def test_writes_while_a_version_ends_are_refused_and_not_lost(filled, monkeypatch):
    """A write that comes between the last look for changes and the switch."""
    engine, _ = filled
    content, said = tiles([51], 51), []
    looked = filling._check_changes

    def look(about, address, number, discard):
        looked(about, address, number, discard)
        if said or about.noted(number).closed:
            with pytest.raises(EngineError, match="about to take this one's place"):
                engine.upsert(*content)
            said.append(True)

    monkeypatch.setattr(filling, "_check_changes", look)
    fill(engine.address, source_of(tiles(range(40), 9), "next"), progress=False)
    assert said
    engine.upsert(*content)
    assert engine.version == 2 and engine.snapshot.holds(id_of(51)) and len(engine) == 41


def test_older_versions_go(filled):
    engine, _ = filled
    for number in range(3):
        fill(engine.address, source_of(tiles(range(10 + number), number), f"{number}"), progress=False, keep=2)
    engine.refresh()
    assert [number for number, _ in engine.published()] == [3, 4] and engine.version == 4 and len(engine) == 12


def test_another_program_s_collection_is_left_alone(server):
    there = Connection(f"http://127.0.0.1:{server.port}")
    fields = {
        "id": {"datatype": "VARCHAR", "max_length": 9, "is_primary": True},
        "vector": {"datatype": "FLOAT_VECTOR", "dim": 2},
    }
    there.create("theirs", fields, "Session")
    with pytest.raises(ValueError, match=r"'theirs' .* is a collection of another program.*--collection NAME"):
        fill(Address(there.uri, "theirs"), source_of(tiles(range(3), 0)), progress=False)


def test_one_that_is_not_there_is_said():
    free = Proxy(1)
    free.close()
    with pytest.raises(EngineError, match=r"the Milvus at http://127.0.0.1:\d+ must be there, got "):
        Connection(free.uri, read=SHORT)


@pytest.mark.parametrize(
    "text, words",
    [
        ("http://127.0.0.1:19530", "must be milvus:FILE.db or milvus:http://HOST:PORT"),
        ("milvus:http://root:secret@host:19530", r"must hold no password, got one for 'host'\. Set .* MILVUS_TOKEN"),
        ("milvus:localhost:19530", "must be a file or http://HOST:PORT, got 'localhost:19530'"),
        ("milvus:", "must be a file or"),
        ("milvus:tiles.db#1 a", "letters, digits and _"),
    ],
)
def test_addresses_that_cannot_be_meant(text, words):
    with pytest.raises(ValueError, match=words) as refused:
        Address.parse(text)
    assert "secret" not in str(refused.value)


def test_a_file_is_for_one_process_and_is_not_made_by_a_search(server, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not there. `macl index SERVED --to milvus --uri .*` makes it"):
        MilvusIndex.open(f"milvus:{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(EngineError, match=r"by one process at a time.*milvus-lite server --data-dir"):
        Connection(str(server.folder))
    (tmp_path / "file.db").write_text("of milvus-lite 2")
    with pytest.raises(ValueError, match="is a file"):
        Connection(str(tmp_path / "file.db"))
    fill(Address(str(tmp_path / "own.db")), source_of(tiles(range(3), 0)), progress=False)
    MilvusIndex.open(f"milvus:{tmp_path / 'own.db'}")
    connection.release(tmp_path / "own.db")
    assert len(MilvusIndex.open(f"milvus:{tmp_path / 'own.db'}")) == 3, "others may open it then"
    connection.release(tmp_path / "own.db")


def test_the_token_comes_from_the_environment_and_is_never_told(monkeypatch, caplog):
    import grpc
    import pymilvus

    given = {}

    class Refusing:
        def __init__(self, address, **options):
            given.update(options)

        def get_server_version(self, **_):
            error = grpc.RpcError()
            error.code = lambda: grpc.StatusCode.UNAUTHENTICATED
            raise pymilvus.MilvusException(message="auth check failure") from error

    monkeypatch.setattr(pymilvus, "MilvusClient", Refusing)
    monkeypatch.setenv(TOKEN, "root:secret")
    with pytest.raises(
        EngineError, match=r"must know who asks, got .* Set the environment variable MILVUS_TOKEN"
    ) as no:
        assert Connection("https://host:1").is_lite
    assert given["token"] == "root:secret"
    assert "secret" not in str(no.value) + caplog.text


def test_conditions_of_a_server_are_those_of_a_file(filled, proxy, monkeypatch):
    """A server's labels are an array with an index; milvus-lite understands the same conditions, slowly."""
    from macl_tf.index.milvus import rows
    from tests.engines import some_filter

    monkeypatch.setattr(Connection, "is_lite", False)
    monkeypatch.setattr(rows, "indexed", lambda lite: ["split", "day", "draw"])
    content = tiles(range(60), 3)
    address, model, generator = Address(proxy.uri, "as_a_server"), Model(*content), np.random.default_rng(0)
    fill(address, source_of(content), progress=False)
    engine = MilvusIndex.open(address)
    engine.relabel("sea", {id_of(1): True, id_of(2): False})
    model.relabel("sea", {id_of(1): True, id_of(2): False})
    for _ in range(40):
        check(engine, model, generator.normal(), some_filter(generator, LABELS))
