"""This process's memory: a session costs what it holds, and gives it back."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.data.memory import ProcessMemory
from registry import onnx
from tests.support import models


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_session_costs_its_weights_and_gives_them_back(tmp_path: Path) -> None:
    memory = ProcessMemory()
    path = models.linear(tmp_path / "m.onnx", 1024, 4096)
    onnx.open_session(path)  # what onnxruntime itself takes, once
    gc.collect()
    memory.give_back()
    before = memory.own_bytes()
    with memory.apart():
        session = onnx.open_session(path)
    memory.give_back()
    taken = memory.own_bytes() - before
    assert 15 << 20 < taken < 22 << 20
    assert memory.used_bytes() > memory.own_bytes()
    del session
    memory.give_back()
    assert memory.own_bytes() - before < 6 << 20


COMES_AND_GOES = """
from gateway.data.memory import ProcessMemory

memory, stays = ProcessMemory(), []
for _ in range(20):
    with memory.apart(64 << 10):
        large = b"x" * (4 << 20)
    stays.append(b"x" * 1000)  # behind it, where a heap has learned to take what is large
    before = memory.own_bytes()
    del large
    assert before - memory.own_bytes() > 3 << 20
"""


@pytest.mark.skipif(sys.platform != "linux", reason="read from /proc")
def test_a_large_block_that_was_made_apart_is_given_back_when_it_goes() -> None:
    done = subprocess.run([sys.executable, "-c", COMES_AND_GOES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
