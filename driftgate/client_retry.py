"""When `driftgate.client` tries again: pure arithmetic; whoever calls does the waiting.

Only what cannot have been answered is tried again: 429, 503, and connections that could not be opened.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from driftgate.client_errors import ConnectionFailed, DriftgateError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often, how long, and with which chance. `Retry(attempts=1)` never tries again."""

    attempts: int = 4  # tries, the first one counted
    base_s: float = 0.05  # the wait before the second try is at most this; it doubles with each
    most_s: float = 5.0  # one wait is at most this long, whatever Retry-After says: longer ones are not waited for
    total_s: float = 15.0  # no try starts later than this after the first
    jitter: Callable[[], float] = random.random  # from 0 to 1: the share of a wait without Retry-After


def wait_s(retry: Retry, error: DriftgateError, tried: int, elapsed_s: float, left_s: float | None) -> float | None:
    """How long to wait before the next try; None: give up. `left_s` is what a deadline leaves.

    >>> from driftgate.client_errors import ServerUnavailable
    >>> policy = Retry(base_s=0.1, jitter=lambda: 0.5)
    >>> wait_s(policy, ServerUnavailable("", status=503, retry_after_s=1.0), 1, 0.2, None)
    1.05
    >>> wait_s(policy, ServerUnavailable("", status=503), 2, 0.2, None)
    0.1
    >>> wait_s(policy, ServerUnavailable("", status=503, retry_after_s=60.0), 1, 0.2, None) is None
    True
    """
    never_asked = isinstance(error, ConnectionFailed) and error.code == "not_connected"
    if tried >= retry.attempts or not (error.status in (429, 503) or never_asked):
        return None
    # Added to Retry-After, too: callers that were refused together do not come back together.
    spread_s = retry.jitter() * min(retry.most_s, retry.base_s * 2.0 ** (tried - 1))
    wait = (error.retry_after_s or 0.0) + spread_s
    if wait > retry.most_s or elapsed_s + wait > retry.total_s or (left_s is not None and wait >= left_s):
        return None
    return wait
