"""The monitor: drains the lanes, counts, joins, and stores what it counted with the positions that it stands for.

Why: one place turns rows into counts, so that everything after it is a function of counts. Invariants: a row is counted
in exactly one tile, whatever is killed when: a lane's space is given back only after the transaction that stored its
counts; a step is bounded to half a second; nothing here can slow a worker but by a full lane, which the worker counts.
Called by the controller under its lock: `step` at each tick, `checkpoint` when a step says so and at the end.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from monitor.answers import Answers
from monitor.block import Rows
from monitor.counts import BinSet, Counter, Counts
from monitor.drains import Drains, LaneKey
from monitor.join_counts import LiveError, PairCounts, RolloutWatch
from monitor.joins import JoinMemory
from monitor.lane import LaneReader, LaneStatistics
from monitor.lane_file import LaneHeader
from monitor.pauses import pause
from monitor.record import ERROR, ROLE_CODES, LogSchema
from monitor.settings import MonitorSettings
from monitor.store import MonitorStore, Saved, StateKey, Told
from monitor.windows import VersionBins, Window, Windows
from registry.clock import Clock
from registry.errors import StateDamaged
from registry.vocabulary import Role

logger = logging.getLogger(__name__)

# Of draining in one step, and in one that evaluates and stores too: at least one block, and no block that will hardly
# fit; if rows are left the next step comes at once. Of processor time: on a core that a worker fills, a clock on the
# wall would end each step early and call for another.
STEP_S, SHORT_S = 0.02, 0.01
LONGEST_S = 0.25  # of a step's draining, by the clock on the wall
CHECKPOINT_S = 1.0
READ_ROWS, READ_BYTES = 8192, 2_000_000  # of one block: some milliseconds' counting, however wide its rows are
LEAST_PAUSE_S, FILL = 0.02, 0.25  # steps come so often that no lane gets fuller than this between two
AGAIN_S = 0.05  # until the next step where evaluations or looks are left
MUCH_S = 0.01  # after which the next step goes on: draining, evaluating and storing wide rows take as long each
OLDEST_TILE_S = 3600  # a row that waited longer is counted into the tile of an hour ago
PRUNE_S = 600.0
ROLLS = 4  # tiles added up to wider ones in one checkpoint

_Stage = Literal["drain", "ask", "judge", "store"]
_STAGES: tuple[_Stage, ...] = get_args(_Stage)

BinsOf = Callable[[str, int], VersionBins | None]
_ARMS = {Role.CHAMPION: "champion", Role.CANARY: "canary", Role.SHADOW: "shadow"}


@dataclass
class RolloutSeen:
    """What was seen of one rollout since it began: pairs and labels, and each arm's outputs in the champion's bins."""

    watch: RolloutWatch
    pairs: PairCounts
    outputs: dict[str, Counts] = field(default_factory=dict)  # champion, canary, shadow; empty without a profile


@dataclass(frozen=True)
class MonitorSnapshot:
    """All that metrics and the controller read. Cumulative since the monitor started, where a store does not go on."""

    lanes: dict[LaneKey, LaneStatistics]
    records: int  # rows counted
    damaged_lanes: int
    failures: int  # of judging drift
    rollouts: dict[str, RolloutSeen]  # by model
    labels: dict[tuple[str, int, str], int]  # (model, version or 0 if unknown, outcome) → rows
    labels_waiting: dict[str, int]
    live_error: dict[tuple[str, int, str], LiveError]  # (model, version, output)


@dataclass
class _Version:
    """How one version's rows are counted."""

    schema: LogSchema
    bins: VersionBins
    inputs: Counter
    outputs: Counter
    answers: Answers


