"""The hot path against a bare app: throughput with everything on, paired and alternating.

    python -m bench.hot_path [--pairs 15] [--seconds 2] [--connections 64]

Three servers on one core: the gateway with a true 90/10 split, tap and monitor on (worker and controller both on that
core); the same with the monitor off; and `bench.bare_app`. `wrk` on the other core asks each in turn. What counts is
the ratio within a pair, and of those the median: this says how much the features cost, on any machine.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench import models
from tests.support.tools import find_tool

MODEL = "small"
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PLAN = """
burn_in_requests = 0
[[step]]
weight_pct = 10
min_requests = 1000000000
max_minutes = 1440
"""


@dataclass
class Sample:
    """One run of the load against one server."""

    requests_per_s: float
    p50_us: int
    p99_us: int
    requests: int
    bad: int


@dataclass
class Result:
    """All pairs of one comparison."""

    connections: int
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def ratios(self, ours: str, other: str) -> list[float]:
        """Throughput ratios, pair by pair."""
        pairs = zip(self.samples[ours], self.samples[other], strict=True)
        return [mine.requests_per_s / theirs.requests_per_s for mine, theirs in pairs]


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pinned(core: int, command: list[str], env: dict[str, str] | None = None, log: Path | None = None) -> Any:
    """Start a process on one core; its children inherit the pin."""
    out = log.open("wb") if log is not None else subprocess.DEVNULL
    return subprocess.Popen(
        ["taskset", "-c", str(core), *command],
        env={**os.environ, **(env or {})},
        stdout=out,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
    )


class Gateway:
    """A real `driftgate serve` with two registered versions and a running 90/10 rollout."""

    def __init__(self, home: Path, folder: Path, core: int, *, monitor: bool) -> None:
        self.home, self.port, self.control = home, free_port(), free_port()
        for version in (1, 2):
            reference = folder / f"reference{version}.csv"
            self._cli(
                "register", MODEL, str(folder / f"m{version}.onnx"), "--reference", str(reference),
                *(["--alias", "champion"] if version == 1 else []),
            )  # fmt: skip
        environ = {"DRIFTGATE_MONITOR__ENABLED": "true" if monitor else "false", "DRIFTGATE_GATEWAY__GRPC": "off"}
        self.process = pinned(
            core,
            [
                sys.executable, "-P", "-m", "driftgate", "serve", "--home", str(home), "--port", str(self.port),
                "--control-port", str(self.control), "--workers", "1",
            ],
            environ,
            home / "bench.log",
        )  # fmt: skip
        wait_for(f"http://127.0.0.1:{self.port}/v2/models/{MODEL}/ready")
        plan = folder / "plan.toml"
        plan.write_text(PLAN)
        self._cli("rollout", "start", MODEL, "2", "--plan", str(plan))
        deadline = time.monotonic() + 20
        while self.rollout()["weight_pct"] != 10.0:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the rollout did not reach 10 %: {self.rollout()}")
            time.sleep(0.2)

    def _cli(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "driftgate", "--home", str(self.home), *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        if done.returncode:
            raise RuntimeError(f"driftgate {' '.join(words)} failed:\n{done.stdout}{done.stderr}")

    def rollout(self) -> dict[str, Any]:
        """The rollout as the control port tells it."""
        answer = httpx.get(f"http://127.0.0.1:{self.control}/api/v1/models/{MODEL}/rollout")
        return dict(answer.raise_for_status().json())

    def answered(self) -> dict[str, float]:
        """200s by role, from /metrics."""
        counts: dict[str, float] = {}
        for line in httpx.get(f"http://127.0.0.1:{self.control}/metrics").text.splitlines():
            if line.startswith("driftgate_requests_total{") and 'code="200"' in line:
                role = line.split('role="')[1].split('"')[0]
                counts[role] = counts.get(role, 0.0) + float(line.rsplit(" ", 1)[1])
        return counts

    def stop(self) -> None:
        """SIGTERM, then wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def wait_for(url: str, seconds: float = 40.0) -> None:
    """Until a GET answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"{url} is not there after {seconds:g} s")


def load(wrk: str, url: str, core: int, connections: int, seconds: int) -> Sample:
    """One run of wrk."""
    done = subprocess.run(
        [
            "taskset", "-c", str(core), wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--latency",
            "-s", str(ROOT / "bench/load.lua"), url,
        ],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"wrk failed: {done.stderr}{done.stdout}")
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return Sample(
        requests_per_s=found["requests"] / (found["duration_us"] / 1e6),
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        requests=found["requests"],
        bad=found["bad"],
    )


def prepare(folder: Path) -> None:
    """Train both models and write their reference rows."""
    for version in (1, 2):
        models.train(folder / f"m{version}.onnx", seed=version)
        header = ",".join(f"f{i}" for i in range(models.FEATURES))
        rows = models.rows(5_000, 100 + version)
        np.savetxt(folder / f"reference{version}.csv", rows, delimiter=",", header=header, comments="", fmt="%.6f")


def summary(result: Result, share: float, band: float, canary: dict[str, float]) -> dict[str, Any]:
    """What is printed and stored."""
    names = list(result.samples)
    return {
        "benchmark": "hot_path",
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit_id(),
        "machine": machine(),
        "connections": result.connections,
        "median_requests_per_s": {n: statistics.median(s.requests_per_s for s in result.samples[n]) for n in names},
        "median_p99_us": {n: statistics.median(s.p99_us for s in result.samples[n]) for n in names},
        "ratio_on_to_bare": result.ratios("on", "bare"),
        "ratio_on_to_off": result.ratios("on", "off"),
        "answered": canary,
        "canary_share": share,
        "canary_share_band": [0.1 - band, 0.1 + band],
        "samples": {name: [asdict(sample) for sample in samples] for name, samples in result.samples.items()},
    }


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    return {"cpus": os.cpu_count(), "cpu": _cpu(), "python": platform.python_version()}


def commit_id() -> str:
    """The commit that is measured, short."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    done = subprocess.run([git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor()


