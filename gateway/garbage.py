"""Python's garbage collector and what a process keeps for as long as it lives.

Why: a full collection looks at every object that was ever made, and most of them are modules, classes and functions:
28 ms in a worker and 62 ms in the controller (measured), in which nobody is answered. Called once, where a process is
ready to serve.

Python looks at all that lasts only when what is new has come to a quarter of what it found the last time. So it must
have looked once more, and found next to nothing: counted with modules, what connections leave would be megabytes first.
"""

from __future__ import annotations

import gc


def settle() -> None:
    """Let no collection look again at what is here now: it takes a microsecond then, and grows with what comes."""
    gc.collect()
    gc.freeze()
    gc.collect()
