"""Warm-up: a version's own rows at growing sizes, within its time, and the largest run that pays."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.data.curve import Point, choose, run_times
from gateway.data.routes import RouteEntry
from gateway.data.servable import Servable, load
from gateway.data.warm_up import warm_up
from registry.batching import Axes
from registry.errors import InferenceFailed, LoadFailed
from registry.manifest import Manifest, ServingOptions
from registry.rows import shared_digest
from registry.tensors import save_tensors
from registry.vocabulary import TensorSpec
from tests.support import models
from tests.support.models import manifest_of
from tests.support.serving import Bench, aspire, with_worker

Cost = Callable[[int], float]  # rows → us


class Session:
    """Stands for a loaded version's session on a clock of its own: a run costs what it is told to."""

    def __init__(self, cost: Cost, fails: Callable[[NDArray[Any]], bool] = lambda _rows: False) -> None:
        self.now_ns = 0
        self.runs: list[NDArray[Any]] = []
        self._cost = cost
        self._fails = fails

    def run(self, feeds: Sequence[NDArray[Any]], options: Any = None) -> list[NDArray[Any]]:
        self.runs.append(feeds[0])
        if self._fails(feeds[0]):
            raise InferenceFailed("the model failed: no such row")
        self.now_ns += int(self._cost(len(feeds[0])) * 1000)
        return [feeds[0][:, :2]]


def servable_of(session: Session, manifest: Manifest | None = None, max_rows: int = 64) -> Servable:
    known = manifest or manifest_of("a")
    probe = replace(known.probe, joined_rows=64)
    servable = Servable("m", 1, None, replace(known, probe=probe), max_rows)
    servable.run = session.run  # type: ignore[method-assign]
    return servable


def sample(folder: Path, count: int = 20) -> Path:
    path = folder / "rows"
    save_tensors(path, {"x": np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)})
    return path


def warmed(session: Session, path: Path, *, manifest: Manifest | None = None, budget_s: float = 2.0) -> Any:
    servable = servable_of(session, manifest)
    return warm_up(servable, path, None, latency_target_ms=100.0, budget_s=budget_s, timer=lambda: session.now_ns)


def test_the_curve_is_what_the_runs_took_and_the_line_goes_through_it(tmp_path: Path) -> None:
    session = Session(lambda rows: 100.0 + 10.0 * rows)
    curve = warmed(session, sample(tmp_path))
    assert [point.rows for point in curve.points] == [1, 2, 4, 8, 16, 32, 64]
    assert curve.points[0].us == pytest.approx(110.0)
    assert [curve.line.fixed_us, curve.line.per_row_us] == pytest.approx([100.0, 10.0])
    assert (curve.source, curve.chosen_rows) == ("reference", 64)
    assert run_times(curve).expected_us(20) == pytest.approx(300.0)


def test_only_the_versions_own_rows_are_run(tmp_path: Path) -> None:
    session = Session(lambda rows: 10.0)
    path = sample(tmp_path, 3)
    warmed(session, path)
    known = {row.tobytes() for row in np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)}
    assert {row.tobytes() for run in session.runs for row in run} == known


@pytest.mark.parametrize(
    ("cost", "chosen"),
    [
        (lambda rows: 8500.0 * rows, 1),  # magika: nothing gained
        (lambda rows: 8500.0 if rows <= 2 else 9000.0 * rows, 2),
        (lambda rows: 7.0 + 1.2 * rows, 64),  # a tree ensemble
        (lambda rows: 20_000.0 + 1000.0 * rows, 16),  # half of the target of 100 ms is reached at 30
        (lambda rows: 5.0 if rows < 16 else 500.0 * rows, 8),  # falls off a cliff
    ],
    ids=["no gain", "two", "trees", "target", "cliff"],
)
def test_the_largest_run_that_pays_and_meets_the_target_is_chosen(cost: Cost, chosen: int, tmp_path: Path) -> None:
    assert warmed(Session(cost), sample(tmp_path)).chosen_rows == chosen


def test_a_version_may_state_a_target_of_its_own(tmp_path: Path) -> None:
    for target_ms, chosen in ((30.0, 4), (1000.0, 64), (0.001, 2)):
        manifest = manifest_of("a", options=ServingOptions(latency_target_ms=target_ms))
        found = warmed(Session(lambda rows: 10_000.0 + 1000.0 * rows), sample(tmp_path), manifest=manifest)
        assert found.chosen_rows == chosen


def test_where_one_row_alone_misses_the_target_rows_that_come_nearly_free_are_still_joined() -> None:
    points = [Point(1, 200_000.0), Point(2, 205_000.0), Point(4, 220_000.0), Point(8, 260_000.0)]
    assert choose(points, 100.0) == 4


def test_a_dip_on_the_way_up_does_not_end_the_choice() -> None:
    points = [Point(1, 1000.0), Point(2, 2100.0), Point(4, 2000.0), Point(8, 2500.0)]
    assert choose(points, 100.0) == 8


@pytest.mark.parametrize("row_s", [0.3, 5.0])
def test_the_time_is_bounded_whatever_a_row_costs(row_s: float, tmp_path: Path) -> None:
    session = Session(lambda rows: row_s * 1e6)
    curve = warmed(session, sample(tmp_path), budget_s=2.0)
    assert curve.points[0].us == pytest.approx(row_s * 1e6)
    assert session.now_ns / 1e9 <= 2.0 + 2 * row_s


def test_one_slow_run_among_a_few_does_not_count(tmp_path: Path) -> None:
    session = Session(lambda rows: 1e5 if len(session.runs) % 4 == 0 else 100.0)
    assert all(point.us == pytest.approx(100.0) for point in warmed(session, sample(tmp_path)).points)


