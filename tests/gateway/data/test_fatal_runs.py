"""What a worker that ended in a run leaves behind, and what the worker after it does: lives of one worker slot."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.data import page_layout as layout
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from registry import onnx
from registry.options import ServingOptions
from registry.vocabulary import LoadState
from tests.support import models
from tests.support.clock import ManualClock
from tests.support.server import v2_body
from tests.support.serving import BOOT, Answer, Bench, aspire, with_worker

ROWS = [[1.0, 2.0, 3.0]]
CONSTANT = ServingOptions(fallback=("constant",), fallback_constant=(("y", (-1.0, -1.0, -1.0)),))


@dataclass
class Slot:
    """A worker slot, and what is left of it when its worker ends in the middle of a run."""

    folder: Path
    models: dict[str, RouteEntry]
    clock: ManualClock = field(default_factory=ManualClock)
    life: int = 0
    ends_in_next_run: bool = False

    @property
    def run(self) -> Path:
        return self.folder / f"life-{self.life}"

    def ends(self) -> None:
        """The worker goes on, as tests must: what its end would leave is what there is now."""
        if self.ends_in_next_run:
            self.ends_in_next_run = False
            shutil.copytree(self.run, self.folder / f"life-{self.life + 1}")

    def live(
        self, body: Callable[[Bench], Awaitable[None]], ended_by: int = signal.SIGFPE, *, boot: str = BOOT
    ) -> None:
        """The life of the next worker, which ends in a run: `end`, or in another way."""

        async def whole(bench: Bench) -> None:
            for name, entry in self.models.items():
                await bench.route(name, entry)
            await body(bench)

        with_worker(self.run, whole, clock=self.clock, boot=boot, ended_by=ended_by)
        self.life += 1

    async def end(self, bench: Bench, model: str = "m") -> None:
        """It ends in a run of this model."""
        self.ends_in_next_run = True
        assert (await bench.infer(model, ROWS)).status == 200
        assert not self.ends_in_next_run


@pytest.fixture
def slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slot:
    """Models m and n, whose runs may be the worker's last."""
    entries = {
        name: RouteEntry(champion=1, aspired={1: aspire(models.looked_up(tmp_path / f"{name}.onnx"))}) for name in "mn"
    }
    made, runner = Slot(tmp_path / "lives", entries), onnx.runner

    def ending(*given: Any) -> onnx.Runner:
        run = runner(*given)

        def last(feeds: Any, options: Any = None) -> Any:
            made.ends()
            return run(feeds, options)

        return last

    monkeypatch.setattr(onnx, "runner", ending)
    return made


def told(answer: Answer) -> tuple[int, str, str | None]:
    return answer.status, answer.json.get("code", ""), answer.headers.get("retry-after")


def test_the_first_end_names_nobody_the_second_blocks_the_version_and_later_ones_for_longer(slot: Slot) -> None:
    slot.live(slot.end, 0)
    slot.live(slot.end)  # nothing was marked, so all are run

    async def is_blocked(bench: Bench) -> None:
        answer = await bench.infer("m", ROWS)
        assert told(answer) == (503, "breaker_open", "10")
        assert "version 1 of 'm' ended the worker (SIGFPE): it is tried again in 10.0 s" in answer.json["error"]
        assert told(await bench.ask("/v2/models/m/versions/1/infer", v2_body(ROWS)))[0] == 503
        assert (await bench.ask("/v2/models/m/ready", method="GET")).status == 503
        assert (await bench.infer("n", ROWS)).status == 200
        bench.worker.beat.step()
        (page,) = read_pages(slot.run)
        totals = page.totals["m", 1, "champion"]
        assert (page.open_breakers, totals.fatal, totals.breaker_opened) == (1, 1, 1)
        assert set(page.blames) == {("m", 1)}
        slot.clock.advance(9.5)
        assert told(await bench.infer("m", ROWS)) == (503, "breaker_open", "1")
        slot.clock.advance(0.5)
        assert (await bench.infer("m", ROWS)).status == 200  # the trial
        assert bench.worker.breakers.open_count == 0
        await slot.end(bench)

    slot.live(is_blocked)

    async def is_blocked_for_longer(bench: Bench) -> None:
        assert told(await bench.infer("m", ROWS)) == (503, "breaker_open", "40")
        slot.clock.advance(40)
        await slot.end(bench)  # the trial is its last run

    slot.live(is_blocked_for_longer)

    async def and_longer(bench: Bench) -> None:
        assert told(await bench.infer("m", ROWS)) == (503, "breaker_open", "160")
        assert read_pages(slot.run)[0].totals["m", 1, "champion"].fatal == 3

    slot.live(and_longer)


