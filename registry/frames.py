"""Fourier transforms of frames of no length, which would end the process, and the same graph where they fail.

onnxruntime divides by the frame length of an STFT, and on x86 a division of integers by 0 raises SIGFPE; every other
length that cannot be is refused by it with an error. So a model whose frame length, or whose window where there is
none, comes from a value or from the shape of a request would be a way to end workers. In the guarded graph a length of
0 is -1, and the run fails. Invariant: a length that is not 0 is as it was, and a transform whose length is a constant,
or the size of a constant window, is left alone. Used by `registry/graph.py`, in the probe's child.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from onnx import TensorProto, helper

from registry.value_sizes import bodies

_OWN = ("", "ai.onnx")
_STEP, _WINDOW, _LENGTH = 1, 2, 3  # inputs of an STFT


def guard(model: Any) -> bool:
    """Guard such transforms in this model, wherever they are → whether there was one."""
    holders = list(_holders(model))
    used = {name for holder in holders for node in holder.node for name in (*node.input, *node.output)}
    names = (name for number in count() if (name := f"driftgate_frame_{number}") not in used)
    guarded = [_guard(holder, names) for holder in reversed(holders)]  # bodies before what they are in, which is copied
    return any(guarded)


def _holders(model: Any) -> Iterator[Any]:
    """All that has nodes: the graph, the model's own functions, and after each the bodies in it."""
    waiting = [model.graph, *model.functions]
    while waiting:
        holder = waiting.pop()
        yield holder
        for node in holder.node:
            waiting.extend(bodies(node))


def _guard(holder: Any, names: Iterator[str]) -> bool:
    constants = _constants(holder)
    nodes: list[Any] = []
    for node in holder.node:
        if node.op_type == "STFT" and node.domain in _OWN:
            nodes += _guards(node, constants, names)
        nodes.append(node)
    if len(nodes) == len(holder.node):
        return False
    whole = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del holder.node[:]
    holder.node.extend(whole)
    return True


def _constants(holder: Any) -> dict[str, bool]:
    """The constants of a graph or function → whether they have any element."""
    stored = getattr(holder, "initializer", ())
    found = {tensor.name: 0 not in tensor.dims for tensor in stored}
    for node in holder.node:
        if node.op_type == "Constant" and node.domain in _OWN:
            for attribute in node.attribute:
                value = helper.get_attribute_value(attribute)
                found[node.output[0]] = 0 not in value.dims if isinstance(value, TensorProto) else value != []
    return found


def _guards(node: Any, constants: dict[str, bool], names: Iterator[str]) -> list[Any]:
    """Nodes that make the frame length `length - (length is 0)`; the node takes it. None where it is a constant.

    Of any type that a length may have: the set of operators that STFT came with has CastLike.
    """
    given = [*node.input, "", ""][: _LENGTH + 1]
    length, window = given[_LENGTH], given[_WINDOW]
    if length in constants or (not length and constants.get(window, not window)):
        return []
    made: list[Any] = []

    def make(operator: str, *inputs: str) -> str:
        made.append(helper.make_node(operator, inputs, [next(names)]))
        return str(made[-1].output[0])

    length = length or make("CastLike", make("Size", window), given[_STEP])
    is_zero = make("Equal", length, make("Sub", length, length))
    given[_LENGTH] = make("Sub", length, make("CastLike", is_zero, length))
    del node.input[:]
    node.input.extend(given)
    return made
