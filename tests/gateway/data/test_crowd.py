"""When a crowd has left, for callers that come and go."""

from __future__ import annotations

import pytest

from gateway.data.crowd import CALM_LOOKS, CROWD, Crowd


def looks(*seen: tuple[int, int]) -> list[int]:
    """The looks, by number, at which a crowd had left."""
    crowd = Crowd()
    return [at for at, (callers, inflight) in enumerate(seen) if crowd.has_left(callers, inflight)]


@pytest.mark.parametrize(
    ("what", "seen", "left"),
    [
        ("nobody ever came", [(0, 0)] * 20, []),
        ("callers that stay", [(1000, 0)] * 20, []),
        ("a few that leave", [(CROWD - 1, 5), *[(0, 0)] * 20], []),
        ("a crowd that leaves", [(CROWD, 5), *[(0, 0)] * 20], [CALM_LOOKS]),
        ("a crowd of which some stay", [(1000, 0)] * 9 + [(700, 0)] * 20, [9]),
        ("somebody still asks", [(CROWD, 5), *[(1, 1)] * 20], []),
        ("somebody asks now and then", [(CROWD, 5), *[(1, 1), (1, 0)] * 20], []),
        ("two crowds", [(500, 9), *[(0, 0)] * 9, (500, 9), *[(0, 0)] * 9], [CALM_LOOKS, 10 + CALM_LOOKS]),
    ],
)
def test_memory_is_given_back_once_for_each_crowd_and_when_it_is_calm(
    what: str, seen: list[tuple[int, int]], left: list[int]
) -> None:
    assert looks(*seen) == left, what
