"""The hot path, whole: what happens to a request from its body to its answer.

`ask` routes, decodes and queues a request of any protocol and waits for its answer; `infer` does the HTTP around it,
and the gRPC servicer its own; `_answer` handles one run of the model for everybody in it (record, encode, account,
release, shadow). Nothing here waits but for the body, the run and the socket. A change to this file comes with a paired
measurement (`make bench`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, MutableMapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from math import isfinite
from sys import maxsize
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.data import codec_work
from gateway.data.accounts import Accounts
from gateway.data.answer_cache import AnswerCache, Turn
from gateway.data.bodies import LONG, Bodies
from gateway.data.breakers import Breakers
from gateway.data.codec_process import CodecProcess
from gateway.data.codecs import compression
from gateway.data.codecs.call import Answer, Codec, Door, Headers
from gateway.data.doors import Target
from gateway.data.failures import JSON, Failures
from gateway.data.fleet import Fleet
from gateway.data.identity import RequestIds
from gateway.data.keys import key_number
from gateway.data.pending import Awaited, Pending, time_left_s
from gateway.data.runs import Batch
from gateway.data.servable import Servable, Tensor
from gateway.data.shadow import Copy, Shadows
from gateway.data.stand_ins import CAUTION, ROOM, StandIns
from gateway.data.tap import Tap
from gateway.data.traffic import Arm, Loaded
from gateway.data.unread import LONG_OUTPUT, Unread
from gateway.settings import LimitSettings
from registry.clock import Clock
from registry.errors import (
    CallerError,
    DeadlineExceeded,
    Draining,
    InferenceFailed,
    InternalError,
    MalformedRequest,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    ServingError,
)

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

JSON_ONLY = (JSON,)
JSON_ACCEPTED = frozenset((b"*/*", b"application/json"))  # any other `accept` is read by the door
REFUSED = "driftgate.refused"  # in the scope of a request whose body was given up by its connection: why
PENDING = "driftgate.pending"  # in the scope: what waits for the answer; told by the connection that its caller left
_UNCOUNTED_KEY = -1
_UNKNOWN = (None, None)  # more than one: nobody is known to be alone
_MOST_RETRY_AFTER_S = 60.0  # a wait is predicted: one bad guess must not send callers away for hours
_MOST_ASIDE = 2  # at once: the interpreter's lock lets hardly more than one of them work
_INFLATED_ASIDE_FROM = 4096  # bytes: of shorter ones hardly more than a megabyte can come
LONG_ANSWER = 1 << 20  # bytes of an output, from which on text made of them takes tens of milliseconds
_FEW_VALUES = 8  # of which Python looks at each in less time than numpy's fixed costs
_FEW = 8  # requests inside, up to which a wait is not predicted for callers without a deadline


def _deadline_ms(text: bytes) -> int:
    if not text.isdigit() or len(text) > 8 or not 0 < int(text) <= 86_400_000:
        raise MalformedRequest("x-deadline-ms must be a whole number of milliseconds, from 1 to a day")
    return int(text)


def _size(answer: bytes | Answer) -> int:
    return len(answer.body if isinstance(answer, Answer) else answer)


def _rows_of(starts: Sequence[int], counts: Sequence[int]) -> tuple[NDArray[np.intp], list[int]]:
    """Where the rows of some requests lie in a run, and where each request's begin among them."""
    kept = np.concatenate([np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)])
    return kept, [int(start) for start in np.cumsum([0, *counts[:-1]])]


