"""Soak: ten minutes of everything that happens to a gateway, and nothing may be left over.

By open loop: one-row requests, of which a tenth of the callers hang up at a random moment, malformed bodies, a model
that does not exist, and a second model that is unloaded and loaded again all the while. Meanwhile rollouts start and
are promoted, aborted or rolled back in turn. Wanted: memory at rest within 2 % of what it was after warming up, no
descriptor more, nothing in the log, every request accounted for exactly, every row committed, dropped or sampled. The
memory of answers that wait for labels is made small, so that it is full, and stays so, before the comparison begins.
What else fills by design is not spared, and counts as growth: tiles of ten seconds do for six minutes (.2 MiB of the
controller).
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np

from bench import models
from bench.bodies import json_rows
from bench.open_loop import Stream, offer
from bench.outcomes import Outcomes
from bench.result import Curve, Result
from bench.scenario import Need, Options
from bench.scenarios.hot_path import gateway_of, prepare
from bench.schedule import poisson
from bench.servers import Gateway

SUMMARY = "ten minutes of rollouts, loads and unloads, cancellations and errors: memory, descriptors, accounting"
NEEDS: tuple[Need, ...] = ("cores",)
MODEL, OTHER = "small", "other"
LOOKS, LOOK_EVERY_S = 6, 0.5
JOIN_ROWS = 2000  # the other model, which is asked ten times less, has so many in a little over a minute
PLAN = {
    "burn_in_requests": 0,
    "soak_minutes": 0.02,
    "step": [{"weight_pct": 30, "min_requests": 1_000_000_000, "max_minutes": 1440}],
    "guardrail": [{"name": "errors"}],
}
BROKEN_LOG = ("Traceback", "never retrieved", "was destroyed", "never awaited")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--minutes", type=float, default=10.0, help="(%(default)s)")
    parser.add_argument("--rate", type=float, default=300.0, help="well-formed requests/s (%(default)s)")


def traffic(port: int, rate: float, seconds: float, rng: np.random.Generator) -> list[Stream]:
    """All that callers do."""
    good, url = json_rows(500, 3), "/v2/models/{}/infer"
    times = poisson(rate, seconds, rng)
    leaves = np.where(rng.random(len(times)) < 0.1, rng.uniform(0.0, 0.004, len(times)), np.nan)
    bad = [
        b"",
        b"{",
        b'{"inputs": []}',
        good[0][:-9],
        good[0].replace(b"FP32", b"FP99"),
        good[0].replace(b"30]", b"29]"),
    ]
    return [
        Stream(MODEL, port, url.format(MODEL), good, times, leaves_s=leaves),
        Stream(OTHER, port, url.format(OTHER), good, poisson(rate / 10, seconds, rng)),
        Stream("malformed", port, url.format(MODEL), bad, poisson(rate / 30, seconds, rng)),
        Stream("unknown", port, url.format("nobody"), good, poisson(rate / 30, seconds, rng)),
    ]


class Operator:
    """Does one thing after the other: a rollout and its end, an unload and a load. Counts what was done and refused."""

    def __init__(self, gateway: Gateway, pause_s: float) -> None:
        self._gateway, self._pause_s, self.done, self._turn = gateway, pause_s, Counter[str](), 0

    def step(self) -> None:
        """The next thing; each takes some seconds."""
        self._turn += 1
        self._try("unload", lambda: self._ask(f"{self._gateway.data_url}/v2/repository/models/{OTHER}/unload", {}))
        time.sleep(0.5)
        self._try("load", lambda: self._ask(f"{self._gateway.data_url}/v2/repository/models/{OTHER}/load", {}))
        champion = self._gateway.get(f"models/{MODEL}/aliases")
        now = next(alias["version"] for alias in _items(champion) if alias["alias"] == "champion")
        self._try("start", lambda: self._control("rollout", {"version": 3 - int(now), "plan": PLAN}))
        time.sleep(self._pause_s)
        end = ("rollout/promote", "rollout/abort", "rollback")[self._turn % 3]
        self._try(end, lambda: self._control(end, {}))
        time.sleep(self._pause_s)  # a promoted one soaks for 1.2 s

    def cycle(self) -> None:
        """Step until every kind of end has had its turn, so that two looks find the gateway in like states."""
        self.step()
        while self._turn % 3:
            self.step()

    def _control(self, what: str, body: dict[str, Any]) -> None:
        self._ask(f"{self._gateway.control_url}/api/v1/models/{MODEL}/{what}", body)

    def _ask(self, url: str, body: dict[str, Any]) -> None:
        httpx.post(url, json=body, timeout=60).raise_for_status()

    def _try(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
            self.done[what] += 1
        except httpx.HTTPStatusError as error:
            self.done[f"{what}: {error.response.status_code} {error.response.json().get('code')}"] += 1


def _items(answer: Any) -> list[dict[str, Any]]:
    return list(answer["items"] if isinstance(answer, dict) else answer)


def counted(gateway: Gateway) -> Counter[str]:
    """Requests by code as the gateway booked them, copies for shadows apart."""
    counts: Counter[str] = Counter()
    for labels, value in gateway.metrics().get("driftgate_requests_total", {}).items():
        about = dict(labels)
        if about["role"] != "shadow" and about["model"] in (MODEL, OTHER):
            counts[about["code"]] += int(value)
    return counts


def rows_by(gateway: Gateway) -> Counter[str]:
    """Rows of answers in the lanes, by outcome, copies for shadows apart."""
    counts: Counter[str] = Counter()
    for labels, value in gateway.metrics().get("driftgate_lane_records_total", {}).items():
        about = dict(labels)
        if about["role"] != "shadow":
            counts[about["outcome"]] += int(value)
    return counts


def unaccounted(booked: Counter[str], seen: Counter[str], left: int) -> int:
    """Requests that the callers and the gateway disagree on.

    A caller that left may be booked as anything, or as nothing when it left before it was heard; everyone else exactly
    as what they were told.
    """
    codes = set(booked) | set(seen)
    surplus = sum(max(0, booked[code] - seen[code]) for code in codes)
    missing = sum(max(0, seen[code] - booked[code]) for code in codes)
    return missing + max(0, surplus - left)


def at_rest(gateway: Gateway, patience_s: float = 20.0) -> dict[str, float]:
    """Open descriptors, once nothing is loaded or drained any more: the same in three looks, a second apart."""
    looks: list[dict[str, float]] = []
    deadline = time.monotonic() + patience_s
    while len(looks) < 4 or (looks[-3:] != [looks[-1]] * 3 and time.monotonic() < deadline):
        time.sleep(1.0)
        looks.append(gateway.descriptors())
    return looks[-1]


def resting_memory(gateway: Gateway) -> dict[str, float]:
    """MiB by process, the lowest of some looks: a version that is just leaving has megabytes for a second or two."""
    looks = [gateway.memory_mib()]
    for _ in range(LOOKS - 1):
        time.sleep(LOOK_EVERY_S)
        looks.append(gateway.memory_mib())
    return {kind: min(look[kind] for look in looks) for kind in looks[0]}


def _after_warming(values: list[float]) -> tuple[float, float]:
    """The medians of the second fifth and of the last one."""
    fifth = len(values) // 5
    if not fifth:
        return values[0], values[-1]
    return statistics.median(values[fifth : 2 * fifth]), statistics.median(values[-fifth:])


def _watch(gateway: Gateway, seconds: float, operator: Operator, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Let the operator act for so long; the time and the memory after each of its cycles."""
    started, told = time.monotonic(), 0.0
    seen: dict[str, list[float]] = {"s": [], "worker": [], "controller": []}
    while (now := time.monotonic() - started) < seconds:
        operator.cycle()
        memory = resting_memory(gateway)
        seen["s"].append(now)
        for kind, value in memory.items():
            seen[kind].append(value)
        if now - told >= 30:
            told = now
            say(f"{now:.0f} of {seconds:.0f} s: " + ", ".join(f"{kind} {mib:.1f} MiB" for kind, mib in memory.items()))
    return seen


