"""Requests made from the API's own description, right ones and wrong ones: answers are as it describes them."""

import copy

import hypothesis
import pytest
import schemathesis
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from macl_tf.server.auth import Access
from tests.serving_process import LABELS, Client, make_served, name_of, running
from tests.stub_encoder import DIM

OPERATIONS = [
    ("GET", "/api/v1/info"),
    ("GET", "/api/v1/labels"),
    ("POST", "/api/v1/search"),
    ("POST", "/api/v1/search/image"),
    ("GET", "/api/v1/items"),
    ("GET", "/api/v1/thumbnail"),
    ("GET", "/api/v1/diverse"),
    ("POST", "/api/v1/matches"),
    ("GET", "/api/v1/ids"),
    ("GET", "/api/v1/plot"),
    ("POST", "/api/v1/plot/tiles"),
    ("POST", "/api/v1/count"),
    ("GET", "/api/v1/picture"),
    ("GET", "/api/v1/file"),
    ("GET", "/api/v1/suggestions"),
    ("PUT", "/api/v1/items"),
    ("DELETE", "/api/v1/items"),
    ("POST", "/api/v1/items/labels"),
    ("GET", "/api/v1/collections"),
    ("DELETE", "/api/v1/collections"),
    ("GET", "/api/v1/collections/marks"),
    ("POST", "/api/v1/collections/marks"),
    ("GET", "/api/v1/collections/round"),
    ("POST", "/api/v1/collections/rename"),
    ("POST", "/api/v1/collections/label"),
    ("GET", "/api/v1/collections/file"),
    ("POST", "/api/v1/collections/file"),
    ("POST", "/api/v1/teach"),
    ("GET", "/api/v1/teach"),
]
NOTHING_WRONG = [*OPERATIONS[:2], OPERATIONS[-1]]  # they take nothing that could be wrong
TOKEN = "x" * 16
CHECKS = (schemathesis.checks.not_a_server_error, status_code_conformance, content_type_conformance,
          response_schema_conformance)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    return make_served(tmp_path_factory.mktemp("openapi") / "served")


@pytest.fixture(scope="module")
def client(served):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("macl_tf.server.teaching.COMMAND", ("true",))  # tests/test_teaching.py teaches
        yield from opened(served)


def opened(served):
    with running(served, access=Access(TOKEN)) as url, Client(url, served, TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def description(client):
    return client.get("/api/v1/openapi.json").json()


def narrowed(description):
    """The description with ids, labels, widths and limits of this index, so that requests are answered."""
    narrow = copy.deepcopy(description)
    schemas = narrow["components"]["schemas"]
    ids = {"enum": [name_of(number) for number in range(9)]}
    example = {"id": ids, "vector": {"type": "array", "items": {"type": "number", "minimum": -9, "maximum": 9},
                                     "minItems": DIM, "maxItems": DIM}}  # fmt: skip
    schemas["Example"] = {
        "oneOf": [
            {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
            for key, value in example.items()
        ]
    }
    for name in ("any_of", "all_of", "none_of"):
        schemas["Condition"]["properties"][name]["items"] = {"enum": list(LABELS)}
    condition = schemas["Condition"]["properties"]
    condition["bbox"] = {"enum": [None, [-180, -90, 180, 90], [170, 0, -170, 5]]}
    condition["since"], condition["until"] = {"enum": [None, "2020-01-01"]}, {"enum": [None, "2020-06-30"]}
    schemas["Query"]["required"] = ["positive"]
    query = schemas["Query"]["properties"]
    query["k"]["maximum"], query["index"] = 50, {"enum": [None, 1]}
    query["positive"] |= {"minItems": 1, "maxItems": 2}
    query["negative"] |= {"maxItems": 2}
    for path in ("/api/v1/items", "/api/v1/thumbnail"):
        for parameter in narrow["paths"][path]["get"]["parameters"]:
            parameter["schema"] = ids if parameter["name"] == "id" else {"enum": [1]}
    return narrow


def answers(description, client, method, path, mode, examples=15):
    """Statuses of requests that were made from a description, each answer checked against it."""
    operation = schemathesis.openapi.from_dict(description)[path][method]
    statuses = []

    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        response = case.call(base_url=str(client.base_url), headers={"Authorization": f"Bearer {TOKEN}"})
        if (
            response.status_code < 400
            and mode is schemathesis.GenerationMode.NEGATIVE
            and "Authorization" in case.headers
        ):
            response = case.call(base_url=str(client.base_url))  # nothing was wrong but its token
        case.validate_response(response, checks=CHECKS)
        assert response.status_code != 503
        statuses.append(response.status_code)

    check()
    assert client.get("/readyz").status_code == 200
    return statuses


def test_every_operation_is_tried(description):
    found = schemathesis.openapi.from_dict(description).get_all_operations()
    assert {(result.ok().method.upper(), result.ok().path) for result in found} == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_right_requests_are_answered_as_described(description, client, method, path):
    assert answers(description, client, method, path, schemathesis.GenerationMode.POSITIVE)


@pytest.mark.parametrize(("method", "path"), [one for one in OPERATIONS if one not in NOTHING_WRONG])
def test_wrong_requests_are_refused_as_described(description, client, method, path):
    statuses = answers(description, client, method, path, schemathesis.GenerationMode.NEGATIVE)
    # There is no wrong text for an id, to delete what is not there is no error, and many a file is a list of ids.
    if (method, path) not in (("DELETE", "/api/v1/items"), ("POST", "/api/v1/collections/file")):
        assert all(400 <= status < 500 for status in statuses), statuses


@pytest.mark.parametrize(("method", "path"), [OPERATIONS[2], *OPERATIONS[4:6]])
def test_requests_for_what_is_there_find_it(description, client, method, path):
    statuses = answers(narrowed(description), client, method, path, schemathesis.GenerationMode.POSITIVE)
    assert statuses.count(200) > len(statuses) / 2  # vectors may be zero, or cancel out


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_path_takes_what_is_described(description, client, method, path):
    operations = description["paths"][path]
    allowed = client.options(path).headers["allow"].split(", ")
    assert {*allowed} - {"HEAD", "OPTIONS"} == {name.upper() for name in operations}
    parameters = operations[method.lower()].get("parameters", ())
    names = sorted(parameter["name"] for parameter in parameters if parameter["in"] == "query")
    takes = f"the query parameters {', '.join(names)}" if names else "no query parameters"
    refused = client.request(method, path, params={"colour": "red"}).json()["error"]
    assert refused["rule"] == f"{method} {path} takes {takes}"
