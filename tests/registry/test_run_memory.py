"""The arena of bounded runs, in processes of their own: it is one a process, and stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from registry.run_memory import Sweeps, refusal
from tests.support import models

_CHILD = """
import sys
import numpy as np
from pathlib import Path
from registry import onnx, run_memory
from registry.errors import Overloaded, PayloadTooLarge

MB, RESIDENT = 1 << 20, 1

def resident():
    return int(Path("/proc/self/statm").read_bytes().split()[RESIDENT]) * 4096 // MB

path = Path(sys.argv[1])
assert run_memory.most_bytes() == 0
onnx.limit_runs(64 * MB)
onnx.limit_runs(1)  # too late
assert run_memory.most_bytes() == 64 * MB
session = onnx.open_session(path, is_bounded=True)
run = run_memory.within(lambda feeds, options=None: onnx.run(session, feeds, None, options))
of = lambda mb: {"size": np.array([mb * MB // 4], np.int64)}
free = onnx.open_session(path)
assert onnx.run(free, of(65))[0].nbytes == 65 * MB  # without the limit
del free
"""


def child(tmp_path: Path, code: str) -> str:
    path = models.hungry(tmp_path / "m.onnx")
    done = subprocess.run([sys.executable, "-c", _CHILD + code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_run_that_wants_more_than_the_limit_is_refused_and_the_next_one_runs(tmp_path: Path) -> None:
    told = child(
        tmp_path,
        """
for mb in (65, 60, 10**9, 60):
    try:
        print(run(of(mb))[0].nbytes // MB)
    except PayloadTooLarge as error:
        print(error)
""",
    )
    refused = f"this request's run would take more than {64 << 20} bytes of memory, which is the limit"
    assert told.splitlines() == [refused, "60", refused, "60"]


def test_what_runs_took_goes_back_to_the_system(tmp_path: Path) -> None:
    told = child(
        tmp_path,
        """
kept = run(of(1))  # may lie in the midst of what was taken
before = resident()
outputs = run(of(48))
print(resident() - before > 40)
del outputs, kept
sweeps = run_memory.Sweeps()
swept = 0
for _ in range(100):
    if sweeps.is_due():
        run_memory.give_back()
        swept += 1
print(resident() - before < 8, 0 < swept < 10)
""",
    )
    assert told.split() == ["True"] * 3


def test_memory_is_given_back_after_the_last_run_and_seldom_while_there_are_runs() -> None:
    ended = 0
    sweeps = Sweeps(lambda: ended)
    assert not any(sweeps.is_due() for _ in range(50))  # nothing has run
    busy = 0
    for _ in range(1000):
        ended += 1
        busy += sweeps.is_due()
    assert busy == 10
    quiet = [sweeps.is_due() for _ in range(1000)]
    assert (quiet.index(True), sum(quiet)) == (4, 4)
    ended += 1
    assert [sweeps.is_due() for _ in range(5)] == [False] * 4 + [True]


def test_a_run_that_finds_no_room_beside_others_is_told_to_come_again(tmp_path: Path) -> None:
    told = child(
        tmp_path,
        """
def meanwhile(feeds, options=None):
    outputs = run(of(40))
    try:
        run(of(40))
    except Overloaded as error:
        print(error.code, error.retry_after_s)
    return outputs

run_memory.within(meanwhile)({})
run_memory.give_back()
print(run(of(40))[0].nbytes // MB)
""",
    )
    assert told.splitlines() == ["overloaded 1.0", "40"]


def test_other_failures_stay_what_they_are() -> None:
    assert refusal("Failed to allocate memory for requested buffer of size 8", 64, 0) is None
