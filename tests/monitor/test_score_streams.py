"""Streams of scores and losses: what is followed, what is found and what is not, and that a restart changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from monitor.profile import ReferenceProfile, fit
from monitor.record import LogSchema, make_log_schema
from monitor.score_streams import BLOCK, MOST, WARM_UP, ScoreStream, ScoreStreams, Spec, StreamView, specs_of
from monitor.scores import Adwin
from registry.vocabulary import Role, TensorSpec
from tests.support.records import classifier_schema, regression_schema

NORMAL = Spec("y", "value", -4.0, 4.0)


def profile_of(schema: LogSchema, outputs: NDArray[np.float64]) -> ReferenceProfile:
    return fit(schema, np.zeros((len(outputs), len(schema.inputs))), outputs)


def times(rows: int, a_second: float = 500.0) -> NDArray[np.int64]:
    return (np.arange(rows) / a_second * 1e9).astype(np.int64)


def followed(values: NDArray[np.float64], a_second: float = 500.0) -> ScoreStream:
    stream = ScoreStream(NORMAL)
    stream.add(values, times(len(values), a_second))
    return stream


# -- what is followed --------------------------------------------------------------------------------------------------


def test_a_number_is_followed_within_four_sds_of_its_reference() -> None:
    schema = regression_schema()
    values = np.random.default_rng(0).normal(10.0, 2.0, size=(1000, 1))
    ((spec, columns),) = specs_of(schema, profile_of(schema, values).outputs)
    assert (spec.output, spec.kind, columns) == ("y", "value", slice(0, 1))
    assert (spec.low, spec.high) == pytest.approx((values.mean() - 4 * values.std(), values.mean() + 4 * values.std()))


@pytest.mark.parametrize(
    ("classes", "kinds"),
    [(2, [("probabilities", "top_score"), ("probabilities[1]", "score")]), (3, [("probabilities", "top_score")])],
)
def test_of_class_scores_the_largest_is_followed_and_of_two_classes_the_seconds(
    classes: int, kinds: list[tuple[str, str]]
) -> None:
    schema = classifier_schema(classes=classes)
    scores = np.random.default_rng(0).dirichlet(np.ones(classes), 500)
    rows = np.column_stack([scores.argmax(axis=1), scores])
    found = specs_of(schema, profile_of(schema, rows).outputs)
    assert [(spec.output, spec.kind) for spec, _ in found] == kinds
    assert {(spec.low, spec.high) for spec, _ in found} == {(0.0, 1.0)}
    streams = ScoreStreams(profile_of(schema, rows))
    streams.add(Role.CHAMPION, schema, rows, times(500))
    top = next(streams.views())
    assert top.window_rows == 480
    assert top.mean == pytest.approx(scores[:480].max(axis=1).mean())


def test_logits_are_followed_within_what_the_reference_had() -> None:
    schema = classifier_schema(classes=3)
    logits = np.random.default_rng(0).normal(size=(500, 3)) * 5
    ((spec, _),) = specs_of(schema, profile_of(schema, np.column_stack([logits.argmax(axis=1), logits])).outputs)
    assert (spec.low, spec.high) == (logits.min(), logits.max())


def test_a_model_of_many_outputs_has_few_streams() -> None:
    wide = make_log_schema([TensorSpec("x", "FP32", (None, 1))], [TensorSpec("y", "FP32", (None, 40))], by_rows=True)
    found = specs_of(wide, profile_of(wide, np.random.default_rng(0).normal(size=(100, 40))).outputs)
    assert [spec.output for spec, _ in found] == ["y[0]", "y[1]", "y[2]", "y[3]"]


@pytest.mark.parametrize("values", [[7.0], [0.0], [float("nan")], [1e308, -1e308]])
def test_a_reference_without_a_spread_still_gives_a_range(values: list[float]) -> None:
    schema = make_log_schema([TensorSpec("x", "FP64", (None, 1))], [TensorSpec("y", "FP64", (None, 1))], by_rows=True)
    outputs = np.resize(values, (100, 1))
    ((spec, _),) = specs_of(schema, profile_of(schema, outputs).outputs)
    assert 0.0 < spec.high - spec.low < float("inf")
    stream = ScoreStream(spec)
    stream.add(np.resize([*values, 0.0, float("inf"), 1e300], 400), times(400))
    assert np.isfinite(stream.mean)
    assert stream.rows + stream.skipped == 400


# -- what is found -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("session", [1, 10])
def test_nothing_is_found_where_nothing_moves_also_in_sessions_of_equal_rows(seed: int, session: int) -> None:
    values = np.random.default_rng(seed).normal(size=40_000 // session).repeat(session)
    stream = followed(values)
    assert (stream.adwin.changes, stream.page_hinkley.changes) == (0, 0)
    assert stream.deff == pytest.approx(session, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("session", "adwin", "page_hinkley"), [(1, 0, 0), (10, 0, 0), (100, 22, 1600)])
def test_what_long_streams_show_in_which_nothing_happens(session: int, adwin: int, page_hinkley: int) -> None:
    """The figures of docs/drift.md: twenty streams of 320,000 rows, in sessions of equal ones."""
    found = np.zeros(2, int)
    for seed in range(20):
        stream = followed(np.random.default_rng(seed).normal(size=320_000 // session).repeat(session))
        found += stream.adwin.changes, stream.page_hinkley.changes
    assert found == pytest.approx([adwin, page_hinkley], rel=0.3)


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "most"), [(0.1, 4000), (0.2, 1400), (0.5, 720), (1.0, 260)])
def test_how_many_rows_a_shift_takes(shift: float, most: int) -> None:
    """The medians of docs/drift.md: over 20 seeds, after 50,000 rows without a change, at 500 rows a second."""
    delays: dict[str, list[int]] = {"adwin": [], "page_hinkley": []}
    for seed in range(20):
        values, wall_ns = np.random.default_rng(seed).normal(size=60_000), times(60_000)
        values[50_000:] += shift
        for name, listed in delays.items():
            stream = ScoreStream(NORMAL)
            stream.add(values[:50_000], wall_ns[:50_000])
            for at in range(50_000, 60_000, BLOCK):
                stream.add(values[at : at + BLOCK], wall_ns[at : at + BLOCK])
                if getattr(stream, name).changes:
                    break
            listed.append(at + BLOCK - 50_000)
    assert max(np.median(each) for each in delays.values()) <= most


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_shift_of_one_sd_is_found_by_both_in_some_hundred_rows(sign: float) -> None:
    rng = np.random.default_rng(1)
    stream = followed(rng.normal(size=20_000))
    stream.add(rng.normal(size=640) + sign, 40_000_000_000 + times(640))
    assert stream.adwin.changes >= 1
    assert stream.page_hinkley.changes == 1
    assert 40_000_000_000 < stream.page_hinkley_ns <= 41_300_000_000
    assert 40_000_000_000 < stream.adwin_ns <= 41_300_000_000


def test_errors_that_were_one_in_twenty_and_are_one_in_five_are_found() -> None:
    rng = np.random.default_rng(2)
    schema = regression_schema()
    streams = ScoreStreams(profile_of(schema, rng.normal(size=(100, 1))))
    for at, wrong in enumerate(rng.random(4000) < np.repeat([0.05, 0.2], 2000)):
        streams.add_loss(Role.CANARY, "label", True, float(wrong), at * 10**9)
        if at == 1999:
            (before,) = streams.views()
    (after,) = streams.views()
    assert {count for count, _ in before.changes.values()} == {0}
    assert before.mean == pytest.approx(0.05, abs=0.02)
    assert min(count for count, _ in after.changes.values()) >= 1
    assert after.mean == pytest.approx(0.2, abs=0.05)
    assert (after.role, after.output, after.kind) == (Role.CANARY, "label", "loss")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=100))
def test_rows_that_come_one_by_one_are_as_those_that_come_together(values: list[float]) -> None:
    one, all_ = ScoreStream(NORMAL), ScoreStream(NORMAL)
    for at, value in enumerate(values):
        one.add_one(value, at * 10**9)
    all_.add(np.array(values, np.float64), np.arange(len(values)) * 10**9)
    assert one == all_


def test_losses_are_of_few_outputs_and_of_columns_that_the_profile_knows() -> None:
    schema = regression_schema()
    streams = ScoreStreams(profile_of(schema, np.random.default_rng(0).normal(size=(100, 1))))
    streams.add_loss(Role.CHAMPION, "nobody", False, 1.0, 1)
    assert not list(streams.views())
    streams.add_loss(Role.CHAMPION, "y", False, 1.0, 1)
    for name in "abcdef":
        streams.add_loss(Role.CHAMPION, name, True, 1.0, 1)
    assert len(list(streams.views())) == MOST


def test_what_is_not_finite_is_counted_and_skipped() -> None:
    values = np.random.default_rng(0).normal(size=500)
    nasty = np.insert(values, [0, 100, 100, 500], [np.nan, np.inf, -np.inf, np.nan])
    stream = ScoreStream(NORMAL)
    stream.add(nasty, np.zeros(len(nasty), np.int64))
    clean = ScoreStream(NORMAL)
    clean.add(values, np.zeros(len(values), np.int64))
    assert stream.skipped == 4
    assert stream.to_dict() == {**clean.to_dict(), "skipped": 4}


def test_looks_are_a_second_apart_by_the_rows_own_clock() -> None:
    class Counting(Adwin):
        looks = 0

        def look(self, deff: float = 1.0) -> bool:
            self.looks += 1
            return super().look(deff)

    for a_second, looks in ((10.0, 100), (500.0, 7)):  # one a block, or one a second after the first
        adwin = Counting()
        ScoreStream(NORMAL, adwin=adwin).add(np.zeros(3200), 10**15 + times(3200, a_second))
        assert adwin.looks == looks


# -- its state ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=12), st.integers(0, 99))
def test_neither_chunks_nor_restarts_change_anything(cuts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=4000) + (np.arange(4000) > 2500)
    values[rng.random(4000) < 0.01] = np.nan
    wall_ns = times(4000)
    whole, parts = followed(values), ScoreStream(NORMAL)
    for start, end in zip([0, *np.cumsum(cuts)], [*np.cumsum(cuts), 4000], strict=True):
        parts.add(values[start:end], wall_ns[start:end])
        parts = ScoreStream.from_dict(json.loads(json.dumps(parts.to_dict())))
    assert parts == whole


def views(streams: ScoreStreams) -> list[StreamView]:
    return list(streams.views())


def filled() -> tuple[ReferenceProfile, ScoreStreams]:
    rng = np.random.default_rng(3)
    schema = regression_schema()
    profile = profile_of(schema, rng.normal(size=(1000, 1)))
    streams = ScoreStreams(profile)
    for role in (Role.CHAMPION, Role.SHADOW):
        streams.add(role, schema, rng.normal(size=((WARM_UP + 2) * BLOCK + 5, 1)), times((WARM_UP + 2) * BLOCK + 5))
        streams.add_loss(role, "y", False, 0.5, 1)
    return profile, streams


def test_the_state_is_stored_when_it_changed_and_taken_up_again() -> None:
    profile, streams = filled()
    stored = streams.unsaved()
    assert stored is not None
    again = ScoreStreams.resumed(profile, stored)
    assert views(again) == views(streams)
    assert len(views(again)) == 4
    assert again.unsaved() is None
    streams.saved()
    assert streams.unsaved() is None


def test_another_profiles_or_a_damaged_or_a_newer_state_begins_anew() -> None:
    profile, streams = filled()
    stored = streams.unsaved()
    assert stored is not None
    document = json.loads(stored)
    stream = document["streams"][0]
    wrong = [
        {**document, "v": 2},
        {**document, "streams": 7},
        *(
            {**document, "streams": [{**stream, **change}]}
            for change in (
                {"role": "king"},
                {"low": 9.0},
                {"stream": "gossip"},
                {"waiting": [0.0] * BLOCK},
                {"adwin": stream["page_hinkley"]},
                {"rows": None},
            )
        ),
    ]
    for each in wrong:
        assert not views(ScoreStreams.resumed(profile, json.dumps(each).encode()))
    assert not views(ScoreStreams.resumed(profile, b"{"))
    other = replace(profile, ordered=not profile.ordered)
    assert not views(ScoreStreams.resumed(other, stored))
    assert not views(ScoreStreams.resumed(profile, None))
