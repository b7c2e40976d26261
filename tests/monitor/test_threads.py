"""Work in threads: the answers' order, faults, and how much is held at once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from monitor import threads


@pytest.mark.parametrize("count", [1, 2, 4])
def test_answers_come_in_the_order_of_the_items_however_long_each_takes(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "threads", lambda: count)

    def slow(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(threads.in_threads(slow, range(20))) == [item * item for item in range(20)]
    assert list(threads.in_threads(slow, [])) == []


@pytest.mark.parametrize("count", [1, 3])
def test_a_fault_is_raised_where_its_answer_would_have_come(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "threads", lambda: count)
    answers = threads.in_threads(lambda item: 1 // item, [1, -1, 0, 1])
    assert [next(answers), next(answers)] == [1, -1]
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_few_items_are_fetched_before_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "threads", lambda: 2)
    fetched: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            fetched.append(item)
            yield item

    for at, _ in enumerate(threads.in_threads(abs, items())):
        assert len(fetched) <= at + 4
