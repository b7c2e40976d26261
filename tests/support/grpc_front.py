"""A worker's gRPC front on a real port, and a client, in one event loop."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from gateway.data.grpc import messages
from gateway.data.grpc.front import Front
from gateway.settings import Settings
from tests.support.serving import Bench, with_worker

SERVICE = messages.INFERENCE


@dataclass
class Caller:
    """Calls over one channel. Messages are ours, which are the protocol's."""

    channel: Any
    port: int
    front: Front

    async def ask(self, method: str, of: str = SERVICE, *, body: bytes | None = None, **fields: Any) -> Any:
        """One unary call → its response. Raises grpc.aio.AioRpcError."""
        request, response = messages.methods(of)[method]
        call = self.channel.unary_unary(f"/{of}/{method}", response_deserializer=response.FromString)
        return await call(request(**fields).SerializeToString() if body is None else body)

    def infer(self, message: Any, **options: Any) -> Any:
        """A ModelInfer call on its way."""
        call = self.channel.unary_unary(
            f"/{SERVICE}/ModelInfer", response_deserializer=messages.ModelInferResponse.FromString
        )
        return call(message if isinstance(message, bytes) else message.SerializeToString(), **options)

    def stream(self, **options: Any) -> Any:
        """An open ModelStreamInfer call; requests are written as bytes."""
        return self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", response_deserializer=messages.ModelStreamInferResponse.FromString
        )(**options)


def request_of(model: str, rows: Any, **fields: Any) -> Any:
    """A ModelInferRequest with raw rows of FP32 on input `x`."""
    array = np.asarray(rows, dtype=np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": array.shape}
    return messages.ModelInferRequest(model_name=model, inputs=[tensor], raw_input_contents=[array.tobytes()], **fields)


def array_of(response: Any, index: int = 0) -> Any:
    """An FP32 output of a response."""
    shape = list(response.outputs[index].shape)
    return np.frombuffer(response.raw_output_contents[index], np.float32).reshape(shape)


def with_front(run: Path, body: Callable[[Bench, Caller], Awaitable[None]], settings: Settings | None = None) -> None:
    """Run a coroutine with a worker that also listens for gRPC, and close everything after it."""

    async def main(bench: Bench) -> None:
        worker = bench.worker
        front = Front(worker.predict, worker.health, worker.triton, (settings or Settings()).gateway.limits)
        port = await front.start("127.0.0.1", 0)
        options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            try:
                await body(bench, Caller(channel, port, front))
            finally:
                with contextlib.suppress(Exception):  # a test may have stopped it
                    await front.stop(0.0)

    with_worker(run, main, settings)
