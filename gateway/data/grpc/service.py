"""Inference over gRPC: what surrounds `Predict.ask` there, for one call and for a stream of them.

Invariant: every request is booked once, whatever becomes of it: answered, refused, late, or left by its caller. A
stream answers in the order of its requests, with a bounded number of them inside; what goes wrong with one is told in
its answer and the stream goes on. Bytes in, bytes out: protobuf runs in the codec. Event loop only.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from time import perf_counter_ns
from typing import Any

import grpc

from gateway import problems
from gateway.data.bodies import LONG
from gateway.data.grpc import wire
from gateway.data.grpc.codec import PROTOCOL, Request
from gateway.data.grpc.messages import ModelInferResponse, ModelStreamInferResponse
from gateway.data.identity import RequestIds
from gateway.data.pending import Awaited
from gateway.data.predict import Predict
from gateway.settings import LimitSettings
from registry.errors import Cancelled, DeadlineExceeded, Draining, InternalError, MalformedRequest, ServingError

logger = logging.getLogger(__name__)

STREAM_AHEAD = 16  # requests of one stream that may be inside at once
_DAY_MS = 86_400_000
_MOST_TEXT = 1000  # characters of an error: it travels in a header

Context = Any  # grpc.aio.ServicerContext
Headers = dict[bytes, bytes]


def headers_of(context: Context) -> Headers:
    """A call's metadata, as HTTP's headers are: lower case, bytes."""
    return {
        key.encode(): value if isinstance(value, bytes) else value.encode("latin-1", "replace")
        for key, value in context.invocation_metadata() or ()
    }


def deadline_ms(headers: Headers, left_s: float | None) -> int | None:
    """How long the answer may take: the call's own deadline or `x-deadline-ms`, whichever comes first.

    Rounded down, so that our own timer, which books a late request, is earlier than grpc's. Raises MalformedRequest.
    """
    own = None if left_s is None or left_s * 1000 > _DAY_MS else max(0, int(left_s * 1000))
    text = headers.get(b"x-deadline-ms")
    if text is None:
        return own
    if not text.isdigit() or len(text) > 8 or not 0 < int(text) <= _DAY_MS:
        raise MalformedRequest("x-deadline-ms must be a whole number of milliseconds, from 1 to a day")
    return int(text) if own is None else min(own, int(text))


async def abort(context: Context, error: ServingError, *told: tuple[str, str]) -> None:
    """End a call with an error: its status, its text, and in the trailing metadata its stable code. Raises."""
    trailing = [("driftgate-code", error.code), *told]
    retry_after_s = problems.retry_after_s(error)
    if retry_after_s is not None:
        trailing.append(("grpc-retry-pushback-ms", str(1000 * retry_after_s)))
    status = grpc.StatusCode[problems.grpc_status_of(error)]
    await context.abort(status, error.message[:_MOST_TEXT], tuple(trailing))


class Inference:
    """ModelInfer and ModelStreamInfer of one worker."""

    def __init__(self, predict: Predict, ids: RequestIds, limits: LimitSettings, closing: asyncio.Future[None]) -> None:
        self._predict = predict
        self._ids = ids
        self._limits = limits
        self._closing = closing  # done when streams are to end
        self.hold: asyncio.Future[None] | None = None  # new calls wait for it

    async def infer(self, body: bytes, context: Context) -> bytes:
        """One call. Aborts it, or returns a ModelInferResponse."""
        if self.hold is not None:
            await asyncio.shield(self.hold)
        arrived_ns = perf_counter_ns()
        headers = headers_of(context)
        pending = Awaited(
            PROTOCOL, self._ids.identify(headers.get(b"x-request-id")), arrived_ns, asyncio.get_running_loop()
        )
        try:
            request = Request(body)
        except ServingError as error:
            self._predict.failures.refused(error, pending, "")
            answer: bytes | ServingError = error
        else:
            answer = await self._answer(request, pending, headers, context)
        told = _told(pending)
        if isinstance(answer, ServingError):
            await abort(context, answer, *told)
            raise AssertionError("abort raises")
        context.set_trailing_metadata(told)
        if len(answer) >= LONG:
            self._count_until_read(len(answer), context)
        return answer

    def _count_until_read(self, size: int, context: Context) -> None:
        """A call ends when its answer has left: until then gRPC holds it for a caller that does not read."""
        unread = self._predict.unread
        unread.waiting_bytes += size

        def read(_context: object) -> None:
            unread.waiting_bytes -= size

        context.add_done_callback(read)

    async def _answer(
        self, request: Request, pending: Awaited, headers: Headers, context: Context
    ) -> bytes | ServingError:
        """An encoded ModelInferResponse, or what went wrong, which is booked. Raises CancelledError only."""
        predict, model = self._predict, request.model
        predict.inflight += 1
        try:
            predict.hold(pending, request.size)
            allowed_ms = deadline_ms(headers, context.time_remaining())
            answer = await predict.ask(pending, request.codec, b"", headers, model, request.version, allowed_ms)
            return answer if isinstance(answer, bytes) else answer.body
        except ServingError as error:
            predict.failures.refused(error, pending, model)
            return error
        except asyncio.CancelledError:
            self._left(pending, model, context)
            raise
        except Exception as error:
            logger.exception("a request of %s could not be answered", model)
            problem = InternalError(f"{type(error).__name__} while answering; the log has the trace")
            predict.failures.refused(problem, pending, model)
            return problem
        finally:
            predict.inflight -= 1
            predict.let_go(pending)

    def _left(self, pending: Awaited, model: str, context: Context) -> None:
        """Book a request whose call ended before it was told the outcome."""
        future = pending.future if pending.queued else None
        if future is not None and future.done() and not future.cancelled():
            error = future.exception()  # None: answered, and booked as such with its run
        elif (left_s := context.time_remaining()) is not None and left_s <= 0:
            error = DeadlineExceeded("not answered within the call's deadline")
        else:
            error = Cancelled("the caller cancelled the call")
        if isinstance(error, ServingError):
            self._predict.failures.refused(error, pending, model)

    async def stream(self, _: Any, context: Context) -> None:
        """A stream of requests, each answered in its turn."""
        headers = headers_of(context)
        inside: deque[tuple[asyncio.Task[bytes], int]] = deque()
        reading: asyncio.Task[Any] | None = None
        count, size, more, is_complete = 0, 0, True, False
        try:
            while more or inside:
                more = more and not self._closing.done()
                if reading is None and more and len(inside) < STREAM_AHEAD and size <= self._limits.body_bytes:
                    reading = asyncio.ensure_future(context.read())
                waits: set[asyncio.Future[Any]] = {inside[0][0]} if inside else set()
                if more:
                    waits |= {self._closing} if reading is None else {self._closing, reading}
                if waits:
                    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading.done():
                    body, reading = reading.result(), None
                    if body is grpc.aio.EOF:
                        is_complete, more = True, False
                    else:
                        task = asyncio.ensure_future(self._stream_answer(body, count, headers, context))
                        inside.append((task, len(body)))
                        count, size = count + 1, size + len(body)
                while inside and inside[0][0].done():
                    task, length = inside.popleft()
                    size -= length
                    answer = task.result()
                    try:
                        await context.write(answer)
                    finally:
                        self._predict.unread.waiting_bytes -= len(answer)
        finally:
            left = [task for task, _ in inside] + ([] if reading is None else [reading])
            for unfinished in left:
                unfinished.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            for task, _ in inside:
                if not task.cancelled() and task.exception() is None:
                    self._predict.unread.waiting_bytes -= len(task.result())
        if not is_complete:
            await abort(context, Draining("this server is shutting down; open the stream again"))

    async def _stream_answer(self, body: bytes, number: int, headers: Headers, context: Context) -> bytes:
        """An encoded ModelStreamInferResponse. Raises CancelledError only."""
        arrived_ns = perf_counter_ns()
        given = headers.get(b"x-request-id")
        identity = self._ids.identify(None if given is None else b"%b.%d" % (given, number))
        pending = Awaited(PROTOCOL, identity, arrived_ns, asyncio.get_running_loop())
        request_id = ""
        try:
            request = Request(body)
        except ServingError as error:
            self._predict.failures.refused(error, pending, "")
            answer: bytes | ServingError = error
        else:
            request_id = request.id
            answer = await self._answer(request, pending, headers, context)
        beside = ModelInferResponse()
        for name, text in _told(pending):
            beside.parameters[name].string_param = text
        beside.parameters["triton_final_response"].bool_param = True
        if isinstance(answer, ServingError):
            beside.id = request_id
            beside.parameters["driftgate-code"].string_param = answer.code
            told = ModelStreamInferResponse(error_message=answer.message[:_MOST_TEXT], infer_response=beside)
            message = bytes(told.SerializeToString())
        else:
            parameters = beside.SerializeToString()  # fields of one message may follow each other in any order
            message = b"".join((wire.tagged(2, len(answer) + len(parameters)), answer, parameters))
        self._predict.unread.waiting_bytes += len(message)  # until `stream` has written it
        return message


def _told(pending: Awaited) -> tuple[tuple[str, str], ...]:
    """Who answered, for a call's metadata or an answer's parameters."""
    identity = ("x-request-id", pending.identity.decode())
    if not pending.queued:
        return (identity,)
    arm: Mapping[bytes, bytes] = dict(pending.arm.headers)
    return (identity, *((name.decode(), value.decode()) for name, value in arm.items()))
