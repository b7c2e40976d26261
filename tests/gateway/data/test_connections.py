"""Connections over real sockets: heads that are too large, callers that are too slow, and everybody else unharmed."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import uvicorn
import uvloop
from numpy.typing import NDArray

from gateway.data import connections
from gateway.data.exchange import Exchange
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.settings import GatewaySettings, LimitSettings, Settings
from tests.support import models
from tests.support.server import v2_body
from tests.support.serving import Bench, aspire, with_worker

MOST = 40  # connections
LIMITS = LimitSettings(
    connections=MOST, head_bytes=2000, headers=20, head_seconds=0.5, body_seconds=1.0, body_bytes=1 << 20
)
BODY = v2_body([[1, 2, 3]])
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
WHOLE = HEAD % len(BODY) + b"\r\n" + BODY


class Caller:
    """A socket that says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def say(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def hear(self) -> tuple[int, dict[str, str], Any]:
        """The next answer."""
        raw = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in raw[1:] if line)}
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(raw[0].split(" ")[1]), headers, json.loads(body)

    async def is_closed(self) -> bool:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(1), 2) == b""
        return True


class House:
    """A server on a free port."""

    def __init__(self, port: int, server: uvicorn.Server, bench: Bench) -> None:
        self.port, self.server, self.bench = port, server, bench

    @contextlib.asynccontextmanager
    async def caller(self) -> AsyncIterator[Caller]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield Caller(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def look(self, now_s: float) -> None:
        connections.look(list(self.server.server_state.connections), now_s)


Loop = Callable[[], asyncio.AbstractEventLoop]


def visited(tmp_path: Path, visit: Callable[[House], Awaitable[None]], new_loop: Loop = uvloop.new_event_loop) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"))}))
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            bench.worker.app,
            interface="asgi3",
            http=connections.bounded(LIMITS, bench.worker.predict, bench.worker.app.targets, bench.worker.idle_poll),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.005)
        try:
            await visit(House(sock.getsockname()[1], server, bench))
        finally:
            server.should_exit = True
            await serving
            sock.close()

    with_worker(tmp_path / "run", body, Settings(gateway=GatewaySettings(limits=LIMITS)), new_loop=new_loop)


async def heard_by_the_server() -> None:
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "head",
    [
        b"POST /" + b"x" * 3000,  # never ends
        b"GET /healthz HTTP/1.1\r\na: " + b"x" * 3000 + b"\r\n\r\n",  # ends too late
        b"GET /healthz HTTP/1.1\r\n" + b"a: b\r\n" * 21 + b"\r\n",
        HEAD % len(BODY) + b"a: b\r\n" * 30 + b"\r\n" + BODY,
    ],
)
def test_a_head_that_is_too_large_is_refused_and_closed(tmp_path: Path, head: bytes) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(head)
            status, headers, body = await caller.hear()
            assert (status, body["code"]) == (431, "headers_too_large")
            assert headers["x-request-id"] == body["request_id"]
            assert await caller.is_closed()

    visited(tmp_path, visit)


