"""Sessions: quiet, with their reasons in plain words, and light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from registry import onnx
from registry.errors import InferenceFailed, LoadFailed
from registry.vocabulary import TensorSpec
from tests.support import models

ROOT = Path(__file__).parents[2]


def test_specs_and_answers_of_a_session(tmp_path: Path) -> None:
    session = onnx.open_session(models.columns(tmp_path / "m.onnx"))
    assert onnx.input_specs(session)[1:] == (
        TensorSpec("visits", "INT64", (None, 1)),
        TensorSpec("city", "BYTES", (None, 1)),
    )
    assert [spec.name for spec in onnx.output_specs(session, ["named"])] == ["named"]
    feeds = {
        "age": np.ones((1, 1), np.float32),
        "visits": np.array([[2]]),
        "city": np.array([["Ürk"]], dtype=object),
    }
    total, named = onnx.run(session, feeds, ["total", "named"])
    assert (total.tolist(), named.tolist()) == ([[3.0]], [["Ürk"]])


def test_faults_carry_the_runtimes_reason_and_kind_but_no_paths(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\xffnonsense")
    with pytest.raises(LoadFailed) as load:
        onnx.open_session(tmp_path / "bad.onnx")
    assert load.value.details["kind"] == "InvalidProtobuf"
    assert str(tmp_path) not in load.value.message
    with pytest.raises(LoadFailed, match="not available here"):
        onnx.open_session(models.linear(tmp_path / "m.onnx"), provider="abacus")
    with pytest.raises(InferenceFailed, match="Got: 4 Expected: 3"):
        onnx.run(onnx.open_session(tmp_path / "m.onnx"), {"x": np.ones((1, 4), np.float32)})


def test_a_model_whose_declared_shape_lies_is_run_without_noise(tmp_path: Path) -> None:
    models.lying_shape(tmp_path / "m.onnx")
    code = (
        "import numpy, pathlib; from registry import onnx;"
        f"s = onnx.open_session(pathlib.Path({str(tmp_path / 'm.onnx')!r}));"
        "onnx.run(s, {'x': numpy.ones((5, 3), numpy.float32)})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_what_workers_import_of_the_registry_is_light() -> None:
    names = ["vocabulary", "errors", "clock", "formats", "home", "onnx", "manifest"]
    code = f"import sys, {', '.join('registry.' + name for name in names)}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"pandas", "scipy", "sqlalchemy", "fsspec", "pyarrow", "onnx", "onnxruntime", "typer", "rich"}
