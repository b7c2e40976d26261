"""How many bytes of long request bodies a worker holds, over all connections, and when that is too many.

One caller is bounded by `body_bytes` and `body_seconds`; thousands that each send a long body slowly, or wait with one
for a slow model, are bounded here. Bytes count when they have come, so to announce a length takes nothing from anybody,
and until their request has its answer. Invariant: whoever takes gives the same back, however its body ends. Event loop
only; used by `long_bodies.py` while bodies come in, and by `predict.py` while their requests wait.
"""

from __future__ import annotations

from registry.errors import Overloaded

LONG = 1 << 16  # bytes, from which on a whole body counts while its request waits: others are bounded by their number
_RETRY_AFTER_S = 1.0


class Bodies:
    """The bytes of one worker."""

    __slots__ = ("most_bytes", "now_bytes")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.now_bytes = 0

    def take(self, count: int) -> bool:
        """So many bytes have come → whether there is room for them; if not, none of them count."""
        if self.now_bytes + count > self.most_bytes:
            return False
        self.now_bytes += count
        return True

    def give_back(self, count: int) -> None:
        """So many bytes that were taken are in no body any more."""
        self.now_bytes -= count

    def refusal(self) -> Overloaded:
        """What a caller is told whose bytes find no room."""
        told = f"bodies of {self.now_bytes} bytes are here already, the limit of all together is {self.most_bytes}"
        return Overloaded(told, retry_after_s=_RETRY_AFTER_S, reason="bodies")
