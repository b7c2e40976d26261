"""What a worker holds in memory: loaded once, within the budget, never closed while it is used."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from gateway.data.holdings import Holding, Holdings
from gateway.data.page import WorkerPage
from gateway.data.page_layout import page_path
from gateway.data.page_reader import MemoryUse, PageSnapshot, read_page
from gateway.data.residency import Key
from gateway.data.routes import AspiredVersion
from gateway.data.traffic import Loaded
from gateway.settings import LoadSettings
from registry.clock import Clock, SystemClock
from registry.errors import DeadlineExceeded, LoadFailed, NotReady, Overloaded, ServingError
from registry.vocabulary import LoadState
from tests.support.clock import ManualClock

BOOT = "ab" * 16
MIB = 1 << 20
BASE = 100 * MIB
NOT_READY = NotReady("not ready here")


class _Servable:
    def __init__(self, sizes: dict[int, int]) -> None:
        self.leases = 0
        self.elsewhere = ""
        self._sizes = sizes
        sizes[id(self)] = 10 * MIB

    def close(self) -> None:
        del self._sizes[id(self)]


class _Batcher:
    waiting = 0


class _Loaded:
    """Stands for a loaded version, without a session; it takes 10 MiB until it is closed."""

    def __init__(self, key: Key, sizes: dict[int, int]) -> None:
        self.key = key
        self.servable = _Servable(sizes)
        self.batcher: Any = None
        self.answers = None


class _Memory:
    """What the versions that exist take, above a base."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.most = 0

    def used_bytes(self) -> int:
        used = BASE + sum(self.sizes.values())
        self.most = max(self.most, used)
        return used

    def own_bytes(self) -> int:
        return self.used_bytes()

    def give_back(self) -> None: ...

    @contextmanager
    def apart(self, from_bytes: int = 0) -> Iterator[None]:
        yield


