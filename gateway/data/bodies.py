"""How many bytes of request bodies are coming in, over all connections of a worker, and when that is too many.

One caller is bounded by `body_bytes` and `body_seconds`; thousands that each send a long body slowly are bounded here.
Bytes count when they have come, so to announce a length takes nothing from anybody. Invariant: whoever takes gives the
same back, however its body ends. Bodies that come with their head are never counted: they have their answer in the
same turn. Event loop only; used by `long_bodies.py` and, for bodies of no told length, by `predict.py`.
"""

from __future__ import annotations

from registry.errors import Overloaded

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
        """So many bytes that were taken are not coming in any more: their body is whole, or given up."""
        self.now_bytes -= count

    def refusal(self) -> Overloaded:
        """What a caller is told whose bytes find no room."""
        told = f"bodies of {self.now_bytes} bytes are coming in already, the limit of all together is {self.most_bytes}"
        return Overloaded(told, retry_after_s=_RETRY_AFTER_S, reason="bodies")
