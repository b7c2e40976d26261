"""The demo's plan with a fixed seed: one file promotes version 2, rolls version 3 back, promotes a copy of version 2.

The judge and the machine are the real ones, and so are the models and flights; only traffic is played without sockets,
in ticks of half a second, with labels that come later.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib.resources import files

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.demo.models import Trained
from monitor import rollout
from monitor.facts import ArmFacts, LabelFacts, RolloutFacts, SegmentFacts
from monitor.plan import parse
from monitor.rollout import Moment, Readiness, RolloutRecord
from monitor.verdict import judge
from registry.vocabulary import RolloutState
from tests.support.flights import Made, made

TICK_S = 0.5
RATE = 300
LABEL_TICKS = 12
MOST_TICKS = 240  # two minutes


@pytest.fixture(scope="module")
def flights() -> Made:
    return made()


@dataclass
class Play:
    """Traffic through one rollout, counted as pages and monitor count it."""

    champion: Trained
    candidate: Trained
    made: Made
    random: np.random.Generator
    facts: RolloutFacts = field(default_factory=lambda: RolloutFacts(latency_ready=True, has_profile=True))
    waiting: list[tuple[int, NDArray[np.int64]]] = field(default_factory=list)  # tick when due, farther/closer/ties

    def __post_init__(self) -> None:
        reference = self.made.year.training.features[::5]
        says = self.champion.predict(reference)
        self.tolerance = 0.5 * float(says.std())
        self.edges = np.unique(np.quantile(says, np.linspace(0, 1, 17)[1:-1]))
        span = [(model.predict(reference).min(), model.predict(reference).max()) for model in self.arms]
        self.limits = [(low - 0.1 * (high - low), high + 0.1 * (high - low)) for low, high in span]

    @property
    def arms(self) -> tuple[Trained, Trained]:
        return self.champion, self.candidate

    def tick(self, number: int, record: RolloutRecord) -> RolloutFacts:
        later = self.made.year.later
        rows = self.random.integers(len(later), size=int(RATE * TICK_S))
        truth = later.delay[rows]
        says = [model.predict(later.features[rows]) for model in self.arms]
        to_canary = self.random.random(len(rows)) < record.weight
        bad = [(said < low) | (said > high) for said, (low, high) in zip(says, self.limits, strict=True)]
        if record.weight > 0:
            slow = self.random.random(len(rows))
            here = SegmentFacts(
                record.weight,
                ArmFacts(
                    int((~to_canary).sum()), 0, int((slow < 0.01)[~to_canary].sum()), int(bad[0][~to_canary].sum())
                ),
                ArmFacts(int(to_canary.sum()), 0, int((slow < 0.002)[to_canary].sum()), int(bad[1][to_canary].sum())),
            )
            self.facts = replace(self.facts, segments=(*self.facts.segments, here))
        if record.shadow:
            self._pair(number, says[0][~to_canary], says[1][~to_canary], truth[~to_canary])
        self._label(number)
        return self.facts

    def _pair(
        self, number: int, old: NDArray[np.float64], new: NDArray[np.float64], truth: NDArray[np.float32]
    ) -> None:
        known = np.isfinite(truth)
        farther = np.abs(new - truth)[known] - np.abs(old - truth)[known]
        label = np.array([(farther > 0).sum(), (farther < 0).sum(), (farther == 0).sum()])
        self.waiting.append((number + LABEL_TICKS, label))
        counts = [np.bincount(np.searchsorted(self.edges, said), minlength=len(self.edges) + 1) for said in (old, new)]
        before = self.facts.outputs[0] if self.facts.outputs else (np.zeros_like(counts[0]), np.zeros_like(counts[0]))
        self.facts = replace(
            self.facts,
            shadow_requests=self.facts.shadow_requests + len(old),
            pair_rows=self.facts.pair_rows + len(old),
            pair_disagreements=self.facts.pair_disagreements + int((np.abs(new - old) > self.tolerance).sum()),
            outputs=((before[0] + counts[0], before[1] + counts[1]),),
        )

    def _label(self, number: int) -> None:
        while self.waiting and self.waiting[0][0] <= number:
            farther, closer, ties = (int(value) for value in self.waiting.pop(0)[1])
            known = self.facts.labels or LabelFacts(0, 0, 0)
            self.facts = replace(
                self.facts,
                labels=LabelFacts(known.farther + farther, known.closer + closer, known.ties + ties, age_s=1.0),
            )


def play(flights: Made, champion: int, candidate: int) -> RolloutRecord:
    """Until the rollout has ended, or two minutes have passed."""
    random = np.random.default_rng([2013, champion, candidate])
    plan = parse(files("gateway.demo").joinpath("plan.toml").read_bytes())
    traffic = Play(flights.models[champion], flights.models[candidate], flights, random)
    moment = Moment(wall_ns=0, elapsed_s=TICK_S)
    record = rollout.start(
        id="r", model="m", champion=1, candidate=2, plan=plan, salt="0" * 32, moment=moment, actor="test"
    ).record
    for number in range(MOST_TICKS):
        facts = traffic.tick(number, record)
        record = rollout.next_step(record, judge(plan, facts), facts, moment, Readiness.READY).record
        if record.state is RolloutState.PROMOTING:
            record = rollout.finish_promotion(record, moment).record
        if record.state is RolloutState.ROLLING_BACK:
            record = rollout.finish_rollback(record, moment).record
        if record.is_final:
            break
    return record


def told(record: RolloutRecord) -> str:
    return "\n".join(f"{report.name}: {report.verdict} {report.sentence}" for report in record.guardrails)


@pytest.mark.parametrize(("champion", "candidate", "why"), [(1, 2, "the better model"), (2, 2, "a copy")])
def test_the_plan_promotes(flights: Made, champion: int, candidate: int, why: str) -> None:
    record = play(flights, champion, candidate)
    assert record.state is RolloutState.SUCCEEDED, f"{why}: {record.state} {record.reason}\n{told(record)}"
    assert record.requests.canary >= 600


def test_the_plan_rolls_back_the_model_with_the_wrong_unit_on_labels(flights: Made) -> None:
    record = play(flights, 2, 3)
    assert record.state is RolloutState.ROLLED_BACK, told(record)
    (labels,) = [report for report in record.guardrails if report.name == "labels"]
    assert labels.evidence_log10 is not None
    assert labels.limit_log10 is not None
    assert labels.evidence_log10 >= labels.limit_log10
    assert record.requests.canary > 0, "it answered a share before its labels came"
    others = [report.name for report in record.guardrails if report.rolls_back and report.name != "labels"]
    assert others == [], "labels decide; nothing else can tell"
