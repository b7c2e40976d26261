"""Tensors without elements that end the process: found where it harms nobody, and refused where it would."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gateway.data.servable import load
from registry.errors import InferenceFailed, TensorMismatch
from registry.manifest import Manifest
from registry.onnx import run_options
from registry.probe_empty import cases_of, emptied, ended_at, try_all
from registry.rows import Feeds
from registry.vocabulary import TensorSpec
from tests.support import models
from tests.support.registering import Bench

SPECS = (TensorSpec("a", "FP32", (None, 3, None)), TensorSpec("b", "FP32", (None, None)))
FEEDS = {"a": np.ones((2, 3, 4), np.float32), "b": np.ones((2, 4), np.float32)}


def test_rows_and_axes_of_one_name_are_emptied_together_and_each_axis_alone() -> None:
    names = {"a": ("n", None, "t"), "b": ("n", "t")}
    rows, t = (("a", 0), ("b", 0)), (("a", 2), ("b", 1))
    alone = [(place,) for place in (("a", 0), ("a", 2), ("b", 0), ("b", 1))]
    assert cases_of(FEEDS, SPECS, names, by_rows=True) == [rows, t, *alone]
    assert cases_of(FEEDS, SPECS, {}, by_rows=False) == alone
    assert {name: array.shape for name, array in emptied(FEEDS, t).items()} == {"a": (2, 3, 0), "b": (2, 0)}


def test_the_log_tells_which_case_was_the_last_one(tmp_path: Path) -> None:
    log, cases = tmp_path / "log", [(("b", 0),), (("b", 1),), (("a", 0),)]
    ran: list[tuple[int, ...]] = []

    def run(feeds: Feeds) -> None:
        ran.append(feeds["b"].shape)
        if feeds["b"].shape == (0, 4):
            raise InferenceFailed("a caller is told so")
        if feeds["b"].shape == (2, 0):
            raise SystemExit  # stands for a process that ends here

    with pytest.raises(SystemExit):
        try_all(run, FEEDS, cases, log, 0, 60.0)
    assert (ended_at(log), ran) == (1, [(0, 4), (2, 0)])
    try_all(run, FEEDS, cases, log, 2, 60.0)
    assert ended_at(log) is None
    try_all(run, FEEDS, cases, log, 0, -1.0)  # no time left
    assert (ended_at(log), len(ran)) == (None, 3)


def test_a_model_that_no_rows_would_end_is_registered_and_refuses_them(tmp_path: Path) -> None:
    """onnxruntime 1.31 ends the process for an LSTM of no rows: one request would end a worker."""
    bench = Bench(tmp_path / "home")
    path = models.recurrent(tmp_path / "m.onnx")
    done = bench.register("m", path, {"x": np.ones((4, 5, 3), np.float32)})
    manifest = done.row.manifest
    assert ("x", 1) in manifest.probe.never_empty
    assert Manifest.from_json(manifest.to_json()).probe.never_empty == manifest.probe.never_empty
    (tmp_path / "m.json").write_text(manifest.to_json())
    servable = load("m", 1, path, tmp_path / "m.json", 1, 8)
    with pytest.raises(TensorMismatch, match=r"got shape \(4, 0, 3\), the model cannot take 0 on axis 1"):
        servable.slots[0].check_shape((4, 0, 3))
    with pytest.raises(InferenceFailed, match="cannot take 0 on axis 1"):  # not from a caller: a shadow's copy
        servable.run([np.ones((4, 0, 3), np.float32)], run_options())
    assert servable.run([np.ones((4, 1, 3), np.float32)])[0].shape == (4, 1, 1, 4)
