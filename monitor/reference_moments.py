"""The moments of reference rows: which column of numbers or texts tells them, read in the one way that all rows allow.

Why: how rows depend on each other is learned from their order in time, and a date that is taken for another one puts
them in a wrong order without a word. Invariants: every row counts for which reading it is, the ones too that a large
table's sample leaves out; a moment that is missing, that no reading understands or that can be read in two ways is
refused with its reason. Texts of dates are read by `monitor/dates.py`, as in a comparison of two files. Called by
`monitor/reference.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from monitor.arrow import floats, plain, seconds, storage_of, texts_of, truths
from monitor.dates import AMBIGUOUS, READINGS, Dates, dates_of, read_dates
from monitor.reference_order import in_seconds, several_units
from registry.errors import ArtifactRejected

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER = r"^[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?$"
_SHOWN = 60  # characters of a value in a message

Floats = NDArray[np.float64]


class Moments:
    """One column, a chunk at a time: its values in every reading that may still be the one.

    `date_format`: how its owner says that texts write dates, a reading or a format of `strptime`.
    """

    def __init__(self, column: str, date_format: str | None = None) -> None:
        self.column = column
        # The first of those that understand as much: digits are a number, unless their owner says what date they are.
        self.readings = (date_format, "number") if date_format else ("number", *READINGS)
        self._format = date_format
        self._rows = 0
        self._read = dict.fromkeys(self.readings, 0)
        self._wrong: dict[str, str] = {}  # reading → what is wrong with the first row that it does not understand
        self._dates = Dates({}, 0, 0)
        self._extremes = np.zeros(0)  # of numbers

    def read(self, array: pa.Array) -> list[Floats]:
        """The next rows' values (n,) in each of `readings`: NaN where it is none."""
        array = plain(array)
        found = self._values(array)
        for name, values in found.items():
            wrong = np.flatnonzero(~np.isfinite(values))
            self._read[name] += len(values) - len(wrong)
            if len(wrong) and name not in self._wrong:
                self._wrong[name] = _row(array, int(wrong[0]), self._rows)
        self._rows += len(array)
        return [found[name] for name in self.readings]

    def settle(self, kept: Sequence[Floats]) -> tuple[Floats, Floats | None]:
        """Of kept rows' values in each of `readings`: what puts them in order (n,), and Unix seconds if it tells those.

        Raises ArtifactRejected unless one reading understands every row that there was.
        """
        most = max(self._read.values())
        best = [name for name in self.readings if self._read[name] == most]
        name, fault = best[0], ""
        if most < self._rows:
            told = f" (its dates are read {name})" if most and name != "number" else ""
            fault = f", {self._wrong[name]}{told}"
        elif name == "number":
            fault = several_units(self._extremes) and f" {several_units(self._extremes)}"
        elif len(best) > 1 and "number" not in best:
            fault = f": {AMBIGUOUS}"
        elif self._dates.unlike():
            fault = f": {self._dates.unlike()}"
        if fault:
            raise ArtifactRejected(f"column {self.column!r}{fault}", column=self.column)
        values = kept[self.readings.index(name)]
        return values, in_seconds(values) if name == "number" else values

    def _values(self, array: pa.Array) -> dict[str, Floats]:
        nothing = np.full(len(array), np.nan)
        found = dict.fromkeys(self.readings, nothing)
        storage = storage_of(array.type)
        if storage in ("number", "integer"):
            numbers = floats(array)
            self._see(numbers)
            return found | {"number": numbers}
        if storage == "date":
            return found | {self._format or READINGS[0]: seconds(array)}  # whichever: there is only one
        if storage != "text":
            return found
        texts = texts_of(array)
        dates = read_dates(texts.distinct, self._format)
        told = dates_of(dates, texts.distinct, texts.rows())
        self._dates = Dates({}, self._dates.zoned + told.zoned, self._dates.local + told.local)
        dates["number"] = _numbers(texts.distinct)
        self._see(dates["number"])
        return found | {name: texts.spread(values) for name, values in dates.items()}

    def _see(self, numbers: Floats) -> None:
        both = np.append(numbers[np.isfinite(numbers)], self._extremes)
        if len(both):
            self._extremes = np.array([both.min(), both.max()])


def _numbers(texts: pa.StringArray) -> Floats:
    import pyarrow as pa
    import pyarrow.compute as pc

    found = np.full(len(texts), np.nan)
    is_number = pc.match_substring_regex(texts, _NUMBER)
    found[truths(is_number)] = floats(pc.cast(texts.filter(is_number), pa.float64()))
    return found


def _row(array: pa.Array, at: int, before: int) -> str:
    value, row = array[at].as_py(), f"row {before + at + 1}"
    if value is None or value != value or not str(value).strip():
        return f"{row} has no moment of time"
    shown = str(value)
    return f"{row}: {shown if len(shown) <= _SHOWN else shown[: _SHOWN - 3] + '...'!r} is no moment of time"
