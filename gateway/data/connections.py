"""Connections with bounds: how large a request's head may be, and how long a head or a body may take to arrive.

uvicorn bounds neither, so one caller that sends a header a minute, or half a body, would hold a connection for ever.
Nothing here costs a request more than two comparisons: sizes are looked at when a head is complete or does not end, and
waiting is found by a look at all connections once a second. A caller that is turned away gets the error body of every
other route and a closed connection. Used by the worker; all of it runs on its event loop.
"""

from __future__ import annotations

import asyncio
import http
import random
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, ClassVar, cast

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import problems
from gateway.data.identity import RequestIds
from gateway.settings import LimitSettings
from registry.errors import HeadersTooLarge, MalformedRequest, ServingError, SlowRequest

SLOW = "driftgate.slow"  # in the scope of a request whose body did not arrive in time
_LOOK_EVERY_S = 1.0


class Connection(HttpToolsProtocol):
    """One caller's connection. `bounded` makes the class that uvicorn uses."""

    limits: ClassVar[LimitSettings]
    identify: ClassVar[Callable[[bytes | None], bytes]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0  # of a head that is not complete yet
        self._problem: ServingError | None = None
        self._waits: tuple[str, object] = ("", None)  # for what, and for which request
        self._since_s = 0.0

    def data_received(self, data: bytes) -> None:
        """Bytes from the caller."""
        most = self.limits.head_bytes
        if len(data) > most and not self._reads_body() and data.find(b"\r\n\r\n", 0, most + 4) < 0:
            self._problem = self._too_large()
            self.send_400_response("")
            return
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:  # a head that is not complete
            self._head_bytes += len(data)
            if self._head_bytes > most and not self.transport.is_closing():
                self._problem = self._too_large()
                self.send_400_response("")
        elif self._head_bytes:
            self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """A request begins, unless it has too many headers."""
        if len(self.headers) > self.limits.headers:
            self._problem = HeadersTooLarge(
                f"the request has {len(self.headers)} headers, the limit is {self.limits.headers}",
                limit_headers=self.limits.headers,
            )
            raise self._problem  # ends the parsing; `data_received` then answers by `send_400_response`
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Turn the caller away, with the problem that was found or because this is not HTTP, and close."""
        self.turn_away(self._problem or MalformedRequest(msg))

    def turn_away(self, problem: ServingError) -> None:
        """Send an error beside any app, and close."""
        if self.transport.is_closing():
            return
        given = dict(self.headers or ()).get(b"x-request-id")
        identity = type(self).identify(given)
        status = http.HTTPStatus(problems.status_of(problem))
        body = orjson.dumps(problems.body_of(problem, identity.decode()))
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
            b"connection: close\r\n\r\n%b" % (status, status.phrase.encode(), len(body), identity, body)
        )
        self.transport.close()

    def look(self, now_s: float) -> None:
        """Turn away a caller that has kept us waiting too long. Called about once a second."""
        what = self._awaited()
        if what != self._waits[0] or self.scope is not self._waits[1]:
            self._waits, self._since_s = (what, self.scope), now_s
            return
        limit_s = {"head": self.limits.head_seconds, "body": self.limits.body_seconds}.get(what)
        if limit_s is None or now_s - self._since_s < limit_s:
            return
        scope = cast(Any, self.scope)  # None until the first byte
        if scope is None:
            self.transport.close()  # has never said anything, so there is no request to answer
            return
        self.turn_away(SlowRequest(f"the {what} of the request did not arrive within {limit_s:g} s", limit_s=limit_s))
        if what == "body":  # its app hears that nothing more comes, and why
            scope[SLOW] = limit_s
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _reads_body(self) -> bool:
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.more_body

    def _awaited(self) -> str:
        """What the caller owes: "head", "body" or nothing."""
        cycle = self.cycle
        if self.pipeline or self.transport.is_closing():
            return ""  # it waits for us
        if cycle is None or cycle.scope is not self.scope:
            return "head"
        return "body" if cycle.more_body and not cycle.response_started else ""

    def _too_large(self) -> ServingError:
        most = self.limits.head_bytes
        return HeadersTooLarge(f"the request line and headers have more than {most} bytes", limit_bytes=most)


def bounded(limits: LimitSettings) -> type[Connection]:
    """The class of connections with these limits."""
    identify = RequestIds(time.time_ns, random.getrandbits).identify
    return type("BoundedConnection", (Connection,), {"limits": limits, "identify": staticmethod(identify)})


def look(connections: Iterable[object], now_s: float) -> None:
    """One look at all connections."""
    for connection in connections:
        if isinstance(connection, Connection):
            connection.look(now_s)


async def watch(connections: Collection[object]) -> None:
    """Look at the server's connections until cancelled."""
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        look(list(connections), time.monotonic())