class Listener(Protocol):
    """Who else looks at what is counted: detectors, the self-audit, drills. Called in the monitor's thread."""

    @property
    def failures(self) -> int:
        """How often it failed for one version, and went on with the others."""
        ...

    def counted(self, header: LaneHeader, rows: Rows, inputs: Counts, outputs: Counts) -> None:
        """These answered rows were counted, so; the listener changes neither."""
        ...

    def labelled(self, model: str, version: int, role: Role, output: str, is_class: bool, loss: float) -> None:
        """A label was joined with what a version said: 0 or 1 of a class, the absolute error of a number."""
        ...

    def ask(self) -> None:
        """Ask sampled rows what they say as a whole, for some milliseconds: what is left waits for `unsaved`."""
        ...

    def judge(self, now_s: float) -> bool:
        """Evaluate what was counted, for some milliseconds: whether nothing is left to evaluate.

        Once in CHECKPOINT_S, right before a checkpoint, and in the next steps until nothing is left.
        """
        ...

    def look(self) -> bool:
        """Go on looking at windows, for some milliseconds: whether nothing is left to look at."""
        ...

    def unsaved(self) -> tuple[Mapping[StateKey, bytes], Sequence[Told]]:
        """What changed since `saved`, to be stored with the counts that it came from."""
        ...

    def saved(self) -> None:
        """What `unsaved` gave is in the database now."""
        ...


_ArmCounter = tuple[Counter, list[int] | None]  # None: the columns are in the order of the bins


