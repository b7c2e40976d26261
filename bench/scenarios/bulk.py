"""Long JSON bodies beside small requests, in one worker on one core: do all wait while one is read?

Both by open loop: one-row requests 200 times a second, and once a second a KServe V1 body of 20,000 rows of 30 numbers
(12 MB), which takes a few hundred milliseconds to read. In turn: the small ones alone, then beside the long ones.
"""

from __future__ import annotations

import argparse

import numpy as np
import orjson

from bench import models
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.schedule import poisson
from bench.servers import Gateway

SUMMARY = "JSON bodies of some megabytes beside small requests: the small ones' p99, alone and beside them"
NEEDS: tuple[Need, ...] = ("cores",)
BAR = 4.0  # taking 12 MB from the socket and handing them on is some milliseconds of the event loop
MODEL, SMALL, LONG = "small", "one row", "many rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--rows", type=int, default=20_000, help="of a long body (%(default)s)")
    parser.add_argument("--rate", type=float, default=200.0, help="of small requests, requests/s (%(default)s)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds from one long body to the next (%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    result, arguments = Result("bulk"), options.arguments
    pairs, seconds = options.pairs_or(5), options.seconds_or(6, 3)
    path, rng = options.folder / "model.onnx", np.random.default_rng(12)
    models.train(path, 1)
    rows = models.rows(arguments.rows, 5).round(6).tolist()
    long, small = orjson.dumps({"instances": rows}), json_rows(200, 3)
    options.say(f"long bodies have {len(long) / 1e6:.1f} MB")
    gateway = Gateway(options.folder / "home")
    gateway.register(MODEL, path)

    def ask(beside: bool) -> Outcomes:
        times = poisson(arguments.rate, seconds, rng)
        streams = [Stream(SMALL, gateway.port, f"/v2/models/{MODEL}/infer", small, times)]
        if beside:
            whens = np.arange(0.0, seconds, arguments.every)
            streams.append(Stream(LONG, gateway.port, f"/v1/models/{MODEL}:predict", [long], whens))
        return offer(streams).outcomes()

    with gateway:
        gateway.wait_ready(MODEL)
        ask(True)  # warm
        samples = alternate(
            {"alone": lambda: ask(False), "beside": lambda: ask(True)},
            pairs,
            options.say,
            lambda outcomes: f"p99 {outcomes.of(SMALL).percentile(99):.2f} ms",
        )
    tails: dict[str, list[float]] = {}
    for kind, runs in samples.items():
        some = [outcomes.of(SMALL) for outcomes in runs]
        tails[kind] = [outcomes.percentile(99) for outcomes in some]
        result.add(f"small {kind}, p50", "ms", [outcomes.percentile(50) for outcomes in some], "lower")
        result.add(f"small {kind}, p99", "ms", tails[kind], "lower")
        result.histograms[f"small {kind}"] = some[-1].histogram()
    result.ratio("p99 beside / alone", tails["beside"], tails["alone"], "lower")
    long_ones = [outcomes.of(LONG) for outcomes in samples["beside"]]
    result.add("long, p50", "ms", [outcomes.percentile(50) for outcomes in long_ones], "lower")
    everything = [outcomes for runs in samples.values() for outcomes in runs]
    failed = sum(len(outcomes) - len(outcomes.with_status(200)) for outcomes in everything)
    result.add("failed requests", "requests", failed, "lower")
    result.facts["long_body_bytes"] = len(long)
    result.bar("the small ones' p99 beside long bodies, against alone", "p99 beside / alone", "<=", BAR)
    result.bar("no request failed", "failed requests", "==", 0)
    return result