def run(options: Options) -> Result:
    """Run it."""
    result, arguments, rng = Result("soak"), options.arguments, np.random.default_rng(9)
    seconds = 5.0 if options.quick else arguments.minutes * 60
    options.say("training two 100-tree models and registering them")
    prepare(options.folder)
    models.timed(options.folder / "other.onnx", 0.1)
    gateway = gateway_of(options.folder, "home")
    gateway.set("gateway__repository_control", "true")
    gateway.set("monitor__join_memory_rows", str(JOIN_ROWS))
    gateway.register(OTHER, options.folder / "other.onnx")
    with gateway:
        for name in (MODEL, OTHER):
            gateway.wait_ready(name)
        operator = Operator(gateway, 0.3 if options.quick else 2.0)
        warm = offer(traffic(gateway.port, arguments.rate, 4.0 if options.quick else 20.0, rng))
        operator.cycle()  # opens what is opened once: the lanes of both versions in each of their roles
        first = warm.outcomes()
        descriptors = at_rest(gateway)
        load = offer(traffic(gateway.port, arguments.rate, seconds, rng))
        seen = _watch(gateway, seconds, operator, options.say)
        outcomes = load.outcomes()
        after, booked, lanes = at_rest(gateway), counted(gateway), rows_by(gateway)
        healthy = sum(httpx.get(f"{url}/readyz").status_code == 200 for url in (gateway.data_url, gateway.control_url))
    _judge(result, [first, outcomes], booked, lanes)
    log = gateway.log.read_text(errors="replace")
    for kind in ("worker", "controller"):
        early, late = _after_warming(seen[kind])
        result.add(f"{kind}'s memory, at the end / after warming up", "x", late / early, "lower")
        result.bar(f"memory of the {kind}", f"{kind}'s memory, at the end / after warming up", "<=", 1.02)
        result.add(f"{kind}'s descriptors, at the end - before", "files", after[kind] - descriptors[kind], "lower")
        result.bar(f"descriptors of the {kind}", f"{kind}'s descriptors, at the end - before", "<=", 0)
        result.add(f"{kind}'s memory", "MiB", seen[kind])
        result.curves[f"{kind}'s memory"] = Curve("s", "MiB", seen["s"], seen[kind])
    result.add("broken lines in the log", "lines", sum(log.count(word) for word in BROKEN_LOG), "lower")
    result.bar("no task died", "broken lines in the log", "==", 0)
    result.add("ports ready at the end", "of 2", healthy, "higher")
    result.bar("both ports are ready", "ports ready at the end", "==", 2)
    result.facts["operator"] = dict(operator.done)
    return result


