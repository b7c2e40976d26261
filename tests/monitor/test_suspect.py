"""The world and the release are told apart, and what is unknown is never said to have stayed."""

from __future__ import annotations

import pytest

from monitor.drift import Measurement
from monitor.suspect import Suspect, attribute, standing
from monitor.watch import Evidence
from registry.vocabulary import Cause, Verdict


def measured(feature: str, verdict: Verdict) -> Measurement:
    cause = Cause.NOT_ENOUGH if verdict is Verdict.UNKNOWN else None
    return Measurement(feature, "input", "psi", 1.0, 0.5, 1000, "5m", verdict, cause, "p")


MOVED, STILL, OPEN = ([measured("x", verdict)] for verdict in (Verdict.BREACH, Verdict.PASS, Verdict.UNKNOWN))


@pytest.mark.parametrize(
    ("inputs", "old", "new", "suspect"),
    [
        (MOVED, MOVED, MOVED, Suspect.WORLD),
        (STILL, STILL, MOVED, Suspect.RELEASE),
        (MOVED, STILL, MOVED, Suspect.RELEASE),
        (OPEN, STILL, MOVED, Suspect.RELEASE),
        (STILL, MOVED, MOVED, Suspect.UPSTREAM),
        (OPEN, MOVED, MOVED, Suspect.UNKNOWN),
        (STILL, OPEN, MOVED, Suspect.UNKNOWN),
        (STILL, [], MOVED, Suspect.UNKNOWN),
        (MOVED, STILL, STILL, Suspect.INPUTS),
        (MOVED, OPEN, STILL, Suspect.UNKNOWN),
        (MOVED, [], [], Suspect.UNKNOWN),
        (MOVED, MOVED, STILL, Suspect.WORLD),
        (STILL, MOVED, STILL, Suspect.UNKNOWN),
        (STILL, STILL, STILL, Suspect.NOTHING),
        (OPEN, OPEN, OPEN, Suspect.UNKNOWN),
        ([], [], [], Suspect.UNKNOWN),
    ],
)
def test_world_and_release_are_told_apart(
    inputs: list[Measurement], old: list[Measurement], new: list[Measurement], suspect: Suspect
) -> None:
    found = attribute(inputs, old, new)
    assert found.suspect is suspect
    assert found.sentence.endswith(".")


def strongest(evidence: float, rows: int = 500) -> Evidence:
    return Evidence(
        "x", "output", "shape", evidence, 9.0, "edge", 0, 1, 0.5, 0.5, 0.5, rows, 0.0, 0, 0.0, "count", 1.0, False
    )


@pytest.mark.parametrize(
    ("alarms", "evidence", "verdict"),
    [
        ([("output", "y", "shape", "fast")], strongest(8.0), Verdict.BREACH),
        ([("input", "y", "shape", "fast")], strongest(1.0), Verdict.PASS),
        ([], strongest(1.0), Verdict.PASS),
        ([], strongest(5.0), Verdict.UNKNOWN),
        ([], strongest(0.0, rows=0), Verdict.UNKNOWN),
    ],
)
def test_a_version_half_way_to_an_alarm_does_not_stand_still(
    alarms: list[tuple[str, str, str, str]], evidence: Evidence, verdict: Verdict
) -> None:
    (found,) = standing(alarms, evidence, "output")
    assert found.verdict is verdict
    assert standing([], None, "output") == []


def test_what_is_unknown_is_never_said_to_have_stayed() -> None:
    for inputs in (OPEN, []):
        assert "did not" not in attribute(inputs, OPEN, MOVED).sentence
        assert "no version's" not in attribute(MOVED, inputs, OPEN).sentence
