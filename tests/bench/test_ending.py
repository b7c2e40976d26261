"""A bench that is told to stop leaves nothing running."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


def is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "driftgate worker" in " ".join(process.cmdline())
    return False


@pytest.mark.slow
def test_sigterm_ends_the_servers_that_the_bench_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", "slow-fast", "--seconds", "60", "--results", str(tmp_path)]
    bench = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 90
        while not any(map(is_worker, started)):
            assert bench.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
            started = psutil.Process(bench.pid).children(recursive=True)
        bench.terminate()
        assert bench.wait(60) == 143
        _, alive = psutil.wait_procs(started, timeout=20)
        assert alive == []
        assert list(tmp_path.iterdir()) == []  # what was cut off is no result
    finally:
        bench.kill()
        bench.wait(10)
        for process in started:
            with contextlib.suppress(psutil.Error):
                process.kill()
