"""What a batch frees stays with the server."""

import os
import subprocess
import sys

import pytest

_FAULTS = """
import resource, sys
if sys.argv[1] == "kept":
    from macl_tf.server.memory import keep_freed
    keep_freed()
def batch():
    return [b"x" * (2 << 20) for _ in range(20)]
batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(which, **environment):
    """Pages that five batches of 40 MiB ask the system for, after a first one."""
    words = [sys.executable, "-c", _FAULTS, which]
    return int(subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_memory_of_a_batch_is_there_for_the_next():
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    pages = 5 * (40 << 20) // 4096
    assert faults("kept", **mine) < pages / 10
    # Who sets it himself has what he set: nothing is kept.
    assert faults("kept", **mine, MALLOC_TRIM_THRESHOLD_="131072") > pages / 2
