"""The demo's data and models are what its story says of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gateway.demo import data, models
from registry.errors import InvalidSetting
from registry.onnx import open_session
from tests.support.flights import Made, made


@pytest.fixture(scope="module")
def flights() -> Made:
    return made()


def test_the_year_has_every_flight_once_and_no_missing_feature(flights: Made) -> None:
    year = flights.year
    assert len(year.training) + len(year.later) + year.cancelled == 336_776
    assert set(year.training.month) == {1, 2, 3}
    assert set(year.later.month) == set(range(4, 13))
    assert np.isfinite(year.later.features).all()
    assert (np.diff(year.later.month) >= 0).all()
    assert 0 < np.isnan(year.later.delay).sum() < 1000  # flights that landed elsewhere


def test_the_second_model_halves_the_error_and_the_third_loses_it_again(flights: Made) -> None:
    holdout = flights.year.later.where(flights.year.later.month <= 6)
    errors = models.mean_errors(flights.models, holdout)
    assert errors[1] == pytest.approx(29.3, abs=1.0)
    assert errors[2] == pytest.approx(14.2, abs=1.0)
    assert errors[3] == pytest.approx(28.3, abs=1.5)
    good = models.compare(flights.models, 1, 2, flights.year.training, holdout)
    bad = models.compare(flights.models, 2, 3, flights.year.training, holdout)
    assert abs(good.flips - bad.flips) < 0.03, "only labels may tell them apart"
    assert good.closer > 0.6
    assert bad.closer < 0.4


def test_what_is_exported_answers_as_what_was_trained(flights: Made, tmp_path: Path) -> None:
    rows = flights.year.later.features[:500]
    for number, path in models.write(flights.models, tmp_path).items():
        session = open_session(path)
        (answer,) = session.run([models.OUTPUT], {models.INPUT: rows})
        assert answer.shape == (500, 1)
        assert answer.dtype == np.float32
        np.testing.assert_allclose(answer[:, 0], flights.models[number].predict(rows), atol=1e-3)


def test_the_first_model_ignores_the_departure_delay(flights: Made) -> None:
    rows = flights.year.later.features[:10].copy()
    before = flights.models[1].predict(rows)
    rows[:, data.FEATURES.index("dep_delay")] += 100
    np.testing.assert_array_equal(flights.models[1].predict(rows), before)


def test_the_reference_keeps_float32_exactly_and_has_the_target(flights: Made, tmp_path: Path) -> None:
    path = tmp_path / "reference.csv"
    assert data.write_reference(flights.year.training, path, 300, np.random.default_rng(1)) == 300
    frame = pd.read_csv(path)
    assert list(frame.columns) == [*data.FEATURES, data.TARGET]
    known = {row.tobytes() for row in flights.year.training.features}
    assert all(row.tobytes() in known for row in frame[list(data.FEATURES)].to_numpy(np.float32))
    assert np.isfinite(frame[data.TARGET]).all()


def test_without_the_package_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InvalidSetting, match=r"driftgate\[demo\]"):
        data.find_data()
