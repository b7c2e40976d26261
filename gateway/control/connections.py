"""Connections of the control port with bounds: how many, how large a head may be, how long a caller may do nothing.

Why: uvicorn bounds none of it, and all of this comes before anybody has shown a token: a head of 150 MB was kept in
memory; callers that sent half a head, or did not read their answers, kept their connections, and those answers, for
ever; and a thousand connections left the controller no file for the lanes. The data port's are made for speed.
Invariant: who is turned away gets the error body of every other route, where no answer is on its way, and is closed.
Used by `controller_process.py`; all of it runs on its event loop.
"""

from __future__ import annotations

import asyncio
import http
import uuid
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import problems
from gateway.control.operation import to_json
from gateway.settings import LimitSettings
from registry.errors import HeadersTooLarge, MalformedRequest, Overloaded, ServingError, SlowRequest

MOST_CONNECTIONS = 256  # a process may usually have 1,024 files, and the controller has lanes to read


class Connection(HttpToolsProtocol):
    """One caller's connection. `bounded` makes the class that uvicorn uses."""

    limits: ClassVar[LimitSettings]
    most: ClassVar[int]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes: int | None = None  # of a head that is not complete, in the pieces after its first
        self._timer: asyncio.TimerHandle | None = None
        self._problem: ServingError | None = None
        self._reading: asyncio.TimerHandle | None = None  # while our answer is too long for what the caller reads
        self._unread = 0  # bytes of it at the last look

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self._turn_away(Overloaded(f"{self.most} connections are open already", retry_after_s=1.0))
        else:
            self._expect("head", self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        self._look_no_more()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        self._look_no_more()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Bytes from the caller. A head's first piece is at most what the loop reads at once, so it is not counted."""
        had_begun = self._head_bytes is not None
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._head_bytes is not None:
            self._head_bytes += len(data) if had_begun else 0
            if self._head_bytes > self.limits.head_bytes:
                most = self.limits.head_bytes
                self._turn_away(HeadersTooLarge(f"the request line and headers have more than {most} bytes, the limit"))
        elif self._timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect("head", self.limits.head_seconds)  # bytes that begin no request stop uvicorn's own timer

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._expect("head", self.limits.head_seconds)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self.limits.headers:
            self._problem = HeadersTooLarge(f"the request has more than {self.limits.headers} headers, the limit")
            raise self._problem

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._expect("body", self.limits.body_seconds)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._expect_nothing()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's, for what its parser did not take, or we did not."""
        del msg
        self._turn_away(self._problem or MalformedRequest("this is not HTTP/1.1"))

    def _expect(self, what: str, within_s: float) -> None:
        self._expect_nothing()
        self._timer = self.loop.call_later(within_s, self._give_up, what, within_s)

    def _expect_nothing(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self, what: str, within_s: float) -> None:
        self._timer = None
        self._turn_away(SlowRequest(f"the {what} of the request did not arrive within {within_s:g} s"))

    def _look_later(self) -> None:
        self._unread = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.limits.body_seconds, self._look)

    def _look_no_more(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _look(self) -> None:
        if self.transport.get_write_buffer_size() == self._unread:
            self.transport.abort()  # closing would wait for ever for what it does not read
        else:
            self._look_later()

    def _turn_away(self, problem: ServingError) -> None:
        if self.transport.is_closing():
            return
        self._expect_nothing()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            status = http.HTTPStatus(problems.status_of(problem))
            identity = str(uuid.uuid4())
            body = to_json(problems.body_of(problem, identity)).encode()
            wait_s = problems.retry_after_s(problem)
            when = b"" if wait_s is None else b"retry-after: %d\r\n" % wait_s
            self.transport.write(
                b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b"
                b"connection: close\r\n\r\n%b"
                % (status, status.phrase.encode(), len(body), identity.encode(), when, body)
            )
        self.transport.close()


def bounded(limits: LimitSettings, most: int = MOST_CONNECTIONS) -> type[Connection]:
    """The class of connections with these limits, and of so many of one server."""
    return type("BoundedConnection", (Connection,), {"limits": limits, "most": most})
