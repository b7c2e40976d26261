"""Registering whole versions: real files, a real probing process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from registry import onnx
from registry.batching import Axes
from registry.catalog import Catalog
from registry.errors import ArtifactRejected, MalformedRequest
from registry.manifest import ServingOptions
from registry.tensors import load_tensors
from tests.support import models, typed_models
from tests.support.registering import Bench

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "home")


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def external_model(path: Path, locations: list[str]) -> None:
    """y = x * w for each location, w in the data there; none of the data is written."""
    from onnx import helper

    weights, nodes, last = [], [], "x"
    for at, location in enumerate(locations):
        tensor = TensorProto(name=f"w{at}", data_type=TensorProto.FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
        for key, text in {"location": location, "offset": "0", "length": "12"}.items():
            tensor.external_data.add(key=key, value=text)
        weights.append(tensor)
        nodes.append(helper.make_node("Mul", [last, f"w{at}"], [f"y{at}"]))
        last = f"y{at}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in ("x", last)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=weights)
    imports = [helper.make_opsetid("", 17)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())


def save_golden(path: Path, **arrays: NDArray[Any]) -> str:
    np.savez(path, **{name.replace("_", ":", 1): array for name, array in arrays.items()})  # type: ignore[arg-type]
    return str(path)


def test_a_model_with_a_reference_is_proven_fitted_stored_and_named(bench: Bench, tmp_path: Path) -> None:
    path = models.lying_shape(tmp_path / "m.onnx")
    rows = {"x": normal(200, 3)}
    done = bench.register("m", path, rows, tags={"team": "x"}, alias="champion", columns=("a", "b", "c"))
    manifest = done.row.manifest
    assert (done.created, done.row.version, done.row.tags) == (True, 1, {"team": "x"})
    assert (manifest.probe.run, manifest.probe.batch, manifest.probe.by_rows) == ("proven", "exact", True)
    assert manifest.probe.joined_rows == 16
    assert manifest.outputs[0].shape == (None,)  # declared (1,)
    assert any("declares shape [1]" in warning for warning in done.warnings)
    assert bench.catalog.aliases("m")["champion"].version == 1
    given = bench.seen[0]
    assert given.columns == ("a", "b", "c")
    assert given.outputs_seen is not None
    assert given.rows_run is not None
    assert (given.outputs_seen["label"] == rows["x"].argmax(axis=1)).all()
    assert (given.rows_run == np.arange(200)).all()
    assert manifest.profile is not None
    assert len(bench.artifacts.read(manifest.profile)) == 32
    assert manifest.reference_rows is not None
    assert (load_tensors(bench.artifacts.path(manifest.reference_rows))["x"] == rows["x"]).all()
    assert "fitting the profile" in bench.told
    session = onnx.open_session(bench.artifacts.materialise(manifest))
    assert onnx.run(session, {"x": rows["x"][:2]})[0].shape == (2,)
    assert list((tmp_path / "home" / "artifacts" / "staging").iterdir()) == []


def test_the_same_gift_is_the_same_version_and_another_gift_another(bench: Bench, tmp_path: Path) -> None:
    path = models.linear(tmp_path / "m.onnx")
    golden = save_golden(tmp_path / "golden.npz", in_x=normal(4, 3))
    assert bench.register("m", path).created
    again = bench.register("m", path.rename(tmp_path / "renamed.onnx"), alias="champion")
    assert (again.created, again.row.version) == (False, 1)
    path = tmp_path / "renamed.onnx"
    assert bench.register("m", path, new_version=True).row.version == 2
    assert bench.register("m", path, {"x": normal(5, 3)}).row.version == 3
    assert bench.register("m", path, {"x": normal(5, 3)}).row.version == 3
    assert bench.register("m", path, golden=golden).row.version == 4
    assert bench.register("m", path, options=ServingOptions(max_batch_rows=4)).row.version == 5


def test_without_given_rows_a_model_runs_but_is_never_joined(bench: Bench, tmp_path: Path) -> None:
    manifest = bench.register("m", models.columns(tmp_path / "m.onnx")).row.manifest
    probe = manifest.probe
    assert (probe.run, probe.batch, probe.by_rows) == ("proven", "never", True)
    assert manifest.reference_rows is None
    assert "no golden or reference rows" in probe.batch_reason
    assert set(bench.seen[0].examples) == {"total", "named"}


def test_several_inputs_strings_included_are_joined_when_bits_agree(bench: Bench, tmp_path: Path) -> None:
    rows: dict[str, NDArray[Any]] = {
        "age": normal(20, 1),
        "visits": np.arange(20).reshape(20, 1),
        "city": np.array([[f"c{i}"] for i in range(20)], dtype=object),
    }
    done = bench.register("m", models.columns(tmp_path / "m.onnx"), rows)
    assert done.row.manifest.probe.batch == "exact"
    assert bench.seen[0].outputs_seen is not None
    assert bench.seen[0].outputs_seen["named"].tolist() == rows["city"].tolist()


def test_rows_that_need_each_other_are_never_joined_and_rows_on_other_axes_if_proven(
    bench: Bench, tmp_path: Path
) -> None:
    probe = bench.register("m", models.centred(tmp_path / "m.onnx"), {"x": normal(20, 3)}).row.manifest.probe
    assert (probe.batch, probe.by_rows) == ("never", True)
    assert "differ" in probe.batch_reason
    golden = save_golden(tmp_path / "g.npz", in_x=normal(3, 4), in_state=normal(2, 3, 4))
    probe = bench.register("n", models.state_on_axis_one(tmp_path / "n.onnx"), golden=golden).row.manifest.probe
    assert (probe.run, probe.batch, probe.by_rows) == ("proven", "exact", False)
    assert probe.axes == Axes((0, 1), (0, 1))


def test_a_golden_answer_that_the_model_does_not_give_refuses_it(bench: Bench, tmp_path: Path) -> None:
    path, x = models.linear(tmp_path / "m.onnx"), normal(4, 3)
    y = onnx.run(onnx.open_session(path), {"x": x})[0]
    good = save_golden(tmp_path / "good.npz", in_x=x.astype(np.float64), out_y=y * np.float32(1.0002))
    assert bench.register("m", path, golden=good).row.manifest.probe.rows_tried == 4
    bad = save_golden(tmp_path / "bad.npz", in_x=x, out_y=y + np.float32(0.1))
    with pytest.raises(ArtifactRejected, match="8 of 8 values differ"):
        bench.register("m", path, golden=bad)
    with pytest.raises(ArtifactRejected, match="no output 'z'"):
        bench.register("m", path, golden=save_golden(tmp_path / "z.npz", in_x=x, out_z=y))
    with pytest.raises(ArtifactRejected, match="'x' is missing"):
        bench.register("m", path, golden=save_golden(tmp_path / "none.npz", out_y=y))
    (tmp_path / "broken.npz").write_bytes(b"PK broken")
    with pytest.raises(ArtifactRejected, match="not a readable"):
        bench.register("m", path, golden=str(tmp_path / "broken.npz"))
    assert len(bench.catalog.versions("m")) == 1


def test_a_golden_set_that_is_no_regular_file_is_refused_without_reading_it(bench: Bench, tmp_path: Path) -> None:
    path = models.linear(tmp_path / "m.onnx")
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "input_0.pb")
    for golden in (str(tmp_path / "fifo.npz"), "/dev/zero", str(tmp_path / "folder")):
        with pytest.raises(ArtifactRejected, match="not a regular file"):
            bench.register("m", path, golden=golden)


def test_a_run_that_fails_refuses_given_rows_and_only_warns_of_made_up_ones(bench: Bench, tmp_path: Path) -> None:
    path = models.index_of_made_up(tmp_path / "m.onnx")
    done = bench.register("m", path)
    assert (done.row.manifest.probe.run, done.row.manifest.probe.batch) == ("unproven", "never")
    assert "out of data bounds" in done.row.manifest.probe.reason
    assert "never seen to run" in done.warnings[0]
    with pytest.raises(ArtifactRejected, match="out of data bounds"):
        bench.register("m", path, golden=save_golden(tmp_path / "bad.npz", in_i=np.array([5, 6])))
    with pytest.raises(ArtifactRejected, match="reference row"):
        bench.register("m", path, {"i": np.array([-100, -99, 5])})
    good = save_golden(tmp_path / "good.npz", in_i=np.array([-100, -93]), out_y=np.array([0, 7], np.float32))
    assert bench.register("m", path, golden=good).row.manifest.probe.run == "proven"


def test_what_can_never_be_served_is_refused_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    cases = {
        "custom operators (com.example)": models.custom_operator(tmp_path / "a.onnx"),
        "tensor(float8e5m2), which cannot be served": typed_models.casts(
            tmp_path / "b.onnx", TensorProto.FLOAT, TensorProto.FLOAT8E5M2
        ),
        "does not exist": tmp_path / "none.onnx",
        "holds no .onnx file": ROOT / "registry",
        "not a regular file": Path("/dev/zero"),
        "holds 2 models": tmp_path,
    }
    for reason, path in cases.items():
        with pytest.raises(ArtifactRejected) as caught:
            bench.register("m", path)
        assert reason in caught.value.message
    assert bench.catalog.models() == ()


def test_names_are_checked_before_any_work(bench: Bench) -> None:
    for how in ({"model": "a/b"}, {"model": "m", "alias": "canary"}, {"model": "m", "target": "y"}):
        with pytest.raises(MalformedRequest):
            bench.register(path="/nowhere", **how)  # type: ignore[arg-type]
    assert bench.told == []


def test_external_data_is_stored_with_the_model_and_found_beside_it(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    models.external(tmp_path / "folder" / "m.onnx", "data/weights.bin")
    manifest = bench.register("m", tmp_path / "folder").row.manifest
    assert [item.path for item in manifest.files] == ["model.onnx", "data/weights.bin"]
    (tmp_path / "folder" / "data" / "weights.bin").unlink()
    session = onnx.open_session(bench.artifacts.materialise(manifest))
    assert onnx.run(session, {"x": np.ones((1, 3), np.float32)})[0].tolist() == [[1, 2, 3]]
    with pytest.raises(ArtifactRejected, match="missing"):
        bench.register("m", tmp_path / "folder")


@pytest.mark.parametrize(
    ("locations", "stored"),
    [
        (["./w.bin"], ["model.onnx", "w.bin"]),
        (["./w.bin", "w.bin"], ["model.onnx", "w.bin"]),
        (["model.onnx", "driftgate-model.onnx"], ["driftgate-model-2.onnx", "driftgate-model.onnx", "model.onnx"]),
    ],
)
def test_external_data_may_be_named_in_any_way(
    bench: Bench, tmp_path: Path, locations: list[str], stored: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "the-model.onnx"
    for location in locations:
        models.external(path, location)
    external_model(path, locations)
    manifest = bench.register("m", path).row.manifest
    assert [item.path for item in manifest.files] == stored
    session = onnx.open_session(bench.artifacts.materialise(manifest))
    assert onnx.run(session, {"x": np.ones((1, 3), np.float32)})[0].shape == (1, 3)


@pytest.mark.parametrize("location", ["w" * 300, "m.onnx/w.bin", "w.bin/" * 900 + "w"])
def test_external_data_with_an_impossible_name_is_refused(bench: Bench, tmp_path: Path, location: str) -> None:
    external_model(tmp_path / "m.onnx", [location])
    with pytest.raises(ArtifactRejected, match="external data"):
        bench.register("m", tmp_path / "m.onnx")


@pytest.mark.parametrize("path", ["x" * 3000, "y/" * 3000, "~nobody-of-that-name/m.onnx", "a\0b"])
def test_a_path_that_the_file_system_refuses_is_a_refusal(bench: Bench, path: str) -> None:
    with pytest.raises(ArtifactRejected):
        bench.register("m", path)
    with pytest.raises(ArtifactRejected):
        bench.register("m", models.linear(bench.home / "m.onnx"), golden=path)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_external_data_outside_the_models_folder_is_refused(bench: Bench, tmp_path: Path, location: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(12))
    if location == "link.bin":
        models.external(tmp_path / "folder" / "m.onnx", "link.bin")
        (tmp_path / "folder" / "link.bin").unlink()
        (tmp_path / "folder" / "link.bin").symlink_to(tmp_path / "secret.bin")
    else:
        models.external(tmp_path / "folder" / "m.onnx", location)
    with pytest.raises(ArtifactRejected, match="folder"):
        bench.register("m", tmp_path / "folder")


def test_a_model_that_never_ends_or_needs_too_much_harms_nobody(bench: Bench, tmp_path: Path) -> None:
    golden = save_golden(tmp_path / "g.npz", in_size=np.array([1 << 33]))
    with pytest.raises(ArtifactRejected, match="more than 4096 MB of memory"):
        bench.register("m", models.hungry(tmp_path / "h.onnx"), golden=golden)
    bench.limits = dataclasses.replace(bench.limits, seconds=3)
    with pytest.raises(ArtifactRejected, match="longer than 3 s, while running made-up inputs"):
        bench.register("m", models.endless(tmp_path / "e.onnx"))
    bench.limits = dataclasses.replace(bench.limits, seconds=30, memory_mb=64)
    with pytest.raises(ArtifactRejected, match="probing"):
        bench.register("m", models.linear(tmp_path / "l.onnx"))


def test_non_finite_answers_on_given_rows_are_a_warning(bench: Bench, tmp_path: Path) -> None:
    path, rows = models.linear(tmp_path / "m.onnx"), {"x": normal(8, 3)}
    rows["x"][2, 0] = np.nan
    assert "non-finite" in bench.register("m", path, rows).warnings[0]
    assert bench.register("m", path, rows, options=ServingOptions(nan="allow")).warnings == ()


def test_an_output_whose_shape_depends_on_values_is_kept_run_by_run(bench: Bench, tmp_path: Path) -> None:
    x = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], np.float32)
    manifest = bench.register("m", models.places(tmp_path / "m.onnx"), {"x": x}).row.manifest
    assert (manifest.probe.batch, manifest.probe.by_rows) == ("never", False)
    assert manifest.outputs[0].shape == (2, None)
    seen = bench.seen[0].outputs_seen
    assert seen is not None
    assert [array.shape for array in seen["y"]] == [(2, 1), (2, 2), (2, 0), (2, 3)]


_PROCESS = """
import sys
from pathlib import Path
from tests.support.registering import Bench
bench = Bench(Path(sys.argv[1]))
for path in sys.argv[2:]:
    bench.register("m", path, alias="newest")
