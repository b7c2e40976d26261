from __future__ import annotations

import json
from dataclasses import replace

import pytest

from monitor.alarms import CLEAR_AFTER, CLEAR_BELOW, Alarms
from monitor.drift import Measurement
from registry.errors import FormatTooNew, StateDamaged
from registry.vocabulary import Cause, Verdict

BREACH = Measurement(
    feature="x",
    kind="input",
    statistic="psi",
    value=0.5,
    threshold=0.1,
    rows=1000,
    window="5m",
    verdict=Verdict.BREACH,
    cause=None,
    profile="p",
)
QUIET = replace(BREACH, value=0.01, verdict=Verdict.PASS)
NEAR = replace(BREACH, value=0.1 * (CLEAR_BELOW + 1) / 2, verdict=Verdict.PASS)
UNKNOWN = replace(BREACH, verdict=Verdict.UNKNOWN, cause=Cause.NO_TRAFFIC)


def test_an_alarm_is_raised_once_and_ends_after_some_quiet_looks_in_a_row() -> None:
    alarms = Alarms()
    assert alarms.update([BREACH], 1).raised == [BREACH]
    assert alarms.update([BREACH], 2).raised == []
    for m in [QUIET, BREACH, UNKNOWN, QUIET, NEAR] + [QUIET] * (CLEAR_AFTER - 1) + [UNKNOWN]:
        change = alarms.update([m], 3)
        assert (change.raised, change.cleared) == ([], {})
        assert alarms.active == {BREACH.key: 1}
    assert alarms.update([QUIET], 4).cleared == {BREACH.key: 1}
    assert alarms.active == {}
    assert alarms.update([BREACH], 5).raised == [BREACH]
    assert alarms.totals == {BREACH.key: 2}


def test_windows_and_statistics_have_alarms_of_their_own() -> None:
    alarms = Alarms()
    other = replace(BREACH, window="1h")
    assert alarms.update([BREACH, other], 1).raised == [BREACH, other]
    for _ in range(CLEAR_AFTER):
        change = alarms.update([QUIET], 2)
    assert list(change.cleared) == [BREACH.key]
    assert list(alarms.active) == [other.key]


def test_alarms_go_on_from_what_was_stored() -> None:
    alarms = Alarms()
    alarms.update([BREACH], 1)
    alarms.update([QUIET], 2)
    again = Alarms.from_dict(json.loads(json.dumps(alarms.to_dict())))
    assert (again.totals, again.active) == (alarms.totals, alarms.active)
    for _ in range(CLEAR_AFTER - 1):
        assert again.update([BREACH if again.active == {} else QUIET], 3).raised == []
    assert again.active == {}


def test_alarms_of_columns_that_left_the_profile_are_forgotten_and_totals_stay() -> None:
    alarms = Alarms()
    alarms.update([BREACH], 1)
    alarms.keep([("input", "y")])
    assert alarms.active == {}
    assert alarms.totals == {BREACH.key: 1}


def test_the_stored_form_of_release_0_2_is_read() -> None:
    stored = (
        '{"format":"driftgate.alarms","v":1,"totals":[["input","x","psi","5m",3]],'
        '"active":[["input","x","psi","5m",7,1]],"looked":{"5m":113333333}}'
    )
    alarms = Alarms.from_dict(json.loads(stored))
    assert alarms.totals == {("input", "x", "psi", "5m"): 3}
    assert alarms.active == {("input", "x", "psi", "5m"): 7}
    assert alarms.looked == {"5m": 113333333}


def test_what_is_no_stored_form_is_refused() -> None:
    document = Alarms().to_dict()
    with pytest.raises(FormatTooNew):
        Alarms.from_dict({**document, "v": 2})
    for broken in ({**document, "totals": [[1]]}, {**document, "active": 7}, {"format": "driftgate.tile", "v": 1}):
        with pytest.raises(StateDamaged):
            Alarms.from_dict(broken)
