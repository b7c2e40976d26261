"""Requests become one run and answers again: every row to the request that brought it, whatever the axes are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.data.joining import MOST_SHARED_BYTES, Joining
from registry.batching import Axes, Batching
from registry.rows import shared_digest

RATE = np.array(16000)


def joining(axes: Axes, *shared: NDArray[Any], fixed: bool = False) -> Joining:
    digests = tuple(shared_digest([value]) for value in shared)
    return Joining(Batching(kind="exact", axes=axes, rows_proven=64, shared=digests), fixed_row_shape=fixed)


def silero(rows: int, *, samples: int = 512, rate: NDArray[Any] = RATE, seed: int = 0) -> list[NDArray[Any]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(rows, samples)), rng.normal(size=(2, rows, 128)), rate]


SILERO = Axes((0, 1, None), (0, 1))


def test_rows_of_one_shape_are_joined_without_a_look_at_them() -> None:
    simple = joining(Axes((0,), (0,)), fixed=True)
    assert simple.bucket([np.zeros((3, 4))]) == simple.bucket([np.zeros((1, 4))]) == ()
    one = [np.zeros((3, 4))]
    assert simple.join([one]) is one


def test_rows_of_several_shapes_are_joined_with_their_like() -> None:
    free = joining(Axes((0, 0), (0,)))
    wide, other = [np.zeros((1, 4)), np.zeros((1, 2))], [np.zeros((5, 4)), np.zeros((5, 3))]
    assert free.bucket(wide) == free.bucket([np.zeros((7, 4)), np.zeros((7, 2))])
    assert free.bucket(wide) != free.bucket(other)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_split_undoes_join_on_any_axis(extents: list[int]) -> None:
    several = joining(SILERO, RATE)
    group = [silero(rows, seed=seed) for seed, rows in enumerate(extents)]
    assert len({several.bucket(feeds) for feeds in group}) == 1
    assert [several.extent(feeds) for feeds in group] == extents
    x, state, rate = several.join(group)
    assert (x.shape, state.shape) == ((sum(extents), 512), (2, sum(extents), 128))
    assert rate is group[0][2]
    answers = several.split([x, state], extents)
    assert answers is not None
    for feeds, answer in zip(group, answers, strict=True):
        assert (answer[0] == feeds[0]).all()
        assert (answer[1] == feeds[1]).all()
        assert all(part.flags.c_contiguous for part in answer)


def test_inputs_without_an_axis_must_be_equal_and_of_a_value_that_was_proven() -> None:
    several = joining(SILERO, RATE)
    assert several.bucket(silero(1)) is not None
    assert several.bucket(silero(1, rate=np.array(8000))) is None  # joining was never tried at this rate
    assert several.bucket(silero(1, rate=np.array(16000, np.int32))) is None
    both = joining(SILERO, RATE, np.array(8000))
    assert both.bucket(silero(1)) != both.bucket(silero(1, rate=np.array(8000)))
    assert both.bucket(silero(1)) != both.bucket(silero(1, samples=256))
    large = np.zeros(MOST_SHARED_BYTES)
    assert joining(SILERO, large).bucket(silero(1, rate=large)) is None


def test_a_request_whose_inputs_disagree_runs_alone_and_gets_its_own_error() -> None:
    several = joining(SILERO, RATE)
    x, _, rate = silero(3)
    assert several.bucket([x, np.zeros((2, 2, 128)), rate]) is None
    assert several.bucket([x, np.zeros(2), rate]) is None
    assert several.bucket([np.array(1.0), np.zeros((2, 1, 128)), rate]) is None


@pytest.mark.parametrize("outputs", [[np.zeros((2, 1))], [np.zeros((4, 1))], [np.array(3)], [np.zeros(1)]])
def test_outputs_that_do_not_hold_the_rows_are_never_split(outputs: list[NDArray[Any]]) -> None:
    assert joining(Axes((0,), (0,))).split(outputs, [1, 2]) is None


def test_slices_of_rows_are_not_copied() -> None:
    output = np.arange(6).reshape(3, 2)
    answers = joining(Axes((0,), (0,))).split([output], [1, 2])
    assert answers is not None
    assert all(np.shares_memory(answer[0], output) for answer in answers)
    assert [answer[0].tolist() for answer in answers] == [[[0, 1]], [[2, 3], [4, 5]]]


def test_texts_are_joined_and_compared_too() -> None:
    named = joining(Axes((0, None), (0,)), np.array(["a", "ü"], dtype=object))
    group = [[np.array([[text]], dtype=object), np.array(["a", "ü"], dtype=object)] for text in ("x", "y")]
    assert named.bucket(group[0]) == named.bucket(group[1]) is not None
    assert named.join(group)[0].tolist() == [["x"], ["y"]]
    assert named.bucket([group[0][0], np.array(["aü", ""], dtype=object)]) is None


def test_a_version_that_is_never_joined_has_no_axes() -> None:
    never = Joining(Batching(kind="never"), fixed_row_shape=False)
    assert never.are_rows