"""


def test_two_processes_that_register_at_once_lose_nothing(tmp_path: Path) -> None:
    paths = [str(models.linear(tmp_path / f"{seed}.onnx", seed=seed)) for seed in range(5)]
    home = tmp_path / "home"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, str(home), *order], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        for order in (paths[:4], paths[:0:-1])
    ]
    for process in processes:
        assert process.communicate(timeout=100)[1] == ""
        assert process.returncode == 0
    catalog = Catalog.open(f"sqlite:///{home / 'registry.db'}")
    versions = catalog.versions("m")
    assert [row.version for row in versions] == [1, 2, 3, 4, 5]
    assert len({row.digest for row in versions}) == 5
    history = catalog.alias_history("m", "newest")
    assert [change.revision for change in history] == list(range(1, len(history) + 1))
    assert list((home / "artifacts" / "staging").iterdir()) == []


def test_a_constant_answer_is_checked_against_what_the_model_returns(bench: Bench, tmp_path: Path) -> None:
    path, rows = models.linear(tmp_path / "m.onnx"), {"x": normal(20, 3)}
    fits = ServingOptions(fallback=("constant",), fallback_constant=(("y", (0.5, 0.5)),))
    manifest = bench.register("m", path, rows, options=fits).row.manifest
    assert manifest.options == fits
    assert manifest != bench.register("m", path, rows).row.manifest  # it is part of what the version is
    wrong = dataclasses.replace(fits, fallback_constant=(("y", (0.5, 0.5, 0.5)),))
    with pytest.raises(ArtifactRejected, match=r'fallback_constant .* output "y": got shape \[3\], a row has \[2\]'):
        bench.register("m", path, rows, options=wrong)
