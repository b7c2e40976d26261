"""Joining: each waiter's fate is its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from math import inf
from time import perf_counter_ns
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.data import batcher
from gateway.data.batcher import Batcher, Waiter
from gateway.data.joining import Joining
from gateway.data.run_times import RunTimes
from gateway.data.runs import Batch, Rows, run_group
from gateway.data.scheduler import Scheduler
from registry.batching import Axes, Batching
from registry.errors import DeadlineExceeded, InferenceFailed, ServingError

INLINE_BELOW_US = 1000.0


class Doubler:
    """Stands for a servable: doubles its rows, remembers its runs, fails on rows that hold 666."""

    model, version = "m", 1

    def __init__(self, *, joinable: bool = True, max_rows: int = 64, lies: bool = False) -> None:
        self.joinable = joinable
        self.max_rows = max_rows
        batching = Batching(kind="exact", axes=Axes((0,), (0,)), rows_proven=max_rows)
        self.joining = Joining(batching, fixed_row_shape=False)
        self.leases = 0
        self.answer_bytes = 1 << 20
        self.lies = lies
        self.runs: list[int] = []
        self.options: list[Any] = []
        self.gate = threading.Event()  # runs in slots wait for it
        self.gate.set()

    def shape_bucket(self, feeds: Sequence[Any], rows: int) -> int:
        return 0

    def run_options(self) -> Any:
        self.options.append(SimpleNamespace(terminate=False))
        return self.options[-1]

    def run(self, feeds: Sequence[Any], options: Any = None) -> list[Any]:
        (x,) = feeds
        if options is not None:
            self.gate.wait(5)
            if options.terminate:
                raise InferenceFailed("ended early")
        self.runs.append(len(x))
        if (x == 666).any():
            raise InferenceFailed("a poisoned row")
        return [x[:1] * 2 if self.lies and len(x) > 1 else x * 2]


class Promise(Waiter):
    """A waiter that a future tells of."""

    def __init__(self, feeds: Sequence[Any], rows: int, future: asyncio.Future[Any], left: float) -> None:
        super().__init__(feeds, rows)
        self.future = future
        self.left = left

    def is_waiting(self) -> bool:
        return not self.future.done()

    def left_s(self) -> float:
        return self.left

    def succeed(self, answer: Any) -> None:
        self.future.set_result(answer)

    def fail(self, error: ServingError) -> None:
        self.future.set_exception(error)


class Room:
    """A batcher whose answers are each waiter's own slice."""

    def __init__(self, servable: Doubler, slots: int = 1) -> None:
        self.servable = servable
        self.loop = asyncio.get_running_loop()
        self.scheduler = Scheduler(self.loop, slots)
        self.batches: list[Batch[Waiter]] = []
        self.batcher: Batcher[Waiter] = Batcher(
            servable,  # type: ignore[arg-type]
            self.answer,
            self.scheduler,
            INLINE_BELOW_US,
        )

    def answer(self, batch: Batch[Waiter]) -> None:
        self.batches.append(batch)
        first = 0
        for waiter in batch.waiters:
            if waiter.is_waiting():
                if batch.error is not None:
                    waiter.fail(batch.error)
                else:
                    waiter.succeed(batch.outputs[0][first : first + waiter.rows])
            first += waiter.rows

    def ask(self, *values: float, width: int = 1, left: float = inf) -> asyncio.Future[Any]:
        rows = np.repeat(np.array(values, dtype=np.float32).reshape(-1, 1), width, axis=1)
        future: asyncio.Future[Any] = self.loop.create_future()
        self.batcher.submit(Promise([rows], len(rows), future, left))
        return future


def test_a_cancelled_caller_leaves_its_batch_mates_answered() -> None:
    async def main() -> None:
        room = Room(Doubler())
        futures = [room.ask(float(i)) for i in range(4)]
        futures[1].cancel()
        answers: list[Any] = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
        assert isinstance(answers[1], asyncio.CancelledError)
        assert [answers[i].tolist() for i in (0, 2, 3)] == [[[0.0]], [[4.0]], [[6.0]]]
        assert room.servable.runs == [3]  # the cancelled caller's row was not even run

    asyncio.run(main())