def main(words: list[str]) -> int:
    """Run it, print the table, store the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=int, default=2, help="of one run; short runs are paired more closely")
    parser.add_argument("--connections", type=int, default=64)
    arguments = parser.parse_args(words)
    wrk = find_tool("wrk")
    if wrk is None or shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        print("needs wrk (`make tools`), taskset and two cores", file=sys.stderr)
        return 1
    result = Result(arguments.connections, {"on": [], "off": [], "bare": []})
    with tempfile.TemporaryDirectory(prefix="driftgate-bench-") as name:
        folder = Path(name)
        print("training two 100-tree models and registering them …", flush=True)
        prepare(folder)
        port = free_port()
        bare = pinned(0, [sys.executable, "-m", "bench.bare_app", str(folder / "m1.onnx"), str(port)])
        gateways: dict[str, Gateway] = {}
        try:
            for kind in ("on", "off"):
                gateways[kind] = Gateway(folder / kind, folder, 0, monitor=kind == "on")
            urls = {kind: f"http://127.0.0.1:{g.port}/v2/models/{MODEL}/infer" for kind, g in gateways.items()}
            urls["bare"] = f"http://127.0.0.1:{port}/infer"
            for url in urls.values():
                load(str(wrk), url, 1, arguments.connections, 1)  # warm
            before = gateways["on"].answered()
            for pair in range(arguments.pairs):
                order = list(urls) if pair % 2 == 0 else list(urls)[::-1]
                for kind in order:
                    result.samples[kind].append(load(str(wrk), urls[kind], 1, arguments.connections, arguments.seconds))
                line = "  ".join(f"{kind} {result.samples[kind][-1].requests_per_s:8.0f}/s" for kind in urls)
                print(f"pair {pair + 1:2d}/{arguments.pairs}: {line}", flush=True)
            time.sleep(1.0)
            after = gateways["on"].answered()
        finally:
            for gateway in gateways.values():
                gateway.stop()
            bare.terminate()
            bare.wait(10)
    answered = {role: after[role] - before.get(role, 0.0) for role in after}
    total = answered["champion"] + answered["canary"]
    share, band = answered["canary"] / total, 5 * math.sqrt(0.09 / total)
    document = summary(result, share, band, answered)
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"hot_path-{document['commit']}-{arguments.connections}.json"
    path.write_text(json.dumps(document, indent=1))
    to_bare, to_off = document["ratio_on_to_bare"], document["ratio_on_to_off"]
    print(f"\n{arguments.connections} connections, {arguments.pairs} pairs of {arguments.seconds:g} s, medians")
    for kind in ("on", "off", "bare"):
        rate, p99 = document["median_requests_per_s"][kind], document["median_p99_us"][kind]
        print(f"  {kind:<5}{rate:9.0f} requests/s   p99 {p99 / 1000:.1f} ms")
    print(f"  everything on / bare app   {spread(to_bare)}")
    print(f"  everything on / tap and monitor off   {spread(to_off)}")
    inside = abs(share - 0.1) <= band
    where = "inside" if inside else "OUTSIDE"
    print(f"  answered {answered}: canary share {share:.4f}, {where} its band 0.1 ± {band:.4f}")
    bad = sum(sample.bad for samples in result.samples.values() for sample in samples)
    print(f"  failed requests: {bad}\n  stored in {path.relative_to(ROOT)}")
    return 0 if inside and bad == 0 else 1


def spread(ratios: list[float]) -> str:
    """The median of these ratios, and how far they lie apart."""
    return f"median {statistics.median(ratios):.3f} (from {min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
