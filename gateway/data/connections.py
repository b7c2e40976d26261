"""Connections with bounds: how large a request's head may be, and how long a head or a body may take to arrive.

uvicorn bounds neither, so one caller that sends a header a minute, or half a body, would hold a connection for ever.
A request pays 0.4 us for it (measured): sizes are looked at when a head does not end or comes in a large piece, and
waiting is found by a look at all connections once a second. A caller that is turned away gets the error body of every
other route and a closed connection. Used by the worker; all of it runs on its event loop.
"""

from __future__ import annotations

import asyncio
import http
import logging
import random
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, cast

import httptools
import orjson

from gateway import problems
from gateway.data.codecs.call import Codec, Headers
from gateway.data.codecs.v2_binary import HEADER
from gateway.data.doors import Target
from gateway.data.exchange import Exchange
from gateway.data.identity import RequestIds
from gateway.data.idle_poll import IdlePoll
from gateway.data.long_bodies import LongBodies
from gateway.data.pending import Pending
from gateway.data.predict import JSON_ACCEPTED, PENDING, REFUSED, Predict
from gateway.file_limit import most_files
from gateway.settings import LimitSettings
from registry.errors import Cancelled, HeadersTooLarge, MalformedRequest, Overloaded, ServingError, SlowRequest

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_RETRY_AFTER_S = 1.0
_OTHER_FILES = 256  # that a worker has open beside its connections: lanes, pages, models that are being loaded
_SCRATCH = 1 << 16  # bytes, for what is read before it is known where it belongs
_OCTETS = frozenset((None, b"application/octet-stream"))
# A request with one of these waits for something, or is read in another way: it takes the way of ASGI.
_LONG_WAY = frozenset((b"content-encoding", b"ce-specversion", b"expect", b"transfer-encoding", b"upgrade"))


