"""Splits of a column's bins: by hand."""

from __future__ import annotations

from monitor.splits import splits_of, tables_of
from tests.support.streams import category, number


def test_a_number_is_asked_whether_it_is_high_and_whether_it_is_far_out() -> None:
    high, outer = splits_of([number("x", [10] * 8)])
    assert (high.kind, high.answers) == ("high", (-1, -1, -1, -1, -1, 1, 1, 1, 1, 1, 0))
    assert (outer.kind, outer.answers) == ("outer", (1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 0))


def test_a_category_is_asked_for_each_frequent_one_and_a_pair_of_answers_once() -> None:
    of_two = splits_of([category("c", [60, 40])])
    assert [(split.kind, split.bin) for split in of_two] == [("category", 0)]
    of_many = splits_of([category("c", [50, 30, 18, 2])])
    assert [split.bin for split in of_many] == [0, 1, 2]
    assert of_many[1].answers == (-1, 1, -1, -1, -1, 0)


def test_constants_and_empty_columns_are_asked_nothing_and_lopsided_ones_what_is_balanced() -> None:
    assert splits_of([number("constant", [0, 100, 0]), number("empty", [0, 0]), category("one", [100])]) == ()
    assert [split.kind for split in splits_of([number("lopsided", [85, 5, 5, 5])])] == []
    assert [split.kind for split in splits_of([number("ternary", [25, 50, 25])])] == ["high", "outer"]


def test_of_too_many_columns_the_first_are_asked_whether_they_are_high() -> None:
    found = splits_of([number(f"x{at}", [10] * 8) for at in range(10)], most=6)
    assert [(split.column, split.kind) for split in found] == [(at, "high") for at in range(6)]


def test_answers_lie_one_after_another() -> None:
    splits = splits_of([number("x", [10] * 8), category("c", [60, 40])])
    starts, flat = tables_of(splits)
    assert starts.tolist() == [0, 11, 22]
    assert flat[22:].tolist() == [1, -1, -1, 0]
