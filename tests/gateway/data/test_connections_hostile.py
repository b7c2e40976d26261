"""Connections of callers who mean harm, or know no better: the order of answers, memory, answers that nobody reads."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.data.codecs import compression
from gateway.data.predict import PENDING
from tests.gateway.data.test_connections import (
    BODY,
    HEAD,
    LOOPS,
    WHOLE,
    House,
    Loop,
    binary,
    counted,
    heard_by_the_server,
    is_short_way,
    visited,
)

_CHUNKED = (
    HEAD.replace(b"content-length: %d", b"transfer-encoding: chunked") + b"\r\n%x\r\n" % len(BODY) + BODY + b"\r\n"
)


@LOOPS
@pytest.mark.parametrize("way", [b"", b"content-encoding: identity\r\n"], ids=["short", "long"])
@pytest.mark.parametrize(
    ("bad", "status", "why"),
    [
        (b"\x16\x03\x01 hello\r\n\r\n", 400, "this is not HTTP"),
        (b"GET /healthz HTTP/1.1\r\n\r\n" + WHOLE, 400, "no Host"),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n" + WHOLE, 400, "more than one Host"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 21 + b"\r\n", 431, "more than 20 headers"),
        (b"GET /healthz HTTP/1.1\r\nhost: x\r\na: " + b"b" * 3000 + b"\r\n\r\n", 431, "more than 2000 bytes"),
        (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "CONNECT"),
    ],
)
def test_a_bad_request_is_refused_after_the_answers_to_those_before_it(
    tmp_path: Path, bad: bytes, status: int, why: str, way: bytes, new_loop: Loop
) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            caller.say((HEAD + way) % len(BODY) + b"\r\n" + BODY + WHOLE + bad)
            assert [(await caller.hear())[0] for _ in range(2)] == [200, 200]
            refused, headers, body = await caller.hear()
            assert (refused, headers["connection"]) == (status, "close")
            assert why in body["error"]
            assert await caller.is_closed()
        assert counted(tmp_path) == {("v2", "200"): 3}
        assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit, new_loop)


def test_a_head_that_does_not_arrive_in_time_is_refused_after_the_answer_before_it(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        loaded = house.bench.worker.fleet._loaded["m"][1]
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            loaded.batcher._is_scheduled = True  # no turn comes until it is let
            caller.say(WHOLE + b"POST /v2/mo")
            await heard_by_the_server()
            for now_s in (10.0, 10.6, 11.6):
                house.look(now_s)
            caller.say(b"more, which nobody reads")
            await heard_by_the_server()
            loaded.batcher.turn()
            assert [(await caller.hear())[0] for _ in range(2)] == [200, 408]
            assert await caller.is_closed()

    visited(tmp_path, visit)


@LOOPS
def test_a_request_with_a_body_that_asks_for_an_upgrade_is_answered_as_a_plain_one(
    tmp_path: Path, new_loop: Loop
) -> None:
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
    whole = HEAD % len(BODY) + upgrade + BODY
    probe = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + upgrade

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            _, _, wanted = await caller.hear()
            caller.say(probe * 300 + whole + WHOLE)
            for _ in range(300):
                assert (await caller.hear())[2] == {"live": True}
            assert [(await caller.hear())[2] for _ in range(2)] == [wanted, wanted]
            for cut in (10, len(whole) - len(BODY) - 3, len(whole) - 5):
                caller.say(whole[:cut])
                await heard_by_the_server()
                caller.say(whole[cut:])
                assert (await caller.hear())[2] == wanted

    visited(tmp_path, visit, new_loop)


@pytest.mark.parametrize("trailer", [b"a: b\r\n" * 30, b"a: " + b"b" * 1500])
def test_headers_after_a_body_are_bounded_like_those_before_it(tmp_path: Path, trailer: bytes) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(_CHUNKED + b"0\r\ndigest: 1\r\n\r\n")
            assert (await caller.hear())[0] == 200
            caller.say(_CHUNKED + b"0\r\n")
            for _ in range(3):
                await heard_by_the_server()
                caller.say(trailer)
            assert (await caller.hear())[0] == 431
            assert await caller.is_closed()
        assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit)


@LOOPS
@pytest.mark.parametrize("is_closing", [False, True])
def test_a_caller_that_does_not_read_its_answers_is_let_go(tmp_path: Path, is_closing: bool, new_loop: Loop) -> None:
    head, body = binary()

    async def visit(house: House) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", house.port))
            await loop.sock_sendall(sock, WHOLE)
            await heard_by_the_server()
            (connection,) = cast("set[Any]", house.server.server_state.connections)
            for _ in range(500):  # until the kernel takes no more
                if connection.flow.write_paused and connection.cycle.response_complete:
                    break
                if connection.cycle.response_complete:
                    await loop.sock_sendall(sock, head + body)
                await asyncio.sleep(0.005)
            if is_closing:
                connection.transport.close()  # which waits for what is written to be read
            else:
                await loop.sock_sendall(sock, WHOLE)
            await heard_by_the_server()
            assert house.bench.worker.predict.inflight == (0 if is_closing else 1)
            house.look(10.0)
            house.look(10.9)
            await heard_by_the_server()
            assert house.server.server_state.connections
            house.look(11.1)
            await heard_by_the_server()
            assert not house.server.server_state.connections
            assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit, new_loop)


@pytest.mark.parametrize(
    "kind", [b"application/json", b"application/octet-stream\r\ninference-header-content-length: 9"]
)
def test_a_body_takes_memory_as_it_comes_and_not_as_it_is_announced(tmp_path: Path, kind: bytes) -> None:
    head = HEAD.replace(b"application/json", kind) % (1 << 20) + b"\r\n"

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            caller.say(head + b"{")
            await heard_by_the_server()
            (connection,) = cast("set[Any]", house.server.server_state.connections)
            assert len(connection._body) == 1 << 20
            assert bytes(connection._body[:1]) == b"{"

    visited(tmp_path, visit)


@pytest.mark.parametrize("more", [b"", b"content-encoding: identity\r\n"], ids=["short", "long"])
def test_an_idle_connection_keeps_nothing_of_its_last_request(tmp_path: Path, more: bytes) -> None:
    head, body = binary()

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            caller.say(head[:-2] + more + b"\r\n" + body)
            assert (await caller.hear())[0] == 200
            await heard_by_the_server()
            (connection,) = cast("set[Any]", house.server.server_state.connections)
            assert is_short_way(house) is (more == b"")
            if more:
                assert PENDING not in connection.cycle.scope
            else:
                assert not connection.cycle.feeds
                assert connection.cycle.again is None

    visited(tmp_path, visit)


def test_a_version_may_be_let_go_of_while_its_last_answer_is_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, body = binary()
    whole = head[:-2] + b"accept-encoding: gzip\r\n\r\n" + body

    async def visit(house: House) -> None:
        fleet = house.bench.worker.fleet
        compressing = asyncio.Event()
        real = compression.encoded

        async def slowly(*arguments: Any) -> Any:
            compressing.set()
            await heard_by_the_server()
            return await real(*arguments)

        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            monkeypatch.setattr(compression, "encoded", slowly)
            caller.say(whole)
            await asyncio.wait_for(compressing.wait(), 5)
            assert is_short_way(house)
            fleet.holdings.want({})
            fleet.look()
            await asyncio.sleep(0)
            assert not fleet.is_loaded("m", 1)
            head_back = await asyncio.wait_for(caller.reader.readuntil(b"\r\n\r\n"), 5)
            assert b"content-encoding: gzip" in head_back
            await heard_by_the_server()
        assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit)