def test_a_head_in_drops_is_counted_together(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(b"GET /healthz HTTP/1.1\r\n")
            for _ in range(10):
                caller.say(b"a: " + b"x" * 200 + b"\r\n")
                await asyncio.sleep(0.003)
            assert (await caller.hear())[0] == 431

    visited(tmp_path, visit)


def test_what_is_no_http_gets_the_error_body_of_every_route(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(b"\x16\x03\x01 hello\r\n\r\n")
            status, _, body = await caller.hear()
            assert (status, body["code"]) == (400, "malformed_request")
            assert await caller.is_closed()

    visited(tmp_path, visit)


def test_requests_within_the_limits_are_answered_on_one_connection(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            for _ in range(3):
                caller.say(WHOLE)
                assert (await caller.hear())[0] == 200
            for part in (WHOLE[:30], WHOLE[30:150], WHOLE[150:]):  # in pieces
                caller.say(part)
                await asyncio.sleep(0.005)
            assert (await caller.hear())[0] == 200
            caller.say(WHOLE + WHOLE)  # at once
            assert [(await caller.hear())[0] for _ in range(2)] == [200, 200]
            long = b" " * 500_000 + BODY  # far more than a head may have
            caller.say(HEAD % len(long) + b"\r\n" + long)
            assert (await caller.hear())[0] == 200
            house.look(0.0)
            house.look(1.0)  # idle, and owes nothing
            caller.say(WHOLE)
            assert (await caller.hear())[0] == 200

    visited(tmp_path, visit)


@pytest.mark.parametrize("part", [b"", BODY[:20]])
def test_a_body_that_does_not_arrive_in_time_is_refused_and_booked(tmp_path: Path, part: bytes) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(HEAD % len(BODY) + b"x-request-id: mine\r\n\r\n" + part)
            await heard_by_the_server()
            house.look(10.0)
            house.look(10.9)
            assert house.bench.worker.predict.inflight == 1
            house.look(11.1)
            status, headers, body = await caller.hear()
            assert (status, body["code"]) == (408, "slow_request")
            assert headers["x-request-id"] == "mine"
            assert await caller.is_closed()
        assert house.bench.worker.predict.inflight == 0
        assert read_pages(tmp_path / "run")[0].totals["m", 0, ""].codes == {("v2", "408"): 1}

    visited(tmp_path, visit)


@pytest.mark.parametrize("part", [b"POST /v2/mo", b"POST / HTTP/1.1\r\nhost: x\r\n"])
def test_a_head_that_does_not_arrive_in_time_is_refused(tmp_path: Path, part: bytes) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            assert (await caller.hear())[0] == 200
            caller.say(part)
            await heard_by_the_server()
            house.look(10.0)
            house.look(10.6)
            status, _, body = await caller.hear()
            assert (status, body["code"]) == (408, "slow_request")
            assert await caller.is_closed()

    visited(tmp_path, visit)


def test_a_connection_that_never_says_anything_is_closed(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            await heard_by_the_server()
            house.look(10.0)
            house.look(10.6)
            assert await caller.is_closed()

    visited(tmp_path, visit)


@pytest.mark.parametrize(
    ("request_", "status", "more"),
    [(WHOLE, 200, b"\r\n"), (HEAD % (2 << 20) + b"\r\n{", 413, b"x")],
    ids=["an empty line", "a piece of a body that was refused"],
)
def test_bytes_that_begin_no_request_do_not_hold_a_connection(
    tmp_path: Path, request_: bytes, status: int, more: bytes
) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(request_)
            assert (await caller.hear())[0] == status
            caller.say(more)
            await heard_by_the_server()
            house.look(100.0)
            house.look(100.4)
            assert house.server.server_state.connections
            house.look(100.6)
            assert await caller.is_closed()

    visited(tmp_path, visit)


def test_the_body_of_a_request_that_would_be_upgraded_is_not_read_as_another_request(tmp_path: Path) -> None:
    hidden = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(HEAD % len(hidden) + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n")
            await heard_by_the_server()
            caller.say(hidden)
            status, _, body = await caller.hear()
            assert (status, body["code"]) == (400, "malformed_request")
            assert "not JSON" in body["error"]
            caller.say(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
            assert (await caller.hear())[0] == 200

    visited(tmp_path, visit)


def test_the_worker_looks_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LOOK_EVERY_S", 0.05)

    async def visit(house: House) -> None:
        watching = asyncio.create_task(connections.watch(house.server.server_state.connections))
        async with house.caller() as caller:
            caller.say(b"GET /heal")
            assert (await asyncio.wait_for(caller.hear(), 5))[0] == 408
        watching.cancel()

    visited(tmp_path, visit)


# What comes whole is answered without a task (`exchange.py`); nobody may see a difference.


def counted(tmp_path: Path) -> dict[tuple[str, str], int]:
    pages = read_pages(tmp_path / "run")[0]
    found: dict[tuple[str, str], int] = {}
    for totals in pages.totals.values():
        for key, count in totals.codes.items():
            found[key] = found.get(key, 0) + count
    return found


def is_short_way(house: House) -> bool:
    """Whether the last request of the only connection was answered without a task."""
    (connection,) = house.server.server_state.connections
    return isinstance(cast(Any, connection).cycle, Exchange)


VALUES = np.arange(3 * 60_000, dtype=np.float32).reshape(-1, 3)
TENSOR = {"name": "x", "datatype": "FP32", "shape": VALUES.shape}
LOOPS = pytest.mark.parametrize("new_loop", [uvloop.new_event_loop, asyncio.new_event_loop])


def binary(values: NDArray[np.float32] = VALUES, padding: int = 0) -> tuple[bytes, bytes]:
    """A long request's head and body."""
    tensor = {**TENSOR, "shape": values.shape, "parameters": {"binary_data_size": values.nbytes}}
    text = json.dumps({"inputs": [tensor]}).encode() + b" " * padding  # the buffer lies at any address
    body = text + values.tobytes()
    kind = b"application/octet-stream\r\ninference-header-content-length: %d" % len(text)
    return HEAD.replace(b"application/json", kind) % len(body) + b"\r\n", body


@LOOPS
@pytest.mark.parametrize("padding", [0, 1, 7])
def test_a_binary_body_that_comes_in_pieces_is_answered_on_the_short_way(
    tmp_path: Path, padding: int, new_loop: Loop
) -> None:
    head, body = binary(padding=padding)

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)  # from the second request on a path is known
            await caller.hear()
            for size in (len(body), 100_000, 300_000):
                caller.say(head)
                for at in range(0, len(body), size):
                    caller.say(body[at : at + size])
                    await asyncio.sleep(0.01)
                status, _, answer = await caller.hear()
                assert (status, answer["outputs"][0]["shape"][0]) == (200, len(VALUES))
                assert is_short_way(house)
                caller.say(WHOLE)  # a few bytes are read at once, though much was waited for before
                assert (await asyncio.wait_for(caller.hear(), 5))[0] == 200
            plain = json.dumps({"inputs": [{**TENSOR, "data": VALUES.ravel().tolist()}]}).encode()
            caller.say(HEAD % len(plain) + b"\r\n" + plain)
            refused = len(plain) > LIMITS.body_bytes
            status, _, told = await caller.hear()
            assert status == (413 if refused else 200)
            assert refused or told["outputs"][0]["data"] == answer["outputs"][0]["data"]

    visited(tmp_path, visit, new_loop)


@LOOPS
def test_long_bodies_that_follow_one_another_are_each_read_to_their_own_end(tmp_path: Path, new_loop: Loop) -> None:
    rng = np.random.default_rng(7)
    many = [rng.normal(size=(rows, 3)).astype(np.float32) for rows in (60_000, 5_500, 40_000, 21_846, 60_000)]

    session = onnxruntime.InferenceSession(models.linear(tmp_path / "same.onnx"))

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            first = (await caller.hear())[2]["outputs"][0]["data"]
            for at_once in (False, True):
                for values in many:
                    caller.say(b"".join(binary(values)) + WHOLE)
                    if not at_once:
                        await expect(caller, values)
                        assert (await caller.hear())[2]["outputs"][0]["data"] == first
            for values in many:
                await expect(caller, values)
                assert (await caller.hear())[2]["outputs"][0]["data"] == first
        assert counted(tmp_path) == {("v2", "200"): 21}

    async def expect(caller: Caller, values: NDArray[np.float32]) -> None:
        status, _, answer = await asyncio.wait_for(caller.hear(), 10)
        assert status == 200
        (want,) = session.run(None, {"x": values})
        assert answer["outputs"][0]["data"] == want.ravel().tolist()

    visited(tmp_path, visit, new_loop)


async def amid_a_long_body(caller: Caller) -> None:
    """The caller has said the head of its second request, and more than half of the body."""
    head, body = binary()
    caller.say(WHOLE)
    await caller.hear()
    caller.say(head + body[:400_000])
    await heard_by_the_server()


@LOOPS
def test_a_caller_that_leaves_amid_a_long_body_is_booked(tmp_path: Path, new_loop: Loop) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            await amid_a_long_body(caller)
            caller.writer.transport.abort()
            await heard_by_the_server()
        assert counted(tmp_path) == {("v2", "200"): 1, ("v2", "400"): 1}
        assert house.bench.worker.predict.inflight == 0
        assert not house.server.server_state.connections

    visited(tmp_path, visit, new_loop)


@LOOPS
def test_a_long_body_that_does_not_arrive_in_time_is_refused(tmp_path: Path, new_loop: Loop) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            await amid_a_long_body(caller)
            house.look(10.0)
            house.look(11.1)
            assert (await caller.hear())[0] == 408
            assert await caller.is_closed()
        assert counted(tmp_path) == {("v2", "200"): 1, ("v2", "408"): 1}

    visited(tmp_path, visit, new_loop)


@LOOPS
@pytest.mark.parametrize("come", [100, 70_000, 400_000])
def test_a_long_body_that_is_still_coming_when_the_server_drains_is_answered(
    tmp_path: Path, come: int, new_loop: Loop
) -> None:
    head, body = binary()

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            caller.say(head + body)
            _, _, answer = await caller.hear()
            caller.say(head + body[:come])
            await heard_by_the_server()
            (connection,) = house.server.server_state.connections
            connection.shutdown()
            caller.say(body[come:])
            status, headers, again = await asyncio.wait_for(caller.hear(), 10)
            assert (status, headers["connection"]) == (200, "close")
            assert again == answer
            assert await caller.is_closed()

    visited(tmp_path, visit, new_loop)


@pytest.mark.parametrize(
    ("head", "is_short"),
    [
        (b"", True),
        (b"connection: keep-alive\r\naccept: */*\r\nx-routing-key: k\r\n", True),
        (b"accept-encoding: gzip\r\n", True),
        (b"connection: close\r\n", False),
        (b"accept: application/msgpack\r\n", False),
        (b"content-encoding: identity\r\n", False),
        (b"expect: 100-continue\r\n", False),
    ],
)
def test_either_way_gives_the_same_answer(tmp_path: Path, head: bytes, is_short: bool) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)  # the first request of a path is looked up
            await caller.hear()
            caller.say(WHOLE)
            _, wanted, wanted_body = await caller.hear()
            assert is_short_way(house)
            caller.say(HEAD % len(BODY) + b"x-request-id: mine\r\n" + head + b"\r\n" + BODY)
            await heard_by_the_server()
            if b"close" not in head:
                assert is_short_way(house) is is_short
            if b"expect" in head:
                assert (await caller.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            if b"msgpack" in head:
                return
            status, headers, body = await caller.hear()
            assert status == 200
            assert body == wanted_body
            assert headers.pop("x-request-id") == "mine"
            wanted.pop("x-request-id")
            assert headers.pop("connection", "close" if b"close" in head else None) == (
                "close" if b"close" in head else None
            )
            assert headers == wanted
        assert counted(tmp_path) == {("v2", "200"): 3}
        assert house.bench.worker.predict.inflight == 0

    visited(tmp_path, visit)


def test_an_error_on_the_short_way_is_told_and_booked_as_on_the_other(tmp_path: Path) -> None:
    wrong = v2_body([[1, 2]])

    async def visit(house: House) -> None:
        answers = []
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            for head in (b"", b"content-encoding: identity\r\n"):
                caller.say(HEAD % len(wrong) + b"x-request-id: mine\r\n" + head + b"\r\n" + wrong)
                answers.append(await caller.hear())
                assert is_short_way(house) is (head == b"")
            caller.say(WHOLE)
            assert (await caller.hear())[0] == 200
        assert answers[0] == answers[1]
        assert answers[0][0] == 400
        assert counted(tmp_path) == {("v2", "200"): 2, ("v2", "400"): 2}

    visited(tmp_path, visit)


def test_requests_that_follow_one_another_in_one_piece_are_answered_in_order(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            names = [b"r%d" % i for i in range(6)]
            piece = b"".join(HEAD % len(BODY) + b"x-request-id: " + name + b"\r\n\r\n" + BODY for name in names)
            caller.say(piece + b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n" + WHOLE)
            heard = [await caller.hear() for _ in range(8)]
            assert [status for status, _, _ in heard] == [200] * 8
            assert [headers["x-request-id"].encode() for _, headers, _ in heard[:6]] == names
            assert heard[6][2] == {"live": True}

    visited(tmp_path, visit)


def test_a_long_answer_is_compressed_for_whom_accepts_it(tmp_path: Path) -> None:
    body = v2_body([[1, 2, 3]] * 400)

    async def visit(house: House) -> None:
        async with house.caller() as caller:
            caller.say(WHOLE)
            await caller.hear()
            caller.say(HEAD % len(body) + b"\r\n" + body)
            plain = (await caller.hear())[2]
            caller.say(HEAD % len(body) + b"accept-encoding: gzip\r\n\r\n" + body)
            raw = (await caller.reader.readuntil(b"\r\n\r\n")).lower()
            assert b"content-encoding: gzip" in raw
            length = int(raw.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert json.loads(gzip.decompress(await caller.reader.readexactly(length))) == plain
            assert is_short_way(house)

    visited(tmp_path, visit)


@pytest.mark.parametrize("head", [b"", b"content-encoding: identity\r\n"])
def test_a_caller_that_leaves_is_booked_and_its_batch_mates_are_answered(tmp_path: Path, head: bytes) -> None:
    async def visit(house: House) -> None:
        loaded = house.bench.worker.fleet._loaded["m"][1]
        async with house.caller() as caller, house.caller() as mate:
            for one in (caller, mate):
                one.say(WHOLE)
                await one.hear()
            loaded.batcher._is_scheduled = True  # no turn comes until it is let
            for one in (caller, mate):
                one.say(HEAD % len(BODY) + head + b"\r\n" + BODY)
            await heard_by_the_server()
            assert house.bench.worker.predict.inflight == 2
            caller.writer.transport.abort()
            await heard_by_the_server()
            assert house.bench.worker.predict.inflight == 1
            loaded.batcher.turn()
            assert (await mate.hear())[0] == 200
        assert counted(tmp_path) == {("v2", "200"): 3, ("v2", "499"): 1}
        assert house.bench.worker.fleet.traffic("m").inside.waiting == 0

    visited(tmp_path, visit)


def test_answers_say_so_when_the_server_drains_or_closes(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        loaded = house.bench.worker.fleet._loaded["m"][1]
        async with house.caller() as caller, house.caller() as other:
            for one in (caller, other):
                one.say(WHOLE)
                await one.hear()
            loaded.batcher._is_scheduled = True
            caller.say(WHOLE)
            await heard_by_the_server()
            for connection in house.server.server_state.connections:
                if cast(Any, connection).cycle.response_complete is False:
                    connection.shutdown()  # the grace time is over
            house.server.server_state.default_headers = [(b"connection", b"close")]
            other.say(WHOLE)
            await heard_by_the_server()
            loaded.batcher.turn()
            for one in (caller, other):
                status, headers, _ = await one.hear()
                assert (status, headers["connection"]) == (200, "close")
                assert await one.is_closed()

    visited(tmp_path, visit)


def test_an_idle_connection_is_closed_after_the_keep_alive_time(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with house.caller() as caller:
            for _ in range(2):
                caller.say(WHOLE)
                await caller.hear()
            keep_s = house.server.config.timeout_keep_alive
            house.look(100.0)
            house.look(99.9 + keep_s)
            assert house.server.server_state.connections
            house.look(100.1 + keep_s)
            assert await caller.is_closed()

    visited(tmp_path, visit)


def test_a_connection_too_many_is_told_so_and_counted_and_the_others_go_on(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        async with contextlib.AsyncExitStack() as stack:
            callers = [await stack.enter_async_context(house.caller()) for _ in range(MOST)]
            for caller in callers:
                caller.say(WHOLE)
                assert (await caller.hear())[0] == 200
            async with house.caller() as late:
                status, headers, body = await late.hear()
                assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
                assert (body["code"], body["details"]) == ("overloaded", {"limit_connections": MOST})
                assert await late.is_closed()
            (page,) = read_pages(tmp_path / "run")
            assert page.shed == {("", "overloaded"): 1}
            callers[0].say(WHOLE)
            assert (await callers[0].hear())[0] == 200
            callers[1].writer.close()
            await callers[1].writer.wait_closed()
            await heard_by_the_server()
            async with house.caller() as next_one:
                next_one.say(WHOLE)
                assert (await next_one.hear())[0] == 200

    visited(tmp_path, visit)


def test_there_are_never_more_connections_than_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "most_files", lambda: 1024)
    kind = connections.bounded(LimitSettings(), cast(Any, None), {}, cast(Any, None))
    assert kind.most_connections == 1024 - 256
    assert connections.bounded(LIMITS, cast(Any, None), {}, cast(Any, None)).most_connections == MOST
