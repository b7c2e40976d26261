"""The sample of reference rows that a version keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.sample import MOST_BYTES, MOST_ROWS, sample_bytes
from registry.tensors import load_tensors


def kept(feeds: dict[str, NDArray[Any]], folder: Path) -> dict[str, NDArray[Any]]:
    content = sample_bytes(feeds)
    assert content is not None
    assert len(content) <= MOST_BYTES
    (folder / "rows").write_bytes(content)
    return load_tensors(folder / "rows")


def test_few_rows_are_all_kept_as_they_are(tmp_path: Path) -> None:
    text = np.array(["a", "é", ""], dtype=object)
    feeds = {"x": np.arange(6, dtype=np.float32).reshape(3, 2), "city": text}
    found = kept(feeds, tmp_path)
    assert list(found) == ["x", "city"]
    assert (found["x"] == feeds["x"]).all()
    assert found["city"].tolist() == text.tolist()


def test_of_many_rows_the_same_thousand_are_kept_in_their_order(tmp_path: Path) -> None:
    feeds = {"x": np.arange(50_000), "y": np.arange(50_000) * 2.0}
    found = kept(feeds, tmp_path)
    assert len(found["x"]) == MOST_ROWS
    assert (np.diff(found["x"]) > 0).all()
    assert found["x"].max() > 45_000  # from everywhere, not from the beginning
    assert (found["y"] == found["x"] * 2.0).all()
    assert sample_bytes(feeds) == sample_bytes({name: array.copy() for name, array in feeds.items()})


def test_large_rows_are_fewer_and_rows_that_never_fit_are_none(tmp_path: Path) -> None:
    wide = {"x": np.zeros((40, 3, 100, 100), np.float32)}  # 120,000 bytes each
    assert len(kept(wide, tmp_path)["x"]) == 20
    assert sample_bytes({"x": np.zeros((2, 2 << 20), np.float32)}) is None
    assert sample_bytes({"x": np.array(["a" * (5 << 20)], dtype=object)}) is None
    assert sample_bytes({"x": np.zeros((0, 3), np.float32)}) is None