def test_a_caller_cancelled_while_its_run_is_away_leaves_its_batch_mates_answered() -> None:
    async def main() -> None:
        room = Room(Doubler())
        room.batcher.times.learn(1, INLINE_BELOW_US + 1)
        futures = [room.ask(float(i)) for i in range(3)]
        await asyncio.sleep(0)
        futures[0].cancel()
        answers: list[Any] = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), 5)
        assert [a.tolist() for a in answers[1:]] == [[[2.0]], [[4.0]]]
        assert room.servable.leases == 0

    asyncio.run(main())


def test_requests_that_wait_at_the_same_moment_are_one_run_and_keep_their_order() -> None:
    async def main() -> None:
        room = Room(Doubler())
        futures = [room.ask(float(i), float(i) + 0.5) for i in range(5)]
        answers = await asyncio.gather(*futures)
        assert room.servable.runs == [10]
        assert [a.ravel().tolist() for a in answers] == [[2.0 * i, 2.0 * i + 1.0] for i in range(5)]

    asyncio.run(main())


def test_a_poisoned_request_fails_alone() -> None:
    async def main() -> None:
        room = Room(Doubler())
        futures = [room.ask(value) for value in (1.0, 666.0, 3.0)]
        answers: list[Any] = await asyncio.gather(*futures, return_exceptions=True)
        assert isinstance(answers[1], InferenceFailed)
        assert answers[0].tolist() == [[2.0]]
        assert answers[2].tolist() == [[6.0]]

    asyncio.run(main())


def test_a_version_that_was_not_proven_equal_is_never_joined() -> None:
    async def main() -> None:
        room = Room(Doubler(joinable=False))
        await asyncio.gather(*(room.ask(float(i)) for i in range(4)))
        assert room.servable.runs == [1, 1, 1, 1]

    asyncio.run(main())


def test_a_model_whose_joined_run_does_not_return_rows_is_run_alone_from_then_on() -> None:
    async def main() -> None:
        room = Room(Doubler(lies=True))
        answers = await asyncio.gather(*(room.ask(float(i)) for i in range(3)))
        assert [a.tolist() for a in answers] == [[[0.0]], [[2.0]], [[4.0]]]
        assert room.servable.joinable is False

    asyncio.run(main())


@pytest.mark.parametrize(("max_rows", "runs"), [(4, [4, 4, 2]), (1, [1] * 10), (64, [10])])
def test_runs_hold_at_most_max_rows_and_a_larger_request_is_run_in_parts(max_rows: int, runs: list[int]) -> None:
    async def main() -> None:
        room = Room(Doubler(max_rows=max_rows))
        await asyncio.gather(*(room.ask(float(i), float(i)) for i in range(5)))
        assert room.servable.runs == runs

    asyncio.run(main())


def test_a_large_request_is_run_whole_where_a_part_of_it_does_not_return_rows() -> None:
    async def main() -> None:
        room = Room(Doubler(lies=True, max_rows=2))
        assert (await room.ask(1.0, 2.0, 3.0)).tolist() == [[2.0]]
        assert (room.servable.runs, room.servable.joinable) == ([2, 3], False)

    asyncio.run(main())


def test_requests_of_different_widths_are_not_joined() -> None:
    async def main() -> None:
        room = Room(Doubler())
        answers = await asyncio.gather(room.ask(1.0, width=2), room.ask(2.0, width=3), room.ask(3.0, width=3))
        assert [a.shape for a in answers] == [(1, 2), (1, 3), (1, 3)]
        assert room.servable.runs == [1, 2]

    asyncio.run(main())


