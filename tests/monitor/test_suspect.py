"""The world and the release are told apart, and what is unknown is never said to have stayed."""

from __future__ import annotations

import pytest

from monitor.drift import Measurement
from monitor.suspect import Suspect, attribute
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


def test_what_is_unknown_is_never_said_to_have_stayed() -> None:
    for inputs in (OPEN, []):
        assert "did not" not in attribute(inputs, OPEN, MOVED).sentence
