"""Candidate and champion on reference rows: the child that compares them, and what the rollout makes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gateway.control.measure import Measured, Measurer, measured_event
from gateway.control.watch import Watched
from gateway.settings import Settings
from monitor import profile
from monitor.plan import parse
from monitor.record import make_log_schema
from registry.catalog import VersionRow
from registry.errors import IllegalTransition
from registry.home import Home
from registry.manifest import FileDigest, Manifest
from registry.sample import sample_bytes
from registry.vocabulary import Cause, RolloutState, TensorSpec
from tests.gateway.control.world import Worker, World
from tests.support import models

PLAN: dict[str, Any] = {
    "burn_in_requests": 0,
    "step": [{"shadow": True, "min_requests": 10}, {"weight_pct": 50.0, "min_requests": 20}],
    "guardrail": [{"name": "shadow_disagreement"}],
}
ROWS = np.linspace(-1.0, 1.0, 500, dtype=np.float32)[:, None]


class ByHand(Measurer):
    """A measurer that finds what the test says, when it says so."""

    def __init__(self) -> None:
        self.found: Measured | None = None
        self.asked: list[tuple[int, int]] = []

    def get(self, rollout: str, champion: VersionRow, candidate: VersionRow, profile: str | None) -> Measured | None:
        self.asked.append((champion.version, candidate.version))
        return self.found

    def close(self) -> None: ...


@pytest.fixture
def by_hand() -> ByHand:
    return ByHand()


@pytest.fixture
def world(tmp_path: Path, by_hand: ByHand) -> Iterator[World]:
    made = World(tmp_path, measurer=by_hand)
    made.add("one")
    made.add("two")
    made.champion(1)
    yield made
    made.close()


def shifted(path: Path, by: float) -> Path:
    """x [N, 1] → y = x + by."""
    ends = [models.value(name, TensorProto.FLOAT, ["N", 1]) for name in ("x", "y")]
    return models.build(
        path, [helper.make_node("Add", ["x", "b"], ["y"])], [ends[0]], [ends[1]], {"b": np.array([by], np.float32)}
    )


class Versions:
    """Real models with reference rows, as registration leaves them, without the time that probing takes."""

    def __init__(self, root: Path) -> None:
        self.world = World(root / "home")
        self.root = root
        schema = make_log_schema((TensorSpec("x", "FP32", (None, 1)),), (TensorSpec("y", "FP32", (None, 1)),), True)
        self.schema = schema
        self.profile = self.world.artifacts.put_bytes(profile.fit(schema, ROWS, ROWS).to_bytes())

    def add(self, by: float, rows: NDArray[Any] | None, **changes: Any) -> VersionRow:
        data = shifted(self.root / "m.onnx", by).read_bytes()
        sample = None if rows is None else sample_bytes({"x": rows})
        manifest = Manifest(
            files=(FileDigest("model.onnx", self.world.artifacts.put_bytes(data), len(data)),),
            options=models.manifest_of("a").options,
            profile=self.profile,
            golden=None,
            inputs=(TensorSpec("x", "FP32", (None, 1)),),
            outputs=(TensorSpec("y", "FP32", (None, 1)),),
            probe=replace(models.manifest_of("a").probe, joined_rows=16),
            log_schema=self.schema.to_dict(),
            reference_rows=None if sample is None else self.world.artifacts.put_bytes(sample),
        )
        return self.world.catalog.add_version("m", replace(manifest, **changes), actor="test", new_version=True)[0]

    def sample(self, spec: TensorSpec) -> str:
        content = sample_bytes({spec.name: ROWS.reshape(len(ROWS), *(1 for _ in (spec.shape or ())[1:]))})
        assert content is not None
        return self.world.artifacts.put_bytes(content)

    def measure(
        self, champion: VersionRow, candidate: VersionRow, profile: str | None = None, seconds: float = 60.0
    ) -> Measured:
        measurer = Measurer(Home(self.world.home.root, self.world.home.run), Settings(), seconds)
        try:
            deadline = time.monotonic() + 60
            while (found := measurer.get("r", champion, candidate, profile)) is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            return found
        finally:
            measurer.close()


@pytest.fixture
def versions(tmp_path: Path) -> Iterator[Versions]:
    made = Versions(tmp_path)
    yield made
    made.world.close()


def test_a_child_counts_how_many_reference_rows_disagree(versions: Versions) -> None:
    champion, same = versions.add(0.0, ROWS), versions.add(0.01, ROWS)
    far = versions.add(5.0, ROWS, probe=replace(champion.manifest.probe, batch="never"))  # row by row
    found = versions.measure(champion, same, versions.profile)
    assert (found.rows, found.kept, found.disagreements, found.by_output) == (500, 500, 0, {"y": 0})
    found = versions.measure(champion, far, versions.profile)
    assert (found.rows, found.disagreement, found.by_output) == (500, 1.0, {"y": 500})


def test_what_cannot_be_compared_has_a_reason_and_no_share(versions: Versions) -> None:
    champion = versions.add(0.0, ROWS)
    no_rows, few = versions.add(1.0, None), versions.add(1.0, ROWS[:5])
    assert "without reference rows" in versions.measure(champion, no_rows, versions.profile).reason
    found = versions.measure(champion, few, versions.profile)
    assert found.disagreement is None
    assert "only 5 of its 5 reference rows" in found.reason
    assert "no profile" in versions.measure(champion, champion).reason
    broken_model = FileDigest("model.onnx", versions.world.artifacts.put_bytes(b"?"), 1)
    deaf = replace(champion, manifest=replace(champion.manifest, files=(broken_model,)))
    assert "champion 1 cannot be loaded" in versions.measure(deaf, champion, versions.profile).reason
    pair = TensorSpec("x", "FP32", (None, 1, 1))  # a rank that the model refuses
    odd = replace(champion, manifest=replace(champion.manifest, inputs=(pair,), reference_rows=versions.sample(pair)))
    assert "failed on row" in versions.measure(champion, odd, versions.profile).reason
    broken = replace(champion, manifest=replace(champion.manifest, reference_rows="a" * 64))
    assert "missing" in versions.measure(champion, broken, versions.profile).reason
    late = versions.measure(champion, champion, versions.profile, seconds=0.01)
    assert "took longer than 0.01 s" in late.reason


def test_a_rollout_keeps_what_was_measured_and_tells_it(world: World, by_hand: ByHand) -> None:
    worker = Worker(world.home.run)
    world.settle(worker)
    world.commands.start("m", 2, PLAN, world.act)
    world.tick()
    assert by_hand.asked == [(1, 2)]
    assert world.told("rollout.measured") == []
    by_hand.found = Measured(rows=1000, kept=1000, disagreements=414, by_output={"y": 414})
    world.tick()
    assert world.record.measured_disagreement == 0.414
    told = world.told("rollout.measured")
    assert told[0]["sentence"] == (
        "On 1,000 reference rows of version 2 it disagrees with champion 1 in 41.4 %; the limit for "
        "shadow_disagreement is 46.4 %"
    )
    asked = len(by_hand.asked)
    world.restart()
    world.tick(1.0)
    assert world.record.measured_disagreement == 0.414
    assert world.state.measured == by_hand.found
    world.settle(worker)
    assert len(by_hand.asked) == asked  # once a rollout
    assert len(world.told("rollout.measured")) == 1


def test_while_its_limit_is_measured_disagreement_neither_rolls_back_nor_lets_the_shadow_step_end(
    world: World, by_hand: ByHand
) -> None:
    worker = Worker(world.home.run)
    world.settle(worker)
    world.commands.start("m", 2, PLAN, world.act)
    world.settle(worker)
    worker.shadow(50)
    worker.answer("champion", 50)
    world.watch.seen = Watched(pair_rows=200, pair_disagreements=180, pair_requests=200, pair_age_s=0.0)
    world.tick(0.25, 3)
    assert world.record.state is RolloutState.SHADOW
    report = world.record.guardrails[0]
    assert (report.cause, "being measured" in report.sentence) == (Cause.NOT_ENOUGH, True)
    by_hand.found = Measured(reason="version 2 was registered without reference rows")
    world.tick(0.25, 2)
    assert world.state.record is None  # 90 % where 30 % is the limit
    sentence = world.told("rollout.measured")[0]["sentence"]
    assert "was not compared" in sentence
    assert sentence.endswith("without reference rows; the limit for shadow_disagreement is 30 %")


def test_a_measured_limit_lets_an_honest_successor_differ(world: World, by_hand: ByHand) -> None:
    worker = Worker(world.home.run)
    by_hand.found = Measured(rows=1000, kept=1000, disagreements=850)
    world.settle(worker)
    world.commands.start("m", 2, PLAN, world.act)
    world.settle(worker)
    worker.shadow(50)
    worker.answer("champion", 50)
    world.watch.seen = Watched(pair_rows=200, pair_disagreements=180, pair_requests=200, pair_age_s=0.0)
    world.tick(0.25, 3)
    assert world.record.state in (RolloutState.SHADOW, RolloutState.CANARY)


def test_the_sentence_says_how_many_rows_there_was_time_for_and_only_a_limit_that_is_there(world: World) -> None:
    world.settle(Worker(world.home.run))
    world.commands.start("m", 2, {**PLAN, "guardrail": [{"name": "errors"}]}, world.act)
    event = measured_event(world.record, Measured(rows=640, kept=1000, disagreements=0))
    assert event.sentence == "On 640 of 1,000 reference rows of version 2 it disagrees with champion 1 in 0.0 %"
    swapped = measured_event(replace(world.record, plan=parse(PLAN)), Measured(rows=442, kept=442, disagreements=442))
    same = replace(world.record, plan=parse({"guardrail": [{"name": "shadow_disagreement", "expect": "same"}]}))
    assert measured_event(same, Measured(rows=640, kept=640)).sentence.endswith("shadow_disagreement is 1 %")
    assert "in 100.0 %, which is more than a limit can follow" in swapped.sentence
    assert swapped.data["limit"] == 0.30


def test_a_candidate_that_wants_other_rows_is_refused_at_the_start(world: World) -> None:
    world.add("three", features=3)
    world.add("four", features=None)
    world.settle(Worker(world.home.run))
    with pytest.raises(IllegalTransition, match=r"input 'x' has shape \[\?, 3\], the champion's \[\?, 2\]"):
        world.commands.start("m", 3, PLAN, world.act)
    assert world.commands.start("m", 4, PLAN, world.act)["candidate"] == 4
