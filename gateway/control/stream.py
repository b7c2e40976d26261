"""Events as they happen (server-sent events), for the console, scripts and `curl -N`.

Invariant: a client that reconnects with `Last-Event-ID` misses nothing: events come from the database by their rising
ids, never from memory. Streams are bounded in number, and end when the controller stops or the caller's token is taken
back.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from gateway.control.line import Line
from gateway.control.operation import Call, request_id, to_json
from gateway.control.principal import Doorkeeper
from gateway.control.resources import Resources, event_json
from registry.catalog import Catalog
from registry.errors import MalformedRequest, Overloaded, ServingError

MOST_STREAMS = 64
_POLL_S = 0.5
_SILENCE_S = 15.0  # a comment line keeps proxies from closing a quiet stream


class EventStream:
    """`GET /api/v1/events`: a page of them, or a stream when the client accepts text/event-stream."""

    def __init__(
        self, resources: Resources, catalog: Catalog, door: Doorkeeper, reads: Line, is_stopping: Callable[[], bool]
    ) -> None:
        self._resources = resources
        self._catalog = catalog
        self._door = door
        self._reads = reads
        self._is_stopping = is_stopping
        self._open = 0

    async def __call__(self, request: Request) -> Response:
        principal = self._door.admit(request.headers, changes_state=False)
        principal.require("viewer")
        headers = {"x-request-id": request_id(request)}
        call = Call(principal, query=dict(request.query_params))
        if "text/event-stream" not in request.headers.get("accept", ""):
            text = await self._reads.run(request, lambda: to_json(self._resources.events(call)))
            return Response(text, 200, headers, "application/json")
        last = request.headers.get("last-event-id") or request.query_params.get("after")
        if last is None:
            after = await anyio.to_thread.run_sync(self._catalog.latest_event_id)
        elif last.isdecimal() and len(last) < 19:
            after = int(last)
        else:
            raise MalformedRequest(f"Last-Event-ID must be an event's id, got {last[:40]!r}")
        if self._open >= MOST_STREAMS:
            raise Overloaded(f"{MOST_STREAMS} event streams are open already", retry_after_s=5.0)
        headers["cache-control"] = "no-cache"
        self._open += 1  # here, and not when it begins: many may be asked for before one has begun
        follow = self._follow(after, call.query.get("model"), request.headers)
        return _Stream(follow, headers, self._closed)

    def _closed(self) -> None:
        self._open -= 1

    def _may_go_on(self, headers: Mapping[str, str]) -> bool:
        try:
            self._door.admit(headers, changes_state=False).require("viewer")
        except ServingError:
            return False
        return not self._is_stopping()

    async def _follow(self, after: int, model: str | None, headers: Mapping[str, str]) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        yield ": events follow\n\n"
        spoke_s = loop.time()
        while True:
            rows = await anyio.to_thread.run_sync(self._catalog.events, after, 100, model)
            if not self._may_go_on(headers):
                return
            for row in rows:
                after = row.id
                yield f"id: {row.id}\nevent: {row.type}\ndata: {json.dumps(event_json(row))}\n\n"
            if rows:
                spoke_s = loop.time()
                continue
            if loop.time() - spoke_s > _SILENCE_S:
                yield ": still here\n\n"
                spoke_s = loop.time()
            await asyncio.sleep(_POLL_S)


class _Stream(StreamingResponse):
    """A stream that says when it is over, also one whose caller left before it began."""

    def __init__(self, events: AsyncIterator[str], headers: Mapping[str, str], closed: Callable[[], None]) -> None:
        super().__init__(events, 200, headers, "text/event-stream")
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()
