"""However a stream of requests is cut into pieces on its way, the answers are those to the stream in one piece.

A network may cut anywhere: inside a head, between a head and its body, in a chunk's size. What is read past the parser,
held until it is whole, or queued behind another request must not show it.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np

from tests.gateway.data.test_connections import BODY, HEAD, LOOPS, WHOLE, Caller, House, Loop, binary, visited

_PIPELINED, _ALONE = 4, 1  # streams cut, of requests that do not wait for each other's answers, and of those that do

_rng = np.random.default_rng(11)
_LONG, _SHORT = (binary(_rng.normal(size=(rows, 3)).astype(np.float32), padding=rows % 7) for rows in (5_600, 4))
_IN_CHUNKS = (HEAD + b"\r\n").replace(b"content-length: %d", b"transfer-encoding: chunked")
_WRONG = json.dumps({"inputs": []}).encode()


def _plain(more: bytes = b"", body: bytes = BODY) -> bytes:
    return HEAD % len(body) + more + b"\r\n" + body


REQUESTS = [
    WHOLE,
    b"".join(_LONG),
    _plain(b"connection: keep-alive\r\nx-request-id: mine\r\n"),
    b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n",
    b"".join(_SHORT),
    _IN_CHUNKS + b"5\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nafter: 1\r\n\r\n" % (BODY[:5], len(BODY) - 5, BODY[5:]),
    _plain(body=_WRONG),
    _plain(b"connection: upgrade\r\nupgrade: h2c\r\n"),
    b"".join(_LONG).replace(b"host: x", b"host: x\r\ncontent-encoding: identity"),
    _plain(b"expect: 100-continue\r\n"),
    b"GET /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 40\r\n\r\n" + b"POST / HTTP/1.1\r\nhost: x\r\n\r\n".ljust(40),
    b"\r\n" + _plain(b"content-encoding: identity\r\n"),
    _plain().replace(b"/m/", b"/nobody/"),
    _plain(body=b" " * 70_000 + BODY),
]


def pieces(rng: np.random.Generator, stream: bytes) -> list[bytes]:
    """The stream cut at a few places: some anywhere, most near the end of a line, where heads and bodies meet."""
    lines = [at for at in range(len(stream)) if stream.startswith(b"\r\n", at)]
    near = rng.choice(lines, size=8) + rng.integers(-2, 5, size=8)
    anywhere = rng.integers(1, len(stream), size=6)
    cuts = sorted({*near.clip(1, len(stream) - 1).tolist(), *anywhere.tolist()})
    return [stream[since:until] for since, until in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


async def answers(caller: Caller, count: int) -> list[tuple[int, bytes]]:
    """The next final answers: status and body, without what is new each time."""
    found: list[tuple[int, bytes]] = []
    while len(found) < count:
        head = await caller.reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            continue
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await caller.reader.readexactly(length)
        found.append((int(head[9:12]), body.partition(b',"request_id"')[0]))
    return found


@LOOPS
def test_answers_do_not_depend_on_how_a_stream_of_requests_is_cut(tmp_path: Path, new_loop: Loop) -> None:
    rng = np.random.default_rng(20)

    async def say_in_pieces(caller: Caller, stream: bytes) -> None:
        for piece in pieces(rng, stream):
            caller.say(piece)
            for _ in range(rng.integers(1, 4)):  # the server reads in one of the next rounds of the loop
                await asyncio.sleep(0)

    async def visit(house: House) -> None:
        wanted = []
        for request in REQUESTS:
            async with house.caller() as caller:
                caller.say(request)
                wanted += await answers(caller, 1)
        assert [status for status, _ in wanted].count(200) == len(REQUESTS) - 2
        for turn in range(_PIPELINED + _ALONE):
            house.bench.worker.beat.step()  # or it would not be alive
            order = rng.permutation(len(REQUESTS)).tolist()
            stream = [REQUESTS[at] for at in order]
            async with house.caller() as caller:
                if turn < _PIPELINED:
                    hearing = asyncio.create_task(answers(caller, len(order)))
                    await say_in_pieces(caller, b"".join(stream))
                    heard = await asyncio.wait_for(hearing, 10)
                else:
                    heard = []
                    for request in stream:
                        await say_in_pieces(caller, request)
                        heard += await asyncio.wait_for(answers(caller, 1), 10)
            assert heard == [wanted[at] for at in order]
        assert house.bench.worker.predict.inflight == 0
        assert house.bench.worker.fleet.traffic("m").inside.waiting == 0

    visited(tmp_path, visit, new_loop)
