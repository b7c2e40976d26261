"""Which process is meant by a number: a pid may be given again, a pid with its start time is not."""

from __future__ import annotations

import os
from pathlib import Path


def process_start(pid: int) -> int:
    """The kernel's start time of a process in clock ticks since boot, 0 when there is none (or not Linux)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = text[text.rindex(b")") + 2 :].split()
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether the process that wrote (pid, started) still runs; a reused pid has another start."""
    if pid <= 0:
        return False
    if started:
        return process_start(pid) == started
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
