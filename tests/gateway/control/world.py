"""A controller with everything real but the workers and the monitor: those are played by hand.

`Worker` is a worker's page, written as a worker would; `SeenByHand` is a monitor that says what the test says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gateway.control.commands import Act, Commands
from gateway.control.controller import Controller
from gateway.control.fleet import ModelState
from gateway.control.loads import Preparer
from gateway.control.measure import Measurer
from gateway.control.table import RouteTable
from gateway.control.versions import wanted
from gateway.control.watch import NoWatch, Watched
from gateway.data import page_layout as layout
from gateway.data.page import WorkerPage
from gateway.data.page_layout import page_path
from gateway.data.routes import RouteEntry, RouteReader
from gateway.settings import Settings
from monitor.rollout import RolloutRecord
from monitor.settings import MonitorSettings
from registry.artifacts import ArtifactStore
from registry.catalog import ANY, Catalog, VersionRow
from registry.clock import SystemClock
from registry.home import Home
from registry.manifest import FileDigest, Manifest, ProbeResult, ServingOptions
from registry.vocabulary import LoadState, TensorSpec
from tests.support.clock import ManualClock

BOOT = "ab" * 16
QUICK_PLAN: dict[str, Any] = {
    "burn_in_requests": 0,
    "step": [
        {"shadow": True, "min_requests": 10},
        {"weight_pct": 5.0, "min_requests": 10},
        {"weight_pct": 50.0, "min_requests": 20},
    ],
    "guardrail": [{"name": "errors"}],
}


class SeenByHand(NoWatch):
    """A monitor that has seen what the test put there."""

    def __init__(self) -> None:
        self.seen = Watched()
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.steps = 0
        self.fails = False

    def step(self, now_s: float) -> None:
        self.steps += 1
        if self.fails:
            raise OSError("the disk is full")

    def begin(self, record: RolloutRecord) -> None:
        self.begun.append(record.id)

    def end(self, model: str) -> None:
        self.ended.append(model)

    def watched(self, record: RolloutRecord) -> Watched:
        return self.seen

    def feedback(self, model: str, labels: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        return {"joined": len(labels), "waiting": 0, "ambiguous": 0, "expired": 0}


class Worker:
    """A worker process as the controller sees it."""

    def __init__(self, run: Path, slot: int = 0, boot_id: str = BOOT) -> None:
        self.page = WorkerPage(page_path(run, slot), slot, boot_id)
        self.page.set_state(ready=True, draining=False)
        self._reader = RouteReader(run, boot_id, ManualClock())

    def entry(self, model: str = "m") -> RouteEntry:
        """What this worker obeys now."""
        return self._reader.current().models[model]

    def obey(self, state: LoadState = LoadState.READY, reason: str = "") -> None:
        """Load what is aspired, unload what is not, and acknowledge."""
        snapshot = self._reader.current()
        for name, entry in snapshot.models.items():
            for version in range(1, 10):
                if version in entry.aspired:
                    self.page.set_load(name, version, state, reason)
                else:
                    self.page.clear_load(name, version)
        self.page.acknowledge(snapshot.epoch)

    def answer(
        self,
        role: str,
        count: int,
        *,
        errors: int = 0,
        slow: int = 0,
        latency_us: float = 900.0,
        new: int | None = None,
    ) -> None:
        """Answers of one arm under the present table, as evidence: all, or so many as come from a new key."""
        entry = self.entry()
        version = entry.champion if role == "champion" else entry.candidate
        assert version is not None
        words = self.page.words
        totals = self.page.totals("m", version, role)
        place = next(i for i, edge in enumerate(layout.LATENCY_EDGES_US) if latency_us <= edge)
        words[totals + layout.LATENCY + place] += count
        if entry.rollout_id and entry.weight > 0:
            judged = entry.latency_threshold_us is not None
            segment = self.page.segment("m", version, role, entry.rollout_id, entry.weight, judged)
            assert segment is not None
            words[segment + layout.REQUESTS] += count if new is None else new
            words[segment + layout.ERRORS] += errors
            words[segment + layout.SLOW] += slow

    def shadow(self, rows: int) -> None:
        """Rows that the candidate ran as a shadow."""
        candidate = self.entry().candidate
        assert candidate is not None
        totals = self.page.totals("m", candidate, "shadow")
        self.page.words[totals + layout.BATCH_ROWS_SUM] += rows


class World:
    """One state folder, one controller at a time, model `m`."""

    def __init__(self, root: Path, settings: Settings | None = None, measurer: Measurer | None = None) -> None:
        self.home = Home(root=root, run=root / "run")
        self.home.create()
        self.clock = ManualClock()
        self.settings = settings or Settings(monitor=MonitorSettings(latency_window_s=60))
        self.catalog = Catalog.open(self.home.database_url, self.clock)
        self.artifacts = ArtifactStore(self.home.artifacts)
        self.watch = SeenByHand()
        self.measurer = measurer
        self.controller = self._make()
        self.commands = Commands(self.controller)
        self.act = Act("ana", "because")

    def _make(self) -> Controller:
        return Controller(
            run=self.home.run,
            settings=self.settings,
            catalog=self.catalog,
            preparer=Preparer(self.artifacts, self.home.run, SystemClock()),
            watch=self.watch,
            table=RouteTable(self.home.run, BOOT, self.clock),
            clock=self.clock,
            boot_id=BOOT,
            measurer=self.measurer,
        )

    def restart(self) -> None:
        """The controller was killed and a new one starts: nothing in memory is kept."""
        self.watch = SeenByHand()
        self.controller = self._make()
        self.commands = Commands(self.controller)

    def add(self, content: str, *, run: str = "proven", name: str = "x", features: int | None = 2) -> VersionRow:
        """Register a version of `m`."""
        data = content.encode()
        sha256 = self.artifacts.put_bytes(data)
        manifest = Manifest(
            files=(FileDigest("model.onnx", sha256, len(data)),),
            options=ServingOptions(),
            profile=None,
            golden=None,
            inputs=(TensorSpec(name, "FP32", (None, features)),),
            outputs=(TensorSpec("y", "FP32", (None,)),),
            probe=ProbeResult(
                run=run,  # type: ignore[arg-type]
                reason="",
                batch="exact",
                batch_reason="",
                by_rows=True,
                rows_tried=64,
                onnxruntime="1",
            ),
        )
        return self.catalog.add_version("m", manifest, actor="test")[0]

    def champion(self, version: int) -> None:
        """Set the champion in the registry, as another process would."""
        self.catalog.set_alias("m", "champion", version, expected=ANY, actor="test")

    def tick(self, seconds: float = 0.25, times: int = 1) -> None:
        """Let time pass and tick; every tick must work."""
        for _ in range(times):
            self.clock.advance(seconds)
            assert self.controller.tick(), self.controller.health.last_error

    def settle(self, *workers: Worker) -> None:
        """Tick until files are fetched, and let the workers load them."""
        import time

        for attempt in range(100):
            self.tick(0.6)
            for worker in workers:
                worker.obey()
            state = self.state
            versions = wanted(state)
            # Two ticks are longer than the controller goes without a look at the registry.
            if attempt and all(self.controller.versions.prepared("m", version) is not None for version in versions):
                break
            time.sleep(0.01)
        self.tick(0.6)
        for worker in workers:
            worker.obey()
        self.tick(0.6)

    @property
    def state(self) -> ModelState:
        return self.controller.models["m"]

    @property
    def record(self) -> RolloutRecord:
        """The running rollout."""
        assert self.state.record is not None
        return self.state.record

    def told(self, kind: str) -> list[Mapping[str, Any]]:
        """The data of all events of one type."""
        return [event.data for event in self.catalog.events(limit=1000) if event.type == kind]

    def close(self) -> None:
        self.controller.finish()
        self.catalog.close()
