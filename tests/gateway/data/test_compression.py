"""Compressed bodies: what was compressed comes back, what would burst is stopped before it does."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data.codecs import compression
from gateway.data.routes import RouteEntry
from gateway.settings import GatewaySettings, LimitSettings, Settings
from registry.errors import CallerError, MalformedRequest, PayloadTooLarge, ServingError, UnsupportedMedia
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker

MIB = 1 << 20
LIMITS = LimitSettings(body_bytes=4 * MIB, decompression_ratio=100)


def bare(body: bytes) -> bytes:
    squeezer = zlib.compressobj(wbits=-15)
    return squeezer.compress(body) + squeezer.flush()


def decoded(body: bytes, encoding: str, limits: LimitSettings = LIMITS) -> bytes:
    return asyncio.run(compression.decoded(body, {b"content-encoding": encoding.encode()}, limits))


@given(st.binary(max_size=3000))
@settings(deadline=None, max_examples=30)
def test_what_was_compressed_comes_back(body: bytes) -> None:
    for encoding, squeezed in (
        ("gzip", gzip.compress(body)),
        ("x-gzip", gzip.compress(body[:10]) + gzip.compress(body[10:])),
        (" GZIP", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("deflate", bare(body)),
        ("identity", body),
        ("", body),
    ):
        assert decoded(squeezed, encoding) == body


@given(st.binary(max_size=200), st.sampled_from(["gzip", "deflate"]), st.booleans())
@settings(deadline=None, max_examples=50)
def test_no_octets_make_anything_but_a_body_or_a_callers_error(octets: bytes, encoding: str, looks_real: bool) -> None:
    body = (gzip.compress(b"x" * 50)[:-4] if encoding == "gzip" else zlib.compress(b"x" * 50)[:-2]) + octets
    with contextlib.suppress(CallerError):
        decoded(body if looks_real else octets, encoding)


@pytest.mark.parametrize(
    ("body", "encoding", "error"),
    [
        (gzip.compress(b"a" * 100, mtime=0)[:-1], "gzip", MalformedRequest),
        (gzip.compress(b"a" * 100, mtime=0) + b"tail", "gzip", MalformedRequest),
        (gzip.compress(b"", mtime=0) * 100, "gzip", MalformedRequest),
        (zlib.compress(b"a" * 100)[:-1], "deflate", MalformedRequest),
        (zlib.compress(b"a" * 100) + b"tail", "deflate", MalformedRequest),
        (b"", "gzip", MalformedRequest),
        (b"", "deflate", MalformedRequest),
        (gzip.compress(b"\0" * (3 * MIB), mtime=0), "gzip", PayloadTooLarge),  # 1:1000, above 1 MiB
        (gzip.compress(bytes(range(256)) * 20 * 1024, mtime=0), "gzip", PayloadTooLarge),  # 5 MiB
        (b"x", "br", UnsupportedMedia),
        (b"x", "gzip, gzip", UnsupportedMedia),
        (b"x", "é" * 100, UnsupportedMedia),
    ],
)
def test_what_is_damaged_bursting_or_unknown_is_refused(body: bytes, encoding: str, error: type[ServingError]) -> None:
    with pytest.raises(error) as caught:
        decoded(body, encoding)
    if error is UnsupportedMedia:
        assert caught.value.details["accept_encoding"] == "gzip, deflate"


def test_a_small_body_may_be_all_zeros() -> None:
    zeros = b"\0" * 602_112
    assert decoded(gzip.compress(zeros), "gzip") == zeros


def test_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    bomb = gzip.compress(b"\0" * (24 * MIB), 1)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge):
            decoded(bomb, "gzip", LimitSettings(body_bytes=4 * MIB, decompression_ratio=10_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * MIB


@pytest.mark.parametrize(
    ("accept", "encoding"),
    [
        ("gzip, deflate, br", "gzip"),
        ("deflate", "deflate"),
        ("deflate, gzip;q=0.5", "deflate"),
        ("*", "gzip"),
        ("*;q=0", None),
        ("gzip;q=0", None),
        ("gzip;q=x", None),
        ("identity;q=1, gzip;q=0.5", None),
        ("br", None),
        ("", None),
        ("gzip" + "," * 10_000, "gzip"),
    ],
)
def test_the_encoding_is_the_one_that_the_caller_prefers(accept: str, encoding: str | None) -> None:
    found = compression.wanted(accept.encode())
    assert found == (None if encoding is None else encoding.encode())


def test_requests_and_answers_are_compressed_on_the_route(tmp_path: Path) -> None:
    rows = [[float(i), 1.0, 2.0] for i in range(400)]
    body = orjson.dumps({"inputs": [{"name": "x", "shape": [400, 3], "datatype": "FP32", "data": rows}]})

    async def check(bench: Bench) -> None:
        version = aspire(models.linear(tmp_path / "a.onnx"))
        await bench.route("m", RouteEntry(champion=1, aspired={1: version}))
        plain = await bench.ask("/v2/models/m/infer", body)
        assert "content-encoding" not in plain.headers
        for encoding, squeezed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
            asked = {"content-encoding": encoding, "accept-encoding": encoding}
            answer = await bench.ask("/v2/models/m/infer", squeezed, headers=asked)
            assert answer.headers["content-encoding"] == encoding
            assert int(answer.headers["content-length"]) == len(answer.body) < len(plain.body)
            opened = gzip.decompress(answer.body) if encoding == "gzip" else zlib.decompress(answer.body)
            assert opened == plain.body
        small = {"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}]}
        answer = await bench.ask("/v2/models/m/infer", small, headers={"accept-encoding": "gzip"})
        assert "content-encoding" not in answer.headers
        unknown = await bench.ask("/v2/models/m/infer", body, headers={"content-encoding": "br"})
        assert (unknown.status, unknown.headers["accept-encoding"]) == (415, "gzip, deflate")
        bomb = await bench.ask(
            "/v2/models/m/infer", gzip.compress(b" " * (2 * MIB)), headers={"content-encoding": "gzip"}
        )
        assert (bomb.status, bomb.json["code"]) == (413, "payload_too_large")

    limits = LimitSettings(body_bytes=MIB, compress_from_bytes=1000)
    with_worker(tmp_path / "run", check, Settings(gateway=GatewaySettings(limits=limits)))


def test_a_long_answer_is_compressed_away_from_the_loop() -> None:
    turns = 0

    async def main() -> tuple[bytes, Any]:
        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(turn())
        body = orjson.dumps([i * 0.1 for i in range(100_000)])
        answer = await compression.encoded(body, (), b"gzip", LIMITS)
        task.cancel()
        return answer

    body, told = asyncio.run(main())
    assert dict(told)[b"content-encoding"] == b"gzip"
    assert len(gzip.decompress(body)) > len(body)
    assert turns > 3
