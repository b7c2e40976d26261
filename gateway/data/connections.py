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
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import problems
from gateway.data.codecs.call import Headers
from gateway.data.doors import Target
from gateway.data.exchange import Exchange
from gateway.data.identity import RequestIds
from gateway.data.predict import JSON_ACCEPTED, PENDING, SLOW, Predict
from gateway.settings import LimitSettings
from registry.errors import Cancelled, HeadersTooLarge, MalformedRequest, ServingError, SlowRequest

_LOOK_EVERY_S = 1.0
# A request with one of these waits for something, or is read in another way: it takes the way of ASGI.
_LONG_WAY = frozenset((b"content-encoding", b"ce-specversion", b"expect", b"transfer-encoding", b"upgrade"))


class Connection(HttpToolsProtocol):
    """One caller's connection. `bounded` makes the class that uvicorn uses."""

    # In the instance's dict they would slow down all the others.
    __slots__ = ("_head", "_held", "_is_fresh", "_is_idle", "_is_small", "_is_whole", "_part", "_since_s", "_waits")

    limits: ClassVar[LimitSettings]
    most_bytes: ClassVar[int]  # of a head
    most_headers: ClassVar[int]
    identify: ClassVar[Callable[[bytes | None], bytes]]
    predict: ClassVar[Predict]
    targets: ClassVar[Mapping[bytes, Target]]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head: tuple[object, int] = (None, 0)  # a head that is not complete yet, and its bytes
        self._waits: tuple[str, object] = ("", None)  # for what, and for which request
        self._since_s = 0.0
        self._is_small = False  # these bytes are not more than a head may have
        self._is_fresh = False  # this request began in these bytes
        self._is_whole = False  # and ended in them, and became an exchange
        self._is_idle = False  # the last exchange is over and no byte has come since
        self._held: tuple[Target, Headers] | None = None  # becomes an exchange if its body ends in these bytes
        self._part = b""  # of that body

    def data_received(self, data: bytes) -> None:
        """Bytes from the caller. Written out rather than added to uvicorn's own: a call more costs a microsecond."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._is_idle = False
        self._is_small = len(data) <= self.most_bytes
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
        if self._is_whole:
            return
        self._is_fresh = False
        if self._held is not None:
            self._take_the_long_way()
        cycle = self.cycle
        if (
            cycle is None
            or cycle.scope is not self.scope  # a head that is not complete
            or not self._is_small
            or len(self.headers) > self.most_headers
            or not self.headers
            or self.headers[0][0] != b"host"  # where clients put it
        ):
            self._check_head(data)

    # What the parser tells. A plain JSON request that is there in one piece becomes an exchange; every other one, and
    # one that follows a request that is not answered yet, becomes uvicorn's cycle and task.

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.scope = cast(Any, {})
        self._is_whole = False
        self._is_fresh = self._is_small

    def on_headers_complete(self) -> None:
        if self._is_fresh and (self.cycle is None or self.cycle.response_complete):
            target = self.targets.get(self.url)
            if target is not None and self.parser.get_method() == b"POST":
                headers = dict(self.headers)
                if self._is_plain(headers):
                    self._held = target, headers
                    self._part = b""
                    return
        self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._part = self._part + body if self._part else body

    def on_message_complete(self) -> None:
        if self._held is None:
            super().on_message_complete()
            return
        (target, headers), self._held = self._held, None
        self._is_whole = True
        identity = type(self).identify(headers.get(b"x-request-id"))
        exchange = Exchange(self, target, identity, time.perf_counter_ns(), headers, self.scope)
        self.cycle = cast(Any, exchange)
        self.predict.take(exchange, target, self._part, headers)

    def _is_plain(self, headers: Headers) -> bool:
        return (
            headers.get(b"content-type") == b"application/json"
            and headers.get(b"accept", b"*/*") in JSON_ACCEPTED
            and b"host" in headers
            and len(self.headers) <= self.most_headers
            and _LONG_WAY.isdisjoint(headers)
            and self.parser.should_keep_alive()
            and (b"connection" not in headers or self._only_keeps_alive(headers[b"connection"]))
            and not self.flow.write_paused
            and not self.server_state.default_headers  # it drains
            and self.limit_concurrency is None
        )

    def _only_keeps_alive(self, connection: bytes) -> bool:
        return connection.lower() == b"keep-alive" and self.parser.get_http_version() == "1.1"

    def _begin_cycle(self) -> None:
        """What uvicorn does from the start of a message to the end of its head."""
        url, headers, scope = self.url, self.headers, cast(Any, self.scope)
        expects = self.expect_100_continue
        super().on_message_begin()
        scope.update(self.scope)
        scope["headers"] = headers
        self.url, self.headers, self.scope, self.expect_100_continue = url, headers, scope, expects
        super().on_headers_complete()

    def _take_the_long_way(self) -> None:
        """The body has not ended: it may be long, or slow."""
        part, self._part, self._held = self._part, b"", None
        self._begin_cycle()
        if part:
            super().on_body(part)

    def free(self, exchange: Exchange) -> None:
        """An exchange is over: begin the request that follows it, if one has come already."""
        self.server_state.total_requests += 1
        if exchange.disconnected:
            return
        if not exchange.keep_alive:
            self.transport.close()
        elif self.pipeline:
            self.on_response_complete()
        else:
            self._is_idle = True

    def connection_lost(self, exc: Exception | None) -> None:
        cycle: object = self.cycle
        if isinstance(cycle, Exchange):
            cycle.abandon()
        elif self.cycle is not None:
            waiting = cast(Any, self.cycle.scope).get(PENDING)
            if waiting is not None and waiting.is_waiting():
                waiting.fail(Cancelled("the caller left before its answer"))
        super().connection_lost(exc)

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
        limits = {"head": self.limits.head_seconds, "body": self.limits.body_seconds, "idle": self.timeout_keep_alive}
        limit_s = limits.get(what)
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
        """What the caller owes: "head", "body", "idle" (the next request, if it likes) or nothing."""
        cycle = self.cycle
        if self.pipeline or self.transport.is_closing():
            return ""  # it waits for us
        if cycle is None or cycle.scope is not self.scope:
            return "head"
        if self._is_idle:
            return "idle"
        if cycle.response_complete:  # bytes after an answer stop uvicorn's own timer, and need not begin a request
            return "head" if self.timeout_keep_alive_task is None else ""
        return "body" if cycle.more_body and not cycle.response_started else ""


def bounded(limits: LimitSettings, predict: Predict, targets: Mapping[bytes, Target]) -> type[Connection]:
    """The class of connections with these limits. targets: who answers a request line's path; may grow."""
    return type(
        "BoundedConnection",
        (Connection,),
        {
            "__slots__": (),
            "limits": limits,
            "predict": predict,
            "targets": targets,
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
