"""Scores and losses on real lanes, behind the controller: shown in answers and metrics, kept over restarts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monitor import profile
from registry.vocabulary import Role
from tests.gateway.control.test_monitoring import SCHEMA, Lanes, a_rollout, samples_of


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lanes]:
    made = Lanes(tmp_path)
    yield made
    made.close()


def feed(lanes: Lanes, ticks: int, *, version: int = 1, role: Role = Role.CHAMPION, wrong: float | None = None) -> None:
    """400 rows a tick; `wrong`: what was said is so far off the truth that labels tell, in the mean."""
    for _ in range(ticks):
        ids = [f"{lanes.clock.wall_ns()}-{version}-{n}" for n in range(400)]
        features, outputs = lanes.rows(400)
        lanes.write(version, role, ids, features, outputs)
        lanes.tick()
        if wrong is not None:
            truth = outputs[:, 0] - lanes.rng.exponential(wrong, 400)
            labels = [{"request_id": name, "values": [float(y)]} for name, y in zip(ids, truth, strict=True)]
            lanes.monitoring.feedback("m", labels)
    lanes.tick()


def shown(lanes: Lanes) -> dict[tuple[int, str, str], dict[str, Any]]:
    scores = lanes.monitoring.drift("m", None).to_json(3)["scores"]
    return {(item["version"], item["role"], item["stream"]): item for item in scores}


def counts(item: dict[str, Any]) -> dict[str, int]:
    return {change["detector"]: change["count"] for change in item["changes"]}


def test_a_shift_of_what_a_version_says_is_shown_and_no_sooner(lanes: Lanes) -> None:
    feed(lanes, 12)
    feed(lanes, 2, version=2, role=Role.SHADOW)
    before = shown(lanes)
    assert set(before) == {(1, "champion", "value"), (2, "shadow", "value")}
    item = before[1, "champion", "value"]
    assert counts(item) == {"adwin": 0, "page_hinkley": 0}
    assert [change["last_at"] for change in item["changes"]] == [None, None]
    assert (item["output"], item["rows"], item["skipped"], item["window_rows"]) == ("y", 4800, 0, 4800)
    assert item["mean"] == pytest.approx(0.0, abs=0.1)
    for _ in range(3):  # what is said has sd 2
        features, outputs = lanes.rows(400, shift=0.7)
        lanes.write(1, Role.CHAMPION, [f"{lanes.clock.wall_ns()}-{n}" for n in range(400)], features, outputs)
        lanes.tick()
    after = shown(lanes)[1, "champion", "value"]
    assert min(counts(after).values()) >= 1
    assert after["mean"] == pytest.approx(1.4, abs=0.3)
    assert after["window_rows"] <= 1600
    assert all(change["last_at"] for change in after["changes"])
    assert counts(shown(lanes)[2, "shadow", "value"]) == {"adwin": 0, "page_hinkley": 0}
    labels = (("model", "m"), ("output", "y"), ("role", "champion"), ("stream", "value"), ("version", "1"))
    samples = samples_of(lanes)
    assert samples["driftgate_score_mean", *labels] == after["mean"]
    assert samples["driftgate_score_window_records", *labels] == after["window_rows"]
    found = {
        detector: samples["driftgate_score_changes_total", ("detector", detector), *labels]
        for detector in ("adwin", "page_hinkley")
    }
    assert found == counts(after)


def test_losses_that_grow_while_nothing_else_moves_are_shown_and_raise_no_alarm(lanes: Lanes) -> None:
    feed(lanes, 8, wrong=0.5)
    before = shown(lanes)[1, "champion", "loss"]
    assert counts(before) == {"adwin": 0, "page_hinkley": 0}
    assert (before["rows"], before["mean"]) == (3200, pytest.approx(0.5, abs=0.05))
    feed(lanes, 3, wrong=1.5)
    after = shown(lanes)[1, "champion", "loss"]
    assert min(counts(after).values()) >= 1
    assert after["mean"] == pytest.approx(1.5, abs=0.2)
    assert counts(shown(lanes)[1, "champion", "value"]) == {"adwin": 0, "page_hinkley": 0}
    assert not [event.type for event in lanes.catalog.events() if event.type.startswith("drift.")]
    assert not lanes.monitoring.drift("m", None).to_json()["alarms"]


def test_what_a_shadow_got_wrong_is_the_shadows(lanes: Lanes) -> None:
    lanes.monitoring.begin(a_rollout())
    ids = [f"id{n}" for n in range(320)]
    features, outputs = lanes.rows(320)
    lanes.write(1, Role.CHAMPION, ids, features, outputs)
    lanes.write(2, Role.SHADOW, ids, features, outputs + np.float32(3.0))
    lanes.tick()
    lanes.monitoring.feedback(
        "m", [{"request_id": name, "values": [float(y)]} for name, y in zip(ids, outputs[:, 0], strict=True)]
    )
    assert shown(lanes)[1, "champion", "loss"]["mean"] == pytest.approx(0.0)
    assert shown(lanes)[2, "shadow", "loss"]["mean"] == pytest.approx(3.0, rel=1e-5)


@pytest.mark.parametrize("dies_every", [1, 4])
def test_a_controller_killed_at_any_time_changes_nothing_of_it(tmp_path: Path, dies_every: int) -> None:
    told = []
    for dies in (False, True):
        root = tmp_path / str(dies)
        root.mkdir()
        world = Lanes(root)
        for tick in range(10):
            shift = 0.5 if tick >= 6 else 0.0
            at = world.clock.wall_ns()
            world.write(1, Role.CHAMPION, [f"{at}-{n}" for n in range(701)], *world.rows(701, shift))
            world.tick(1.0)
            labels = [{"request_id": f"{at}-{n}", "values": [float(n % 7) / 7]} for n in range(0, 701, 5)]
            world.monitoring.feedback("m", labels)
            world.tick(1.0)
            world.write(1, Role.CHAMPION, [f"{at}-x{n}" for n in range(40)], *world.rows(40, shift))
            if dies and tick % dies_every == 0:
                world.tick(0.5)  # counted, and not stored
                world.monitoring = world.start()
                world.monitoring.follow({("m", 1): world.sha256, ("m", 2): world.sha256})
                world.clock.advance(-0.5)
        world.tick(1.0)
        told.append(shown(world))
        world.close()
    assert told[1] == told[0]
    assert min(counts(told[0][1, "champion", "value"]).values()) >= 1
    assert set(told[0]) == {(1, "champion", "value"), (1, "champion", "loss")}


def test_another_profile_begins_anew_and_a_version_that_is_no_longer_followed_is_not_shown(lanes: Lanes) -> None:
    feed(lanes, 2)
    rows = lanes.rng.normal(size=(2000, 2)).astype(np.float32)
    other = lanes.artifacts.put_bytes(profile.fit(SCHEMA, rows, rows[:, :1]).to_bytes())
    lanes.monitoring.follow({("m", 1): other})
    assert not shown(lanes)
    feed(lanes, 1)
    assert shown(lanes)[1, "champion", "value"]["rows"] == 400
    lanes.monitoring.follow({})
    assert not shown(lanes)
    assert not [name for name in samples_of(lanes) if name[0].startswith("driftgate_score")]
