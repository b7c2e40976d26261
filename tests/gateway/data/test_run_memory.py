"""A request that says how much memory its run or its answer takes is refused; the worker and all others go on."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from gateway.data.machine_memory import for_runs, machine_bytes
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.data.runs import Rows, run_group
from gateway.data.servable import Servable
from gateway.settings import BreakerSettings, GatewaySettings, LimitSettings, Settings
from monitor.lane import LaneReader
from monitor.record import ERROR
from registry.errors import InferenceFailed, PayloadTooLarge
from tests.gateway.data.test_batcher import Doubler
from tests.support import models
from tests.support.serving import Answer, Bench, aspire, with_worker

TERABYTES = 10**12  # numbers: more than any machine has for them


async def ask(bench: Bench, size: int) -> Answer:
    tensor = {"name": "size", "shape": [1], "datatype": "INT64", "data": [size]}
    return await bench.ask("/v2/models/m/infer", {"inputs": [tensor]})


def hungry(tmp_path: Path, name: str = "a") -> Any:
    return aspire(models.hungry(tmp_path / f"{name}.onnx"), batch="never", by_rows=False, loops=True)


def settings(answer_bytes: int) -> Settings:
    limits = LimitSettings(answer_bytes=answer_bytes)
    return Settings(gateway=GatewaySettings(limits=limits, breaker=BreakerSettings(failures=2)))


def test_what_a_request_says_is_refused_and_neither_the_version_nor_the_next_request_suffers(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: hungry(tmp_path)}))
        for size in (TERABYTES, 257, TERABYTES, 257):  # a run, an answer
            answer = await ask(bench, size)
            assert (answer.status, answer.json["code"]) == (413, "payload_too_large")
            assert answer.headers["x-driftgate-role"] == "champion"
        assert (await ask(bench, 256)).status == 200  # no breaker has opened
        (page,) = read_pages(tmp_path / "run")
        totals = page.totals["m", 1, "champion"]
        assert totals.codes == {("v2", "413"): 4, ("v2", "200"): 1}
        assert totals.failed == 0
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(10)
        assert (rows["flags"] & ERROR).tolist() == [ERROR] * 4 + [0]

    with_worker(tmp_path / "run", body, settings(answer_bytes=1024))


def test_a_canary_that_needs_more_memory_fails_and_the_champion_answers(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        champion = aspire(models.spelled(tmp_path / "c.onnx"), batch="never", by_rows=False)
        entry = RouteEntry(champion=1, aspired={1: champion})
        await bench.route("m", entry)
        assert (await ask(bench, TERABYTES)).json["outputs"][0]["data"] == [float(np.float32(TERABYTES))]
        both = replace(entry, aspired={1: champion, 2: hungry(tmp_path)})
        await bench.route("m", replace(both, candidate=2, weight=1.0, salt="5a" * 16, rollout_id="r1"))
        assert (await ask(bench, 3)).headers["x-driftgate-role"] == "canary"
        answer = await ask(bench, TERABYTES)
        assert (answer.status, answer.headers["x-driftgate-role"]) == (200, "fallback")
        (page,) = read_pages(tmp_path / "run")
        assert page.totals["m", 2, "canary"].codes == {("v2", "200"): 1}

    with_worker(tmp_path / "run", body)


def request(first: float, rows: int) -> Rows:
    return Rows([np.full((rows, 1), first)], rows)


def test_an_answer_that_is_too_large_is_refused_alone() -> None:
    servable = Doubler()
    servable.answer_bytes = 5 * 8
    batches = run_group(cast(Servable, servable), [request(1, 5), request(2, 6), request(3, 1)])
    assert [None if batch.error is None else batch.error.code for batch in batches] == [None, "payload_too_large", None]
    assert [batch.rows for batch in batches] == [5, 6, 1]
    servable.runs.clear()
    (joined,) = run_group(cast(Servable, servable), [request(1, 5), request(3, 3)])
    assert (joined.error, servable.runs) == (None, [8])  # together they may be larger


def test_a_request_in_parts_is_given_up_when_its_answer_is_too_large() -> None:
    servable = Doubler(max_rows=4)
    servable.answer_bytes = 9 * 8
    (batch,) = run_group(cast(Servable, servable), [request(1, 1000)])
    assert isinstance(batch.error, PayloadTooLarge)
    assert servable.runs == [4, 4, 4]


def test_the_tensors_of_a_failed_run_go_with_its_request() -> None:
    one = request(666, 2)
    gone = weakref.ref(one.feeds[0])
    gc.disable()
    try:
        (batch,) = run_group(cast(Servable, Doubler()), [one])
        assert isinstance(batch.error, InferenceFailed)
        error = batch.error
        del one, batch
        assert gone() is None, error
    finally:
        gc.enable()


def test_runs_are_steady_where_registration_saw_what_they_take(tmp_path: Path) -> None:
    manifest = models.manifest_of("a")
    manifest = replace(manifest, probe=replace(manifest.probe, joined_rows=64))
    free = replace(manifest.inputs[0], shape=(None, None))

    def is_steady(**changes: Any) -> bool:
        probe = replace(manifest.probe, **{key: changes.pop(key) for key in ("loops", "batch") if key in changes})
        return Servable("m", 1, None, replace(manifest, probe=probe, **changes), 64).has_steady_runs

    assert is_steady()
    assert not is_steady(loops=True)
    assert not is_steady(batch="never")
    assert not is_steady(inputs=(free,))


@pytest.mark.parametrize(("told", "limit"), [("max\n", None), ("1073741824\n", 1 << 30), ("9223372036854771712", None)])
def test_a_container_has_what_its_limit_says(tmp_path: Path, told: str, limit: int | None) -> None:
    (tmp_path / "memory.max").write_text(told)
    all_bytes = machine_bytes([])
    assert machine_bytes([tmp_path / "absent", tmp_path / "memory.max"]) == min(all_bytes, limit or all_bytes)


def test_workers_share_half_the_memory_and_small_machines_are_served_too() -> None:
    assert for_runs(0, 4, 64 << 30) == 8 << 30
    assert for_runs(0, 8, 1 << 30) == 256 << 20
    assert for_runs(5, 8, 1 << 30) == 5
