"""Our messages are the protocol's, number by number, and share a process with everybody else's."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from gateway.data.grpc import messages

pytest.importorskip("google.protobuf")


def fields_of(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    """Everything about a message that decides its bytes."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.is_packed,
            field.message_type.full_name if field.message_type else "",
            field.enum_type.full_name if field.enum_type else "",
            field.containing_oneof.name if field.containing_oneof else "",
        )
        for field in descriptor.fields
    }


def theirs() -> list[Any]:
    """The files of tritonclient, which generated them from Triton's own definitions."""
    service_pb2 = pytest.importorskip("tritonclient.grpc.service_pb2")
    return [service_pb2.DESCRIPTOR, *service_pb2.DESCRIPTOR.dependencies]


def all_messages(descriptors: Any) -> list[Any]:
    return [each for one in descriptors for each in (one, *all_messages(one.nested_types))]


def test_every_message_of_the_service_has_tritons_fields() -> None:
    service_file, config_file = theirs()
    for descriptor in all_messages(service_file.message_types_by_name.values()):
        ours = fields_of(messages.POOL.FindMessageTypeByName(descriptor.full_name))
        if descriptor.name == "ModelMetadataResponse":
            assert ours.pop("properties")[0] == 6  # the Open Inference Protocol's own
        assert ours == fields_of(descriptor), descriptor.full_name
    for descriptor in all_messages(config_file.message_types_by_name.values()):
        try:
            mine = messages.POOL.FindMessageTypeByName(descriptor.full_name)
        except KeyError:
            continue  # parts of a configuration that are never filled here
        assert fields_of(mine).items() <= fields_of(descriptor).items(), descriptor.full_name


def test_every_enum_has_tritons_values() -> None:
    for theirs_file in theirs():
        for name, enum in theirs_file.enum_types_by_name.items():
            ours = messages.POOL.FindEnumTypeByName(f"inference.{name}")
            assert [(v.name, v.number) for v in ours.values] == [(v.name, v.number) for v in enum.values]


def test_every_method_has_tritons_messages() -> None:
    service = theirs()[0].services_by_name["GRPCInferenceService"]
    ours = messages.POOL.FindServiceByName(messages.INFERENCE)
    for method in service.methods:
        mine = ours.methods_by_name[method.name]
        assert (mine.input_type.full_name, mine.output_type.full_name) == (
            method.input_type.full_name,
            method.output_type.full_name,
        )
        assert (mine.client_streaming, mine.server_streaming) == (method.client_streaming, method.server_streaming)


@pytest.mark.parametrize(
    ("module", "ours"),
    [
        ("grpc_health.v1.health_pb2", "grpc.health.v1"),
        ("grpc_reflection.v1alpha.reflection_pb2", "grpc.reflection.v1alpha"),
    ],
)
def test_health_and_reflection_have_grpcs_fields(module: str, ours: str) -> None:
    theirs = pytest.importorskip(module).DESCRIPTOR
    for name, descriptor in theirs.message_types_by_name.items():
        mine = messages.POOL.FindMessageTypeByName(f"{ours}.{name}")
        assert fields_of(mine) == fields_of(descriptor)


@pytest.mark.parametrize(
    "modules",
    [
        ("tritonclient.grpc", "gateway.data.grpc.messages"),
        ("gateway.data.grpc.messages", "tritonclient.grpc"),
        ("grpc_health.v1.health_pb2", "gateway.data.grpc.messages", "grpc_reflection.v1alpha.reflection_pb2"),
    ],
)
def test_a_process_may_hold_ours_and_others_in_any_order(modules: tuple[str, ...]) -> None:
    for module in modules:
        pytest.importorskip(module)
    program = (
        "import importlib\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from gateway.data.grpc import messages\n"
        "ours = messages.ModelInferRequest(model_name='m').SerializeToString()\n"
        "try:\n"
        "    from tritonclient.grpc import service_pb2\n"
        "except ImportError:\n"
        "    raise SystemExit\n"
        "assert service_pb2.ModelInferRequest.FromString(ours).model_name == 'm'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
