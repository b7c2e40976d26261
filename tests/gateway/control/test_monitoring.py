"""The monitor behind the controller, on real lanes: pairs, labels, drift and its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.control.drifting import seconds_of
from gateway.control.monitor_metrics import monitor_families
from gateway.control.monitoring import Monitoring
from gateway.settings import Settings
from monitor import live as live_module
from monitor import profile, rollout
from monitor.lane import LaneWriter
from monitor.live import FAST
from monitor.plan import Plan
from monitor.record import make_log_schema, request_hash
from monitor.rollout import Moment, RolloutRecord
from registry.artifacts import ArtifactStore
from registry.catalog import Catalog
from registry.errors import MalformedRequest, ServingError
from registry.home import Home
from registry.manifest import FileDigest, Manifest, ProbeResult, ServingOptions
from registry.vocabulary import Role, TensorSpec
from tests.support.clock import ManualClock

BOOT = "ef" * 16
INPUTS = (TensorSpec("x", "FP32", (None, 2)),)
OUTPUTS = (TensorSpec("y", "FP32", (None, 1)),)
SCHEMA = make_log_schema(INPUTS, OUTPUTS, True, None)


class Lanes:
    """A state folder with two versions of `m`, and lanes that a worker would write."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root=root, run=root / "run")
        self.home.create()
        self.clock = ManualClock()
        self.catalog = Catalog.open(self.home.database_url, self.clock)
        self.artifacts = ArtifactStore(self.home.artifacts)
        self.rng = np.random.default_rng(7)
        self.settings = Settings().monitor
        rows = self.rng.normal(size=(2000, 2)).astype(np.float32)
        fitted = profile.fit(SCHEMA, rows, rows[:, :1] * 2)
        self.sha256 = self.artifacts.put_bytes(fitted.to_bytes())
        for content in ("one", "two"):
            self.catalog.add_version("m", self._manifest(content), actor="test")
        self.writers: dict[tuple[int, Role], LaneWriter] = {}
        self.monitoring = self.start()
        self.monitoring.follow({("m", 1): self.sha256, ("m", 2): self.sha256})

    def _manifest(self, content: str) -> Manifest:
        sha256 = self.artifacts.put_bytes(content.encode())
        return Manifest(
            files=(FileDigest("model.onnx", sha256, len(content)),),
            options=ServingOptions(),
            profile=self.sha256,
            golden=None,
            inputs=INPUTS,
            outputs=OUTPUTS,
            probe=ProbeResult(
                run="proven",
                reason="",
                batch="exact",
                batch_reason="",
                by_rows=True,
                rows_tried=64,
                onnxruntime="1",
            ),
            log_schema=SCHEMA.to_dict(),
        )

    def start(self) -> Monitoring:
        return Monitoring(self.home, self.settings, self.catalog, self.artifacts, self.clock)

    def write(self, version: int, role: Role, ids: list[str], features: NDArray[Any], outputs: NDArray[Any]) -> None:
        writer = self.writers.get((version, role))
        if writer is None:
            folder = self.home.run / "lanes"
            folder.mkdir(exist_ok=True)
            writer = LaneWriter.open(folder, 0, "m", version, role, SCHEMA, 1 << 20, BOOT)
            self.writers[version, role] = writer
        n = len(ids)
        hashes = b"".join(request_hash(name) for name in ids)
        wall_ns = self.clock.wall_ns()
        assert writer.offer(hashes, wall_ns, 1, 0, 0, 1.0, None, None, features, outputs) == n

    def tick(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        self.monitoring.step(self.clock.now_s())

    def rows(self, count: int, shift: float = 0.0) -> tuple[NDArray[Any], NDArray[Any]]:
        features = (self.rng.normal(size=(count, 2)) + shift).astype(np.float32)
        return features, features[:, :1] * 2

    def close(self) -> None:
        self.monitoring.close()
        for writer in self.writers.values():
            writer.close()
        self.catalog.close()


@pytest.fixture
def lanes(tmp_path: Path) -> Iterator[Lanes]:
    made = Lanes(tmp_path)
    yield made
    made.close()


def a_rollout() -> RolloutRecord:
    moment = Moment(wall_ns=1)
    return rollout.start(
        id="r1", model="m", champion=1, candidate=2, plan=Plan(), salt="00" * 16, moment=moment, actor="test"
    ).record


@pytest.mark.parametrize("jump_s", [36_000.0, -36_000.0])
def test_a_wall_clock_that_jumps_neither_loses_a_source_nor_finds_one_again(lanes: Lanes, jump_s: float) -> None:
    record = a_rollout()
    lanes.monitoring.begin(record)

    def pairs(name: str) -> None:
        ids = [f"{name}{number}" for number in range(20)]
        features, outputs = lanes.rows(20)
        lanes.write(1, Role.CHAMPION, ids, features, outputs)
        lanes.write(2, Role.SHADOW, ids, features, outputs)
        lanes.tick()
        truth = [{"request_id": name, "values": [float(value)]} for name, value in zip(ids, outputs[:, 0], strict=True)]
        assert lanes.monitoring.feedback("m", truth)["joined"] == 20

    def ages() -> tuple[float, float]:
        seen = lanes.monitoring.watched(record)
        assert seen.labels is not None
        assert seen.labels.age_s is not None
        assert seen.pair_age_s is not None
        return seen.pair_age_s, seen.labels.age_s

    pairs("a")
    assert ages() == (0.0, 0.0)
    lanes.clock.wall_jump_s = jump_s
    lanes.tick()
    assert ages() == (1.0, 1.0)
    lanes.tick(400.0)
    assert ages() == (401.0, 401.0)
    pairs("b")
    assert ages() == (0.0, 0.0)
    lanes.monitoring.end("m")
    lanes.tick()


def test_pairs_and_labels_of_a_rollout_are_facts_that_survive_a_kill(lanes: Lanes) -> None:
    record = a_rollout()
    lanes.monitoring.begin(record)
    ids = [f"id{number}" for number in range(200)]
    features, outputs = lanes.rows(200)
    lanes.write(1, Role.CHAMPION, ids, features, outputs)
    other = outputs.copy()
    other[:50] += 10.0
    lanes.write(2, Role.SHADOW, ids, features, other)
    lanes.tick()
    truth = [{"request_id": name, "values": [float(value)]} for name, value in zip(ids, outputs[:, 0], strict=True)]
    assert lanes.monitoring.feedback("m", truth)["joined"] == 200
    lanes.tick()
    seen = lanes.monitoring.watched(record)
    assert (seen.pair_rows, seen.pair_disagreements, seen.pair_requests) == (200, 50, 200)
    assert seen.labels is not None
    assert (seen.labels.farther, seen.labels.closer, seen.labels.ties) == (50, 0, 150)
    assert seen.pair_age_s is not None
    assert seen.outputs is not None
    champion, candidate = seen.outputs[0]
    assert (champion.sum(), candidate.sum()) == (200, 200)
    shadow = lanes.monitoring.shadow("m")[0]
    assert shadow["disagreement_ratio"] == 0.25
    assert lanes.monitoring.watched(rollout.RolloutRecord.from_json({**record.to_json(), "id": "r2"})).pair_rows == 0
    lanes.catalog.save_rollout(record.to_json(), expected_revision=None)
    again = lanes.start()
    again.begin(record)
    assert again.watched(record).pair_rows == 200
    again.close()


def test_a_shift_is_an_alarm_told_once_and_shown(lanes: Lanes) -> None:
    for batch in range(30):
        lanes.write(1, Role.CHAMPION, [f"{batch}-{n}" for n in range(100)], *lanes.rows(100, shift=1.0))
        lanes.tick(2.0)
    told = [event for event in lanes.catalog.events() if event.type == "drift.alarm"]
    assert {event.data["window"] for event in told} == {"5m"}
    assert "moved in the last" in told[0].data["sentence"]
    answer = lanes.monitoring.drift("m", None).to_json()
    items = answer["items"]
    assert items[0]["version"] == 1
    assert items[0]["verdict"] == "breach"
    assert items[0]["profile"]
    names = {"feature", "kind", "statistic", "value", "threshold", "rows", "window", "verdict", "cause", "profile"}
    assert names <= set(items[0])
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in lanes.monitoring.families({("m", 1, "champion"): (7, 7)})
        for sample in family.samples
    }
    offered = ("model", "m"), ("outcome", "offered"), ("role", "champion"), ("version", "1")
    assert samples["driftgate_lane_records_total", *offered] == 3007
    assert samples[("driftgate_monitor_records_total",)] == 3000
    assert any(name[0] == "driftgate_drift_statistic" for name in samples)
    assert any(name[0] == "driftgate_data_quality_ratio" for name in samples)
    with pytest.raises(MalformedRequest):
        lanes.monitoring.drift("m", "five minutes")