class _World:
    """Holdings with versions played by hand."""

    def __init__(self, run: Path, clock: Clock, **settings: Any) -> None:
        self.page = WorkerPage(page_path(run, 0), 0, BOOT)
        self.memory = _Memory()
        self.opened: list[Key] = []
        self.failing: dict[Key, ServingError] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.gone: list[Key] = []
        self.holdings = Holdings(
            self.page,
            asyncio.get_running_loop(),
            LoadSettings(**settings),
            self.memory,
            clock,
            self._open,
            self._attach,
        )
        self.holdings.on_gone = self._gone
        self.specs: dict[Key, AspiredVersion] = {}
        self.attached: dict[Key, Holding] = {}

    def _open(self, key: Key, spec: AspiredVersion) -> Loaded:
        assert self.gate.wait(5)
        self.opened.append(key)
        if key in self.failing:
            raise self.failing[key]
        return cast(Loaded, _Loaded(key, self.memory.sizes))

    def _attach(self, holding: Holding) -> None:
        holding.loaded.batcher = cast(Any, _Batcher())
        self.attached[cast(Any, holding.loaded).key] = holding

    def _gone(self, model: str, version: int) -> None:
        self.gone.append((model, version))
        self.attached.pop((model, version), None)

    def want(self, *names: str, resident: tuple[str, ...] = ()) -> None:
        self.specs = {(n, 1): AspiredVersion("", "", file_bytes=4 * MIB, resident=n in resident) for n in names}
        self.holdings.want(self.specs)

    def ask(self, name: str, timeout_s: float | None = None) -> asyncio.Future[None]:
        """A request that wants this model: done when it could be answered."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def then(error: ServingError | None) -> None:
            if error is None:
                assert 1 in self.holdings.loaded[name]  # it can be leased in the callback
                self.use(name)
                future.set_result(None)
            else:
                future.set_exception(error)

        if self.holdings.when_loaded((name, 1), timeout_s, NOT_READY, then) is None:
            self.use(name)
            future.set_result(None)
        return future

    def use(self, name: str) -> None:
        self.holdings.look()
        self.attached[name, 1].used_s = self.holdings.now_s

    def state(self, name: str) -> LoadState | None:
        return self.holdings.states.get((name, 1))

    def seen(self) -> PageSnapshot:
        self.holdings.look()
        found = read_page(self.page.path)
        assert found is not None
        return found

    async def idle(self) -> None:
        """Until nothing is being loaded or closed."""
        for _ in range(1000):
            self.holdings.look()
            if self.holdings._worker is None and not self.holdings._closing and not self.holdings._queue:
                return
            await asyncio.sleep(0.002)
        raise AssertionError("the loads do not end")


def run(tmp_path: Path, body: Callable[[_World], Awaitable[None]], clock: Clock | None = None, **settings: Any) -> None:
    async def main() -> None:
        world = _World(tmp_path, clock or SystemClock(), **settings)
        try:
            await body(world)
        finally:
            world.gate.set()
            world.holdings.close()
            world.page.close()

    asyncio.run(main())


def test_what_is_wanted_is_loaded_ahead_and_told_with_its_size(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a", "b")
        assert world.seen().loads == {("a", 1): (LoadState.LOADING, ""), ("b", 1): (LoadState.LOADING, "")}
        await world.idle()
        seen = world.seen()
        assert {state for state, _ in seen.loads.values()} == {LoadState.READY}
        assert seen.held["a", 1].size_bytes == 10 * MIB
        assert (seen.memory.loaded, seen.memory.loads, seen.memory.used_bytes) == (2, 2, BASE + 20 * MIB)

    run(tmp_path, body)


def test_concurrent_requests_for_a_version_that_is_not_loaded_cause_one_load(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a", "b")
        assert (world.state("a"), world.opened, world.seen().loads) == (LoadState.AVAILABLE, [], {})
        await asyncio.gather(*(world.ask("a") for _ in range(50)))
        assert world.opened == [("a", 1)]
        assert world.state("b") is LoadState.AVAILABLE
        await world.ask("a")
        assert world.opened == [("a", 1)]

    run(tmp_path, body, when="request")


def test_the_least_recently_used_leaves_and_comes_back_when_it_is_asked_for(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a", "b", "c")
        for name in ("a", "b"):
            await world.ask(name)
        await asyncio.sleep(0.002)
        await world.ask("a")
        await world.ask("c")
        await world.idle()
        states = {name: world.state(name) for name in "abc"}
        assert states == {"a": LoadState.READY, "b": LoadState.AVAILABLE, "c": LoadState.READY}
        assert world.gone == [("b", 1)]
        assert ("b", 1) not in world.seen().loads
        assert world.seen().memory.evictions == 1
        await world.ask("b")
        assert world.opened == [("a", 1), ("b", 1), ("c", 1), ("b", 1)]
        assert world.memory.most <= BASE + 25 * MIB

    run(tmp_path, body, when="request", memory_budget_bytes=BASE + 25 * MIB)


def test_loads_ahead_of_requests_stop_at_the_budget_and_the_rest_waits_for_requests(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want(*"abcdef")
        await world.idle()
        states = [world.state(name) for name in "abcdef"]
        assert states == [LoadState.READY] * 2 + [LoadState.AVAILABLE] * 4
        assert world.holdings.is_lazy(("f", 1))
        assert not world.holdings.is_lazy(("a", 1))
        seen = world.seen()
        assert set(seen.loads) == {("a", 1), ("b", 1)}
        assert (seen.memory.evictions, seen.memory.refused) == (0, 0)
        await world.ask("f")
        assert world.state("f") is LoadState.READY

    run(tmp_path, body, memory_budget_bytes=BASE + 25 * MIB)


@pytest.mark.parametrize("why", ["leased", "waiting", "resident"])
def test_what_is_used_or_must_stay_does_not_leave_and_a_request_without_room_is_refused(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.data.holdings._ROOM_PAUSE_S", 0.0)

    async def body(world: _World) -> None:
        world.want("a", "b")
        await world.ask("a")
        held = world.attached["a", 1].loaded
        if why == "leased":
            held.servable.leases += 1
        elif why == "waiting":
            cast(Any, held.batcher).waiting = 1
        else:
            world.want("a", "b", resident=("a",))
        with pytest.raises(Overloaded, match="do not fit: the memory budget is 115 MiB") as refused:
            await world.ask("b")
        assert refused.value.retry_after_s
        assert world.state("a") is LoadState.READY
        assert world.state("b") is LoadState.AVAILABLE
        assert world.seen().memory.refused == 1
        held.servable.leases = 0
        cast(Any, held.batcher).waiting = 0
        world.want("a", "b")
        del held
        await world.ask("b")
        assert world.state("a") is LoadState.AVAILABLE

    run(tmp_path, body, when="request", memory_budget_bytes=BASE + 15 * MIB)


def test_what_must_be_in_memory_makes_others_leave_or_says_why_it_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.data.holdings._ROOM_PAUSE_S", 0.0)

    async def body(world: _World) -> None:
        world.want("a", "b", "c")
        await world.ask("a")
        world.want("a", "b", "c", resident=("b",))
        await world.idle()
        assert (world.state("a"), world.state("b")) == (LoadState.AVAILABLE, LoadState.READY)
        world.want("a", "b", "c", resident=("b", "c"))
        await world.idle()
        state, reason = world.seen().loads["c", 1]
        assert state is LoadState.FAILED
        assert "the memory budget is 115 MiB" in reason

    run(tmp_path, body, when="request", memory_budget_bytes=BASE + 15 * MIB)


def test_more_requests_than_may_wait_are_refused_and_those_that_wait_are_answered(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a")
        world.gate.clear()
        waiting = [world.ask("a") for _ in range(3)]
        assert world.seen().memory.waiting == 3
        with pytest.raises(Overloaded, match="3 requests wait"):
            world.ask("a")
        world.gate.set()
        await asyncio.gather(*waiting)
        assert world.seen().memory == MemoryUse(BASE + 10 * MIB, 0, 1, 0, 1, 0, world.seen().memory.load_us, 0, 1)

    run(tmp_path, body, when="request", waiting_requests=3)


def test_a_request_leaves_at_its_deadline_and_the_load_goes_on(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a")
        world.gate.clear()
        patient, hasty = world.ask("a"), world.ask("a", 0.01)
        with pytest.raises(DeadlineExceeded, match=r"not loaded within 0\.01 s"):
            await hasty
        world.gate.set()
        await patient
        assert world.opened == [("a", 1)]

    run(tmp_path, body, when="request")


def test_a_cancelled_wait_is_not_called(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a")
        world.gate.clear()
        called: list[object] = []
        wait = world.holdings.when_loaded(("a", 1), None, NOT_READY, called.append)
        assert wait is not None
        wait.cancel()
        wait.cancel()
        world.gate.set()
        await world.idle()
        assert (called, world.seen().memory.waiting) == ([], 0)

    run(tmp_path, body, when="request")


def test_a_load_that_fails_tells_everybody_why_and_the_page(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a", "b")
        world.failing["a", 1] = LoadFailed("the model cannot be loaded: torn")
        asked = [world.ask("a") for _ in range(3)]
        for one in asked:
            with pytest.raises(LoadFailed, match="torn"):
                await one
        assert world.seen().loads["a", 1] == (LoadState.FAILED, "the model cannot be loaded: torn")
        assert world.seen().memory.failed == 1
        with pytest.raises(NotReady, match="not ready here"):
            world.ask("a")
        await world.ask("b")

    run(tmp_path, body, when="request")


def test_a_version_that_could_not_be_loaded_is_tried_again_ever_more_rarely(tmp_path: Path) -> None:
    clock = ManualClock()

    async def body(world: _World) -> None:
        world.want("a", "b", resident=("a",))
        world.failing["a", 1] = LoadFailed("no file is left")
        tried_s: list[int] = []
        for second in range(200):
            before = world.opened.count(("a", 1))
            await world.idle()
            if world.opened.count(("a", 1)) > before:
                tried_s.append(second)
            assert world.state("a") is LoadState.FAILED  # also while it is tried: readiness does not flap
            clock.advance(1.0)
        assert tried_s == [0, 10, 30, 70, 150]
        del world.failing["a", 1]
        clock.advance(200.0)
        await world.idle()
        assert world.state("a") is LoadState.READY
        assert world.seen().loads["a", 1][0] is LoadState.READY
        await world.ask("a")
        assert world.opened.count(("b", 1)) == 1
        clock.advance(1000.0)
        await world.idle()
        assert world.opened.count(("a", 1)) == 6  # and no more

    run(tmp_path, body, clock)


def test_a_version_that_failed_and_is_wanted_no_more_is_not_tried_again(tmp_path: Path) -> None:
    clock = ManualClock()

    async def body(world: _World) -> None:
        world.want("a", "b")
        world.failing["a", 1] = LoadFailed("torn")
        await world.idle()
        world.want("b")
        clock.advance(1000.0)
        await world.idle()
        assert world.opened.count(("a", 1)) == 1
        assert world.state("a") is None

    run(tmp_path, body, clock)


def test_what_a_request_wants_is_loaded_before_what_is_loaded_ahead(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.gate.clear()
        world.want(*"abcdef")
        asked = world.ask("f")
        world.gate.set()
        await asked
        assert ("f", 1) in world.opened[:2]
        await world.idle()
        assert sorted(world.opened) == [(name, 1) for name in "abcdef"]

    run(tmp_path, body)


def test_a_version_that_is_no_longer_wanted_closes_when_its_last_lease_is_back(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a")
        await world.idle()
        loaded = world.attached.pop(("a", 1)).loaded
        loaded.servable.leases = 1
        alive = weakref.ref(loaded)
        world.want()
        await world.idle()
        assert world.seen().loads == {("a", 1): (LoadState.DRAINING, "")}
        loaded.servable.leases = 0
        del loaded
        await world.idle()
        assert (world.seen().loads, world.gone, alive()) == ({}, [("a", 1)], None)

    run(tmp_path, body)


def test_a_version_that_left_twice_while_it_was_used_is_closed_twice(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        for _ in range(2):
            world.want("a")
            await world.idle()
            world.attached["a", 1].loaded.servable.leases = 1
            used = world.attached["a", 1].loaded.servable
            world.want()
            if len(world.opened) == 1:
                first = used
        await world.idle()
        assert len(world.memory.sizes) == 2  # both still answer somebody
        used.leases = 0
        await world.idle()
        assert (len(world.memory.sizes), world.seen().loads) == (1, {("a", 1): (LoadState.DRAINING, "")})
        first.leases = 0
        await world.idle()
        assert (world.memory.sizes, world.seen().loads) == ({}, {})

    run(tmp_path, body)


def test_a_request_whose_version_leaves_the_table_while_it_loads_is_told(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a")
        world.gate.clear()
        asked = world.ask("a")
        world.want()
        with pytest.raises(NotReady, match="no longer served"):
            await asked
        world.gate.set()
        await world.idle()
        assert world.seen().loads == {}
        assert world.holdings.loaded == {}

    run(tmp_path, body, when="request")


def test_memory_above_the_budget_makes_versions_leave_at_the_next_heartbeat(tmp_path: Path) -> None:
    async def body(world: _World) -> None:
        world.want("a", "b")
        for name in ("a", "b"):
            await world.ask(name)
        world.memory.sizes[-1] = 30 * MIB  # lanes, requests, whatever else
        await world.idle()
        assert {world.state("a"), world.state("b")} == {LoadState.AVAILABLE}

    run(tmp_path, body, when="request", memory_budget_bytes=BASE + 30 * MIB)
