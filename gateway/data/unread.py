"""How many bytes of long answers a worker holds because their callers have not read them, and when that is too many.

A request of a hundred bytes may have an answer of a hundred megabytes, which stays here until its caller reads it:
sixty callers that do not took 4 GB. Answers are counted when they are written down, and forgotten by a look at what
lies in the connections' buffers, which is taken only when the count has reached the limit: it costs a microsecond for
each of them. Invariant: no answer is accepted beside others that makes them more than
`most_bytes`; one alone is. Event loop only; used by `predict.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from registry.errors import Overloaded

LONG_OUTPUT = 1 << 13  # bytes of an output, from which on its answer is counted: in text it may be eight times as long
_RETRY_AFTER_S = 1.0


class Unread:
    """The bytes of one worker."""

    def __init__(self, most_bytes: int, connections: Callable[[], Iterable[Any]]) -> None:
        self.most_bytes = most_bytes
        self.waiting_bytes = 0  # of answers that no connection has taken yet: they are compressed, or wait for others
        self._connections = connections
        self._counted = 0  # at least what there is

    def has_room(self, count: int) -> bool:
        """So many bytes more are there → whether they may stay; if not, they do not count."""
        if self._counted + count > self.most_bytes:
            self._counted = self.waiting_bytes + sum(map(_buffered, self._connections()))
            if self._counted and self._counted + count > self.most_bytes:
                return False
        self._counted += count
        return True

    def refusal(self) -> Overloaded:
        """What a caller is told whose answer finds no room."""
        told = f"callers have not read {self._counted} bytes of answers, the limit of all together is {self.most_bytes}"
        return Overloaded(told, retry_after_s=_RETRY_AFTER_S, reason="answers")


def _buffered(connection: Any) -> int:
    transport = getattr(connection, "transport", None)
    return 0 if transport is None else int(transport.get_write_buffer_size())
