"""Connections with bounds: how large a request's head may be, and how long a head or a body may take to arrive.

uvicorn bounds neither, so one caller that sends a header a minute, or half a body, would hold a connection for ever.
A request pays 0.4 us for it (measured): sizes are looked at when a head does not end or comes in a large piece, and
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

import httptools
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

    __slots__ = ("_head", "_since_s", "_waits")  # in the instance's dict they would slow down all the others

    limits: ClassVar[LimitSettings]
    most_bytes: ClassVar[int]  # of a head
    most_headers: ClassVar[int]
    identify: ClassVar[Callable[[bytes | None], bytes]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head: tuple[object, int] = (None, 0)  # a head that is not complete yet, and its bytes
        self._waits: tuple[str, object] = ("", None)  # for what, and for which request
        self._since_s = 0.0

    def data_received(self, data: bytes) -> None:
        """Bytes from the caller. Written out rather than added to uvicorn's own: a call more costs a microsecond."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # Answered as the plain request that it also is, but for a body: the parser would read that as a request.
            if any(
                name == b"transfer-encoding" or (name == b"content-length" and value != b"0")
                for name, value in self.headers
            ):
                self.turn_away(MalformedRequest("a request with a body cannot be upgraded; send it without Upgrade"))
                self._let_go()
                return
        except httptools.HttpParserError:
            self.turn_away(MalformedRequest("this is not HTTP/1.1"))
            return
        cycle = self.cycle
        if (
            cycle is None
            or cycle.scope is not self.scope  # a head that is not complete
            or len(data) > self.most_bytes
            or len(self.headers) > self.most_headers
            or not self.headers
            or self.headers[0][0] != b"host"  # where clients put it
        ):
            self._check_head(data)

    def _check_head(self, data: bytes) -> None:
        headers = self.headers or []
        if len(headers) > self.most_headers:
            most = self.most_headers
            self._refuse_head(f"the request has more than {most} headers, the limit", limit_headers=most)
            return
        complete = self.cycle is not None and self.cycle.scope is self.scope
        if not complete:
            size = len(data) + (self._head[1] if self._head[0] is self.scope else 0)
            self._head = (self.scope, size)
        else:
            size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in headers)
        if size > self.most_bytes:
            most = self.most_bytes
            self._refuse_head(f"the request line and headers have more than {most} bytes, the limit", limit_bytes=most)
        elif complete and all(name != b"host" for name, _ in headers) and self.parser.get_http_version() == "1.1":
            self.turn_away(MalformedRequest("the request has no Host header"))  # RFC 9112, section 3.2
            self._let_go()

    def _refuse_head(self, message: str, **details: int) -> None:
        self.turn_away(HeadersTooLarge(message, **details))
        self._let_go()

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
        if scope is None or self._is_answered():
            self.transport.close()  # there is no request to answer
            return
        self.turn_away(SlowRequest(f"the {what} of the request did not arrive within {limit_s:g} s", limit_s=limit_s))
        scope[SLOW] = limit_s
        self._let_go()

    def _let_go(self) -> None:
        """Tell the app of the request that was turned away, if it has one, that nothing more comes."""
        if self.cycle is not None and self.cycle.scope is self.scope and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _is_answered(self) -> bool:
        """Whether the last request that has begun has its answer."""
        return self.cycle is not None and self.cycle.scope is self.scope and self.cycle.response_complete

    def _awaited(self) -> str:
        """What the caller owes: "head", "body" or nothing."""
        cycle = self.cycle
        if self.pipeline or self.transport.is_closing():
            return ""  # it waits for us
        if cycle is None or cycle.scope is not self.scope:
            return "head"
        if cycle.response_complete:  # bytes after an answer stop uvicorn's own timer, and need not begin a request
            return "head" if self.timeout_keep_alive_task is None else ""
        return "body" if cycle.more_body and not cycle.response_started else ""


def bounded(limits: LimitSettings) -> type[Connection]:
    """The class of connections with these limits."""
    return type(
        "BoundedConnection",
        (Connection,),
        {
            "__slots__": (),
            "limits": limits,
            "most_bytes": limits.head_bytes,
            "most_headers": limits.headers,
            "identify": staticmethod(RequestIds(time.time_ns, random.getrandbits).identify),
        },
    )


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
