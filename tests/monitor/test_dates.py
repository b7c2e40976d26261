"""Texts as moments: every common way to write one, against Python's own datetime; what has two meanings is told."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from monitor.dates import check_format, look_for_dates, seconds_of
from registry.errors import MalformedRequest


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "reading", "moment"),
    [
        ("2025-12-31", "year-first", at(2025, 12, 31)),
        ("2025-1-2", "year-first", at(2025, 1, 2)),
        ("2025/12/31 23:59", "year-first", at(2025, 12, 31, 23, 59)),
        ("20251231", "year-first", at(2025, 12, 31)),
        ("20251231T101112Z", "year-first", at(2025, 12, 31, 10, 11, 12)),
        ("2025-12-31T10:11:12.123456789", "year-first", at(2025, 12, 31, 10, 11, 12) + 0.123456789),
        ("2025-12-31T10:00:00+05:30", "year-first", at(2025, 12, 31, 4, 30)),
        ("2025-12-31 10:00 -0800", "year-first", at(2025, 12, 31, 18)),
        ("2025-12-31 10:00 UTC", "year-first", at(2025, 12, 31, 10)),
        ("31/12/2025", "day-first", at(2025, 12, 31)),
        ("31.12.2025 10:11:12", "day-first", at(2025, 12, 31, 10, 11, 12)),
        ("12/31/2025 11:59:00 PM", "month-first", at(2025, 12, 31, 23, 59)),
        ("12/31/2025, 12:10 am", "month-first", at(2025, 12, 31, 0, 10)),
        ("3-4-68", "day-first", at(2068, 4, 3)),
        ("3-4-69", "day-first", at(1969, 4, 3)),
        ("29/02/2024", "day-first", at(2024, 2, 29)),
        ("29/02/2025", "day-first", None),  # no such day
        ("31/04/2025", "day-first", None),
        ("12/31/2025", "day-first", None),
        ("2025-02-30", "year-first", None),
        ("2025-13-01", "year-first", None),
        ("2025-12-31 25:00", "year-first", None),
        ("yesterday", "day-first", None),
        ("31 Dec 2025", "%d %b %Y", at(2025, 12, 31)),
        ("31/02/2025", "%d/%m/%Y", None),
        ("2025-12-31 10:00+0100", "%Y-%m-%d %H:%M%z", at(2025, 12, 31, 9)),
    ],
)
def test_a_text_is_the_moment_that_its_reading_says(text: str, reading: str, moment: float | None) -> None:
    # A second text keeps the fast way out: it is no moment in any reading.
    for texts in ([text], [text, "nothing"]):
        found = seconds_of(pa.array(texts, pa.string()), reading)
        if moment is None:
            assert np.isnan(found[0])
        else:
            assert found[0] == pytest.approx(moment, abs=1e-6)


def test_offsets_of_several_zones_are_put_on_one_scale() -> None:
    texts = ["2025-06-01T12:00:00+02:00", "2025-06-01T10:00:00Z", "2025-06-01T05:00:00-05:00"]
    assert set(seconds_of(pa.array(texts), "year-first")) == {at(2025, 6, 1, 10)}


@pytest.mark.parametrize(
    ("texts", "form", "zoned"),
    [
        (["2025-12-31", "2025-12-31 10:00"], None, 0),  # the last two digits of a day are no offset
        (["31-12-2025", "31-12-2025 10:00"], None, 0),
        (["2025-12-31T10", "2025-12-31T10:00:00.5"], None, 0),
        (
            ["2025-12-31T10:00Z", "2025-12-31 10:00 -0800", "2025-12-31 10:00:00,25+01", "31/12/25 10:00 PM UTC"],
            None,
            4,
        ),
        (["10:00 31.12.25", "11:00 31.12.25"], "%H:%M %d.%m.%y", 0),
        (["31.12.25+0100", "31.12.25+0200"], "%d.%m.%y%z", 2),
    ],
)
def test_an_offset_is_what_follows_a_time(texts: list[str], form: str | None, zoned: int) -> None:
    found = look_for_dates(pa.array(texts), np.ones(len(texts), np.int64), form)
    assert (found.zoned, found.local) == (zoned, len(texts) - zoned)
    assert bool(found.unlike()) is False


def test_readings_are_counted_in_rows_and_equal_ones_are_all_named() -> None:
    rows = np.array([5, 1])
    both = look_for_dates(pa.array(["03/04/2025", "05/06/2025"]), rows, None)
    assert both.best() == ["day-first", "month-first"]
    one = look_for_dates(pa.array(["03/04/2025", "13/06/2025"]), rows, None)
    assert (one.best(), one.readable["day-first"], one.readable["month-first"]) == (["day-first"], 6, 5)
    assert both.joined(one).best() == ["day-first"]
    assert look_for_dates(pa.array(["03/04/2025", "x"]), rows, "month-first").readable == {"month-first": 5}


@pytest.mark.parametrize("form", ["day-first", "%d/%m/%Y", "%Y%j", "%c"])
def test_a_reading_and_a_format_are_taken(form: str) -> None:
    assert check_format(form) == form


@pytest.mark.parametrize("form", ["", "dayfirst", "%d/%m", "%H:%M", "%Q"])
def test_a_format_without_a_year_or_sense_is_refused(form: str) -> None:
    with pytest.raises(MalformedRequest, match="day-first"):
        check_format(form)
