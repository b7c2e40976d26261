"""Integer divisions that a request could end the process with, and the same graph without them.

onnxruntime computes Div and Mod of int32 and int64 by the processor's own instruction, and on x86 that raises SIGFPE
for the smallest integer by -1, whose quotient is one too large for its type. A model that divides by a value from its
caller would so be a way to end workers. In the guarded graph such a division gets another divisor in that one case, 1:
Div then gives the smallest integer and Mod gives 0, as two's complement has it, as ARM's processors do, and as
onnxruntime itself does for int8 and int16. Every other case, a divisor of 0 too, is computed as before.
Invariant: a division that no value of a request reaches, or whose divisor is a constant without -1, is left as it is:
what comes of shapes alone is small. Used by `registry/graph.py`, in the probe's child.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference

from registry.errors import ArtifactRejected
from registry.value_sizes import OF_SHAPES, bodies

_DIVISIONS = ("Div", "Mod")
_OWN = ("", "ai.onnx")
_DTYPES: dict[int, np.dtype[Any]] = {TensorProto.INT32: np.dtype(np.int32), TensorProto.INT64: np.dtype(np.int64)}
_SMALL = 1 << 10  # elements; the types of values do not depend on those of larger constants

Types = dict[str, int]  # value → its element type, one of onnx.TensorProto's
Constants = dict[str, Any]  # value → tensor, or what a Constant node holds in its place


def guarded(model: Any) -> Any:
    """The model with such divisions guarded, or None when it has none. The model given may be changed.

    Not found is a division whose type neither the file nor ONNX's own inference tells. Raises ArtifactRejected.
    """
    if any(_is_division(node) for function in model.functions for node in _nodes_within(function)):
        model = _without_functions(model)
    of_request = _reached(model.graph)
    if not any(_is_reached_division(node, of_request) for node in _nodes_within(model.graph)):
        return None
    return model if _guard(model.graph, _typed(model).graph, of_request, {}, {}, _new_names(model.graph)) else None


def _without_functions(model: Any) -> Any:
    """The same with the model's own functions in the place of their calls, where the types are known."""
    try:
        return inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # those of the C++ below share no base but Exception
        raise ArtifactRejected(f"the model's functions cannot be resolved: {str(error)[:300]}") from None


def _new_names(graph: Any) -> Iterator[str]:
    """Names that are used nowhere."""
    used = {name for node in _nodes_within(graph) for name in (*node.input, *node.output)}
    return (name for number in count() if (name := f"driftgate_guard_{number}") not in used)


def _nodes_within(graph: Any) -> Iterator[Any]:
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting.extend(bodies(node))


def _is_division(node: Any) -> bool:
    if node.domain not in _OWN or node.op_type not in _DIVISIONS or len(node.input) != 2:
        return False
    return not any(attribute.name == "fmod" and attribute.i for attribute in node.attribute)  # that one takes floats


def _is_reached_division(node: Any, of_request: set[str]) -> bool:
    return _is_division(node) and any(name in of_request for name in node.input)


def _reached(graph: Any) -> set[str]:
    """The names of all that values of a request flow into, wherever nodes stand; too many rather than too few."""
    stored = {tensor.name for tensor in graph.initializer}
    reached = {end.name for end in graph.input} - stored
    nodes = list(_nodes_within(graph))
    for node in nodes:
        for body in bodies(node):
            reached.update(end.name for end in body.input)
    before = -1
    while len(reached) > before:
        before = len(reached)
        for node in nodes:
            inside = any(True for _ in bodies(node))
            if inside or (node.op_type not in OF_SHAPES and any(name in reached for name in node.input)):
                reached.update(filter(None, node.output))
    return reached


def _typed(model: Any) -> Any:
    """The same model with the types of its values, as far as ONNX tells them; without large constants."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    for name in ("node", "input", "output", "value_info"):
        getattr(light.graph, name).extend(getattr(model.graph, name))
    given = {end.name for end in model.graph.input}
    for tensor in model.graph.initializer:
        if prod(tensor.dims) <= _SMALL and tensor.data_location != TensorProto.EXTERNAL:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        return shape_inference.infer_shapes(light)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return light


def _guard(graph: Any, typed: Any, of_request: set[str], outer: Types, known: Constants, names: Iterator[str]) -> bool:
    """Guard the divisions of a graph and of the bodies in it → whether there was one.

    typed: the same graph with its types; outer and known: the types and constants of what encloses it.
    """
    types = {**outer, **_types(typed)}
    constants = {**known, **_constants(graph)}
    nodes, is_found = [], False
    for node, twin in zip(graph.node, typed.node, strict=True):
        for body, other in zip(bodies(node), bodies(twin), strict=True):
            is_found |= _guard(body, other, of_request, types, constants, names)
        if _is_reached_division(node, of_request) and not _is_harmless(constants.get(node.input[1])):
            kind = next((types[name] for name in (*node.input, *node.output) if name in types), None)
            if kind in _DTYPES:
                nodes += _guards(node, _DTYPES[kind], names, is_fixed=node.input[0] not in of_request)
                is_found = True
        nodes.append(node)
    if len(nodes) > len(graph.node):
        whole = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(whole)
    return is_found


def _types(graph: Any) -> Types:
    ends = (*graph.input, *graph.output, *graph.value_info)
    types = {end.name: end.type.tensor_type.elem_type for end in ends if end.type.tensor_type.elem_type}
    return {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


def _constants(graph: Any) -> Constants:
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in _OWN:
            for attribute in node.attribute:
                found[node.output[0]] = helper.get_attribute_value(attribute)
    return found


def _is_harmless(divisor: Any) -> bool:
    """Whether this is a constant without -1 in it. None: no constant."""
    if isinstance(divisor, TensorProto) and divisor.data_location != TensorProto.EXTERNAL:
        divisor = numpy_helper.to_array(divisor)
    return isinstance(divisor, np.ndarray | int | list) and -1 not in np.asarray(divisor)


def _guards(node: Any, dtype: np.dtype[Any], names: Iterator[str], *, is_fixed: bool) -> list[Any]:
    """Nodes that make the divisor `divisor + 2 * (dividend is the smallest, and divisor is -1)`; the node takes it.

    Of operators that every set from 7 on has, the first in which onnxruntime divides. is_fixed: no value of a request
    reaches the dividend. onnxruntime makes `z / y` of `1 / y * z`, of integers too, which is another value and is no
    longer guarded; it does so where it can tell that the dividend is 1.
    """
    dividend, divisor = node.input
    made: list[Any] = []

    def make(operator: str, *inputs: str, **attributes: Any) -> str:
        made.append(helper.make_node(operator, inputs, [next(names)], **attributes))
        return str(made[-1].output[0])

    def constant(value: int) -> str:
        return make("Constant", value=numpy_helper.from_array(np.array(value, dtype)))

    is_smallest = make("Equal", dividend, constant(int(np.iinfo(dtype).min)))
    both = make("And", is_smallest, make("Equal", divisor, constant(-1)))
    more = make("Mul", make("Cast", both, to=helper.np_dtype_to_tensor_dtype(dtype)), constant(2))
    node.input[1] = make("Add", divisor, more)
    if is_fixed:
        node.input[0] = make("Add", dividend, make("Sub", more, more))
    return made
