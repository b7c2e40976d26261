"""Small JSON against a bare app: throughput and latency with everything on, paired and alternating.

Three servers on one core: the gateway with a true 90/10 split, tap and monitor on (worker and controller both on that
core); the same with tap and monitor off; and `bench.bare_app`. wrk on the other core asks each in turn, with 64, 16
and 1 connections. What counts is the ratio within a pair, and of those the median: this says how much the features
cost, on any machine.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from functools import partial
from pathlib import Path

import numpy as np

from bench import models, wrk
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.servers import Gateway, free_port, program, python

SUMMARY = "small JSON, 90/10 split, monitor on: the gateway against a bare app at 64, 16 and 1 connections"
NEEDS: tuple[Need, ...] = ("wrk", "cores")
MODEL = "small"
PLAN = """
burn_in_requests = 0
[[step]]
weight_pct = 10
min_requests = 1000000000
max_minutes = 1440
"""
BARS = {64: 1.0, 16: 0.95, 1: 0.92}  # throughput against the bare app, by connections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--connections", type=int, nargs="+", default=list(BARS), help="(%(default)s)")


def prepare(folder: Path) -> None:
    """Train both models and write their reference rows."""
    for version in (1, 2):
        models.train(folder / f"m{version}.onnx", seed=version)
        header = ",".join(f"f{i}" for i in range(models.FEATURES))
        rows = models.rows(5_000, 100 + version)
        np.savetxt(folder / f"reference{version}.csv", rows, delimiter=",", header=header, comments="", fmt="%.6f")


def gateway_of(folder: Path, name: str, *, monitor: bool = True) -> Gateway:
    """A gateway with both versions registered, not started yet."""
    gateway = Gateway(folder / name, monitor__enabled=str(monitor).lower())
    for version in (1, 2):
        reference = ["--reference", str(folder / f"reference{version}.csv")]
        gateway.register(MODEL, folder / f"m{version}.onnx", *reference, champion=version == 1)
    return gateway


def run(options: Options) -> Result:
    """Run it."""
    result, folder = Result("hot-path"), options.folder
    pairs, seconds = options.pairs_or(15), options.seconds_or(2, 1)
    sizes = options.arguments.connections[:1] if options.quick else options.arguments.connections
    options.say("training two 100-tree models and registering them")
    prepare(folder)
    with contextlib.ExitStack() as stack:
        port = free_port()
        bare = python("-m", "bench.bare_app", str(folder / "m1.onnx"), str(port))
        stack.enter_context(program(bare, f"http://127.0.0.1:{port}/ready"))
        gateways: dict[str, Gateway] = {}
        for kind in ("on", "off"):
            gateways[kind] = stack.enter_context(gateway_of(folder, kind, monitor=kind == "on"))
            gateways[kind].wait_ready(MODEL)
            gateways[kind].start_rollout(MODEL, 2, PLAN, 10.0)
        urls = {kind: gateway.infer_url(MODEL) for kind, gateway in gateways.items()}
        urls["bare"] = f"http://127.0.0.1:{port}/infer"
        bad = 0
        before = gateways["on"].answered(MODEL)
        for connections in sizes:
            many = "1 connection" if connections == 1 else f"{connections} connections"
            ask = {
                kind: partial(wrk.load, options.wrk, url, "rows.lua", connections=connections, seconds=seconds)
                for kind, url in urls.items()
            }
            for run_once in ask.values():
                run_once(seconds=1)  # warm
            options.say(many)
            samples = alternate(ask, pairs, options.say, str)
            bad += sum(sample.bad for some in samples.values() for sample in some)
            for kind, some in samples.items():
                where = f"{kind}, {many}"
                result.add(where, "requests/s", [sample.requests_per_s for sample in some], "higher")
                result.add(f"{where}, p50", "ms", [sample.p50_us / 1e3 for sample in some], "lower")
                result.add(f"{where}, p99", "ms", [sample.p99_us / 1e3 for sample in some], "lower")
            rates = {kind: [sample.requests_per_s for sample in some] for kind, some in samples.items()}
            result.ratio(f"on / bare, {many}", rates["on"], rates["bare"])
            result.ratio(f"on / off, {many}", rates["on"], rates["off"])
            tails = {kind: [sample.p99_us for sample in some] for kind, some in samples.items()}
            result.ratio(f"p99 on / bare, {many}", tails["on"], tails["bare"], "lower")
            if connections in BARS:
                says = f"everything on, {many}, against the bare app"
                result.bar(says, f"on / bare, {many}", ">=", BARS[connections])
            if connections == 64:
                result.bar("p99 at 64 connections against the bare app's", "p99 on / bare, 64 connections", "<=", 1.0)
        time.sleep(1.0)  # the controller reads the pages once a second
        after = gateways["on"].answered(MODEL)
        rollout = gateways["on"].rollout(MODEL)
        if rollout["weight_pct"] != 10.0:
            result.notes.append(f"the rollout did not last: {rollout['state']}, {rollout['reason']}")
    answered = {role: after[role] - before.get(role, 0.0) for role in after}
    total = answered["champion"] + answered["canary"]
    result.facts["answered"] = answered
    result.add("canary's share", "of answers", answered["canary"] / total)
    away = abs(answered["canary"] / total - 0.1) / math.sqrt(0.09 / total)
    result.add("canary's share, distance from 0.1", "standard errors", away)
    result.bar("the split is true", "canary's share, distance from 0.1", "<=", 5.0)
    result.add("failed requests", "requests", bad, "lower")
    result.bar("no request failed", "failed requests", "==", 0)
    return result
