"""Closed loop through wrk: as many connections as named, each asking again as soon as it is answered.

Good for the most that a server can do; waiting shows only as fewer requests, so latencies under a given load are the
business of `bench.open_loop`. The scripts in `wrk_scripts/` print one line of JSON. Called by scenarios.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.servers import LOAD_CORE, on_cores

SCRIPTS = Path(__file__).parent / "wrk_scripts"


@dataclass
class Sample:
    """One run of the load against one server."""

    requests_per_s: float
    p50_us: int
    p99_us: int
    requests: int
    bad: int

    def __str__(self) -> str:
        return f"{self.requests_per_s:8.0f}/s{f' ({self.bad} failed)' if self.bad else ''}"


def load(
    program: str,
    url: str,
    script: str,
    *,
    connections: int,
    seconds: float,
    environ: Mapping[str, str] | None = None,
    cores: Collection[int] = (LOAD_CORE,),
) -> Sample:
    """One run of wrk. Raises RuntimeError when wrk itself fails; failed requests are counted in the sample."""
    length = f"{max(1, round(seconds))}s"  # wrk knows whole seconds
    flags = ["-t1", f"-c{connections}", f"-d{length}", "--latency", "-s", str(SCRIPTS / script)]
    with on_cores(cores):
        done = subprocess.run(
            [program, *flags, url], capture_output=True, text=True, env={**os.environ, **(environ or {})}
        )
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr}{done.stdout}")
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    rate = found["requests"] / (found["duration_us"] / 1e6)
    return Sample(rate, found["p50_us"], found["p99_us"], found["requests"], found["bad"])
