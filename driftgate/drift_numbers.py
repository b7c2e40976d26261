"""Texts as numbers: plain ones, truth words, digits in groups, decimal commas; and the texts that stand for nothing.

Why: a CSV file writes numbers as its program's country does, and one that is read with the wrong mark is a thousand
times too large. Invariants: which mark a column has is settled once, by all its texts that were looked at, and then
holds for both sides; a text that cannot be read is NaN, never a guess. Called by `driftgate/drift_columns.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from monitor.arrow import floats, taken, truths

if TYPE_CHECKING:
    import pyarrow as pa

MISSING_CODES = (
    "", "?", "-", "--", ".", "NA", "N/A", "n/a", "#N/A", "NaN", "nan", "-nan", "NaT", "null", "NULL", "None", "none",
    "<NA>", "\\N", "#DIV/0!", "#VALUE!", "#REF!",
)  # fmt: skip
TRUTHS = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "t": 1.0, "f": 0.0, "y": 1.0, "n": 0.0}
Mark = Literal[".", ","]

_GROUPED = {
    ".": re.compile(r"[+-]?(?!0[,'\s])\d{1,3}(?:,\d{3})+(?:\.\d*)?|[+-]?\d{1,3}(?:[\s']\d{3})+(?:\.\d*)?"),
    ",": re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d*)?|[+-]?\d{1,3}(?:[\s']\d{3})+(?:,\d*)?"),
}
_PLAIN = {".": r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$", ",": r"^[+-]?\d+$"}
_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_NO_DIGITS = re.compile(r"[^\d.eE+-]")
_SIGNS = "%$€£¥"  # that are written at a number and are no part of it
_BEFORE, _AFTER = r"^([+-]?){} ?", r" ?{}$"
_SIGN_SHARE = 0.9  # of some texts, that have the sign of a column

Floats = NDArray[np.float64]


def sign_of(texts: pa.StringArray) -> str:
    """The sign, of per cent or of a currency, that these texts have at their numbers; "" where they have none."""
    found = [next((sign for sign in _SIGNS if sign in text), "") for text in texts.to_pylist()]
    most = max(_SIGNS, key=found.count)
    return most if found.count(most) >= max(_SIGN_SHARE * len(found), 1.0) else ""


def numbers_of(texts: pa.StringArray, mark: Mark, sign: str = "") -> Floats:
    """Different texts, without blanks around them, as numbers (d,); NaN for what is none.

    sign: stands before or after each number, and a number without it is none of the column's: 65 % are not 0.65.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if sign:
        has_sign = truths(pc.match_substring(texts, sign))
        for pattern, kept in ((_BEFORE, "\\1"), (_AFTER, "")):
            texts = pc.replace_substring_regex(texts, pattern.format(re.escape(sign)), kept, max_replacements=1)
        return np.where(has_sign, numbers_of(texts, mark), np.nan)
    if mark == ".":
        try:
            return floats(pc.cast(texts, pa.float64()))
        except pa.ArrowInvalid:
            pass
    values = np.full(len(texts), np.nan)
    is_plain = pc.match_substring_regex(texts, _PLAIN[mark])
    values[truths(is_plain)] = floats(pc.cast(texts.filter(is_plain), pa.float64()))
    others = np.flatnonzero(~truths(is_plain))
    values[others] = [_number(text, mark) for text in taken(texts, others).to_pylist()]
    return values


def codes_as_numbers(codes: Iterable[str]) -> Floats:
    """Those of the missing codes that are numbers, such as -999."""
    found = [_number(code, ".") for code in codes]
    return np.array([number for number in found if number == number])


def _number(text: str | None, mark: Mark) -> float:
    """A text as a number, NaN if it is none.

    >>> _number("1,234.5", "."), _number("Yes", "."), _number("1_0", "."), _number("0,5", ".")
    (1234.5, 1.0, nan, nan)
    >>> _number("1.234,5", ","), _number("0,5", ","), _number("12 345", ","), _number("7", ",")
    (1234.5, 0.5, 12345.0, 7.0)
    """
    if not text:
        return np.nan
    if _GROUPED[mark].fullmatch(text):
        whole, _, rest = text.partition(mark)
        return float(f"{_NO_DIGITS.sub('', whole.replace('.', ''))}.{rest or 0}")
    if mark == "," and _COMMA.fullmatch(text):
        return float(text.replace(",", "."))
    truth = TRUTHS.get(text.lower())
    if truth is not None:
        return truth
    try:
        return float(text) if "_" not in text else np.nan
    except ValueError:
        return np.nan
