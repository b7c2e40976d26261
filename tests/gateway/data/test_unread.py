"""Callers that ask for long answers and do not read them: a worker holds so many bytes, and answers everybody else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.data.unread import Unread
from tests.gateway.data.test_connections import WHOLE, House, visited
from tests.support import models
from tests.support.serving import aspire

NUMBERS = 5_000_000  # 20 MB of text: more than the kernel takes from us for a caller that does not read


def request(size: int, more: bytes = b"") -> bytes:
    tensor = {"name": "size", "shape": [1], "datatype": "INT64", "data": [size]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = (
        b"POST /v2/models/h/infer HTTP/1.1\r\nhost: x\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    return head % (more, len(body)) + body


def connection(size: int) -> SimpleNamespace:
    return SimpleNamespace(transport=SimpleNamespace(get_write_buffer_size=lambda: size))


def test_what_was_read_is_forgotten_when_the_limit_is_reached() -> None:
    lying: list[SimpleNamespace | None] = [None, SimpleNamespace(transport=None)]
    looks = []

    def connections() -> list[SimpleNamespace | None]:
        looks.append(len(lying))
        return lying

    unread = Unread(100, connections)
    assert [unread.has_room(40), unread.has_room(60), len(looks)] == [True, True, 0]
    lying.append(connection(60))
    assert [unread.has_room(40), len(looks)] == [True, 1]
    assert not unread.has_room(41)  # they may still lie somewhere: 60, and this
    assert "60 bytes" in unread.refusal().message
    unread.waiting_bytes = 30  # not with a connection yet
    assert not unread.has_room(41)
    assert "90 bytes" in unread.refusal().message
    assert unread.has_room(10)


def test_one_answer_alone_is_always_given() -> None:
    unread = Unread(100, list)
    assert [unread.has_room(1000), unread.has_room(1000)] == [True, True]


@pytest.mark.slow
@pytest.mark.parametrize("more", [b"", b"accept: application/json; q=1\r\n", b"accept-encoding: gzip\r\n"])
def test_long_answers_are_refused_while_others_lie_unread(tmp_path: Path, more: bytes) -> None:
    async def visit(house: House) -> None:
        version = aspire(models.hungry(tmp_path / "h.onnx"), batch="never", by_rows=False, loops=True)
        await house.bench.route("h", RouteEntry(champion=1, aspired={1: version}))
        predict = house.bench.worker.predict
        predict.callers = house.server.server_state.connections
        predict.unread.most_bytes = 1 << 20
        async with house.caller() as idle, house.caller() as caller:
            idle.say(request(NUMBERS))
            head = await idle.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            caller.say(request(NUMBERS, more))
            status, headers, body = await caller.hear()
            assert (status, body["code"], body["details"]) == (503, "overloaded", {"reason": "answers"})
            assert int(headers["retry-after"]) >= 1
            for say in (request(2), WHOLE):
                caller.say(say)
                assert (await caller.hear())[0] == 200
            await idle.reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            caller.say(request(10_000, more if b"gzip" not in more else b""))
            assert (await caller.hear())[0] == 200
        totals = read_pages(tmp_path / "run")[0].totals["h", 1, "champion"]
        assert totals.failed == 0
        assert totals.codes["v2", "503"] == 1
        assert predict.unread.waiting_bytes == 0

    visited(tmp_path, visit)
