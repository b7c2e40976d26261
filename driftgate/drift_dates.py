"""Texts as moments: ISO 8601, and days, months and years in the order that a column has them.

Why: 03/04/2026 is in March or in April, and a comparison in the order of time that takes the wrong one is silently
wrong. Invariants: a column has one reading, settled by all its texts that were looked at, on both sides; one that fits
both readings equally well is ambiguous and never guessed; a day that no calendar has is no moment. Moments are seconds
since 1970, in UTC where a text has an offset, else as written. Called by `driftgate/drift_columns.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_arrow import seconds, truths
from registry.errors import MalformedRequest

if TYPE_CHECKING:
    import pyarrow as pa

Reading = Literal["year-first", "day-first", "month-first"]
READINGS: tuple[Reading, ...] = ("year-first", "day-first", "month-first")
Floats = NDArray[np.float64]

_TIME = (
    r"(?:(?:[T ]| +)(?P<H>\d{1,2})(?::?(?P<M>\d{2}))?(?::?(?P<S>\d{2})(?:[.,](?P<f>\d{1,9}))?)? *(?P<p>[AaPp][Mm])?"
    r" *(?P<z>Z|z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?)?"
)
_YEAR_FIRST = rf"^(?P<a>\d{{4}})(?:[-/.](?P<b>\d{{1,2}})[-/.](?P<c>\d{{1,2}})){_TIME}$"
_COMPACT = rf"^(?P<a>\d{{4}})(?P<b>\d{{2}})(?P<c>\d{{2}}){_TIME}$"
_YEAR_LAST = rf"^(?P<a>\d{{1,2}})[-/.](?P<b>\d{{1,2}})[-/.](?P<c>\d{{4}}|\d{{2}}),?{_TIME}$"
_PIVOT = 69  # of years of two digits, as in POSIX: 69 is 1969, 68 is 2068
_OFFSET = r"(?:[Zz]|UTC|GMT|\d[+-]\d{2}(?::?\d{2})?)$"
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

    def joined(self, other: Dates) -> Dates:
        """Of both sides' rows."""
        names = self.readable.keys() & other.readable.keys()
        both = {name: self.readable[name] + other.readable[name] for name in self.readable if name in names}
        return Dates(both, self.zoned + other.zoned, self.local + other.local)


def look_for_dates(texts: pa.StringArray, rows: NDArray[np.int64], form: str | None) -> Dates:
    """Of different texts and how many rows have each; `form` is what the owner says, the only one tried then."""
    import pyarrow.compute as pc

    found = {name: seconds_of(texts, name) for name in ([form] if form else READINGS)}
    readable = {name: int(rows[~np.isnan(values)].sum()) for name, values in found.items()}
    some = np.any([~np.isnan(values) for values in found.values()], axis=0)
    zoned = truths(pc.match_substring_regex(texts, _OFFSET))
    return Dates(readable, int(rows[some & zoned].sum()), int(rows[some & ~zoned].sum()))


def seconds_of(texts: pa.StringArray, form: str) -> Floats:
    """Different texts (d,) as seconds since 1970, NaN for what this reading or format does not understand."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if form not in READINGS:
        return _formatted(texts, form)
    if form == "year-first":
        for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
            try:
                return seconds(pc.cast(texts, kind))
            except pa.ArrowInvalid:
                continue
    found = np.full(len(texts), np.nan)
    for pattern in (_YEAR_FIRST, _COMPACT) if form == "year-first" else (_YEAR_LAST,):
        fields = pc.extract_regex(texts, pattern)
        matched = fields.is_valid()
        if fields.null_count < len(fields):
            found[truths(matched)] = _moments(fields.filter(matched), form)
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


def _moments(fields: pa.StructArray, form: str) -> Floats:
    first, second, third = (_whole(fields, name) for name in "abc")
    if form == "year-first":
        year, month, day = first, second, third
    else:
        day, month = (first, second) if form == "day-first" else (second, first)
        year = np.where(third < 100, np.where(third < _PIVOT, 2000, 1900) + third, third)
        four = np.char.str_len(_texts(fields, "c")) == 4
        year = np.where(four, third, year)
    hour, minute, second_ = (_whole(fields, name) for name in "HMS")
    half = np.char.upper(_texts(fields, "p"))
    hour = np.where(half == "AM", hour % 12, np.where(half == "PM", hour % 12 + 12, hour))
    fraction = np.array([float(f"0.{text}") if text else 0.0 for text in _texts(fields, "f")], np.float64)
    good = (month >= 1) & (month <= 12) & (day >= 1) & (hour <= 24) & (minute <= 59) & (second_ <= 60)
    safe = np.where(good, month, 1)
    months = ((year - 1970) * 12 + safe - 1).astype("datetime64[M]")
    begins = months.astype("datetime64[D]").astype(np.int64)
    good &= day <= (months + 1).astype("datetime64[D]").astype(np.int64) - begins
    moment = (begins + day - 1.0) * 86_400.0 + hour * 3600.0 + minute * 60.0 + second_ + fraction
    return np.where(good, moment - _offsets(_texts(fields, "z")), np.nan)


def _offsets(zones: NDArray[np.str_]) -> Floats:
    """Seconds ahead of UTC; 0 where a text has no offset."""
    found = np.zeros(len(zones))
    for zone in np.unique(zones):
        if zone[:1] in ("+", "-"):
            digits = zone[1:].replace(":", "")
            ahead = int(digits[:2]) * 3600.0 + int(digits[2:] or 0) * 60.0
            found[zones == zone] = ahead if zone[0] == "+" else -ahead
    return found


def _texts(fields: pa.StructArray, name: str) -> NDArray[np.str_]:
    return np.array([text or "" for text in fields.field(name).to_pylist()], np.str_)


def _whole(fields: pa.StructArray, name: str) -> NDArray[np.int64]:
    return np.array([int(text or 0) for text in fields.field(name).to_pylist()], np.int64)
