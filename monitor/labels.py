"""Delayed labels as callers send them: checked, and cut into one key a row.

Invariant: whatever a caller sends is either rows or a MalformedRequest that says where. Called by `joins.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from monitor.record import request_hash
from registry.errors import MalformedRequest

MAX_LABELS = 10_000  # of one feedback call
MAX_VALUES = 65_536  # rows of one feedback call
MAX_TEXT = 1024  # characters of a string value or an output's name: labels that wait are held in memory
ROW_STEP = 0x9E3779B97F4A7C15  # spreads the rows of a request over the key space
_WORD = (1 << 64) - 1
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


def parse_labels(labels: Sequence[Mapping[str, Any]]) -> list[tuple[int, str | None, object]]:
    """Labels as (key, output, value) a row; null values are unknown and skipped."""
    if len(labels) > MAX_LABELS:
        raise MalformedRequest(f"got {len(labels)} labels in one call, wanted at most {MAX_LABELS}")
    total = 0
    rows: list[tuple[int, str | None, object]] = []
    for at, label in enumerate(labels):
        if not isinstance(label, Mapping):
            raise MalformedRequest(f"label {at}: got {type(label).__name__}, wanted an object")
        request_id, output, values = label.get("request_id"), label.get("output"), label.get("values")
        if not isinstance(request_id, str) or not _REQUEST_ID.fullmatch(request_id):
            raise MalformedRequest(f"label {at}: request_id must be 1 to 128 visible ASCII characters")
        if output is not None and not (isinstance(output, str) and _is_text(output)):
            raise MalformedRequest(f"label {at}: output must be a name of at most {MAX_TEXT} characters")
        if not isinstance(values, Sequence) or isinstance(values, str) or not 0 < len(values) <= MAX_VALUES:
            raise MalformedRequest(f"label {at}: values must be a list, one value a row")
        hash0 = int.from_bytes(request_hash(request_id)[:8], "little")
        total += len(values)
        if total > MAX_VALUES:
            raise MalformedRequest(f"got more than {MAX_VALUES} values in one call")
        for row, value in enumerate(values):
            if value is None:
                continue
            if not isinstance(value, bool | int | float | str):
                raise MalformedRequest(f"label {at}: values are numbers, strings, booleans or null")
            if isinstance(value, str) and not _is_text(value):
                raise MalformedRequest(f"label {at}: a string value has at most {MAX_TEXT} characters of Unicode")
            rows.append(((hash0 + row * ROW_STEP) & _WORD, output, value))
    return rows


def _is_text(text: str) -> bool:
    """Short enough to be held, and encodable: JSON can carry half of a surrogate pair."""
    if len(text) > MAX_TEXT:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
