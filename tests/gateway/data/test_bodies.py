"""Long bodies of many callers at once: bounded together, and nothing of the bound is lost however a body ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from gateway.data import long_bodies
from gateway.data.page_reader import read_pages
from gateway.data.pending import Pending
from gateway.data.predict import Predict
from gateway.settings import GatewaySettings, LimitSettings, Settings
from tests.gateway.data.test_connections import (
    HEAD,
    LIMITS,
    LOOPS,
    WHOLE,
    Caller,
    House,
    Loop,
    binary,
    heard_by_the_server,
    visited,
)
from tests.support.serving import Bench, with_worker

PLAIN_HEAD, BODY = binary()
SIZE = len(BODY)
HALF = SIZE // 2
_CHUNK = b"transfer-encoding: chunked\r\n\r\n%x\r\n" % SIZE
HEADS = {
    "short": PLAIN_HEAD,  # into room for the whole of it, past the parser
    "long": PLAIN_HEAD[:-2] + b"content-encoding: identity\r\n\r\n",  # in parts, to ASGI
    "chunked": PLAIN_HEAD.replace(b"content-length: %d\r\n\r\n" % SIZE, _CHUNK),
}
ENDS = {"short": b"", "long": b"", "chunked": b"\r\n0\r\n\r\n"}
WAYS = pytest.mark.parametrize("way", HEADS)


@pytest.fixture(autouse=True)
def read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has come is read, rather than left with the kernel until there is more of it."""
    monkeypatch.setattr(long_bodies, "_BULK", 1)


def coming(house: House) -> int:
    return house.bench.worker.predict.bodies.now_bytes


async def until(is_true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if is_true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within 5 s")


@contextlib.asynccontextmanager
async def half_sent(house: House, way: str, count: int) -> AsyncIterator[list[Caller]]:
    """So many callers that have sent half a body each, and room for three quarters more."""
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(house.caller()) for _ in range(count)]
        for caller in callers:
            caller.say(WHOLE)
            await caller.hear()
        for caller in callers:
            caller.say(HEADS[way] + BODY[:HALF])
        await heard_by_the_server()
        house.bench.worker.predict.bodies.most_bytes = count * HALF + SIZE * 3 // 4
        assert coming(house) >= count * HALF
        yield callers


@LOOPS
@WAYS
def test_who_sends_more_than_there_is_room_for_is_refused_and_the_others_are_answered(
    tmp_path: Path, way: str, new_loop: Loop
) -> None:
    async def visit(house: House) -> None:
        async with half_sent(house, way, 3) as callers, house.caller() as late:
            late.say(WHOLE)
            await late.hear()
            late.say(HEADS[way] + BODY[:-1])
            status, headers, told = await asyncio.wait_for(late.hear(), 5)
            assert (status, headers["retry-after"], told["code"]) == (503, "1", "overloaded")
            assert told["details"] == {"reason": "bodies"}
            for caller in callers:
                caller.say(BODY[HALF:] + ENDS[way])
                assert (await asyncio.wait_for(caller.hear(), 5))[0] == 200
            await heard_by_the_server()
            assert coming(house) == 0
        (page,) = read_pages(tmp_path / "run")
        assert page.shed == {("m", "bodies"): 1}
        assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit, new_loop)


