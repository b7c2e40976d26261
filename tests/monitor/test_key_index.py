"""Keys found in runs, against a dictionary that remembers all of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitor.key_index import RUN, KeyIndex


@given(st.lists(st.integers(0, RUN + 5), max_size=12), st.integers(1, 2 * RUN))
def test_what_is_never_looked_for_is_forgotten_all_the_same(steps: list[int], limit: int) -> None:
    index, added = KeyIndex(), 0
    for n in steps:
        added += n
        index.add(np.arange(added - n, added, dtype=np.uint64), max(0, added - limit))
        assert len(index) <= limit + RUN
    kept = np.arange(max(0, added - limit), added)
    assert index.find(kept.astype(np.uint64), max(0, added - limit))[0].tolist() == kept.tolist()


@given(
    steps=st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=8),
    wanted=st.lists(st.integers(0, 45), max_size=60),
    oldest=st.integers(0, 120),
)
def test_the_newest_and_the_oldest_in_memory_are_found(steps: list[list[int]], wanted: list[int], oldest: int) -> None:
    index, said = KeyIndex(), [key for step in steps for key in step]
    for number, step in enumerate(steps):
        index.add(np.array(step, np.uint64))
        if number == 2:
            index.find(np.array(wanted, np.uint64), 0)  # an earlier look changes nothing
    newest, eldest = index.find(np.array(wanted, np.uint64), oldest)
    where = [[i for i, key in enumerate(said) if key == one and i >= oldest] for one in wanted]
    assert newest.tolist() == [numbers[-1] if numbers else -1 for numbers in where]
    assert eldest.tolist() == [numbers[0] if numbers else -1 for numbers in where]


def test_keys_over_many_runs_are_found_one_by_one_and_many_at_once() -> None:
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 2**64, 10 * RUN, np.uint64)
    index = KeyIndex()
    for part in np.array_split(keys, 13):
        index.add(part)
    for wanted in (rng.permutation(len(keys)), np.array([0, 5 * RUN, len(keys) - 1])):
        newest, eldest = index.find(keys[wanted], 0)
        assert newest.tolist() == eldest.tolist() == wanted.tolist()
    newest, _ = index.find(keys, 3 * RUN + 7)
    assert (newest >= 0).tolist() == (np.arange(len(keys)) >= 3 * RUN + 7).tolist()
