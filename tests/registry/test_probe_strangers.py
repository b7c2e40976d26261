"""Given rows are alike, and a request may hold anything: what it does to others in its run is found before joining."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from registry.batching import Axes
from registry.errors import InferenceFailed
from registry.probe_batching import find_batching
from registry.probe_strangers import harm
from registry.rows import Feeds, Runner
from registry.vocabulary import TensorSpec
from tests.support import models
from tests.support.registering import Bench

ROWS = Axes((0,), (0,))
FREE = (TensorSpec("x", "FP32", (None, None)),)


def given(count: int = 6, width: int = 4) -> dict[str, NDArray[Any]]:
    """In each row one number above 0.5, as where each image shows one thing."""
    rng = np.random.default_rng(0)
    rows = rng.random((count, width)).astype(np.float32) * np.float32(0.4)
    rows[np.arange(count), rng.integers(0, width, count)] += np.float32(0.5)
    return {"x": rows}


def doubled(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] * 2]


def found(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"][feeds["x"] > 0.5]]


def none_above_a_bound(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] * np.float32(feeds["x"].max() < 1000)]


def shared_scale(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] / np.maximum(feeds["x"].max(), np.float32(100))]


def poisoned(feeds: Feeds) -> list[NDArray[Any]]:
    return [feeds["x"] + feeds["x"].sum() * 0]


def in_fours(feeds: Feeds) -> list[NDArray[Any]]:
    """Less the largest of each four numbers, wherever a row ends."""
    if feeds["x"].size % 4:
        raise InferenceFailed("fours do not fill it")
    fours = feeds["x"].reshape(-1, 4)
    return [(fours - fours.max(axis=1, keepdims=True)).reshape(feeds["x"].shape)]


def other_arithmetic_for_odd_widths(feeds: Feeds) -> list[NDArray[Any]]:
    is_odd = feeds["x"].shape[1] % 2 == 1 and len(feeds["x"]) > 1
    return [feeds["x"] + np.float32(2**-10 if is_odd else 0)]


def fussy(feeds: Feeds) -> list[NDArray[Any]]:
    """Takes nothing but what is like the given rows; so no request of anything else is ever joined."""
    if not 0 < feeds["x"].min() <= feeds["x"].max() < 1 or feeds["x"].shape[1] != 4:
        raise InferenceFailed("out of range")
    return [feeds["x"] * 2]


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (doubled, ""),
        (fussy, ""),
        (found, "a row of zeros comes back as shape (0,) of output 0"),
        (none_above_a_bound, "a row of very large numbers changes what is answered to a row beside it: output 0"),
        (shared_scale, "a row of very large numbers changes"),
        (poisoned, "a row of NaN changes"),
        (in_fours, "rows of size 5 instead of 4 are refused alone, and 4 of them are answered together"),
        (other_arithmetic_for_odd_widths, "rows of size 5 instead of 4 get other answers together: output 0"),
    ],
)
def test_rows_that_nobody_gave_change_nobody_elses_answer(run: Runner, told: str) -> None:
    with np.errstate(all="ignore"):
        assert find_batching(run, [given()], FREE, rng=np.random.default_rng(0), budget_s=5).kind == "exact"
        assert harm(run, [given()], FREE, ROWS, None, budget_s=5).startswith(told)
        assert told or not harm(run, [given()], FREE, ROWS, None, budget_s=5)


def test_what_the_options_allow_joined_numbers_to_differ_by_they_may_differ_by_here() -> None:
    for tolerance, is_well in ((1e-3, True), (1e-4, False)):
        told = harm(other_arithmetic_for_odd_widths, [given()], FREE, ROWS, tolerance, budget_s=5)
        assert (told == "") is is_well


def test_rows_lie_on_any_axis_and_shared_inputs_stay_as_they_are() -> None:
    specs = (TensorSpec("x", "FP32", (4, None)), TensorSpec("rate", "INT64", ()), TensorSpec("s", "BYTES", (None,)))
    feeds = {"x": given()["x"].T, "rate": np.array(16), "s": np.array(list("abcdef"), dtype=object)}

    def run(feeds: Feeds) -> list[NDArray[Any]]:
        assert feeds["rate"] == 16
        shown.add(str(feeds["s"][0]))
        return [feeds["x"] * 2]

    def spread(feeds: Feeds) -> list[NDArray[Any]]:
        return [feeds["x"] + feeds["x"].sum() * 0]

    shown: set[str] = set()
    axes = Axes((1, None, 0), (1,))
    with np.errstate(all="ignore"):
        assert harm(run, [feeds], specs, axes, None, budget_s=5) == ""
        assert harm(spread, [feeds], specs, axes, None, budget_s=5).startswith("a row of NaN")
    assert {"", "a", "b"} <= shown


def test_no_value_is_made_large_where_one_may_say_how_long_a_run_takes() -> None:
    largest: list[float] = []

    def run(feeds: Feeds) -> list[NDArray[Any]]:
        largest.append(float(np.abs(feeds["x"]).max()))
        return [feeds["x"] * 2]

    assert harm(run, [given()], FREE, ROWS, None, budget_s=5, loops=True) == ""
    assert max(largest) <= 1.0


def test_without_time_nothing_is_proven() -> None:
    assert harm(doubled, [given()], FREE, ROWS, None, budget_s=-1) == "trying it beside made-up rows took too long"


def detector(path: Path) -> Path:
    """x [N, 4] → the numbers above 0.5 of all rows, y [K]."""
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["is_found"]),
        helper.make_node("NonZero", ["is_found"], ["places"]),
        helper.make_node("Transpose", ["places"], ["index"], perm=[1, 0]),
        helper.make_node("GatherND", ["x", "index"], ["y"]),
    ]
    ends = [models.value("x", TensorProto.FLOAT, ["N", 4])], [models.value("y", TensorProto.FLOAT, ["K"])]
    return models.build(path, nodes, *ends, {"half": np.array(0.5, np.float32)})


def test_a_model_that_finds_one_thing_in_each_given_row_is_not_joined(tmp_path: Path) -> None:
    """Of two requests joined, one that holds nothing and one that holds two things, each got one of the second's."""
    probe = Bench(tmp_path / "home").register("m", detector(tmp_path / "m.onnx"), given()).row.manifest.probe
    assert (probe.batch, probe.batch_reason) == ("never", "a row of zeros comes back as shape (0,) of output 0")


def test_a_made_up_row_that_ends_the_process_costs_the_joining_and_not_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import os
from registry import probe_child, probe_strangers
probe_strangers.harm = lambda *given, **how: os._exit(9)
raise SystemExit(probe_child.main([]))
"""
    start, started = subprocess.Popen, []

    def ending(words: list[str], **how: Any) -> Any:
        started.append(words)
        return start([sys.executable, "-P", "-c", code], **how)

    monkeypatch.setattr(subprocess, "Popen", ending)
    np.savez(tmp_path / "g.npz", **{"in:x": given(width=3)["x"]})  # type: ignore[arg-type]
    path = models.linear(tmp_path / "m.onnx")
    probe = Bench(tmp_path / "home").register("m", path, golden=str(tmp_path / "g.npz")).row.manifest.probe
    assert (probe.run, probe.batch, probe.by_rows) == ("proven", "never", True)
    assert "ended the process" in probe.batch_reason
    assert len(started) == 2  # what comes after it is tried all the same: rows of nothing
