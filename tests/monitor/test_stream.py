from __future__ import annotations

import json
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from monitor import profile, stream
from monitor.counts import Counter
from monitor.dependence import LEARN_EVALUATIONS
from monitor.detectors import Limits
from monitor.drift import measure
from monitor.stream import RING, SNAPSHOT_EVERY, Stream
from registry.errors import FormatTooNew, StateDamaged
from registry.vocabulary import Verdict
from tests.support.records import regression_schema

SCHEMA = regression_schema(3)
SHIFT = np.array([1.0, 0.0, 0.0])
LIMITS = (Limits(12.0, 12.0), Limits(12.0, 12.0))


class AtOnce(Executor):
    """Runs what it is given before it returns."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


def fitted(seed: int = 0) -> profile.ReferenceProfile:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20_000, 3)).astype("f4")
    return profile.fit(SCHEMA, x, x[:, :1])


def add(to: Stream, rows: int, seed: int, shift: float = 0.0) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, 3)).astype("f4")
    x[:, 0] += shift
    inputs = Counter(to.profile.input_bins(), SCHEMA.input_dtype).count(x)
    to.add(inputs, Counter(to.profile.output_bins(), SCHEMA.output_dtype).count(x[:, 1:2]))


class Shelf:
    """What a database would hold."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}

    def checkpoint(self, of: Stream) -> None:
        self.stored.update(of.unsaved())
        of.saved()

    def restart(self, found: profile.ReferenceProfile) -> Stream:
        again = Stream(found, AtOnce())
        again.restore(self.stored)
        return again


def state(of: Stream) -> Any:
    return [detector.to_dict() for detector in of.detectors]


def test_an_evaluation_waits_for_rows_and_for_time_whichever_is_later() -> None:
    one = Stream(fitted(), AtOnce())
    assert not one.is_due(0.0)
    add(one, 499, 1)
    assert not one.is_due(1e9)
    add(one, 1, 2)
    assert one.is_due(100.0)
    one.evaluate(100.0, 100.0, LIMITS)
    add(one, 5000, 3)
    assert not one.is_due(100.9)
    assert one.is_due(101.0)


def test_detectors_are_made_for_the_first_evaluation() -> None:
    found, shelf = fitted(), Shelf()
    one = Stream(found, AtOnce())
    add(one, 400, 1)
    shelf.checkpoint(one)
    one = shelf.restart(found)
    assert (one.waiting_rows, one.active(), one.worst(5), one.strongest("input")) == (400, [], [], None)
    assert [deffs.tolist() for deffs in one.live_deffs()] == [[1.0, 1.0, 1.0], [1.0]]
    made = [one.has_detectors]  # all of this without them
    add(one, 100, 2)
    one.evaluate(100.0, 100.0, LIMITS)
    assert [*made, one.has_detectors] == [False, True]
    assert [row.feature for row in one.worst(1)]
    shelf.checkpoint(one)
    assert shelf.restart(found).has_detectors


def test_a_shift_raises_one_alarm_and_the_way_back_clears_it() -> None:
    one = Stream(fitted(), AtOnce())
    told: list[tuple[str, str]] = []
    for second in range(120):
        add(one, 500, second, shift=1.0 if 20 <= second < 60 else 0.0)
        raised, cleared, _ = one.evaluate(second, second, LIMITS)
        told += [("raised", row.feature) for row in raised if row.family == "shape"]
        told += [("cleared", row.feature) for row in cleared if row.family == "shape"]
        if second == 40:
            assert [row.feature for row in one.active() if row.family == "shape"] == ["x[0]"]
            assert one.worst(1)[0].feature == "x[0]"
            assert one.worst(1)[0].start_s == pytest.approx(20, abs=4)
    assert told == [("raised", "x[0]"), ("cleared", "x[0]")]


