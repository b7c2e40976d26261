"""Who answers in the place of a version that cannot: chosen before a run, or after one that failed.

A canary's place is taken by the champion, the champion's by whom its options name (`traffic.py` links them). Invariant:
nobody is asked who would refuse the request as his own: not loaded, a breaker that refuses, other inputs, no time.
Called by `predict.py`, and never for a request that its own version takes. Event loop only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from hashlib import blake2b
from time import perf_counter_ns

from gateway.data.accounts import Accounts
from gateway.data.codecs.call import Call, Codec, Headers
from gateway.data.pending import Pending, time_left_s
from gateway.data.runs import Rows
from gateway.data.traffic import Arm
from gateway.settings import LimitSettings
from registry.clock import Clock
from registry.errors import BreakerOpen, Overloaded, ServingError
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

CAUTION = 1.1  # predictions are taken as so much too short: an answer that comes too late was run for nothing
# How full a model may be for whom: when it is short of time, the champion's callers are the last to be refused.
ROOM = {Role.CHAMPION: 1.0, Role.CANARY: 0.9, Role.DIRECT: 0.8, Role.FALLBACK: 0.5}


class StandIns:
    """The choice, of one worker. `admit` raises Overloaded for what an arm has no time for, or sets its deadline."""

    def __init__(
        self,
        limits: LimitSettings,
        accounts: Accounts,
        clock: Clock,
        admit: Callable[[Pending, Arm, float | None], None],
    ) -> None:
        self._limits = limits
        self._accounts = accounts
        self._clock = clock
        self._admit = admit

    def find(
        self, arm: Arm, codec: Codec, body: bytes, headers: Headers, left_s: float
    ) -> tuple[Arm, Rows, Call] | None:
        """Who can answer this request in the arm's place, and the request as that version reads it.

        Passed over: who is not loaded, whose breaker refuses, who takes other inputs, and who would be late while there
        is another.
        """
        now_s, one = self._clock.now_s(), arm.stand_in
        while one is not None:
            loaded = one.loaded
            if one.is_ready(now_s):
                try:
                    feeds, call = codec.read(body, headers, loaded.servable, self._limits)
                    asked = Rows(feeds, loaded.servable.rows_of(feeds))
                except ServingError:
                    pass
                except Exception:
                    logger.exception("a request could not be read for %s", loaded.servable.model)
                else:
                    takes_us = loaded.batcher.wait_us() + loaded.batcher.run_us(asked)
                    if call.timeout_us is not None:
                        left_s = min(left_s, call.timeout_us / 1e6)
                    if one.stand_in is None or takes_us * CAUTION < left_s * 1e6:
                        if loaded.breaker is not None:
                            loaded.breaker.begin_trial(now_s)
                        return one, asked, call
            one = one.stand_in
        return None

    def past_breaker(
        self,
        pending: Pending,
        arm: Arm,
        key: bytes | None,
        codec: Codec,
        body: bytes,
        headers: Headers,
        deadline_ms: float | None,
    ) -> tuple[Arm, bytes | None]:
        """Who takes a request to a version whose last runs failed: itself, or who stands in. Raises BreakerOpen.

        A canary is always asked: its failures are evidence, and enough of them in a row are a veto.
        """
        loaded, now_s = arm.loaded, self._clock.now_s()
        breaker = loaded.breaker
        if breaker is None or not breaker.is_open or arm.is_canary:
            return arm, key
        left_s = breaker.left_s(now_s)
        if left_s <= 0:
            codec.read(body, headers, loaded.servable, self._limits)  # what cannot be run must not be the trial
            breaker.begin_trial(now_s)
            return arm, key
        evidence = arm.traffic.evidence
        if evidence is not None and arm.role is Role.CHAMPION:
            evidence.canary_failures_in_a_row = 0  # the champion fails too: whatever it is, it is not the canary
        time_s = time_left_s(pending, deadline_ms)
        found = self.find(arm, codec, body, headers, math.inf if time_s is None else time_s)
        if found is None:
            servable = loaded.servable
            raise BreakerOpen(
                f"the last runs of version {servable.version} of {servable.model!r} {breaker.why}: "
                f"it is tried again in {left_s:.1f} s",
                retry_after_s=math.ceil(left_s),
                version=str(servable.version),
            )
        return found[0], None

    def past_canary(
        self,
        pending: Pending,
        canary: Arm,
        refusal: Overloaded,
        codec: Codec,
        body: bytes,
        headers: Headers,
        deadline_ms: float | None,
    ) -> Arm:
        """Who takes a request that the canary has no room or time for: the champion, if it has. Raises the refusal.

        Only where what waits is the canary's: a model that is full refuses, and canaries first. Counted for the canary,
        and no evidence: how long a queue is depends on weight and priority as well as on the version.
        """
        one, now_s = canary.stand_in, self._clock.now_s()
        if (
            one is None
            or not one.is_ready(now_s)
            or canary.traffic.inside.waiting >= self._limits.waiting_requests
            or one.loaded.batcher.waiting >= self._limits.waiting_requests * ROOM[one.role]
        ):
            raise refusal
        servable = one.loaded.servable
        try:
            pending.feeds, pending.call = codec.read(body, headers, servable, self._limits)
            pending.rows = servable.rows_of(pending.feeds)
            timeout_us = pending.call.timeout_us
            if timeout_us is not None:
                deadline_ms = timeout_us / 1000 if deadline_ms is None else min(timeout_us / 1000, deadline_ms)
            self._admit(pending, one, deadline_ms)
        except ServingError:
            raise refusal from None
        if one.loaded.breaker is not None:
            one.loaded.breaker.begin_trial(now_s)
        pending.arm = one
        pending.hash = blake2b(pending.identity, digest_size=16).digest()
        pending.decoded_ns = perf_counter_ns()
        self._accounts.overflowed(canary)
        return one
