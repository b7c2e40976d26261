"""A bounded sample of a version's reference rows, kept so that it can later be compared with a champion on them.

Invariant: the same reference always gives the same rows in the same order, and so the same bytes, whatever the host or
its speed. Written by `registry/register.py`; read only in a child process (`gateway/control/measure_child.py`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.rows import common_rows, take
from registry.tensors import save_tensors

MOST_ROWS = 1_000
MOST_BYTES = 4 << 20
_SEED = 20130101


def sample_bytes(feeds: Mapping[str, NDArray[Any]]) -> bytes | None:
    """At most MOST_ROWS rows, as many as fit in MOST_BYTES, in the reference's order; None when not one fits.

    `feeds` have rows first. What fits is tried by halves, so a few more rows might have fitted.
    """
    count = common_rows(feeds)
    if not count:
        return None
    shuffled = np.random.default_rng(_SEED).permutation(count)
    wanted = min(count, MOST_ROWS)
    while wanted:
        chosen = np.sort(shuffled[:wanted])
        if _least_bytes(feeds, chosen) <= MOST_BYTES:
            content = io.BytesIO()
            save_tensors(content, take(feeds, chosen))
            if content.tell() <= MOST_BYTES:
                return content.getvalue()
        wanted //= 2
    return None


def _least_bytes(feeds: Mapping[str, NDArray[Any]], chosen: NDArray[np.int64]) -> int:
    """What these rows take at least, so that what is far too large is never copied."""
    return sum(
        sum(len(str(item)) for item in array[chosen].ravel())
        if array.dtype == object
        else len(chosen) * array[:1].nbytes
        for array in feeds.values()
    )