def test_while_a_long_run_is_away_later_requests_gather_for_the_next() -> None:
    async def main() -> None:
        room = Room(Doubler())
        room.batcher.times.learn(1, INLINE_BELOW_US + 1)
        first = room.ask(1.0)
        await asyncio.sleep(0)
        later = [room.ask(float(i)) for i in range(2, 5)]
        answers = await asyncio.wait_for(asyncio.gather(first, *later), 5)
        assert [float(a[0, 0]) for a in answers] == [2.0, 4.0, 6.0, 8.0]
        assert room.servable.runs == [1, 3]

    asyncio.run(main())


def test_a_request_of_more_rows_than_a_run_may_have_is_answered_whole() -> None:
    async def main() -> None:
        room = Room(Doubler(max_rows=4))
        answer = await room.ask(*(float(i) for i in range(10)))
        assert answer.ravel().tolist() == [2.0 * i for i in range(10)]
        assert room.servable.runs == [4, 4, 2]
        assert len(room.batches) == 1

    asyncio.run(main())


def test_shapes_that_alternate_are_two_runs() -> None:
    async def main() -> None:
        room = Room(Doubler())
        answers = await asyncio.gather(*(room.ask(float(i), width=2 + i % 2) for i in range(6)))
        assert [a.shape for a in answers] == [(1, 2), (1, 3)] * 3
        assert [float(a[0, 0]) for a in answers] == [2.0 * i for i in range(6)]
        assert room.servable.runs == [3, 3]

    asyncio.run(main())


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never was so")


def test_a_run_in_a_slot_is_ended_only_when_nobody_in_it_waits_any_more() -> None:
    async def main() -> None:
        room = Room(Doubler())
        room.batcher.times.learn(1, INLINE_BELOW_US + 1)
        room.servable.gate.clear()
        first, second = room.ask(1.0), room.ask(2.0)
        await until(lambda: room.scheduler.running == 1)
        first.cancel()
        room.batcher.drop_abandoned()
        assert [options.terminate for options in room.servable.options] == [False]
        second.cancel()
        room.batcher.drop_abandoned()
        assert [options.terminate for options in room.servable.options] == [True]
        third = room.ask(3.0)
        room.servable.gate.set()
        assert (await asyncio.wait_for(third, 5)).tolist() == [[6.0]]
        assert [options.terminate for options in room.servable.options] == [True, False]
        assert room.servable.leases == 0
        assert room.batcher.is_idle

    asyncio.run(main())


def test_a_caller_that_leaves_before_its_run_is_joined_takes_nothing_from_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        room = Room(Doubler())
        for rows in (1, 2, 4):
            room.batcher.times.learn(rows, INLINE_BELOW_US + 1)
        may_run = threading.Event()

        def wait_and_run(*arguments: Any) -> Any:
            may_run.wait(5)
            return run_group(*arguments)

        monkeypatch.setattr(batcher, "run_group", wait_and_run)
        asked = [room.ask(float(i)) for i in range(4)]
        waiting = list(room.batcher._waiting)
        await until(lambda: room.scheduler.running == 1)
        asked[1].cancel()
        waiting[1].feeds = ()  # as a connection does with what it no longer needs
        may_run.set()
        answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
        assert [answers[i].tolist() for i in (0, 2, 3)] == [[[0.0]], [[4.0]], [[6.0]]]  # type: ignore[union-attr]
        assert room.servable.runs == [4]

    asyncio.run(main())


def test_the_wait_that_is_predicted_is_that_of_the_runs_ahead() -> None:
    async def main() -> None:
        room = Room(Doubler(max_rows=4))
        assert room.batcher.wait_us() == 0.0
        for rows in (1, 2, 4):
            room.batcher.times.learn(rows, 1e7 + 1e6 * rows)  # seconds, which no slow machine takes
        room.servable.gate.clear()
        asked = [room.ask(1.0)]
        await until(lambda: room.scheduler.running == 1)
        assert 5e6 < room.batcher.wait_us() < 11.5e6  # what is left of the run in the slot
        asked += [room.ask(float(i)) for i in range(6)]
        await asyncio.sleep(0)
        assert 26e6 < room.batcher.wait_us() < 37.5e6  # and one run of 4 rows, and one of 2
        room.servable.gate.set()
        await asyncio.wait_for(asyncio.gather(*asked), 5)

    asyncio.run(main())


