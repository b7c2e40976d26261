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
