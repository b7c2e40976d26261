"""Which column of a table feeds which element of which input. Pure; knows names and specs, never a value.

Invariant: each input gets exactly the columns it takes, in order, or the reason why not. Called by
`monitor/reference.py`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from registry.errors import ArtifactRejected
from registry.vocabulary import TensorSpec

DATATYPES = frozenset(
    {"BOOL", "BYTES", "FP16", "BF16", "FP32", "FP64"}
    | {f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One column of the table and the input that it feeds, in the order of the input's elements."""

    column: str
    spec: TensorSpec


def wanted_columns(
    names: Sequence[str],
    inputs: Sequence[TensorSpec],
    columns: Sequence[str] | None,
    target: str | None,
    prediction: str | None,
    by_time: str | None = None,
) -> tuple[Wanted, ...]:
    """The table's columns in the order of the inputs and their elements. Raises ArtifactRejected."""
    doubles = sorted({name for name in names if names.count(name) > 1})
    if doubles:
        raise ArtifactRejected(f"columns appear twice: {', '.join(doubles)}")
    for option, given in (("--target", target), ("--prediction", prediction), ("--by-time", by_time)):
        if given is not None and given not in names:
            raise ArtifactRejected(f"{option} {given}: there is no such column{_nearest(given, names)}")
    _all_there(columns or (), names, "--columns")
    widths = [_width(spec) for spec in inputs]
    free = [name for name in names if name not in (target, prediction)]
    if len(inputs) > 1 or columns is not None or widths[0] != len(free):
        free = [name for name in free if name != by_time or len(inputs) > 1]  # a moment is an input only by name
    if len(inputs) == 1:
        return _for_one_input(inputs[0], widths[0], free, columns)
    if columns is not None and len(columns) == sum(width or 1 for width in widths):
        ordered = list(columns)  # in the inputs' order, whatever their names
    else:
        ordered = []
        for spec, width in zip(inputs, widths, strict=True):
            ordered += [spec.name] if width in (None, 1) else [f"{spec.name}[{i}]" for i in range(width or 1)]
        _all_there(ordered, free, "the model's inputs")
    specs = [spec for spec, width in zip(inputs, widths, strict=True) for _ in range(width or 1)]
    return tuple(Wanted(name, spec) for name, spec in zip(ordered, specs, strict=True))


def _for_one_input(
    spec: TensorSpec, width: int | None, free: Sequence[str], columns: Sequence[str] | None
) -> tuple[Wanted, ...]:
    chosen = list(columns) if columns is not None else list(free)
    if columns is None and width in (None, 1) and spec.name in free:
        chosen = [spec.name]
    if not chosen:
        raise ArtifactRejected("no column is left that could be an input")
    if width is not None and len(chosen) != width:
        hint = "" if columns is not None else "; pick and order them with --columns, name others with --target"
        raise ArtifactRejected(
            f'input "{spec.name}" takes {width} columns, got {len(chosen)}: {_listed(chosen)}{hint}',
            columns=len(chosen),
        )
    return tuple(Wanted(name, spec) for name in chosen)


def _width(spec: TensorSpec) -> int | None:
    """Columns that an input takes; None when it takes any number."""
    shape = spec.shape
    if shape is not None and (len(shape) not in (1, 2) or (len(shape) == 1 and shape[0] not in (None, -1, 1))):
        raise ArtifactRejected(
            f'input "{spec.name}" has shape {shape}: a table gives rows of one or two dimensions; use --golden instead'
        )
    if spec.datatype not in DATATYPES:
        raise ArtifactRejected(f'input "{spec.name}" is {spec.datatype}, which no table column can hold')
    if shape is None or (len(shape) == 2 and shape[1] in (None, -1)):
        return None
    return 1 if len(shape) == 1 else shape[1]


def _all_there(wanted: Sequence[str], names: Sequence[str], what: str) -> None:
    absent = [name for name in wanted if name not in names]
    if absent:
        hints = ", ".join(f"{name!r}{_nearest(name, names)}" for name in absent[:10])
        more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
        raise ArtifactRejected(f"columns of {what} are missing: {hints}{more}; the table has {_listed(names)}")
    doubles = sorted({name for name in wanted if list(wanted).count(name) > 1})
    if doubles:
        raise ArtifactRejected(f"{what} names columns twice: {', '.join(doubles)}")


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
