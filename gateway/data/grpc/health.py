"""`grpc.health.v1`: what load balancers and Kubernetes ask.

The whole server (the empty name) and the inference service are SERVING while `/readyz` says ready; a draining worker is
NOT_SERVING before it stops. A watcher is told of each change, and its stream ends with the server's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.protobuf.message import DecodeError

from gateway.data.grpc import messages
from gateway.data.grpc.service import Context, abort
from registry.errors import MalformedRequest, UnknownName

_LOOK_EVERY_S = 0.1
_UNKNOWN = "SERVICE_UNKNOWN"
_KNOWN = frozenset(("", messages.INFERENCE, messages.HEALTH, *messages.REFLECTIONS))

_Request, _Response = messages.methods(messages.HEALTH)["Check"]


class HealthService:
    """Check and Watch."""

    def __init__(self, is_ready: Callable[[], bool], closing: asyncio.Future[None]) -> None:
        self._is_ready = is_ready
        self._closing = closing

    def _status(self, service: str) -> str:
        if service not in _KNOWN:
            return _UNKNOWN
        return "SERVING" if self._is_ready() and not self._closing.done() else "NOT_SERVING"

    async def check(self, body: bytes, context: Context) -> bytes:
        """The status now."""
        service = await _service(body, context)
        status = self._status(service)
        if status == _UNKNOWN:
            await abort(context, UnknownName(f"no service {service!r} here"))
        return bytes(_Response(status=status).SerializeToString())

    async def watch(self, body: bytes, context: Context) -> None:
        """The status now, and after each change, until the server stops."""
        service = await _service(body, context)
        told = ""
        while True:
            status = self._status(service)
            if status != told:
                await context.write(_Response(status=status).SerializeToString())
                told = status
            if self._closing.done():
                return
            await asyncio.wait({self._closing}, timeout=_LOOK_EVERY_S)


async def _service(body: bytes, context: Context) -> str:
    try:
        return str(_Request.FromString(body).service)
    except DecodeError as error:
        await abort(context, MalformedRequest(f"the message cannot be read: {error}"))
        raise AssertionError("abort raises") from error
