"""What a column is, and its values as numbers that can be counted.

Why: two files of the same table rarely agree on types (a number column with `?` in it is text, a flag is `true` here
and 1 there), and a comparison that crashes or takes the wrong one is worthless. Invariants: a type, a decimal mark and
the reading of dates are a function of all the rows that were looked at, never of the first ones, and hold for both
sides; a value that its column's type cannot hold is counted as unreadable and as missing, never dropped. Called by
`driftgate/drift_compare.py`. Imports pyarrow when a column is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_numbers import MISSING_CODES, TRUTHS, Mark, codes_as_numbers, numbers_of, sign_of
from monitor.arrow import Texts, canonical, floats, plain, seconds, storage_of, strings, taken, texts_of, truths
from monitor.dates import AMBIGUOUS, Dates, look_for_dates, seconds_of
from monitor.feature_types import is_free_text
from monitor.record import category_code
from registry.errors import MalformedRequest

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["number", "integer", "boolean", "category", "date", "text"]
TYPES: tuple[str, ...] = get_args(ColumnType)

_STRAY = 0.01  # of the values may be unreadable in a column of numbers or dates
_WORDS, _LEAST_NUMBERS, _LEAST_SHARE = 5, 30, 0.5  # a few words among many numbers stand for missing ones, too
_ALL_DIFFERENT = 0.9  # of texts: these name rows, and are no codes that come again
_LABELS = 20_000  # remembered for one column: callers' data choose them, so the memory is bounded
_LABEL = 60  # characters of a category that are remembered
_PROBED = 200  # different texts that tell at once what most columns are not
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Values:
    """One column of a batch: numbers or category codes (n,), NaN where missing; how many could not be read."""

    values: Floats
    unreadable: int


@dataclass(slots=True)
class Column:
    """A column with its type. Mutable in one thing: it remembers the texts behind its category codes.

    mark, sign, dates: how its texts write numbers and dates. words: the reference's texts among numbers, and shares.
    """

    name: str
    type: ColumnType
    missing_codes: frozenset[str]
    mark: Mark = "."
    sign: str = ""
    dates: str = "year-first"
    words: tuple[tuple[str, float], ...] = ()
    labels: dict[float, str] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["number", "category"]:
        return "category" if self.type in ("boolean", "category") else "number"

    def convert(self, array: pa.Array) -> Values:
        """A batch of this column, from whatever Arrow type its file has."""
        array = plain(array)
        present = len(array) - array.null_count
        storage = storage_of(array.type)
        if storage == "text":
            return self._of_text(array)
        if self.type == "category":
            return self._codes(texts_of(canonical(array)))
        if self.type == "text":
            return self._of_text(canonical(array))
        if (self.type == "date") != (storage == "date") or storage in ("other", "null"):
            return Values(np.full(len(array), np.nan), present if storage != "null" else 0)
        values = seconds(array) if storage == "date" else floats(array)
        if self.type != "date":
            values = self._without_codes(values)
        if self.type == "boolean":
            return _checked(values, (values == 0.0) | (values == 1.0))
        return Values(values, 0)

    def name_of(self, value: float) -> str:
        """A value or category code in words."""
        from monitor.explain import shown

        if self.type == "date":
            return shown_date(value)
        if self.type == "boolean":
            return "true" if value else "false"
        if self.type == "category":
            return self.labels.get(value, "a rare category")
        return shown(value)

    def _of_text(self, array: pa.Array) -> Values:
        import pyarrow as pa
        import pyarrow.compute as pc

        if (
            self.type in ("number", "integer")
            and self.mark == "."
            and not self.sign
            and not pa.types.is_dictionary(array.type)
        ):
            try:  # numbers that are numbers everywhere need not be told apart
                return Values(self._without_codes(floats(pc.cast(array, pa.float64()))), 0)
            except pa.ArrowInvalid:
                pass
        texts = texts_of(array)
        if self.type == "category":
            return self._codes(texts)
        is_missing = _are_missing(texts.distinct, self.missing_codes)
        if self.type == "text":
            values = floats(pc.utf8_length(texts.distinct))
        elif self.type == "date":
            values = seconds_of(texts.distinct, self.dates)
        else:
            values = numbers_of(texts.distinct, self.mark, self.sign)
            if self.type == "boolean":
                values = np.where((values == 0.0) | (values == 1.0), values, np.nan)
        values[is_missing] = np.nan
        unreadable = int(texts.rows()[np.isnan(values) & ~is_missing].sum())
        if self.type in ("number", "integer"):
            values = self._without_codes(values)
        return Values(texts.spread(values), unreadable)

    def _codes(self, texts: Texts) -> Values:
        codes = np.full(len(texts.distinct), np.nan)
        for at, label in enumerate(texts.distinct.to_pylist()):
            if label is None or label in self.missing_codes:
                continue
            codes[at] = code = category_code(label)
            if len(self.labels) < _LABELS:
                self.labels.setdefault(code, label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…")
        return Values(texts.spread(codes), 0)

    def _without_codes(self, values: Floats) -> Floats:
        codes = codes_as_numbers(self.missing_codes)
        return np.where(np.isin(values, codes), np.nan, values) if len(codes) else values


@dataclass(frozen=True, slots=True)
class Seen:
    """What one side's rows say a column is: a type, or why it is none; None for a column without any value.

    mark, sign: how its texts write numbers. dates: what its texts are as dates. words: texts among its numbers, with
    their share of the rows that have a value.
    """

    type: ColumnType | None
    why_not: str = ""
    mark: Mark = "."
    sign: str = ""
    dates: Dates | None = None
    words: tuple[tuple[str, float], ...] = ()


def look(
    array: pa.Array, missing_codes: frozenset[str], date_format: str | None = None, *, is_clock: bool = False
) -> Seen:
    """The type of a column, from all rows given; how it writes dates, where its owner says so.

    is_clock: it tells the rows' time, so texts are dates if that format reads them, though they are numbers, too.
    """
    array = plain(array)
    storage = storage_of(array.type)
    if storage == "other":
        return Seen(None, f"values of type {array.type} are not compared")
    if array.null_count == len(array):
        return Seen(None)
    if storage != "text":
        return Seen(cast(ColumnType, storage))
    every = texts_of(array)
    rows = every.rows()
    kept = np.flatnonzero((rows > 0) & ~_are_missing(every.distinct, missing_codes))
    texts, rows = taken(every.distinct, kept), rows[kept]
    present = int(rows.sum())
    if present == 0:
        return Seen(None)
    words = {word.lower() for word in texts.to_pylist()} if len(texts) <= 4 else set()
    if words and words <= TRUTHS.keys():
        return Seen("boolean")
    numbers = _look_for_numbers(texts, rows)
    if numbers is not None and not (is_clock and date_format and _could_be_dates(texts, date_format)):
        return numbers
    if _could_be_dates(texts, date_format):
        dates = look_for_dates(texts, rows, date_format)
        if max(dates.readable.values()) >= (1.0 - _STRAY) * present:
            return Seen("date", dates=dates)
    return Seen("text" if is_free_text(len(texts), present) and not _are_codes(texts, present) else "category")


def _are_codes(texts: pa.StringArray, present: int) -> bool:
    """Whether their length says nothing, as all have the same, and they come again in other rows."""
    import pyarrow.compute as pc

    lengths = pc.min_max(pc.utf8_length(texts)).as_py()
    return lengths["min"] == lengths["max"] and len(texts) <= _ALL_DIFFERENT * present


def _look_for_numbers(texts: pa.StringArray, rows: NDArray[np.int64]) -> Seen | None:
    """As numbers, if that is what they are; a few words among many different numbers stand for missing ones."""
    present = int(rows.sum())
    probed = texts.slice(0, _PROBED)
    sign = sign_of(probed)
    for mark in cast(tuple[Mark, ...], (".", ",")):
        few = numbers_of(probed, mark, sign)
        if (~np.isnan(few)).sum() < 0.5 * len(few):
            continue
        values = numbers_of(texts, mark, sign)
        is_number = ~np.isnan(values)
        share = float(rows[is_number].sum()) / present
        others = int((~is_number).sum())
        if share >= 1.0 - _STRAY or (
            share >= _LEAST_SHARE and others <= _WORDS and int(is_number.sum()) >= _LEAST_NUMBERS
        ):
            finite = values[np.isfinite(values)]
            words = tuple(
                (str(texts[int(at)])[:_LABEL], float(rows[at]) / present) for at in np.flatnonzero(~is_number)[:_WORDS]
            )
            whole = bool((finite == np.floor(finite)).all())
            return Seen("integer" if whole else "number", mark=mark, sign=sign, words=words)
    return None


def _could_be_dates(texts: pa.StringArray, date_format: str | None) -> bool:
    few = texts.slice(0, _PROBED)
    found = look_for_dates(few, np.ones(len(few), np.int64), date_format)
    return max(found.readable.values()) >= 0.5 * len(few)


def settle(name: str, reference: Seen, current: Seen, override: str | None, codes: frozenset[str]) -> Column | str:
    """The column that both sides are read as, or why it is not compared."""
    written = reference if reference.type in ("number", "integer") else current
    column = Column(name, "number", codes, written.mark, written.sign, words=reference.words)
    if override is not None:
        if override not in TYPES:
            raise MalformedRequest(f"column {name!r}: {override!r} is no type; types are {', '.join(TYPES)}")
        return _dated(replace(column, type=cast(ColumnType, override)), reference, current)
    if reference.why_not or current.why_not:
        return reference.why_not or current.why_not
    kinds = (reference.type, current.type)
    found = reference.type or current.type
    if found is None:
        found = "number"  # no value on either side: the missing share is all there is to compare
    if set(kinds) <= {"number", "integer", "boolean", None} and len(set(kinds) - {None}) > 1:
        found = "number" if "number" in kinds else "integer"
    elif kinds in (("category", "text"), ("text", "category")):
        found = "category" if reference.type == "category" else "text"
    return _dated(replace(column, type=found), reference, current)


def _dated(column: Column, reference: Seen, current: Seen) -> Column | str:
    """A column of dates with the one reading that both sides' texts allow."""
    told = [seen.dates for seen in (reference, current) if seen.dates is not None]
    if column.type != "date" or not told:
        return column
    best = (told[0] if len(told) == 1 else told[0].joined(told[1])).best()
    if len(best) > 1:
        return AMBIGUOUS
    return replace(column, dates=best[0]) if best else "its dates are written in two ways"


def _are_missing(texts: pa.StringArray, codes: frozenset[str]) -> NDArray[np.bool_]:
    """(d,): which of these texts stand for a missing value, nulls too."""
    import pyarrow.compute as pc

    coded = pc.is_in(texts, value_set=strings(sorted(codes)))
    return truths(coded) | truths(texts.is_null())


def _checked(values: Floats, good: NDArray[np.bool_]) -> Values:
    return Values(np.where(good, values, np.nan), int((~good & ~np.isnan(values)).sum()))


def shown_date(seconds: float) -> str:
    """Seconds since 1970 as a date, with the time where there is one.

    >>> shown_date(0.0), shown_date(90061.0)
    ('1970-01-01', '1970-01-02 01:01:01')
    """
    try:
        moment = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return "a date out of range"
    return moment.strftime("%Y-%m-%d" if moment.time() == datetime.min.time() else "%Y-%m-%d %H:%M:%S")


def missing_codes(more: Sequence[str]) -> frozenset[str]:
    """The texts that stand for a missing value, and those that the caller names (numbers too, such as -999)."""
    return frozenset({*MISSING_CODES, *more})
