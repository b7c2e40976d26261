"""Golden sets: inputs that a version must answer, and the answers that it must give. Read in the probe's child only.

Two forms: an .npz with arrays `in:<input>` and optional `out:<output>`, or a folder of ONNX test data (`input_0.pb`,
`output_0.pb`, or several such folders `test_data_set_0` …). Numbers are equal within rtol 1e-3 and atol 1e-5;
strings, integers and booleans when they are the same. float16 and bfloat16 may differ in their last few bits.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import ArtifactRejected
from registry.maps import matrix
from registry.onnx import FLOATS, NUMPY_DTYPES, is_bfloat16
from registry.vocabulary import TensorSpec

RTOL, ATOL = 1e-3, 1e-5
_COARSE = {"float16": 4e-3, "bfloat16": 3e-2}  # rtol: four times the distance of two neighbours
_MOST_CASES = 100


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One request and, where given, its answer, by tensor name."""

    name: str
    inputs: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]


def read_golden(
    path: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    every_output: Sequence[str],
    constants: Sequence[str] = (),
) -> list[GoldenCase]:
    """Every case of a golden set, in the model's dtypes.

    `every_output` names all the model's outputs in order; only those in `outputs` are kept. `constants` are inputs that
    the model has a value for, which are not served. Raises ArtifactRejected.
    """
    if path.is_dir():
        folders = sorted(folder for folder in path.glob("test_data_set_*") if folder.is_dir()) or [path]
        taken = [*(spec.name for spec in inputs), *constants]
        zipped = frozenset(spec.name for spec in outputs if spec.classes is not None)
        cases = [_read_folder(folder, taken, every_output, zipped) for folder in folders[:_MOST_CASES]]
    else:
        cases = [_read_npz(path)]
    return [_fitted(case, inputs, every_output, outputs, constants) for case in cases]


def refuse_non_finite(cases: Sequence[GoldenCase]) -> None:
    """Raise ArtifactRejected for a golden set with NaN or infinity, which a version must allow to be asked or told."""
    for case in cases:
        for kind, tensors in (("input", case.inputs), ("output", case.outputs)):
            for name, array in tensors.items():
                if (array.dtype.kind == "f" or is_bfloat16(array)) and not np.isfinite(array).all():
                    raise ArtifactRejected(
                        f"golden set: {kind} {name!r} of {case.name} holds numbers that are not finite, which this "
                        'version would neither take in JSON nor answer: say nan = "allow" in --options',
                        tensor=name,
                    )


def _read_npz(path: Path) -> GoldenCase:
    given: dict[str, dict[str, NDArray[Any]]] = {"in": {}, "out": {}}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                side, _, name = key.partition(":")
                if side not in given or not name:
                    raise ArtifactRejected(f"golden set: array {key!r} is named neither in:<input> nor out:<output>")
                given[side][name] = archive[key]
    except ArtifactRejected:
        raise
    except Exception as error:  # zip, header and pickle faults have no common base
        raise ArtifactRejected(f"golden set: {path.name} is not a readable .npz: {error}") from None
    return GoldenCase(path.name, given["in"], given["out"])


def _read_folder(
    folder: Path, every_input: Sequence[str], every_output: Sequence[str], zipped: Container[str]
) -> GoldenCase:
    taken = _read_protos(folder, "input", every_input)
    if not taken and every_input:
        raise ArtifactRejected(f"golden set: {folder.name} holds no input_0.pb")
    return GoldenCase(folder.name, taken, _read_protos(folder, "output", every_output, zipped))


def _read_protos(folder: Path, side: str, names: Sequence[str], zipped: Container[str] = ()) -> dict[str, NDArray[Any]]:
    import onnx
    from onnx import numpy_helper

    found: list[tuple[str, NDArray[Any]]] = []
    while (file := folder / f"{side}_{len(found)}.pb").exists():
        try:
            content = file.read_bytes()
            if len(found) < len(names) and names[len(found)] in zipped:
                found.append(_read_maps(content))
            else:
                tensor = onnx.TensorProto.FromString(content)
                found.append((tensor.name, numpy_helper.to_array(tensor)))
        except Exception as error:  # protobuf's errors differ by its implementation
            raise ArtifactRejected(f"golden set: {file.name} is not a readable tensor: {error}") from None
    if len(found) > len(names):
        raise ArtifactRejected(f"golden set: {len(found)} {side}s given, the model has {len(names)}")
    if all(name in names for name, _ in found) and len({name for name, _ in found}) == len(found):
        return dict(found)
    return {names[number]: array for number, (_, array) in enumerate(found)}  # by order, as ONNX's own runner


