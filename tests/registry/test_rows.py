"""Whether rows may be joined: decided by bits, never by declared shapes. Runners here are plain functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registry.errors import InferenceFailed
from registry.rows import Feeds, RowsFinding, Runner, find_exactness
from registry.vocabulary import TensorSpec

X = (TensorSpec("x", "FP32", (None, 3)),)


def rows(count: int) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)}


def find(run: Runner, feeds: Feeds, specs: tuple[TensorSpec, ...] = X, budget_s: float = 5.0) -> RowsFinding:
    return find_exactness(run, feeds, specs, rng=np.random.default_rng(0), budget_s=budget_s)


def doubled(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] * 2, feeds["x"].sum(axis=1)]


def other_for_one_row(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] + np.float32(1e-6 if len(feeds["x"]) == 1 else 0)]


def other_at_seven(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] + np.float32(1e-3 if len(feeds["x"]) == 7 else 0)]


def by_position(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] + np.arange(len(feeds["x"]), dtype=np.float32)[:, None]]


def minus_zero(feeds: Feeds) -> list[NDArray[Any]]:
    return [np.zeros_like(feeds["x"]) * (1 if len(feeds["x"]) == 1 else -1)]


def strings(feeds: Feeds) -> list[NDArray[Any]]:
    return [np.array([str(value) for value in feeds["x"][:, 0]], dtype=object)]


def nothing_but_nan(feeds: Feeds) -> list[NDArray[Any]]:
    return [np.full_like(feeds["x"], np.nan)]


def total(feeds: Feeds) -> list[NDArray[Any]]:
    return [np.array([feeds["x"].sum()])]


def scalar(feeds: Feeds) -> list[NDArray[Any]]:
    return [np.array(1.0)]


def one_row_only(feeds: Feeds) -> list[NDArray[Any]]:
    if len(feeds["x"]) > 1:
        raise InferenceFailed("the model failed: Reshape wants 1")
    return [feeds["x"]]


@pytest.mark.parametrize(
    ("run", "by_rows", "exact", "reason"),
    [
        (doubled, True, True, "40 given rows gave the same bits"),
        (strings, True, True, "same bits"),
        (nothing_but_nan, True, True, "same bits"),
        (other_for_one_row, True, False, "differ from single rows"),
        (other_at_seven, True, False, "7 rows in one run"),
        (by_position, True, False, "differ"),
        (minus_zero, True, False, "differ"),
        (total, False, False, r"shape \(1,\) for 2 rows"),
        (scalar, False, False, r"shape \(\) for 1 row"),
        (one_row_only, False, False, "Reshape wants 1"),
    ],
)
def test_joining_is_allowed_only_where_every_bit_agrees(run: Runner, by_rows: bool, exact: bool, reason: str) -> None:
    import re

    finding = find(run, rows(40))
    assert (finding.by_rows, finding.exact) == (by_rows, exact)
    assert re.search(reason, finding.reason)
    if exact:
        assert finding.joined_rows == 64


def test_a_model_that_answers_the_same_row_differently_is_never_joined() -> None:
    rng = np.random.default_rng(3)
    finding = find(lambda feeds: [feeds["x"] + rng.normal(size=feeds["x"].shape)], rows(40))
    assert not finding.exact
    assert "run again" in finding.reason


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rows_are_enough_if_two_differ(count: int) -> None:
    finding = find(doubled, rows(count))
    assert finding.exact == (count > 1)
    centred = find(lambda feeds: [feeds["x"] - feeds["x"].mean(axis=0)], rows(count))
    assert not centred.exact


@pytest.mark.parametrize(
    ("shape", "by_rows", "reason"),
    [
        ((1, 3), True, "fixed first dimension of 1"),
        ((3, 3), False, "fixed first dimension of 3"),
        ((), False, "a scalar"),
        (None, True, "same bits"),
    ],
)
def test_declared_inputs_can_forbid_joining_but_never_allow_it(
    shape: tuple[int | None, ...] | None, by_rows: bool, reason: str
) -> None:
    finding = find(doubled, rows(4), (TensorSpec("x", "FP32", shape),))
    assert finding.by_rows == by_rows
    assert reason in finding.reason
    assert finding.exact == (shape is None)


def test_when_time_runs_out_before_the_needed_sizes_were_tried_the_answer_is_never() -> None:
    finding = find(doubled, rows(40), budget_s=0.0)
    assert not finding.exact
    assert "took longer" in finding.reason
