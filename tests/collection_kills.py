"""Processes that mark tiles and are killed at random moments, and others that look at what is left."""

import json
import random
import sys
import time

from macl_tf.teaching.collections import Collections
from tests.index_kills import Child, run

__all__ = ["json", "kill_markers", "sys"]


def mark_on(say, served, seed):
    """Marks without end, each announced before and acknowledged after; one call marks many tiles alike."""
    generator, collections = random.Random(seed), Collections(served)
    for number in range(seed * 100_000, (seed + 1) * 100_000):
        how, ids = generator.choice(["right", "wrong", "neither"]), [f"t{n}" for n in range(generator.randint(1, 400))]
        say({"how": how, "count": len(ids), "by": str(number)})
        collections.mark("ships", **{how: ids}, by=str(number))
        say("done")


def look(say, served):
    """What the collection holds: who marked each tile last, and how."""
    found = [one for one in Collections(served).all() if one.name == "ships"]
    say({mark.id: [mark.mark, mark.by] for mark in found[0].said.values()} if found else {})


def kill_markers(served, kills, seed):
    """After each kill every acknowledged call is there whole, and at most the one that was being made besides."""
    generator, held, marks, unfinished = random.Random(seed), {}, 0, 0
    for round_ in range(kills):
        marker = Child(mark_on, served, seed * 1000 + round_)
        marker.wait_for()
        time.sleep(generator.uniform(0, 0.25))
        said = marker.kill()
        calls = [line for line in said if line != "done"]
        states = [held]
        for call in calls:
            mark = "none" if call["how"] == "neither" else call["how"]
            states.append(states[-1] | {f"t{n}": [mark, call["by"]] for n in range(call["count"])})
        (held,) = run(look, served)
        assert held in states[said.count("done") :], (round_, said[-3:])
        marks += said.count("done")
        unfinished += said[-1:] != ["done"]
    print(json.dumps({"marks": marks, "unfinished": unfinished}))