def _read_maps(content: bytes) -> tuple[str, NDArray[Any]]:
    """A stored sequence of maps as a matrix, its columns in the order of the keys."""
    from onnx import SequenceProto, numpy_helper

    sequence = SequenceProto.FromString(content)
    rows = [numpy_helper.to_dict(one) for one in sequence.map_values]
    keys = sorted(rows[0]) if rows else []
    return sequence.name, matrix([{key: float(value) for key, value in row.items()} for row in rows], keys)


def _fitted(
    case: GoldenCase,
    inputs: Sequence[TensorSpec],
    every_output: Sequence[str],
    outputs: Sequence[TensorSpec],
    constants: Sequence[str],
) -> GoldenCase:
    wanted = {spec.name: spec for spec in inputs}
    served = {spec.name: spec.datatype for spec in outputs}
    fixed = [name for name in case.inputs if name in constants]
    if fixed:
        raise ArtifactRejected(
            f"golden set: input {fixed[0]!r} has a value in the model itself, so it is a constant and not an input here"
        )
    for kind, given, known in (("input", case.inputs, list(wanted)), ("output", case.outputs, list(every_output))):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise ArtifactRejected(f"golden set: the model has no {kind} {unknown[0]!r} (it has {', '.join(known)})")
    missing = [name for name in wanted if name not in case.inputs]
    if missing:
        raise ArtifactRejected(f"golden set: input {missing[0]!r} is missing")
    return GoldenCase(
        case.name,
        {name: _cast(name, case.inputs[name], spec.datatype) for name, spec in wanted.items()},
        {name: _bits(_text(array), served[name]) for name, array in case.outputs.items() if name in served},
    )


def _cast(name: str, array: NDArray[Any], datatype: str) -> NDArray[Any]:
    array, dtype = _bits(_text(array), datatype), NUMPY_DTYPES[datatype]
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        fits = array.dtype.kind != "O" and dtype.kind != "O" and np.can_cast(array.dtype, dtype, "same_kind")
        if fits and (datatype in FLOATS or np.array_equal(array.astype(dtype), array)):
            return array.astype(dtype)
    raise ArtifactRejected(f"golden set: input {name!r} is {array.dtype}, the model wants {datatype}")


def _bits(array: NDArray[Any], datatype: str) -> NDArray[Any]:
    """bfloat16 as it is; numpy's files give it back as two bytes of nothing in particular."""
    return array.view(NUMPY_DTYPES["BF16"]) if datatype == "BF16" and array.dtype.str == "|V2" else array


def _text(array: NDArray[Any]) -> NDArray[Any]:
    """Strings of any kind as an object array of str; everything else as it is."""
    if array.dtype.kind not in "USO":
        return array
    flat = np.empty(array.size, dtype=object)
    flat[:] = [item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item) for item in array.ravel()]
    return flat.reshape(array.shape)


def compare(case: GoldenCase, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Raise ArtifactRejected, saying where and by how much, unless the outputs are the golden ones."""
    for name, want in case.outputs.items():
        got = _text(outputs[name])
        fault = _fault(want, got)
        if fault:
            raise ArtifactRejected(
                f"golden set: output {name!r} of {case.name} is not what the model returns: {fault}", output=name
            )


def _fault(want: NDArray[Any], got: NDArray[Any]) -> str:
    if want.shape != got.shape:
        return f"expected shape {want.shape}, got {got.shape}"
    if (want.dtype == object) != (got.dtype == object):
        return f"expected {want.dtype}, got {got.dtype}"
    if want.dtype == object:
        wrong = np.flatnonzero((want != got).ravel())
        return "" if not wrong.size else f"expected {want.ravel()[wrong[0]]!r}, got {got.ravel()[wrong[0]]!r}"
    if want.dtype.kind in "iub" and got.dtype.kind in "iub":
        close = want == got  # a label that is one off is another label
    else:
        rtol = _COARSE.get(got.dtype.name, RTOL)
        close = np.isclose(got.astype(np.float64), want.astype(np.float64), rtol=rtol, atol=ATOL, equal_nan=True)
    if close.all():
        return ""
    first = int(np.flatnonzero(~close.ravel())[0])
    return (
        f"{int((~close).sum())} of {close.size} values differ, the first at {first}: "
        f"expected {want.ravel()[first]}, got {got.ravel()[first]}"
    )
