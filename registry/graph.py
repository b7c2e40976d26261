"""What an ONNX file says of itself, read without running it. Imported by the probe's child only: the file is hostile.

Invariant: external data is named here, never opened; whoever copies it checks that it lies inside the model's folder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from registry import divisions, frames
from registry.errors import ArtifactRejected
from registry.onnx import is_ort_format
from registry.value_sizes import bodies, sized_by_values

# Domains whose operators onnxruntime itself knows. Any other needs a library of custom operators.
_OWN_DOMAINS = frozenset(
    {
        "",
        "ai.onnx",
        "ai.onnx.ml",
        "ai.onnx.training",
        "ai.onnx.preview",
        "ai.onnx.preview.training",
        "com.microsoft",
        "com.microsoft.experimental",
        "com.microsoft.nchwc",
        "com.ms.internal.nhwc",
        "org.pytorch.aten",
    }
)


# How often these run their bodies may be said by a value in the request.
_LOOPS = frozenset(("Loop", "BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch"))
_IN_MEMORY = "*/_ORT_MEM_ADDR_/"  # onnxruntime's mark of a tensor whose location is an address


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Facts that onnxruntime's session does not tell."""

    opset: dict[str, int]  # domain → version
    external: tuple[str, ...]  # locations of external data, as written in the file
    shapeless: frozenset[str]  # inputs and outputs without a declared rank
    foreign: tuple[str, ...]  # domains of custom operators
    zipped: dict[str, tuple[str, ...]]  # outputs that end in ZipMap → their classes, in the model's own order
    loops: bool = False  # its running time may depend on the values in a request, without a bound
    guarded: Any = None  # the model to be loaded in its place; see `divisions.py` and `frames.py`


def read_graph(path: Path) -> GraphFacts:
    """Parse a model file. One in onnxruntime's own format tells little. Raises ArtifactRejected with the reason."""
    if path.stat().st_size == 0:
        raise ArtifactRejected("the model file is empty")
    if is_ort_format(path):
        return GraphFacts({}, (), frozenset(), (), {}, loops=_is_named(path, _LOOPS))
    try:
        model = onnx.load_model(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors differ by its implementation
        raise ArtifactRejected(f"not a readable ONNX file: {str(error).splitlines()[0][:200]}") from None
    if not model.HasField("graph") or not model.opset_import:
        raise ArtifactRejected("not an ONNX model: it has no graph, or no operator set")
    used = {node.domain for node in _nodes(model)}
    local = {function.domain for function in model.functions}
    ends = [*model.graph.input, *model.graph.output]
    facts = GraphFacts(
        opset={item.domain: item.version for item in model.opset_import},
        external=tuple(sorted(set(_locations(model)))),
        shapeless=frozenset(
            end.name
            for end in ends
            if end.type.WhichOneof("value") == "tensor_type" and not end.type.tensor_type.HasField("shape")
        ),
        foreign=tuple(sorted(used - local - _OWN_DOMAINS)),
        zipped={
            node.output[0]: _classes(node) for node in model.graph.node if node.op_type == "ZipMap" and node.output
        },
        loops=any(node.op_type in _LOOPS for node in _nodes(model)) or sized_by_values(model),
    )
    return replace(facts, guarded=_guarded(model))  # last: it changes the model


def _guarded(model: Any) -> Any:
    are_framed = frames.guard(model)
    return divisions.guarded(model) or (model if are_framed else None)


def _is_named(path: Path, operators: Iterable[str]) -> bool:
    """Whether a file in onnxruntime's own format, a flatbuffer, holds one of these texts."""
    content = path.read_bytes()
    return any(struct.pack("<I", len(name)) + name.encode() + b"\0" in content for name in operators)


def _classes(node: Any) -> tuple[str, ...]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_strings" and attribute.strings:
            return tuple(item.decode("utf-8", "replace") for item in attribute.strings)
        if attribute.name == "classlabels_int64s" and attribute.ints:
            return tuple(str(item) for item in attribute.ints)
    return ()


def _graphs(model: Any) -> Iterator[Any]:
    """The graph, and those inside its nodes and inside the nodes of the model's own functions."""
    waiting = [model.graph, *(graph for function in model.functions for graph in _inside(function))]
    while waiting:
        current = waiting.pop()
        yield current
        waiting.extend(_inside(current))


def _inside(nodes: Any) -> Iterator[Any]:
    """The bodies of control flow in the nodes of a graph or a function."""
    for node in nodes.node:
        yield from bodies(node)


def _nodes(model: Any) -> Iterator[Any]:
    for part in (*_graphs(model), *model.functions):
        yield from part.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _locations(model: Any) -> Iterator[str]:
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            found = [entry.value for entry in tensor.external_data if entry.key == "location"]
            if not found:
                raise ArtifactRejected(f"tensor {tensor.name!r} has external data without a location")
            # onnxruntime 1.22 takes the last of several, wherever it is, and reads its own memory at a stated address.
            if len(found) > 1 or found[0].startswith(_IN_MEMORY):
                raise ArtifactRejected(f"tensor {tensor.name!r} has external data at no certain location")
            yield found[0]
