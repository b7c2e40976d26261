"""Rows sampled and judged inside a version's stream: kill and restart, old stored states, an old profile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from monitor.block import Rows
from monitor.counts import Counter
from monitor.detectors import Limits
from monitor.stream import RING, SNAPSHOT_EVERY, Stream
from monitor.together_stream import TogetherStream
from registry.errors import StateDamaged
from tests.support.together import Floats, correlated, profiled

LIMITS = (Limits(20.0, 20.0), Limits(20.0, 20.0))
PROFILE = profiled(correlated(20_000, 0.6, np.random.default_rng(0), columns=4))
COUNTERS = Counter(PROFILE.input_bins(), "f8"), Counter(PROFILE.output_bins(), "f8")


def add(stream: Stream, x: Floats, first: int, salt: int = 0) -> None:
    stream.add(COUNTERS[0].count(x), COUNTERS[1].count(x[:, :0]))
    stream.sample(Rows({"seq": np.arange(first, first + len(x), dtype=np.uint64), "features": x}), salt)


def second(at: int, rows: int = 300) -> Floats:
    return correlated(rows, 0.6 if at < 20 else -0.6, np.random.default_rng(at), columns=4)


def together(stream: Stream) -> TogetherStream:
    assert stream.together is not None
    return stream.together


@pytest.mark.parametrize("seconds", [7, 31, 2 * SNAPSHOT_EVERY + 9])
def test_a_killed_stream_raises_the_same_alarms_as_one_that_was_not(seconds: int) -> None:
    """It is killed after each checkpoint, and what it took since the last one comes again."""
    with ThreadPoolExecutor(1) as executor:
        whole, killed = Stream(PROFILE, executor), Stream(PROFILE, executor)
        stored: dict[str, bytes] = {}
        told: dict[str, list[tuple[int, str]]] = {"whole": [], "killed": []}
        for at in range(seconds):
            if at % 5 == 4:
                add(killed, second(at + 1000, 40), 10**6)  # never stored, and read again in another second
                killed = Stream(PROFILE, executor)
                killed.restore(stored)
            for name, stream in (("whole", whole), ("killed", killed)):
                add(stream, second(at, 150), 150 * at)
                up, _, _ = stream.evaluate(float(at), float(at), LIMITS, 18.0)
                told[name] += [(at, row.family) for row in up if row.family in ("pairs", "reconstruction", "mmd")]
            whole.unsaved()
            stored.update(killed.unsaved())
            killed.saved()
        assert together(killed).sampled == together(whole).sampled == 150 * seconds
        assert {name for _, name in told["killed"]} == {name for _, name in told["whole"]}
        if seconds > 21:
            assert told["killed"]
        assert len(stored) <= RING + 3


def test_a_stream_restored_between_evaluations_is_bit_by_bit_the_same() -> None:
    with ThreadPoolExecutor(1) as executor:
        one = Stream(PROFILE, executor)
        stored: dict[str, bytes] = {}
        for at in range(9):
            add(one, second(at, 180), 180 * at)
            if one.is_due(float(at)):
                one.evaluate(float(at), float(at), LIMITS, 18.0)
            stored.update(one.unsaved())
            one.saved()
        two = Stream(PROFILE, executor)
        two.restore(stored)
        assert together(two).to_dict() == together(one).to_dict()
        assert together(two).waiting() == together(one).waiting()
        assert together(one).evaluations == 2  # every five seconds, however many rows came


def test_rows_of_two_workers_are_one_sample_of_the_version() -> None:
    with ThreadPoolExecutor(1) as executor:
        one = Stream(PROFILE, executor)
        for salt in (0, 1):
            add(one, second(salt, 100), 0, salt)
        together(one).ask()
        assert together(one).sampled == 200


def test_a_profile_without_it_has_no_detector_and_a_state_without_it_begins_one() -> None:
    old = profiled(correlated(20_000, 0.6, np.random.default_rng(0), columns=4), together=False)
    with ThreadPoolExecutor(1) as executor:
        stream = Stream(old, executor)
        add(stream, second(0, 600), 0)
        raised, cleared, _ = stream.evaluate(1.0, 1.0, LIMITS, 18.0)
        assert (stream.together, raised, cleared) == (None, [], [])
        again = Stream(old, executor)
        again.restore(stream.unsaved())
        assert again.evaluations == 1


def test_a_damaged_sample_is_refused() -> None:
    with ThreadPoolExecutor(1) as executor:
        one = Stream(PROFILE, executor)
        add(one, second(0), 0)
        stored = one.unsaved()
        for before, after in ((b'"rate":1.0', b'"rate":0.0'), (b'"rows":300', b'"rows":-1')):
            assert before in stored["together"]
            with pytest.raises(StateDamaged):
                Stream(PROFILE, executor).restore({**stored, "together": stored["together"].replace(before, after)})


def test_rows_that_depend_where_the_reference_lost_its_order_are_learned_from_before_they_are_judged() -> None:
    """Sessions of fifty equal rows, a shuffled reference: taken for independent they alarm, learned they do not."""
    lost = profiled(correlated(20_000, 0.6, np.random.default_rng(0), columns=4), in_time=False)
    assert lost.together is not None
    told = {}
    for depends in (False, True):
        stream, rng, told[depends] = TogetherStream(lost.together), np.random.default_rng(9), 0
        for at in range(0, 300, 5):
            block = np.repeat(correlated(12, 0.6, rng, columns=4), 50, axis=0)
            stream.add(Rows({"seq": np.arange(600, dtype=np.uint64), "features": block}), 0)
            raised, _, block_of = stream.evaluate(float(at), float(at), 18.0, depends)
            assert block_of is not None
            told[depends] += len(raised)
    assert told[True] == 0 < told[False]
