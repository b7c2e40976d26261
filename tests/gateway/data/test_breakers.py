"""A version whose runs fail one after the other is not tried for a while, unless it is its callers' fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.settings import BreakerSettings, GatewaySettings, Settings
from registry.errors import InferenceFailed
from registry.options import ServingOptions
from tests.support import models
from tests.support.clock import ManualClock
from tests.support.serving import Answer, Bench, aspire, with_worker

GOOD, BAD = [[1.0, 2.0, 3.0]], [[1.0, 2.0, 99.0]]
BREAKER = BreakerSettings(failures=5, within_s=10.0, cool_down_s=4.0)
SETTINGS = Settings(gateway=GatewaySettings(breaker=BREAKER))
CONSTANT = ServingOptions(fallback=("constant",), fallback_constant=(("y", (-1.0, -1.0, -1.0)),))


def route(tmp_path: Path, options: ServingOptions | None = None) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(models.looked_up(tmp_path / "a.onnx"), options=options)})


def rollout(tmp_path: Path, weight: float) -> RouteEntry:
    entry = route(tmp_path)
    aspired = {**entry.aspired, 2: aspire(models.looked_up(tmp_path / "b.onnx"))}
    return replace(entry, aspired=aspired, candidate=2, weight=weight, salt="5a" * 16, rollout_id="r1")


def breaks(bench: Bench, version: int = 1) -> Callable[[], None]:
    """From now on every run of the version fails, as when its device is lost; the result mends it."""
    servable: Any = bench.worker.fleet._loaded["m"][version].servable
    whole = servable._run

    def lost(*_: Any) -> Any:
        raise InferenceFailed("the device is lost")

    def mend() -> None:
        servable._run = whole

    servable._run = lost
    return mend


async def checked(bench: Bench) -> None:
    """Until no version's own rows are being run."""
    for _ in range(200):
        if not bench.worker.breakers._checked:
            return
        await asyncio.sleep(0.005)
    raise AssertionError("a check does not end")


async def fails(bench: Bench, times: int, rows: Any = GOOD) -> None:
    for _ in range(times):
        answer = await bench.infer("m", rows)
        assert (answer.status, answer.json["code"]) == (500, "inference_failed")
    await checked(bench)


def told(answer: Answer) -> tuple[int, str, str | None]:
    return answer.status, answer.json.get("code", ""), answer.headers.get("retry-after")


def run(tmp_path: Path, body: Callable[[Bench, ManualClock], Any], settings: Settings = SETTINGS) -> None:
    clock = ManualClock()
    with_worker(tmp_path / "run", lambda bench: body(bench, clock), settings, clock)


def test_a_broken_version_is_refused_at_once_with_an_honest_time_then_tried_once_and_closes_on_success(
    tmp_path: Path,
) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        mend = breaks(bench)
        await fails(bench, BREAKER.failures)
        assert told(await bench.infer("m", GOOD)) == (503, "breaker_open", "4")
        clock.advance(2.5)
        assert told(await bench.infer("m", GOOD)) == (503, "breaker_open", "2")
        clock.advance(1.5)
        await fails(bench, 1)  # the trial
        assert told(await bench.infer("m", GOOD)) == (503, "breaker_open", "4")
        mend()
        clock.advance(4.0)
        assert [(await bench.infer("m", GOOD)).status for _ in range(3)] == [200] * 3
        assert bench.worker.fleet._loaded["m"][1].breaker is None
        (page,) = read_pages(tmp_path / "run")
        assert page.shed == {("m", "breaker"): 3}
        seen = page.totals["m", 1, "champion"]
        assert (seen.failed, seen.breaker_opened, seen.codes["v2", "500"]) == (6, 1, 6)
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    run(tmp_path, body)


