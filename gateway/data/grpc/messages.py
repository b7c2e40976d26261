"""The message classes, in a pool of descriptors of our own.

Generated code registers in protobuf's process-wide pool, where the second package that brings a file of the same name
(tritonclient and kserve both do) fails to import. Ours are made from the tables of `schema.py` in a private pool, which
reflection also reads, so a process may hold all of them. Called by the codec and the services; needs protobuf.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
)
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from gateway.data.grpc import schema
from gateway.data.grpc.schema import Methods

INFERENCE = "inference.GRPCInferenceService"
HEALTH = "grpc.health.v1.Health"
REFLECTIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")

_SCALARS = {
    "bool": FieldDescriptorProto.TYPE_BOOL,
    "bytes": FieldDescriptorProto.TYPE_BYTES,
    "double": FieldDescriptorProto.TYPE_DOUBLE,
    "float": FieldDescriptorProto.TYPE_FLOAT,
    "int32": FieldDescriptorProto.TYPE_INT32,
    "int64": FieldDescriptorProto.TYPE_INT64,
    "string": FieldDescriptorProto.TYPE_STRING,
    "uint32": FieldDescriptorProto.TYPE_UINT32,
    "uint64": FieldDescriptorProto.TYPE_UINT64,
}


class _File:
    """A file descriptor made of a table."""

    def __init__(self, name: str, package: str, table: str, imports: Sequence[_File] = ()) -> None:
        self.proto = FileDescriptorProto(name=name, package=package, syntax="proto3")
        self.proto.dependency.extend(each.proto.name for each in imports)
        self._messages: dict[str, DescriptorProto] = {}
        self.enums: set[str] = {path for each in imports for path in each.enums}
        lines = [line.partition(":") for line in table.strip().splitlines()]
        enums = {head.removeprefix("enum "): body for head, _, body in lines if head.startswith("enum ")}
        messages = {head: body for head, _, body in lines if not head.startswith("enum ")}
        self.enums |= enums.keys()
        for path in sorted(messages, key=lambda path: path.count(".")):  # a message before what is declared in it
            parent, _, name = path.rpartition(".")
            siblings = self._messages[parent].nested_type if parent else self.proto.message_type
            self._messages[path] = siblings.add(name=name)
        for path, body in messages.items():
            for text in filter(None, body.strip().split(", ")):
                self._add_field(self._messages[path], path, text)
        for path, body in enums.items():
            parent, _, name = path.rpartition(".")
            values = [{"name": value, "number": number} for number, value in enumerate(body.split())]
            owner = self._messages[parent] if parent else self.proto
            owner.enum_type.append(EnumDescriptorProto(name=name, value=values))

    def add_service(self, name: str, methods: Methods) -> None:
        service = self.proto.service.add(name=name)
        for method, (request, response, caller_streams, server_streams) in methods.items():
            service.method.add(
                name=method,
                input_type=self._full(request),
                output_type=self._full(response),
                client_streaming=caller_streams,
                server_streaming=server_streams,
            )

    def _full(self, path: str) -> str:
        return f".{self.proto.package}.{path}"

    def _add_field(self, message: DescriptorProto, path: str, text: str) -> None:
        name_and_number, kind, *group = text.split(" ")
        name, _, number = name_and_number.partition("=")
        field = message.field.add(name=name, number=int(number), label=FieldDescriptorProto.LABEL_OPTIONAL)
        if kind.startswith("<"):
            key, _, value = kind.strip("<>").partition(",")
            entry_name = "".join(word.capitalize() for word in name.split("_")) + "Entry"
            entry = message.nested_type.add(name=entry_name)
            entry.options.map_entry = True
            for position, (part, part_kind) in enumerate((("key", key), ("value", value)), start=1):
                of_entry = entry.field.add(name=part, number=position, label=FieldDescriptorProto.LABEL_OPTIONAL)
                self._set_type(of_entry, part_kind)
            field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, self._full(f"{path}.{entry_name}")
            field.label = FieldDescriptorProto.LABEL_REPEATED
            return
        self._set_type(field, kind.rstrip("*"))
        if kind.endswith("*"):
            field.label = FieldDescriptorProto.LABEL_REPEATED
        if group:
            groups = [declared.name for declared in message.oneof_decl]
            if group[0].removeprefix("@") not in groups:
                message.oneof_decl.add(name=group[0].removeprefix("@"))
            field.oneof_index = [declared.name for declared in message.oneof_decl].index(group[0].removeprefix("@"))

    def _set_type(self, field: FieldDescriptorProto, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            is_enum = kind in self.enums
            field.type = FieldDescriptorProto.TYPE_ENUM if is_enum else FieldDescriptorProto.TYPE_MESSAGE
            field.type_name = self._full(kind)


def _pool() -> DescriptorPool:
    config = _File("model_config.proto", "inference", schema.MODEL_CONFIG)
    inference = _File("grpc_service.proto", "inference", schema.INFERENCE, [config])
    health = _File("grpc/health/v1/health.proto", "grpc.health.v1", schema.HEALTH)
    reflections = [
        _File(f"{package.replace('.', '/')}/reflection.proto", package, schema.REFLECTION)
        for package in (service.rpartition(".")[0] for service in REFLECTIONS)
    ]
    inference.add_service("GRPCInferenceService", schema.INFERENCE_METHODS)
    health.add_service("Health", schema.HEALTH_METHODS)
    pool = DescriptorPool()
    for each in (config, inference, health, *reflections):
        if each in reflections:
            each.add_service("ServerReflection", schema.REFLECTION_METHODS)
        pool.Add(each.proto)
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def methods(service: str) -> Mapping[str, tuple[Any, Any]]:
    """A service's methods → the classes of their requests and responses."""
    described = POOL.FindServiceByName(service)
    return {
        method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
        for method in described.methods
    }


ModelInferRequest = message("inference.ModelInferRequest")
ModelInferResponse = message("inference.ModelInferResponse")
ModelStreamInferResponse = message("inference.ModelStreamInferResponse")
InferTensorContents = message("inference.InferTensorContents")
