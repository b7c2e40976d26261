from __future__ import annotations

import numpy as np
import pytest

from monitor import profile
from monitor.block import Rows
from monitor.detectors import Limits
from monitor.drill import Drill, Shift
from registry.errors import MalformedRequest
from tests.support.records import classifier_schema, regression_schema

LIMITS = Limits(20.3, 20.3)


def fitted() -> profile.ReferenceProfile:
    x = (np.random.default_rng(0).normal(size=(20_000, 2)) * 2 + 5).astype("f4")
    return profile.fit(regression_schema(2), x, x[:, :1])


@pytest.mark.parametrize("text", ["", "mean", "mean+0sd", "mean+1", "sdx0", "missing+101%", "missing-1%", "x" * 1000])
def test_what_is_no_shift_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        Shift.parse(text)


def test_a_shift_does_what_it_says_to_a_copy() -> None:
    column = fitted().inputs[0]
    rng = np.random.default_rng(1)
    values = (rng.normal(size=100_000) * 2 + 5).astype("f4")
    values[:10] = np.nan
    before = values.copy()
    moved = Shift.parse("mean+0.5sd").apply(values, column, rng)
    assert np.nanmean(moved) - np.nanmean(values) == pytest.approx(1.0, abs=0.02)
    assert np.isnan(moved[:10]).all()
    assert Shift.parse("sdx1.5").apply(values, column, rng)[10:].std() == pytest.approx(3.0, abs=0.05)
    assert np.isnan(Shift.parse("missing+10%").apply(values, column, rng)).mean() == pytest.approx(0.1, abs=0.01)
    unseen = Shift.parse("unseen+5%").apply(values, column, rng)
    assert (unseen > column.high).mean() == pytest.approx(0.05, abs=0.01)
    assert np.array_equal(values, before, equal_nan=True)


def test_a_category_has_no_spread_to_drill() -> None:
    schema = classifier_schema(1)
    y = np.random.default_rng(0).integers(0, 2, (2000, 3)).astype(schema.output_dtype)
    label = profile.fit(schema, np.zeros((2000, 1), "f4"), y).outputs[0]
    with pytest.raises(MalformedRequest, match="no spread"):
        Shift.parse("mean+1sd").check(label)
    Shift.parse("unseen+1%").check(label)
    shifted = Shift.parse("unseen+100%").apply(np.zeros(5), label, np.random.default_rng(0))
    assert set(shifted) == {2.0}


def a_drill(shift: str, most_s: float = 600.0) -> Drill:
    return Drill(
        id="d",
        version=1,
        side="input",
        at=0,
        column=fitted().inputs[0],
        shift=Shift.parse(shift),
        most_s=most_s,
        now_s=0.0,
        wall_ns=0,
        rng=np.random.default_rng(5),
    )


def run(drill: Drill, seconds: int) -> int | None:
    """The second at which it ended."""
    rng = np.random.default_rng(6)
    for second in range(1, seconds + 1):
        x = (rng.normal(size=(500, 2)) * 2 + 5).astype("f4")
        drill.add(Rows({"seq": np.arange(500), "features": x}))
        if drill.judge(float(second), LIMITS):
            return second
    return None


@pytest.mark.parametrize(("shift", "rows"), [("mean+0.5sd", 2000), ("sdx1.5", 2500), ("missing+1%", 4000)])
def test_a_drill_reports_after_how_many_rows_the_shift_was_seen(shift: str, rows: int) -> None:
    drill = a_drill(shift)
    ended = run(drill, 60)
    assert ended is not None
    shown = drill.to_json()
    assert shown["state"] == "seen"
    assert shown["rows"] == ended * 500 <= rows
    assert shown["sentence"].endswith(f"was seen after {drill.rows:,} rows ({ended} s).")
    assert not drill.judge(1e6, LIMITS)


def test_a_shift_too_small_to_matter_is_given_up() -> None:
    drill = a_drill("mean+0.005sd", most_s=10.0)
    assert run(drill, 60) == 10
    assert drill.to_json()["state"] == "not_seen"
