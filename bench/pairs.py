"""Contestants run in turn: a noisy machine then disturbs all of them alike, and ratios within a pair stay true."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

T = TypeVar("T")


def order_of(names: list[str], pair: int) -> list[str]:
    """Forwards in even pairs, backwards in odd ones, so that none always runs after the same neighbour.

    >>> [order_of(["a", "b"], pair) for pair in (0, 1)]
    [['a', 'b'], ['b', 'a']]
    """
    return names if pair % 2 == 0 else names[::-1]


def alternate(
    contestants: Mapping[str, Callable[[], T]],
    pairs: int,
    say: Callable[[str], None],
    tell: Callable[[T], str],
) -> dict[str, list[T]]:
    """Run each contestant once a pair; what they returned, per name. `tell` makes a run's word of progress."""
    samples: dict[str, list[T]] = {name: [] for name in contestants}
    for pair in range(pairs):
        for name in order_of(list(contestants), pair):
            samples[name].append(contestants[name]())
        say(f"pair {pair + 1:2d}/{pairs}: " + "  ".join(f"{name} {tell(samples[name][-1])}" for name in contestants))
    return samples
