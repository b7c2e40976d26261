"""Who is held to have ended a worker: against histories of a killer, and of innocents who are there with it."""

from __future__ import annotations

import random
import signal

import pytest

from gateway.data.blame import FIRST_S, FORGOTTEN_AFTER_S, MOST_S, Blame, after_end
from gateway.data.residency import Key

KILLER, SLOW, OTHER = ("killer", 1), ("slow", 3), ("other", 2)
S = 1_000_000_000


def ends(known: dict[Key, Blame], *running: Key, now_s: float = 0.0) -> dict[Key, Blame]:
    """What is known after an end of the worker in which these were running."""
    return {**known, **after_end(known, dict.fromkeys(running, False), signal.SIGSEGV, int(now_s * S))}


def blocks_s(known: dict[Key, Blame]) -> dict[Key, float]:
    return {key: blame.block_ns / S for key, blame in known.items()}


def test_who_ran_alone_is_blocked_at_once_and_each_time_for_longer_up_to_an_hour() -> None:
    known: dict[Key, Blame] = {}
    told = []
    for _ in range(1000):
        known = ends(known, KILLER)
        told.append(known[KILLER].block_ns / S)
    assert told == [FIRST_S, 40, 160, 640, 2560, *[MOST_S] * 995]
    assert known[KILLER].ended_by == signal.SIGSEGV


@pytest.mark.parametrize(
    ("every_s", "blocks"),
    [(60, [10, 40, 160, 640]), (300, [10, 20, 40, 80]), (600, [10, 10, 10, 10])],
)
def test_one_that_answers_in_between_is_blocked_by_how_often_it_ends_workers(every_s: int, blocks: list[int]) -> None:
    known: dict[Key, Blame] = {}
    told, now_s = [], 0.0
    for _ in blocks:
        known = ends(known, KILLER, now_s=now_s)
        told.append(known[KILLER].block_ns / S)
        now_s += told[-1] + every_s
        known[KILLER] = known[KILLER].answered()
        assert known[KILLER].left_s(int(now_s * S)) == 0
    assert told == blocks


def test_of_several_nobody_is_blocked_for_one_end_and_then_each_for_another_time() -> None:
    known = ends({}, KILLER, SLOW)
    assert blocks_s(known) == {KILLER: 0, SLOW: 0}
    assert not any(blame.is_alone for blame in known.values())
    assert blocks_s(ends(known, SLOW, KILLER)) == {KILLER: 10, SLOW: 20}


def test_of_several_the_one_that_was_blamed_most_is_taken_and_the_others_are_left_alone() -> None:
    known = ends(ends({}, KILLER), KILLER, SLOW, OTHER)
    assert blocks_s(known) == {KILLER: 40}
    assert known[KILLER].is_alone
    assert after_end({}, {}, signal.SIGBUS, 0) == {}


def test_a_load_is_told_from_a_run() -> None:
    assert after_end({}, {KILLER: True}, 8, 0)[KILLER].in_load


def test_how_long_it_is_blocked_and_when_it_is_forgotten() -> None:
    blame = ends({}, KILLER, now_s=100)[KILLER]
    assert [blame.left_s(at * S) for at in (100, 104, 110, 500)] == [10, 6, 0, 0]
    moments_s = (100, 109 + FORGOTTEN_AFTER_S, 110 + FORGOTTEN_AFTER_S, 110 + 2 * FORGOTTEN_AFTER_S)
    assert [blame.points_left(int(at * S)) for at in moments_s] == [2, 2, 1, 0]


@pytest.mark.parametrize("innocent", [SLOW, ("innocent", 1)])  # whoever of them has the first name
def test_an_innocent_that_always_runs_is_soon_free_and_the_killer_is_blocked_nearly_always(innocent: Key) -> None:
    """Two hours: both are always asked, and one request of the killer in ten ends the worker."""
    for seed in range(20):
        chance, known, deaths = random.Random(seed), dict[Key, Blame](), 0
        blocked_s = {KILLER: 0, innocent: 0}
        for now_s in range(7200):
            free = [key for key in blocked_s if key not in known or known[key].left_s(now_s * S) == 0]
            for key in blocked_s.keys() - free:
                blocked_s[key] += 1
            if KILLER in free and chance.random() < 0.1:
                known, deaths = ends(known, *free, now_s=now_s), deaths + 1
                continue
            for key in free:
                if key in known and known[key].block_ns:
                    known[key] = known[key].answered()
        assert deaths < 25
        assert blocked_s[innocent] <= 0.04 * 7200
        assert blocked_s[KILLER] > 0.96 * 7200
