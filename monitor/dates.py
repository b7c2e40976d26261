"""Texts as moments: ISO 8601, and days, months and years in the order that a column has them.

Why: 03/04/2026 is in March or in April, and a comparison in the order of time that takes the wrong one is silently
wrong. Invariants: a column has one reading, settled by all its texts that were looked at, on both sides; one that fits
both readings equally well is ambiguous and never guessed; a day that no calendar has is no moment. Moments are seconds
since 1970, in UTC where a text has an offset, else as written. Called by `driftgate/drift_columns.py` for columns of
two files, and by `monitor/reference_moments.py` for the moments of reference rows. Imports pyarrow when it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.arrow import floats, seconds, texts_of, truths
from registry.errors import MalformedRequest

if TYPE_CHECKING:
    import pyarrow as pa

Reading = Literal["year-first", "day-first", "month-first"]
READINGS: tuple[Reading, ...] = ("year-first", "day-first", "month-first")
AMBIGUOUS = (
    "its dates can be read with the day or with the month first: say which with --date-format day-first or month-first"
)
Floats = NDArray[np.float64]
Wholes = NDArray[np.int64]

_TIME = (
    r"(?:(?:[T ]| +)(?P<H>\d{1,2})(?::?(?P<M>\d{2}))?(?::?(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)? *(?P<p>[AaPp][Mm])?"
    r" *(?P<z>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?"
)
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[T ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?)?$"  # what Arrow reads, much faster
_ZONE = r"(?:Z|[+-]\d{2}:?\d{2})"
_YEAR_FIRST = rf"^(?P<a>\d{{4}})(?:[-/.](?P<b>\d{{1,2}})[-/.](?P<c>\d{{1,2}})){_TIME}$"
_COMPACT = rf"^(?P<a>\d{{4}})(?P<b>\d{{2}})(?P<c>\d{{2}}){_TIME}$"
_YEAR_LAST = rf"^(?P<a>\d{{1,2}})[-/.](?P<b>\d{{1,2}})[-/.](?P<c>\d{{4}}|\d{{2}}),?{_TIME}$"
_PIVOT = 69  # of years of two digits, as in POSIX: 69 is 1969, 68 is 2068
_OFFSET = r"[T ] *\d{1,2}[:.,\d]* *(?:[AaPp][Mm])? *(?:[Zz]|UTC|GMT|[+-]\d{2}(?::?\d{2})?)$"
_FORMATS = "year-first, day-first, month-first, or a format such as %d/%m/%Y"


def check_format(form: str) -> str:
    """A reading, or a format of `strptime` that has at least a year. Raises MalformedRequest for another text."""
    if form in READINGS:
        return form
    try:
        _parsed(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC).strftime(form), form)
    except (ValueError, TypeError):
        form = ""
    if not any(code in form for code in ("%Y", "%y", "%s", "%c", "%x", "%D", "%F")):
        raise MalformedRequest(f"a date format is {_FORMATS}")
    return form


@dataclass(frozen=True, slots=True)
class Dates:
    """What a column's texts would be as dates: rows that each reading understands; rows with and without an offset."""

    readable: dict[str, int]
    zoned: int
    local: int

    def best(self) -> list[str]:
        """The readings that understand most rows: more than one where nothing tells them apart."""
        most = max(self.readable.values(), default=0)
        return [name for name, rows in self.readable.items() if rows == most > 0]

    def unlike(self) -> str:
        """What is wrong with rows of which some have an offset and others have none; "" if nothing is."""
        if not (self.zoned and self.local):
            return ""
        return (
            f"an offset from UTC stands in {self.zoned:,} of {self.zoned + self.local:,} rows: write all of them alike"
        )

    def joined(self, other: Dates) -> Dates:
        """Of both sides' rows."""
        names = self.readable.keys() & other.readable.keys()
        both = {name: self.readable[name] + other.readable[name] for name in self.readable if name in names}
        return Dates(both, self.zoned + other.zoned, self.local + other.local)


def look_for_dates(texts: pa.StringArray, rows: NDArray[np.int64], form: str | None) -> Dates:
    """Of different texts and how many rows have each; `form` is what the owner says, the only one tried then."""
    return dates_of(read_dates(texts, form), texts, rows)


def dates_of(found: Mapping[str, Floats], texts: pa.StringArray, rows: NDArray[np.int64]) -> Dates:
    """The same, of what `read_dates` found."""
    import pyarrow.compute as pc

    readable = {name: int(rows[~np.isnan(values)].sum()) for name, values in found.items()}
    some = np.any([~np.isnan(values) for values in found.values()], axis=0)
    if found.keys() <= set(READINGS):
        zoned = truths(pc.match_substring_regex(texts, _OFFSET))
    else:
        zoned = np.full(len(texts), all("%z" in form for form in found))
    return Dates(readable, int(rows[some & zoned].sum()), int(rows[some & ~zoned].sum()))


def seconds_of(texts: pa.StringArray, form: str) -> Floats:
    """Different texts (d,) as seconds since 1970, NaN for what this reading or format does not understand."""
    return read_dates(texts, form)[form]