def test_a_request_whose_turn_comes_too_late_is_told_so_and_not_run() -> None:
    async def main() -> None:
        room = Room(Doubler(max_rows=2))
        for rows in (1, 2):
            room.batcher.times.learn(rows, 50_000.0)
        room.servable.gate.clear()
        first = room.ask(1.0)
        await until(lambda: room.scheduler.running == 1)
        asked = [room.ask(float(i), left=left) for i, left in enumerate((0.04, 0.06, 0.01, 0.02, inf))]
        room.servable.gate.set()
        done = await asyncio.wait_for(asyncio.gather(first, *asked, return_exceptions=True), 5)
        assert [type(one) for one in done[1:]] == [
            DeadlineExceeded,
            np.ndarray,
            DeadlineExceeded,
            DeadlineExceeded,
            np.ndarray,
        ]
        assert room.servable.runs == [1, 1, 1]  # the second of each pair did not wait for the first
        assert room.batcher.is_idle
        assert room.servable.leases == 0

    asyncio.run(main())


def test_a_time_that_was_measured_badly_does_not_refuse_callers_with_deadlines_for_ever() -> None:
    async def main() -> None:
        room = Room(Doubler())
        room.batcher.times.learn(1, 50e6)  # 50 s
        assert (await room.ask(1.0, left=1.0)).tolist() == [[2.0]]  # no run has shown it yet
        with pytest.raises(DeadlineExceeded):
            await room.ask(1.0, left=1.0)
        for _ in range(2):
            room.batcher._measured_ns -= int(501e9)  # as if nothing had run for ten times as long
            assert (await room.ask(1.0, left=1.0)).tolist() == [[2.0]]
        assert (await room.ask(1.0, left=1.0)).tolist() == [[2.0]]  # now it is known

    asyncio.run(main())


class Sure(RunTimes):
    """Whatever runs take, the next is expected to take 2 ms."""

    __slots__ = ()

    def expected_us(self, rows: int, shape: int = 0) -> float:
        return 2000.0


def test_the_wait_counts_what_passes_between_runs() -> None:
    """Runs that are expected to take 2 ms and begin every 20: who came fourth waits for three times 20."""

    async def main() -> None:
        room = Room(Doubler(joinable=False))
        room.batcher.times = Sure()
        for _ in range(60):
            room.servable.gate.clear()
            asked = [room.ask(1.0), room.ask(2.0)]
            await until(lambda: room.scheduler.running == 1)
            room.batcher._began_ns -= 20_000_000  # as if it had begun so long ago
            room.servable.gate.set()
            await asyncio.wait_for(asyncio.gather(*asked), 5)
        room.servable.gate.clear()
        asked = [room.ask(float(i)) for i in range(4)]
        await until(lambda: room.scheduler.running == 1)
        assert 50_000 < room.batcher.wait_us() < 400_000
        room.servable.gate.set()
        await asyncio.wait_for(asyncio.gather(*asked), 5)
        assert room.batcher.wait_us() == 0.0

    asyncio.run(main())


def test_a_pace_that_nobody_measures_any_more_is_forgotten() -> None:
    """Learned in a storm, it had everybody with a deadline refused who came while a run was away: nobody waited, and so
    nothing corrected it."""

    async def predicted(room: Room) -> float:
        room.servable.gate.clear()
        asked = room.ask(1.0)
        await until(lambda: room.scheduler.running == 1)
        wait_us = room.batcher.wait_us()
        room.servable.gate.set()
        await asyncio.wait_for(asked, 5)
        return wait_us

    async def main() -> None:
        room = Room(Doubler(joinable=False))
        room.batcher.times = Sure()
        room.batcher._pace = 50.0
        for _ in range(60):
            await predicted(room)
        assert await predicted(room) < 10_000

        room.batcher._pace, room.batcher._paced_ns = 50.0, perf_counter_ns()  # measured just now
        for _ in range(5):
            await predicted(room)
        assert await predicted(room) > 50_000

    asyncio.run(main())