def test_a_blocked_version_is_still_blocked_after_another_end_for_what_is_left(slot: Slot) -> None:
    for _ in range(2):
        slot.live(slot.end, slot.life and signal.SIGFPE)

    async def ends_in_the_other(bench: Bench) -> None:
        slot.clock.advance(4)
        await slot.end(bench, "n")

    slot.live(ends_in_the_other)

    async def both(bench: Bench) -> None:
        assert told(await bench.infer("m", ROWS)) == (503, "breaker_open", "6")
        assert told(await bench.infer("n", ROWS)) == (503, "breaker_open", "10")

    slot.live(both)


def test_of_two_that_ran_at_an_end_both_are_told_of_and_tried_on(slot: Slot) -> None:
    slot.live(slot.end, 0)

    async def both_run(bench: Bench) -> None:
        mark = bench.worker.page.load_mark(("n", 1), layout.RUNNING)
        assert mark is not None
        with mark:
            await slot.end(bench)

    slot.live(both_run)

    async def tried_on(bench: Bench) -> None:
        assert [(await bench.infer(name, ROWS)).status for name in "mn"] == [200, 200]
        (page,) = read_pages(slot.run)
        assert [(key, blame.is_alone, blame.block_ns) for key, blame in sorted(page.blames.items())] == [
            (("m", 1), False, 0),
            (("n", 1), False, 0),
        ]
        assert page.totals["m", 1, "champion"].fatal == 0

    slot.live(tried_on)


def test_who_stands_in_answers_for_a_blocked_version(slot: Slot, tmp_path: Path) -> None:
    aspired = {1: aspire(models.looked_up(tmp_path / "c.onnx"), options=CONSTANT)}
    slot.models["m"] = RouteEntry(champion=1, aspired=aspired)
    for _ in range(2):
        slot.live(slot.end, slot.life and signal.SIGFPE)

    async def stands_in(bench: Bench) -> None:
        answer = await bench.infer("m", ROWS)
        assert (answer.status, answer.headers["x-driftgate-fallback"]) == (200, "constant")

    slot.live(stands_in)


def test_an_end_that_was_not_the_workers_own_fault_blames_nobody(slot: Slot) -> None:
    for _ in range(2):
        slot.live(slot.end, slot.life and signal.SIGFPE)

    async def answers(bench: Bench) -> None:
        assert (await bench.infer("m", ROWS)).status == 200
        assert read_pages(slot.run)[0].blames == {}

    slot.live(answers, 0)


def test_a_server_that_is_started_anew_holds_nothing_against_any_version(slot: Slot) -> None:
    for _ in range(2):
        slot.live(slot.end, slot.life and signal.SIGFPE)

    async def drained(bench: Bench) -> None:
        assert told(await bench.infer("m", ROWS))[0] == 503
        shutil.copytree(slot.run, slot.folder / "life-3")

    slot.live(drained)

    async def answers(bench: Bench) -> None:
        assert (await bench.infer("m", ROWS)).status == 200
        assert read_pages(slot.run)[0].blames == {}

    slot.live(answers, 0, boot="cd" * 16)


def test_a_load_that_ends_the_worker_is_not_tried_for_a_while_and_the_others_are_served(slot: Slot) -> None:
    async def nothing(_bench: Bench) -> None:
        return

    del slot.models["n"]
    for _ in range(2):
        slot.ends_in_next_run = True  # in the warm-up
        slot.live(nothing, slot.life and signal.SIGBUS)
    entry = slot.models.pop("m")

    async def is_failed(bench: Bench) -> None:
        bench.table.publish({"m": entry, "n": entry})
        while not bench.worker.fleet.settled():
            bench.worker.beat.step()
            await asyncio.sleep(0.005)
        state, reason = read_pages(slot.run)[0].loads["m", 1]
        assert (state, reason) == (LoadState.FAILED, "the load ended the worker (SIGBUS): not tried for 10 s")
        assert told(await bench.infer("m", ROWS))[:2] == (503, "not_ready")
        assert (await bench.infer("n", ROWS)).status == 200
        slot.clock.advance(10)
        await bench.route("m", entry)
        assert bench.worker.breakers.open_count == 0
        assert (await bench.infer("m", ROWS)).status == 200

    slot.live(is_failed, signal.SIGBUS)
