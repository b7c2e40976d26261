"""Slots: never more runs than there are, the highest priority first, and no model holds all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from gateway.data.scheduler import PRIORITY, Scheduler, slots_for
from registry.vocabulary import Role


class Work:
    """A source of runs that say when they ran, and wait to be let go."""

    def __init__(self, name: str, log: list[str], scheduler: Scheduler, role: Role = Role.CHAMPION) -> None:
        self.name, self.log, self.scheduler = name, log, scheduler
        self.priority, self.away = PRIORITY[role], 0
        self.left = 0
        self.gate = threading.Event()
        self.gate.set()

    def ask(self, runs: int) -> None:
        self.left += runs
        self.scheduler.want(self)

    def take(self) -> Work | None:
        if not self.left:
            return None
        self.left -= 1
        self.log.append(self.name)
        if self.left:
            self.scheduler.want(self)
        return self

    def run(self) -> None:
        self.gate.wait(5)

    def finish(self) -> None:
        pass


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(2000):
        if is_so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never was so")


def test_a_free_slot_goes_to_the_highest_priority_and_then_round_the_models() -> None:
    async def main() -> None:
        log: list[str] = []
        scheduler = Scheduler(asyncio.get_running_loop(), 1)
        first = Work("first", log, scheduler)
        first.gate.clear()
        first.ask(1)
        shadow, canary = Work("shadow", log, scheduler, Role.SHADOW), Work("canary", log, scheduler, Role.CANARY)
        a, b = Work("a", log, scheduler), Work("b", log, scheduler)
        for source, runs in ((shadow, 1), (canary, 2), (a, 3), (b, 2)):
            source.ask(runs)
        assert scheduler.running == 1
        assert scheduler.wanting == 4
        first.gate.set()
        await until(lambda: scheduler.running == 0)
        assert log == ["first", "a", "b", "a", "b", "a", "canary", "canary", "shadow"]
        scheduler.close()

    asyncio.run(main())


def test_one_slow_model_leaves_a_slot_to_the_others() -> None:
    async def main() -> None:
        log: list[str] = []
        scheduler = Scheduler(asyncio.get_running_loop(), 3)
        slow, other = Work("slow", log, scheduler), Work("other", log, scheduler)
        slow.gate.clear()
        slow.ask(10)
        assert (scheduler.running, slow.away) == (2, 2)
        other.ask(2)
        await until(lambda: log.count("other") == 2)
        assert slow.away == 2
        slow.gate.set()
        await until(lambda: scheduler.running == 0)
        assert log.count("slow") == 10
        scheduler.close()

    asyncio.run(main())


def test_a_run_that_breaks_gives_its_slot_back() -> None:
    class Broken(Work):
        def run(self) -> None:
            raise RuntimeError("a bug")

        def finish(self) -> None:
            raise RuntimeError("another")

    async def main() -> None:
        log: list[str] = []
        scheduler = Scheduler(asyncio.get_running_loop(), 1)
        Broken("broken", log, scheduler).ask(2)
        Work("good", log, scheduler).ask(1)
        await until(lambda: scheduler.running == 0)
        assert sorted(log) == ["broken", "broken", "good"]
        scheduler.close()

    asyncio.run(main())


def test_a_source_that_breaks_holds_no_slot() -> None:
    class Broken(Work):
        def take(self) -> Work | None:
            raise RuntimeError("a bug")

    async def main() -> None:
        log: list[str] = []
        scheduler = Scheduler(asyncio.get_running_loop(), 1)
        broken = Broken("broken", log, scheduler)
        broken.ask(1)
        Work("good", log, scheduler).ask(1)
        await until(lambda: scheduler.running == 0)
        assert (log, broken.away, scheduler.wanting) == (["good"], 0, 0)
        scheduler.close()

    asyncio.run(main())


def test_turns_come_in_one_round_the_smallest_first_and_one_that_breaks_stops_nobody() -> None:
    class Turn:
        def __init__(self, waiting: int, log: list[int]) -> None:
            self.waiting, self.log = waiting, log

        def turn(self) -> None:
            self.log.append(self.waiting)
            if self.waiting == 3:
                raise RuntimeError("a bug")

    async def main() -> None:
        log: list[int] = []
        scheduler = Scheduler(asyncio.get_running_loop(), 1)
        for waiting in (58, 6, 3):
            scheduler.soon(Turn(waiting, log))
        assert log == []
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log == [3, 6, 58]
        scheduler.soon(Turn(1, log))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert log == [3, 6, 58, 1]
        scheduler.close()

    asyncio.run(main())


def test_slots_follow_the_cores_unless_they_are_given() -> None:
    assert slots_for(1, 5) == 5
    assert slots_for(64, 0) == 2
    assert slots_for(1, 0) >= 2
