"""Joining: each waiter's fate is its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from gateway.data.batcher import INLINE_BELOW_US, Batch, Batcher, Rows, Waiter, run_group
from registry.errors import InferenceFailed, ServingError


class Doubler:
    """Stands for a servable: doubles its rows, remembers its runs, fails on rows that hold 666."""

    model, version = "m", 1

    def __init__(self, *, joinable: bool = True, max_rows: int = 64, lies: bool = False) -> None:
        self.joinable = joinable
        self.max_rows = max_rows
        self.fixed_row_shape = False
        self.leases = 0
        self.lies = lies
        self.runs: list[int] = []

    def run(self, feeds: Sequence[Any]) -> list[Any]:
        (x,) = feeds
        self.runs.append(len(x))
        if (x == 666).any():
            raise InferenceFailed("a poisoned row")
        return [x[:1] * 2 if self.lies and len(x) > 1 else x * 2]


class Promise(Waiter):
    """A waiter that a future tells of."""

    def __init__(self, feeds: Sequence[Any], rows: int, future: asyncio.Future[Any]) -> None:
        super().__init__(feeds, rows)
        self.future = future

    def is_waiting(self) -> bool:
        return not self.future.done()

    def succeed(self, answer: Any) -> None:
        self.future.set_result(answer)

    def fail(self, error: ServingError) -> None:
        self.future.set_exception(error)


class Room:
    """A batcher whose answers are each waiter's own slice."""

    def __init__(self, servable: Doubler) -> None:
        self.servable = servable
        self.loop = asyncio.get_running_loop()
        self.pool = ThreadPoolExecutor(1)
        self.batches: list[Batch[Waiter]] = []
        self.batcher: Batcher[Waiter] = Batcher(servable, self.answer, self.loop, self.pool)  # type: ignore[arg-type]

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

    def ask(self, *values: float, width: int = 1) -> asyncio.Future[Any]:
        rows = np.repeat(np.array(values, dtype=np.float32).reshape(-1, 1), width, axis=1)
        future: asyncio.Future[Any] = self.loop.create_future()
        self.batcher.submit(Promise([rows], len(rows), future))
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


@pytest.mark.parametrize(("max_rows", "runs"), [(4, [4, 4, 2]), (1, [2, 2, 2, 2, 2]), (64, [10])])
def test_runs_hold_at_most_max_rows_and_a_larger_request_goes_alone(max_rows: int, runs: list[int]) -> None:
    async def main() -> None:
        room = Room(Doubler(max_rows=max_rows))
        await asyncio.gather(*(room.ask(float(i), float(i)) for i in range(5)))
        assert room.servable.runs == runs

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
