"""When requests ought to be sent: seconds from the start, rising. Pure; chance is passed in.

An open loop keeps to these times however slow the server is, as callers that know nothing of each other do. Called by
scenarios; `bench.open_loop` sends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def constant(rate: float, seconds: float, start: float = 0.0) -> Times:
    """Evenly spaced sends at this rate.

    >>> constant(4.0, 1.0).tolist()
    [0.0, 0.25, 0.5, 0.75]
    """
    return start + np.arange(round(rate * seconds)) / rate


def poisson(rate: float, seconds: float, rng: np.random.Generator, start: float = 0.0) -> Times:
    """Sends of many independent callers: exponential gaps with this mean rate."""
    count = rng.poisson(rate * seconds)
    return start + np.sort(rng.uniform(0.0, seconds, count))


def bursts(size: int, every_s: float, seconds: float, start: float = 0.0) -> Times:
    """This many at once, again and again.

    >>> bursts(2, 0.5, 1.0).tolist()
    [0.0, 0.0, 0.5, 0.5]
    """
    return start + np.repeat(np.arange(int(seconds / every_s)) * every_s, size)


def phases(parts: Sequence[tuple[float, float]], rng: np.random.Generator) -> tuple[Times, list[tuple[float, float]]]:
    """Poisson sends at one (rate, seconds) after the other; and when each part begins and ends."""
    times, spans, now = [], [], 0.0
    for rate, seconds in parts:
        times.append(poisson(rate, seconds, rng, now))
        spans.append((now, now + seconds))
        now += seconds
    return np.concatenate(times), spans