class Connection(LongBodies):
    """One caller's connection. `bounded` makes the class that uvicorn uses."""

    # In the instance's dict they would slow down all the others.
    __slots__ = (
        "_body_came",
        "_head",
        "_is_after",
        "_is_fresh",
        "_is_idle",
        "_is_small",
        "_is_whole",
        "_last_word",
        "_since_s",
        "_unread",
        "_waits",
    )

    most_connections: ClassVar[int]
    most_bytes: ClassVar[int]  # of a head
    most_headers: ClassVar[int]
    targets: ClassVar[Mapping[bytes, Target]]
    idle_poll: ClassVar[IdlePoll]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head: tuple[object, int] = (None, 0)  # a head or trailers that are not complete yet, and their bytes
        self._waits: tuple[str, object] = ("", None)  # for what, and for which request
        self._unread = 0  # bytes of our answers that were not taken at the last look
        self._since_s = 0.0
        self._is_small = False  # these bytes are not more than a head may have
        self._is_fresh = False  # this request began in these bytes
        self._is_whole = False  # and ended in them, and became an exchange
        self._is_after = False  # a request ended in these bytes, or in those before
        self._is_idle = False  # the last exchange is over and no byte has come since
        self._body_came = False  # in these bytes, for a request whose length was not told
        self._last_word: bytes | None = None  # to be said when all requests before have their answers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A caller has connected; one too many is told so before it asks, and closed."""
        super().connection_made(transport)
        most = self.most_connections
        if len(self.connections) > most:
            told = f"{most} connections are open already, the limit"
            problem = Overloaded(told, retry_after_s=_RETRY_AFTER_S, limit_connections=most)
            nobody = Pending("v2", b"", time.perf_counter_ns())  # who says nothing speaks the protocol of most
            self.predict.failures.refused(problem, nobody, "")
            self.turn_away(problem)

    def data_received(self, data: bytes) -> None:
        """Bytes from the caller. Written out rather than added to uvicorn's own: a call more costs a microsecond."""
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._is_idle = False
        self._is_small = len(data) <= self.most_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_without_upgrade(data, upgrade)
            return
        except httptools.HttpParserError as error:
            self._refuse(error)
            return
        if not self._is_whole:
            self._went_in(len(data))

    def _read_without_upgrade(self, data: bytes, upgrade: httptools.HttpParserUpgrade) -> None:
        """We never upgrade: such a request, and what follows it, is read as the plain request that it also is.

        The parser takes an upgrade for the end of HTTP, and a body for what comes after it.
        """
        rest = memoryview(data)
        while True:
            method = self.parser.get_method()
            if method == b"CONNECT":
                self.turn_away(MalformedRequest("CONNECT is not possible here"))
                return
            version = self.parser.get_http_version().encode()
            lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
            rest = rest[upgrade.args[0] :]
            self.parser = self._new_parser()
            try:
                self.parser.feed_data(b"%b %b HTTP/%b\r\n%b\r\n" % (method, self.url, version, b"".join(lines)))
                self.parser.feed_data(rest)
            except httptools.HttpParserUpgrade as another:
                upgrade = another
            except httptools.HttpParserError as error:
                self._refuse(error)
                return
            else:
                if not self._is_whole:
                    self._went_in(len(rest))
                return

    def _went_in(self, size: int) -> None:
        """So many bytes went through the parser, and left something to wait for."""
        was_fresh, self._is_fresh = self._is_fresh, False
        if self._held is not None and self._body is None:
            self._wait_for_body()
        if self._body is not None:
            self._read_in_bulk(len(self._body) - self._filled)
            self._count(size)
            return
        if self._parts is not None:
            self._is_after = False
            self._read_in_bulk(self._left)
            self._count(size)
            return
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            # Bytes before it are not its own: where there may be some, what the parser has told of it counts.
            self._check_size(_size(self.url, self.headers) if self._is_after else size)
        elif cycle.more_body:  # in chunks, after which as many headers may come as before them
            if self._body_came or was_fresh:
                self._body_came, self._head = False, (self.scope, 0)
            else:
                self._check_size(size)
        self._is_after = False

    # What the parser tells. A plain request becomes an exchange when its body is whole; every other one, and one that
    # follows a request that is not answered yet, becomes uvicorn's cycle and task.

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self.scope = cast(Any, {})
        self._is_whole = False
        self._is_fresh = True

    def on_headers_complete(self) -> None:
        if self._is_fresh and (self.cycle is None or self.cycle.response_complete):
            target = self.targets.get(self.url)
            if target is not None and self.parser.get_method() == b"POST":
                headers = dict(self.headers)
                codec = self._plain_codec(target, headers)
                if codec is not None:
                    self._held = target, codec, headers
                    self._part = b""
                    return
        if self.parser.should_upgrade():
            return  # it comes again without
        self._check_head()
        self._begin_cycle()

    def on_body(self, body: bytes) -> None:
        if self._body is not None:
            self._body[self._filled : self._filled + len(body)] = body
            self._filled += len(body)
            self._parsed = self._filled
        elif self._parts is not None:
            self._left -= len(body)
            if not self.cycle.response_complete:  # else nobody will read it
                self._parts.append(body)
        elif self._held is None:
            self._body_came = True
            super().on_body(body)
        else:
            self._part = self._part + body if self._part else body

    def on_message_complete(self) -> None:
        if self._held is not None:
            self._take()
            return
        if self.parser.should_upgrade():
            return
        self._is_after = True
        parts, self._parts = self._parts, None
        if parts is not None:
            self._read_in_bulk(0)
            self._uncount()
            if not self.cycle.response_complete:
                self.cycle.body = cast(Any, b"".join(parts))
        super().on_message_complete()

    def _take(self) -> None:
        """What is held is whole: it becomes an exchange."""
        assert self._held is not None
        (target, codec, headers), self._held = self._held, None
        self._is_whole = self._is_after = True
        room, self._body = self._body, None
        if room is None:
            body, arrived_ns = self._part, time.perf_counter_ns()
        else:
            self._read_in_bulk(0)
            self._uncount()
            body = bytes(room) if codec.room is None else cast(bytes, room.toreadonly())
            arrived_ns = self._arrived_ns
        self._part = b""
        identity = type(self).identify(headers.get(b"x-request-id"))
        exchange = Exchange(self, codec.protocol, target.model, identity, arrived_ns, headers, self.scope)
        self.cycle = cast(Any, exchange)
        self.predict.take(exchange, codec, target, body, headers)

    def _plain_codec(self, target: Target, headers: Headers) -> Codec | None:
        """Who reads a request that needs nothing but its own bytes to be answered; None: it takes the long way."""
        if headers.get(b"content-type") == b"application/json":
            codec = target.door.json
        elif HEADER in headers and headers.get(b"content-type") in _OCTETS:
            codec = target.door.choose(headers)  # does not refuse these
        else:
            return None
        return codec if self._is_plain(headers) else None

    def _is_plain(self, headers: Headers) -> bool:
        return (
            headers.get(b"accept", b"*/*") in JSON_ACCEPTED
            and b"host" in headers
            and len(headers) == len(self.headers) <= self.most_headers
            and (self._is_small or _size(self.url, self.headers) <= self.most_bytes)
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
        length = self._length(headers)
        if 0 < length <= self.limits.body_bytes and not self.parser.should_upgrade():
            # Given to the app whole: a body of 600 kB in pieces would wake it ten times.
            self._parts, self._left = [], length

    @staticmethod
    def _length(headers: Sequence[tuple[bytes, bytes]]) -> int:
        """Bytes of the body, where the head tells: the parser has refused what is no number."""
        return next((int(value) for name, value in headers if name == b"content-length"), 0)

    def shutdown(self) -> None:
        """uvicorn's last word: a request whose body is still coming is seen as one."""
        if self._held is not None:
            self._take_the_long_way()
        super().shutdown()

    def free(self, exchange: Exchange) -> None:
        """An exchange is over: begin the request that follows it, if one has come already."""
        self.server_state.total_requests += 1
        self.idle_poll.answered()
        if exchange.disconnected:
            return
        if not exchange.keep_alive:
            self.transport.close()
        elif self.pipeline or self._last_word is not None:
            self.on_response_complete()
        else:
            self._is_idle = True

    def on_response_complete(self) -> None:
        """uvicorn's: the request that came next may begin. Here also: what was to be said after the last one."""
        if self._last_word is None or self.pipeline:
            super().on_response_complete()
        elif not self.transport.is_closing():
            self.transport.write(self._last_word)
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up_on_body(MalformedRequest("the caller left before the body was complete"))
        cycle: object = self.cycle
        if isinstance(cycle, Exchange):
            cycle.abandon()
        elif self.cycle is not None:
            waiting = cast(Any, self.cycle.scope).get(PENDING)
            if waiting is not None and waiting.is_waiting():
                waiting.fail(Cancelled("the caller left before its answer"))
        super().connection_lost(exc)

    def _check_head(self) -> None:
        """Raise HeadersTooLarge or MalformedRequest for a complete head that nobody is to answer."""
        headers = self.headers
        if len(headers) > self.most_headers:
            raise self._too_many()
        if not self._is_small and _size(self.url, headers) > self.most_bytes:
            raise self._too_large()
        hosts = [name for name, _ in headers].count(b"host")  # RFC 9112, section 3.2
        if hosts > 1:
            raise MalformedRequest("the request has more than one Host header")
        if not hosts and self.parser.get_http_version() == "1.1":
            raise MalformedRequest("the request has no Host header")

    def _check_size(self, more: int) -> None:
        """Turn away who sends a head, or headers after a body, without end."""
        size = more + (self._head[1] if self._head[0] is self.scope else 0)
        self._head = (self.scope, size)
        if len(self.headers or ()) > self.most_headers:
            self.turn_away(self._too_many())
            self._let_go()
        elif size > self.most_bytes:
            self.turn_away(self._too_large())
            self._let_go()

    def _too_many(self) -> HeadersTooLarge:
        most = self.most_headers
        return HeadersTooLarge(f"the request has more than {most} headers, the limit", limit_headers=most)

    def _too_large(self) -> HeadersTooLarge:
        most = self.most_bytes
        return HeadersTooLarge(f"the request line and headers have more than {most} bytes, the limit", limit_bytes=most)

    def _refuse(self, error: httptools.HttpParserError) -> None:
        """Turn away what the parser, or one of our answers to it, did not take."""
        inner = error.__context__
        if isinstance(inner, ServingError):
            self.turn_away(inner)
            return
        if inner is not None and not isinstance(inner, (httptools.HttpParserInvalidURLError, UnicodeDecodeError)):
            logger.error("a request could not be read", exc_info=inner)
        self.turn_away(MalformedRequest("this is not HTTP/1.1"))

    def turn_away(self, problem: ServingError, rest: int = 0) -> None:
        """Send an error beside any app, after the answers to the requests before, and close.

        rest: bytes that the caller is still sending. They are read and forgotten first: who is cut off while it sends
        may never see the answer.
        """
        if self.transport.is_closing():
            return
        given = dict(self.headers or ()).get(b"x-request-id")
        identity = type(self).identify(given)
        status = http.HTTPStatus(problems.status_of(problem))
        body = orjson.dumps(problems.body_of(problem, identity.decode()))
        retry_after_s = problems.retry_after_s(problem)
        when = b"" if retry_after_s is None else b"retry-after: %d\r\n" % retry_after_s
        answer = (
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b"
            b"connection: close\r\n\r\n%b" % (status, status.phrase.encode(), len(body), identity, when, body)
        )
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.scope is self.scope and not self.pipeline):
            self.transport.write(answer)
            if rest:
                self.parser, self._is_whole = cast(Any, _Deaf(self.transport, rest)), True
            else:
                self.transport.close()
            return
        if cycle.scope is self.scope:
            self.pipeline.popleft()  # it waits for its turn itself
        self._last_word, self.parser, self._is_whole = answer, cast(Any, _Deaf()), True

    def look(self, now_s: float) -> None:
        """Turn away a caller that has kept us waiting too long. Called about once a second."""
        what = self._awaited()
        unread = self.transport.get_write_buffer_size() if what == "answer" else 0
        if what != self._waits[0] or self.scope is not self._waits[1] or unread != self._unread:
            self._waits, self._unread, self._since_s = (what, self.scope), unread, now_s
            return
        limits = {
            "head": self.limits.head_seconds,
            "body": self.limits.body_seconds,
            "idle": self.timeout_keep_alive,
            "answer": self.limits.body_seconds,
            "rest": self.limits.body_seconds,
        }
        limit_s = limits.get(what)
        if limit_s is None or now_s - self._since_s < limit_s:
            return
        if what in ("answer", "rest"):
            self.transport.abort()  # closing would wait for ever for what it does not read
            return
        scope = cast(Any, self.scope)  # None until the first byte
        if scope is None or self._is_answered():
            self.transport.close()  # there is no request to answer
            return
        problem = SlowRequest(f"the {what} of the request did not arrive within {limit_s:g} s", limit_s=limit_s)
        self.turn_away(problem)
        self._give_up_on_body(problem)
        scope[REFUSED] = problem
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
        """What the caller owes: "head", "body", "rest" (of a refused body), "answer" (reading it), "idle" (another
        request, if any) or nothing.
        """
        cycle = self.cycle
        if self.flow.write_paused or self.transport.is_closing():
            return "answer"
        if self.pipeline or self._last_word is not None:
            return ""  # it waits for us
        if isinstance(self.parser, _Deaf):
            return "rest"
        if self._held is not None:
            return "body"
        if cycle is None or cycle.scope is not self.scope:
            return "head"
        if self._is_idle:
            return "idle"
        if cycle.response_complete:  # bytes after an answer stop uvicorn's own timer, and need not begin a request
            return "head" if self.timeout_keep_alive_task is None else ""
        return "body" if cycle.more_body and not cycle.response_started else ""