def test_steady_traffic_is_no_alarm(lanes: Lanes) -> None:
    for batch in range(20):
        lanes.write(1, Role.CHAMPION, [f"{batch}-{n}" for n in range(100)], *lanes.rows(100))
        lanes.tick(2.0)
    assert not [event for event in lanes.catalog.events() if event.type == "drift.alarm"]


def test_metric_families_of_a_monitor_that_saw_nothing(lanes: Lanes) -> None:
    monitor = lanes.monitoring._monitor
    names = {family.name for family in monitor_families(monitor.snapshot(), {}, lanes.monitoring._live)}
    assert {"driftgate_labels", "driftgate_live_error", "driftgate_drift_alarms", "driftgate_lane_records"} <= names


def test_versions_share_the_features_that_metrics_show_and_each_keeps_its_worst(lanes: Lanes) -> None:
    for version in (1, 2):
        features, outputs = lanes.rows(500)
        features[:, 1] += 2.0  # x1 is the worst
        lanes.write(version, Role.CHAMPION, [f"{version}-{n}" for n in range(500)], features, outputs)
    lanes.tick(20.0)
    lanes.tick(20.0)

    def shown(in_all: int) -> set[tuple[str, str]]:
        lanes.monitoring._live._settings = replace(lanes.settings, features_shown_in_all=in_all)
        return {
            (sample.labels["version"], sample.labels["feature"])
            for family in lanes.monitoring.families({})
            if family.name == "driftgate_drift_statistic"
            for sample in family.samples
            if sample.labels["window"] != FAST and sample.labels["kind"] == "input"
        }

    assert shown(1000) == {("1", "x[0]"), ("1", "x[1]"), ("2", "x[0]"), ("2", "x[1]")}
    assert shown(3) == shown(1) == {("1", "x[1]"), ("2", "x[1]")}