def _judge(result: Result, runs: list[Outcomes], booked: Counter[str], lanes: Counter[str]) -> None:
    """What callers saw, against what the gateway booked and what lies in the lanes."""
    seen: Counter[str] = Counter()
    by_stream: dict[str, Counter[str]] = {}
    left = broken = 0
    for outcomes in runs:
        for stream in outcomes.streams:
            some = outcomes.of(stream)
            by_stream.setdefault(stream, Counter()).update(some.statuses())
            left += len(some.with_status(-2))
            broken += len(some.with_status(-1, 0))
            if stream != "unknown":
                seen.update({str(s): n for s, n in some.statuses().items() if s.isdigit()})
    result.facts["callers saw"] = {stream: dict(counts) for stream, counts in by_stream.items()}
    result.facts["gateway booked"] = dict(booked)
    result.facts["rows in lanes"] = dict(lanes)
    told = sum(seen.values())
    result.add("requests", "requests", told + left)
    result.add("requests not accounted for", "requests", unaccounted(booked, seen, left), "lower")
    result.bar("accounting is exact", "requests not accounted for", "==", 0)
    result.add("broken or unanswered", "requests", broken, "lower")
    result.bar("no connection broke", "broken or unanswered", "==", 0)
    wrong = sum(n for status, n in by_stream[MODEL].items() if status not in ("200", "caller left"))
    result.add("well-formed requests that failed", "requests", wrong, "lower")
    result.bar("no well-formed request failed", "well-formed requests that failed", "==", 0)
    kept = lanes["committed"] + lanes["dropped"] + lanes["sampled"]
    astray = (
        abs(lanes["committed"] - lanes["consumed"]) + max(0, seen["200"] - kept) + max(0, kept - seen["200"] - left)
    )
    result.add("rows not accounted for", "rows", astray, "lower")
    result.bar("every row is committed, dropped or sampled", "rows not accounted for", "==", 0)
