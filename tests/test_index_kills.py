"""SIGKILL at random moments and full disks: what was acknowledged is there, what was not published never shows."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def campaign(run_python, tmp_path):
    """Runs a function of `tests.index_kills` in a process of its own; its checks are in there."""

    def start(name, *arguments):
        script = f"from tests.index_kills import *; {name}(sys.argv[1], *json.loads(sys.argv[2]))"
        # Threads of BLAS would not live through a fork.
        result = run_python(script, tmp_path / "index", json.dumps(arguments), OPENBLAS_NUM_THREADS="1")
        return json.loads(result.stdout)

    return start


def test_no_acknowledged_write_is_lost_by_a_kill(campaign):
    counts = campaign("kill_writers", 14, 1)
    assert counts["writes"] >= 14 and counts["unfinished"] >= 3  # kills did come between begin and acknowledgement


def test_a_killed_build_is_as_if_it_had_never_begun(campaign):
    assert campaign("kill_builds", 14, 2)["cut"] >= 3


def test_nothing_is_lost_when_compaction_is_killed_beside_writes(campaign):
    counts = campaign("kill_compactions", 14, 3)
    assert counts["writes"] >= 14 and counts["compacted"] >= 2


@pytest.mark.parametrize("kind", ["brute_force", "hashing"])
def test_a_full_disk_changes_nothing(campaign, kind):
    assert campaign("fill_the_disk", kind)["made"] >= 1
