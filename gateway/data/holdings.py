"""The versions that a worker holds in memory: loaded ahead or when a request wants one, within a memory budget.

Invariants. A version is loaded once however many requests wait for it. It is READY after it can be leased, and closes
only when nothing uses it any more. The process's resident memory stays under the budget: what would not fit makes the
least recently used versions leave first (`residency.py` decides), and is refused where nothing may leave.

A version is LOADING, READY, FAILED or AVAILABLE (known, not in memory, loaded when it is asked for). Only the first
three, and what is still being let go of, are told in the page. One that FAILED is tried again, ever more rarely, and is
FAILED meanwhile: a full disk, a file that was away or memory that others had must not take it out for ever. Event loop
only; sessions open and close on one thread beside it, so that each one's memory can be measured.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter_ns

from gateway.data.load_waits import LoadWait, LoadWaits, Then
from gateway.data.memory import Memory
from gateway.data.page import WorkerPage
from gateway.data.residency import Key, Resident, foresee, leavers
from gateway.data.routes import AspiredVersion
from gateway.data.traffic import Loaded
from gateway.settings import LoadSettings
from registry import onnx
from registry.clock import Clock
from registry.errors import NotReady, Overloaded, ServingError
from registry.vocabulary import LoadState

logger = logging.getLogger(__name__)

_WANTED, _AHEAD = 0, 1  # what somebody waits for is loaded before what is loaded ahead of requests
_ROOM_TRIES, _ROOM_PAUSE_S = 20, 0.05  # how long a load waits for leases to come back
_AGAIN_S, _MOST_AGAIN_S = 10.0, 600.0  # until a load that failed is tried again, doubled each time
_MEAN_LOAD_S = 0.05  # before any was measured


@dataclass(slots=True)
class Holding:
    """One loaded version."""

    loaded: Loaded
    size_bytes: int
    used_s: float


@dataclass(slots=True)
class _Failed:
    """A version that could not be loaded."""

    again_s: float  # when it is tried again
    pause_s: float
    is_queued: bool = False


@dataclass(slots=True)
class _Counts:
    loads: int = 0
    load_s: float = 0.0


class Holdings:
    """What is loaded here. `open_version` runs on the load thread; `attach` makes a loaded version ready to answer."""

    def __init__(
        self,
        page: WorkerPage,
        loop: asyncio.AbstractEventLoop,
        settings: LoadSettings,
        memory: Memory,
        clock: Clock,
        open_version: Callable[[Key, AspiredVersion], Loaded],
        attach: Callable[[Holding], None],
    ) -> None:
        self.loaded: dict[str, dict[int, Loaded]] = {}
        self.states: dict[Key, LoadState] = {}
        self.now_s = clock.now_s()  # of the last heartbeat: precise enough to tell who was used last
        self.on_change: Callable[[str], None] = lambda _model: None  # what is loaded of this model has changed
        self.on_gone: Callable[[str, int], None] = lambda _model, _version: None
        self._page = page
        self._loop = loop
        self._settings = settings
        self._memory = memory
        self._clock = clock
        self._open_version = open_version
        self._attach = attach
        self._thread = ThreadPoolExecutor(
            max_workers=1,
            thread_name_prefix="load",
            initializer=onnx.runtime_version,  # imports onnxruntime, which no version is to be charged for
        )
        self._wanted: Mapping[Key, AspiredVersion] = {}
        self._holdings: dict[Key, Holding] = {}
        self._leaving: list[tuple[Key, Loaded]] = []  # let go of and still used; of one version there may be two
        self._sizes: dict[Key, int] = {}  # of versions that have been loaded, also of those that left
        self._failed: dict[Key, _Failed] = {}
        self._lazy: set[Key] = set()  # may be out of memory while they are served
        self._queue: list[tuple[int, int, Key]] = []
        self._asked: set[Key] = set()  # of those in the queue, the ones that somebody wants now
        self._turn = 0
        self._waits = LoadWaits(loop)
        self._worker: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Future[None]] = set()
        self._counts = _Counts()

    # ---- what ought to be loaded

    def want(self, wanted: Mapping[Key, AspiredVersion]) -> None:
        """Follow the route table: begin to load what it wants in memory, let go what it no longer names."""
        self._wanted = wanted
        for key in [key for key in self.states if key not in wanted]:
            self._forget(key)
        for key, spec in wanted.items():
            state = self.states.get(key)
            if state is None and not spec.resident and self._settings.when == "request":
                self._put_off(key)
            elif state is None or (state is LoadState.AVAILABLE and spec.resident):
                self._begin(key, _WANTED if spec.resident else _AHEAD)
            elif state is LoadState.LOADING and spec.resident and key in self._lazy:
                self._push(key, _WANTED)
            if spec.resident:
                self._lazy.discard(key)

    def is_lazy(self, key: Key) -> bool:
        """Whether the version is served although it need not be in memory: a request waits for its load."""
        return key in self._lazy and self.states.get(key) in (LoadState.AVAILABLE, LoadState.LOADING)

    def keys(self) -> set[Key]:
        """Every version that is wanted, or still being let go of."""
        return {*self._wanted, *(key for key, _ in self._leaving)}

    def load_soon(self, key: Key) -> None:
        """A request has asked for this version: load it, before what is loaded ahead of requests."""
        state = self.states.get(key)
        if state is LoadState.AVAILABLE:
            self._begin(key, _WANTED)
        elif state is LoadState.LOADING and key not in self._asked:
            self._push(key, _WANTED)

    def when_loaded(self, key: Key, timeout_s: float | None, otherwise: NotReady, then: Then) -> LoadWait | None:
        """Call `then` with None when the version can be leased, which it must be at once; or with why it cannot.

        That is Overloaded where no room can be made, DeadlineExceeded, or what the load raised. None: it is loaded, and
        `then` is not called. Raises `otherwise` for what is not being loaded and need not be, Overloaded when too many
        wait.
        """
        state = self.states.get(key)
        if state is LoadState.READY:
            return None
        if state is not LoadState.LOADING and state is not LoadState.AVAILABLE:
            raise otherwise
        if self._waits.count >= self._settings.waiting_requests:
            self._page.count_refused_load()
            raise Overloaded(
                f"{self._waits.count} requests wait for models to be loaded already", retry_after_s=self._expected_s()
            )
        self.load_soon(key)
        most_s = self._settings.wait_s if timeout_s is None else min(timeout_s, self._settings.wait_s)
        return self._waits.add(key, most_s, then)

    # ---- for the heartbeat

    def look(self) -> None:
        """Let go what nothing uses any more, keep to the budget, and say what there is."""
        self.now_s = self._clock.now_s()
        unused = [one for one in self._leaving if not _is_used(one[1])]
        if unused:
            self._close(unused)
        for key, failed in self._failed.items():
            if self.now_s >= failed.again_s and not failed.is_queued:
                failed.is_queued = True
                self._push(key, _WANTED if self._wanted[key].resident else _AHEAD)
        budget, used = self._settings.memory_budget_bytes, self._used_bytes()
        if budget and used > budget and self._worker is None and not self._closing:
            leaving, _ = self._leavers(used - budget)
            if leaving:
                self._evict(leaving)
        self._page.set_memory(
            used_bytes=used, budget_bytes=budget, loaded=len(self._holdings), waiting=self._waits.count
        )

    def close(self) -> None:
        """Stop loading. Sessions go with the process."""
        if self._worker is not None:
            self._worker.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    # ---- loading

    def _begin(self, key: Key, order: int) -> None:
        self.states[key] = LoadState.LOADING
        self._page.set_load(*key, LoadState.LOADING)
        self._push(key, order)

    def _put_off(self, key: Key) -> None:
        self.states[key] = LoadState.AVAILABLE
        self._lazy.add(key)
        self._page.clear_load(*key)

    def _push(self, key: Key, order: int) -> None:
        self._turn += 1
        if order == _WANTED:
            self._asked.add(key)
        heapq.heappush(self._queue, (order, self._turn, key))
        if self._worker is None:
            self._worker = self._loop.create_task(self._work())
            self._worker.add_done_callback(self._worked)

    async def _work(self) -> None:
        while self._queue:
            _, _, key = heapq.heappop(self._queue)
            if not self._is_to_load(key):  # it was loaded for somebody else, or is not wanted
                self._asked.discard(key)
            else:
                try:
                    await self._load(key, self._wanted[key])
                except Exception as error:  # a bug of ours: the next version is loaded all the same
                    logger.exception("%s:%d could not be loaded", *key)
                    self._fail(key, NotReady(f"version {key[1]} of model {key[0]!r} could not be loaded: {error}"))
                await asyncio.sleep(0)  # who waited leases it before room is made for the next

    def _worked(self, task: asyncio.Task[None]) -> None:
        self._worker = None
        if self._queue and not task.cancelled():
            self._worker = self._loop.create_task(self._work())
            self._worker.add_done_callback(self._worked)

    async def _load(self, key: Key, spec: AspiredVersion) -> None:
        is_asked = key in self._asked
        self._asked.discard(key)
        need = foresee(spec.file_bytes, self._sizes.get(key))
        if not await self._make_room(need.peak_bytes, evicts=is_asked):
            self._refuse(key, spec, need.kept_bytes)
            return
        began_ns = perf_counter_ns()
        try:
            loaded, size_bytes = await self._loop.run_in_executor(self._thread, self._open, key, spec)
        except (ServingError, OSError, ValueError, KeyError) as error:
            logger.error("%s:%d cannot be loaded: %s", *key, error)
            self._page.count_load((perf_counter_ns() - began_ns) // 1000, failed=True)
            known = error if isinstance(error, ServingError) else None
            self._fail(key, known or NotReady(f"version {key[1]} of model {key[0]!r} cannot be loaded: {error}"))
            return
        load_us = (perf_counter_ns() - began_ns) // 1000
        self._page.count_load(load_us)
        self._counts.loads += 1
        self._counts.load_s += load_us / 1e6
        if not self._is_to_load(key):
            return  # no longer wanted
        self._failed.pop(key, None)
        size_bytes = size_bytes or need.kept_bytes
        self._sizes[key] = size_bytes
        holding = self._holdings[key] = Holding(loaded, size_bytes, self._clock.now_s())
        self._attach(holding)
        self.loaded.setdefault(key[0], {})[key[1]] = loaded
        self.states[key] = LoadState.READY
        self.on_change(key[0])
        elsewhere = loaded.servable.elsewhere
        self._page.set_load(*key, LoadState.READY, elsewhere, size_bytes=size_bytes, load_us=load_us)
        logger.info("%s:%d is ready: %.1f MB in %.0f ms", *key, size_bytes / 1e6, load_us / 1e3)
        if elsewhere:
            logger.warning("%s:%d: %s", *key, elsewhere)
        self._waits.release(key, None)

    def _open(self, key: Key, spec: AspiredVersion) -> tuple[Loaded, int]:
        """On the load thread: the loaded version and what it took. Requests that run meanwhile blur it a little."""
        with self._memory.apart():
            before = self._memory.own_bytes()
            loaded = self._open_version(key, spec)
        self._memory.give_back()  # of the file and its parsed form, as large as the session itself
        return loaded, max(0, self._memory.own_bytes() - before)

    def _is_to_load(self, key: Key) -> bool:
        return self.states.get(key) is LoadState.LOADING or key in self._failed

    def _fail(self, key: Key, error: ServingError) -> None:
        if self._is_to_load(key):
            known = self._failed.get(key)
            pause_s = _AGAIN_S if known is None else min(2 * known.pause_s, _MOST_AGAIN_S)
            self._failed[key] = _Failed(self._clock.now_s() + pause_s, pause_s)
            self.states[key] = LoadState.FAILED
            self._page.set_load(*key, LoadState.FAILED, error.message)
        self._waits.release(key, error)

    def _refuse(self, key: Key, spec: AspiredVersion, size_bytes: int) -> None:
        """There is no room, and nothing that may leave."""
        budget = self._settings.memory_budget_bytes
        text = (
            f"about {size_bytes >> 20} MiB do not fit: the memory budget is {budget >> 20} MiB, and all else is in use"
        )
        if key in self._waits:
            self._page.count_refused_load()
        if spec.resident:
            logger.error("%s:%d cannot be loaded: %s", *key, text)
            self._fail(key, Overloaded(text, retry_after_s=self._expected_s()))
            return
        if self._is_to_load(key):
            self._failed.pop(key, None)
            self._put_off(key)
        self._waits.release(key, Overloaded(f"model {key[0]!r}: {text}", retry_after_s=self._expected_s()))

    def _expected_s(self) -> float:
        mean_s = self._counts.load_s / self._counts.loads if self._counts.loads else _MEAN_LOAD_S
        return max(1.0, mean_s * (1 + len(self._queue)))

    # ---- leaving

    async def _make_room(self, peak_bytes: int, *, evicts: bool) -> bool:
        """Whether a load of this size may begin; what must leave for it has left. Waits a little for leases."""
        budget = self._settings.memory_budget_bytes
        if not budget:
            return True
        for _ in range(_ROOM_TRIES):
            excess = self._used_bytes() + peak_bytes - budget
            if excess <= 0:
                return True
            if not evicts:
                return False
            leaving, is_enough = self._leavers(excess)
            if leaving and is_enough:
                await self._evict(leaving)
            else:
                await asyncio.sleep(_ROOM_PAUSE_S)
        return self._used_bytes() + peak_bytes <= budget

    def _used_bytes(self) -> int:
        return self._memory.used_bytes() or sum(holding.size_bytes for holding in self._holdings.values())

    def _leavers(self, bytes_wanted: int) -> tuple[tuple[Key, ...], bool]:
        return leavers((self._resident(key, holding) for key, holding in self._holdings.items()), bytes_wanted)

    def _resident(self, key: Key, holding: Holding) -> Resident:
        spec, used = self._wanted.get(key), key in self._waits or _is_used(holding.loaded)
        return Resident(key, holding.size_bytes, holding.used_s, used or (spec is not None and spec.resident))

    def _evict(self, keys: tuple[Key, ...]) -> asyncio.Future[None]:
        leaving = []
        for key in keys:
            leaving.append(self._let_go(key))
            self._put_off(key)
            self._page.count_eviction()
        return self._close(leaving)

    def _let_go(self, key: Key) -> tuple[Key, Loaded]:
        """No request finds it from now on."""
        model, version = key
        leaving = key, self._holdings.pop(key).loaded
        self._leaving.append(leaving)
        del self.loaded[model][version]
        self.on_change(model)
        return leaving

    def _is_leaving(self, key: Key) -> bool:
        return any(one == key for one, _ in self._leaving)

    def _forget(self, key: Key) -> None:
        self.states.pop(key)
        self._failed.pop(key, None)
        self._lazy.discard(key)
        self._waits.release(key, NotReady(f"version {key[1]} of model {key[0]!r} is no longer served"))
        if key in self._holdings:
            self._page.set_load(*key, LoadState.DRAINING)
            self._let_go(key)
        elif not self._is_leaving(key):
            self._page.clear_load(*key)

    def _close(self, unused: list[tuple[Key, Loaded]]) -> asyncio.Future[None]:
        """Close what nothing uses, on the load thread: a large session takes milliseconds to free."""
        box = [loaded for _, loaded in unused]
        self._leaving = [one for one in self._leaving if one not in unused]
        self._loop.call_soon(_part, tuple(box))  # who was answered in this turn of the loop has not left yet
        for key, _ in unused:
            if key in self._holdings or self._is_leaving(key):
                continue  # it was loaded again: lanes and page are that one's
            self.on_gone(*key)
            if key not in self.states:  # else it was evicted, or is wanted again
                self._page.clear_load(*key)
        done = self._loop.run_in_executor(self._thread, self._free, box)
        self._closing.add(done)
        done.add_done_callback(self._closing.discard)
        return done

    def _free(self, box: list[Loaded]) -> None:
        for loaded in box:
            loaded.servable.close()
        box.clear()
        self._memory.give_back()


def _is_used(loaded: Loaded) -> bool:
    """Whether somebody waits for an answer of it, also for another's that will be kept."""
    answers = loaded.answers
    return loaded.servable.leases > 0 or loaded.batcher.waiting > 0 or (answers is not None and answers.is_asked)


def _part(gone: Sequence[Loaded]) -> None:
    """A version and its batcher hold each other, and an idle connection's last request holds the version."""
    for loaded in gone:
        del loaded.batcher
        loaded.answers = None
