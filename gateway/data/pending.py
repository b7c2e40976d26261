"""One request on its way through `predict.py`, whoever waits for it.

Invariant: it is released once, by `succeed` or `fail`, and only while it `is_waiting`. `Awaited` is one that a
coroutine waits for; `gateway.data.exchange.Exchange` is answered where it came in. Event loop only.
"""

from __future__ import annotations

import asyncio
import math
from time import perf_counter_ns

from gateway.data.batcher import Waiter
from gateway.data.codecs.call import Answer, Call, Codec, Headers
from gateway.data.load_waits import LoadWait
from gateway.data.traffic import Arm
from registry.errors import ServingError


class Pending(Waiter):
    """A request on its way. `arm` is set when it is routed, `queued` when it waits for a run."""

    __slots__ = (
        "again",
        "arm",
        "arrived_ns",
        "call",
        "decoded_ns",
        "hash",
        "held_bytes",
        "identity",
        "key_row",
        "protocol",
        "question",
        "queued",
        "timer",
        "wait",
    )

    arm: Arm
    call: Call
    hash: bytes
    key_row: int | None
    decoded_ns: int
    question: bytes | None  # while it runs for an answer that will be kept; set only where answers are

    def __init__(self, protocol: str, identity: bytes, arrived_ns: int) -> None:
        self.protocol = protocol
        self.identity = identity
        self.arrived_ns = arrived_ns
        self.queued = False
        self.held_bytes = 0  # of its body that count among all that are here
        self.timer: asyncio.TimerHandle | None = None
        # Until its version is loaded, or its long body read: cancelled by whoever leaves before it is queued.
        self.wait: LoadWait | asyncio.Task[None] | None = None
        self.again: tuple[Codec, bytes, Headers] | None = None  # what it takes to ask who stands in

    def left_s(self) -> float:
        return math.inf if self.timer is None else self.timer.when() - asyncio.get_running_loop().time()


class Awaited(Pending):
    """A request that a coroutine waits for."""

    __slots__ = ("future",)

    def __init__(self, protocol: str, identity: bytes, arrived_ns: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(protocol, identity, arrived_ns)
        self.future: asyncio.Future[bytes | Answer] = loop.create_future()

    def is_waiting(self) -> bool:
        return not self.future.done()

    def succeed(self, answer: bytes | Answer) -> None:
        self.future.set_result(answer)

    def fail(self, error: ServingError) -> None:
        self.future.set_exception(error)


def time_left_s(pending: Pending, deadline_ms: float | None) -> float | None:
    """What is left of the caller's time."""
    if deadline_ms is None:
        return None
    return max(0.0, deadline_ms / 1000.0 - (perf_counter_ns() - pending.arrived_ns) / 1e9)
