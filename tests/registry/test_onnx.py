"""Sessions: quiet, with their reasons in plain words, and light to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from registry import onnx, providers
from registry.errors import InferenceFailed, LoadFailed
from registry.options import ServingOptions
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
    models.linear(tmp_path / "m.onnx")
    with pytest.raises(InferenceFailed, match="Got: 4 Expected: 3"):
        onnx.run(onnx.open_session(tmp_path / "m.onnx"), {"x": np.ones((1, 4), np.float32)})


def test_a_provider_that_is_absent_refuses_the_model_or_is_declared_to_fall_back(tmp_path: Path) -> None:
    path = models.linear(tmp_path / "m.onnx")
    absent = next(name for name in ("tensorrt", "cuda") if providers.NAMES[name] not in onnx.available_providers())
    with pytest.raises(LoadFailed, match="is not available here") as refused:
        onnx.open_session(path, options=ServingOptions(provider=absent))
    assert refused.value.details["kind"] == "provider"
    options = ServingOptions(provider=absent, provider_fallback="cpu")
    session = onnx.open_session(path, options=options)
    assert "it runs on cpu" in providers.told(options, session.get_providers())
    assert onnx.run(session, {"x": np.ones((1, 3), np.float32)})[0].shape[0] == 1


@pytest.mark.parametrize(
    "options",
    [
        ServingOptions(graph_optimization="none"),
        ServingOptions(graph_optimization="layout"),
        ServingOptions(memory_arena=False, threads=2),
        ServingOptions(io_binding=True),
    ],
    ids=["plain graph", "layout", "no arena", "bound"],
)
def test_session_options_change_how_a_model_runs_and_not_what_it_says(tmp_path: Path, options: ServingOptions) -> None:
    path, feeds = models.linear(tmp_path / "m.onnx"), {"x": np.arange(12, dtype=np.float32).reshape(4, 3)}
    plain = onnx.open_session(path)
    want = onnx.runner(plain, onnx.output_specs(plain))(feeds)
    session = onnx.open_session(path, options=options)
    got = onnx.runner(session, onnx.output_specs(session), options.io_binding)(feeds)
    np.testing.assert_array_equal(got[0], want[0])


def test_a_bound_run_fails_as_any_other_and_takes_plain_numbers_only(tmp_path: Path) -> None:
    session = onnx.open_session(models.linear(tmp_path / "m.onnx"))
    run = onnx.runner(session, onnx.output_specs(session), io_binding=True)
    with pytest.raises(InferenceFailed, match="the model failed"):
        run({"x": np.ones((1, 4), np.float32)})
    texts = onnx.open_session(models.columns(tmp_path / "t.onnx"))
    with pytest.raises(LoadFailed, match="io_binding takes plain numbers"):
        onnx.runner(texts, onnx.output_specs(texts), io_binding=True)


def test_an_optimised_model_is_kept_read_again_and_made_anew_when_it_is_torn(tmp_path: Path) -> None:
    path, kept = models.linear(tmp_path / "m.onnx"), tmp_path / "optimized" / "m.onnx"
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    want = onnx.run(onnx.open_session(path, optimized=kept), feeds)[0]
    whole = kept.read_bytes()
    path.write_bytes(b"gone")  # the kept one is what is read from now on
    np.testing.assert_array_equal(onnx.run(onnx.open_session(path, optimized=kept), feeds)[0], want)
    models.linear(path)
    kept.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(onnx.run(onnx.open_session(path, optimized=kept), feeds)[0], want)
    assert [file.name for file in kept.parent.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_says_what_the_processor_says(tmp_path: Path, provider: str) -> None:
    if providers.NAMES[provider] not in onnx.available_providers():
        pytest.skip(f"onnxruntime has no {provider} here: it needs a GPU and the extra [cuda]")
    path, feeds = models.linear(tmp_path / "m.onnx"), {"x": np.ones((8, 3), np.float32)}
    session = onnx.open_session(path, options=ServingOptions(provider=provider, device_memory_mb=512))
    want = onnx.run(onnx.open_session(path), feeds)[0]
    np.testing.assert_allclose(onnx.run(session, feeds)[0], want, rtol=1e-5, atol=1e-6)


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
