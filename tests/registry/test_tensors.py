"""Tensors in a file: nothing unpickled, any name, the same bytes each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from registry.errors import StateDamaged
from registry.tensors import load_tensors, save_tensors


def test_every_kind_of_tensor_comes_back_the_same(tmp_path: Path) -> None:
    tensors: dict[str, NDArray[Any]] = {
        "gpu_0/data:0": np.arange(6, dtype=np.float16).reshape(2, 3),
        "a.npy": np.array(3, np.int64),
        "": np.zeros((0, 4), np.bool_),
        "words": np.array([["a\0b", "ü"], ["", "x" * 300]], dtype=object),
        "odd": np.arange(12).reshape(3, 4).T,
    }
    save_tensors(tmp_path / "one", tensors)
    save_tensors(tmp_path / "two", tensors)
    loaded = load_tensors(tmp_path / "one")
    assert list(loaded) == list(tensors)
    for name, array in tensors.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].shape == array.shape
        assert (loaded[name] == array).all()
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_file_that_holds_no_tensors_says_so(tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"PK nonsense")
    with pytest.raises(StateDamaged, match="holds no tensors"):
        load_tensors(tmp_path / "bad")
