"""Answers over gRPC count as unread until their call has ended, or their stream has taken them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway.data.grpc.messages import ModelInferRequest
from gateway.data.grpc.service import Inference
from gateway.data.routes import RouteEntry
from tests.support import models
from tests.support.grpc_front import Caller, with_front
from tests.support.serving import Bench, aspire

NUMBERS = 50_000


def request(size: int) -> Any:
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="size", datatype="INT64", shape=[1]).contents.int64_contents.append(size)
    return message


async def forgotten(bench: Bench) -> None:
    """The server hears of the end of a call some turns later."""
    for _ in range(1000):
        if not bench.worker.predict.unread.waiting_bytes:
            return
        await asyncio.sleep(0.002)
    raise AssertionError(f"{bench.worker.predict.unread.waiting_bytes} bytes are counted for ever")


def test_answers_are_counted_until_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    count = Inference._count_until_read

    def noted(service: Inference, size: int, context: Any) -> None:
        count(service, size, context)
        counted.append(service._predict.unread.waiting_bytes)

    monkeypatch.setattr(Inference, "_count_until_read", noted)

    async def body(bench: Bench, caller: Caller) -> None:
        version = aspire(models.hungry(tmp_path / "m.onnx"), batch="never", by_rows=False, loops=True)
        await bench.route("m", RouteEntry(champion=1, aspired={1: version}))
        unread = bench.worker.predict.unread
        response = await caller.infer(request(NUMBERS))
        assert len(response.raw_output_contents[0]) == 4 * NUMBERS
        await forgotten(bench)
        assert 4 * NUMBERS < counted[0] < 4 * NUMBERS + 1000
        await caller.infer(request(3))
        assert len(counted) == 1  # a short one is not worth it
        unread.waiting_bytes, unread.most_bytes = 1000, 1001
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await caller.infer(request(NUMBERS))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        unread.waiting_bytes, unread.most_bytes = 0, 1 << 29
        for reads in (5, 1):  # to its end, or the caller leaves
            stream = caller.stream()
            for _ in range(5):
                await stream.write(request(NUMBERS).SerializeToString())
            for _ in range(reads):
                answer = await stream.read()
                assert answer.infer_response.outputs[0].shape == [NUMBERS]
            if reads == 5:
                await stream.done_writing()
                assert await stream.read() is grpc.aio.EOF
            else:
                stream.cancel()
            await forgotten(bench)
        for _ in range(1000):
            if not bench.worker.predict.inflight:
                break
            await asyncio.sleep(0.002)
        await forgotten(bench)
        assert unread.waiting_bytes == 0

    with_front(tmp_path / "run", body)
