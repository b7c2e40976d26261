"""The control port when many ask at once, or somebody who may no longer: nobody keeps an operator from a rollback."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.control.api import MOST_READS_WAITING, MOST_SCRAPES_WAITING, READS_AT_ONCE
from gateway.control.stream import MOST_STREAMS
from gateway.settings import ControlSettings, Settings
from registry.vocabulary import LoadState
from tests.gateway.control.test_api import BASE, Port
from tests.gateway.control.world import World

TOKEN = "a-token-of-20-letters"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    world = World(tmp_path)
    made = Port(world)
    for content in ("one", "two"):
        world.add(content)
    world.champion(1)
    world.settle(made.worker)
    yield made
    world.close()


class Listener:
    """One client that can leave: of the event stream, or of another page."""

    def __init__(self, port: Port, headers: dict[str, str] | None = None, path: str = "/api/v1/events") -> None:
        self._port = port
        self._path = path
        self._leaves = asyncio.Event()
        self.status = 0
        self.text = b""
        self.headers: dict[bytes, bytes] = {}
        sent = {"host": "127.0.0.1", "accept": "text/event-stream", "last-event-id": "0", **(headers or {})}
        self._headers = [(name.encode(), value.encode()) for name, value in sent.items()]
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        scope = {"type": "http", "method": "GET", "path": self._path, "headers": self._headers}
        await self._port.app({**scope, "query_string": b""}, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.headers.update(message.get("headers", ()))
        self.text += message.get("body", b"")

    async def leave(self) -> None:
        self._leaves.set()
        await self.task


def test_of_streams_that_are_asked_for_at_once_no_more_are_opened_than_may_be(port: Port) -> None:
    async def run() -> tuple[list[int], list[int]]:
        asked = [Listener(port) for _ in range(MOST_STREAMS + 20)]
        while any(each.status == 0 for each in asked):
            await asyncio.sleep(0.01)
        await asyncio.gather(*(each.leave() for each in asked))
        later = [Listener(port) for _ in range(MOST_STREAMS)]
        while any(each.status == 0 for each in later):
            await asyncio.sleep(0.01)
        await asyncio.gather(*(each.leave() for each in later))
        return [each.status for each in asked], [each.status for each in later]

    at_once, later = asyncio.run(asyncio.wait_for(run(), 20))
    assert sorted(at_once) == [200] * MOST_STREAMS + [503] * 20
    assert later == [200] * MOST_STREAMS


def test_a_stream_ends_when_its_token_is_taken_back(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"bo viewer {TOKEN}\n")
    world = World(tmp_path / "home", Settings(control=ControlSettings(host="0.0.0.0", token_file=str(file))))
    port = Port(world)
    world.catalog.append_event("test.one", actor="t")

    async def run() -> Listener:
        listener = Listener(port, {"authorization": f"Bearer {TOKEN}"})
        while b"test.one" not in listener.text:
            await asyncio.sleep(0.01)
        file.write_text("# nobody\n")
        world.catalog.append_event("test.two", actor="t")
        await asyncio.wait_for(listener.task, 5)
        return listener

    listener = asyncio.run(run())
    assert listener.status == 200
    assert b"test.two" not in listener.text
    world.close()


async def _told(scrapers: list[Listener]) -> list[Listener]:
    """Those that have an answer, once the others wait."""
    for _ in range(20):
        await asyncio.sleep(0.005)
    return [each for each in scrapers if each.status]


def test_beyond_a_short_line_scrapes_are_refused_and_the_others_get_theirs(port: Port) -> None:
    async def run() -> tuple[list[Listener], list[Listener]]:
        with port.world.controller.watch_lock:  # a scrape that takes long
            asked = [Listener(port, path="/metrics") for _ in range(1 + MOST_SCRAPES_WAITING + 30)]
            refused = await _told(asked)
        await asyncio.gather(*(each.task for each in asked))
        return asked, refused

    asked, refused = asyncio.run(asyncio.wait_for(run(), 20))
    assert [each.status for each in refused] == [503] * 30
    assert all(each.headers[b"retry-after"] == b"5" for each in refused)
    assert all(json.loads(each.text)["code"] == "overloaded" for each in refused)
    written = [each for each in asked if each not in refused]
    assert [each.status for each in written] == [200] * (1 + MOST_SCRAPES_WAITING)
    assert all(b"driftgate_build_info{" in each.text for each in written)


def test_a_scraper_that_left_gives_up_its_place_in_the_line(port: Port) -> None:
    async def run() -> list[int]:
        with port.world.controller.watch_lock:
            patient = Listener(port, path="/metrics")
            await _told([patient])
            for _ in range(5):  # crowd after crowd gives up
                crowd = [Listener(port, path="/metrics") for _ in range(MOST_SCRAPES_WAITING)]
                assert not await _told(crowd)
                await asyncio.gather(*(each.leave() for each in crowd))
            last = [Listener(port, path="/metrics") for _ in range(MOST_SCRAPES_WAITING)]
            assert not await _told(last)
        await asyncio.gather(patient.task, *(each.task for each in last))
        return [each.status for each in (patient, *last)]

    assert asyncio.run(asyncio.wait_for(run(), 20)) == [200] * (1 + MOST_SCRAPES_WAITING)


def test_a_crowd_that_reads_keeps_no_operator_from_a_rollback(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    models, go_on, lock = port.world.catalog.models, threading.Event(), threading.Lock()
    working = most = 0

    def slow() -> Any:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        go_on.wait(20)
        with lock:
            working -= 1
        return models()

    monkeypatch.setattr(port.world.catalog, "models", slow)

    async def run() -> tuple[list[Listener], list[Listener], int]:
        transport = httpx.ASGITransport(port.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            crowd = READS_AT_ONCE + MOST_READS_WAITING + 10
            asked = [Listener(port, {"accept": "*/*"}, "/api/v1/models") for _ in range(crowd)]
            try:
                refused = await _told(asked)
                rollback = await asyncio.wait_for(client.post("/api/v1/models/m/rollback", json={}), 10)
            finally:
                go_on.set()
            await asyncio.gather(*(each.task for each in asked))
            return asked, refused, rollback.status_code

    asked, refused, rollback = asyncio.run(asyncio.wait_for(run(), 30))
    assert rollback == 404  # there never was a rollout; what matters is that it is answered
    assert [each.status for each in refused] == [503] * 10
    assert all(each.headers[b"retry-after"] == b"1" for each in refused)
    assert {each.status for each in asked if each not in refused} == {200}
    assert most == READS_AT_ONCE


def test_a_caller_that_cannot_be_watched_is_answered_and_that_is_told(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> int:
        listener = Listener(port, {"accept": "*/*"}, "/api/v1/models")

        async def receive() -> dict[str, Any]:
            raise RuntimeError("no such connection")

        listener._receive = receive  # type: ignore[method-assign]
        await listener.task
        return listener.status

    assert asyncio.run(asyncio.wait_for(run(), 20)) == 200
    assert [record.getMessage() for record in caplog.records] == ["a caller in the line is not watched any more"]


def test_callers_that_wait_for_loads_do_not_keep_an_operator_from_a_rollback(port: Port) -> None:
    async def run() -> tuple[list[int], int]:
        transport = httpx.ASGITransport(port.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE) as client:
            path = "/api/v1/models/m/aliases/champion"
            waiting = [asyncio.create_task(client.post(path, json={"version": 2})) for _ in range(60)]
            await asyncio.sleep(0.2)
            try:
                asked = await asyncio.wait_for(client.post("/api/v1/models/m/rollback", json={}), 5)
            finally:
                port.worker.page.set_load("m", 2, LoadState.FAILED, "no such operator")
                answers = await asyncio.gather(*waiting)
            return [answer.status_code for answer in answers], asked.status_code

    others, asked = asyncio.run(asyncio.wait_for(run(), 30))
    assert asked == 404  # there never was a rollout; what matters is that it is answered
    assert set(others) == {500}


def test_an_item_to_go_on_after_that_no_list_can_have_is_refused(port: Port) -> None:
    answer = port.get(f"models/m/versions?after={'9' * 5000}")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    assert [item["version"] for item in port.get("models/m/versions?after=01").json()["items"]] == [2]


def test_a_caller_that_leaves_in_the_middle_of_its_body_is_no_bug(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    received = iter(({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}))
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/v1/models/m/rollback", "headers": headers}
    asyncio.run(port.app({**scope, "query_string": b""}, receive, send))
    assert sent[0]["status"] == 499
    assert not caplog.records
