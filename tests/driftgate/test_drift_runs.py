"""A sample in runs of neighbours: whole runs, each as likely as any other, the same however rows come in batches."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from driftgate.drift_runs import RunSample


def sampled(rows: int, run_rows: int, most: int, batch: int, seed: int = 0) -> NDArray[np.float64]:
    sample = RunSample((0, 1), run_rows, most, np.random.default_rng(seed))
    block = np.arange(2.0 * rows).reshape(2, rows)
    for start in range(0, rows, batch):
        sample.add(block[:, start : start + batch])
    return sample.runs()


@pytest.mark.parametrize(("rows", "run_rows", "most"), [(1000, 1, 100), (1003, 7, 20), (50, 7, 20), (6, 7, 20)])
def test_batches_of_any_size_give_the_same_whole_runs(rows: int, run_rows: int, most: int) -> None:
    whole = sampled(rows, run_rows, most, rows)
    assert whole.shape == (min(rows // run_rows, most), run_rows, 2)
    for batch in (1, 13, 64):
        assert (sampled(rows, run_rows, most, batch) == whole).all()
    starts = whole[:, 0, 0]
    assert (starts % run_rows == 0).all()
    assert len(set(starts.tolist())) == len(starts)
    assert (np.diff(whole[:, :, 0], axis=1) == 1).all()


def test_every_run_is_as_likely_as_any_other_and_comes_in_no_order() -> None:
    taken, firsts = np.zeros(50), 0
    for seed in range(400):
        starts = sampled(250, 5, 10, 32, seed)[:, 0, 0] / 5
        taken[starts.astype(int)] += 1
        firsts += bool(starts[0] == starts.min())
    assert stats.chisquare(taken).pvalue > 0.001
    assert firsts < 80  # 40 expected


def test_what_is_held_stays_within_bounds() -> None:
    sample = RunSample((0, 1, 2), 4, 10, np.random.default_rng(0))
    sample.add(np.zeros((3, 10_000)))
    for _ in range(200):
        sample.add(np.zeros((3, 50)))
        assert sum(map(len, sample._kept)) <= 2 * 11 * 4
    sample.add(np.zeros((3, 0)))
    assert sample.runs().shape == (10, 4, 3)


def test_no_rows_are_no_runs() -> None:
    assert len(RunSample((0, 1, 2), 4, 10, np.random.default_rng(0)).runs()) == 0
