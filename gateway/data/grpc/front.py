"""The gRPC server of one worker: what is plugged into what, how it starts and how it stops.

Every worker binds the same port with SO_REUSEPORT; the supervisor has made sure that it is nobody else's. Handlers take
and give bytes. A connection stays with the worker that accepted it. `stop` follows the contract's drain: health says
NOT_SERVING from the start of it, then the port is closed, streams end with UNAVAILABLE, and what is inside is answered.
Event loop only, and one server a process: grpc.aio has one poller.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import grpc
import grpc.aio

from gateway.data.app import Health
from gateway.data.grpc import messages, surface
from gateway.data.grpc.health import HealthService
from gateway.data.grpc.reflection import Reflection
from gateway.data.grpc.service import Inference
from gateway.data.identity import RequestIds
from gateway.data.predict import Predict
from gateway.data.triton import Triton
from gateway.settings import LimitSettings

_STREAMS = 1024  # calls of one connection at once; more wait at the caller's
_HOLD_S, _NOTICE_S = 0.05, 0.02  # new calls wait this long for the port to close; it has closed after this long
_PING_EVERY_MS = 10_000  # callers may ask this often whether the connection lives


class Front(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """All services on one port."""

    def __init__(self, predict: Predict, health: Health, triton: Triton, limits: LimitSettings) -> None:
        ids = RequestIds(time.time_ns, random.getrandbits)
        self._closing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._methods: dict[str, Any] = {}
        self._inference = inference = Inference(predict, ids, limits, self._closing)
        self._add(messages.INFERENCE, "ModelInfer", grpc.unary_unary_rpc_method_handler(inference.infer))
        self._add(messages.INFERENCE, "ModelStreamInfer", grpc.stream_stream_rpc_method_handler(inference.stream))
        answers = surface.answers(health, triton)
        for name, (request, response) in messages.methods(messages.INFERENCE).items():
            if name not in ("ModelInfer", "ModelStreamInfer"):
                answer = answers.get(name) or surface.not_offered(name)
                method = surface.unary(answer, request, response, ids)
                self._add(messages.INFERENCE, name, grpc.unary_unary_rpc_method_handler(method))
        served = HealthService(health.is_ready, self._closing)
        self._add(messages.HEALTH, "Check", grpc.unary_unary_rpc_method_handler(served.check))
        self._add(messages.HEALTH, "Watch", grpc.unary_stream_rpc_method_handler(served.watch))
        services = (messages.INFERENCE, messages.HEALTH, *messages.REFLECTIONS)
        for name in messages.REFLECTIONS:
            handler = grpc.stream_stream_rpc_method_handler(Reflection(name, services).info)
            self._add(name, "ServerReflectionInfo", handler)
        self._server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", limits.body_bytes),  # also after decompression
                ("grpc.max_send_message_length", -1),
                ("grpc.max_concurrent_streams", _STREAMS),
                ("grpc.http2.min_ping_interval_without_data_ms", _PING_EVERY_MS),
            )
        )
        self._server.add_generic_rpc_handlers((self,))

    def _add(self, service: str, method: str, handler: Any) -> None:
        self._methods[f"/{service}/{method}"] = handler

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None makes it UNIMPLEMENTED. Called by grpc."""
        return self._methods.get(handler_call_details.method)

    async def start(self, host: str, port: int) -> int:
        """Listen → the port. Raises RuntimeError when that is not possible."""
        where = f"[{host}]" if ":" in host else host
        bound: int = self._server.add_insecure_port(f"{where}:{port}")
        await self._server.start()
        return bound

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more, end streams, and return when all calls are answered; after `grace_s` they are ended.

        grpc cancels calls that it has read but not yet handed to us when it is told to stop (6 of 8 busy callers,
        measured). So for a moment before that, calls are taken in and not answered: callers that wait send no others.
        """
        if self._closing.done():
            await self._server.stop(grace_s)
            return
        self._inference.hold = asyncio.get_running_loop().create_future()
        await asyncio.sleep(min(_HOLD_S, grace_s))
        self._closing.set_result(None)
        stopping = asyncio.ensure_future(self._server.stop(grace_s))
        await asyncio.sleep(min(_NOTICE_S, grace_s))
        self._inference.hold.set_result(None)
        await stopping
