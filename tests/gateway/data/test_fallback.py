"""Who answers when the champion's run fails, as its options say: the version before it, then a constant."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.data.page_reader import Totals, read_pages
from gateway.data.routes import RouteEntry
from gateway.data.run_times import RunTimes
from gateway.settings import GatewaySettings, LimitSettings, Settings
from monitor.lane import LaneReader
from monitor.record import ERROR
from registry.options import ServingOptions
from tests.support import models
from tests.support.serving import Answer, Bench, aspire, with_worker

GOOD, BAD = [[1.0, 2.0, 3.0]], [[1.0, 2.0, 99.0]]
CONSTANT = (("y", (-1.0, -1.0, -1.0)),)
BOTH = ServingOptions(fallback=("previous", "constant"), fallback_constant=CONSTANT)
ONLY_CONSTANT = ServingOptions(fallback=("constant",), fallback_constant=CONSTANT)
ONLY_PREVIOUS = ServingOptions(fallback=("previous",))
TENSOR = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 99]}


def route(tmp_path: Path, options: ServingOptions, before: Path | None = None, **changes: Any) -> RouteEntry:
    """Version 2 is the champion and fails on BAD; version 1, if there is one, was it before."""
    aspired = {2: aspire(models.looked_up(tmp_path / "champion.onnx"), options=options)}
    if before is not None:
        aspired[1] = aspire(before)
    return RouteEntry(champion=2, previous=None if before is None else 1, aspired=aspired, **changes)


def in_canary(tmp_path: Path, options: ServingOptions = ONLY_CONSTANT) -> RouteEntry:
    """All requests go to version 3, a canary beside the champion 2."""
    entry = route(tmp_path, options)
    canary = aspire(models.looked_up(tmp_path / "canary.onnx"))
    return replace(
        entry, candidate=3, weight=1.0, salt="5a" * 16, rollout_id="r1", aspired={**entry.aspired, 3: canary}
    )


def said(answer: Answer) -> Any:
    """Who answered, as the headers say it, and what."""
    headers = answer.headers
    return (
        headers["x-driftgate-version"],
        headers["x-driftgate-role"],
        headers.get("x-driftgate-fallback"),
        answer.json["outputs"][0]["data"],
    )


def totals(tmp_path: Path, version: int, role: str) -> Totals:
    (page,) = read_pages(tmp_path / "run")
    return page.totals["m", version, role]


def test_the_version_before_answers_marked_and_the_failure_is_the_champions(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, BOTH, models.linear(tmp_path / "a.onnx", outputs=3)))
        assert said(await bench.infer("m", GOOD))[:3] == ("2", "champion", None)
        answer = await bench.infer("m", BAD)
        alone = await bench.ask("/v2/models/m/versions/1/infer", {"inputs": [TENSOR]})
        assert said(answer) == ("1", "fallback", None, alone.json["outputs"][0]["data"])
        assert answer.json["model_version"] == "1"
        assert (totals(tmp_path, 2, "champion").failed, totals(tmp_path, 1, "fallback").failed) == (1, 0)
        assert totals(tmp_path, 1, "fallback").codes == {("v2", "200"): 1}
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(10)
        assert (rows["flags"] & ERROR).tolist() == [0, ERROR]
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body)


def test_the_constant_answers_when_nobody_else_can_and_is_no_row_of_the_models(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, BOTH, models.looked_up(tmp_path / "a.onnx")))
        answer = await bench.infer("m", BAD)  # the version before fails, too
        assert said(answer) == ("2", "fallback", "constant", [-1.0, -1.0, -1.0])
        assert (totals(tmp_path, 2, "champion").failed, totals(tmp_path, 1, "fallback").failed) == (1, 1)
        seen = totals(tmp_path, 2, "fallback")
        assert (seen.constants, seen.codes) == (1, {("v2", "200"): 1})
        assert not list((tmp_path / "run/lanes").glob("*2*fallback*"))

    with_worker(tmp_path / "run", body)


def test_a_constant_is_written_in_every_protocol_for_every_row_and_keeps_what_was_asked_for(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, ONLY_CONSTANT))
        several = await bench.infer("m", [*BAD, *GOOD])
        assert several.json["outputs"][0]["shape"] == [2, 3]
        assert said(several)[3] == [-1.0] * 6
        v1 = await bench.ask("/v1/models/m:predict", {"instances": BAD})
        assert v1.json["predictions"] == [[-1.0, -1.0, -1.0]]
        asked = {"id": "seven", "inputs": [TENSOR], "outputs": [{"name": "y", "parameters": {"binary_data": True}}]}
        binary = await bench.ask("/v2/models/m/infer", asked)
        length = int(binary.headers["inference-header-content-length"])
        assert np.frombuffer(binary.body[length:], np.float32).tolist() == [-1.0] * 3
        assert binary.headers["x-driftgate-fallback"] == "constant"

    with_worker(tmp_path / "run", body)


def test_of_a_joined_run_only_the_one_that_fails_falls_back(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, ONLY_CONSTANT))
        answers = await asyncio.gather(*(bench.infer("m", BAD if i == 3 else GOOD) for i in range(8)))
        assert [said(a)[1] for a in answers] == ["champion"] * 3 + ["fallback"] + ["champion"] * 4
        assert [said(a)[3] for a in answers if said(a)[1] == "champion"] == [GOOD[0]] * 7
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body)


def test_a_number_that_is_not_finite_falls_back_too(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        options = replace(ONLY_CONSTANT, fallback_constant=(("y", (7.0, 7.0)),))
        await bench.route(
            "m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"), options=options)})
        )
        assert said(await bench.infer("m", [[3.4e38, -3.4e38, 3.4e38]])) == ("1", "fallback", "constant", [7.0, 7.0])

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("options", [ServingOptions(), ONLY_PREVIOUS])
def test_without_anybody_to_stand_in_the_champions_own_error_is_told(tmp_path: Path, options: ServingOptions) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, options))  # no promotion soaks: there is no version before
        answer = await bench.infer("m", BAD)
        assert (answer.status, answer.json["code"]) == (500, "inference_failed")
        assert answer.headers["x-driftgate-role"] == "champion"
        assert totals(tmp_path, 2, "champion").failed == 1

    with_worker(tmp_path / "run", body)


def test_a_caller_who_names_a_version_gets_that_one_or_its_error(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, BOTH, models.linear(tmp_path / "a.onnx", outputs=3)))
        answer = await bench.ask("/v2/models/m/versions/2/infer", {"inputs": [TENSOR]})
        assert (answer.status, answer.headers["x-driftgate-role"]) == (500, "direct")

    with_worker(tmp_path / "run", body)


def test_a_version_before_that_takes_other_inputs_is_passed_over(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, BOTH, models.linear(tmp_path / "a.onnx", features=5)))
        assert said(await bench.infer("m", BAD))[:3] == ("2", "fallback", "constant")

    with_worker(tmp_path / "run", body)


def test_who_would_be_late_is_passed_over_while_there_is_another(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, BOTH, models.linear(tmp_path / "a.onnx", outputs=3)))
        bench.worker.fleet._loaded["m"][1].batcher.times = RunTimes([(1, 3e6)])  # three seconds a row
        in_time = await bench.infer("m", BAD, headers={"x-deadline-ms": "500"})
        assert said(in_time)[2] == "constant"
        assert said(await bench.infer("m", BAD))[0] == "1"  # who has time gets the model

    with_worker(tmp_path / "run", body)


def test_a_deadline_that_passes_while_somebody_stands_in_is_a_504(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, ONLY_PREVIOUS, models.linear(tmp_path / "a.onnx", outputs=3)))
        bench.worker.fleet._loaded["m"][1].batcher._is_scheduled = True  # nothing runs
        answer = await bench.infer("m", BAD, headers={"x-deadline-ms": "30"})
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body)


def test_a_canary_falls_back_to_the_champion_and_then_to_the_champions_constant(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", in_canary(tmp_path))
        assert said(await bench.infer("m", BAD)) == ("2", "fallback", "constant", [-1.0] * 3)
        assert (totals(tmp_path, 3, "canary").failed, totals(tmp_path, 2, "fallback").failed) == (1, 1)
        (segment,) = [s for s in read_pages(tmp_path / "run")[0].segments if s.role == "canary"]
        assert (segment.requests, segment.errors) == (1, 1)

    with_worker(tmp_path / "run", body)


def hold(bench: Bench, version: int, us_a_row: float) -> None:
    """Nothing of this version runs, and its rows are expected to take so long."""
    batcher = bench.worker.fleet._loaded["m"][version].batcher
    batcher.times = RunTimes([(1, us_a_row)])
    batcher._is_scheduled = True


def evidence(tmp_path: Path) -> dict[str, tuple[int, int]]:
    """Requests and errors by role."""
    return {s.role: (s.requests, s.errors) for s in read_pages(tmp_path / "run")[0].segments}


LIMITS = Settings(gateway=GatewaySettings(limits=LimitSettings(waiting_requests=20)))


@pytest.mark.parametrize("in_body", [False, True], ids=["header", "body"])
def test_what_a_canary_has_no_time_for_is_answered_by_the_champion_and_no_evidence(
    tmp_path: Path, in_body: bool
) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", in_canary(tmp_path))
        hold(bench, 3, 3e6)
        waits = asyncio.ensure_future(bench.infer("m", GOOD))
        await asyncio.sleep(0)
        if in_body:
            answer = await bench.ask("/v2/models/m/infer", {"parameters": {"timeout": 500_000}, "inputs": [TENSOR]})
        else:
            answer = await bench.infer("m", BAD, headers={"x-deadline-ms": "500", "x-routing-key": "u"})
        assert said(answer) == ("2", "fallback", "constant", [-1.0] * 3)  # the champion took it, and failed on it
        good = await bench.infer("m", GOOD, headers={"x-deadline-ms": "500"})
        assert said(good) == ("2", "fallback", None, GOOD[0])
        assert (totals(tmp_path, 3, "canary").overflowed, totals(tmp_path, 3, "canary").failed) == (2, 0)
        assert totals(tmp_path, 2, "fallback").codes == {("v2", "200"): 2}
        assert evidence(tmp_path) == {"champion": (0, 0), "canary": (0, 0)}
        assert not sum(read_pages(tmp_path / "run")[0].shed.values())
        waits.cancel()

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(("run_us", "retry_after_s"), [(3e6, "3"), (7.2e9, "60")])
def test_what_no_version_has_time_for_is_refused_once(tmp_path: Path, run_us: float, retry_after_s: str) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", in_canary(tmp_path))
        hold(bench, 3, run_us)
        hold(bench, 2, run_us)
        path = "/v2/models/m/versions/2/infer"
        waits = [asyncio.ensure_future(one) for one in (bench.infer("m", GOOD), bench.ask(path, {"inputs": [TENSOR]}))]
        await asyncio.sleep(0)
        answer = await bench.infer("m", GOOD, headers={"x-deadline-ms": "500"})
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "overloaded", retry_after_s)
        assert read_pages(tmp_path / "run")[0].shed["m", "deadline"] == 1
        assert totals(tmp_path, 3, "canary").overflowed == 0
        for one in waits:
            one.cancel()

    with_worker(tmp_path / "run", body)


def test_a_canary_that_fills_a_models_room_leaves_the_champion_to_its_callers_while_it_has_any(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", in_canary(tmp_path))
        hold(bench, 3, 10.0)
        waits = [asyncio.ensure_future(bench.infer("m", GOOD)) for _ in range(18)]
        await asyncio.sleep(0)
        assert said(await bench.infer("m", GOOD)) == ("2", "fallback", None, GOOD[0])
        hold(bench, 2, 10.0)
        waits += [asyncio.ensure_future(bench.infer("m", GOOD)) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await bench.infer("m", GOOD)).status == 503  # 20 wait: nobody takes more
        assert totals(tmp_path, 3, "canary").overflowed == 3
        for one in waits:
            one.cancel()

    with_worker(tmp_path / "run", body, LIMITS)


def test_a_model_that_its_champion_fills_refuses_its_canarys_requests(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", in_canary(tmp_path))
        hold(bench, 2, 10.0)
        hold(bench, 3, 10.0)
        path = "/v2/models/m/versions/2/infer"
        waits = [asyncio.ensure_future(bench.ask(path, {"inputs": [TENSOR]})) for _ in range(16)]
        waits += [asyncio.ensure_future(bench.infer("m", GOOD)) for _ in range(2)]
        await asyncio.sleep(0)
        assert (await bench.infer("m", GOOD)).status == 503
        assert totals(tmp_path, 3, "canary").overflowed == 0
        for one in waits:
            one.cancel()

    with_worker(tmp_path / "run", body, LIMITS)


def test_kept_answers_and_a_constant_go_together(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, replace(ONLY_CONSTANT, answer_cache_bytes=1 << 20)))
        answers = await asyncio.gather(*(bench.infer("m", BAD) for _ in range(5)))
        assert {said(a)[2] for a in answers} == {"constant"}  # each asks for itself; a constant is not kept
        assert totals(tmp_path, 2, "champion").failed == 5
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body)


def test_a_request_of_very_many_rows_is_not_answered_by_a_constant(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        wide = replace(ONLY_CONSTANT, fallback_constant=(("y", tuple([0.0] * 4000)),))
        path = models.linear(tmp_path / "wide.onnx", outputs=4000)
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, options=wide)}))
        loaded = bench.worker.fleet._loaded["m"][1].constant
        assert loaded is not None

        class Asked:
            rows = 5000
            feeds = ()
            error: Any = None

            def fail(self, error: Any) -> None:
                self.error = error

        asked = Asked()
        loaded.batcher.submit(asked)
        assert "too many" in asked.error.message

    with_worker(tmp_path / "run", body)


def test_callers_who_leave_or_are_late_while_others_fall_back_cost_nobody_an_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)

    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path, BOTH, models.looked_up(tmp_path / "a.onnx")))
        for _ in range(6):
            kinds = rng.integers(0, 4, 40)
            asked = [
                asyncio.ensure_future(
                    bench.infer("m", GOOD if kind % 2 else BAD, headers={"x-deadline-ms": "5000"} if kind < 2 else None)
                )
                for kind in kinds
            ]
            for _ in range(int(rng.integers(0, 4))):
                await asyncio.sleep(0)
            left = {i for i in range(40) if rng.random() < 0.3 and asked[i].cancel()}
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for i, answer in enumerate(answers):
                if i not in left:
                    assert isinstance(answer, Answer)
                    assert said(answer)[2:] == ((None, GOOD[0]) if kinds[i] % 2 else ("constant", [-1.0] * 3))
        assert bench.worker.fleet.traffic("m").inside.waiting == 0
        assert bench.worker.predict.inflight == 0

    with_worker(tmp_path / "run", body)
