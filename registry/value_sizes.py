"""Does a value in a request say how large something is that a run makes? Read from the graph, without running it.

A tensor of as many elements as a number in the request says, an image of the size that it asks for: such a run may take
seconds and gigabytes however short it was before, so it must not happen on an event loop. Values that come from shapes
alone are bounded by what the caller has sent. Invariant: says yes rather than no where it cannot tell. Used by
`registry/graph.py`, in the probe's child.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Operators → their inputs whose values say how large the output is, or how much is computed for it.
_SIZES: dict[str, tuple[int, ...]] = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "RoiAlign": (1,),
    "STFT": (1, 3),
    "Tile": (1,),
    "Upsample": (1,),
}
OF_SHAPES = ("Shape", "Size")

Functions = Mapping[tuple[str, str], Any]


def bodies(node: Any) -> Iterator[Any]:
    """The graphs inside a node: branches and bodies of loops."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def sized_by_values(model: Any) -> bool:
    """Whether it may be so in this model."""
    stored = {tensor.name for tensor in model.graph.initializer}
    given = {end.name for end in model.graph.input} - stored
    functions = {(function.domain, function.name): function for function in model.functions}
    return _sized(model.graph.node, given, functions)


def _sized(nodes: Iterable[Any], of_request: set[str], functions: Functions) -> bool:
    """of_request: what values of a request flow into; grows."""
    for node in nodes:
        flows = [name in of_request for name in node.input]
        if any(place < len(flows) and flows[place] for place in _SIZES.get(node.op_type, ())):
            return True
        inside = list(bodies(node))
        for body in inside:
            of_request.update(end.name for end in body.input)
            if _sized(body.node, of_request, functions):
                return True
        key = (node.domain, node.op_type)
        if key in functions and any(flows):
            called, others = functions[key], {name: one for name, one in functions.items() if name != key}
            taken = {name for name, is_of_request in zip(called.input, flows, strict=False) if is_of_request}
            if _sized(called.node, taken, others):
                return True
        if (any(flows) and node.op_type not in OF_SHAPES) or inside:
            of_request.update(filter(None, node.output))  # an output that is left out has no name
    return False
