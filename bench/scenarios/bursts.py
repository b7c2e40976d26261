"""Bursts: many callers at the same moment, nobody in between, against the same from the bare app.

A burst of 200 one-row requests to the 100-tree model every half second, by open loop. All must be answered; what
counts is how long the last of a burst waits, against a bare app that joins nothing. In turn, ratios within pairs.
"""

from __future__ import annotations

import argparse
import contextlib

from bench import models
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.schedule import bursts
from bench.servers import Gateway, free_port, program, python

SUMMARY = "200 requests at once, every half second: how long the last one waits, against the bare app"
NEEDS: tuple[Need, ...] = ("cores",)
MODEL = "small"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--size", type=int, default=200, help="requests in a burst (%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    result, size, path = Result("bursts"), options.arguments.size, options.folder / "model.onnx"
    pairs, seconds = options.pairs_or(5), options.seconds_or(5, 1.5)
    models.train(path, 1)
    bodies, warm_s = json_rows(500, 3), 0.5
    gateway = Gateway(options.folder / "home")
    gateway.register(MODEL, path)
    with contextlib.ExitStack() as stack:
        port = free_port()
        bare = python("-m", "bench.bare_app", str(path), str(port))
        stack.enter_context(program(bare, f"http://127.0.0.1:{port}/ready"))
        stack.enter_context(gateway).wait_ready(MODEL)

        def ask(port: int, path: str) -> Outcomes:
            times = bursts(size, 0.5, seconds + warm_s)
            outcomes = offer([Stream("burst", port, path, bodies, times, connections=size)]).outcomes()
            return outcomes.between(warm_s, seconds + warm_s)  # the first one opens the connections

        samples = alternate(
            {
                "gateway": lambda: ask(gateway.port, f"/v2/models/{MODEL}/infer"),
                "bare": lambda: ask(port, "/infer"),
            },
            pairs,
            options.say,
            lambda outcomes: f"p99 {outcomes.percentile(99):.1f} ms",
        )
    tails = {kind: [outcomes.percentile(99) for outcomes in runs] for kind, runs in samples.items()}
    for kind, runs in samples.items():
        result.add(f"{kind}, p50", "ms", [outcomes.percentile(50) for outcomes in runs], "lower")
        result.add(f"{kind}, p99", "ms", tails[kind], "lower")
        result.histograms[kind] = runs[-1].histogram()
    result.ratio("p99 gateway / bare", tails["gateway"], tails["bare"], "lower")
    failed = sum(len(outcomes) - len(outcomes.with_status(200)) for outcomes in samples["gateway"])
    result.add("failed requests", "requests", failed, "lower")
    result.add("load's share of its core", "share", [outcomes.cpu_share for outcomes in samples["gateway"]])
    result.bar("no request failed", "failed requests", "==", 0)
    result.bar("the last of a burst waits no longer than at the bare app", "p99 gateway / bare", "<=", 1.0)
    return result
