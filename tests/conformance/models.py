"""The models that the cases ask: described once, as data, and built as tiny ONNX files for servers that read ONNX.

A server that runs Python instead is told the same descriptions as JSON (`description()`). A model does one of two
things: it gives back its inputs, or the sum and the difference of two. Tensors are called as Triton's tests call them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Shape = tuple[int, ...]
ROWS_OF = 16  # the fixed axis of add_sub

# Open Inference datatype → the name of ONNX's.
ONNX_TYPES = {
    "BOOL": "BOOL", "UINT8": "UINT8", "UINT16": "UINT16", "UINT32": "UINT32", "UINT64": "UINT64", "INT8": "INT8",
    "INT16": "INT16", "INT32": "INT32", "INT64": "INT64", "FP16": "FLOAT16", "BF16": "BFLOAT16", "FP32": "FLOAT",
    "FP64": "DOUBLE", "BYTES": "STRING",
}  # fmt: skip
NUMBERS = ("UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP64", "BOOL")


@dataclass(frozen=True)
class Tensor:
    """A tensor's declaration; -1: any length."""

    name: str
    datatype: str
    shape: Shape


@dataclass(frozen=True)
class Model:
    """One model: `identity` gives every INPUTn back as OUTPUTn, `add_sub` gives INPUT0 + INPUT1 and INPUT0 - INPUT1."""

    name: str
    does: str
    inputs: tuple[Tensor, ...]

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """As many as inputs, of the same types and shapes."""
        return tuple(Tensor(t.name.replace("INPUT", "OUTPUT"), t.datatype, t.shape) for t in self.inputs)

    def description(self) -> dict[str, Any]:
        """What a peer's Python model has to know, as JSON."""

        def tensors(of: Iterable[Tensor]) -> list[dict[str, Any]]:
            return [{"name": t.name, "datatype": t.datatype, "shape": list(t.shape)} for t in of]

        return {
            "name": self.name,
            "does": self.does,
            "inputs": tensors(self.inputs),
            "outputs": tensors(self.outputs),
        }


def _identity(name: str, *declared: tuple[str, Shape]) -> Model:
    return Model(name, "identity", tuple(Tensor(f"INPUT{i}", kind, shape) for i, (kind, shape) in enumerate(declared)))


MODELS = {
    model.name: model
    for model in (
        _identity("identity_fp32", ("FP32", (-1,))),
        _identity("identity_bytes", ("BYTES", (-1,))),
        _identity("one_string", ("BYTES", (1,))),
        _identity("identity_fp16", ("FP16", (-1, -1, -1))),
        _identity("identity_bf16", ("BF16", (-1,))),
        _identity("scalar", ("FP32", ())),
        _identity("every_number", *((kind, (-1,)) for kind in NUMBERS)),
        Model("add_sub", "add_sub", tuple(Tensor(f"INPUT{i}", "INT32", (-1, ROWS_OF)) for i in range(2))),
    )
}


def write_onnx(model: Model, path: Path) -> Path:
    """The model as an ONNX file."""
    from onnx import TensorProto, helper

    def declared(tensor: Tensor, prefix: str) -> Any:
        kind = getattr(TensorProto, ONNX_TYPES[tensor.datatype])
        shape = [f"{prefix}{axis}" if n < 0 else n for axis, n in enumerate(tensor.shape)]
        return helper.make_tensor_value_info(tensor.name, kind, shape)

    if model.does == "add_sub":
        names = [tensor.name for tensor in model.inputs]
        nodes = [helper.make_node("Add", names, ["OUTPUT0"]), helper.make_node("Sub", names, ["OUTPUT1"])]
    else:
        pairs = zip(model.inputs, model.outputs, strict=True)
        nodes = [helper.make_node("Identity", [given.name], [back.name]) for given, back in pairs]
    inputs, outputs = ([declared(tensor, "N") for tensor in of] for of in (model.inputs, model.outputs))
    graph = helper.make_graph(nodes, model.name, inputs, outputs)
    document = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(document.SerializeToString())
    return path