class Monitor:
    """Owned by one controller. One thread at a time."""

    def __init__(
        self,
        run: Path,
        store: MonitorStore,
        settings: MonitorSettings,
        clock: Clock,
        bins_of: BinsOf,
        listener: Listener | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._bins_of = bins_of
        self._listener = listener
        self._drains = Drains(run / "lanes")
        self._versions: dict[tuple[str, int], _Version] = {}
        self._memories: dict[str, JoinMemory] = {}
        self._rollouts: dict[str, RolloutSeen] = {}
        self._rollout_counters: dict[str, tuple[BinSet, dict[tuple[int, str], _ArmCounter]]] = {}
        self._positions: dict[str, int] = {}
        self._evidence: dict[tuple[str, str], Mapping[str, Any]] = {}  # as last stored
        self._due_s = clock.now_s()  # when the last checkpoint was due
        self._judging = False  # versions are left that the last step had no time to evaluate
        self._stage: _Stage = "drain"  # with which the next step begins
        self._is_due = self._is_storing = False  # what was drained last is to be judged; is to be stored
        self._passed_over: LaneReader | None = None  # the first lane that the last step had no time for
        self._pruned_s = clock.now_s()
        self._rolled_s = 0
        self._stepped_s = self._resolved_s = clock.now_s()
        self.pause_s = self._rest_s = math.inf  # at most so long until the next step, or a lane gets full
        self.records = 0
        self.failures = 0  # of judging drift
        self.windows = Windows(settings.tile_s, store.tiles)

    # -- life ------------------------------------------------------------------------------------------------------

    def resume(self) -> None:
        """Go on where the last checkpoint stood: positions, running rollouts, and answers still to be joined."""
        self._positions = self._store.positions()
        for document in self._store.watches():
            watch = RolloutWatch(**document["watch"])
            bins = document.get("bins")
            self.begin_rollout(watch, BinSet.from_list(bins) if bins is not None else None)
        opened = self._drains.look(self._positions)
        for reader in opened:
            if reader.header.role is not Role.SHADOW:
                self._remember(reader, reader.history(self._settings.join_memory_rows))
        keys = {reader.header.key for reader in opened}
        self._store.forget_lanes([lane for lane in self._positions if lane not in keys])

    def step(self, now_s: float) -> None:
        """Drain what waits, for a bounded time; count and join it; evaluate, and checkpoint when that is due.

        A step that has spent much leaves the other stages to the next one, which comes at once.
        """
        self._drains.look(self._positions)
        began_s, spent_s = self._clock.now_s(), self._clock.spent_s()
        first, self._stage = self._stage, "drain"
        if first == "drain":
            self._is_due = began_s - self._due_s >= CHECKPOINT_S
            more, is_pressed = self._drain(began_s, SHORT_S if self._is_due or self._judging else STEP_S, now_s)
            self._is_storing, self._rest_s = self._is_due or is_pressed, self.pause_s
            if not more or began_s - self._resolved_s >= CHECKPOINT_S:  # else the next step reads on
                self._resolved_s = began_s
                wall_ns = self._clock.wall_ns()
                for memory in self._memories.values():
                    memory.resolve(now_s, wall_ns)
        for stage in _STAGES[max(1, _STAGES.index(first)) :]:
            pause()
            if stage != first and self._clock.spent_s() - spent_s > MUCH_S:
                self._stage, self.pause_s = stage, 0.0
                return
            if stage == "ask" and self._is_storing:
                self._ask()
            elif stage == "judge" and not self._judge(now_s, spent_s + SHORT_S):
                self._rest_s = min(self._rest_s, AGAIN_S)
            elif stage == "store" and self._is_storing:
                self.checkpoint()
        if self._is_due:
            self._due_s = began_s
        self.pause_s = self._rest_s

    def _drain(self, began_s: float, most_s: float, now_s: float) -> tuple[bool, bool]:
        """Count what waits: whether more is left, and whether a lane's space is to be given back soon.

        Each lane gives a block in its turn, and those that the last step had no time for come first.
        """
        until_s, spent_s = began_s + LONGEST_S, self._clock.spent_s()
        spent_until_s, longest_s = spent_s + most_s, 0.0
        block_bytes = round(READ_BYTES * most_s / STEP_S)
        goals: dict[LaneReader, int] = {}  # what waited when the step came to a lane: what comes meanwhile waits
        more, is_pressed, is_time, fullest = True, False, False, 0.0
        while more and not (is_pressed or is_time):
            ready = list(self._drains.ready())
            first = ready.index(self._passed_over) if self._passed_over in ready else 0
            more, self._passed_over = first > 0, None
            for reader in ready[first:]:
                if reader.position >= goals.setdefault(reader, reader.position + reader.waiting):
                    continue
                if is_time:
                    self._passed_over = reader
                    break
                rows = reader.read(min(READ_ROWS, block_bytes // reader.slot_bytes))
                pause()
                if len(rows):
                    self._count(reader, rows, now_s)
                    pause()
                    more = True
                    fullest = max(fullest, (reader.waiting + len(rows)) / reader.capacity)
                before_s, spent_s = spent_s, self._clock.spent_s()
                longest_s = max(longest_s, spent_s - before_s)
                is_pressed = is_pressed or self._drains.is_pressed
                is_time = spent_s + longest_s > spent_until_s or self._clock.now_s() >= until_s
        more = more and (self._passed_over is not None or any(lane.position < goal for lane, goal in goals.items()))
        elapsed_s, self._stepped_s = began_s - self._stepped_s, began_s
        self.pause_s = 0.0 if more else max(LEAST_PAUSE_S, FILL * elapsed_s / fullest) if fullest else math.inf
        return more, is_pressed

    def _ask(self) -> None:
        """What rows say as a whole is found before they are judged and stored: of wide ones that takes a while."""
        if self._listener is not None:
            self._listener.ask()

    def _judge(self, now_s: float, spent_until_s: float) -> bool:
        """Evaluate and look at windows: whether nothing is left. A step that stores looks only if it was short."""
        if self._listener is None:
            return True
        try:
            if self._is_due or self._judging:
                self._judging = False
                self._judging = not self._listener.judge(now_s)
            if self._is_storing and self._clock.spent_s() >= spent_until_s:
                return False
            return self._listener.look() and not self._judging
        except Exception:  # counting goes on: rollouts need it
            self.failures += 1
            logger.exception("drift could not be judged")
            return True

    def checkpoint(self) -> None:
        """Store positions, tiles and evidence in one transaction, then give the lanes' space back."""
        positions = self._drains.positions()
        moved = {lane: at for lane, at in positions.items() if self._positions.get(lane) != at}
        evidence = {key: document for key, document in self._documents() if self._evidence.get(key) != document}
        wall_s = self._wall_s()
        if self._rolled_s != self.windows.start_of(wall_s) and self.windows.roll_up(wall_s, ROLLS) < ROLLS:
            self._rolled_s = self.windows.start_of(wall_s)
        tiles, removed = self.windows.dirty(), self.windows.removed()
        states, events = self._listener.unsaved() if self._listener is not None else ({}, ())
        if moved or tiles or evidence or states or events:
            pause()
            self._store.save(Saved(tiles, moved, evidence, removed, states, events), self._clock.wall_ns())
            self.windows.stored()
            if self._listener is not None:
                self._listener.saved()
            self._positions.update(moved)
            self._evidence.update(evidence)
        pause()
        self._drains.release()
        stored_s = self._clock.now_s()
        if stored_s - self._pruned_s >= PRUNE_S:
            self._pruned_s = stored_s
            self._store.prune(self._wall_s() - self._settings.keep_tiles_h * 3600)
            for version in self._drains.ended():
                self._versions.pop(version, None)
                self.windows.forget(*version)
            gone = self._positions.keys() - self._drains.keys()
            self._store.forget_lanes(gone)
            for lane in gone:
                del self._positions[lane]

    def close(self) -> None:
        """A last checkpoint, then let the lanes go."""
        self.checkpoint()
        self._drains.close()

    # -- rollouts, versions and labels -----------------------------------------------------------------------------

    def begin_rollout(self, watch: RolloutWatch, output_bins: BinSet | None) -> None:
        """Pair and count for this rollout, going on from what was stored of it. Idempotent.

        `output_bins` are the champion's, for all arms; None without a profile.
        """
        running = self._rollouts.get(watch.model)
        if running is not None and running.watch.id == watch.id:
            return
        self._rollout_counters.pop(watch.model, None)
        stored = self._store.evidence(watch.id)
        pairs = PairCounts.from_dict(stored.get("pairs", {}))
        outputs: dict[str, Counts] = {}
        if output_bins is not None:
            for arm in _ARMS.values():
                document = stored.get(f"outputs.{arm}")
                try:
                    known = Counts.from_dict(document, output_bins) if document is not None else None
                except StateDamaged:  # the champion has another profile since: its counts begin anew
                    known = None
                outputs[arm] = known or Counts.empty(output_bins)
            self._rollout_counters[watch.model] = (output_bins, {})
        self._rollouts[watch.model] = RolloutSeen(watch, pairs, outputs)
        self._memory(watch.model).begin(watch, pairs)

    def end_rollout(self, model: str) -> None:
        """No rollout of this model is judged any more. Its counts stay in the store."""
        if model in self._rollouts:
            self.checkpoint()
            seen = self._rollouts.pop(model)
            self._rollout_counters.pop(model, None)
            self._evidence = {key: doc for key, doc in self._evidence.items() if key[0] != seen.watch.id}
            self._memory(model).end()

    def refresh(self, model: str, version: int) -> None:
        """The version has another profile, or is loaded again: ask for its bins anew."""
        self.checkpoint()
        self._versions.pop((model, version), None)
        self._drains.revive(model, version)

    def retire(self, model: str, version: int) -> None:
        """No worker has the version any more: its lanes are removed once they are drained."""
        self._drains.retire(model, version)

    def feedback(self, model: str, labels: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        """Take delayed labels: how many rows were joined, wait, are ambiguous, expired. Raises MalformedRequest."""
        return self._memory(model).feedback(labels, self._clock.now_s(), self._clock.wall_ns())

    # -- reading ---------------------------------------------------------------------------------------------------

    def bins(self, model: str, version: int) -> VersionBins | None:
        """The bins that the version's rows are counted in, once a row was seen or a profile is known."""
        known = self._versions.get((model, version))
        return known.bins if known is not None else self._bins_of(model, version)

    def window(self, model: str, version: int, seconds: int, roles: Sequence[str] | None = None) -> Window | None:
        """The last so many seconds of a version, rounded up to whole tiles; None if nothing is known of it."""
        now_s = self._wall_s()
        return self.span(model, version, self.windows.start_of(now_s - max(seconds - 1, 0)), now_s + 1, roles)

    def span(
        self, model: str, version: int, since_s: int, until_s: int, roles: Sequence[str] | None = None
    ) -> Window | None:
        """The tiles of a version that touch this time; None if nothing is known of it."""
        bins = self.bins(model, version)
        return None if bins is None else self.windows.window(model, version, bins, since_s, until_s, roles)

    def rollout(self, model: str) -> RolloutSeen | None:
        """What was seen of the model's running rollout."""
        return self._rollouts.get(model)

    def snapshot(self) -> MonitorSnapshot:
        """Copies of all counts, for metrics and the controller."""
        labels: dict[tuple[str, int, str], int] = {}
        live: dict[tuple[str, int, str], LiveError] = {}
        for model, memory in self._memories.items():
            labels.update({(model, version, outcome): n for (version, outcome), n in memory.outcomes.items()})
            live.update({(model, version, output): replace(e) for (version, output), e in memory.live.items()})
        return MonitorSnapshot(
            lanes=self._drains.statistics(),
            records=self.records,
            damaged_lanes=self._drains.damaged,
            failures=self.failures + (0 if self._listener is None else self._listener.failures),
            rollouts={
                model: RolloutSeen(
                    seen.watch, replace(seen.pairs), {arm: counts.copy() for arm, counts in seen.outputs.items()}
                )
                for model, seen in self._rollouts.items()
            },
            labels=labels,
            labels_waiting={model: memory.waiting for model, memory in self._memories.items()},
            live_error=live,
        )

    # -- counting --------------------------------------------------------------------------------------------------

    def _count(self, reader: LaneReader, rows: Rows, now_s: float) -> None:
        header = reader.header
        version = self._version(header.model, header.version, header.schema)
        self.records += len(rows)
        failed = (rows["flags"] & ERROR) != 0
        some_failed = bool(failed.any())
        good = rows[~failed] if some_failed else rows
        key = (header.model, header.version, str(header.role))
        if len(good):
            for start_s, part in self._by_tile(good):
                tile = self.windows.tile(key, version.bins, start_s)
                inputs, outputs = version.inputs.count(part["features"]), version.outputs.count(part["outputs"])
                pause()
                tile.inputs.merge(inputs)
                tile.outputs.merge(outputs)
                self._count_arm(header.model, header.version, header.role, part["outputs"], outputs, version)
                if self._listener is not None:
                    self._listener.counted(header, part, inputs, outputs)
                pause()
        if some_failed:
            for start_s, part in self._by_tile(rows[failed]):
                self.windows.tile(key, version.bins, start_s).errors += len(part)
        memory = self._memory(header.model)
        memory.learn(header.version, version.answers)
        if header.role is Role.SHADOW:
            said = version.answers.reduce(rows["outputs"])
            memory.add_shadow(header.version, rows["hash0"], rows["row"], said, failed, now_s)
        else:
            self._add(memory, header.version, header.role, good, version.answers)

    def _remember(self, reader: LaneReader, rows: Rows) -> None:
        """Rows that are counted already, for the joins alone."""
        if len(rows):
            header = reader.header
            version = self._version(header.model, header.version, header.schema)
            memory = self._memory(header.model)
            memory.learn(header.version, version.answers)
            self._add(memory, header.version, header.role, rows[(rows["flags"] & ERROR) == 0], version.answers)

    @staticmethod
    def _add(memory: JoinMemory, version: int, role: Role, rows: Rows, answers: Answers) -> None:
        memory.add(version, ROLE_CODES[role], rows["hash0"], rows["row"], answers.reduce(rows["outputs"]))

    def _count_arm(
        self, model: str, version: int, role: Role, outputs: NDArray[Any], counted: Counts, known: _Version
    ) -> None:
        """The same rows in the champion's bins, which often are those that they are counted in already."""
        seen = self._rollouts.get(model)
        if seen is None or not seen.outputs or role not in _ARMS:
            return
        if version != (seen.watch.champion if role is Role.CHAMPION else seen.watch.candidate):
            return
        bins, counters = self._rollout_counters[model]
        into = seen.outputs[_ARMS[role]]
        if counted.bins is bins:
            into.merge(counted)
            return
        if outputs.shape[1] != len(bins.columns):
            return  # the candidate says other things than the champion: there is nothing to compare
        key = (version, outputs.dtype.str)
        if key not in counters:
            counters[key] = Counter(bins, key[1]), _order(known.schema, bins)
        counter, order = counters[key]
        counter.add(into, outputs if order is None else outputs[:, order])

    def _by_tile(self, rows: Rows) -> list[tuple[int, Rows]]:
        width_ns = self.windows.width_s * 1_000_000_000
        tiles = rows["wall_ns"] // width_ns
        first = int(tiles[0])
        if (tiles == first).all():
            return [(self._clamp(first * self.windows.width_s), rows)]
        return [
            (self._clamp(int(tile) * self.windows.width_s), rows[tiles == tile]) for tile in np.unique(tiles).tolist()
        ]

    def _clamp(self, wall_s: int) -> int:
        now_s = self._wall_s()
        return min(max(wall_s, now_s - OLDEST_TILE_S), now_s)

    def _version(self, model: str, version: int, schema: LogSchema) -> _Version:
        known = self._versions.get((model, version))
        if known is None or (known.schema is not schema and known.schema != schema):
            bins = self._bins_of(model, version)
            if bins is None or (len(bins.inputs.columns), len(bins.outputs.columns)) != (
                len(schema.inputs),
                len(schema.outputs),
            ):
                if bins is not None:
                    logger.warning("the profile of %s:%d is of other columns than its rows", model, version)
                without = BinSet.without_profile
                bins = VersionBins(without(schema.inputs), without(schema.outputs), has_profile=False)
            known = _Version(
                schema,
                bins,
                Counter(bins.inputs, schema.input_dtype),
                Counter(bins.outputs, schema.output_dtype),
                Answers(schema),
            )
            self._versions[model, version] = known
        return known

    def _memory(self, model: str) -> JoinMemory:
        memory = self._memories.get(model)
        if memory is None:
            s = self._settings
            told = None if self._listener is None else partial(self._listener.labelled, model)
            memory = self._memories[model] = JoinMemory(s.join_memory_rows, s.label_memory, s.label_wait_s, told)
        return memory

    def _documents(self) -> list[tuple[tuple[str, str], Mapping[str, Any]]]:
        documents: list[tuple[tuple[str, str], Mapping[str, Any]]] = []
        for seen in self._rollouts.values():
            bins = self._rollout_counters.get(seen.watch.model)
            watch = {name: getattr(seen.watch, name) for name in ("id", "model", "champion", "candidate")} | {
                "tolerances": dict(seen.watch.tolerances)
            }
            listed = bins[0].to_list() if bins is not None else None
            documents.append(((seen.watch.id, "watch"), {"watch": watch, "bins": listed}))
            documents.append(((seen.watch.id, "pairs"), seen.pairs.to_dict()))
            documents += [((seen.watch.id, f"outputs.{arm}"), c.to_dict()) for arm, c in seen.outputs.items()]
        return documents

    def _wall_s(self) -> int:
        return self._clock.wall_ns() // 1_000_000_000


def _order(schema: LogSchema, bins: BinSet) -> list[int] | None:
    """Where each column of these bins lies in a version's outputs, when it has the same columns in another order.

    Classes come in each version's own order. Columns of other names are compared by place.
    """
    theirs, ours = [column.name for column in schema.outputs], [column.name for column in bins.columns]
    if theirs == ours or len(set(ours)) < len(ours) or set(theirs) != set(ours):
        return None
    return [theirs.index(name) for name in ours]
