"""What a column is, and its values as numbers that can be counted.

Why: two files of the same table rarely agree on types (a number column with `?` in it is text, a flag is `true` here
and 1 there), and a comparison that crashes or takes the wrong one is worthless. Invariants: a type is a function of all
the reference rows that were looked at, never of the first ones; a value that its column's type cannot hold is counted
as unreadable and as missing, never dropped; both sides are converted by the same rules. Called by
`driftgate/drift_compare.py`. Imports pyarrow when a column is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.feature_types import is_free_text
from monitor.record import category_code
from registry.errors import MalformedRequest

if TYPE_CHECKING:
    import pyarrow as pa

ColumnType = Literal["number", "integer", "boolean", "category", "date", "text"]
TYPES: tuple[str, ...] = get_args(ColumnType)

MISSING_CODES = (
    "", "?", "-", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NaT", "null", "NULL", "None", "none", "<NA>",
)  # fmt: skip
_TRUTHS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}
_DATE_FORMATS = ("%m/%d/%Y", "%d/%m/%Y", "%d.%m.%Y", "%Y/%m/%d", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%Y%m%d")
_STRAY = 0.01  # of the values may be unreadable in a column of numbers or dates
_LABELS = 20_000  # remembered for one column: callers' data choose them, so the memory is bounded
_LABEL = 60  # characters of a category that are remembered
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Values:
    """One column of a batch: numbers or category codes (n,), NaN where missing; how many could not be read."""

    values: Floats
    unreadable: int


@dataclass(slots=True)
class Column:
    """A column with its type. Mutable in one thing: it remembers the texts behind its category codes."""

    name: str
    type: ColumnType
    missing_codes: frozenset[str]
    labels: dict[float, str] = field(default_factory=dict)

    @property
    def kind(self) -> Literal["number", "category"]:
        return "category" if self.type in ("boolean", "category") else "number"

    def convert(self, array: pa.Array) -> Values:
        """A batch of this column, from whatever Arrow type its file has."""
        array = _plain(array)
        present = len(array) - array.null_count
        storage = storage_of(array.type)
        if storage == "text":
            return self._of_text(array)
        if self.type == "category":
            return self._codes(_canonical(array))
        if self.type == "text":
            return self._of_text(_canonical(array))
        if (self.type == "date") != (storage == "date") or storage in ("other", "null"):
            return Values(np.full(len(array), np.nan), present if storage != "null" else 0)
        values = _seconds(array) if storage == "date" else _floats(array)
        if self.missing_codes and self.type != "date":
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
        import pyarrow.compute as pc

        if self.type == "category":
            return self._codes(array)
        present = len(array) - _without(array, self.missing_codes).null_count
        if self.type == "text":
            lengths = pc.utf8_length(_without(array, self.missing_codes))
            return Values(_floats(lengths), 0)
        if self.type == "date":
            values = dates_of(array, self.missing_codes)
        else:
            values = numbers_of(array, self.missing_codes)
            if self.type == "boolean":
                values = np.where((values == 0.0) | (values == 1.0), values, np.nan)
        return Values(values, max(present - int((~np.isnan(values)).sum()), 0))

    def _codes(self, array: pa.Array) -> Values:
        encoded = array.dictionary_encode()
        codes = np.full(len(encoded.dictionary) + 1, np.nan)  # the last one for nulls
        for at, text in enumerate(encoded.dictionary.to_pylist()):
            label = text.strip()
            if label in self.missing_codes:
                continue
            codes[at] = code = category_code(label)
            if len(self.labels) < _LABELS:
                self.labels.setdefault(code, label if len(label) <= _LABEL else f"{label[: _LABEL - 1]}…")
        places = encoded.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False)
        return Values(codes[places], 0)

    def _without_codes(self, values: Floats) -> Floats:
        codes = [number for number in map(_number, self.missing_codes) if number == number]
        return np.where(np.isin(values, codes), np.nan, values) if codes else values


@dataclass(frozen=True, slots=True)
class Seen:
    """What one side's rows say a column is: a type, or why it is none; None for a column without any value."""

    type: ColumnType | None
    why_not: str = ""


def look(array: pa.Array, missing_codes: frozenset[str]) -> Seen:
    """The type of a column, from all rows given."""
    import pyarrow.compute as pc

    array = _plain(array)
    storage = storage_of(array.type)
    if storage == "other":
        return Seen(None, f"values of type {array.type} are not compared")
    if array.null_count == len(array):
        return Seen(None)
    if storage != "text":
        return Seen(cast(ColumnType, storage))
    kept = _without(array, missing_codes)
    present = len(kept) - kept.null_count
    if present == 0:
        return Seen(None)
    distinct = pc.unique(kept.drop_null())
    words = {word.strip().lower() for word in distinct.to_pylist()} if len(distinct) <= 4 else set()
    if words and words <= _TRUTHS.keys():
        return Seen("boolean")
    few = distinct.slice(0, 200)
    if _readable(numbers_of(few, missing_codes)):
        numbers = numbers_of(kept, missing_codes)
        if _readable(numbers, present):
            return Seen("integer" if _whole(numbers) else "number")
    if _readable(dates_of(few, missing_codes)) and _readable(dates_of(kept, missing_codes), present):
        return Seen("date")
    return Seen("text" if is_free_text(len(distinct), present) else "category")


