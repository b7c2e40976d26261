"""Overload: callers ask twice as often as the gateway can answer, each with a deadline of 100 ms, and do not slow down.

A round: the capacity, by closed loop; then by open loop half of it (what is normal), twice it, and half of it again;
and the capacity once more, for machines change within a minute: the peak is the mean of the two. Waiting counts from
the intended send. Wanted: nearly as many answers in time as at the best of times, the rest refused at once with
Retry-After, memory flat, and all as before within two seconds. The model takes 2 ms a row and gains nothing from
joining; `--row-ms` takes another, and `--small` the 100-tree model, whose requests cost more to read than to run, so
that refusing is no cheaper than answering.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np

from bench import models, wrk
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.result import Better, Curve, Result
from bench.scenario import Need, Options
from bench.schedule import phases
from bench.servers import Gateway

SUMMARY = "twice as many requests as can be answered, deadline 100 ms: goodput, p99, refusals, memory, recovery"
NEEDS: tuple[Need, ...] = ("wrk", "cores")
MODEL, DEADLINE_MS = "busy", 100.0
RECOVERY_SLICE_S = 0.25
REST_S = 1.0  # after the last request: by then a worker has given back what the crowd left free


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--row-ms", type=float, default=2.0, help="what the model takes for a row (%(default)s)")
    parser.add_argument("--small", action="store_true", help="the 100-tree model instead")
    parser.add_argument("--factor", type=float, default=2.0, help="offered load by capacity (%(default)s)")


def recovery_s(after: Outcomes, start_s: float, end_s: float, normal_p99_ms: float) -> float:
    """How long after start_s until every later quarter of a second is as before: all answered, p99 at most doubled.

    Infinite-like (the whole span) when it never is.
    """
    recovered = 0.0
    for begin in np.arange(start_s, end_s - RECOVERY_SLICE_S / 2, RECOVERY_SLICE_S):
        some = after.between(float(begin), float(begin) + RECOVERY_SLICE_S)
        well = len(some.with_status(200)) == len(some) and some.percentile(99) <= 2 * normal_p99_ms + 5
        if not well:
            recovered = float(begin) + RECOVERY_SLICE_S - start_s
    return recovered


def run(options: Options) -> Result:
    """Run it."""
    result, arguments = Result("overload"), options.arguments
    rounds, seconds = options.pairs_or(5), options.seconds_or(8, 1)
    path = options.folder / "model.onnx"
    if arguments.small:
        models.train(path, 1)
    else:
        options.say(f"made a model that takes {models.timed(path, arguments.row_ms):.2f} ms a row")
    bodies, headers = json_rows(500, 3), {"x-deadline-ms": f"{DEADLINE_MS:g}"}
    values: dict[str, list[float]] = {}
    gateway = Gateway(options.folder / "home")
    gateway.register(MODEL, path)
    with gateway:
        gateway.wait_ready(MODEL)
        ask = partial(wrk.load, options.wrk, gateway.infer_url(MODEL), "rows.lua", connections=64)
        ask(seconds=1)  # warm
        for number in range(rounds):
            capacity = ask(seconds=1 if options.quick else 3)
            peak = capacity.requests_per_s
            rates = [(peak / 2, seconds / 2), (peak * arguments.factor, seconds), (peak / 2, max(4.0, seconds / 2))]
            times, spans = phases(rates, np.random.default_rng(number))
            stream = Stream("all", gateway.port, f"/v2/models/{MODEL}/infer", bodies, times, headers, connections=4096)
            load = offer([stream])
            outcomes = load.outcomes()
            time.sleep(REST_S)
            memory = gateway.own_memory_mib()
            peak = (peak + ask(seconds=1 if options.quick else 3).requests_per_s) / 2
            normal, over, after = (outcomes.between(*span) for span in spans)
            (_, (start, end), (_, last)) = spans
            good = over.answered_per_s(start + 0.25, end, DEADLINE_MS)
            refused = over.with_status(429, 503)
            figures = {
                "peak": peak,
                "goodput at overload": good,
                "goodput / peak": good / peak,
                "normal p99": normal.percentile(99),
                "p99 of accepted": over.with_status(200).percentile(99),
                "refused": len(refused) / len(over),
                "refusals without Retry-After": float(np.count_nonzero(~refused.rows["retry_after"])),
                "p99 of refusals": refused.percentile(99),
                "deadline passed (504)": len(over.with_status(504)) / len(over),
                "broken or unanswered": float(np.count_nonzero(outcomes.rows["status"] <= 0)),
                "recovery": recovery_s(after, end, last, normal.percentile(99)),
                "worker's own memory": memory,
                "load's share of its core": outcomes.cpu_share,
                "load's lag, p99": float(np.percentile(outcomes.lag_ms, 99)),
            }
            for name, value in figures.items():
                values.setdefault(name, []).append(value)
            told = f"peak {peak:.0f}/s, goodput {good:.0f}/s, p99 {figures['p99 of accepted']:.0f} ms"
            options.say(f"round {number + 1}/{rounds}: {told}, recovery {figures['recovery']:.2f} s, {over.statuses()}")
            result.facts[f"statuses {number + 1}"] = over.statuses()
            if number == rounds - 1:
                x, y = outcomes.per_slice(0.25, last, DEADLINE_MS)
                result.curves["goodput through overload"] = Curve("s", "answers in time per s", x, y)
                result.histograms["accepted at overload"] = over.with_status(200).histogram()
                result.histograms["normal"] = normal.histogram()
    _keep(result, values)
    return result


def _keep(result: Result, values: dict[str, list[float]]) -> None:
    units = {"peak": "requests/s", "goodput at overload": "requests/s", "goodput / peak": "x", "recovery": "s"}
    shares = {"refused", "deadline passed (504)", "load's share of its core"}
    counts = {"refusals without Retry-After", "broken or unanswered"}
    for name, several in values.items():
        unit = units.get(name) or ("share" if name in shares else "requests" if name in counts else "ms")
        several = [sum(several)] if name in counts else several  # one in any round is one too many
        better: Better = "higher" if name.startswith(("peak", "goodput")) else "" if name in shares else "lower"
        result.add(name, "MiB" if "memory" in name else unit, several, better)
    memory = values["worker's own memory"]
    result.add("memory, last round / first", "x", memory[-1] / memory[0], "lower")
    result.bar("goodput at overload against the peak", "goodput / peak", ">=", 0.9)
    result.bar("p99 of accepted answers, ms", "p99 of accepted", "<=", DEADLINE_MS)
    result.bar("every refusal carries Retry-After", "refusals without Retry-After", "==", 0)
    result.bar("memory is flat", "memory, last round / first", "<=", 1.02)
    result.bar("seconds until all is as before", "recovery", "<=", 2.0)
    result.bar("no connection broke, no request went unanswered", "broken or unanswered", "==", 0)
