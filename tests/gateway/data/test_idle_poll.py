from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.data.idle_poll import MOST_PASSED, IdlePoll
from tests.gateway.data.test_connections import WHOLE, House, visited
from tests.support.clock import ManualClock
from tests.support.serving import Bench, with_worker

WINDOW_US = 50.0


class Turns:
    """An event loop whose turns take a microsecond, and its callers. It sleeps when nothing is to be called."""

    def __init__(self, window_us: float = WINDOW_US) -> None:
        self.now_ns = 0
        self.runs_away = 0
        self._soon: list[Callable[[], None]] = []
        self.poll = IdlePoll(
            cast(asyncio.AbstractEventLoop, self), window_us, lambda: self.runs_away, lambda: self.now_ns
        )

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._soon.append(callback)

    def answer(self, requests: int = 1) -> None:
        """A turn in which so many requests came and were answered."""
        self._turn()
        for _ in range(requests):
            self.poll.answered()

    def look_for_us(self, limit_us: int) -> int:
        """Turns without a request, at most so many: how many there were before the loop slept."""
        for turn in range(limit_us):
            if not self._soon:
                return turn
            self._turn()
        return limit_us

    def _turn(self) -> None:
        self.now_ns += 1000
        called, self._soon = self._soon, []
        for each in called:
            each()


def test_a_quick_caller_finds_the_loop_awake() -> None:
    turns = Turns()
    for _ in range(100):
        turns.answer()
        assert turns.look_for_us(30) == 30
    assert turns.poll.idle_ns == pytest.approx(100 * 30_000, rel=0.05)


def test_the_loop_sleeps_when_nobody_asks_within_the_window() -> None:
    turns = Turns()
    turns.answer()
    slept_after = turns.look_for_us(1000)
    assert WINDOW_US <= slept_after <= WINDOW_US + 3


def test_callers_that_are_far_away_are_hardly_ever_looked_for() -> None:
    turns = Turns()
    for _ in range(20_000):
        turns.answer()
        turns.look_for_us(10_000)
        turns.now_ns += 10_000_000
    # The tries come after 1, 3, 7, … answers, then after every thousandth.
    assert turns.poll.idle_ns / 1000 / WINDOW_US < 12 + 20_000 / MOST_PASSED


def test_of_many_callers_at_once_requests_are_left_to_gather() -> None:
    turns = Turns()
    looked = 0
    for _ in range(20_000):
        turns.answer(8)
        looked += turns.look_for_us(10)
    assert looked < 2 * 20_000 * 8 / MOST_PASSED


def test_other_work_while_looking_is_no_idleness() -> None:
    turns = Turns()
    for _ in range(100):
        for _ in range(5):  # a quick caller
            turns.answer()
            turns.look_for_us(30)
        turns.now_ns += 20_000_000  # a long request of another kind, which tells nothing here
        turns.look_for_us(30)
    assert turns.poll.idle_ns < 100 * (6 * 30_000 + WINDOW_US * 1000)


def test_runs_in_slots_get_the_core() -> None:
    turns = Turns()
    turns.answer()
    assert turns.look_for_us(30) == 30
    turns.runs_away = 1
    looked = 0
    for _ in range(20_000):
        turns.answer()
        looked += turns.look_for_us(30)
    assert looked < 30 * (12 + 20_000 / MOST_PASSED)
    turns.runs_away = 0
    for _ in range(4 * MOST_PASSED):
        turns.answer()
        looked = turns.look_for_us(30)
    assert looked == 30


def test_it_pays_again_when_the_caller_is_quick_again() -> None:
    turns = Turns()
    for _ in range(3000):
        turns.answer()
        turns.look_for_us(1000)
    for _ in range(4 * MOST_PASSED):
        turns.answer()
        turns.look_for_us(30)
    turns.answer()
    assert turns.look_for_us(30) == 30


def test_without_a_window_the_loop_always_sleeps() -> None:
    turns = Turns(0.0)
    turns.answer()
    assert turns.look_for_us(10) == 0


def test_a_worker_answers_a_quick_caller_and_then_sleeps(tmp_path: Path) -> None:
    async def visit(house: House) -> None:
        poll: Any = house.bench.worker.idle_poll
        async with house.caller() as caller:
            for _ in range(200):
                caller.say(WHOLE)
                head = await caller.reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 200")
                await caller.reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        await asyncio.sleep(0.05)
        assert poll._answers == 199  # what comes first takes the way of ASGI
        before_ns = poll.idle_ns
        await asyncio.sleep(0.05)
        assert poll.idle_ns == before_ns

    visited(tmp_path, visit)


def test_looking_is_no_work_that_holds_shadows_back(tmp_path: Path) -> None:
    clock = ManualClock()  # every second that passes has been the loop's

    async def body(bench: Bench) -> None:
        worker: Any = bench.worker
        for looked_s, is_busy in ((0.0, True), (0.9, False), (0.1, True)):
            clock.advance(1.0)
            worker.idle_poll.idle_ns += round(looked_s * 1e9)
            worker.beat.step()
            assert worker.shadows._busy is is_busy

    with_worker(tmp_path / "run", body, clock=clock)