@pytest.mark.parametrize("evaluations", [3, SNAPSHOT_EVERY + 5])
@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_stream_goes_on_bit_by_bit_where_the_last_checkpoint_stood(evaluations: int, lost: int) -> None:
    found, shelf = fitted(), Shelf()
    whole, killed = Stream(found, AtOnce()), Stream(found, AtOnce())
    for second in range(evaluations):
        for each in (whole, killed):
            add(each, 500, second, shift=0.5 if second > 1 else 0.0)
            each.evaluate(second, second, LIMITS)
            add(each, 40, 10_000 + second)
        shelf.checkpoint(killed)
    if lost:
        add(killed, 700, 1)
        killed.evaluate(1e6, 1e6, LIMITS)  # counted and judged, and never stored
    again = shelf.restart(found)
    assert again.waiting_rows == whole.waiting_rows == 40
    assert state(again) == state(whole)
    for each in (whole, again):
        add(each, 460, 5, shift=0.5)
        each.evaluate(evaluations, evaluations, LIMITS)
    assert state(again) == state(whole)
    assert len(shelf.stored) <= RING + 2


def test_evaluations_that_the_whole_state_knows_are_not_read_again() -> None:
    found, shelf = fitted(), Shelf()
    one = Stream(found, AtOnce())
    for second in range(SNAPSHOT_EVERY + 2):
        add(one, 500, second)
        one.evaluate(second, second, LIMITS)
        shelf.checkpoint(one)
    for known in range(1, SNAPSHOT_EVERY + 1):
        shelf.stored[f"block.{known}"] = b"not looked at"
    again = shelf.restart(found)
    assert again.evaluations == SNAPSHOT_EVERY + 2
    assert state(again) == state(one)


def test_what_waits_is_stored_before_it_is_judged() -> None:
    found, shelf = fitted(), Shelf()
    one = Stream(found, AtOnce())
    for turn in range(4):
        add(one, 100, turn)
        shelf.checkpoint(one)
    assert shelf.restart(found).waiting_rows == 400


def test_the_ring_of_evaluations_may_be_lapped_before_a_state_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "SNAPSHOT_EVERY", 5)
    monkeypatch.setattr(stream, "RING", 8)
    found, shelf = fitted(), Shelf()
    one = Stream(found, AtOnce())
    for second in range(23):
        add(one, 500, second)
        one.evaluate(second, second, LIMITS)
        shelf.checkpoint(one)
    assert state(shelf.restart(found)) == state(one)
    assert len(shelf.stored) <= 10


def test_another_profile_begins_anew() -> None:
    shelf, one = Shelf(), Stream(fitted(), AtOnce())
    add(one, 500, 1)
    one.evaluate(1.0, 1.0, LIMITS)
    add(one, 10, 2)
    shelf.checkpoint(one)
    other = shelf.restart(fitted(7))
    assert (other.evaluations, other.waiting_rows) == (0, 0)


def test_damaged_and_newer_states_are_refused_by_name() -> None:
    shelf, one = Shelf(), Stream(fitted(), AtOnce())
    add(one, 500, 1)
    one.evaluate(1.0, 1.0, LIMITS)
    shelf.checkpoint(one)
    good = shelf.stored["block.1"]
    for broken in (b"{", b"[]", good[:-20], good.replace(b'"inputs"', b'"outputs_"')):
        shelf.stored["block.1"] = broken
        with pytest.raises(StateDamaged):
            shelf.restart(one.profile)
    shelf.stored["block.1"] = json.dumps({**json.loads(good), "v": 2}).encode()
    with pytest.raises(FormatTooNew):
        shelf.restart(one.profile)