def test_a_time_that_no_run_has_confirmed_costs_nobody_an_answer() -> None:
    """A run that was ended, since its caller had left, says nothing of how long it would have taken."""

    class Long(RunTimes):
        __slots__ = ()

        def expected_us(self, rows: int, shape: int = 0) -> float:
            return 800_000.0

    async def main() -> None:
        room = Room(Doubler(joinable=False))
        room.batcher.times = Long()
        room.servable.gate.clear()
        left = room.ask(1.0)
        await until(lambda: room.scheduler.running == 1)
        left.cancel()
        room.batcher.drop_abandoned()
        room.servable.gate.set()
        await until(lambda: room.scheduler.running == 0)
        assert (await asyncio.wait_for(room.ask(2.0, left=0.5), 5)).tolist() == [[4.0]]
        with pytest.raises(DeadlineExceeded):  # now it has been measured
            await asyncio.wait_for(room.ask(2.0, left=0.5), 5)

    asyncio.run(main())


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_whoever_stays_gets_the_right_answer_whoever_leaves(data: st.DataObject) -> None:
    """A storm of callers that leave at random moments, with runs on the loop and in slots."""
    count = data.draw(st.integers(1, 24))
    leaves = data.draw(st.lists(st.integers(-1, 6), min_size=count, max_size=count))  # in which turn; -1: stays
    comes = data.draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    poisoned = data.draw(st.sets(st.integers(0, count - 1), max_size=2))
    is_long = data.draw(st.booleans())
    max_rows = data.draw(st.sampled_from([2, 5, 64]))

    async def main() -> None:
        room = Room(Doubler(max_rows=max_rows), slots=2)
        if is_long:
            room.batcher.times.learn(1, INLINE_BELOW_US + 1)
        futures: dict[int, asyncio.Future[Any]] = {}
        for turn in range(12):
            for i in range(count):
                if comes[i] == turn:
                    values = [666.0] if i in poisoned else [float(i + 1)] * (1 + i % 3)
                    futures[i] = room.ask(*values, width=1 + i % 2)
                if i in futures and leaves[i] == turn:
                    futures[i].cancel()
                    room.batcher.drop_abandoned()
            await asyncio.sleep(0)
        done, late = await asyncio.wait(futures.values(), timeout=5)
        assert not late
        assert len(done) == count
        for i, future in futures.items():
            if future.cancelled():
                assert leaves[i] >= 0
            elif i in poisoned:
                assert isinstance(future.exception(), InferenceFailed)
            else:
                assert future.result().tolist() == [[2.0 * (i + 1)] * (1 + i % 2)] * (1 + i % 3)
        await until(lambda: room.batcher.is_idle)
        assert room.servable.leases == 0
        room.scheduler.close()

    asyncio.run(main())


def test_an_answer_that_cannot_be_made_fails_its_waiters_and_not_the_loop() -> None:
    async def main() -> None:
        room = Room(Doubler())

        def broken(_: Batch[Waiter]) -> None:
            raise KeyError("a bug")

        room.batcher._answer = broken
        with pytest.raises(InferenceFailed):
            await asyncio.wait_for(room.ask(1.0), 5)

    asyncio.run(main())


def test_a_failing_single_run_comes_back_as_a_batch_with_an_error() -> None:
    (batch,) = run_group(Doubler(), [Rows([np.array([[666.0]])], 1)])  # type: ignore[arg-type]
    assert isinstance(batch.error, InferenceFailed)
    assert batch.rows == 1
