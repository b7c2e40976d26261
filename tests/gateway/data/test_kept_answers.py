"""Requests to a version that keeps answers: equal ones run once, each answered, logged and booked as its own."""

from __future__ import annotations

import asyncio
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from gateway.data.page_reader import Totals, read_pages
from gateway.data.routes import RouteEntry
from monitor.lane import LaneReader
from registry.options import ServingOptions
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker

ROW = [[1.0, 2.0, 3.0]]
OPTIONS = ServingOptions(answer_cache_bytes=1 << 20)


def route(tmp_path: Path, options: ServingOptions = OPTIONS) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"), options=options)})


def totals(tmp_path: Path) -> Totals:
    (page,) = read_pages(tmp_path / "run")
    return page.totals["m", 1, "champion"]


def data(answer: Any) -> list[float]:
    return list(answer.json["outputs"][0]["data"])


def test_an_equal_request_is_answered_without_a_run_marked_logged_and_booked(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        first = await bench.infer("m", ROW, headers={"x-request-id": "one"})
        again = await bench.infer("m", ROW, headers={"x-request-id": "two"})
        other = await bench.infer("m", [[1.0, 2.0, 4.0]])
        assert data(first) == data(again) != data(other)
        assert ["x-driftgate-cache" in answer.headers for answer in (first, again, other)] == [False, True, False]
        assert again.headers["x-driftgate-cache"] == "hit"
        assert (again.headers["x-request-id"], again.headers["x-driftgate-version"]) == ("two", "1")
        seen = totals(tmp_path)
        assert (seen.kept, seen.codes["v2", "200"], int(seen.latency_counts.sum())) == ((1, 2), 3, 3)
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(100)
        assert rows["features"].tolist() == [*ROW, *ROW, [1.0, 2.0, 4.0]]
        assert rows["outputs"][0].tolist() == rows["outputs"][1].tolist()

    with_worker(tmp_path / "run", body)


def test_one_entry_serves_every_protocol_shape_of_answer_and_outputs_asked_for(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        v2 = await bench.infer("m", ROW)
        v1 = await bench.ask("/v1/models/m:predict", {"instances": ROW})
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        asked = await bench.ask("/v2/models/m/infer", {"id": "7", "inputs": [tensor], "outputs": [{"name": "y"}]})
        wrong = await bench.ask("/v2/models/m/infer", {"inputs": [tensor], "outputs": [{"name": "z"}]})
        assert [v1.headers.get("x-driftgate-cache"), asked.headers.get("x-driftgate-cache")] == ["hit", "hit"]
        np.testing.assert_array_equal(np.array(v1.json["predictions"][0], np.float32), np.array(data(v2), np.float32))
        assert (asked.json["id"], data(asked)) == ("7", data(v2))
        assert wrong.status == 400

    with_worker(tmp_path / "run", body)


def test_rows_of_a_joined_run_are_kept_each_for_its_own_question(tmp_path: Path) -> None:
    rows = np.random.default_rng(5).normal(size=(16, 3)).astype(np.float32)

    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        joined = await asyncio.gather(*(bench.infer("m", row[None]) for row in rows))
        again = [await bench.infer("m", row[None]) for row in rows]
        assert [data(answer) for answer in joined] == [data(answer) for answer in again]
        assert {answer.headers["x-driftgate-cache"] for answer in again} == {"hit"}
        both = await bench.infer("m", rows[:2])
        assert "x-driftgate-cache" not in both.headers  # two rows together are another question

    with_worker(tmp_path / "run", body)


def test_of_equal_requests_at_once_one_runs_and_each_gets_its_own_answer(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        answers = await asyncio.gather(*(bench.infer("m", ROW, headers={"x-request-id": f"r{i}"}) for i in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert [answer.headers["x-request-id"] for answer in answers] == [f"r{i}" for i in range(20)]
        seen = totals(tmp_path)
        assert (seen.kept, seen.codes["v2", "200"]) == ((19, 1), 20)
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body)


def test_an_error_is_not_kept_and_those_who_waited_ask_for_themselves(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        bad = [[3.4e38, -3.4e38, 3.4e38]]  # overflows
        answers = await asyncio.gather(*(bench.infer("m", bad) for _ in range(3)))
        assert [answer.status for answer in answers] == [500] * 3
        assert totals(tmp_path).kept == (0, 3)
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body)


def test_who_waits_for_anothers_run_is_answered_although_the_version_leaves_meanwhile(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        loaded: Any = bench.worker.fleet._loaded["m"][1]
        answer, runs = loaded.batcher._answer, 0

        def answer_and_leave(batch: Any) -> None:
            nonlocal runs
            answer(batch)
            runs += 1
            bench.table.publish({})  # the heartbeat comes before those who have their answer, or none, have left
            bench.worker.beat.step()

        loaded.batcher._answer = answer_and_leave
        bad = [[3.4e38, -3.4e38, 3.4e38]]  # overflows
        answers = await asyncio.gather(*(bench.infer("m", bad) for _ in range(3)))
        assert [(answer.status, answer.json["code"]) for answer in answers] == [(500, "inference_failed")] * 3
        assert (runs, bench.worker.predict.inflight) == (3, 0)
        for _ in range(3):
            bench.worker.beat.step()
            await asyncio.sleep(0)
        assert loaded.is_gone

    with_worker(tmp_path / "run", body)


def test_what_was_kept_goes_with_the_version_whoever_still_knows_it(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", route(tmp_path))
        await bench.infer("m", ROW)
        loaded = bench.worker.fleet._loaded["m"][1]
        assert loaded.answers is not None
        kept = weakref.ref(loaded.answers)
        bench.table.publish({})
        bench.worker.beat.step()
        await asyncio.sleep(0)
        assert (loaded.is_gone, kept()) == (True, None)

    with_worker(tmp_path / "run", body)
