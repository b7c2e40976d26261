"""`--by-time` of reference rows: one reading for all rows, however they are written, or why there is none."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from driftgate import drift
from monitor import reference
from monitor.reference import ReferenceRows, read_reference
from monitor.reference_moments import Moments
from registry.errors import ArtifactRejected, MalformedRequest
from registry.vocabulary import TensorSpec

FREE = TensorSpec("x", "FP32", (None, None))


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


def read(path: Path, **options: Any) -> ReferenceRows:
    return read_reference(path, [FREE], ["a"], None, None, lambda *_: None, by_time="at", **options)


def table(path: Path, moments: list[Any]) -> Path:
    frame = pd.DataFrame({"a": np.arange(float(len(moments))), "at": moments})
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("moments", "form", "order", "first"),
    [
        (["2026-02-03", "2026-01-31"], None, [1, 0], at(2026, 1, 31)),
        (["2026-02-03T10:00", "2026-02-03"], None, [1, 0], at(2026, 2, 3)),
        (["2026-02-03T10:00+02:00", "2026-02-03T09:00Z"], None, [0, 1], at(2026, 2, 3, 8)),
        (["03/02/2026", "31/01/2026"], None, [1, 0], at(2026, 1, 31)),  # the second row settles the first
        (["03/02/2026", "01/31/2026"], None, [1, 0], at(2026, 1, 31)),
        (["03/02/2026", "02/04/2026"], "day-first", [0, 1], at(2026, 2, 3)),
        (["03/02/2026", "02/04/2026"], "month-first", [1, 0], at(2026, 2, 4)),
        (["20260203", "20260131"], None, [1, 0], None),  # numbers: an order, and no moments
        (["20260203", "20260131"], "year-first", [1, 0], at(2026, 1, 31)),
        (["3 Feb 26", "31 Jan 26"], "%d %b %y", [1, 0], at(2026, 1, 31)),
        (["1769904000.5", "1769904000"], None, [1, 0], 1769904000.0),
        (["1769904000500", "1769904000000"], None, [1, 0], 1769904000.0),
        (["1769904001", "1769904000"], "day-first", [1, 0], 1769904000.0),  # a format is for dates
        (["1965-02-03", "1965-01-31"], None, [1, 0], at(1965, 1, 31)),
    ],
)
def test_texts_are_moments_in_the_reading_that_all_rows_allow(
    tmp_path: Path, moments: list[str], form: str | None, order: list[int], first: float | None
) -> None:
    for name in ("t.csv", "t.parquet"):
        rows = read(table(tmp_path / name, moments), date_format=form)
        assert rows.feeds["x"][:, 0].tolist() == order
        assert rows.order.in_time is True
        assert first == (None if rows.order.times_s is None else rows.order.times_s[0])


@pytest.mark.parametrize(
    "moments",
    [
        [datetime(2026, 2, 3, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)],
        [date(2026, 2, 3), date(2026, 1, 31)],
        [int(at(2026, 2, 3)), int(at(2026, 1, 31))],
    ],
)
def test_moments_that_a_file_stores_as_such_need_no_reading(tmp_path: Path, moments: list[Any]) -> None:
    rows = read(table(tmp_path / "t.parquet", moments), date_format="month-first")
    assert rows.order.times_s is not None
    assert rows.order.times_s.tolist() == [at(2026, 1, 31), at(2026, 2, 3)]


@pytest.mark.parametrize(
    ("moments", "form", "reason"),
    [
        (["01/02/2026", "03/04/2026"], None, "say which with --date-format day-first or month-first"),
        (["31/01/2026", "01/31/2026", "30/01/2026"], None, "row 2: '01/31/2026' is no moment of time.*read day-first"),
        (["31/01/2026", "2026-01-31"], None, "row 1: '31/01/2026' is no moment of time .its dates are read year-f"),
        (["2026-01-31", "31/01/2026"], "day-first", "row 1: '2026-01-31' is no moment of time"),
        (["2026-01-31", "2026-02-29"], None, "row 2: '2026-02-29' is no moment of time"),
        (["soon", "later"], None, "row 1: 'soon' is no moment of time"),
        (["1", "soon", "3"], None, "row 2: 'soon' is no moment of time"),
        (["2026-01-31", None], None, "row 2 has no moment of time"),
        (["2026-01-31T00:00Z", "2026-01-31T00:00"], None, "an offset from UTC stands in 1 of 2 rows"),
        (["1769904000", "1769904000000"], None, "several units, such as seconds and milliseconds"),
        ([True, False], None, "row 1: 'True' is no moment of time"),
    ],
)
def test_what_has_no_certain_order_is_refused_with_the_row_or_the_reason(
    tmp_path: Path, moments: list[Any], form: str | None, reason: str
) -> None:
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(ArtifactRejected, match=f"reference {name}: column 'at'.*{reason}"):
            read(table(tmp_path / name, moments), date_format=form)


def test_a_day_that_a_large_table_s_sample_leaves_out_settles_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "MOST_ROWS", 1000)
    monkeypatch.setattr(reference, "_CHUNK_ROWS", 300)
    moments = [f"{1 + row % 12:02d}/02/2026" for row in range(5000)]
    with pytest.raises(ArtifactRejected, match="--date-format"):
        read(table(tmp_path / "t.csv", moments))
    kept = {int(value) for value in read(table(tmp_path / "t.csv", list(range(5000)))).feeds["x"][:, 0]}
    moments[min(set(range(5000)) - kept)] = "28/02/2026"
    rows = read(table(tmp_path / "t.csv", moments))
    assert rows.order.times_s is not None
    assert set(rows.order.times_s) == {at(2026, 2, day) for day in range(1, 13)}
    moments[max(set(range(5000)) - kept)] = "soon"
    with pytest.raises(ArtifactRejected, match=r"'soon' is no moment of time \(its dates are read day-first\)"):
        read(table(tmp_path / "t.csv", moments))


@pytest.mark.parametrize(
    "moments",
    [["01/02/2026", "03/04/2026"], ["31/01/2026", "03/02/2026"], ["2026-01-31", "soon"], ["2026-01-31", "2026-02-03"]],
)
def test_a_profile_and_a_comparison_refuse_and_read_the_same_dates(tmp_path: Path, moments: list[str]) -> None:
    path = table(tmp_path / "t.csv", moments * 50)
    try:
        read(path)
    except ArtifactRejected:
        with pytest.raises(MalformedRequest):
            drift.compare(path, path, by_time="at")
    else:
        drift.compare(path, path, by_time="at")


def test_chunks_that_leave_it_open_are_settled_by_a_later_one() -> None:
    moments = Moments("at")
    chunks = [["03/04/2026", "05/06/2026"], ["13/06/2026"], ["07/06/2026"]]
    kept = [np.concatenate(parts) for parts in zip(*(moments.read(pa.array(texts)) for texts in chunks), strict=True)]
    order, times_s = moments.settle(kept)
    assert order.tolist() == [at(2026, 4, 3), at(2026, 6, 5), at(2026, 6, 13), at(2026, 6, 7)]
    assert times_s is order
