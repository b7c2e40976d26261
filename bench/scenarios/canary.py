"""What a rollout costs: a 90/10 canary with shadow copies of the champion's requests, against the champion alone.

Two gateways with the same two versions, on one core: in one a rollout runs (the canary answers a tenth and gets shadow
copies of what the champion answers), in the other none. In turn: the most requests a second by closed loop at 64
connections, then latency by open loop at a fixed 2,000 requests/s.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from functools import partial

import numpy as np

from bench import wrk
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.pairs import alternate
from bench.result import Result
from bench.scenario import Need, Options
from bench.scenarios.hot_path import MODEL, PLAN, gateway_of, prepare
from bench.schedule import poisson

SUMMARY = "a 90/10 canary with shadow copies against the champion alone: throughput, latency, copies made and dropped"
NEEDS: tuple[Need, ...] = ("wrk", "cores")
BAR = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--rate", type=float, default=2000.0, help="of the open loop, requests/s (%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    result, folder, rng = Result("canary"), options.folder, np.random.default_rng(3)
    pairs, seconds = options.pairs_or(5), options.seconds_or(3, 1)
    options.say("training two 100-tree models and registering them")
    prepare(folder)
    bodies = json_rows(1000, 3)
    with contextlib.ExitStack() as stack:
        gateways = {kind: stack.enter_context(gateway_of(folder, kind)) for kind in ("rollout", "champion")}
        for gateway in gateways.values():
            gateway.wait_ready(MODEL)
        gateways["rollout"].start_rollout(MODEL, 2, PLAN, 10.0)

        def paced(port: int) -> Outcomes:
            times = poisson(options.arguments.rate, seconds, rng)
            return offer([Stream("all", port, f"/v2/models/{MODEL}/infer", bodies, times)]).outcomes()

        full = {
            kind: partial(wrk.load, options.wrk, gateway.infer_url(MODEL), "rows.lua", connections=64, seconds=seconds)
            for kind, gateway in gateways.items()
        }
        for run_once in full.values():
            run_once(seconds=1)  # warm
        closed = alternate(full, pairs, options.say, str)
        paced_by = {kind: partial(paced, gateway.port) for kind, gateway in gateways.items()}
        opened = alternate(paced_by, pairs, options.say, lambda outcomes: f"p99 {outcomes.percentile(99):.2f} ms")
        time.sleep(1.0)  # the controller reads the pages once a second
        answered = gateways["rollout"].answered(MODEL)
        copies = float(gateways["rollout"].rollout(MODEL)["requests"]["shadow"])
        dropped = sum(gateways["rollout"].metrics().get("driftgate_shadow_dropped_total", {}).values())
    for kind in gateways:
        result.add(kind, "requests/s", [sample.requests_per_s for sample in closed[kind]], "higher")
        result.add(f"{kind}, p99 at full load", "ms", [sample.p99_us / 1e3 for sample in closed[kind]], "lower")
        result.add(f"{kind}, p50 at a fixed rate", "ms", [o.percentile(50) for o in opened[kind]], "lower")
        result.add(f"{kind}, p99 at a fixed rate", "ms", [o.percentile(99) for o in opened[kind]], "lower")
        result.histograms[f"{kind} at a fixed rate"] = opened[kind][-1].histogram()
    rates = {kind: [sample.requests_per_s for sample in some] for kind, some in closed.items()}
    result.ratio("rollout / champion alone", rates["rollout"], rates["champion"])
    result.add("shadow copies run", "share of the champion's requests", copies / answered["champion"])
    result.facts["answered"] = {**answered, "shadow copies run": copies, "shadow copies dropped": dropped}
    failed = sum(sample.bad for some in closed.values() for sample in some)
    failed += sum(len(o) - len(o.with_status(200)) for some in opened.values() for o in some)
    result.add("failed requests", "requests", failed, "lower")
    result.bar("throughput during a rollout, against none", "rollout / champion alone", ">=", BAR)
    result.bar("no request failed", "failed requests", "==", 0)
    return result
