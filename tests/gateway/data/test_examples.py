"""Examples show what is typical and nobody's row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.data.examples import example, typical, v1_body, v2_body
from gateway.data.servable import Servable
from registry import onnx
from registry.manifest import Manifest
from registry.tensors import save_tensors
from tests.support.models import columns, hungry, linear
from tests.support.serving import aspire


def served(path: Path, **options: Any) -> Servable:
    manifest = Manifest.from_json(Path(aspire(path, **options).manifest_path).read_text())
    return Servable("m", 1, onnx.open_session(path), manifest, 64)


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        (np.array([[1.0], [2.0], [900.0]], np.float32), [2.0]),
        (np.array([[123456], [123456]]), [123000]),
        (np.array([[-123456]]), [-123000]),
        (np.array([[7]], np.uint8), [7]),
        (np.array([[True], [True], [False]]), [True]),
        (np.array([[np.nan], [np.nan], [1.0]]), [0.0]),
        (np.array([["rome"]] * 5 + [["ann"]], dtype=object), ["rome"]),
        (np.array([["ann"], ["bob"], ["cy"]], dtype=object), [""]),  # names that few share are not shown
    ],
)
def test_the_typical_value_is_the_short_median_or_the_commonest_shared_text(rows: Any, wanted: list[Any]) -> None:
    found = typical(rows)
    assert found.shape == rows.shape[1:]
    assert found.tolist() == wanted


def test_the_sample_of_the_reference_makes_the_example(tmp_path: Path) -> None:
    servable = served(linear(tmp_path / "m.onnx"))
    sample = tmp_path / "sample"
    save_tensors(sample, {"x": np.arange(30, dtype=np.float32).reshape(10, 3)})
    feeds = example(servable, sample, lambda: True)
    assert feeds is not None
    assert [feed.tolist() for feed in feeds] == [[[12.0, 13.0, 14.0]]]
    assert feeds[0].dtype == np.float32


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_a_damaged_sample_or_one_of_another_shape_gives_zeros(tmp_path: Path, content: bytes | None) -> None:
    servable = served(linear(tmp_path / "m.onnx"))
    sample = tmp_path / "sample"
    if content is None:
        save_tensors(sample, {"x": np.ones((10, 4), np.float32)})
    else:
        sample.write_bytes(content)
    feeds = example(servable, sample, lambda: True)
    assert feeds is not None
    assert feeds[0].tolist() == [[0.0, 0.0, 0.0]]


def test_without_time_to_try_the_first_candidate_is_shown(tmp_path: Path) -> None:
    feeds = example(served(hungry(tmp_path / "m.onnx"), by_rows=False), None, lambda: False)
    assert feeds is not None
    assert feeds[0].tolist() == [0]


def test_requests_of_several_inputs_are_keyed_by_name(tmp_path: Path) -> None:
    servable = served(columns(tmp_path / "m.onnx"))
    feeds = example(servable, None, lambda: True)
    assert feeds is not None
    assert [tensor["name"] for tensor in v2_body(servable.slots, feeds)["inputs"]] == ["age", "visits", "city"]
    assert v1_body(servable.slots, feeds, by_rows=True) == {"instances": [{"age": [0.0], "visits": [0], "city": ["0"]}]}
    assert v1_body(servable.slots, feeds, by_rows=False) == {
        "inputs": {"age": [[0.0]], "visits": [[0]], "city": [["0"]]}
    }
