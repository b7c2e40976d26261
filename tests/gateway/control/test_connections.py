"""Callers of the control port that say too much, or too little: a real uvicorn, and plain sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
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


async def slow(_: Request) -> Response:
    await asyncio.sleep(0.4)  # longer than any of the limits
    return Response(b"at last")


@contextlib.asynccontextmanager
async def port() -> AsyncIterator[Ask]:
    app = Starlette(routes=[Route("/echo", echo, methods=["POST"]), Route("/slow", slow)])
    config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_keep_alive=30)
    config.load()
    loop = asyncio.get_running_loop()
    state = uvicorn.server.ServerState()

    def connection() -> asyncio.Protocol:
        return bounded(LIMITS)(config=config, server_state=state, app_state={})

    server = await loop.create_server(connection, "127.0.0.1", 0)
    where = server.sockets[0].getsockname()

    async def ask(*pieces: bytes, pause_s: float = 0.02) -> tuple[bytes, float]:
        """All that is answered to these pieces until the connection is closed, and how long that took."""
        reader, writer = await asyncio.open_connection(*where)
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

    try:
        yield ask
    finally:
        server.close()
        for _ in range(100):
            if not state.connections:
                break
            await asyncio.sleep(0.01)


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
