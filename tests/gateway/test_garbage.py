from __future__ import annotations

import subprocess
import sys

SETTLED = """
import gc
from gateway.garbage import settle

class Loop:
    def __init__(self): self.me = self

Loop()
settle()
kept = gc.get_freeze_count()
assert kept > 5000, kept
assert not any(type(each) is Loop for each in gc.get_objects()), "what nobody needs is let go of first"
assert gc.get_stats()[2]["uncollectable"] == 0
Loop()
assert gc.collect() >= 1, "what comes later is still collected"
assert gc.get_freeze_count() == kept
"""


def test_a_settled_process_looks_no_more_at_what_it_began_with_and_still_collects_what_comes() -> None:
    done = subprocess.run([sys.executable, "-c", SETTLED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OLD_GARBAGE = """
import gc
from gateway.garbage import settle

began = [[] for _ in range(500_000)]
settle()
seen = gc.get_stats()[2]["collections"]
kept = [[] for _ in range(100_000)]
assert gc.get_stats()[2]["collections"] > seen, gc.get_count()
"""


def test_what_came_later_is_collected_in_its_own_measure_however_much_was_there_before() -> None:
    done = subprocess.run([sys.executable, "-c", OLD_GARBAGE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
