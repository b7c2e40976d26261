"""What a V2 request asks beside its tensors: an id, which outputs, in which form, within what time.

Source of the words: the Open Inference Protocol ("parameters") and Triton's extensions of binary data, sequences and
schedule policy. A parameter is a string, a number or true/false. Those that say something about the answer are obeyed;
those that would need a feature which is not here are refused rather than passed over; all others are let through.
Called by `v2` for every request that is more than its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gateway.data.codecs import call
from gateway.data.servable import Servable, Tensor
from registry.errors import MalformedRequest, TensorMismatch, Unimplemented

if TYPE_CHECKING:
    from gateway.data.codecs.v2 import Writer

_SCALARS = (str, int, float, bool)
_NONE: frozenset[int] = frozenset()
_DAY_US = 86_400_000_000
_SEQUENCE = ("sequence_id", "sequence_start", "sequence_end")
_SHARED_MEMORY = ("shared_memory_region", "shared_memory_offset", "shared_memory_byte_size")


class Call(call.Call):
    """A request that is answered in plain JSON."""

    __slots__ = ("id", "is_text", "joint", "outputs")

    def __init__(self, request_id: str | None, outputs: Sequence[int] | None) -> None:
        self.is_text = True
        self.id = request_id
        self.outputs = outputs  # indexes of the outputs wanted, in the order of the answer; None: all
        self.joint = outputs is None

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes | call.Answer:
        """As `Writer.write`."""
        return writer.write(outputs, self)


class FullCall(Call):
    """A request that has a time limit, or wants some outputs as raw buffers after the JSON."""

    __slots__ = ("binary", "timeout_us")

    def __init__(
        self, request_id: str | None, outputs: Sequence[int] | None, timeout_us: int | None, binary: frozenset[int]
    ) -> None:
        super().__init__(request_id, outputs)
        self.joint = outputs is None and not binary
        self.is_text = not binary or (outputs is not None and len(binary) < len(outputs))
        self.timeout_us = timeout_us
        self.binary = binary  # indexes of the outputs wanted as buffers

    def write(self, writer: Writer, outputs: Sequence[Tensor], rows: int) -> bytes | call.Answer:
        """As `Writer.write_binary`."""
        return writer.write_binary(outputs, self)


PLAIN = Call(None, None)  # nothing beside its tensors, as most requests are


def call_of(document: Mapping[str, Any], servable: Servable) -> Call:
    """What the request asks. Raises MalformedRequest, Unimplemented, or TensorMismatch for an unknown output."""
    request_id = document.get("id")
    if request_id is not None and type(request_id) is not str:
        raise MalformedRequest('"id" must be a string')
    request_id = request_id or None  # an empty id is none, as Triton has it
    timeout_us, all_binary = None, False
    given = document.get("parameters")
    if given is not None:
        parameters = scalars(given, "the request")
        timeout_us = _timeout_us(parameters)
        all_binary = _flag(parameters, "binary_data_output", default=False)
        _refuse_reserved(parameters)
    wanted = document.get("outputs")
    if wanted is not None and type(wanted) is not list:
        raise MalformedRequest('"outputs" must be a list')
    indexes, binary = None, _NONE
    if wanted:
        indexes, binary = _outputs(wanted, servable, all_binary)
    elif all_binary:
        binary = frozenset(range(len(servable.output_names)))
    if binary or timeout_us is not None:
        return FullCall(request_id, indexes, timeout_us, binary)
    return PLAIN if request_id is None and indexes is None else Call(request_id, indexes)


def all_binary(servable: Servable) -> Call:
    """What a raw request asks: every output as a buffer."""
    return FullCall(None, None, None, frozenset(range(len(servable.output_names))))


def scalars(parameters: Any, of: str) -> Mapping[str, Any]:
    """The parameters of a request or a tensor. Raises MalformedRequest unless they are an object of scalars."""
    if type(parameters) is not dict:
        raise MalformedRequest(f'the "parameters" of {of} must be an object')
    for name, value in parameters.items():
        if type(value) not in _SCALARS:
            raise MalformedRequest(f"parameter {shown(name)} of {of} must be a string, a number or true/false")
    return parameters


def no_shared_memory(parameters: Mapping[str, Any], of: str) -> None:
    """Raise Unimplemented for a tensor that lies in shared memory."""
    for name in _SHARED_MEMORY:
        if name in parameters:
            raise Unimplemented(f"{of}: shared memory is not implemented here; send the tensor in the body")


def shown(value: Any) -> str:
    """A name out of a request for an error message: short whatever it is, and safe for any nesting."""
    if type(value) is not str:
        return "of type " + type(value).__name__
    return repr(value if len(value) <= 100 else value[:100] + "…")


def _timeout_us(parameters: Mapping[str, Any]) -> int | None:
    """The `timeout` of Triton's schedule policy, in microseconds; 0 is none."""
    timeout = parameters.get("timeout", 0)
    if type(timeout) is not int or not 0 <= timeout <= _DAY_US:
        raise MalformedRequest('parameter "timeout" must be a whole number of microseconds, up to a day')
    return timeout or None


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if type(value) is not bool:
        raise MalformedRequest(f'parameter "{name}" must be true or false')
    return value


def _refuse_reserved(parameters: Mapping[str, Any]) -> None:
    for name in parameters.keys() & _SEQUENCE:
        if parameters[name]:  # clients that keep no sequence send 0, false or an empty string
            raise Unimplemented(f"parameter {name!r}: sequences are not kept here; send the state as a tensor")
    for name in parameters:
        if name == "headers" or name.startswith("triton_"):
            raise MalformedRequest(f"parameter {shown(name)} is reserved")


def _outputs(wanted: list[Any], servable: Servable, all_binary: bool) -> tuple[list[int], frozenset[int]]:
    names = servable.output_names
    indexes: list[int] = []
    binary = []
    for output in wanted:
        name = output.get("name") if type(output) is dict else None
        if type(name) is not str or name not in names:
            known = ", ".join(f'"{one}"' for one in names)
            raise TensorMismatch(f"unknown output {shown(name)}; the model has {known}")
        index = names.index(name)
        if index in indexes:
            raise MalformedRequest(f"output {name!r} is asked for twice")
        indexes.append(index)
        given = output.get("parameters")
        parameters = {} if given is None else scalars(given, f"output {name!r}")
        no_shared_memory(parameters, f"output {name!r}")
        if parameters.get("classification"):
            raise Unimplemented(f"output {name!r}: classification is not implemented here")
        if _flag(parameters, "binary_data", default=all_binary):
            binary.append(index)
    return indexes, frozenset(binary)
