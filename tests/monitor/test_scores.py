"""ADWIN and Page-Hinkley find river's published change points, forget nothing over a restart, and stay small."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.scores import Adwin, PageHinkley, from_dict, to_dict
from registry.errors import StateDamaged

Detector = Adwin | PageHinkley


def doctest_stream() -> list[int]:
    """The stream of river's documentation: the mean changes at 1,000."""
    rng = random.Random(12345)
    return rng.choices([0, 1], k=1000) + rng.choices(range(4, 8), k=1000)


@pytest.mark.parametrize(("detector", "at"), [(Adwin(), 1023), (PageHinkley(), 1006)], ids=["adwin", "page-hinkley"])
def test_the_change_is_found_where_river_finds_it(detector: Detector, at: int) -> None:
    assert [i for i, value in enumerate(doctest_stream()) if detector.update(value)] == [at]


def shifted_scores(seed: int) -> NDArray[np.float64]:
    """Scores between 0 and 1: somewhat lower from 4,000 on, and of another law from 8,000 on."""
    rng = np.random.default_rng(seed)
    before, later = rng.beta(8, 2, 4000), rng.beta(8, 2, 4000) - rng.choice([0.05, 0.1, 0.2])
    return np.concatenate([before, later, rng.beta(2, 2, 4000)]).clip(0.0, 1.0)


def add_blocks(adwin: Adwin, values: NDArray[np.float64]) -> list[int]:
    """Feed blocks of 32, look after each: where cuts were found."""
    found = []
    for at, block in enumerate(values.reshape(-1, 32)):
        adwin.add(float(block.mean()), float(((block - block.mean()) ** 2).sum()), 5)
        if adwin.look():
            found.append(32 * at + 31)
    return found


# Where river 0.26.1's ADWIN with its defaults, fed value by value, first finds the two changes of `shifted_scores`.
RIVER = [(4159, 8063), (4127, 8063), (4159, 8063), (4095, 8095), (4063, 8159), (4127, 8063)]


@pytest.mark.parametrize("seed", range(len(RIVER)))
def test_blocks_of_rows_find_a_change_where_river_finds_it_in_single_rows(seed: int) -> None:
    found = np.array(add_blocks(Adwin(), shifted_scores(seed)))
    first = found[0], found[found >= 8000][0]
    assert np.abs(np.subtract(first, RIVER[seed])).max() <= 32


def test_a_window_of_blocks_has_the_mean_and_the_variance_of_its_single_values() -> None:
    values, adwin = shifted_scores(1), Adwin()
    add_blocks(adwin, values)
    kept = values[-adwin.width :]
    assert len(kept) == adwin.width < len(values)
    assert adwin.estimate == pytest.approx(kept.mean())
    assert adwin._m2 / adwin.width == pytest.approx(kept.var())
    assert sum(len(buckets) for buckets in adwin._levels) <= 6 * 8


def test_a_design_effect_asks_for_more_rows_before_a_cut() -> None:
    delays = []
    for deff in (1.0, 10.0):
        adwin = Adwin()
        for at, block in enumerate(shifted_scores(0)[:8000].reshape(-1, 32)):
            adwin.add(float(block.mean()), float(((block - block.mean()) ** 2).sum()), 5)
            if adwin.look(deff):
                delays.append(32 * at - 4000)
                break
    assert 3 * delays[0] < delays[1]


def test_a_scale_is_the_unit_of_page_hinkleys_values() -> None:
    values = np.random.default_rng(4).normal(size=3000)
    values[2000:] += 1.0
    plain, scaled = PageHinkley(), PageHinkley()
    one = [at for at, value in enumerate(values.tolist()) if plain.update(value)]
    assert one
    assert [at for at, value in enumerate(values.tolist()) if scaled.update(8.0 * value, 8.0)] == one


@pytest.mark.parametrize("make", [Adwin, PageHinkley])
def test_a_restart_changes_nothing(make: type[Detector]) -> None:
    whole, stopped = make(), make()
    found = []
    for i, value in enumerate(doctest_stream()):
        change = whole.update(value)
        assert stopped.update(value) == change
        found += [i] if change else []
        if i % 97 == 0:
            stored = from_dict(json.loads(json.dumps(to_dict(stopped), allow_nan=False)))
            assert isinstance(stored, make)
            stopped = stored
    assert found
    assert stopped == whole


def test_what_is_not_finite_is_counted_and_skipped() -> None:
    for detector in (Adwin(), PageHinkley()):
        assert not any(detector.update(value) for value in (float("nan"), float("inf"), 1.0))
        assert detector.skipped == 2


def test_the_window_adapts_and_its_memory_is_bounded() -> None:
    rng = np.random.default_rng(0)
    adwin = Adwin()
    for value in [*rng.random(4000), *(rng.random(1000) + 0.5)]:
        adwin.update(float(value))
    assert adwin.width < 2000
    assert adwin.estimate == pytest.approx(1.0, abs=0.1)
    assert sum(len(buckets) for buckets in adwin._levels) <= 6 * 13


def test_a_damaged_state_is_refused() -> None:
    good = to_dict(Adwin())
    for bad in ({**good, "kind": "fast"}, {**good, "state": {}}, {**good, "state": {**good["state"], "_levels": []}}):
        with pytest.raises(StateDamaged):
            from_dict(bad)
