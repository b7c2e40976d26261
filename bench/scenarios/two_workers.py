"""Two workers on two cores against one worker, with a model of 5 ms and one thread in a run.

Both gateways may use both cores, and the load too, which needs little of them: some hundred requests a second through
wrk. In turn, ratios within pairs.
"""

from __future__ import annotations

import argparse
import contextlib
from functools import partial

from bench import models, wrk
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.servers import LOAD_CORE, SERVER_CORE, Gateway

SUMMARY = "two workers on two cores against one, with a model of 5 ms"
NEEDS: tuple[Need, ...] = ("wrk", "cores")
MODEL, BOTH, BAR = "steady", (SERVER_CORE, LOAD_CORE), 1.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--row-ms", type=float, default=5.0, help="(%(default)s)")
    parser.add_argument("--connections", type=int, default=16, help="(%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    result, arguments, path = Result("two-workers"), options.arguments, options.folder / "model.onnx"
    pairs, seconds = options.pairs_or(7), options.seconds_or(4, 1)
    took = models.timed(path, arguments.row_ms)
    options.say(f"made a model that takes {took:.2f} ms a row")
    with contextlib.ExitStack() as stack:
        ask = {}
        for workers in (1, 2):
            gateway = Gateway(options.folder / f"workers{workers}", cores=BOTH, workers=workers)
            gateway.register(MODEL, path)
            stack.enter_context(gateway).wait_ready(MODEL)
            ask[f"{workers} worker{'s' if workers > 1 else ''}"] = partial(
                wrk.load,
                options.wrk,
                gateway.infer_url(MODEL),
                "rows.lua",
                connections=arguments.connections,
                seconds=seconds,
                cores=BOTH,
            )
        for run_once in ask.values():
            run_once(seconds=1)  # warm
        samples = alternate(ask, pairs, options.say, str)
    for kind, some in samples.items():
        result.add(kind, "requests/s", [sample.requests_per_s for sample in some], "higher")
        result.add(f"{kind}, p99", "ms", [sample.p99_us / 1e3 for sample in some], "lower")
    rates = {kind: [sample.requests_per_s for sample in some] for kind, some in samples.items()}
    result.ratio("2 workers / 1", rates["2 workers"], rates["1 worker"])
    result.add("failed requests", "requests", sum(s.bad for some in samples.values() for s in some), "lower")
    result.facts["model_ms"] = took
    result.bar("two workers against one", "2 workers / 1", ">=", BAR)
    result.bar("no request failed", "failed requests", "==", 0)
    return result
