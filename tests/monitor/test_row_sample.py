"""A sample of rows: bounded, even, and the same for the same rows."""

from __future__ import annotations

import numpy as np
import pytest

from monitor.block import Rows
from monitor.row_sample import BURST_S, LEAST_ROWS, MOST_ROWS, RowSample, chosen


def rows(count: int, columns: int = 3, first: int = 0) -> Rows:
    seq = np.arange(first, first + count, dtype=np.uint64)
    return Rows({"seq": seq, "features": np.repeat(seq.astype("f4")[:, None], columns, axis=1)})


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.01, 1 / 3])
def test_rows_are_chosen_as_evenly_as_can_be(rate: float) -> None:
    seq = np.arange(1 << 20, (1 << 20) + 50_000, dtype=np.uint64)
    found = np.flatnonzero(chosen(seq, 7, rate))
    assert len(found) == pytest.approx(rate * len(seq), abs=5)
    assert np.diff(found).max() <= 3.0 / rate
    assert len(np.unique(np.diff(found))) <= 3  # the three distances of Steinhaus


def test_all_rows_are_taken_while_they_are_few_and_the_rate_follows_their_number() -> None:
    sample = RowSample(3)
    sample.add(rows(100), 0)
    block = sample.take()
    assert block is not None
    assert block[:, 0].tolist() == list(range(100))
    assert sample.take() is None
    sample.pace(20_000, 1.0)
    assert sample.rate == MOST_ROWS / 20_000
    sample.add(rows(20_000), 0)
    block = sample.take()
    assert block is not None
    assert len(block) == pytest.approx(MOST_ROWS, abs=2)
    sample.pace(10, 1.0)
    assert sample.rate == 1.0


def test_what_waits_is_bounded_whatever_comes_and_wide_rows_are_fewer() -> None:
    for columns, most in ((3, MOST_ROWS), (1000, 50), (100_000, LEAST_ROWS)):
        sample = RowSample(columns)
        assert sample.rows_per_s == most
        for turn in range(3):
            sample.add(rows(5_000, 1, first=5_000 * turn), 0)
        block = sample.take()
        assert block is not None
        assert len(block) == most * BURST_S


def test_the_first_traffic_after_a_start_says_nothing_of_its_rate() -> None:
    sample = RowSample(3)
    sample.pace(10_000, float("inf"))
    assert sample.rate == 1.0
