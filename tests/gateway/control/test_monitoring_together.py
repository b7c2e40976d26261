"""A drift that no single input shows, on real lanes: alarm, API, metrics, its end, and a controller that is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor import profile
from registry.vocabulary import Role
from tests.gateway.control.test_monitoring import SCHEMA, Lanes


def rows(lanes: Lanes, count: int, correlation: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Two standard normal inputs and an output that hears of the first alone."""
    x = lanes.rng.normal(size=(count, 2))
    x[:, 1] = correlation * x[:, 0] + np.sqrt(1.0 - correlation**2) * x[:, 1]
    features = x.astype(np.float32)
    return features, features[:, :1] * 2


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lanes]:
    made = Lanes(tmp_path)
    reference, said = rows(made, 20_000, 0.6)
    fitted = profile.fit(SCHEMA, reference, said, together=True)
    sha256 = made.artifacts.put_bytes(fitted.to_bytes())
    made.monitoring.follow({("m", 1): sha256, ("m", 2): sha256})
    made.sha256 = sha256
    yield made
    made.close()


def drive(lanes: Lanes, seconds: int, correlation: float, *, restarts: bool = False) -> None:
    for second in range(seconds):
        ids = [f"{lanes.clock.wall_ns()}-{n}" for n in range(150)]
        lanes.write(1, Role.CHAMPION, ids, *rows(lanes, 150, correlation))
        lanes.tick()
        if restarts and second % 3 == 2:  # killed: nothing is closed
            lanes.monitoring = lanes.start()
            lanes.monitoring.follow({("m", 1): lanes.sha256, ("m", 2): lanes.sha256})


@pytest.mark.parametrize("restarts", [False, True])
def test_a_correlation_that_turns_around_is_told_shown_counted_and_cleared(lanes: Lanes, restarts: bool) -> None:
    drive(lanes, 12, 0.6)
    assert not [event for event in lanes.catalog.events() if event.type == "drift.alarm"]
    drive(lanes, 20, -0.6, restarts=restarts)
    (told,) = [event for event in lanes.catalog.events() if event.type == "drift.alarm"]
    assert told.data["features"] == ["inputs together"]
    assert "x[0] and x[1] are on the same side of their medians" in told.data["sentence"]
    assert told.data["sentence"].endswith("No input moved by itself.")
    answer = lanes.monitoring.drift("m", None).to_json()
    (shown, other) = answer["multivariate"]
    assert (shown["version"], shown["verdict"], shown["columns_watched"], shown["sample_ratio"]) == (
        1,
        "breach",
        2,
        1.0,
    )
    assert shown["sampled_rows"] == 32 * 150
    assert (shown["pairs"][0]["first"], shown["pairs"][0]["second"]) == ("x[0]", "x[1]")
    assert (other["version"], other["verdict"], other["cause"]) == (2, "unknown", "no_traffic")
    assert {"inputs together"} == {alarm["feature"] for alarm in answer["alarms"]}
    fast = {
        item["statistic"]: item
        for item in answer["fast"]
        if (item["feature"], item["version"]) == ("inputs together", 1)
    }
    assert fast["pairs"]["verdict"] == "breach"
    assert fast["pairs"]["value"] > fast["pairs"]["threshold"]
    samples = {
        (sample.name, sample.labels.get("feature"), sample.labels.get("statistic")): sample.value
        for family in lanes.monitoring.families({})
        for sample in family.samples
        if sample.labels.get("version") == "1"
    }
    assert samples["driftgate_drift_alarms_total", "inputs together", "pairs"] == 1
    assert samples["driftgate_drift_sampled_records_total", None, None] == 32 * 150
    assert samples["driftgate_drift_sample_ratio", None, None] == 1.0
    drive(lanes, 120, 0.6)
    (over,) = [event for event in lanes.catalog.events() if event.type == "drift.cleared"]
    assert over.data["sentence"].startswith("inputs together of version 1 are like the reference again")
    assert lanes.monitoring.drift("m", None).to_json()["alarms"] == []


def test_a_profile_that_knows_nothing_of_it_says_so(tmp_path: Path) -> None:
    made = Lanes(tmp_path)
    try:
        drive(made, 3, 0.0)
        (shown, _) = made.monitoring.drift("m", None).to_json()["multivariate"]
        assert shown["enabled"] is False
        assert "1,000 rows" in shown["reason"]
        assert not [item for item in made.monitoring.drift("m", None).to_json()["fast"] if item["statistic"] == "pairs"]
    finally:
        made.close()