class Predict:
    """Answers inference requests of one worker."""

    def __init__(
        self,
        fleet: Fleet,
        accounts: Accounts,
        breakers: Breakers,
        tap: Tap | None,
        shadows: Shadows,
        limits: LimitSettings,
        clock: Clock,
        random_bits: Callable[[int], int],
        loop: asyncio.AbstractEventLoop,
        codec_process: CodecProcess,
    ) -> None:
        self._fleet = fleet
        self._accounts = accounts
        self._breakers = breakers
        self._tap = tap
        self._shadows = shadows
        self._limits = limits
        self._clock = clock
        self._random_bits = random_bits
        self._identify = RequestIds(clock.wall_ns, random_bits).identify
        self._loop = loop
        self.failures = Failures(fleet, accounts, tap)
        self._codec_process = codec_process
        self._tasks: set[asyncio.Task[None]] = set()  # of long bodies and answers in that process
        self._stand_ins = StandIns(limits, accounts, clock, self._admit)
        self.inflight = 0
        self.bodies = Bodies(max(limits.incoming_bytes, limits.body_bytes))  # one alone may always come
        self.unread = Unread(limits.unread_bytes, lambda: self.callers)
        # Long bodies that are inflated, or parsed in a thread, until they are tensors: each takes many times its size.
        self._inflating, self._parsing = asyncio.Semaphore(_MOST_ASIDE), asyncio.Semaphore(_MOST_ASIDE)
        # The server's requests of this turn, and its connections; set by whoever owns it.
        self.running: Collection[object] = _UNKNOWN
        self.callers: Collection[object] = _UNKNOWN

    async def infer(
        self, scope: Scope, receive: Receive, send: Send, door: Door, model: str, version: str | None
    ) -> None:
        """Answer one inference request over HTTP. Never raises but for a caller that is gone, or a bug of ours."""
        arrived_ns = perf_counter_ns()
        headers = dict(scope["headers"])
        codec = door.json
        pending = Awaited(codec.protocol, self._identify(headers.get(b"x-request-id")), arrived_ns, self._loop)
        self.inflight += 1
        aside: asyncio.Semaphore | None = None  # which it has taken
        try:
            message = await receive()
            body = message.get("body", b"")
            if not body or message.get("more_body"):
                body = await self._rest(message, scope, headers, receive)
            kind = headers.get(b"content-type")
            if (
                kind != b"application/json"
                or headers.get(b"accept", b"*/*") not in JSON_ACCEPTED
                or b"content-encoding" in headers
                or b"ce-specversion" in headers
            ):
                codec = door.choose(headers)  # UnsupportedMedia
                pending.protocol = codec.protocol
                if b"content-encoding" in headers:
                    self.hold(pending, len(body))
                    if len(body) >= _INFLATED_ASIDE_FROM:
                        await self._inflating.acquire()
                        aside = self._inflating
                    body = await compression.decoded(body, headers, self._limits)  # UnsupportedMedia
                    self.let_go(pending)
                if codec.prepare is not None:
                    self.hold(pending, len(body))
                    if len(body) >= LONG:
                        if aside is not None:
                            aside.release()
                            aside = None
                        await self._parsing.acquire()
                        aside = self._parsing
                    codec = await codec.prepare(body, headers, self._limits)
            deadline_ms = _deadline_ms(headers[b"x-deadline-ms"]) if b"x-deadline-ms" in headers else None
            if len(body) >= codec.aside_bytes:
                if aside is not None:
                    aside.release()  # it waits for others now, and its bytes count
                    aside = None
                reading = self._decoded(pending, codec, body, headers, model, version, deadline_ms)
                codec = await self._until_left(scope, pending, reading)
            try:
                self._enter(pending, codec, body, headers, model, version, deadline_ms)
            except NotReady as error:
                if aside is not None:
                    aside.release()
                    aside = None
                await self._fleet.until_loaded(model, version, time_left_s(pending, deadline_ms), error)
                self._enter(pending, codec, body, headers, model, version, deadline_ms)
            if aside is not None:
                aside.release()
                aside = None
            scope[PENDING] = pending
            try:
                answer = await pending.future  # written out, as in `ask`: a coroutine more costs a microsecond
            finally:
                self.leave(pending)
                del scope[PENDING]  # an idle connection keeps its last request's scope
        except ServingError as error:
            await self._refuse(send, error, pending, model)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            problem = InternalError(f"{type(error).__name__} while answering; the log has the trace")
            await self._refuse(send, problem, pending, model)
            raise
        else:
            body, told = answer if isinstance(answer, Answer) else (answer, JSON_ONLY)
            size = len(body)
            self.unread.waiting_bytes += size
            try:
                if size >= self._limits.compress_from_bytes and b"accept-encoding" in headers:
                    body, told = await compression.encoded(body, told, headers[b"accept-encoding"], self._limits)
                start = {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        *told,
                        (b"content-length", b"%d" % len(body)),
                        (b"x-request-id", pending.identity),
                        *pending.arm.headers,
                    ],
                }
                await send(start)
                await send({"type": "http.response.body", "body": body})
            finally:
                self.unread.waiting_bytes -= size
        finally:
            self.inflight -= 1
            self.let_go(pending)
            if aside is not None:
                aside.release()

    async def turn_away(self, scope: Scope, send: Send, error: ServingError, protocol: str) -> None:
        """Answer and book a request that names no model, where nothing says which one is meant."""
        identity = self._identify(dict(scope["headers"]).get(b"x-request-id"))
        await self._refuse(send, error, Pending(protocol, identity, perf_counter_ns()), "")

    def take(self, pending: Pending, codec: Codec, target: Target, body: bytes, headers: Headers) -> None:
        """Enter a whole request, read by a codec that prepares nothing.

        Never raises: the request is released by its own `succeed` or `fail`, at the latest by a run. Whoever takes the
        answer calls `leave` if it was queued, and counts it out.
        """
        self.inflight += 1
        if len(body) >= codec.aside_bytes:
            pending.wait = self._aside(self._take_decoded(pending, codec, target, body, headers))
            return
        _, model, version = target
        try:
            if len(body) > self._limits.body_bytes:
                limit = self._limits.body_bytes
                raise PayloadTooLarge(f"the body has {len(body)} bytes, the limit is {limit}", limit_bytes=limit)
            deadline_ms = _deadline_ms(headers[b"x-deadline-ms"]) if b"x-deadline-ms" in headers else None
            self._enter(pending, codec, body, headers, model, version, deadline_ms)
        except NotReady as error:
            self._take_when_loaded(pending, codec, target, body, headers, error)
        except ServingError as error:
            pending.fail(error)
        except Exception as error:
            logger.exception("a request of %s could not be taken", model)
            pending.fail(InternalError(f"{type(error).__name__} while answering; the log has the trace"))

    def _aside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _take_decoded(
        self, pending: Pending, codec: Codec, target: Target, body: bytes, headers: Headers
    ) -> None:
        """As `take`, for a long body."""
        if not pending.is_waiting():
            return  # its caller has left
        _, model, version = target
        try:
            deadline_ms = _deadline_ms(headers[b"x-deadline-ms"]) if b"x-deadline-ms" in headers else None
            codec = await self._decoded(pending, codec, body, headers, model, version, deadline_ms)
        except ServingError as error:
            if pending.is_waiting():
                pending.fail(error)
        except Exception as error:
            logger.exception("a long body for %s could not be read", model)
            if pending.is_waiting():
                pending.fail(InternalError(f"{type(error).__name__} while answering; the log has the trace"))
        else:
            pending.wait = None
            if pending.is_waiting():
                self.inflight -= 1
                self.take(pending, codec, target, body, headers)

    async def _decoded(
        self,
        pending: Pending,
        codec: Codec,
        body: bytes,
        headers: Headers,
        model: str,
        version: str | None,
        deadline_ms: float | None,
    ) -> Codec:
        """Read a long body away from the event loop → the codec that has read it. Raises as `ask` says."""
        self.hold(pending, len(body))
        servable = self._fleet.expected(model, version)
        if servable is not None:  # else whoever enters is told why nobody answers
            try:
                async with asyncio.timeout(time_left_s(pending, deadline_ms)):
                    codec = await self._codec_process.read(codec, body, headers, servable, pending.is_waiting)
            except TimeoutError:
                told = f"{deadline_ms:g} ms had passed before the body was read"
                raise DeadlineExceeded(told, deadline_ms=deadline_ms) from None
            except CallerError:
                if self._fleet.all_read_like(servable, version):
                    raise  # else whoever is chosen says what is wrong, if anything is
        return replace(codec, aside_bytes=maxsize)

    async def _until_left(self, scope: Scope, pending: Awaited, reading: Coroutine[Any, Any, Codec]) -> Codec:
        """What is read; given up when the caller leaves. Raises Cancelled then, and what reading raises."""
        task = self._loop.create_task(reading)
        pending.future.add_done_callback(lambda _: task.cancel())
        scope[PENDING] = pending
        try:
            return await task
        except asyncio.CancelledError:
            if not pending.is_waiting():
                pending.future.result()
            raise
        finally:
            del scope[PENDING]

    def _take_when_loaded(
        self, pending: Pending, codec: Codec, target: Target, body: bytes, headers: Headers, otherwise: NotReady
    ) -> None:
        _, model, version = target
        deadline_ms = _deadline_ms(headers[b"x-deadline-ms"]) if b"x-deadline-ms" in headers else None

        def then(problem: ServingError | None) -> None:
            if not pending.is_waiting():
                return  # its caller has left
            try:
                if problem is not None:
                    raise problem
                self._enter(pending, codec, body, headers, model, version, deadline_ms)
            except ServingError as error:
                pending.fail(error)
            except Exception as error:
                logger.exception("a request of %s could not be taken when it was loaded", model)
                pending.fail(InternalError(f"{type(error).__name__} while answering; the log has the trace"))

        try:
            waits = self._fleet.when_loaded(model, version, time_left_s(pending, deadline_ms), otherwise, then)
        except ServingError as error:
            pending.fail(error)
        else:
            if waits is None:
                then(None)
            else:
                pending.wait = waits

    async def ask(
        self,
        pending: Awaited,
        codec: Codec,
        body: bytes,
        headers: Headers,
        model: str,
        version: str | None,
        deadline_ms: float | None,
    ) -> bytes | Answer:
        """Route, decode, queue and wait: the same for every protocol.

        headers: names in lower case (gRPC: the call's metadata). On an error the caller books it: `refused`. Raises
        ServingError (ModelNotFound, VersionNotFound, NotReady, Overloaded, MalformedRequest, TensorMismatch,
        PayloadTooLarge, InferenceFailed, DeadlineExceeded).
        """
        try:
            self._enter(pending, codec, body, headers, model, version, deadline_ms)
        except NotReady as error:
            await self._fleet.until_loaded(model, version, time_left_s(pending, deadline_ms), error)
            self._enter(pending, codec, body, headers, model, version, deadline_ms)
        try:
            return await pending.future
        finally:
            self.leave(pending)

    def _enter(
        self,
        pending: Pending,
        codec: Codec,
        body: bytes,
        headers: Headers,
        model: str,
        version: str | None,
        deadline_ms: float | None,
    ) -> None:
        """Route, decode and queue; who enters must leave. Raises before it has entered, as `ask` says."""
        if len(body) >= LONG:
            self.hold(pending, len(body))
        arm, key = self._route(model, version, headers)
        if arm.loaded.breaker is not None:
            arm, key = self._stand_ins.past_breaker(pending, arm, key, codec, body, headers, deadline_ms)
        inside = arm.traffic.inside
        try:
            if inside.waiting >= self._limits.waiting_requests * ROOM.get(arm.role, 1.0):
                raise Overloaded(f"{inside.waiting} requests of {model!r} are waiting already", retry_after_s=1.0)
            if deadline_ms is not None and inside.waiting:
                self._refuse_if_late(pending, arm.loaded.batcher.wait_us(), deadline_ms)  # before it costs anything
            servable = arm.loaded.servable
            pending.arm = arm
            pending.feeds, pending.call = codec.read(body, headers, servable, self._limits)
            pending.rows = servable.rows_of(pending.feeds)
            pending.hash = blake2b(pending.identity, digest_size=16).digest()  # as monitor.record.request_hash
            pending.decoded_ns = perf_counter_ns()
            timeout_us = pending.call.timeout_us
            if timeout_us is not None:
                deadline_ms = timeout_us / 1000 if deadline_ms is None else min(timeout_us / 1000, deadline_ms)
            if deadline_ms is not None or inside.waiting > _FEW:
                self._admit(pending, arm, deadline_ms)
        except Overloaded as refusal:
            if not arm.is_canary:
                raise
            arm, key = self._stand_ins.past_canary(pending, arm, refusal, codec, body, headers, deadline_ms), None
        # Not earlier: who is turned away has no outcome, and would make the arm look better than it is.
        pending.key_row = None if key is None else self._book_key(arm, key)
        if arm.stand_in is not None:
            pending.again = codec, body, headers
        pending.queued = True
        inside.waiting += 1
        if arm.loaded.answers is None:
            self._submit(pending)
        else:
            self._ask_kept(arm.loaded.answers, pending)

    def hold(self, pending: Pending, size: int) -> None:
        """Count a long body, which stays in memory while its request waits, until `let_go`. Raises Overloaded."""
        if size >= LONG and not pending.held_bytes:
            if not self.bodies.take(size):
                raise self.bodies.refusal()
            pending.held_bytes = size

    def let_go(self, pending: Pending) -> None:
        """The request is over; whoever enters one calls it in the end. Idempotent."""
        self.bodies.give_back(pending.held_bytes)
        pending.held_bytes = 0

    def _submit(self, pending: Pending) -> None:
        alone = len(self.running if type(pending) is Awaited else self.callers) == 1
        pending.arm.loaded.batcher.submit(pending, alone=alone)

    def _admit(self, pending: Pending, arm: Arm, deadline_ms: float | None) -> None:
        """Refuse at once what cannot be answered in time, by what runs have taken so far. Raises Overloaded."""
        batcher = arm.loaded.batcher
        wait_us = batcher.wait_us()
        if deadline_ms is not None:
            if wait_us:
                self._refuse_if_late(pending, wait_us + batcher.run_us(pending), deadline_ms)
            pending.timer = self._expire_after(pending, deadline_ms)
        if wait_us > self._limits.waiting_seconds * 1e6 * ROOM.get(arm.role, 1.0):
            if pending.timer is not None:
                pending.timer.cancel()
            raise Overloaded(
                f"about {wait_us / 1e6:.1f} s of work of {arm.loaded.servable.model!r} is waiting already",
                retry_after_s=min(wait_us / 1e6, _MOST_RETRY_AFTER_S),
            )

    @staticmethod
    def _refuse_if_late(pending: Pending, takes_us: float, deadline_ms: float) -> None:
        left_us = deadline_ms * 1000.0 - (perf_counter_ns() - pending.arrived_ns) / 1000.0
        if takes_us * CAUTION > left_us:
            raise Overloaded(
                f"about {takes_us / 1000:.0f} ms of work is waiting, and the caller gives {deadline_ms:g} ms",
                retry_after_s=min(takes_us / 1e6, _MOST_RETRY_AFTER_S),
                reason="deadline",
            )

    def leave(self, pending: Pending) -> None:
        """Give back what entering took."""
        arm = pending.arm
        arm.traffic.inside.waiting -= 1
        if pending.timer is not None:
            pending.timer.cancel()
        if arm.loaded.batcher.runs:
            arm.loaded.batcher.drop_abandoned()
        self._give_up(pending)

    # ---- answers that are kept, where a version's options say so

    def _give_up(self, pending: Pending) -> None:
        """A request that ran for an answer to keep gets none: another that asks the same runs in its place."""
        answers = pending.arm.loaded.answers
        if answers is not None and pending.question is not None:
            question, pending.question = pending.question, None
            successor = answers.give_up(question)
            if successor is not None:
                self._run_for(successor, question)

    def _ask_kept(self, answers: AnswerCache[Pending], pending: Pending) -> None:
        pending.question = None
        question = answers.key(pending.feeds)
        found = answers.ask(question, pending)
        if found is Turn.RUN:
            self._run_for(pending, question)
        elif not isinstance(found, Turn):
            self._answer_kept(pending, found)

    def _run_for(self, pending: Pending, question: bytes) -> None:
        pending.question = question
        self._accounts.kept(pending.arm, hit=False)
        self._submit(pending)

    def _answer_kept(self, pending: Pending, outputs: Sequence[Tensor]) -> None:
        """Answer as a run that took no time would: logged, booked and encoded like any other."""
        self._accounts.kept(pending.arm, hit=True)
        pending.arm = pending.arm.of_kept()
        now_ns = perf_counter_ns()
        self.answer(pending.arm.loaded, Batch([pending], pending.feeds, outputs, pending.rows, now_ns, now_ns))

    @staticmethod
    def _keep(
        answers: AnswerCache[Pending], members: list[Pending], starts: list[int], outputs: Sequence[Tensor], whole: bool
    ) -> list[tuple[Pending, Sequence[Tensor]]]:
        """Keep what a run has answered → who asked the same meanwhile, and their answers."""
        others: list[tuple[Pending, Sequence[Tensor]]] = []
        for pending, start in zip(members, starts, strict=True):
            if pending.question is not None:
                own = outputs if whole else [output[start : start + pending.rows] for output in outputs]
                copies, waiting = answers.keep(pending.question, own)
                pending.question = None
                others += [(other, copies) for other in waiting]
        return others

    async def _rest(self, message: MutableMapping[str, Any], scope: Scope, headers: Headers, receive: Receive) -> bytes:
        """The whole of a body that did not come whole, or that is empty. A connection may give up on it."""
        limit = self._limits.body_bytes
        length = int(headers.get(b"content-length", b"0"))
        if length > limit:
            raise PayloadTooLarge(f"the body has {length} bytes, the limit is {limit}", limit_bytes=limit)
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                if message["type"] == "http.disconnect":
                    if REFUSED in scope:
                        raise scope[REFUSED]
                    raise MalformedRequest("the caller left before the body was complete")
                part = message.get("body", b"")
                if size + len(part) > limit:
                    told = f"the body has more than {limit} bytes, which is the limit"
                    raise PayloadTooLarge(told, limit_bytes=limit)
                if not self.bodies.take(len(part)):
                    raise self.bodies.refusal()
                size += len(part)
                parts.append(part)
                if not message.get("more_body"):
                    return b"".join(parts)
                message = await receive()
        finally:
            self.bodies.give_back(size)

    def _route(self, model: str, version: str | None, headers: Headers) -> tuple[Arm, bytes | None]:
        fleet = self._fleet
        traffic = fleet.traffic(model)
        if version is not None:
            return traffic.named(version, fleet.page, fleet.epoch), None
        if traffic.bound:
            return traffic.pick(headers, self._random_bits(64), fleet.lease_left_ns())
        return traffic.pick(headers, 0, 0)

    def _book_key(self, arm: Arm, key: bytes) -> int | None:
        state = arm.traffic.evidence
        if state is None or arm.segment is None:
            return None
        if state.burn_in_left > 0:
            return _UNCOUNTED_KEY
        table = self._fleet.key_table(arm.traffic)
        if table is None:
            return _UNCOUNTED_KEY
        judged = arm.traffic.entry.latency_threshold_us is not None
        row = table.assigned(key_number(key), self._clock.host_ns(), arm.weight, arm.is_canary, judged)
        return _UNCOUNTED_KEY if row is None else row

    def _expire_after(self, pending: Pending, deadline_ms: float) -> asyncio.TimerHandle:
        left_s = deadline_ms / 1000.0 - (perf_counter_ns() - pending.arrived_ns) / 1e9
        if left_s <= 0:  # it was long in coming, or in being read, or its version in being loaded
            raise DeadlineExceeded(f"{deadline_ms:g} ms had passed before it could be run", deadline_ms=deadline_ms)
        return self._loop.call_later(left_s, self._expire, pending, deadline_ms)

    def _expire(self, pending: Pending, deadline_ms: float) -> None:
        if pending.is_waiting():
            self.failures.lost(pending)
            pending.fail(DeadlineExceeded(f"not answered within {deadline_ms:g} ms", deadline_ms=deadline_ms))

    # ---- one run of the model, for everybody in it

    def answer(self, loaded: Loaded, batch: Batch[Pending]) -> None:
        """Record, encode, account and release the requests of one run; then offer copies to a shadow."""
        try:
            self._answer(loaded, batch)
        except Exception as error:
            self._unmade(loaded, batch.waiters, error)

    def _unmade(self, loaded: Loaded, waiters: Sequence[Pending], error: Exception) -> None:
        """A bug of ours: it is seen, and everybody still gets an answer that is booked."""
        logger.exception("an answer of %s could not be made", loaded.servable.model)
        for pending in waiters:
            if pending.is_waiting():
                self.failures.lost(pending)
                pending.fail(InferenceFailed(f"the answer could not be made: {error}"))

    def _answer(self, loaded: Loaded, batch: Batch[Pending]) -> None:
        if batch.error is not None:
            waiting = [pending for pending in batch.waiters if pending.is_waiting()]
            if isinstance(batch.error, InferenceFailed):
                waiting = [pending for pending in waiting if not self.failures.is_callers_fault(loaded, pending)]
                if waiting:
                    self._breakers.failed(loaded)
            is_too_large = isinstance(batch.error, PayloadTooLarge | Overloaded)
            for pending in waiting:
                if is_too_large and not pending.arm.is_canary:
                    self.failures.no_room(pending, batch.error)
                else:
                    self._fail(pending, batch.error)
            return
        if loaded.breaker is not None and batch.ended_ns > batch.started_ns:  # else it was kept: nothing has run
            self._breakers.succeeded(loaded)
        is_logged = self._tap is not None and loaded.schema is not None and batch.rows > 0
        logged = loaded.outputs(batch.outputs, batch.rows) if is_logged else None
        is_good = logged is not None and loaded.all_good(logged)
        finite = None if is_good and loaded.good_is_finite else self._finite_rows(loaded, batch)
        first = 0
        shares: dict[Arm, tuple[list[Pending], list[int]]] = {}
        for pending in batch.waiters:
            if not pending.is_waiting():
                pass  # cancelled or expired while it ran: its batch-mates do not notice
            elif finite is not None and not finite[first : first + max(1, pending.rows)].all():
                self._fail(pending, InferenceFailed("the model returned a number that is not finite"))
            else:
                share = shares.get(pending.arm)
                if share is None:
                    share = shares[pending.arm] = ([], [])
                share[0].append(pending)
                share[1].append(first)
            first += pending.rows
        is_long = False
        for output in batch.outputs:
            is_long |= output.nbytes >= LONG_ANSWER
        for arm, (members, starts) in shares.items():
            if is_long and any(pending.call.is_text for pending in members):
                arm.loaded.servable.leases += 1  # or what is booked might be another version's by then
                self._aside(self._write_aside(arm, members, starts, batch, logged, is_good=is_good))
            else:
                self._release(arm, members, starts, batch, logged, is_good=is_good)

    def _release(
        self,
        arm: Arm,
        members: list[Pending],
        starts: list[int],
        batch: Batch[Pending],
        logged: NDArray[Any] | None,
        *,
        is_good: bool,
        bodies: Sequence[bytes | Answer] | None = None,
    ) -> None:
        """Log, book and answer requests of one arm. bodies: their answers, where these are written already."""
        loaded, started_ns, ended_ns = arm.loaded, batch.started_ns, batch.ended_ns
        counts = [pending.rows for pending in members]
        feeds, outputs, rows = batch.feeds, batch.outputs, batch.rows
        whole, firsts, all_logged = len(members) == len(batch.waiters), starts, logged
        if not whole:
            kept, starts = _rows_of(starts, counts)
            feeds, outputs = [feed[kept] for feed in feeds], [output[kept] for output in outputs]
            logged = None if logged is None else logged[kept]
            rows = len(kept)
        try:
            if bodies is None:
                bodies = codec_work.write(loaded.writer, [pending.call for pending in members], counts, starts, outputs)
        except Exception as error:
            if len(members) == 1:
                self.failures.unwritten(members[0], error)
            else:  # whose it is finds out alone
                for pending, first in zip(members, firsts, strict=True):
                    self._release(arm, [pending], [first], batch, all_logged, is_good=is_good)
            return
        for output in outputs:
            if output.nbytes >= LONG_OUTPUT:
                if not self.unread.has_room(sum(map(_size, bodies))):
                    for pending in members:
                        self.failures.no_room(pending, self.unread.refusal())
                    return
                break
        bad: NDArray[np.bool_] | None = None
        hashes = [pending.hash for pending in members]
        arrived = [pending.arrived_ns for pending in members]
        decoded = [pending.decoded_ns for pending in members]
        if self._tap is not None and logged is not None:
            infer_us = (ended_ns - started_ns) / 1000.0
            features = loaded.features(feeds, rows)
            self._tap.record(
                loaded, arm.role, arm.epoch, hashes, counts, features, logged, decoded, started_ns, infer_us
            )
            if arm.segment is not None and not is_good:
                bad_rows = loaded.bad_rows(logged)
                if bad_rows is not None:
                    bad = np.logical_or.reduceat(bad_rows, starts) if len(bad_rows) > len(starts) else bad_rows
        released_ns = perf_counter_ns()
        protocols = [pending.protocol for pending in members]
        latencies = self._accounts.answered(arm, protocols, arrived, decoded, started_ns, ended_ns, released_ns, rows)
        if arm.segment is not None:
            key_rows = [pending.key_row for pending in members]
            keyed = None if key_rows.count(None) == len(key_rows) else key_rows
            self._accounts.evidence(arm, latencies, bad=bad, key_rows=keyed)
        answers = loaded.answers
        same = [] if answers is None else self._keep(answers, members, starts, outputs, len(batch.waiters) == 1)
        for pending, body in zip(members, bodies, strict=True):
            pending.succeed(body)
        for pending, kept_outputs in same:
            self._answer_kept(pending, kept_outputs)
        traffic = arm.traffic
        if traffic.shadow is not None and arm is traffic.champion and rows:
            ordered = [feeds[position] for position in traffic.shadow_order]
            self._shadows.offer(Copy(traffic.shadow, arm.epoch, ordered, hashes, counts, rows))

    async def _write_aside(
        self,
        arm: Arm,
        members: list[Pending],
        starts: list[int],
        batch: Batch[Pending],
        logged: NDArray[Any] | None,
        *,
        is_good: bool,
    ) -> None:
        """As `_release`, for long answers: written away from the event loop first. Ends a lease of the version."""
        servable, bodies = arm.loaded.servable, None
        size = sum(output.nbytes for output in batch.outputs)
        try:
            if not self.unread.has_room(size):
                raise self.unread.refusal()
            self.unread.waiting_bytes += size
            try:
                bodies = await self._written(servable, members, starts, batch)
            finally:
                self.unread.waiting_bytes -= size
        except (Overloaded, Draining) as error:
            for pending in members:
                if pending.is_waiting():
                    self.failures.no_room(pending, error)
            return
        except Exception as error:  # writing them here finds out whose it is
            logger.warning("long answers of %s are written on the event loop: %s", servable.model, error)
        finally:
            servable.leases -= 1
        left = [at for at, pending in enumerate(members) if pending.is_waiting()]
        if left:
            waiting, own = [members[at] for at in left], [starts[at] for at in left]
            written = None if bodies is None else [bodies[at] for at in left]
            try:
                self._release(arm, waiting, own, batch, logged, is_good=is_good, bodies=written)
            except Exception as error:
                self._unmade(arm.loaded, waiting, error)

    async def _written(
        self, servable: Servable, members: list[Pending], starts: list[int], batch: Batch[Pending]
    ) -> Sequence[bytes | Answer] | None:
        """The long answers of some requests of a run, as `CodecProcess.write` says."""
        counts, calls = [pending.rows for pending in members], [pending.call for pending in members]
        outputs = batch.outputs
        if len(members) != len(batch.waiters):  # only their own rows are written
            kept, starts = _rows_of(starts, counts)
            outputs = [output[kept] for output in outputs]
        return await self._codec_process.write(
            servable, calls, counts, starts, outputs, lambda: any(pending.is_waiting() for pending in members)
        )

    @staticmethod
    def _finite_rows(loaded: Loaded, batch: Batch[Pending]) -> NDArray[np.bool_] | None:
        """Which rows are finite, where the manifest forbids others; None when all are."""
        servable = loaded.servable
        if not servable.refuses_nonfinite:
            return None
        rows: NDArray[np.bool_] | None = None
        for index in servable.float_outputs:
            output = batch.outputs[index]
            if output.size <= _FEW_VALUES and all(map(isfinite, output.ravel().tolist())):
                continue
            finite = np.isfinite(output)
            if not finite.all():
                by_row = len(batch.waiters) > 1 or (servable.by_rows and finite.ndim > 0 and len(finite) == batch.rows)
                own = np.all(finite.reshape(batch.rows, -1), axis=1) if by_row else np.full(max(1, batch.rows), False)
                rows = own if rows is None else np.logical_and(rows, own)
        return rows

    # ---- what went wrong

    def _fail(self, pending: Pending, error: ServingError) -> None:
        """Book a failed run, and let somebody answer in this version's place if there is anybody."""
        self.failures.lost(pending)
        if isinstance(error, InferenceFailed):  # else it was not run, for its turn came too late
            self._accounts.run_failed(pending.arm)
        if pending.again is None or not self._fall_back(pending, *pending.again):
            pending.fail(error)

    def _fall_back(self, pending: Pending, codec: Codec, body: bytes, headers: Headers) -> bool:
        """Ask who stands in, within the caller's deadline → whether anybody does. The answer says that it is one."""
        pending.again = None
        self._give_up(pending)
        found = self._stand_ins.find(pending.arm, codec, body, headers, pending.left_s())
        if found is None:
            return False  # this version's own error says more than why nobody else answers
        pending.arm, asked, pending.call = found
        pending.feeds, pending.rows, pending.key_row = asked.feeds, asked.rows, None
        pending.decoded_ns = perf_counter_ns()
        if pending.arm.stand_in is not None:
            pending.again = codec, body, headers
        if pending.arm.loaded.answers is None:
            pending.arm.loaded.batcher.submit(pending)
        else:
            self._ask_kept(pending.arm.loaded.answers, pending)
        return True

    async def _refuse(self, send: Send, error: ServingError, pending: Pending, model: str) -> None:
        status, headers, body = self.failures.refusal(error, pending, model)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
