"""`teach` in a process of its own, for a server: what it does is told line by line, as JSON.

    python -m macl_tf.teaching.job '{"served": "served", "loss": "macl", "publish": "better"}'

{"stage": "training", "share": 0.4} as it goes on, and at the end {"done": {...}} or {"failed": "why"}.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

_BESIDE = 10  # added to the process's niceness: whoever searches comes first


def main(words: list[str]) -> int:
    """Teaches as the only argument says."""
    os.nice(_BESIDE)
    asked = json.loads(words[0])
    try:
        from macl_tf.teaching.teach import teach

        done = teach(on_progress=lambda stage, share: say(stage=stage, share=round(share, 3)), **asked)
    except (ValueError, OSError, ImportError) as error:
        say(failed=str(error))
        return 2
    say(done=done.summary())
    return 0


def say(**facts: Any) -> None:
    """Prints a line at once."""
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
