"""Which versions leave memory so that another has room: the decision, apart from doing it.

Invariant: what somebody waits for, is using, or has to stay by the route table's word (a running rollout's versions,
the old champion of one that soaks) never leaves. Among the others the least recently used leaves first. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Key = tuple[str, int]  # model, version

_SMALLEST_BYTES = 1 << 20  # an empty session took 1.0 MiB


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded version."""

    key: Key
    size_bytes: int  # measured when it was loaded
    used_s: float  # when it last answered, or was loaded
    must_stay: bool


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a load will take."""

    kept_bytes: int  # by the loaded version
    peak_bytes: int  # while it is being loaded


def foresee(file_bytes: int, measured_bytes: int | None) -> Foreseen:
    """What loading a version takes, from its file and, once it has been loaded before, from what it took then.

    While a session opens, the file and its parsed form are in memory beside it: measured, 1.6 times the file more.

    >>> foresee(8 << 20, None).kept_bytes >> 20
    11
    """
    kept = measured_bytes if measured_bytes is not None else file_bytes + file_bytes // 4 + _SMALLEST_BYTES
    return Foreseen(kept, kept + 2 * file_bytes)


def leavers(residents: Iterable[Resident], wanted_bytes: int) -> tuple[tuple[Key, ...], bool]:
    """Who leaves so that this much comes free, the least recently used first; and whether they are enough.

    >>> old, new = Resident(("a", 1), 10, 1.0, False), Resident(("b", 1), 10, 2.0, False)
    >>> leavers([new, old], 5)
    ((('a', 1),), True)
    """
    leaving: list[Key] = []
    for resident in sorted((one for one in residents if not one.must_stay), key=lambda one: (one.used_s, one.key)):
        if wanted_bytes <= 0:
            break
        leaving.append(resident.key)
        wanted_bytes -= resident.size_bytes
    return tuple(leaving), wanted_bytes <= 0
