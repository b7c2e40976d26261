"""The repository calls of one worker; the test plays the controller."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.data import repository
from gateway.data.routes import RouteEntry
from gateway.data.wishes import read_wishes
from gateway.settings import GatewaySettings, Settings
from tests.support import models
from tests.support.serving import BOOT, Answer, Bench, aspire, with_worker

ALLOWED = Settings(gateway=GatewaySettings(repository_control=True))
LOAD, UNLOAD = "/v2/repository/models/m/load", "/v2/repository/models/m/unload"


def entry(tmp_path: Path, **changes: Any) -> RouteEntry:
    path = models.linear(tmp_path / "a.onnx")
    return RouteEntry(**{"champion": 1, "aspired": {1: aspire(path)}, "aliases": {"champion": 1}, **changes})


def told(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["code"]


async def index(bench: Bench, body: Any = None) -> list[tuple[str, str, str, str]]:
    answer = await bench.ask("/v2/repository/index", body)
    assert answer.status == 200, answer.body
    return [(one["name"], one["version"], one["state"], one["reason"]) for one in answer.json]


async def wished(bench: Bench, run: Path, loaded: bool) -> int:
    """Wait for the wish of the call under way, and go on with the heartbeat."""
    for _ in range(400):
        wish = read_wishes(run, BOOT).get("m")
        if wish is not None and wish.loaded is loaded:
            return wish.host_ns
        await asyncio.sleep(0.005)
    raise AssertionError("nothing was wished")


def test_the_index_tells_every_state(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"

    async def body(bench: Bench) -> None:
        await bench.route("m", entry(tmp_path))
        spec = aspire(models.linear(damaged, seed=1))
        damaged.write_bytes(b"no model")
        bench.models["bad"] = RouteEntry(champion=1, aspired={1: spec})
        bench.models["gone"] = RouteEntry(champion=None, unloaded=True, aliases={"champion": 4})
        bench.models["bare"] = RouteEntry(champion=None)
        bench.table.publish(bench.models)
        for _ in range(400):
            bench.worker.beat.step()
            if bench.worker.fleet.settled():
                break
            await asyncio.sleep(0.005)
        found = {one[0]: one[1:] for one in await index(bench)}
        assert found["m"] == ("1", "READY", "")
        assert found["gone"] == ("4", "UNAVAILABLE", "unloaded")
        assert found["bare"] == ("", "UNAVAILABLE", "it has no champion")
        version, state, reason = found["bad"]
        assert (version, state) == ("1", "UNAVAILABLE")
        assert reason.startswith("worker 0: ")
        assert await index(bench, {"ready": True}) == [("m", "1", "READY", "")]
        assert told(await bench.ask("/v2/repository/index", {"ready": "yes"})) == (400, "malformed_request")
        assert told(await bench.ask("/v2/repository/index", b"[]")) == (400, "malformed_request")
        assert told(await bench.ask("/v2/repository/index", b"{")) == (400, "malformed_request")
        assert told(await bench.ask("/v2/repository/index", b" " * 2**21)) == (413, "payload_too_large")
        assert told(await bench.ask("/v2/repository/index", method="GET")) == (405, "method_not_allowed")

    with_worker(tmp_path / "run", body)


def test_load_and_unload_are_refused_unless_the_setting_is_on(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", entry(tmp_path))
        for path in (LOAD, UNLOAD):
            answer = await bench.ask(path, {})
            assert told(answer) == (403, "not_enabled")
            assert "gateway.repository_control" in answer.json["error"]
        assert (await bench.infer("m", [[1, 2, 3]])).status == 200
        assert not read_wishes(tmp_path / "run", BOOT)

    with_worker(tmp_path / "run", body)


def test_an_unload_returns_when_nothing_of_the_model_can_be_reached_and_a_load_when_all_can(tmp_path: Path) -> None:
    run = tmp_path / "run"

    async def body(bench: Bench) -> None:
        served = entry(tmp_path)
        await bench.route("m", served)
        call = asyncio.ensure_future(bench.ask(UNLOAD, {"parameters": {"unload_dependents": True}}))
        await wished(bench, run, False)
        await bench.route("m", entry(tmp_path, champion=None, unloaded=True))
        await asyncio.sleep(0.15)
        assert not call.done(), "version 1 can still be named"
        await bench.route("m", entry(tmp_path, champion=None, unloaded=True, aspired={}))
        assert (await call).json == {"name": "m", "unload": True}
        assert told(await bench.infer("m", [[1, 2, 3]])) == (503, "not_ready")
        call = asyncio.ensure_future(bench.ask(LOAD))
        await wished(bench, run, True)
        await asyncio.sleep(0.15)
        assert not call.done()
        await bench.route("m", entry(tmp_path, champion=None))
        await asyncio.sleep(0.15)
        assert not call.done(), "nothing routes to it yet"
        await bench.route("m", served)
        assert (await call).json == {"name": "m", "load": True}
        assert (await bench.ask(LOAD, {})).status == 200, "it is loaded already"

    with_worker(run, body, ALLOWED)


def test_what_cannot_be_loaded_or_unloaded_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"

    async def body(bench: Bench) -> None:
        await bench.route("m", entry(tmp_path))
        for parameters in ({"config": "{}"}, {"file:1/model.onnx": "eA=="}):
            answer = await bench.ask(LOAD, {"parameters": parameters})
            assert told(answer) == (400, "malformed_request")
            assert "come from its registration" in answer.json["error"]
        wrong: list[tuple[str, Any]] = [
            (LOAD, {"parameters": {"else": 1}}),
            (UNLOAD, {"parameters": {"unload_dependents": "yes"}}),
            (UNLOAD, {"parameters": []}),
        ]
        for path, body in wrong:
            assert told(await bench.ask(path, body)) == (400, "malformed_request")
        assert told(await bench.ask(LOAD.replace("/m/", "/nope/"), {})) == (404, "model_not_found")
        page = await bench.ask(UNLOAD, {}, headers={"origin": "http://example.org"})
        assert told(page) == (403, "forbidden_origin")
        await bench.route("bare", RouteEntry(champion=None))
        assert told(await bench.ask(LOAD.replace("/m/", "/bare/"), {})) == (409, "illegal_transition")
        await bench.route("m", entry(tmp_path, rollout_id="01"))
        assert told(await bench.ask(UNLOAD, {})) == (409, "rollout_active")
        assert not read_wishes(run, BOOT)

    with_worker(run, body, ALLOWED)


def test_an_unload_that_the_controller_refuses_or_does_not_do_is_withdrawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(repository, "UNLOAD_S", 0.1)

    async def body(bench: Bench) -> None:
        await bench.route("m", entry(tmp_path))
        assert told(await bench.ask(UNLOAD, {})) == (504, "deadline_exceeded")
        assert read_wishes(run, BOOT)["m"].loaded
        monkeypatch.setattr(repository, "UNLOAD_S", 20.0)
        call = asyncio.ensure_future(bench.ask(UNLOAD, {}))
        asked_ns = await wished(bench, run, False)
        await bench.route("m", entry(tmp_path, refused_wish_ns=asked_ns))
        assert told(await call) == (409, "rollout_active")
        assert read_wishes(run, BOOT)["m"].loaded

    with_worker(run, body, ALLOWED)


def test_only_so_many_calls_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "MOST_WAITING", 2)
    monkeypatch.setattr(repository, "UNLOAD_S", 0.3)

    async def body(bench: Bench) -> None:
        await bench.route("m", entry(tmp_path))
        answers = await asyncio.gather(*(bench.ask(UNLOAD, {}) for _ in range(3)))
        assert sorted(answer.status for answer in answers) == [503, 504, 504]
        assert next(a for a in answers if a.status == 503).json["code"] == "overloaded"

    with_worker(tmp_path / "run", body, ALLOWED)