@WAYS
def test_whole_bodies_count_until_their_requests_have_answers(
    tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, waiting = Predict._submit, list[Pending]()
    whole = HEADS[way] + BODY + ENDS[way]

    async def visit(house: House) -> None:
        predict = house.bench.worker.predict
        async with house.caller() as first, house.caller() as second, house.caller() as late:
            for caller in (first, second, late):
                caller.say(WHOLE)
                await caller.hear()
            monkeypatch.setattr(Predict, "_submit", lambda _, pending: waiting.append(pending))
            predict.bodies.most_bytes = SIZE * 5 // 2
            first.say(whole)
            await until(lambda: len(waiting) == 1)
            second.say(whole)
            await until(lambda: len(waiting) == 2)
            assert coming(house) == 2 * SIZE
            late.say(whole)
            status, headers, told = await asyncio.wait_for(late.hear(), 5)
            assert (status, headers["retry-after"], told["details"]) == (503, "1", {"reason": "bodies"})
            second.writer.transport.abort()
            await until(lambda: coming(house) == SIZE)
            monkeypatch.setattr(Predict, "_submit", submit)
            submit(predict, waiting[0])
            assert (await asyncio.wait_for(first.hear(), 5))[0] == 200
            await until(lambda: coming(house) == 0)

    visited(tmp_path, visit)


@WAYS
def test_to_announce_a_body_takes_nothing_from_others(tmp_path: Path, way: str) -> None:
    async def visit(house: House) -> None:
        async with contextlib.AsyncExitStack() as stack:
            house.bench.worker.predict.bodies.most_bytes = SIZE + 20_000
            for _ in range(20):
                slow = await stack.enter_async_context(house.caller())
                slow.say(HEADS[way] + BODY[:100])
            async with house.caller() as caller:
                caller.say(HEADS[way] + BODY + ENDS[way])
                assert (await asyncio.wait_for(caller.hear(), 5))[0] == 200

    visited(tmp_path, visit)


async def leave(house: House, caller: Caller, way: str) -> None:
    caller.writer.transport.abort()


async def stop_sending(house: House, caller: Caller, way: str) -> None:
    house.look(10.0)
    house.look(11.1)
    assert (await caller.hear())[0] == 408


async def half_close(house: House, caller: Caller, way: str) -> None:
    caller.writer.write_eof()


async def send_too_much(house: House, caller: Caller, way: str) -> None:
    house.bench.worker.predict.bodies.most_bytes = SIZE // 2 + 1000
    caller.say(BODY[HALF:-1])
    assert (await caller.hear())[0] == 503


async def finish_while_it_drains(house: House, caller: Caller, way: str) -> None:
    for connection in house.server.server_state.connections:
        connection.shutdown()
    caller.say(BODY[HALF:] + ENDS[way])
    assert (await caller.hear())[0] == 200


Ending = Callable[[House, Caller, str], Awaitable[None]]


@WAYS
@pytest.mark.parametrize("end", [leave, half_close, stop_sending, send_too_much, finish_while_it_drains])
def test_a_body_counts_no_longer_when_it_is_over(tmp_path: Path, way: str, end: Ending) -> None:
    async def visit(house: House) -> None:
        async with half_sent(house, way, 1) as (caller,):
            await end(house, caller, way)
            await heard_by_the_server()
            assert coming(house) == 0
        assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit)


def test_a_server_that_ends_amid_bodies_ends(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for way in HEADS:
                await stack.enter_async_context(half_sent(house, way, 1))
                house.bench.worker.predict.bodies.most_bytes = 10 * SIZE
            for connection in house.server.server_state.connections:
                connection.shutdown()
                connection.transport.close()
            await heard_by_the_server()
            assert coming(house) == 0

    visited(tmp_path, visit)


@LOOPS
@pytest.mark.parametrize("way", ["short", "long"])
def test_who_is_refused_while_it_sends_hears_it_and_is_closed_when_it_has_sent_all(
    tmp_path: Path, way: str, new_loop: Loop
) -> None:
    async def visit(house: House) -> None:
        async with half_sent(house, way, 1) as (caller,):
            house.bench.worker.predict.bodies.most_bytes = SIZE // 2 + 1000
            caller.say(BODY[HALF : HALF + 100_000])
            await heard_by_the_server()
            assert coming(house) == 0
            assert house.server.server_state.connections
            caller.say(BODY[HALF + 100_000 :])
            status, headers, _ = await caller.hear()
            assert (status, headers["connection"]) == (503, "close")
            assert await asyncio.wait_for(caller.reader.read(), 5) == b""  # an end, no reset

    visited(tmp_path, visit, new_loop)


@pytest.mark.parametrize("way", ["short", "long"])
def test_who_is_refused_and_never_ends_its_body_is_let_go(tmp_path: Path, way: str) -> None:
    async def visit(house: House) -> None:
        async with half_sent(house, way, 1) as (caller,):
            house.bench.worker.predict.bodies.most_bytes = SIZE // 2 + 1000
            caller.say(BODY[HALF : HALF + 100_000])
            assert (await caller.hear())[0] == 503
            house.look(10.0)
            house.look(10.0 + LIMITS.body_seconds - 0.1)
            await heard_by_the_server()
            assert house.server.server_state.connections
            house.look(10.0 + LIMITS.body_seconds + 0.1)
            await heard_by_the_server()
            assert not house.server.server_state.connections

    visited(tmp_path, visit)


def test_a_body_that_nobody_reads_does_not_count(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say((HEAD % SIZE).replace(b"/v2/models/m/infer", b"/nowhere") + b"\r\n" + BODY[:1000])
            assert (await caller.hear())[0] == 404
            caller.say(BODY[1000:-1])
            await heard_by_the_server()
            assert coming(house) == 0
            caller.say(BODY[-1:] + WHOLE)
            assert (await caller.hear())[0] == 200

    visited(tmp_path, visit)


def test_one_body_alone_may_always_come(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        assert house.bench.worker.predict.bodies.most_bytes == LIMITS.incoming_bytes > LIMITS.body_bytes

    visited(tmp_path, visit)
    settings = Settings(gateway=GatewaySettings(limits=LimitSettings(body_bytes=1000, incoming_bytes=10)))

    async def body(bench: Bench) -> None:
        assert bench.worker.predict.bodies.most_bytes == 1000

    with_worker(tmp_path / "other", body, settings)
