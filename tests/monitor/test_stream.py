from __future__ import annotations

import json
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from monitor import profile, stream
from monitor.counts import Counter
from monitor.detectors import Limits
from monitor.stream import RING, SNAPSHOT_EVERY, Stream
from registry.errors import FormatTooNew, StateDamaged
from tests.support.records import regression_schema

SCHEMA = regression_schema(3)
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
