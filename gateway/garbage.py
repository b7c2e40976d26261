"""Python's garbage collector and what a process keeps for as long as it lives.

Why: a full collection looks at every object that was ever made, and most of them are modules, classes and functions:
28 ms in a worker and 62 ms in the controller (measured), in which nobody is answered. Called once, where a process is
ready to serve.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Let no collection look again at what is here now: it takes a microsecond then, and grows with what comes."""
    gc.collect()
    gc.freeze()
