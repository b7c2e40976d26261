"""Answers kept for requests that are equal bit by bit: off unless a version's options say how much to keep.

Why here and not around the request: peers key theirs by a hash of some parts (one leaves out shapes, datatypes and the
outputs asked for, another the model), and then answer the wrong thing. Invariants. A key is a cryptographic hash of the
version's digest, the outputs computed, and of every input its name, datatype, shape and bytes; so equal keys are equal
questions to the same version. What is kept are the version's outputs as arrays, all of them: protocol, ids and outputs
asked for are applied to them as to a run's, so one entry serves every caller. Errors are never kept. Kept bytes are
bounded, the least recently asked leaves first. Of equal requests that wait at once, one runs; when it gets no answer
(it failed, its caller left), the next takes its place, so nobody fails for another.

A hit is an answer of the version like any other: routed, logged and counted; only its run took no time, and no shadow
sees a copy.
A version whose answers to the same question differ (random numbers, state) must not be cached: nobody can know but who
made it. One object for a loaded version; event loop only.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from enum import Enum
from hashlib import blake2b
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.data.servable import Servable, Tensor

_ENTRY_BYTES = 512  # of an entry beside its arrays' content: key, tuple, array objects
_TEXT_BYTES = 56  # of a text beside its characters


class Waiter(Protocol):
    """A request whose caller may still be there."""

    def is_waiting(self) -> bool:
        """Whether an answer would still reach somebody."""
        ...


W = TypeVar("W", bound=Waiter)


class Turn(Enum):
    """What a request without a kept answer is to do."""

    RUN = "run"  # as if there were no cache; tell `keep` or `give_up` how it ended
    WAIT = "wait"  # an equal one runs: `keep` or `give_up` will hand this one back


class AnswerCache(Generic[W]):
    """The kept answers of one version, and the requests that wait for one that is being made."""

    def __init__(self, digest: str, inputs: Sequence[str], outputs: Sequence[str], most_bytes: int) -> None:
        start = blake2b(digest_size=32)
        for words in ((digest,), outputs, inputs):
            _add(start, len(words).to_bytes(8, "little"))
            for word in words:
                _add(start, word.encode())
        self._start = start
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, tuple[tuple[Tensor, ...], int]] = OrderedDict()
        self._running: dict[bytes, deque[W]] = {}
        self.kept_bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_asked(self) -> bool:
        """Whether a request runs or waits for an answer that will be kept."""
        return bool(self._running)

    def key(self, feeds: Sequence[Tensor]) -> bytes:
        """The question that these tensors are, in the order of the version's inputs; 32 bytes.

        Bytes as they are: 0.0 and -0.0, and NaNs of different bits, are different questions.
        """
        hashed = self._start.copy()
        for feed in feeds:
            shape = np.array(feed.shape, dtype=np.int64).tobytes()
            _add(hashed, feed.dtype.str.encode() + feed.dtype.name.encode())
            _add(hashed, shape)
            if feed.dtype.kind == "O":
                for item in feed.ravel().tolist():
                    is_text = isinstance(item, str)
                    _add(
                        hashed, (b"t" if is_text else b"b") + (item.encode(errors="surrogatepass") if is_text else item)
                    )
            else:
                hashed.update(np.ascontiguousarray(feed).view(np.uint8).data if feed.size else b"")
        return hashed.digest()

    def ask(self, key: bytes, waiter: W) -> tuple[Tensor, ...] | Turn:
        """The kept outputs; or what this request is to do. Outputs are read-only, rows as the request's."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found[0]
        others = self._running.get(key)
        if others is None:
            self._running[key] = deque()
            return Turn.RUN
        others.append(waiter)
        return Turn.WAIT

    def keep(self, key: bytes, outputs: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], list[W]]:
        """The run has answered: what is kept of it, and who waits for the same. Outputs: of this one request."""
        copies = tuple(_copy(output) for output in outputs)  # slices would keep the whole run's arrays
        size = _ENTRY_BYTES + sum(_size(copy) for copy in copies)
        if size <= self._most_bytes and key not in self._kept:
            self._kept[key] = (copies, size)
            self.kept_bytes += size
            while self.kept_bytes > self._most_bytes:
                _, (_, freed) = self._kept.popitem(last=False)
                self.kept_bytes -= freed
        return copies, [waiter for waiter in self._running.pop(key, ()) if waiter.is_waiting()]

    def give_up(self, key: bytes) -> W | None:
        """The run gave no answer: who runs now instead, if somebody still waits."""
        others = self._running.get(key)
        while others:
            waiter = others.popleft()
            if waiter.is_waiting():
                return waiter
        self._running.pop(key, None)
        return None


def of(servable: Servable) -> AnswerCache[Any] | None:
    """The cache that a version's options ask for; None: none."""
    most_bytes = servable.manifest.options.answer_cache_bytes
    if most_bytes <= 0:
        return None
    return AnswerCache(servable.manifest.digest, servable.input_names, servable.output_names, most_bytes)


def _add(hashed: Any, part: bytes) -> None:
    """With its length before it, so that no two lists of parts are the same bytes."""
    hashed.update(len(part).to_bytes(8, "little"))
    hashed.update(part)


def _copy(output: Tensor) -> Tensor:
    copy: NDArray[Any] = np.array(output, order="C")
    copy.setflags(write=False)
    return copy


def _size(output: Tensor) -> int:
    if output.dtype.kind != "O":
        return int(output.nbytes)
    return int(output.nbytes) + sum(_TEXT_BYTES + len(item) for item in output.ravel().tolist())