def test_a_size_that_fails_ends_the_curve_and_is_not_chosen(tmp_path: Path) -> None:
    session = Session(lambda rows: 100.0, fails=lambda rows: len(rows) > 8)
    assert warmed(session, sample(tmp_path)).chosen_rows == 8


def test_a_version_that_fails_on_its_own_rows_is_not_loaded_and_one_bad_row_is_passed_over(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="fails on the reference rows that it was registered with: the model failed"):
        warmed(Session(lambda rows: 10.0, fails=lambda rows: True), sample(tmp_path))
    first = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)[0]
    session = Session(lambda rows: 10.0, fails=lambda rows: len(rows) == 1 and bool((rows[0] == first).all()))
    assert warmed(session, sample(tmp_path)) is not None


def test_a_damaged_file_is_no_reason_not_to_serve(tmp_path: Path) -> None:
    (tmp_path / "rows").write_bytes(b"no zip")
    curve = warmed(Session(lambda rows: 10.0), tmp_path / "rows")
    assert curve.source == "made-up"


def test_a_version_of_rows_that_is_not_joined_is_run_on_one_row_of_its_golden_set(tmp_path: Path) -> None:
    known = manifest_of("a")
    session = Session(lambda rows: 1000.0 * rows)
    servable = Servable("m", 1, None, replace(known, probe=replace(known.probe, batch="never")), 64)
    servable.run = session.run  # type: ignore[method-assign]
    save_tensors(tmp_path / "golden", {"0:in:x": np.zeros((20, 3), np.float32)})
    curve = warm_up(
        servable, None, tmp_path / "golden", latency_target_ms=100.0, budget_s=2.0, timer=lambda: session.now_ns
    )
    assert curve is not None
    assert [(point.rows, point.us) for point in curve.points] == [(1, 1000.0)]


def test_golden_cases_are_run_where_there_is_no_reference_and_joined_on_their_axes(tmp_path: Path) -> None:
    rate = np.array(16000)
    axes = Axes((0, 1, None), (0,))
    known = manifest_of(
        "a",
        inputs=(
            TensorSpec("input", "FP32", (None, 5)),
            TensorSpec("state", "FP32", (2, None, 4)),
            TensorSpec("sr", "INT64", ()),
        ),
    )
    probe = replace(known.probe, by_rows=False, axes=axes, shared=(shared_digest([rate]),), joined_rows=64)
    servable = Servable("m", 1, None, replace(known, probe=probe), 4)
    servable.joinable = True
    shapes: list[tuple[tuple[int, ...], ...]] = []

    def run(feeds: Sequence[NDArray[Any]], options: Any = None) -> list[NDArray[Any]]:
        shapes.append(tuple(feed.shape for feed in feeds))
        return [feeds[0]]

    servable.run = run  # type: ignore[method-assign]
    golden = tmp_path / "golden"
    case = {"input": np.zeros((2, 5), np.float32), "state": np.zeros((2, 2, 4), np.float32), "sr": rate}
    save_tensors(golden, {f"{n}:in:{name}": array for n in range(2) for name, array in case.items()})
    curve = warm_up(servable, None, golden, latency_target_ms=100.0, budget_s=2.0)
    assert curve is not None
    assert curve.source == "golden"
    assert {((1, 5), (2, 1, 4), ()), ((4, 5), (2, 4, 4), ())} <= set(shapes)


def test_a_real_session_is_warmed_up_and_joins_no_more_than_was_chosen(tmp_path: Path) -> None:
    spec = aspire(models.linear(tmp_path / "m.onnx"))
    servable = load("m", 1, Path(spec.model_path), Path(spec.manifest_path), 1, 64)
    curve = warm_up(servable, sample(tmp_path), None, latency_target_ms=100.0, budget_s=2.0)
    assert curve is not None
    assert curve.points[-1].rows == 64
    servable.tune(8)
    assert (servable.max_rows, servable.joinable) == (8, True)
    servable.tune(1)
    assert (servable.max_rows, servable.joinable) == (1, False)


def test_a_version_of_long_rows_is_warmed_up_too(tmp_path: Path) -> None:
    spec = aspire(models.linear(tmp_path / "long.onnx", features=3000))
    servable = load("m", 1, Path(spec.model_path), Path(spec.manifest_path), 1, 8)
    curve = warm_up(servable, None, None, latency_target_ms=1000.0, budget_s=0.5)
    assert curve is not None
    assert (curve.source, curve.points[0].rows) == ("made-up", 1)


def test_what_could_not_be_warmed_up_does_not_run_first_on_the_event_loop(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        path = models.index_of_made_up(tmp_path / "i.onnx")  # no made-up row is answered
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path)}))
        servable, threads = bench.worker.fleet._loaded["m"][1].servable, list[threading.Thread]()
        assert servable.curve is None
        run = servable.run

        def watched(feeds: Sequence[NDArray[Any]], options: Any = None) -> list[NDArray[Any]]:
            threads.append(threading.current_thread())
            return run(feeds, options)

        servable.run = watched  # type: ignore[method-assign]
        tensor = {"name": "i", "shape": [1], "datatype": "INT64", "data": [-100]}
        assert (await bench.ask("/v2/models/m/infer", {"inputs": [tensor]})).status == 200
        assert threads[0] is not threading.main_thread()

    with_worker(tmp_path / "run", body)


def test_a_version_that_was_never_seen_to_run_is_not_run_on_made_up_rows(tmp_path: Path) -> None:
    session = Session(lambda rows: 10.0)
    servable = servable_of(session, manifest_of("a", probe=replace(manifest_of("a").probe, run="unproven")))
    assert warm_up(servable, None, None, latency_target_ms=100.0, budget_s=2.0) is None
    assert not session.runs
