"""pyarrow, loaded at the first Arrow request of a worker, in a thread.

Why: workers start without it, and its import takes 0.1 s, all of it on the event loop if it were done there. In a
thread the loop stood still for 20 to 60 ms, once (100 to 300 ms on a machine with four times more to do than cores):
the interpreter's lock is held while the shared library is linked. Invariant: the loop never waits for an import that a
thread is doing, because the module is only handed out whole; and the codec calls nothing that makes pyarrow load
pandas or its compute module (`pa.array`, `to_numpy`, `flatten`, `cast`), which would happen on the loop. Called by the
Arrow codec and by whatever answers in Arrow.
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
