"""What is booked for a rollout, and what is not: refused requests, keys, answers that come after its end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.data.keys import read_keys
from gateway.data.page_reader import Segment, read_pages
from gateway.data.routes import RouteEntry
from gateway.data.run_times import RunTimes
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker

GOOD, BAD = [[1.0, 2.0, 3.0]], [[1.0, 2.0, 99.0]]


def rollout(tmp_path: Path, weight: float = 1.0) -> RouteEntry:
    """Version 2 is the canary; both fail on BAD."""
    aspired = {1: aspire(models.looked_up(tmp_path / "a.onnx")), 2: aspire(models.looked_up(tmp_path / "b.onnx"))}
    return RouteEntry(champion=1, candidate=2, weight=weight, salt="5a" * 16, rollout_id="r1", aspired=aspired)


def segments(tmp_path: Path) -> dict[tuple[str, str], Segment]:
    """By rollout and role."""
    return {(s.rollout_id, s.role): s for s in read_pages(tmp_path / "run")[0].segments}


@pytest.mark.parametrize("weight", [1.0, 1e-9], ids=["canary", "champion"])
def test_a_key_whose_request_was_refused_on_arrival_was_not_assigned(tmp_path: Path, weight: float) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", rollout(tmp_path, weight))
        asked = []
        for version, loaded in bench.worker.fleet._loaded["m"].items():
            loaded.batcher.times = RunTimes([(1, 3e6)])  # three seconds a row
            loaded.batcher._is_scheduled = True  # nothing runs
            tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": GOOD[0]}
            asked.append(
                asyncio.ensure_future(bench.ask(f"/v2/models/m/versions/{version}/infer", {"inputs": [tensor]}))
            )
        await asyncio.sleep(0)
        late = await bench.infer("m", GOOD, headers={"x-deadline-ms": "4000", "x-routing-key": "u"})
        assert (late.status, late.json["code"]) == (503, "overloaded")
        assert not any(len(table.rows) for table in read_keys(tmp_path / "run"))
        for one in asked:
            one.cancel()

    with_worker(tmp_path / "run", body)


def test_a_keyed_request_that_fails_after_its_rollout_has_ended_gets_what_it_would_have_got(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        entry = rollout(tmp_path)
        await bench.route("m", entry)
        batcher = bench.worker.fleet._loaded["m"][2].batcher
        batcher._is_scheduled = True  # nothing runs
        requests = [(GOOD, "9000"), (BAD, "9000"), (GOOD, "9000"), (GOOD, "300")]
        asked = [
            asyncio.ensure_future(
                bench.infer("m", rows, headers={"x-routing-key": f"u{i}", "x-deadline-ms": deadline_ms})
            )
            for i, (rows, deadline_ms) in enumerate(requests)
        ]
        await asyncio.sleep(0)
        await bench.route("m", replace(entry, rollout_id="", weight=0.0))
        late = await asyncio.wait_for(asked[3], 5)
        batcher.turn()
        answers = [*await asyncio.gather(*asked[:3]), late]
        assert [answer.status for answer in answers] == [200, 500, 200, 504]
        assert [answer.headers["x-driftgate-version"] for answer in answers] == ["2", "1", "2", "2"]

    with_worker(tmp_path / "run", body)


def test_what_is_answered_after_its_rollout_has_ended_is_not_booked_to_the_next_one(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        entry = rollout(tmp_path)
        await bench.route("m", entry)
        batcher = bench.worker.fleet._loaded["m"][2].batcher
        batcher._is_scheduled = True
        asked = [asyncio.ensure_future(bench.infer("m", BAD)) for _ in range(3)]
        await asyncio.sleep(0)
        await bench.route("m", replace(entry, rollout_id="r2", weight=1e-9))
        await bench.infer("m", GOOD)  # its segments take the places of those of the first
        batcher.turn()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [500] * 3
        seen = segments(tmp_path)
        assert {rollout for rollout, _ in seen} == {"r2"}
        assert sum(segment.requests for segment in seen.values()) == 1
        assert sum(segment.errors for segment in seen.values()) == 0

    with_worker(tmp_path / "run", body)
