"""Joins by request id in bounded memory: shadow rows with the answers they copy, delayed labels with their predictions.

Why: only the same input seen by both versions tells them apart quickly, and only labels tell good from bad.
Invariants: a row is paired and labelled at most once; an id that repeats in memory is ambiguous and joins nothing; what
leaves is counts, never a row; every memory has a limit and what it loses is counted.
One `JoinMemory` a model, in the monitor's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitor.agreement import differing
from monitor.answers import Answers, align
from monitor.join_counts import LiveError, PairCounts, RolloutWatch
from monitor.key_index import KeyIndex
from monitor.labels import ROW_STEP, parse_labels
from monitor.pauses import pause
from monitor.record import ROLE_CODES, ROLES
from registry.errors import MalformedRequest
from registry.vocabulary import Role

PENDING_S = 10.0  # a shadow row waits so long for the answer it copies
_FIRST_ROWS = 4096
_CHAMPION = ROLE_CODES[Role.CHAMPION]


@dataclass(frozen=True, slots=True)
class _Label:
    value: object
    output: str | None
    until_s: float


@dataclass
class _Pending:
    version: int
    keys: NDArray[np.uint64]
    hash0: NDArray[np.uint64]
    answers: NDArray[np.float64]
    failed: NDArray[np.bool_]
    until_s: float


class JoinMemory:
    """The recent answers of one model, the shadows and labels that look for them, and what was counted."""

    def __init__(
        self, limit: int, label_limit: int, label_wait_s: float, labelled: Callable[..., None] | None = None
    ) -> None:
        self._labelled = labelled
        self._limit = max(limit, 1)
        self._label_limit = label_limit
        self._label_wait_s = label_wait_s
        self._answers: dict[int, Answers] = {}
        self._alignments: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._size = min(_FIRST_ROWS, self._limit)
        self._width = 1
        self._head = 0  # answers ever remembered; the ring holds the last `_size`
        self._keys = np.zeros(self._size, np.uint64)
        self._version = np.zeros(self._size, np.int32)
        self._role = np.zeros(self._size, np.uint8)
        self._said = np.zeros((self._size, 1))
        self._other = np.zeros((self._size, 1))  # what the shadow said of the same row
        self._other_version = np.zeros(self._size, np.int32)  # 0: no shadow yet
        self._label = np.zeros(self._size)
        self._label_at = np.full(self._size, -1, np.int8)  # which answer the label is for; -1: none yet
        self._ambiguous = np.zeros(self._size, np.bool_)
        self._index = KeyIndex()
        self._pending: list[_Pending] = []
        self._waiting: dict[int, _Label] = {}
        self._label_looked = 0  # answers before this have been offered to the labels that wait
        self.watch: RolloutWatch | None = None
        self.pairs = PairCounts()
        self.live: dict[tuple[int, str], LiveError] = {}
        self.outcomes: dict[tuple[int, str], int] = {}  # (version or 0 where unknown, outcome) → labelled rows

    # -- what the lanes bring --------------------------------------------------------------------------------------

    def learn(self, version: int, answers: Answers) -> None:
        """What this version's rows say. Called before its rows are added."""
        if version not in self._answers:
            self._answers[version] = answers
            self._alignments.clear()
            if len(answers) > self._width:
                self._width = len(answers)
                self._resize(self._size)

    def add(
        self, version: int, role: int, hash0: NDArray[np.uint64], row: NDArray[np.uint32], said: NDArray[np.float64]
    ) -> None:
        """Remember answered rows (n,), (n,), (n, answers): champion, canary, direct or fallback."""
        n = len(hash0)
        if n > self._limit:
            hash0, row, said = hash0[-self._limit :], row[-self._limit :], said[-self._limit :]
            n = self._limit
        while self._size < self._limit and self._head + n > self._size:
            self._resize(min(self._size * 2, self._limit))
        keys = hash0 + row.astype(np.uint64) * np.uint64(ROW_STEP)
        start = self._head % self._size
        first = min(n, self._size - start)
        for at, part in ((slice(start, start + first), slice(0, first)), (slice(0, n - first), slice(first, n))):
            if part.start == part.stop:
                continue
            self._keys[at] = keys[part]
            self._version[at] = version
            self._role[at] = role
            self._said[at, : said.shape[1]] = said[part]
            self._other_version[at] = 0
            self._label_at[at] = -1
            self._ambiguous[at] = False
        self._head += n
        self._index.add(keys, self._oldest)

    def add_shadow(
        self,
        version: int,
        hash0: NDArray[np.uint64],
        row: NDArray[np.uint32],
        said: NDArray[np.float64],
        failed: NDArray[np.bool_],
        now_s: float,
    ) -> None:
        """Rows that a shadow ran; they are paired by the next `resolve`, or wait a little."""
        if self.watch is None or self.watch.candidate != version:
            return
        keys = hash0 + row.astype(np.uint64) * np.uint64(ROW_STEP)
        self._pending.append(_Pending(version, keys, hash0, said, failed, now_s + PENDING_S))
        while len(self._pending) > 1 and sum(len(p.keys) for p in self._pending) > self._limit:
            self.pairs.unpaired += len(self._pending.pop(0).keys)

    def begin(self, watch: RolloutWatch, pairs: PairCounts) -> None:
        """Count for this rollout, going on from what was stored."""
        self.watch = watch
        self.pairs = pairs
        self._pending.clear()

    def end(self) -> None:
        """Pair nothing any more; live errors go on."""
        self.watch = None
        self._pending.clear()

    def resolve(self, now_s: float, wall_ns: int) -> None:
        """Pair the shadows and join the labels whose answers are there now; drop those that waited too long."""
        if self._waiting:
            self._resolve_labels(now_s, wall_ns)
        if not self._pending:
            return
        kept = []
        for batch in self._pending:
            pause()
            at = self._find(batch.keys)
            found = at >= 0
            if found.any():
                self._pair(batch, found, at[found], wall_ns)
            if found.all():
                continue
            rest = ~found
            if now_s >= batch.until_s:
                self.pairs.unpaired += int(rest.sum())
                continue
            parts = (batch.keys[rest], batch.hash0[rest], batch.answers[rest], batch.failed[rest])
            kept.append(_Pending(batch.version, *parts, batch.until_s))
        self._pending = kept

    # -- pairs -----------------------------------------------------------------------------------------------------

    def _pair(self, batch: _Pending, found: NDArray[np.bool_], at: NDArray[np.int64], wall_ns: int) -> None:
        watch = self.watch
        assert watch is not None
        good = ~self._ambiguous[at] & (self._version[at] == watch.champion) & (self._role[at] == _CHAMPION)
        self.pairs.unpaired += int((~good).sum())
        good &= self._other_version[at] == 0
        slots, first = np.unique(at[good], return_index=True)
        order = np.flatnonzero(found)[good][first]
        if not len(slots):
            return
        self._other_version[slots] = batch.version
        self.pairs.pair_wall_ns = wall_ns
        failed = batch.failed[order]
        self._other[slots[failed]] = np.nan
        self.pairs.shadow_errors += int(failed.sum())
        self.pairs.shadow_errors_requests += len(np.unique(batch.hash0[order[failed]]))
        slots, order = slots[~failed], order[~failed]
        self.pairs.requests += len(np.unique(batch.hash0[order]))
        self._other[slots, : batch.answers.shape[1]] = batch.answers[order]
        self._compare(slots, batch.hash0[order])
        labelled = slots[self._label_at[slots] >= 0]
        for slot in labelled.tolist():  # the label was there before the shadow
            self._judge(slot, wall_ns)
            self._live_error(batch.version, slot, self._other)

    def _aligned(self) -> list[tuple[int, int]]:
        watch = self.watch
        assert watch is not None
        key = (watch.champion, watch.candidate)
        if key not in self._alignments and key[0] in self._answers and key[1] in self._answers:
            self._alignments[key] = align(self._answers[key[0]], self._answers[key[1]])
        return self._alignments.get(key, [])

    def _compare(self, slots: NDArray[np.int64], requests: NDArray[np.uint64]) -> None:
        watch = self.watch
        assert watch is not None
        aligned = self._aligned()
        if not aligned:
            return
        champion = self._answers[watch.champion]
        found = differing(champion, aligned, self._said[slots], self._other[slots], watch.tolerances)
        for name, differ in found.items():
            self.pairs.by_output[name] = self.pairs.by_output.get(name, 0) + int(differ.sum())
        if found:
            self.pairs.rows += len(slots)
            differ = np.any(list(found.values()), axis=0)
            self.pairs.disagreements += int(differ.sum())
            _, whose, rows = np.unique(requests, return_inverse=True, return_counts=True)
            self.pairs.disagreed += float((np.bincount(whose, differ) / rows).sum())

    # -- labels ----------------------------------------------------------------------------------------------------

    def feedback(self, labels: Sequence[Mapping[str, Any]], now_s: float, wall_ns: int) -> dict[str, int]:
        """Take labels: rows joined, waiting, ambiguous, expired. Raises MalformedRequest before anything is taken."""
        rows = parse_labels(labels)
        self._check_outputs(output for _, output, _ in rows)
        at = self._find(np.array([key for key, _, _ in rows], np.uint64)).tolist()
        for (_, output, value), slot in zip(rows, at, strict=True):
            if slot >= 0:
                self._code(slot, output, value)
        counts = {"joined": 0, "waiting": 0, "ambiguous": 0, "expired": 0}
        for (key, output, value), slot in zip(rows, at, strict=True):
            if slot >= 0:
                outcome = self._join(slot, output, value, wall_ns)
            elif key in self._waiting:
                outcome = "ambiguous"
                self._count(0, outcome)
            else:
                outcome = "waiting"
                self._waiting[key] = _Label(value, output, now_s + self._label_wait_s)
                if len(self._waiting) > self._label_limit:
                    del self._waiting[next(iter(self._waiting))]
                    self._count(0, "expired")
                    counts["expired"] += 1
            counts[outcome] += 1
        return counts

    def _check_outputs(self, names: Iterable[str | None]) -> None:
        known = {answer.name for answers in self._answers.values() for answer in answers.items}
        for name in set(names):
            if name is not None and known and name not in known:
                raise MalformedRequest(
                    f"no version of this model has an output {name!r} to compare labels with; "
                    f"there are {', '.join(sorted(known))}"
                )

    def _resolve_labels(self, now_s: float, wall_ns: int) -> None:
        start = max(self._label_looked, self._head - self._size, 0)
        self._label_looked = self._head
        new = self._keys[np.arange(start, self._head) % self._size].tolist()
        hits = list(self._waiting.keys() & set(new)) if new else []
        for key, slot in zip(hits, self._find(np.array(hits, np.uint64)).tolist(), strict=True):
            label = self._waiting.pop(key)
            try:
                self._join(slot, label.output, label.value, wall_ns)
            except MalformedRequest:  # only now known: the caller is gone
                self._count(int(self._version[slot]), "expired")
        while self._waiting:  # oldest first, and all wait equally long
            key = next(iter(self._waiting))
            if now_s < self._waiting[key].until_s:
                return
            del self._waiting[key]
            self._count(0, "expired")

    def _code(self, slot: int, output: str | None, value: object) -> tuple[int, float] | None:
        """Which answer of the row a label is for, and its value there; None where the version says nothing of it."""
        answers = self._answers[int(self._version[slot])]
        place = answers.find(output)
        return None if place is None else (place, answers.code(place, value))

    def _join(self, slot: int, output: str | None, value: object, wall_ns: int) -> str:
        version = int(self._version[slot])
        coded = self._code(slot, output, value)
        if coded is None or self._ambiguous[slot] or self._label_at[slot] >= 0:
            outcome = "expired" if coded is None else "ambiguous"
            self._count(version, outcome)
            return outcome
        self._label_at[slot], self._label[slot] = coded
        self._count(version, "joined")
        self._live_error(version, slot, self._said)
        if self._other_version[slot]:
            self._live_error(int(self._other_version[slot]), slot, self._other)
            self._judge(slot, wall_ns)
        return "joined"

    def _live_error(self, version: int, slot: int, said: NDArray[np.float64]) -> None:
        place = int(self._label_at[slot])
        answers, own = self._answers[version], int(self._version[slot])
        if version != own:
            places = dict(align(self._answers[own], answers))
            if place not in places:
                return
            place = places[place]
        answer = answers.items[place]
        value, label = float(said[slot, place]), float(self._label[slot])
        loss = float(value != label) if answer.kind == "class" else abs(value - label)
        if loss == loss:
            live = self.live.setdefault((version, answer.name), LiveError(answer.kind))
            live.n += 1
            live.total += loss
            if self._labelled is not None:
                role = ROLES[int(self._role[slot])] if version == own else Role.SHADOW
                self._labelled(version, role, answer.name, answer.kind == "class", loss)

    def _judge(self, slot: int, wall_ns: int) -> None:
        """A labelled pair: who is farther from the label? Counted while a rollout compares these two versions."""
        watch = self.watch
        if watch is None or (self._version[slot], self._other_version[slot]) != (watch.champion, watch.candidate):
            return
        places = dict(self._aligned())
        place = int(self._label_at[slot])
        if place not in places:
            return
        label = float(self._label[slot])
        left, right = float(self._said[slot, place]), float(self._other[slot, places[place]])
        if self._answers[watch.champion].items[place].kind == "class":
            champion, candidate = float(left != label), float(right != label)
        else:
            champion, candidate = (abs(x - label) if x == x else float("inf") for x in (left, right))
        if candidate > champion:
            self.pairs.farther += 1
        elif candidate < champion:
            self.pairs.closer += 1
        else:
            self.pairs.ties += 1
        self.pairs.label_wall_ns = wall_ns

    def _count(self, version: int, outcome: str) -> None:
        self.outcomes[version, outcome] = self.outcomes.get((version, outcome), 0) + 1

    @property
    def waiting(self) -> int:
        """Labelled rows that wait for their prediction."""
        return len(self._waiting)

    @property
    def remembered(self) -> int:
        """Answers in memory."""
        return min(self._head, self._size)

    # -- the ring and its index ------------------------------------------------------------------------------------

    @property
    def _oldest(self) -> int:
        """The number of the first answer in memory."""
        return max(0, self._head - self._size)

    def _find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The ring's slots of these keys, -1 where there is none. An id that repeats in memory is marked."""
        newest, eldest = self._index.find(keys, self._oldest)
        repeated = newest != eldest
        if repeated.any():  # nothing that carries it is joined
            self._ambiguous[newest[repeated] % self._size] = self._ambiguous[eldest[repeated] % self._size] = True
        return np.where(newest < 0, -1, newest % self._size)

    def _resize(self, size: int) -> None:
        """Grow the ring, before it has ever wrapped, or widen its answers."""
        for name in ("_keys", "_version", "_role", "_other_version", "_label", "_label_at", "_ambiguous"):
            old = getattr(self, name)
            new = np.zeros(size, old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)
        for name in ("_said", "_other"):
            old = getattr(self, name)
            wide = np.full((size, self._width), np.nan)
            wide[: old.shape[0], : old.shape[1]] = old
            setattr(self, name, wide)
        self._size = size
