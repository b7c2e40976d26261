"""Requests to models that are not in memory: they wait for their load, once, within their deadlines."""

from __future__ import annotations

import asyncio
from pathlib import Path
from time import perf_counter_ns
from typing import Any, cast

import pytest

from gateway.data.exchange import Exchange
from gateway.data.page_reader import read_pages
from gateway.data.predict import Predict
from gateway.data.routes import RouteEntry
from gateway.settings import GatewaySettings, LimitSettings, LoadSettings, Settings
from registry.vocabulary import LoadState
from tests.support import models
from tests.support.server import v2_body
from tests.support.serving import Bench, aspire, with_worker

ROW = [[1.0, 2.0, 3.0]]


def settings(**load: Any) -> Settings:
    return Settings(gateway=GatewaySettings(load=LoadSettings(**{"when": "request", **load})))


def publish(bench: Bench, tmp_path: Path, *names: str) -> None:
    """Routes to a champion each, of which none is loaded."""
    for seed, name in enumerate(names):
        path = models.linear(tmp_path / f"{name}.onnx", seed=seed)
        bench.models[name] = RouteEntry(champion=1, aliases={"champion": 1}, aspired={1: aspire(path)})
    bench.table.publish(bench.models)
    bench.table.renew(60.0)
    bench.worker.beat.step()


def test_the_first_request_loads_its_model_and_all_that_come_meanwhile_wait_for_that_load(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        publish(bench, tmp_path, "a", "b")
        assert bench.worker.fleet.settled()
        answers = await asyncio.gather(*(bench.infer("a", ROW) for _ in range(20)))
        assert {answer.status for answer in answers} == {200}
        assert len({answer.body.partition(b'"outputs"')[2] for answer in answers}) == 1
        bench.worker.beat.step()
        (page,) = read_pages(tmp_path / "run")
        assert (page.memory.loads, page.memory.loaded) == (1, 1)
        assert page.totals["a", 1, "champion"].codes["v2", "200"] == 20
        assert page.loads == {("a", 1): (LoadState.READY, "")}
        latencies = page.totals["a", 1, "champion"].latency_sum_us
        assert latencies > 20 * page.memory.load_us * 0.5  # their waiting is counted

    with_worker(tmp_path / "run", body, settings())


@pytest.mark.parametrize("path", ["/v2/models/a/versions/1/infer", "/v1/models/a/labels/champion:predict"])
def test_a_version_or_alias_that_is_named_is_loaded_too(tmp_path: Path, path: str) -> None:
    async def body(bench: Bench) -> None:
        publish(bench, tmp_path, "a")
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
        asked = {"inputs": [tensor]} if path.startswith("/v2") else {"instances": ROW}
        assert (await bench.ask(path, asked)).status == 200

    with_worker(tmp_path / "run", body, settings())


def test_a_model_that_is_not_in_memory_is_ready_and_described(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        publish(bench, tmp_path, "a")
        assert (await bench.ask("/v2/models/a/ready", method="GET")).status == 200
        about = (await bench.ask("/v2/models/a", method="GET")).json
        assert about["inputs"][0]["shape"] == [-1, 3]
        assert (await bench.ask("/v2/models/a/config", method="GET")).status == 200
        index = (await bench.ask("/v2/repository/index", {})).json
        assert [(item["state"], item["reason"]) for item in index] == [("READY", "loaded when a request wants it")]
        assert not bench.worker.fleet.is_loaded("a", 1)
        assert (await bench.ask("/v2/models/a/versions/9/ready", method="GET")).status == 404

    with_worker(tmp_path / "run", body, settings())


def test_a_deadline_that_passes_during_the_load_is_504_and_too_many_that_wait_are_503(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        publish(bench, tmp_path, "a", "b")
        late, *others = await asyncio.gather(
            bench.infer("a", ROW, headers={"x-deadline-ms": "1"}), *(bench.infer("b", ROW) for _ in range(5))
        )
        assert late.status in (200, 504)  # of a model so small
        assert sorted(answer.status for answer in others) == [200, 503, 503, 503, 503]
        refused = next(answer for answer in others if answer.status == 503)
        assert refused.json["code"] == "overloaded"
        assert int(refused.headers["retry-after"]) >= 1

    with_worker(tmp_path / "run", body, settings(waiting_requests=2))


def test_a_model_that_cannot_be_loaded_says_why_and_then_is_not_ready(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        publish(bench, tmp_path, "a")
        (tmp_path / "a.onnx").write_bytes(b"torn")
        answer = await bench.infer("a", ROW)
        assert (answer.status, answer.json["code"]) == (500, "load_failed")
        assert (await bench.infer("a", ROW)).status == 503
        assert (await bench.ask("/v2/models/a/ready", method="GET")).status == 503

    with_worker(tmp_path / "run", body, settings())


def test_a_version_may_leave_right_after_its_last_run_and_before_its_caller_has_the_answer(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        fleet = bench.worker.fleet
        publish(bench, tmp_path, "a")
        assert (await bench.infer("a", ROW)).status == 200
        real = fleet.on_batch

        def then_gone(loaded: Any, batch: Any) -> None:
            real(loaded, batch)
            fleet.holdings.want({})
            fleet.look()

        fleet.on_batch = then_gone
        fleet.holdings._attach(fleet.holdings._holdings["a", 1])
        assert (await bench.infer("a", ROW)).status == 200
        assert not fleet.is_loaded("a", 1)

    with_worker(tmp_path / "run", body, settings())


def test_a_request_without_a_task_whose_caller_leaves_waits_for_no_load(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        publish(bench, tmp_path, "a")
        predict, waits = bench.worker.predict, bench.worker.fleet.holdings._waits
        target = bench.worker.app._doors.named("/v2/models/a/infer")
        assert target is not None
        line = Line(predict)
        exchange = Exchange(cast(Any, line), "v2", "a", b"id", perf_counter_ns(), {}, {})
        predict.take(exchange, target.door.json, target, v2_body(ROW), {})
        assert (waits.count, predict.inflight) == (1, 1)
        exchange.abandon()
        assert (waits.count, predict.inflight) == (0, 0)
        assert line.freed == [exchange]

    with_worker(tmp_path / "run", body, settings())


class Line:
    """A connection that only notes which exchanges are over."""

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.limits = LimitSettings()
        self.freed: list[Exchange] = []

    def free(self, exchange: Exchange) -> None:
        self.freed.append(exchange)