def settle(name: str, reference: Seen, current: Seen, override: str | None, codes: frozenset[str]) -> Column | str:
    """The column that both sides are read as, or why it is not compared."""
    if override is not None:
        if override not in TYPES:
            raise MalformedRequest(f"column {name!r}: {override!r} is no type; types are {', '.join(TYPES)}")
        return Column(name, cast(ColumnType, override), codes)
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
    return Column(name, found, codes)


def storage_of(kind: pa.DataType) -> str:
    """What a file stores in a column: number, integer, boolean, date, text, null or other."""
    import pyarrow as pa

    types = pa.types
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind) or types.is_decimal(kind) or types.is_duration(kind) or types.is_time(kind):
        return "number"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "date"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "text"
    return "null" if types.is_null(kind) else "other"


# -- text ----------------------------------------------------------------------------------------------------------


def numbers_of(array: pa.Array, missing_codes: frozenset[str]) -> Floats:
    """Text as numbers (n,), NaN for what is missing or no number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = _without(array, missing_codes)
    for trimmed in (False, True):
        if trimmed:
            kept = _without(pc.utf8_trim_whitespace(kept), missing_codes)
        try:
            return _floats(pc.cast(kept, pa.float64()))
        except pa.ArrowInvalid:
            continue
    return _each_different(kept, lambda texts: [_number(text.strip()) for text in texts])


def dates_of(array: pa.Array, missing_codes: frozenset[str]) -> Floats:
    """Text as seconds since 1970 (n,), NaN for what is missing or no date. ISO 8601, or one common format for all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kept = _without(array, missing_codes)
    try:
        return _seconds(pc.cast(kept, pa.timestamp("us")))
    except pa.ArrowInvalid:
        pass
    distinct = pc.unique(kept.drop_null())
    best, most = np.full(len(array), np.nan), 0
    for form in _DATE_FORMATS:
        head = _seconds(pc.strptime(distinct.slice(0, 50), format=form, unit="us", error_is_null=True))
        if np.isnan(head).mean() > 0.5:
            continue
        values = _seconds(pc.strptime(kept, format=form, unit="us", error_is_null=True))
        readable = int((~np.isnan(values)).sum())
        if readable > most:
            best, most = values, readable
        if most == len(kept) - kept.null_count:
            break
    return best


def _each_different(array: pa.Array, convert: Any) -> Floats:
    encoded = array.dictionary_encode()
    codes = np.array([*convert(encoded.dictionary.to_pylist()), np.nan], np.float64)
    places = encoded.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False)
    return cast(Floats, codes[places])


def _number(text: str) -> float:
    """A text as a number, NaN if it is none: also truth words, and digits in groups.

    >>> _number("1,234.5"), _number("Yes"), _number("1_0")
    (1234.5, 1.0, nan)
    """
    try:
        return float(text) if "_" not in text else np.nan
    except ValueError:
        pass
    truth = _TRUTHS.get(text.lower())
    if truth is not None:
        return truth
    groups = text.lstrip("+-").split(".")[0].split(",")
    if len(groups) > 1 and 0 < len(groups[0]) <= 3 and all(len(group) == 3 for group in groups[1:]):
        try:
            return float(text.replace(",", ""))
        except ValueError:
            pass
    return np.nan


def _without(array: pa.Array, codes: frozenset[str]) -> pa.Array:
    """The same with missing codes as nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not codes:
        return array
    coded = pc.is_in(array, value_set=pa.array(sorted(codes), array.type))
    return pc.if_else(coded, pa.scalar(None, array.type), array) if pc.any(coded).as_py() else array


def _readable(values: Floats, present: int | None = None) -> bool:
    readable = int((~np.isnan(values)).sum())
    return readable > 0 and readable >= (1.0 - _STRAY) * (len(values) if present is None else present)


def _whole(values: Floats) -> bool:
    finite = values[np.isfinite(values)]
    return bool((finite == np.floor(finite)).all())


# -- Arrow to numpy ------------------------------------------------------------------------------------------------


def _plain(array: pa.Array) -> pa.Array:
    """Without dictionaries and views, as one type per kind of storage."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = pc.cast(array, pa.string())
    return array


def _floats(array: pa.Array) -> Floats:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_time(array.type) or pa.types.is_duration(array.type):  # in seconds, whatever the file's unit
        micros = array.cast(pa.time64("us") if pa.types.is_time(array.type) else pa.duration("us"), safe=False)
        return _floats(micros.cast(pa.int64())) / 1e6
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if array.type != pa.float64():
        array = pc.cast(array, pa.float64(), safe=False)
    if array.null_count:
        array = array.fill_null(np.nan)
    return np.asarray(array.to_numpy(zero_copy_only=False), np.float64)


def _seconds(array: pa.Array) -> Floats:
    import pyarrow as pa
    import pyarrow.compute as pc

    micros = pc.cast(pc.cast(array, pa.timestamp("us"), safe=False), pa.int64())
    return _floats(micros) / 1e6


def _canonical(array: pa.Array) -> pa.Array:
    """Numbers, truths and dates as the texts that another file would hold: 3.0 is "3"."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(array.type) or pa.types.is_decimal(array.type):
        floats = pc.cast(array, pa.float64(), safe=False)
        distinct = floats.dictionary_encode()
        texts = [f"{value:.0f}" if value == value // 1 else repr(value) for value in distinct.dictionary.to_pylist()]
        return pa.array(texts, pa.string()).take(distinct.indices)
    return pc.cast(array, pa.string())


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
