"""SIGKILL while a service is written to: what it acknowledged is there when it starts again."""

import json

import pytest

pytestmark = pytest.mark.slow


def test_no_acknowledged_write_is_lost_by_a_kill(run_python, tmp_path):
    script = "from tests.server_kills import *; import sys; kill_servers(sys.argv[1], 7, 1)"
    # Threads of BLAS would not live through a fork.
    counts = json.loads(run_python(script, tmp_path / "served", OPENBLAS_NUM_THREADS="1").stdout)
    assert counts["writes"] >= 20 and counts["unfinished"] >= 2 and counts["held"] >= 3
