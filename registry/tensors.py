"""Named tensors in one file: how the probe's child and its parent hand arrays to each other, and how golden sets lie.

Nothing is ever unpickled. Strings, which numpy would pickle, travel as JSON; names are kept beside the arrays, because
a tensor may be called anything. The same tensors always give the same bytes, so a golden set has a digest.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import StateDamaged
from registry.onnx import NUMPY_DTYPES, is_bfloat16

_BFLOAT16 = "bfloat16"  # stored as the 16 bits that it is: numpy's files know no such type
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's own beginning of time: no clock in the bytes


def save_tensors(path: Path | IO[bytes], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write named tensors; object arrays hold str."""
    names = [[name, _kind(array)] for name, array in tensors.items()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(zipfile.ZipInfo("names.json", _EPOCH), json.dumps(names))
        for number, array in enumerate(tensors.values()):
            with archive.open(zipfile.ZipInfo(str(number), _EPOCH), "w", force_zip64=True) as file:
                if array.dtype == object:
                    document = {"shape": list(array.shape), "values": [str(item) for item in array.ravel().tolist()]}
                    file.write(json.dumps(document).encode())
                else:
                    # not ascontiguousarray, which turns a scalar into a vector
                    array = np.asarray(array, order="C")
                    bits = array.view(np.uint16) if _kind(array) == _BFLOAT16 else array
                    np.lib.format.write_array(file, bits, allow_pickle=False)


def _kind(array: NDArray[Any]) -> str:
    return "strings" if array.dtype == object else _BFLOAT16 if is_bfloat16(array) else "array"


def load_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read what save_tensors wrote. Raises StateDamaged for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            tensors: dict[str, NDArray[Any]] = {}
            for number, (name, kind) in enumerate(json.loads(archive.read("names.json"))):
                content = archive.read(str(number))
                if kind == "strings":
                    document = json.loads(content)
                    flat = np.empty(len(document["values"]), dtype=object)
                    flat[:] = document["values"]
                    tensors[name] = flat.reshape(document["shape"])
                else:
                    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
                    tensors[name] = array.view(NUMPY_DTYPES["BF16"]) if kind == _BFLOAT16 else array
            return tensors
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise StateDamaged(f"{path.name} holds no tensors: {error}") from None