def read_dates(texts: pa.StringArray, form: str | None) -> dict[str, Floats]:
    """Different texts (d,) in each reading, or in the one that `form` says: seconds since 1970, NaN where it fails."""
    if form is not None and form not in READINGS:
        return {form: _formatted(texts, form)}
    found: dict[str, Floats] = {}
    if form in (None, "year-first"):
        found["year-first"] = _year_first(texts)
        if form is None and not np.isnan(found["year-first"]).any():  # no text has its year first and last
            return found | {name: np.full(len(texts), np.nan) for name in READINGS[1:]}
    if form != "year-first":
        found |= _year_last(texts, [name for name in READINGS[1:] if form in (None, name)])
    return found


def _formatted(texts: pa.StringArray, form: str) -> Floats:
    """By Python's own strptime: Arrow's takes 31 February for 3 March."""
    found = np.full(len(texts), np.nan)
    for at, text in enumerate(texts.to_pylist()):
        try:
            found[at] = _parsed(text, form).timestamp()
        except (ValueError, TypeError, OverflowError):
            continue
    return found


def _parsed(text: str, form: str) -> datetime:
    moment = datetime.strptime(text, form)  # noqa: DTZ007 -- without an offset it is taken as written
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _year_first(texts: pa.StringArray) -> Floats:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.full(len(texts), np.nan)
    left = np.ones(len(texts), np.bool_)
    for pattern, kind in ((_ISO, pa.timestamp("us")), (rf"{_ISO[:-1]}{_ZONE}$", pa.timestamp("us", "UTC"))):
        is_iso = pc.match_substring_regex(texts, pattern)
        with suppress(pa.ArrowInvalid):  # a day that no calendar has: that text is found below
            found[truths(is_iso)] = seconds(pc.cast(texts.filter(is_iso), kind))
            left &= ~truths(is_iso)
    for pattern in (_YEAR_FIRST, _COMPACT) if left.any() else ():
        is_match, fields = _fields(texts, pattern)
        if is_match.any():
            found[is_match] = _midnight(*(_whole(fields, name) for name in "abc")) + _of_the_day(fields)
    return found


def _year_last(texts: pa.StringArray, names: Sequence[str]) -> dict[str, Floats]:
    found = {name: np.full(len(texts), np.nan) for name in names}
    is_match, fields = _fields(texts, _YEAR_LAST)
    if is_match.any():
        first, second, year = (_whole(fields, name) for name in "abc")
        of_the_day = _of_the_day(fields)
        has_two_digits = np.char.str_len(_few(fields, "c")) == 2
        year += np.where(has_two_digits, np.where(year < _PIVOT, 2000, 1900), 0)
        for name in names:
            day, month = (first, second) if name == "day-first" else (second, first)
            found[name][is_match] = _midnight(year, month, day) + of_the_day
    return found


def _midnight(year: Wholes, month: Wholes, day: Wholes) -> Floats:
    """Seconds since 1970, NaN for a day that no calendar has."""
    good = (month >= 1) & (month <= 12) & (day >= 1)
    months = ((year - 1970) * 12 + np.where(good, month, 1) - 1).astype("datetime64[M]")
    begins = months.astype("datetime64[D]").astype(np.int64)
    good &= day <= (months + 1).astype("datetime64[D]").astype(np.int64) - begins
    return np.where(good, (begins + day - 1.0) * 86_400.0, np.nan)


def _of_the_day(fields: pa.StructArray) -> Floats:
    """Seconds since midnight, less what the zone is ahead of UTC; NaN for a time that no clock shows."""
    hour, minute, second = (_whole(fields, name) for name in "HMS")
    half = _few(fields, "p")
    hour = np.where(half == "AM", hour % 12, np.where(half == "PM", hour % 12 + 12, hour))
    fraction = _number(fields, "f", "0.").astype(np.float64)
    good = (hour <= 24) & (minute <= 59) & (second <= 60)
    moment = hour * 3600.0 + minute * 60.0 + second + fraction
    return np.where(good, moment - _offsets(_few(fields, "z")), np.nan)


def _offsets(zones: NDArray[np.str_]) -> Floats:
    """Seconds ahead of UTC; 0 where a text has no offset."""
    found = np.zeros(len(zones))
    for zone in np.unique(zones):
        if zone[:1] in ("+", "-"):
            digits = zone[1:].replace(":", "")
            ahead = int(digits[:2]) * 3600.0 + int(digits[2:] or 0) * 60.0
            found[zones == zone] = ahead if zone[0] == "+" else -ahead
    return found


def _fields(texts: pa.StringArray, pattern: str) -> tuple[NDArray[np.bool_], pa.StructArray]:
    """Which texts match (d,), and the pattern's groups of those that do."""
    import pyarrow.compute as pc

    is_match = pc.match_substring_regex(texts, pattern)  # several times as fast
    return truths(is_match), pc.extract_regex(texts.filter(is_match), pattern)


def _whole(fields: pa.StructArray, name: str) -> Wholes:
    return _number(fields, name, "0").astype(np.int64)


def _number(fields: pa.StructArray, name: str, before: str) -> Floats:
    """A group of digits with something written before them, which is all there is where the text lacks the group."""
    import pyarrow as pa
    import pyarrow.compute as pc

    digits = pc.binary_join_element_wise(before, fields.field(name), "", null_handling="replace")
    return floats(pc.cast(digits, pa.float64()))


def _few(fields: pa.StructArray, name: str) -> NDArray[np.str_]:
    """A group of which few texts differ, in capitals."""
    group = texts_of(fields.field(name))
    return np.array([*((text or "").upper() for text in group.distinct.to_pylist()), ""], np.str_)[group.places]
