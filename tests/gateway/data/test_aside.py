"""Bodies that take many times their size while they are read: how many at once, and how many times."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import tracemalloc
from collections.abc import Callable
from gzip import compress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.data.codecs import compression, json_body, tables
from gateway.data.codecs.frame import doubles
from gateway.data.routes import RouteEntry
from registry.errors import MalformedRequest
from tests.support import models
from tests.support.serving import Answer, Bench, aspire, with_worker

CSV = b"x0,x1,x2\n" + b"1,2,3\n" * 20_000
MOST = 2


class Gate:
    """A function that waits for its release, and says how many calls of it are inside."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self.inside = self.most = 0
        self.opened = threading.Event()
        self._lock = threading.Lock()
        self._real = real

    def __call__(self, *given: Any) -> Any:
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.opened.wait(20)
        with self._lock:
            self.inside -= 1
        return self._real(*given)


@pytest.mark.parametrize("is_inflated", [False, True])
def test_few_long_bodies_are_read_at_once_and_all_that_wait_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_inflated: bool
) -> None:
    module, name = (compression, "_gunzip") if is_inflated else (tables, "read_csv")
    gate = Gate(getattr(module, name))
    monkeypatch.setattr(module, name, gate)
    noise = np.random.default_rng(0).bytes(70_000).hex().encode()
    body = compress(b'{"instances": [[1, 2, 3]], "more": "%s"}' % noise) if is_inflated else CSV
    headers = {"content-encoding": "gzip"} if is_inflated else {"content-type": "text/csv"}

    async def ask(bench: Bench) -> Answer:
        return await bench.ask("/v1/models/m:predict" if is_inflated else "/invocations", body, headers=headers)

    async def visit(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "m.onnx"))}))
        asked = [asyncio.ensure_future(ask(bench)) for _ in range(5)]
        for _ in range(1000):
            await asyncio.sleep(0.001)
            if gate.inside == MOST:
                break
        predict = bench.worker.predict
        assert predict.bodies.now_bytes == 5 * len(body)
        short = await bench.ask("/invocations", b'{"instances": [[1, 2, 3]]}')
        assert short.status == 200  # others wait for nobody
        gate.opened.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 5
        assert gate.most == MOST
        assert predict.bodies.now_bytes == 0

    with_worker(tmp_path / "run", visit)


def test_a_body_that_cannot_be_read_leaves_its_place(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "m.onnx"))}))
        kinds = {"content-type": "text/csv"}
        for body in (CSV + b'"', CSV + b"1,2\n", CSV + b"1,2,z\n"):  # no CSV, not even, no numbers
            for _ in range(MOST):
                assert (await bench.ask("/invocations", body, headers=kinds)).status == 400
        zipped = {"content-encoding": "gzip"}
        for _ in range(MOST + 1):
            assert (await bench.ask("/invocations", b"\x1f\x8b" * 4096, headers=zipped)).status == 400
        assert (await bench.ask("/invocations", CSV, headers=kinds)).status == 200
        assert (await bench.ask("/invocations", compress(CSV, 0), headers={**kinds, **zipped})).status == 200

    with_worker(tmp_path / "run", visit)


def peak_bytes(work: Callable[[], object]) -> int:
    """The most memory that Python and numpy had for it at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("unit", [b'"', b"\\", b'\\"', b"]", b'"",'])
def test_looking_for_brackets_takes_a_few_times_the_body(unit: bytes) -> None:
    body = b'{"a":"' + unit * (1 << 18) + b"[" * 200

    def look() -> None:
        with contextlib.suppress(MalformedRequest):
            json_body.check_depth(body, 100)

    assert peak_bytes(look) < 12 * len(body)


def test_cells_of_text_become_numbers_one_by_one() -> None:
    rows = [["1.5"] for _ in range(100_000)]
    assert peak_bytes(lambda: doubles(rows)) < 2.5 * 8 * len(rows)
    assert doubles([["1", ""], ["x", "-2e3"]]).tolist()[1] == [np.inf, -2000.0]
    with pytest.raises(ValueError, match="lengths"):
        doubles([["1"], ["1", "2"]])