def test_failures_that_are_the_callers_never_open_it(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        loaded, checks = bench.worker.fleet._loaded["m"][1], 0
        still_answers = loaded.still_answers

        def counted() -> bool:
            nonlocal checks
            checks += 1
            return still_answers()

        loaded.still_answers = counted
        for _ in range(4):
            await fails(bench, BREAKER.failures, BAD)  # it answers the example that it was warmed up with
        assert checks == 1  # a caller who goes on does not make us check it each time
        clock.advance(BREAKER.cool_down_s)
        await fails(bench, BREAKER.failures, BAD)
        assert checks == 2
        assert (await bench.infer("m", GOOD)).status == 200
        assert read_pages(tmp_path / "run")[0].totals["m", 1, "champion"].breaker_opened == 0

    run(tmp_path, body)


def test_refused_and_malformed_requests_count_for_nothing_and_are_no_trial(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        for _ in range(2 * BREAKER.failures):
            assert (await bench.ask("/v2/models/m/infer", {"inputs": []})).status == 400
        assert bench.worker.fleet._loaded["m"][1].breaker is None
        mend = breaks(bench)
        await fails(bench, BREAKER.failures)
        mend()
        clock.advance(4.0)
        assert (await bench.ask("/v2/models/m/infer", {"inputs": []})).status == 400
        assert (await bench.infer("m", GOOD)).status == 200

    run(tmp_path, body)


def test_a_success_between_failures_or_a_long_time_keeps_it_closed(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        for _ in range(3):
            mend = breaks(bench)
            await fails(bench, BREAKER.failures - 1)
            mend()
            assert (await bench.infer("m", GOOD)).status == 200
        breaks(bench)
        for _ in range(2 * BREAKER.failures):
            await fails(bench, 1)
            clock.advance(3.0)
        assert (await bench.infer("m", GOOD)).status == 500

    run(tmp_path, body)


def test_only_one_request_is_the_trial(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        breaks(bench)
        await fails(bench, BREAKER.failures)
        clock.advance(4.0)
        answers = await asyncio.gather(*(bench.infer("m", GOOD) for _ in range(10)))
        assert sorted(answer.status for answer in answers) == [500] + [503] * 9

    run(tmp_path, body)


def test_while_it_is_open_the_constant_answers_and_the_model_is_ready(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path, CONSTANT))
        breaks(bench)
        for _ in range(BREAKER.failures):
            assert (await bench.infer("m", GOOD)).headers["x-driftgate-fallback"] == "constant"
        await checked(bench)
        answer = await bench.infer("m", GOOD)
        assert (answer.status, answer.headers["x-driftgate-fallback"]) == (200, "constant")
        totals = read_pages(tmp_path / "run")[0].totals
        assert totals["m", 1, "champion"].failed == BREAKER.failures  # the last was not tried
        assert totals["m", 1, "fallback"].constants == BREAKER.failures + 1
        assert (await bench.ask("/v2/models/m/ready", method="GET")).status == 200
        assert (await bench.ask("/v2/models/m/infer", {"inputs": []})).json["code"] == "breaker_open"

    run(tmp_path, body)


def test_readiness_says_what_a_request_would_meet(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        breaks(bench)
        await fails(bench, BREAKER.failures)

        async def statuses() -> list[int]:
            paths = ("/v2/models/m/ready", "/v2/models/m/versions/1/ready", "/v1/models/m", "/ping", "/readyz")
            return [(await bench.ask(path, method="GET")).status for path in paths]

        assert await statuses() == [503, 503, 503, 503, 200]  # one broken model never makes the host unready
        bench.worker.beat.step()
        assert read_pages(tmp_path / "run")[0].open_breakers == 1
        clock.advance(4.0)
        assert await statuses() == [200] * 5  # the next request is let through

    run(tmp_path, body)


def test_a_canary_is_always_tried_for_its_failures_are_evidence(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", rollout(tmp_path, 1.0))
        breaks(bench, 2)
        for _ in range(2 * BREAKER.failures):
            answer = await bench.infer("m", GOOD)
            assert (answer.status, answer.headers["x-driftgate-role"]) == (200, "fallback")
            await checked(bench)
        (segment,) = [s for s in read_pages(tmp_path / "run")[0].segments if s.role == "canary"]
        assert (segment.requests, segment.errors) == (10, 10)
        named = await bench.ask(
            "/v2/models/m/versions/2/infer",
            {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]},
        )
        assert named.json["code"] == "breaker_open"

    run(tmp_path, body)


def test_a_champion_that_is_not_tried_does_not_make_the_canary_look_guilty(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", rollout(tmp_path, 0.5))
        breaks(bench, 1)
        breaks(bench, 2)
        for _ in range(60):
            assert (await bench.infer("m", GOOD)).status in (500, 503)
            await checked(bench)
        assert read_pages(tmp_path / "run")[0].vetoes == {}

    run(tmp_path, body)


@pytest.mark.parametrize("ends", ["unloaded", "off"])
def test_an_open_breaker_leaves_with_its_version_and_0_failures_switch_it_off(tmp_path: Path, ends: str) -> None:
    off = Settings(gateway=GatewaySettings(breaker=BreakerSettings(failures=0)))

    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))
        breaks(bench)
        await fails(bench, BREAKER.failures)
        if ends == "unloaded":
            assert bench.worker.breakers.open_count == 1
            await bench.route("m", RouteEntry(champion=None, aspired={}))
            bench.worker.beat.step()
            await asyncio.sleep(0)  # it is let go of in the loop's next turn
        assert bench.worker.breakers.open_count == 0

    run(tmp_path, body, SETTINGS if ends == "unloaded" else off)


def test_rows_that_cannot_be_read_are_no_proof_that_a_version_is_well(tmp_path: Path) -> None:
    async def body(bench: Bench, clock: ManualClock) -> None:
        await bench.route("m", route(tmp_path))

        def damaged() -> bool:
            raise ValueError("damaged")

        bench.worker.fleet._loaded["m"][1].still_answers = damaged
        await fails(bench, BREAKER.failures, BAD)
        assert told(await bench.infer("m", GOOD))[1] == "breaker_open"

    run(tmp_path, body)


def test_a_kept_answer_is_no_run_that_succeeded(tmp_path: Path) -> None:
    async def body(bench: Bench, _: ManualClock) -> None:
        await bench.route("m", route(tmp_path, ServingOptions(answer_cache_bytes=1 << 20)))
        assert (await bench.infer("m", GOOD)).status == 200
        breaks(bench)
        for number in range(5):
            assert (await bench.infer("m", [[2.0, 1.0, number % 3]])).status == 500
            assert (await bench.infer("m", GOOD)).headers["x-driftgate-cache"] == "hit"
        await checked(bench)
        assert bench.worker.breakers.open_count == 1

    run(tmp_path, body)
