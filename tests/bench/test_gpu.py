"""The GPU scenario: refused where there is no GPU, and it measures what it says (here: the processor)."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.__main__ import main
from bench.scenario import Options, discover, parser_of
from bench.scenarios import gpu
from registry.onnx import available_providers


def test_without_a_gpu_it_is_refused_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    if "CUDAExecutionProvider" in available_providers():
        pytest.skip("there is a GPU here")
    assert main(["run", "gpu", "--quick"]) == 2
    assert "gpu: skipped, onnxruntime has no GPU provider here" in capsys.readouterr().err


def test_it_compares_sessions_as_a_worker_opens_them(tmp_path: Path) -> None:
    arguments = parser_of(discover()["gpu"]).parse_args(["--quick", "--seconds", "0.01", "--provider", "cpu"])
    result = gpu.run(Options(tmp_path, True, None, 0.01, arguments, lambda _text: None))
    assert not result.missed
    assert result.figures["cpu, bound: farthest from the processor"].median == 0.0
    assert set(result.curves) == {"cpu", "cpu, as called", "cpu, bound"}