class _Deaf:
    """A parser for a connection that will be closed: whatever else comes is not read.

    transport: closed when so many bytes more have come; None: somebody else closes it.
    """

    def __init__(self, transport: asyncio.Transport | None = None, rest: int = 0) -> None:
        self._transport = transport
        self._rest = rest

    def feed_data(self, data: bytes) -> None:
        """Pass over it."""
        self._rest -= len(data)
        if self._transport is not None and self._rest <= 0:
            self._transport.close()


def bounded(
    limits: LimitSettings, predict: Predict, targets: Mapping[bytes, Target], idle_poll: IdlePoll
) -> type[Connection]:
    """The class of connections with these limits. targets: who answers a request line's path; may grow."""
    return type(
        "BoundedConnection",
        (Connection,),
        {
            "__slots__": (),
            "limits": limits,
            "predict": predict,
            "targets": targets,
            "idle_poll": idle_poll,
            "scratch": memoryview(bytearray(_SCRATCH)),
            "most_connections": max(1, min(limits.connections, most_files() - _OTHER_FILES)),
            "most_bytes": limits.head_bytes,
            "most_headers": limits.headers,
            "identify": staticmethod(RequestIds(time.time_ns, random.getrandbits).identify),
        },
    )


def _size(url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    return len(url) + sum(len(name) + len(value) + 4 for name, value in headers)


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
