"""What a column is, as far as rows must be logged by it, and whether what its owner says of it can be.

Why: a text is either one of a few categories or free text whose length is watched, and workers have to log the one or
the other; so this is settled before the log schema is stored, by the reference's rows or by the option `features`. The
types of numbers are inferred when a profile is fitted (`feature_bins.py`). Invariant: pure, and the same for the same
rows. Called at registration and by `driftgate profile`; the offline comparison shares the rule for texts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.record import TOP, Column, LogSchema

FEW = 30  # different texts are categories, however few the rows
DISTINCT = 0.3  # more different texts than this share of the rows are free text
_MOST_LISTED = 20

Said = Sequence[tuple[str, str, tuple[str, ...]]]  # as in ServingOptions: column, its type or "", missing codes
Tensors = Mapping[str, NDArray[Any]]


def is_free_text(different: int, present: int) -> bool:
    """Whether so many different texts among so many are free text rather than categories.

    >>> is_free_text(25, 25), is_free_text(900, 1000), is_free_text(200, 1000)
    (False, True, False)
    """
    return different > max(FEW, DISTINCT * present)


def settle(schema: LogSchema, said: Said, feeds: Tensors | None) -> LogSchema:
    """The schema with free text as lengths: the input columns that are said to be, or that these rows show to be."""
    types = {column: kind for column, kind, _ in said}
    inputs = tuple(
        replace(column, kind="length", hashed=False)
        if column.hashed and (types.get(column.name) or _shown(column, feeds)) == "text_length"
        else column
        for column in schema.inputs
    )
    return replace(schema, inputs=inputs)


def _shown(column: Column, feeds: Tensors | None) -> str:
    different, present = _texts_of(column, feeds)
    return "text_length" if is_free_text(different, present) else ""


def _texts_of(column: Column, feeds: Tensors | None) -> tuple[int, int]:
    """How many different texts a column has, and how many that are not empty."""
    values = None if feeds is None else feeds.get(column.tensor)
    if values is None or not len(values):
        return 0, 0
    flat = values.reshape(len(values), -1)
    if column.offset >= flat.shape[1]:
        return 0, 0
    texts = [text for text in flat[:, column.offset].tolist() if text]
    return len(set(texts)), len(texts)


def unknown_columns(schema: LogSchema, said: Said, columns: Sequence[str] | None) -> list[str]:
    """What is said of columns that neither the version nor its table (`columns`) has, in words."""
    known = list(dict.fromkeys([*(c.name for c in (*schema.inputs, *schema.outputs)), *(columns or ())]))
    listed = ", ".join(known[:_MOST_LISTED]) + (
        f" and {len(known) - _MOST_LISTED} more" if known[_MOST_LISTED:] else ""
    )
    told = []
    for name in (column for column, _, _ in said if column not in known):
        near = difflib.get_close_matches(name, known, 1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        told.append(f"there is no column {name!r}{hint}; columns are {listed}")
    return told


def impossible(schema: LogSchema, said: Said) -> list[str]:
    """What is said of columns and cannot be, in words."""
    sides = [(column, True) for column in schema.inputs] + [(column, False) for column in schema.outputs]
    by_name = {column.name: (column, is_input) for column, is_input in reversed(sides)}
    found = ((by_name[name], kind, missing) for name, kind, missing in said if name in by_name)
    return [fault for (column, is_input), kind, missing in found for fault in _faults(column, is_input, kind, missing)]


def _faults(column: Column, is_input: bool, kind: str, missing: Sequence[str]) -> Iterable[str]:
    is_text = column.hashed or column.kind == "length"
    if missing and is_text:
        yield f"column {column.name!r} is text, which is logged as it comes: missing codes are for numbers of a table"
    if not kind:
        return
    if column.kind == "summary" or (column.name.endswith(".top") and column.offset == TOP):
        yield f"column {column.name!r} is part of a large tensor's summary, so its type cannot be {kind!r}"
    elif is_text and not is_input:
        if kind != "categorical":
            yield f"output {column.name!r} is text, and so categorical, not {kind!r}"
    elif is_text and kind not in ("categorical", "text_length"):
        yield f"input {column.name!r} is text: it is categorical or text_length, not {kind!r}"
    elif not is_text and kind == "text_length":
        yield f"column {column.name!r} holds numbers, so it has no text_length"


def contradicted(columns: Sequence[Column], block: NDArray[np.floating], types: Mapping[str, str]) -> list[str]:
    """Types that these rows (n, C) contradict, in words: a boolean that is 7, an integer with a fraction."""
    told = []
    for at, column in enumerate(columns):
        kind = types.get(column.name)
        if kind not in ("boolean", "integer"):
            continue
        values = block[:, at]
        values = values[np.isfinite(values)]
        bad = values[(values != 0) & (values != 1)] if kind == "boolean" else values[values != np.floor(values)]
        if len(bad):
            what = "something else than 0 and 1" if kind == "boolean" else "no whole numbers"
            told.append(
                f"column {column.name!r} is said to be {kind}, and {len(bad):,} of {len(values):,} reference values "
                f"are {what}, such as {bad[0]:g}"
            )
    return told


def texts_as_categories(schema: LogSchema, said: Said, feeds: Tensors) -> list[str]:
    """Notes on free text in these rows that the version logs as categories since it was registered."""
    owned = {column for column, kind, _ in said if kind}
    told = []
    for column in schema.inputs:
        if column.hashed and column.name not in owned:
            different, present = _texts_of(column, feeds)
            if is_free_text(different, present):
                told.append(
                    f"{column.name}: {different:,} different texts in {present:,} rows are free text, and this version "
                    "logs them as categories; a version registered with this reference watches their length"
                )
    return told
