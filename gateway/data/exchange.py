"""A request that is answered where it came in: no task, no ASGI messages, one write.

Why: a small model runs in less time than a task, its future and two ASGI messages take, so plain JSON requests that
arrive whole go from the parser to the batcher, and from its run to the socket. Invariant: what a caller sees and what
is booked is what `Predict.infer` would have made of the same bytes; whatever must wait goes that way.
Made by `connections.Connection` for one request; uvicorn sees it as the request's cycle. Event loop only.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Iterable
from typing import Protocol

from gateway.data.codecs import compression
from gateway.data.codecs.call import Answer, Headers
from gateway.data.pending import Pending
from gateway.data.predict import JSON_ONLY, Predict
from gateway.settings import LimitSettings
from registry.errors import Cancelled, ServingError


class Line(Protocol):
    """The connection, as an exchange sees it."""

    @property
    def limits(self) -> LimitSettings: ...
    @property
    def predict(self) -> Predict: ...

    transport: asyncio.Transport
    tasks: set[asyncio.Task[None]]

    def free(self, exchange: Exchange) -> None:
        """The answer is written: the next request may be."""


class _Nobody:
    """Stands where uvicorn wakes the task of a cycle."""

    def set(self) -> None:
        """Nobody sleeps."""


class Exchange(Pending):
    """One request, its connection, and how it is answered."""

    __slots__ = (
        "_accept_encoding",
        "_is_released",
        "_line",
        "_model",
        "disconnected",
        "keep_alive",
        "response_complete",
        "scope",
    )

    message_event = _Nobody()
    more_body = False  # it came whole
    response_started = False

    def __init__(
        self,
        line: Line,
        protocol: str,
        model: str,
        identity: bytes,
        arrived_ns: int,
        headers: Headers,
        scope: object,
    ) -> None:
        super().__init__(protocol, identity, arrived_ns)
        self._line = line
        self._model = model
        self._accept_encoding = headers.get(b"accept-encoding")
        self._is_released = False
        self.scope = scope
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False

    def is_waiting(self) -> bool:
        return not self._is_released

    def succeed(self, answer: bytes | Answer) -> None:
        self._is_released = True
        if type(answer) is bytes and self.keep_alive and not self._wants_compressed(answer):
            self._line.transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                b"x-request-id: %b\r\n%b\r\n%b" % (len(answer), self.identity, self.arm.head, answer)
            )
            self._end()
            return
        body, told = answer if isinstance(answer, Answer) else (answer, JSON_ONLY)
        if self._wants_compressed(body):
            self._leave()  # the version may be let go of while the answer is compressed
            task = asyncio.get_running_loop().create_task(self._compress(body, told))
            self._line.tasks.add(task)
            task.add_done_callback(self._line.tasks.discard)
        else:
            self._write(200, told, body)

    def fail(self, error: ServingError) -> None:
        self._is_released = True
        status, headers, body = self._line.predict.failures.refusal(error, self, self._model)
        self._send(status, headers, body)

    def abandon(self) -> None:
        """The caller is gone: its batch-mates do not notice, and nothing is written."""
        self.disconnected = True
        if not self._is_released:
            self._is_released = True
            self._line.predict.failures.refused(Cancelled("the caller left before its answer"), self, self._model)
            self._end()

    def _wants_compressed(self, body: bytes) -> bool:
        if self._accept_encoding is None:
            return False
        least = self._line.limits.compress_from_bytes
        return 0 < least <= len(body)

    async def _compress(self, body: bytes, told: compression.Told) -> None:
        unread, size = self._line.predict.unread, len(body)
        unread.waiting_bytes += size
        try:
            if self._accept_encoding is not None:
                body, told = await compression.encoded(body, told, self._accept_encoding, self._line.limits)
        finally:
            unread.waiting_bytes -= size
        self._write(200, told, body)

    def _write(self, status: int, told: compression.Told, body: bytes) -> None:
        headers = (*told, (b"content-length", b"%d" % len(body)), (b"x-request-id", self.identity), *self.arm.headers)
        self._send(status, headers, body)

    def _send(self, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> None:
        if not self.disconnected:
            lines = [b"%b: %b\r\n" % header for header in headers]
            if not self.keep_alive:
                lines.append(b"connection: close\r\n")
            phrase = http.HTTPStatus(status).phrase.encode()
            self._line.transport.write(b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, phrase, b"".join(lines), body))
        self._end()

    def _end(self) -> None:
        """Count the request out, once, and let the connection go on."""
        self._leave()
        self._line.predict.inflight -= 1
        if self.held_bytes:
            self._line.predict.let_go(self)
        self.response_complete = True
        self.feeds, self.again = (), None  # an idle connection keeps its last exchange
        self._line.free(self)

    def _leave(self) -> None:
        if self.queued:
            self._line.predict.leave(self)
            self.queued = False
        elif self.wait is not None:
            self.wait.cancel()
