"""pyarrow, loaded at the first Arrow request of a worker, in a thread.

Why: workers start without it, and its import takes 0.1 s, all of it on the event loop if it were done there (in a
thread the loop stood still for at most 60 ms, once). Invariant: the loop never waits for an import that a thread is
doing, because the module is only handed out whole. Called by the Arrow codec and by whatever answers in Arrow.
"""

from __future__ import annotations

import asyncio
from typing import Any

_loaded: list[Any] = []


def is_loaded() -> bool:
    """Whether `get` is quick."""
    return bool(_loaded)


async def load() -> None:
    """Make `get` quick."""
    if not _loaded:
        await asyncio.to_thread(get)


def get() -> Any:
    """The module. Slow the first time."""
    if not _loaded:
        import pyarrow

        _loaded.append(pyarrow)
    return _loaded[0]
