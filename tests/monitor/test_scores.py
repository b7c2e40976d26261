"""ADWIN and Page-Hinkley find river's published change points, forget nothing over a restart, and stay small."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

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
