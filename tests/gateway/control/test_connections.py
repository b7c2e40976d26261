"""Callers of the control port that say too much, or too little, or do not listen: a real uvicorn, and plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from gateway.control.connections import bounded
from gateway.settings import LimitSettings

LIMITS = LimitSettings(head_bytes=4096, headers=20, head_seconds=0.1, body_seconds=0.2)
Ask = Callable[..., Awaitable[tuple[bytes, float]]]
HEAD = b"POST /echo HTTP/1.1\r\nhost: a\r\n"


async def echo(request: Request) -> Response:
    try:
        return Response(await request.body())
    except ClientDisconnect:
        return Response("nobody reads this")


LONG = bytes(16_000_000)  # more than the kernel takes off our hands


async def long(_: Request) -> Response:
    return Response(LONG)


async def endless(request: Request) -> Response:
    over = request.app.state.over = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(100_000)
                await asyncio.sleep(0)
        finally:
            over.set()

    return StreamingResponse(parts())


async def slow(_: Request) -> Response:
    await asyncio.sleep(0.4)  # longer than any of the limits
    return Response(b"at last")


@dataclass
class Port:
    app: Starlette
    where: tuple[str, int]
    state: uvicorn.server.ServerState

    async def call(self, path: str) -> socket.socket:
        """A caller that has asked for a page and reads nothing of it yet."""
        caller = socket.socket()
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(caller, self.where)
        await loop.sock_sendall(caller, f"GET {path} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        return caller

    async def until_nobody_is_connected(self) -> None:
        async with asyncio.timeout(20):
            while self.state.connections:
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def opened(most: int = 8) -> AsyncIterator[Port]:
    routes = [Route("/long", long), Route("/endless", endless)]
    app = Starlette(routes=[Route("/echo", echo, methods=["POST"]), Route("/slow", slow), *routes])
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_keep_alive=30)
    config.load()
    loop = asyncio.get_running_loop()
    state = uvicorn.server.ServerState()

    def connection() -> asyncio.Protocol:
        return bounded(LIMITS, most)(config=config, server_state=state, app_state={})

    server = await loop.create_server(connection, "127.0.0.1", 0)
    try:
        yield Port(app, server.sockets[0].getsockname(), state)
    finally:
        server.close()
        for _ in range(100):
            if not state.connections:
                break
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[Ask]:
    async with opened() as served:
        yield asking(served)


def asking(served: Port) -> Ask:
    async def ask(*pieces: bytes, pause_s: float = 0.02) -> tuple[bytes, float]:
        """All that is answered to these pieces until the connection is closed, and how long that took."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection(*served.where)
        began_s = loop.time()
        reading = asyncio.create_task(reader.read())
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                if reading.done():
                    break
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            await reading
        writer.close()
        return b"" if reading.exception() else reading.result(), loop.time() - began_s

    return ask


def answer_to(*pieces: bytes, pause_s: float = 0.02) -> tuple[bytes, float]:
    async def run() -> tuple[bytes, float]:
        async with port() as ask:
            return await ask(*pieces, pause_s=pause_s)

    return asyncio.run(run())


def code_of(answer: bytes) -> tuple[int, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["code"]


@pytest.mark.parametrize(
    ("pieces", "status", "code"),
    [
        ((HEAD, b"x: ", *[b"y" * 1000] * 9), 431, "headers_too_large"),
        ((HEAD, *[b"x%d: y\r\n" % number for number in range(30)]), 431, "headers_too_large"),
        ((HEAD + b"x: y\r\n" * 30,), 431, "headers_too_large"),
        ((), 408, "slow_request"),
        ((HEAD,), 408, "slow_request"),
        ((HEAD + b"content-length: 9\r\n\r\n", b"half"), 408, "slow_request"),
        ((b"\r\n", b"\r\n"), 408, "slow_request"),
        ((b"\x16\x03\x01 no HTTP\r\n\r\n",), 400, "malformed_request"),
    ],
)
def test_who_says_too_much_or_too_little_is_turned_away(pieces: tuple[bytes, ...], status: int, code: str) -> None:
    answer, took_s = answer_to(*pieces, pause_s=0.001)
    assert code_of(answer) == (status, code)
    assert took_s < 10  # uvicorn by itself waits for ever, or for 30 s


def test_a_head_that_comes_byte_by_byte_does_not_buy_time() -> None:
    answer, took_s = answer_to(*[bytes([byte]) for byte in HEAD * 10], pause_s=0.01)
    assert code_of(answer) == (408, "slow_request")
    assert took_s < 3


def test_blank_lines_after_an_answer_do_not_keep_a_connection() -> None:
    whole = HEAD + b"content-length: 2\r\n\r\nok"
    answer, took_s = answer_to(whole, *[b"\r\n"] * 300, pause_s=0.01)
    assert answer.startswith(b"HTTP/1.1 200")
    assert code_of(answer.partition(b"ok")[2]) == (408, "slow_request")
    assert took_s < 3


def test_others_are_answered_as_ever() -> None:
    whole = HEAD + b"content-length: 2\r\n\r\nok"
    last = HEAD + b"connection: close\r\n"
    pipelined, _ = answer_to(whole * 199 + last + b"content-length: 2\r\n\r\nok")  # more bytes than a head may have
    assert pipelined.count(b"HTTP/1.1 200") == 200
    chunked, _ = answer_to(last + b"transfer-encoding: chunked\r\n\r\n", b"2\r\nok\r\n", b"0\r\n\r\n")
    assert chunked.endswith(b"\r\n\r\nok")
    waited, took_s = answer_to(b"GET /slow HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert waited.endswith(b"at last")
    assert took_s > 0.4


@pytest.mark.parametrize("path", ["/long", "/endless"])
def test_who_does_not_read_its_answer_is_let_go(path: str) -> None:
    async def run() -> bool:
        async with opened() as served:
            callers = [await served.call(path) for _ in range(3)]
            while len(served.state.connections) < 3:
                await asyncio.sleep(0.01)
            await served.until_nobody_is_connected()
            for caller in callers:
                caller.close()
            return path == "/long" or await asyncio.wait_for(served.app.state.over.wait(), 10)

    assert asyncio.run(run())


def test_who_reads_slowly_gets_all_of_its_answer() -> None:
    async def run() -> tuple[int, float]:
        async with opened() as served:
            loop, caller, size = asyncio.get_running_loop(), await served.call("/long"), 0
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            began_s = loop.time()
            while size < len(LONG):
                part = await loop.sock_recv(caller, 1 << 20)
                if not part:
                    break
                size += len(part)
                await asyncio.sleep(0.02)
            caller.close()
            return size, loop.time() - began_s

    size, took_s = asyncio.run(run())
    assert size > len(LONG)  # with its head
    assert took_s > LIMITS.body_seconds


def test_of_very_many_connections_the_last_are_refused_and_told_when_to_come_again() -> None:
    async def run() -> tuple[bytes, bytes]:
        async with opened(most=2) as served:
            callers = [await served.call("/slow") for _ in range(2)]
            while len(served.state.connections) < 2:
                await asyncio.sleep(0.01)
            refused, _ = await asking(served)()
            for caller in callers:
                caller.close()
            await served.until_nobody_is_connected()
            later, _ = await asking(served)(HEAD + b"connection: close\r\ncontent-length: 2\r\n\r\nok")
            return refused, later

    refused, later = asyncio.run(run())
    assert code_of(refused) == (503, "overloaded")
    assert b"\r\nretry-after: 1\r\n" in refused
    assert later.endswith(b"ok")
