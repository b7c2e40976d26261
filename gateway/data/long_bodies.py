"""Bodies that do not come with their head: the half of a connection that takes them in, counted and bounded.

The bytes of a long body go from the socket to where they are read, past the parser; a body that goes the way of ASGI is
given to the app whole. Either way they count among all that are coming in (`bodies.py`), until the body is whole or
given up. The other half, which parses, answers and turns away, is `connections.Connection`. Event loop only.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar, cast

import httptools
import numpy as np
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.data.bodies import LONG
from gateway.data.codecs.call import Codec, Headers
from gateway.data.doors import Target
from gateway.data.pending import Pending
from gateway.data.predict import REFUSED, Predict
from gateway.settings import LimitSettings
from registry.errors import ServingError

_BULK = 1 << 20  # bytes of a body still to come that are waited for together; of a body that is `LONG`


class LongBodies(HttpToolsProtocol):
    """What a connection knows of a body that is still coming in."""

    # In the instance's dict they would slow down all the others.
    __slots__ = (
        "_arrived_ns",
        "_body",
        "_counted",
        "_filled",
        "_held",
        "_left",
        "_lowat",
        "_parsed",
        "_part",
        "_parts",
        "_reader",
    )

    limits: ClassVar[LimitSettings]
    identify: ClassVar[Callable[[bytes | None], bytes]]
    predict: ClassVar[Predict]
    scratch: ClassVar[memoryview]  # one for all: what is read into it is copied before anything else is read

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._held: tuple[Target, Codec, Headers] | None = None  # becomes an exchange when its body is whole
        self._arrived_ns = 0  # when its head had come, where the body did not come with it
        self._part = b""  # of that body
        self._body: memoryview | None = None  # room for the whole of it
        self._filled = 0  # bytes of it that have come
        self._parsed = 0  # and those that went through the parser
        self._reader: _Reader | None = None  # from the first long body on, the transport's protocol
        self._parts: list[bytes] | None = None  # of a body that goes the long way, and whose length was told
        self._left = 0  # bytes of it that have not come
        self._counted = 0  # bytes of a body that count among all that are coming in
        self._lowat = 1  # the socket's: how many bytes must be there before it is read

    def _take(self) -> None:
        """What is held is whole."""
        raise NotImplementedError

    def _begin_cycle(self) -> None:
        """The head of a request that goes the way of ASGI is whole."""
        raise NotImplementedError

    def turn_away(self, problem: ServingError, rest: int = 0) -> None:
        """Answer with an error and close, when `rest` bytes more have come."""
        raise NotImplementedError

    def _let_go(self) -> None:
        """Tell the app that nothing more comes."""
        raise NotImplementedError

    def _take_the_long_way(self) -> None:
        """What is held becomes uvicorn's own."""
        body, self._body = self._body, None
        part = self._part if body is None else bytes(body[: self._parsed])
        self._part, self._held = b"", None
        self._begin_cycle()
        if part:
            self.on_body(part)
        if body is not None and self._filled > self._parsed:
            self.parser.feed_data(bytes(body[self._parsed : self._filled]))

    def _wait_for_body(self) -> None:
        """The body did not come with its head: there is room for it if it may be so long."""
        assert self._held is not None
        _, codec, headers = self._held
        length = int(headers.get(b"content-length", b"0"))
        if length > self.limits.body_bytes:
            self._take_the_long_way()
            return
        self._arrived_ns = time.perf_counter_ns()
        # Not zeroed: memory is taken as the bytes come, not as they are announced.
        self._body = np.empty(length, np.uint8).data if codec.room is None else codec.room(length, headers)
        self._filled = 0
        self.on_body(self._part)
        self._part = b""
        if self._reader is None and length - self._filled >= LONG and self.scheme == "http":
            self._reader = _Reader(self)
            self.transport.pause_reading()  # how a transport reads is decided when it begins to
            self.transport.set_protocol(self._reader)
            self.transport.resume_reading()

    def get_buffer(self) -> memoryview | None:
        """Where the next bytes of a body belong; None: they are for the parser."""
        return None if self._body is None else self._body[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """So many bytes of a body have come, past the parser."""
        assert self._body is not None
        self._filled += count
        if self._filled < len(self._body):
            self._read_in_bulk(len(self._body) - self._filled)
            self._count(count)
            return
        self.parser = self._new_parser()  # the old one is in the middle of this body
        self._take()

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        return parser

    def _read_in_bulk(self, left: int) -> None:
        """Be woken when much of the body is there, or the rest: each waking interrupts a run that has this core."""
        least = min(left, _BULK) if left >= LONG else 1
        if least == self._lowat:
            return
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, AttributeError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
            self._lowat = least

    def _count(self, size: int) -> None:
        """So many bytes have come, of a body that goes on; turn away who sends more than there is room for."""
        if self._parts is not None and self.cycle.response_complete:
            self._parts.clear()  # nobody will read it
            self._uncount()
        elif self.predict.bodies.take(size):
            self._counted += size
        else:
            problem = self.predict.bodies.refusal()
            rest = self._left if self._body is None else len(self._body) - self._filled
            self._parts = None
            self._read_in_bulk(0)
            self._give_up_on_body(problem)
            self.turn_away(problem, rest)
            cast(Any, self.scope)[REFUSED] = problem
            self._let_go()

    def _uncount(self) -> None:
        """Nothing of a body is coming in any more."""
        self.predict.bodies.give_back(self._counted)
        self._counted = 0

    def _give_up_on_body(self, error: ServingError) -> None:
        """Book a request whose body will not be whole."""
        self._uncount()
        if self._held is not None:
            (target, codec, headers), self._held = self._held, None
            self._body = None
            identity = type(self).identify(headers.get(b"x-request-id"))
            self.predict.failures.refused(error, Pending(codec.protocol, identity, self._arrived_ns), target.model)


class _Reader(asyncio.BufferedProtocol):
    """Stands for a connection at its transport: the bytes of a long body go from the socket to where they are read.

    Anywhere else they would be copied three times on the way, past all caches.
    """

    def __init__(self, connection: LongBodies) -> None:
        self._connection = connection
        self._is_body = False

    def get_buffer(self, sizehint: int) -> memoryview:
        place = self._connection.get_buffer()
        self._is_body = place is not None
        return self._connection.scratch if place is None else place

    def buffer_updated(self, nbytes: int) -> None:
        if self._is_body:
            self._connection.buffer_updated(nbytes)
        else:
            self._connection.data_received(bytes(self._connection.scratch[:nbytes]))

    def eof_received(self) -> None:
        self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)