def drawn(rows: int, is_dependent: bool, rng: np.random.Generator) -> Any:
    """Rows of a stationary stream: sessions of 20 equal ones, or independent ones."""
    return np.repeat(rng.normal(size=(rows // 20, 3)), 20, axis=0) if is_dependent else rng.normal(size=(rows, 3))


def lost(is_dependent: bool, rng: np.random.Generator) -> profile.ReferenceProfile:
    """A profile of rows whose order somebody shuffled."""
    x = rng.permutation(drawn(20_000, is_dependent, rng)).astype("f4")
    return profile.fit(SCHEMA, x, x[:, :1])


def follow(one: Stream, x: Any, second: int, is_seen: bool = True) -> list[str]:
    """The columns whose values raised an alarm."""
    x = x.astype("f4")
    inputs = Counter(one.profile.input_bins(), SCHEMA.input_dtype).count(x)
    one.add(inputs, Counter(one.profile.output_bins(), SCHEMA.output_dtype).count(x[:, 1:2]))
    if is_seen:
        one.see(x)
    raised, _, _ = one.evaluate(second, second, LIMITS)
    return [row.feature for row in raised]


def test_where_the_reference_lost_its_order_dependent_rows_are_learned_from_before_they_are_judged() -> None:
    rng = np.random.default_rng(0)
    found = lost(True, rng)
    one, hasty = Stream(found, AtOnce()), Stream(found, AtOnce())
    for second in range(40):
        assert follow(one, drawn(500, True, rng), second) == []
        assert one.is_learning == (second < LEARN_EVALUATIONS - 1)
    assert sum(len(follow(hasty, drawn(500, True, rng), second, is_seen=False)) for second in range(12)) >= 3


def test_what_was_learned_does_not_hide_a_shift_and_independent_rows_need_no_learning() -> None:
    rng = np.random.default_rng(5)
    one = Stream(lost(True, rng), AtOnce())
    for second in range(30):
        assert follow(one, drawn(500, True, rng), second) == []
    found = [name for second in range(30, 50) for name in follow(one, drawn(500, True, rng) + SHIFT, second)]
    assert set(found) == {"x[0]"}
    other = Stream(lost(False, rng), AtOnce())
    assert follow(other, drawn(500, False, rng), 0) == []
    assert follow(other, drawn(500, False, rng) + SHIFT, 1) == ["x[0]"]


def test_an_outage_and_a_change_of_units_are_seen_while_the_stream_learns() -> None:
    for broken, within in ((np.nan, 1), (1000.0, 5)):
        rng = np.random.default_rng(6)
        one = Stream(lost(True, rng), AtOnce())
        x = drawn(500 * (within + 1), True, rng)
        x[500:, 2] = broken
        found = [follow(one, x[500 * at : 500 * (at + 1)], at) for at in range(within + 1)]
        assert found[0] == []
        assert ["x[2]"] in found
        assert one.is_learning


def test_a_stream_that_learns_goes_on_learning_after_a_kill() -> None:
    rng, shelf = np.random.default_rng(7), Shelf()
    found = lost(True, rng)
    one = Stream(found, AtOnce())
    for second in range(LEARN_EVALUATIONS - 1):
        follow(one, drawn(500, True, rng), second)
        shelf.checkpoint(one)
        if second in (0, LEARN_EVALUATIONS - 2):
            again = shelf.restart(found)
            assert again.is_learning
    assert state(again) == state(one)
    assert [deffs.tolist() for deffs in again.live_deffs()] == [deffs.tolist() for deffs in one.live_deffs()]


def test_windows_are_not_judged_before_it_is_known_how_rows_depend() -> None:
    rng = np.random.default_rng(8)
    one = Stream(lost(True, rng), AtOnce())
    x = drawn(5000, True, rng).astype("f4")
    inputs = Counter(one.profile.input_bins(), SCHEMA.input_dtype).count(x)
    follow(one, x, 0)
    for deffs, verdicts in ((None, {Verdict.BREACH}), (one.live_deffs(), {Verdict.UNKNOWN})):
        judged = measure(one.profile, inputs, None, window="5m", level=1e-6, live_deffs=deffs)
        assert {m.verdict for m in judged if m.statistic == "psi"} == verdicts
    for second in range(1, 30):
        follow(one, drawn(500, True, rng), second)
    judged = measure(one.profile, inputs, None, window="5m", level=1e-6, live_deffs=one.live_deffs())
    assert Verdict.BREACH not in {m.verdict for m in judged}
