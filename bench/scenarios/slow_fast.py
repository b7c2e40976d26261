"""A slow model beside a fast one, in one worker on one core: does the slow one starve the fast one?

Both by open loop: the fast model (0.1 ms) 200 times a second, the slow one (500 ms) once a second, which is half of the
core. In turn: the fast one alone, then beside the slow one.
"""

from __future__ import annotations

import argparse

import numpy as np

from bench import models
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.schedule import poisson
from bench.servers import Gateway

SUMMARY = "a model that takes 500 ms beside one that takes 0.1 ms: the fast one's p99, alone and beside it"
NEEDS: tuple[Need, ...] = ("cores",)
FAST, SLOW = "fast", "slow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--slow-ms", type=float, default=500.0, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=200.0, help="of the fast model, requests/s (%(default)s)")
    parser.add_argument("--slow-rate", type=float, default=1.0, help="of the slow model, requests/s (%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    result, arguments = Result("slow-fast"), options.arguments
    pairs, seconds = options.pairs_or(5), options.seconds_or(6, 2)
    folder = options.folder
    took = {
        FAST: models.timed(folder / "fast.onnx", 0.1),
        SLOW: models.timed(folder / "slow.onnx", arguments.slow_ms),
    }
    options.say(f"made models that take {took[FAST]:.2f} and {took[SLOW]:.0f} ms")
    bodies, rng = json_rows(200, 3), np.random.default_rng(11)
    gateway = Gateway(folder / "home")
    for name in (FAST, SLOW):
        gateway.register(name, folder / f"{name}.onnx")

    def ask(beside: bool) -> Outcomes:
        times = poisson(arguments.rate, seconds, rng)
        streams = [Stream(FAST, gateway.port, f"/v2/models/{FAST}/infer", bodies, times)]
        if beside:
            slow = np.arange(0.0, seconds, 1.0 / arguments.slow_rate)
            streams.append(Stream(SLOW, gateway.port, f"/v2/models/{SLOW}/infer", bodies, slow))
        return offer(streams).outcomes()

    with gateway:
        for name in (FAST, SLOW):
            gateway.wait_ready(name)
        samples = alternate(
            {"alone": lambda: ask(False), "beside": lambda: ask(True)},
            pairs,
            options.say,
            lambda outcomes: f"p99 {outcomes.of(FAST).percentile(99):.2f} ms",
        )
    tails: dict[str, list[float]] = {}
    for kind, runs in samples.items():
        fast = [outcomes.of(FAST) for outcomes in runs]
        tails[kind] = [outcomes.percentile(99) for outcomes in fast]
        result.add(f"fast {kind}, p50", "ms", [outcomes.percentile(50) for outcomes in fast], "lower")
        result.add(f"fast {kind}, p99", "ms", tails[kind], "lower")
        result.histograms[f"fast {kind}"] = fast[-1].histogram()
    result.ratio("p99 beside / alone", tails["beside"], tails["alone"], "lower")
    slow = [outcomes.of(SLOW) for outcomes in samples["beside"]]
    result.add("slow, p50", "ms", [outcomes.percentile(50) for outcomes in slow], "lower")
    everything = [outcomes for runs in samples.values() for outcomes in runs]
    failed = sum(len(outcomes) - len(outcomes.with_status(200)) for outcomes in everything)
    result.add("failed requests", "requests", failed, "lower")
    result.add("load's lag, p99", "ms", [float(np.percentile(outcomes.lag_ms, 99)) for outcomes in everything])
    result.facts["model_ms"] = took
    result.bar("the fast model's p99 beside the slow one, against alone", "p99 beside / alone", "<=", 2.0)
    result.bar("no request failed", "failed requests", "==", 0)
    return result
