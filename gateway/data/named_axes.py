"""Whose fault a failed run is, where a model gives names to its free axes: of one name there is one size.

Two inputs that are both declared `[batch, length]` must agree in `length`, which no check of one input finds. It is
looked at only after a run has failed, so a request that succeeds pays nothing, and what the model takes all the same
(an axis of size 1 that is broadcast) stays an answer. Pure; called by `predict.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from registry.errors import TensorMismatch


def disagreement(
    names: Mapping[str, Sequence[str | None]], shapes: Mapping[str, Sequence[int]]
) -> TensorMismatch | None:
    """The first axis whose size differs from that of another with the same name; None: the shapes agree.

    names: of each input's axes, None where the model gives none. shapes: of one request's inputs, by the same names.

    >>> disagreement({"a": ("n", "length"), "b": ("n", "length")}, {"a": (2, 3), "b": (2, 4)}).message
    'input "b" has 4 on axis 1, input "a" has 3 on axis 1: both are "length"'
    """
    first: dict[str, tuple[str, int, int]] = {}  # by name of an axis: input, axis and size
    for name, axes in names.items():
        shape = shapes.get(name, ())
        if len(shape) != len(axes):
            continue
        for position, (axis, size) in enumerate(zip(axes, shape, strict=True)):
            if axis is None:
                continue
            where, at, wanted = first.setdefault(axis, (name, position, size))
            if size != wanted:
                told = f'input "{name}" has {size} on axis {position}, input "{where}" has {wanted} on axis {at}'
                return TensorMismatch(f'{told}: both are "{axis[:100]}"', input=name)
    return None
