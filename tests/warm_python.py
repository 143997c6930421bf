"""A process that has loaded TensorFlow, which takes eight seconds, and forks for each script.

Nothing has been computed in it, so a fork may still choose its devices. Requests and answers are lines on its standard
input and output; tests/conftest.py asks.
"""

import json
import os
import sys
import traceback
from types import ModuleType


def main():
    """Answers with the number of the script's process, then with its exit code."""
    import keras  # noqa: F401  what takes the time
    import tensorflow  # noqa: F401

    while line := sys.stdin.readline():
        asked = json.loads(line)
        child = os.fork()
        if not child:
            return script(**asked)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return 0


def script(code, arguments, environment, output, error):
    """What `python -c CODE ARGUMENTS` does."""
    for path, number in ((os.devnull, 0), (output, 1), (error, 2)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["-c", *arguments]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        exec(compile(code, "<string>", "exec"), sys.modules["__main__"].__dict__)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
