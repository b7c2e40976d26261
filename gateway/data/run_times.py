"""How long a run of so many rows takes, learned from the runs themselves.

A run's time is not proportional to its rows (8.5 us for one row, 1.2 us a row for 64, measured on a tree model), so it
is kept for each power of two of rows. A size never seen is expected to cost in proportion to the nearest smaller one
that was: too much, which sends one run to the pool and is then known.
"""

from __future__ import annotations

_LEARNING = 0.2  # weight of the newest run


class RunTimes:
    """Expected times of one servable's runs. Event loop only.

    >>> times = RunTimes()
    >>> times.learn(1, 100.0)
    >>> times.expected_us(1), times.expected_us(64)
    (100.0, 6400.0)
    >>> times.learn(64, 300.0)
    >>> times.expected_us(64), times.expected_us(100)
    (300.0, 468.75)
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[int, tuple[float, float]] = {}  # power of two → (rows, us), both averages

    def learn(self, rows: int, took_us: float) -> None:
        """One run of this many rows took so long."""
        bucket = rows.bit_length()
        rows_now, us_now = self._known.get(bucket, (float(rows), took_us))
        self._known[bucket] = (rows_now + _LEARNING * (rows - rows_now), us_now + _LEARNING * (took_us - us_now))

    def expected_us(self, rows: int) -> float:
        """What a run of this many rows is expected to take; 0 while nothing is known."""
        for bucket in range(rows.bit_length(), -1, -1):
            known = self._known.get(bucket)
            if known is not None:
                return known[1] * max(1.0, rows / max(1.0, known[0]))
        return 0.0
