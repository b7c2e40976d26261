"""Which version is held to have ended a worker, and for how long it is not run then. Pure; time is passed in.

A fault in a native kernel ends the process and gives no answer to anybody in it; its page says which versions were
being run. One that ran alone did it. Of several, the one with the most points is taken; where they have as many, nobody
knows, and each gets one: so two such ends block them, one for longer than the other, and another one first each time:
one of them is tried alone then, and the next end tells. Each point more doubles a block. A point is forgotten for every
five minutes without an end after a block, so what ends a worker every quarter of an hour is blocked for seconds, and
what does it at every trial for an hour, which is the most. Called by `fatal_runs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gateway.data.residency import Key

ALONE, AMONG_OTHERS = 2, 1  # points of one end of a worker
ENOUGH, MOST = 2, 12  # points from which a version is blocked, and so many that its block is the longest
FIRST_S, MOST_S = 10.0, 3600.0
FORGOTTEN_AFTER_S = 300.0  # one point


@dataclass(frozen=True, slots=True)
class Blame:
    """What is held against a version in one worker slot. Times are of the host's clock, in ns."""

    points: int  # at the last end
    ended_by: int  # the signal of the last end
    at_ns: int  # the last end
    block_ns: int  # it is not run for so long from then on; 0: it is only suspected, or has answered since
    in_load: bool  # it was being loaded, and no request was in it
    is_alone: bool  # nobody else is held to have done it

    def left_s(self, now_ns: int) -> float:
        """How long it is still blocked; 0: it may be tried.

        >>> Blame(2, 8, 0, 10_000_000_000, False, True).left_s(4_000_000_000)
        6.0
        """
        return max(0, self.at_ns + self.block_ns - now_ns) / 1e9

    def points_left(self, now_ns: int) -> int:
        """What is not forgotten."""
        since_s = (now_ns - self.at_ns - self.block_ns) / 1e9
        return max(0, self.points - max(0, int(since_s / FORGOTTEN_AFTER_S)))

    def answered(self) -> Blame:
        """It has been run since, and the worker is there: it may be run again, and what it has done counts."""
        return replace(self, block_ns=0)


def blame_of(words: Sequence[int]) -> Blame:
    """A blame from its fields, all as whole numbers."""
    points, ended_by, at_ns, block_ns, in_load, is_alone = words
    return Blame(points, ended_by, at_ns, block_ns, bool(in_load), bool(is_alone))


def after_end(
    known: Mapping[Key, Blame], running: Mapping[Key, bool], ended_by: int, now_ns: int
) -> Mapping[Key, Blame]:
    """What is held against versions anew when a worker has ended by its own fault.

    running: what was under way in it, and whether that was a load. Others keep what is held against them.
    """
    points = {key: known[key].points_left(now_ns) if key in known else 0 for key in running}
    most = max(points.values(), default=0)
    blamed = sorted(key for key in running if points[key] == most)
    is_alone = len(blamed) == 1
    reached = min(most + (ALONE if is_alone else AMONG_OTHERS), MOST)
    first = (most - 1) % max(1, len(blamed))  # else the same one always runs when the other is tried, and none is told
    blamed = blamed[first:] + blamed[:first]
    block_s = 0.0 if reached < ENOUGH else min(FIRST_S * 2.0 ** (reached - ENOUGH), MOST_S)
    each_s = [min(block_s * (1 + place), MOST_S) for place in range(len(blamed))]
    return {
        key: Blame(reached, ended_by, now_ns, int(one_s * 1e9), running[key], is_alone)
        for key, one_s in zip(blamed, each_s, strict=True)
    }
