"""Whether requests may be joined: decided by bits, never by declared shapes. Runners here are plain functions."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registry.batching import Axes
from registry.errors import InferenceFailed
from registry.probe_batching import BatchingFinding, find_batching
from registry.rows import Feeds, Runner, shared_digest
from registry.vocabulary import TensorSpec

X = (TensorSpec("x", "FP32", (None, 3)),)
SILERO = (
    TensorSpec("input", "FP32", (None, None)),
    TensorSpec("state", "FP32", (2, None, 4)),
    TensorSpec("sr", "INT64", ()),
)


def rows(count: int) -> dict[str, NDArray[Any]]:
    return {"x": np.random.default_rng(1).normal(size=(count, 3)).astype(np.float32)}


def stateful(count: int, rate: int = 16000, seed: int = 2) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return {
        "input": rng.normal(size=(count, 5)).astype(np.float32),
        "state": rng.normal(size=(2, count, 4)).astype(np.float32),
        "sr": np.array(rate),
    }


def find(
    run: Runner,
    *requests: Feeds,
    specs: tuple[TensorSpec, ...] = X,
    budget_s: float = 5.0,
    tolerance: float | None = None,
    max_rows: int = 64,
) -> BatchingFinding:
    rng = np.random.default_rng(0)
    return find_batching(run, requests, specs, rng=rng, budget_s=budget_s, tolerance=tolerance, max_rows=max_rows)


def doubled(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] * 2, feeds["x"].sum(axis=1)]


def other_for_one_row(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] + np.float32(2**-10 if len(feeds["x"]) == 1 else 0)]


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


def pairs(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] @ feeds["x"].T]


@pytest.mark.parametrize(
    ("run", "by_rows", "kind", "reason"),
    [
        (doubled, True, "exact", "40 given rows gave the same bits"),
        (strings, True, "exact", "same bits"),
        (nothing_but_nan, True, "exact", "same bits"),
        (other_for_one_row, True, "never", "differ from single rows"),
        (other_at_seven, True, "never", "7 rows in one run"),
        (by_position, True, "never", "differ"),
        (minus_zero, True, "never", "differ"),
        (total, False, "never", r"shape \(1,\) for 2 rows"),
        (scalar, False, "never", r"shape \(\) for 1 row"),
        (one_row_only, False, "never", "Reshape wants 1"),
        (pairs, False, "never", r"shape \(3, 3\) for 3 rows"),
    ],
)
def test_joining_is_allowed_only_where_every_bit_agrees(run: Runner, by_rows: bool, kind: str, reason: str) -> None:
    finding = find(run, rows(40))
    assert (finding.by_rows, finding.kind) == (by_rows, kind)
    assert re.search(reason, finding.reason)
    if kind == "exact":
        assert (finding.joined_rows, finding.largest_difference, finding.shared) == (64, None, ())


def test_a_model_that_answers_the_same_row_differently_is_never_joined() -> None:
    rng = np.random.default_rng(3)
    for tolerance in (None, 100.0):
        finding = find(lambda feeds: [feeds["x"] + rng.normal(size=feeds["x"].shape)], rows(40), tolerance=tolerance)
        assert finding.kind == "never"
        assert "run again" in finding.reason


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rows_are_enough_if_two_differ(count: int) -> None:
    assert (find(doubled, rows(count)).kind == "exact") == (count > 1)
    assert find(lambda feeds: [feeds["x"] - feeds["x"].mean(axis=0)], rows(count)).kind == "never"


def test_requests_of_one_row_each_prove_as_much_as_one_of_many() -> None:
    given = rows(6)["x"]
    finding = find(doubled, *({"x": row[None]} for row in given))
    assert (finding.kind, finding.rows) == ("exact", 6)


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
    count = 4 if shape is None else 3 if shape == (3, 3) else 1
    given = rows(count) if shape != () else {"x": np.array(1.0)}
    finding = find(lambda feeds: [feeds["x"] * 2], given, specs=(TensorSpec("x", "FP32", shape),))
    assert finding.by_rows == by_rows
    assert reason in finding.reason
    assert (finding.kind == "exact") == (shape is None)


def test_when_time_runs_out_before_the_needed_sizes_were_tried_the_answer_is_never() -> None:
    finding = find(doubled, rows(40), budget_s=0.0)
    assert finding.kind == "never"
    assert "took too long" in finding.reason


def test_where_the_options_join_no_rows_nothing_is_tried() -> None:
    finding = find(doubled, rows(40), max_rows=1)
    assert (finding.kind, finding.by_rows) == ("never", True)


# ---- within a tolerance


def test_how_far_joined_numbers_are_off_is_measured_and_allowed_only_by_the_options() -> None:
    apart = 2**-10  # 0.000977 as it is shown; float32 rounds some of the sums
    for tolerance, kind in ((None, "never"), (9e-4, "never"), (0.00098, "within_tolerance")):
        finding = find(other_for_one_row, rows(40), tolerance=tolerance)
        assert finding.kind == kind
        assert finding.by_rows
        assert finding.largest_difference == pytest.approx(apart, rel=1e-3)
        assert ("batch_tolerance = 0.00098" in finding.reason) == (kind == "never")
    assert finding.joined_rows == 64
    assert finding.axes == Axes((0,), (0,))


def test_what_is_told_as_the_difference_can_be_given_as_the_tolerance() -> None:
    told = re.search(r"batch_tolerance = (\S+)", find(other_for_one_row, rows(40)).reason)
    assert told is not None
    assert find(other_for_one_row, rows(40), tolerance=float(told[1])).kind == "within_tolerance"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: (x > np.median(x)).astype(np.int64),
        lambda x: np.array([str(len(x))] * len(x), dtype=object),
        lambda x: np.full(len(x), np.nan if len(x) > 1 else 1.0),
        lambda x: np.full(len(x), np.inf if len(x) > 1 else 1.0),
        lambda x: np.full(len(x), -np.inf if len(x) > 1 else np.inf),
    ],
    ids=["classes", "texts", "nan", "inf", "signs"],
)
def test_no_tolerance_covers_another_class_or_text_or_a_number_that_is_none(wrong: Any) -> None:
    finding = find(lambda feeds: [wrong(feeds["x"][:, 0])], rows(40), tolerance=1e9)
    assert finding.kind == "never"
    assert "differ from single rows" in finding.reason


# ---- other axes


def cell(feeds: Feeds) -> list[NDArray[Any]]:
    """As silero: a state of its own axis in and out, and a scalar that says how to read the samples."""
    if feeds["input"].shape[0] != feeds["state"].shape[1]:
        raise InferenceFailed("the model failed: the state has other rows")
    mean = feeds["input"].sum(axis=1, keepdims=True) / np.float32(feeds["sr"])
    return [mean, feeds["state"] + mean[None]]


def cell_of_transposed(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"].sum(axis=1), np.ascontiguousarray(feeds["x"].T)]


def test_rows_on_another_axis_are_found_in_inputs_and_outputs() -> None:
    finding = find(cell, stateful(3), stateful(2, seed=9), specs=SILERO)
    assert (finding.kind, finding.by_rows, finding.rows) == ("exact", False, 5)
    assert finding.axes == Axes((0, 1, None), (0, 1))
    assert finding.shared == (shared_digest([np.array(16000)]),)
    assert find(cell, stateful(1), stateful(1, seed=3), specs=SILERO).axes == finding.axes


def test_an_output_with_its_rows_on_axis_1_is_no_model_of_rows_but_can_be_joined() -> None:
    finding = find(cell_of_transposed, rows(12))
    assert (finding.kind, finding.by_rows, finding.axes) == ("exact", False, Axes((0,), (0, 1)))


def test_where_one_guess_follows_the_rows_and_proves_wrong_the_next_is_tried() -> None:
    """A recurrence over axis 0: its length follows too, but only axis 1 holds requests."""
    specs = (TensorSpec("x", "FP32", (None, None, 2)), TensorSpec("h", "FP32", (1, None, 2)))

    def recur(feeds: Feeds) -> list[NDArray[Any]]:
        if feeds["x"].shape[1] != feeds["h"].shape[1]:
            raise InferenceFailed("the model failed: the state has other rows")
        return [np.cumsum(feeds["x"], axis=0) + feeds["h"]]

    rng = np.random.default_rng(5)
    given = {"x": rng.normal(size=(4, 4, 2)), "h": rng.normal(size=(1, 4, 2))}
    finding = find(recur, given, specs=specs)
    assert (finding.kind, finding.axes) == ("exact", Axes((1, 1), (1,))), finding.reason


def test_only_values_of_shared_inputs_that_were_tried_are_proven() -> None:
    requests = [stateful(1, 16000), stateful(2, 8000, seed=3), stateful(1, 16000, seed=4), stateful(1, 4000, seed=5)]
    finding = find(cell, *requests, specs=SILERO)
    assert finding.kind == "exact"
    assert set(finding.shared) == {shared_digest([np.array(rate)]) for rate in (16000, 8000)}  # 4000: one row only


def test_a_shared_value_for_which_joined_rows_differ_forbids_joining_at_all() -> None:
    def breaks_at_8000(feeds: Feeds) -> list[NDArray[Any]]:
        first, state = cell(feeds)
        return [first - first.mean() if feeds["sr"] == 8000 else first, state]

    finding = find(breaks_at_8000, stateful(6), stateful(2, 8000, seed=3), specs=SILERO)
    assert (finding.kind, finding.axes is None) == ("never", False)
    assert "differ" in finding.reason


def test_an_input_of_free_size_may_turn_out_to_be_shared() -> None:
    specs = (TensorSpec("x", "FP32", (None, 3)), TensorSpec("weights", "FP32", (None,)))
    given = {"x": rows(7)["x"], "weights": np.array([1.0, 2.0, 3.0], np.float32)}
    finding = find(lambda feeds: [feeds["x"] * feeds["weights"]], given, specs=specs)
    assert (finding.kind, finding.axes) == ("exact", Axes((0, None), (0,)))


def test_rows_of_several_shapes_are_each_tried_with_their_like() -> None:
    specs = (TensorSpec("x", "FP32", (None, None)),)
    rng = np.random.default_rng(0)
    requests = [{"x": rng.normal(size=(1, width)).astype(np.float32)} for width in (3, 4, 3, 5, 4)]
    finding = find(lambda feeds: [feeds["x"].sum(axis=1)], *requests, specs=specs)
    assert (finding.kind, finding.rows) == ("exact", 5)


def test_a_given_row_that_fails_alone_proves_nothing() -> None:
    def wants_two(feeds: Feeds) -> list[NDArray[Any]]:
        if len(feeds["x"]) < 2:
            raise InferenceFailed("the model failed: wants two rows")
        return [feeds["x"]]

    finding = find(wants_two, rows(4))
    assert (finding.kind, finding.by_rows) == ("never", False)
    assert "wants two rows" in finding.reason
