"""`--by-time`: however a column writes its times, the order is theirs, or the run is refused with the reason."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from driftgate import drift
from registry.errors import MalformedRequest

N = 4000
MOMENTS = [datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=37 * at) for at in range(N)]  # to the middle of April
OLD = {"x": np.random.default_rng(0).normal(size=N)}


def rows(times: list[Any], seed: int = 1) -> pd.DataFrame:
    """Shuffled rows whose x moves up half way in the order of time."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=len(times)) + np.where(np.arange(len(times)) >= len(times) // 2, 0.8, 0.0)
    return pd.DataFrame({"x": values, "when": times}).iloc[rng.permutation(len(times))]


def began(tmp_path: Path, times: list[Any], **options: Any) -> drift.Began:
    rows(times).to_csv(tmp_path / "now.csv", index=False)
    (moved,) = drift.compare(OLD, tmp_path / "now.csv", by_time="when", **options).alarms
    assert moved.began is not None
    return moved.began


@pytest.mark.parametrize(
    ("form", "first"),
    [
        ("%Y-%m-%d %H:%M:%S", "2026-0"),
        ("%Y-%m-%dT%H:%M:%SZ", "2026-0"),
        ("%d/%m/%Y %H:%M", "2026-0"),
        ("%m/%d/%Y %I:%M %p", "2026-0"),
        ("%d.%m.%Y %H:%M:%S", "2026-0"),
        ("%Y%m%d%H%M", "20,26"),  # a number: it rises as time does
    ],
)
def test_shuffled_rows_are_put_in_the_order_of_their_times(tmp_path: Path, form: str, first: str) -> None:
    found = began(tmp_path, [moment.strftime(form) for moment in MOMENTS])
    assert abs(found.row - N // 2) < 300
    assert found.time.replace(",", "").startswith(first.replace(",", ""))


@pytest.mark.parametrize("form", ["%Y%m%d%H%M", "year-first"])
def test_digits_are_a_date_where_their_owner_says_so(tmp_path: Path, form: str) -> None:
    found = began(
        tmp_path, [moment.strftime(form if "%" in form else "%Y%m%d") for moment in MOMENTS], date_format=form
    )
    assert found.time.startswith("2026-0")


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_epochs_of_any_unit_are_in_order(tmp_path: Path, unit: int) -> None:
    found = began(tmp_path, [int(moment.timestamp()) * unit for moment in MOMENTS])
    assert abs(found.row - N // 2) < 300


def test_mixed_offsets_are_one_scale(tmp_path: Path) -> None:
    zones = [0, 330, -480]
    texts = []
    for at, moment in enumerate(MOMENTS):
        ahead = zones[at % 3]
        sign, size = ("+" if ahead >= 0 else "-"), abs(ahead)
        local = moment + timedelta(minutes=ahead)
        texts.append(f"{local:%Y-%m-%dT%H:%M:%S}{sign}{size // 60:02}:{size % 60:02}")
    found = began(tmp_path, texts)
    assert abs(found.row - N // 2) < 300


def test_rows_of_the_same_moment_keep_the_file_s_order() -> None:
    frame = rows([MOMENTS[0]] * N).sort_index()
    (moved,) = drift.compare(OLD, frame, by_time="when").alarms
    assert moved.began is not None
    assert abs(moved.began.row - N // 2) < 300


DAYS = [f"{1 + at % 12:02}/{1 + at // 12 % 12:02}/2026" for at in range(N)]


def test_days_that_could_be_months_are_refused_by_name_and_taken_when_said(tmp_path: Path) -> None:
    later = np.array([int(day[3:5]) > 6 for day in DAYS])  # the second half of the year, if the day comes first
    frame = pd.DataFrame({"x": np.random.default_rng(1).normal(size=N) + np.where(later, 0.8, 0.0), "when": DAYS})
    frame.to_csv(tmp_path / "now.csv", index=False)
    with pytest.raises(MalformedRequest, match="--date-format day-first or month-first"):
        drift.compare(OLD, tmp_path / "now.csv", by_time="when")
    for form, is_right in (("day-first", True), ("%d/%m/%Y", True), ("month-first", False)):
        (moved,) = drift.compare(OLD, tmp_path / "now.csv", by_time="when", date_format=form).alarms
        assert (moved.began is not None and re.match("2026-0[67]", moved.began.time) is not None) == is_right
    with pytest.raises(MalformedRequest, match="a date format is"):
        drift.compare(OLD, tmp_path / "now.csv", by_time="when", date_format="dayfirst")


def test_a_later_day_of_either_file_settles_what_the_first_ones_leave_open(tmp_path: Path) -> None:
    late = [*[f"{1 + at % 12:02}/01/2026" for at in range(N - 1)], "31/01/2026"]
    frame = pd.DataFrame({"x": OLD["x"], "when": late})
    assert drift.compare(OLD, frame, by_time="when").alarms == ()
    reference = pd.DataFrame({"x": OLD["x"], "when": late})
    current = pd.DataFrame({"x": np.random.default_rng(5).normal(size=N), "when": sorted(DAYS, key=lambda t: t[3:])})
    assert drift.compare(reference, current, by_time="when").alarms == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda times: [None if at % 100 == 7 else t for at, t in enumerate(times)], "40 rows of .* have no time"),
        (lambda times: ["" if at == 9 else t for at, t in enumerate(times)], "1 row of .*the first is row 10"),
        (lambda times: ["soon" if at == 9 else t for at, t in enumerate(times)], "1 row of .*has no time"),
        (
            lambda times: [t + "Z" if at % 2 else t for at, t in enumerate(times)],
            "stands in 2,000 of 4,000 rows: .* alike",
        ),
        (lambda times: ["red", "blue"] * (N // 2), "tells no time .category."),
        (lambda times: [1_700_000_000 + at * (1000 if at % 2 else 1) for at in range(N)], None),
        (lambda times: [(1_700_000_000 + at) * (1000 if at % 2 else 1) for at in range(N)], "seconds and milliseconds"),
    ],
)
@pytest.mark.parametrize("side", ["reference", "current"])
def test_times_that_cannot_be_put_in_order_are_refused(
    tmp_path: Path, change: Any, reason: str | None, side: str
) -> None:
    good = [moment.strftime("%Y-%m-%dT%H:%M:%S") for moment in MOMENTS]
    sides = {}
    for name in ("reference", "current"):
        times = change(good) if name == side else good
        sides[name] = tmp_path / f"{name}.csv"
        pd.DataFrame({"x": np.random.default_rng(len(name)).normal(size=N), "when": times}).to_csv(
            sides[name], index=False
        )
    if reason is None:
        drift.compare(sides["reference"], sides["current"], by_time="when")
        return
    with pytest.raises(MalformedRequest, match=reason):
        drift.compare(sides["reference"], sides["current"], by_time="when")


def test_each_table_may_write_its_times_in_its_own_way() -> None:
    reference = pd.DataFrame({"x": OLD["x"], "when": [int(moment.timestamp()) for moment in MOMENTS]})
    current = rows([moment.strftime("%d.%m.%Y %H:%M") for moment in MOMENTS])
    (moved,) = drift.compare(reference, current, by_time="when").alarms
    assert moved.began is not None
    assert abs(moved.began.row - N // 2) < 300
