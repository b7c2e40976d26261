"""How much memory the runs of a process may take together, where requests say how much that is.

Why: a model may make what a *value* in a request says (ConstantOfShape, Expand, Range), or what grows with the square
of a request's rows. Such a request is short and takes gigabytes; the kernel would then kill the process, with
everybody's requests in it. onnxruntime takes the memory of such sessions' runs, their outputs included, from one arena
with a limit: a run that would pass it fails at that node, and nothing else in the process notices. Weights lie outside,
and so do the letters of texts. Invariants: one arena in a process, made once; what runs had goes back to the system
when `give_back` is called after them. Thread-safe.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from registry.errors import InferenceFailed, Overloaded, PayloadTooLarge, ServingError

SESSION = {"session.use_env_allocators": "1", "session.use_device_allocator_for_initializers": "1"}
_SHRINK = ("memory.enable_memory_arena_shrinkage", "cpu:0")
_AS_REQUESTED = 1  # how the arena grows: by what is asked for, not to the next power of two
_NOTHING = bytes.fromhex(  # an ONNX model: y [0] FP32 is x. Without elements it takes nothing of the arena itself
    "080712003a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020800620f0a0179120a0a0808011204"
    "0a02080042040a00100d"
)
# In looks of `is_due`, of which there are some ten a second. A run that follows a sweep takes its memory anew from the
# system, so there are few while models run; and outputs of the last run may be in use for a while.
_QUIET, _BUSY, _SWEEPS = 5, 100, 4
_OUT_OF_ROOM = re.compile(r"Available memory of (\d+) is smaller than requested bytes of (\d+)")


class _Arena:
    """This process's."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.most_bytes = 0
        self.running: list[None] = []  # an entry for each run: appending and popping are atomic
        self.ended = 0  # runs; some may be missed where two end at once
        self.sweep: Callable[[], object] = list


_arena = _Arena()


def limit(onnxruntime: Any, most_bytes: int) -> None:
    """Make the arena; only the first call in a process counts. Sessions opened with `SESSION` share it from then on."""
    with _arena.lock:
        if _arena.most_bytes:
            return
        memory = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        settings = {"max_mem": most_bytes, "arena_extend_strategy": _AS_REQUESTED}
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(settings))
        _arena.sweep = _sweeper(onnxruntime)
        _arena.most_bytes = most_bytes


def _sweeper(onnxruntime: Any) -> Callable[[], object]:
    how, options = onnxruntime.SessionOptions(), onnxruntime.RunOptions()
    how.intra_op_num_threads = 1
    for key, value in SESSION.items():
        how.add_session_config_entry(key, value)
    options.add_run_config_entry(*_SHRINK)  # at the end of the run, what of the arena is free in whole pieces
    session = onnxruntime.InferenceSession(_NOTHING, how, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": np.zeros(0, np.float32)}, options)


def most_bytes() -> int:
    """The limit in this process; 0: there is none."""
    return _arena.most_bytes


class Sweeps:
    """When to call `give_back`: some times after the last run, and now and then while there are runs all the time."""

    def __init__(self, ended: Callable[[], int] = lambda: _arena.ended) -> None:
        """ended: how many runs have ended."""
        self._ended = ended
        self._seen = self._quiet = self._since = self._left = 0

    def is_due(self) -> bool:
        """Called some ten times a second."""
        ended = self._ended()
        if ended != self._seen:
            self._seen, self._quiet, self._left = ended, 0, _SWEEPS
        if not self._left:
            return False
        self._quiet += 1
        self._since += 1
        if self._quiet < _QUIET and self._since < _BUSY:
            return False
        self._left -= self._quiet >= _QUIET
        self._quiet = self._since = 0
        return True


def give_back() -> None:
    """Return to the system what runs had and do not use any more. Takes as long as the system wants for it."""
    _arena.sweep()


def within(run: Callable[[Mapping[str, Any], Any], list[Any]]) -> Callable[..., list[Any]]:
    """A session's run, that says whose fault it is when there was not enough room.

    Raises PayloadTooLarge where the request alone wanted too much, Overloaded where others had taken some.
    """

    def bounded(feeds: Mapping[str, Any], options: Any = None) -> list[Any]:
        _arena.running.append(None)
        try:
            return run(feeds, options)
        except InferenceFailed as error:
            raise refusal(error.message, _arena.most_bytes, len(_arena.running) - 1) or error from None
        finally:
            _arena.running.pop()
            _arena.ended += 1

    return bounded


def refusal(reason: str, most_bytes: int, others: int) -> ServingError | None:
    """What a failed run's reason is to its caller; None when memory was not it. others: that ran at the same time.

    >>> refusal("Available memory of 8 is smaller than requested bytes of 64", 16, 1).code
    'payload_too_large'
    """
    found = _OUT_OF_ROOM.search(reason)
    if found is None:
        return None
    if others and int(found[2]) <= most_bytes:
        return Overloaded(
            f"runs of other requests hold the memory that this one needs: all together may take {most_bytes} bytes",
            retry_after_s=1.0,
            reason="run_memory",
        )
    return PayloadTooLarge(
        f"this request's run would take more than {most_bytes} bytes of memory, which is the limit",
        limit_bytes=most_bytes,
    )
