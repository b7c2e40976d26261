"""What watching costs: the whole monitor at a steady rate of rows, fed through a real lane, without a gateway.

Another process writes the rows (`bench/lane_feed.py`); this one steps the monitor as the controller does: drain, count,
detect, audit itself, look at windows, store in a real database. What counts is processor time over the whole run as a
share of one core, the longest single step, memory, and that the lane dropped nothing.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench import machine
from bench.result import Result
from bench.scenario import Options

if TYPE_CHECKING:
    from gateway.control.monitoring import Monitoring
    from registry.clock import Clock

SUMMARY = "the drift monitor's share of a core at 20,000 rows/s x 30 features and 5,000 x 1,000"
SHAPES = ((20_000, 30, 5.0), (5_000, 1_000, 60.0))  # rows a second, features, bar in % of a core
STEP_BAR_MS = 50.0
WARM_UP_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--rate", type=int, help="rows a second, of one shape instead of both")
    parser.add_argument("--features", type=int, default=30, help="of that shape (%(default)s)")
    parser.add_argument("--lane-bytes", type=int, help="of the lane's file; the setting's default without it")


@dataclass
class Steps:
    """What single steps took."""

    walls_s: list[float] = field(default_factory=list)
    cpus_s: list[float] = field(default_factory=list)


def run(options: Options) -> Result:
    """Run it."""
    result, arguments = Result("monitor"), options.arguments
    shapes = SHAPES if arguments.rate is None else ((arguments.rate, arguments.features, 100.0),)
    shapes = shapes[:1] if options.quick else shapes
    warm_up_s = min(WARM_UP_S, options.seconds_or(60.0))
    for rate, features, bar in shapes:
        folder = options.folder / f"{rate}x{features}"
        folder.mkdir()
        # A process for each shape, so that memory is its own.
        one = [sys.executable, "-m", "bench.scenarios.monitor", str(folder), str(rate), str(features)]
        more = [str(warm_up_s), str(options.seconds_or(60.0)), str(arguments.lane_bytes or 0)]
        subprocess.run([*one, *more], cwd=machine.ROOT, check=True)
        values = dict(line.split("=") for line in (folder / "measured").read_text().split())
        name = f"{rate:,} rows/s x {features:,}"
        options.say(f"{name}: {values['cpu']} % of a core")
        result.add(f"{name}, core", "%", float(values["cpu"]), "lower")
        result.add(f"{name}, longest step", "ms", float(values["longest"]), "lower")
        result.add(f"{name}, longest step, processor", "ms", float(values["longest_cpu"]), "lower")
        result.add(f"{name}, median step", "ms", float(values["median"]), "lower")
        result.add(f"{name}, memory", "MiB", float(values["memory"]), "lower")
        result.add(f"{name}, memory before the first row", "MiB", float(values["before"]))
        result.add(f"{name}, rows counted", "rows/s", float(values["rows"]), "higher")
        result.add(f"{name}, rows dropped", "rows", float(values["dropped"]), "lower")
        result.bar(f"share of a core at {name}", f"{name}, core", "<=", bar)
        result.bar(f"no step is longer at {name}", f"{name}, longest step", "<=", STEP_BAR_MS)
        result.bar(f"nothing was dropped at {name}", f"{name}, rows dropped", "==", 0)
    return result


def measure(folder: Path, rate: int, features: int, warm_up_s: float, seconds: float, lane_bytes: int) -> str:
    """Feed and step for so long → the figures, as lines of name=value."""
    feeder = [sys.executable, "-m", "bench.lane_feed"]
    subprocess.run([*feeder, "prepare", str(folder), str(features)], cwd=machine.ROOT, check=True)
    from bench.lane_feed import MODEL, home_of
    from gateway.control.monitoring import Monitoring
    from gateway.garbage import settle
    from gateway.settings import Settings
    from monitor.pauses import take_pauses
    from registry.artifacts import ArtifactStore
    from registry.catalog import Catalog
    from registry.clock import SystemClock

    take_pauses()  # as the controller's thread does
    settings, clock, home = Settings(), SystemClock(), home_of(folder)
    catalog = Catalog.open(home.database_url, clock)
    monitoring = Monitoring(home, settings.monitor, catalog, ArtifactStore(home.artifacts), clock)
    monitoring.follow({(MODEL, 1): catalog.profiles(MODEL, 1)[-1].sha256})
    settle()
    before = peak_mib()
    lane_bytes = lane_bytes or settings.lanes.lane_bytes
    feeding = subprocess.Popen(
        [*feeder, "feed", str(folder), str(features), str(rate), str(lane_bytes)], cwd=machine.ROOT
    )
    steps, pause_s = Steps(), settings.monitor.tick_ms / 1000.0
    try:
        for _ in range(200):  # until the first rows come
            step_for(monitoring, clock, 0.05, 0.05, Steps())
            if monitoring.records:
                break
        step_for(monitoring, clock, warm_up_s, pause_s, Steps())
        counted, spent_s, began = monitoring.records, time.process_time(), time.monotonic()
        dropped = sum(lane.dropped for lane in monitoring.lanes().values())
        step_for(monitoring, clock, seconds, pause_s, steps)
        elapsed_s = time.monotonic() - began
        spent_s = time.process_time() - spent_s
        dropped = sum(lane.dropped for lane in monitoring.lanes().values()) - dropped
        rows = monitoring.records - counted
    finally:
        feeding.kill()
        feeding.wait()
        monitoring.close()
        catalog.close()
    ordered = sorted(steps.walls_s)
    return "\n".join(
        (
            f"cpu={100 * spent_s / elapsed_s:.2f}",
            f"longest={ordered[-1] * 1000:.1f}",
            f"longest_cpu={max(steps.cpus_s) * 1000:.1f}",
            f"median={ordered[len(ordered) // 2] * 1000:.2f}",
            f"memory={peak_mib()}",
            f"before={before}",
            f"rows={rows / elapsed_s:.0f}",
            f"dropped={dropped}",
        )
    )


def step_for(monitoring: Monitoring, clock: Clock, seconds: float, pause_s: float, steps: Steps) -> None:
    """Step as the controller's loop does, noting what each step took."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        monitoring.step(clock.now_s())
        steps.walls_s.append(time.perf_counter() - wall_s)
        steps.cpus_s.append(time.thread_time() - cpu_s)
        time.sleep(min(pause_s, monitoring.pause_s))


def peak_mib() -> float:
    """This process's largest resident set so far."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    place, rate_, features_, warm_up_s_, seconds_, lane_bytes_ = sys.argv[1:]
    found = measure(Path(place), int(rate_), int(features_), float(warm_up_s_), float(seconds_), int(lane_bytes_))
    (Path(place) / "measured").write_text(found)
