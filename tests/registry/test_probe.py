"""The probing process itself: it never outlives the one that asked, and inherits nothing it does not need."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from registry.errors import ArtifactRejected
from registry.manifest import ServingOptions
from registry.probe import Finding, ProbeLimits, probe
from tests.support import models

ROOT = Path(__file__).parents[2]
_PARENT = """
import sys
from pathlib import Path
from registry.manifest import ServingOptions
from registry.probe import ProbeLimits, probe
probe(Path(sys.argv[1]), Path(sys.argv[2]), options=ServingOptions(), limits=ProbeLimits(seconds=60))
"""


def test_the_child_dies_when_its_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    model = models.endless(tmp_path / "m.onnx")
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(model), str(tmp_path / "work")], cwd=ROOT)
    try:
        children: list[psutil.Process] = []
        until = time.monotonic() + 20
        while time.monotonic() < until:
            children = psutil.Process(parent.pid).children()
            if children and children[0].cpu_times().user > 0.6:  # past its imports, in the endless loop
                break
            time.sleep(0.02)
        assert children
        assert children[0].cmdline()[1:] == ["-P", "-m", "driftgate", "probe"]
    finally:
        parent.kill()
        parent.wait()
    _gone, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_progress_tells_what_is_being_done(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    told: list[str] = []
    found = probe(
        models.linear(tmp_path / "m.onnx"),
        tmp_path / "work",
        options=ServingOptions(),
        limits=ProbeLimits(seconds=30),
        progress=lambda stage, share: told.append(stage),
    )
    assert isinstance(found, Finding)
    assert told == ["reading the model", "loading the model", "running made-up inputs"]
    assert found.examples["y"].shape == (1, 2)


def test_a_file_above_the_limit_is_no_way_to_fill_the_disk(tmp_path: Path) -> None:
    import numpy as np

    (tmp_path / "work").mkdir()
    rows = {"x": np.random.default_rng(0).normal(size=(40_000, 3)).astype(np.float32)}
    with pytest.raises(ArtifactRejected, match="wrote a file above 1 MB"):
        probe(
            models.linear(tmp_path / "m.onnx", outputs=64),
            tmp_path / "work",
            options=ServingOptions(),
            limits=ProbeLimits(seconds=60, file_mb=1, max_rows=2),
            feeds=rows,
        )