@pytest.mark.parametrize("text", ["", "5", "0m", "8d", "-1m", "1w", "5M"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        seconds_of(text)


def events_of(lanes: Lanes, kind: str) -> list[dict[str, Any]]:
    return [dict(event.data) for event in lanes.catalog.events() if event.type == kind]


def samples_of(lanes: Lanes) -> dict[tuple[Any, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in lanes.monitoring.families({})
        for sample in family.samples
    }


def feed(lanes: Lanes, ticks: int, shift: float = 0.0, seconds: float = 10.0, rows: int = 500) -> None:
    for _ in range(ticks):
        at = lanes.clock.wall_ns()
        lanes.write(1, Role.CHAMPION, [f"{at}-{n}" for n in range(rows)], *lanes.rows(rows, shift))
        lanes.tick(seconds)


def test_a_drift_is_told_when_it_begins_and_when_it_is_over(lanes: Lanes) -> None:
    feed(lanes, 12)
    assert not events_of(lanes, "drift.alarm")
    feed(lanes, 12, shift=1.0)
    told = events_of(lanes, "drift.alarm")
    assert {feature for event in told for feature in event["features"]} == {"x[0]", "x[1]", "y"}
    first = told[0]
    assert first["window"] == "fast"
    assert first["sentence"].startswith(("Input x[", "Output y"))
    assert " of version 1 moved: values " in first["sentence"]
    assert len(first["first_requests"]) in range(1, 6)
    assert first["histogram"]["now"]["rows"] == 500
    answer = lanes.monitoring.drift("m", None).to_json(3)
    assert len(answer["items"]) == 3
    assert answer["features"][0]["sentence"].startswith("Values are higher: the median is about ")
    assert {"histogram", "feature", "kind", "version", "direction", "moved"} <= set(answer["features"][0])
    assert answer["suspect"] is None
    assert [item["verdict"] for item in answer["fast"]] == ["breach"] * 3
    assert {alarm["feature"] for alarm in answer["alarms"]} == {"x[0]", "x[1]", "y"}
    assert answer["windows"][0]["rows"] >= 500 * 24
    up = ("driftgate_drift_active", ("kind", "input"), ("model", "m"), ("version", "1"))
    assert samples_of(lanes)[up] == 2
    feed(lanes, 60)
    cleared = [feature for event in events_of(lanes, "drift.cleared") for feature in event["features"]]
    assert not set(cleared) - {"x[0]", "x[1]", "y"}
    # Windows of an hour and longer still hold the drift: the columns are not like the reference yet.
    feed(lanes, 150, seconds=60.0)
    assert {key[3] for key in lanes.monitoring._live.versions["m", 1].alarms.active} <= {"1h", "1d", "7d"}


def test_windows_are_looked_at_again_only_when_rows_came(lanes: Lanes) -> None:
    feed(lanes, 5)
    for _ in range(2):
        lanes.tick(15.0)
    looks = lanes.monitoring._live.versions["m", 1].looks
    found = looks["5m"]
    assert found
    for _ in range(4):
        lanes.tick(15.0)
    assert looks["5m"] is found
    feed(lanes, 2, seconds=15.0)
    assert looks["5m"] is not found


def test_versions_are_taken_up_in_the_time_that_is_left_or_when_they_are_needed(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = lanes.monitoring._live
    limits, level = live.limits, live.level
    monkeypatch.setattr(live_module, "FOLLOW_S", -1.0)
    monkeypatch.setattr(live_module, "JUDGE_S", -1.0)
    both = {("m", 1): lanes.sha256, ("m", 2): lanes.sha256}
    for ask in (
        lambda: feed(lanes, 1),
        lambda: lanes.monitoring.drill("m", 1, {}),
        lambda: lanes.monitoring.drift("m", None),
    ):
        lanes.monitoring.follow({})
        lanes.monitoring.follow(both)
        lanes.tick()
        assert not live.versions
        strict = live.limits
        assert all(now.shape >= then.shape for now, then in zip(strict, limits, strict=True))
        ask()
        assert ("m", 1) in live.versions
    monkeypatch.undo()
    lanes.monitoring.follow({})
    lanes.monitoring.follow(both)
    lanes.tick()
    assert set(live.versions) == set(both)
    assert (live.limits, live.level) == (limits, level)


def test_idle_versions_are_taken_up_only_if_something_of_them_is_remembered(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = lanes.monitoring._live
    monkeypatch.setattr(live_module, "FOLLOW_S", -1.0)
    both = {("m", 1): lanes.sha256, ("m", 2): lanes.sha256}
    taken_up = []
    for rows in (0, 100, 0):
        lanes.monitoring.follow({})
        lanes.monitoring.follow(both)
        if rows:
            feed(lanes, 2, rows=rows)
        lanes.tick()
        taken_up.append(set(live.versions))
    assert taken_up == [set(), {("m", 1)}, {("m", 1)}]


def test_versions_with_one_profile_share_it(lanes: Lanes) -> None:
    first, second = (lanes.monitoring._live.versions["m", version].profile for version in (1, 2))
    assert first is second


@pytest.mark.parametrize(("moved", "suspect"), [("release", "release"), ("world", "world"), ("nothing", "nothing")])
def test_a_rollouts_drift_says_whom_to_ask_first(lanes: Lanes, moved: str, suspect: str) -> None:
    lanes.monitoring.begin(a_rollout())
    for batch in range(4):
        features, outputs = lanes.rows(500, shift=float(moved == "world"))
        lanes.write(1, Role.CHAMPION, [f"{batch}-{n}" for n in range(500)], features, outputs)
        lanes.write(2, Role.SHADOW, [f"{batch}-{n}" for n in range(500)], features, outputs + (moved == "release"))
        lanes.tick(2.0)
    answer = lanes.monitoring.drift("m", None).to_json()
    assert answer["suspect"]["suspect"] == suspect
    alarms = events_of(lanes, "drift.alarm")
    assert {alarm["suspect"]["suspect"] for alarm in alarms} == ({suspect} if moved != "nothing" else set())
    for alarm in alarms:
        assert alarm["sentence"].endswith(alarm["suspect"]["sentence"])


def test_an_alarm_outside_of_a_rollout_suspects_nobody(lanes: Lanes) -> None:
    feed(lanes, 4, shift=1.0)
    assert events_of(lanes, "drift.alarm")
    assert all("suspect" not in alarm for alarm in events_of(lanes, "drift.alarm"))


def test_a_profile_of_lately_is_not_compared_with_what_came_before_it(lanes: Lanes) -> None:
    feed(lanes, 10, shift=1.0)
    since_s = lanes.clock.wall_ns() // 10**9
    feed(lanes, 10)
    known = lanes.monitoring._live.versions["m", 1].profile
    lately = replace(known, since_s=float(since_s))
    before = lanes.monitoring.drift("m", None).to_json()["windows"][0]["rows"]
    sha256 = lanes.artifacts.put_bytes(lately.to_bytes())
    lanes.monitoring.follow({("m", 1): sha256, ("m", 2): lanes.sha256})
    assert lanes.monitoring.drift("m", None).to_json()["windows"][0]["rows"] < before


def test_first_requests_are_those_where_the_event_happened(lanes: Lanes) -> None:
    feed(lanes, 3)
    features, outputs = lanes.rows(1000)
    features[100::10, 0] = np.nan
    lanes.write(1, Role.CHAMPION, [f"r{n}" for n in range(1000)], features, outputs)
    lanes.tick(10.0)
    told = [event for event in events_of(lanes, "drift.alarm") if event["features"] == ["x[0]"]]
    assert told[0]["sentence"].startswith("Input x[0] of version 1 moved: missing values rose from 0.00% to ")
    wanted = [request_hash(f"r{n}").hex() for n in range(100, 150, 10)]
    assert told[0]["first_requests"] == wanted


@pytest.mark.parametrize("dies_every", [1, 7])
def test_a_controller_killed_in_mid_window_changes_no_count_and_no_verdict(tmp_path: Path, dies_every: int) -> None:
    told: list[dict[str, Any]] = []
    for dies in (False, True):
        root = tmp_path / str(dies)
        root.mkdir()
        world = Lanes(root)
        for tick in range(45):
            shift = 0.35 if 15 <= tick < 30 else 0.0
            at = world.clock.wall_ns()
            world.write(1, Role.CHAMPION, [f"{at}-{n}" for n in range(300)], *world.rows(300, shift))
            world.tick(5.0)
            if dies and tick % dies_every == 0:
                world.write(1, Role.CHAMPION, [f"{at}-x{n}" for n in range(40)], *world.rows(40, shift))
                world.tick(0.5)  # counted, and not stored
                world.monitoring = world.start()
                world.monitoring.follow({("m", 1): world.sha256, ("m", 2): world.sha256})
                world.clock.advance(-0.5)
            elif tick % dies_every == 0:
                world.write(1, Role.CHAMPION, [f"{at}-x{n}" for n in range(40)], *world.rows(40, shift))
        live = world.monitoring._live.versions["m", 1]
        events = [  # the requests named are some of those that the living controller saw
            (event.type, {name: value for name, value in event.data.items() if name != "first_requests"})
            for event in world.catalog.events()
            if event.type.startswith("drift.")
        ]
        window = world.monitoring.drift("m", None).versions[0].look.window
        told.append(
            {
                "events": events,
                "alarms": dict(live.alarms.active),
                "totals": live.alarms.totals,
                "detectors": [detector.to_dict() for detector in live.stream.detectors],
                "counts": window.inputs.counts.tolist(),
                "rows": window.rows,
                "audits": {
                    name: (tally.alarms, tally.expected) for name, tally in world.monitoring._live.audits.items()
                },
            }
        )
        world.close()
    for name, whole, killed in zip(told[0], told[0].values(), told[1].values(), strict=True):
        assert killed == whole, name
    assert any(kind == "drift.alarm" for kind, _ in told[0]["events"])


def test_drills_end_with_a_figure_and_change_nothing_that_is_real(lanes: Lanes) -> None:
    begun = lanes.monitoring.drill("m", 1, {"shifts": ["mean+1sd", "missing+5%", "mean+0.001sd"], "max_seconds": 60})
    assert [drill["state"] for drill in begun] == ["running"] * 3
    feed(lanes, 8)
    found = lanes.monitoring.drills("m")
    assert [drill["state"] for drill in found] == ["seen", "seen", "not_seen"]
    assert [drill["feature"] for drill in found] == ["x[0]"] * 3
    assert 500 <= found[0]["rows"] <= 1500
    assert len(events_of(lanes, "drift.drill")) == 3
    assert not events_of(lanes, "drift.alarm")
    for wrong in (
        {"feature": "nobody"},
        {"feature": 7},
        {"shifts": ["sideways"]},
        {"shifts": "mean+1sd"},
        {"max_seconds": 0},
        {"max_seconds": "1"},
        {"shifts": ["mean+1sd"] * 9},
    ):
        with pytest.raises(ServingError):
            lanes.monitoring.drill("m", 1, wrong)
    with pytest.raises(ServingError):
        lanes.monitoring.drill("m", 7, {})


def test_a_version_that_goes_and_comes_back_has_lost_no_row_that_was_counted(lanes: Lanes) -> None:
    both = {("m", 1): lanes.sha256, ("m", 2): lanes.sha256}
    lanes.write(2, Role.CHAMPION, [f"r{i}" for i in range(300)], *lanes.rows(300))
    lanes.tick(0.5)  # counted, and not stored yet
    assert lanes.monitoring.records == 300
    lanes.monitoring.follow({("m", 1): lanes.sha256})
    lanes.tick(5.0)
    lanes.monitoring.follow(both)
    live = lanes.monitoring._live
    known = live.take_up(("m", 2))
    assert known is not None
    assert known.stream.waiting_rows == 300


def test_a_look_that_fails_ends_no_others(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = live_module.Live._finish
    names: list[str] = []

    def failing(self: live_module.Live, key: Any, known: Any, look: Any) -> None:
        names.append(look.name)
        if len(names) == 1:
            raise ValueError("of this window")
        whole(self, key, known, look)

    monkeypatch.setattr(live_module.Live, "_finish", failing)
    feed(lanes, 4)
    assert lanes.monitoring._monitor.failures == 1
    assert set(names) > {names[0]}
    assert lanes.monitoring._live.versions["m", 1].looks


@pytest.mark.parametrize("where", ["evaluate", "add", "sample"])
def test_a_version_that_fails_is_counted_told_once_and_stops_no_other(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """Whichever step of its judging fails, each time: the other version's rows are judged, and all rows counted."""
    live = lanes.monitoring._live
    bad = live.take_up(("m", 1))
    assert bad is not None

    def failing(*_: Any, **__: Any) -> Any:
        raise ValueError("of this version")

    monkeypatch.setattr(bad.stream, where, failing)
    for tick in range(5):
        for version in (1, 2):
            lanes.write(version, Role.CHAMPION, [f"{version}.{tick}.{i}" for i in range(600)], *lanes.rows(600, 1.0))
        lanes.tick(2.0)
    assert lanes.monitoring.records == 5 * 2 * 600
    assert 2 in {event.version for event in lanes.catalog.events() if event.type == "drift.alarm"}
    assert samples_of(lanes)["driftgate_monitor_failures_total",] == live.failures == 5
    assert [record.message for record in caplog.records if "could not be judged" in record.message] == [
        "drift of m:1 could not be judged; later failures of it are only counted"
    ]
    assert bad.stream.waiting_rows < 600


def test_rows_whose_evaluation_failed_are_not_judged_again(lanes: Lanes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its detectors of inputs had taken them, those of outputs failed: taken twice they would be evidence twice."""
    known = lanes.monitoring._live.take_up(("m", 1))
    assert known is not None
    inputs, outputs = known.stream.detectors
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "update", lambda *_, **__: 1 / 0)
        feed(lanes, 1, seconds=2.0)
    feed(lanes, 1, seconds=2.0)
    found = inputs.worst(1)[0]
    assert found.start_rows + found.rows == 1000


def test_a_version_that_could_not_be_taken_up_is_taken_up_with_its_next_rows(
    lanes: Lanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = lanes.monitoring._live
    lanes.monitoring.follow({})
    with monkeypatch.context() as patched:
        patched.setattr(live._store, "states", lambda *_: 1 / 0)
        lanes.monitoring.follow({("m", 1): lanes.sha256})
        feed(lanes, 1)
        assert (live.versions, lanes.monitoring.records) == ({}, 500)
    feed(lanes, 1)
    assert list(live.versions) == [("m", 1)]
    assert live.failures == 2


def test_the_self_audit_counts_what_it_promised_and_what_it_found_over_restarts(lanes: Lanes) -> None:
    feed(lanes, 30, shift=1.0)  # drift is none of its business
    names = ("driftgate_self_audit_alarms_total", "driftgate_self_audit_expected")
    alarms, expected = (samples_of(lanes)[name, ("audit", "split")] for name in names)
    assert alarms == 0
    assert expected == pytest.approx(30 / 3600)
    lanes.monitoring.close()
    lanes.monitoring = lanes.start()
    assert samples_of(lanes)[names[1], ("audit", "split")] == expected


def test_yesterday_is_compared_from_midnight_on(lanes: Lanes) -> None:
    feed(lanes, 12)
    to_midnight_s = 86_400 - lanes.clock.wall_ns() // 10**9 % 86_400
    lanes.tick(to_midnight_s + 5.0)
    feed(lanes, 5)
    expected = samples_of(lanes)["driftgate_self_audit_expected", ("audit", "yesterday")]
    assert expected == pytest.approx(5 / 3600)
    feed(lanes, 10, shift=1.0)
    assert samples_of(lanes)["driftgate_self_audit_alarms_total", ("audit", "yesterday")] >= 2


def test_the_budget_is_one_controllers_however_many_versions_it_follows(lanes: Lanes) -> None:
    both = lanes.monitoring._live.limits
    level = lanes.monitoring._live.level
    lanes.monitoring.follow({("m", 1): lanes.sha256})
    one = lanes.monitoring._live.limits
    assert both[0].shape - one[0].shape == pytest.approx(np.log(2))
    assert both[1].quality - one[1].quality == pytest.approx(np.log(2))
    assert level == pytest.approx(lanes.monitoring._live.level / 2)
