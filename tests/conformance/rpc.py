"""A gRPC client of `inference.GRPCInferenceService`, with messages of its own.

The field numbers are written down here a second time, beside the server's, so that a wrong number on either side shows.
They live in a private descriptor pool: other copies of the protocol may be loaded in the same process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from tests.conformance.target import TIMEOUT_S, Target

SERVICE = "inference.GRPCInferenceService"
# Only what the cases read or write. `field=number:type`, `*` repeated, `map` to InferParameter, `|` one of.
_MESSAGES = """
ServerLiveRequest
ServerLiveResponse            live=1:bool
ServerReadyRequest
ServerReadyResponse           ready=1:bool
ModelReadyRequest             name=1:string version=2:string
ModelReadyResponse            ready=1:bool
ServerMetadataRequest
ServerMetadataResponse        name=1:string version=2:string extensions=3*string
TensorMetadata                name=1:string datatype=2:string shape=3*int64
ModelMetadataRequest          name=1:string version=2:string
ModelMetadataResponse         name=1:string versions=2*string platform=3:string inputs=4*TensorMetadata outputs=5*TensorMetadata
InferParameter                bool_param=1|bool int64_param=2|int64 string_param=3|string double_param=4|double
InferTensorContents           bool_contents=1*bool int_contents=2*int32 int64_contents=3*int64 uint_contents=4*uint32 uint64_contents=5*uint64 fp32_contents=6*float fp64_contents=7*double bytes_contents=8*bytes
Tensor                        name=1:string datatype=2:string shape=3*int64 parameters=4map contents=5:InferTensorContents
Wanted                        name=1:string parameters=2map
ModelInferRequest             model_name=1:string model_version=2:string id=3:string parameters=4map inputs=5*Tensor outputs=6*Wanted raw_input_contents=7*bytes
ModelInferResponse            model_name=1:string model_version=2:string id=3:string parameters=4map outputs=5*Tensor raw_output_contents=6*bytes
ModelStreamInferResponse      error_message=1:string infer_response=2:ModelInferResponse
RepositoryIndexRequest        repository_name=1:string ready=2:bool
ModelIndex                    name=1:string version=2:string state=3:string reason=4:string
RepositoryIndexResponse       models=1*ModelIndex
RepositoryModelLoadRequest    repository_name=1:string model_name=2:string
RepositoryModelLoadResponse
ModelConfigRequest            name=1:string version=2:string
ModelConfig                   name=1:string
ModelConfigResponse           config=1:ModelConfig
ModelStatisticsRequest        name=1:string version=2:string
ModelStatistics               name=1:string version=2:string last_inference=3:uint64 inference_count=4:uint64 execution_count=5:uint64
ModelStatisticsResponse       model_stats=1*ModelStatistics
HealthCheckRequest            service=1:string
HealthCheckResponse           status=1:int32
"""  # noqa: E501
_FIELD = re.compile(r"(\w+)=(\d+)(:|\*|\||map)(\w*)")


@cache
def _classes() -> dict[str, Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="conformance.proto", package="inference", syntax="proto3")
    field_type = descriptor_pb2.FieldDescriptorProto

    def declare(message: Any, name: str, number: str, many: bool, kind: str) -> Any:
        field = message.field.add(name=name, number=int(number))
        field.label = field_type.LABEL_REPEATED if many else field_type.LABEL_OPTIONAL
        if kind[0].isupper():
            field.type, field.type_name = field_type.TYPE_MESSAGE, f".inference.{kind}"
        else:
            field.type = field_type.Type.Value(f"TYPE_{kind.upper()}")
        return field

    for line in _MESSAGES.strip().splitlines():
        title, _, fields = line.partition(" ")
        message = file.message_type.add(name=title)
        for name, number, mark, kind in _FIELD.findall(fields):
            if mark == "map":
                entry = message.nested_type.add(name=f"{name.capitalize()}Entry")
                entry.options.map_entry = True
                declare(entry, "key", "1", False, "string")
                declare(entry, "value", "2", False, "InferParameter")
                declare(message, name, number, True, f"{title}.{entry.name}")
                continue
            field = declare(message, name, number, mark == "*", kind)
            if mark == "|":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="choice")
                field.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [message.name for message in file.message_type]
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in names}


def message(kind: str, /, **fields: Any) -> Any:
    """A message of this kind."""
    return _classes()[kind](**fields)


@contextmanager
def channel(target: Target) -> Iterator[Any]:
    """A channel to the target's gRPC port, without a limit on messages of our own."""
    import grpc

    unlimited = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(target.grpc or "", options=unlimited) as opened:
        yield opened


def call(target: Target, method: str, service: str = SERVICE, reply: str = "", **fields: Any) -> Any:
    """One unary call; `fields` are those of `<method>Request`, or of the message itself when that is given."""
    given = fields.pop("given", None)
    request_name = "HealthCheckRequest" if method == "Check" else f"{method}Request"
    given = message(request_name, **fields) if given is None else given
    with channel(target) as opened:
        ask = opened.unary_unary(
            f"/{service}/{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_classes()[reply or f"{method}Response"].FromString,
        )
        return ask(given, timeout=TIMEOUT_S)


def stream(target: Target, requests: Iterable[Any]) -> list[Any]:
    """All answers to these requests on one ModelStreamInfer."""
    with channel(target) as opened:
        ask = opened.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=_classes()["ModelStreamInferResponse"].FromString,
        )
        return list(ask(iter(requests), timeout=TIMEOUT_S))


def refusal(target: Target, method: str, **fields: Any) -> str:
    """The name of the status that a call ends with. Fails when it is OK, or when it says nothing."""
    import grpc

    try:
        answer = call(target, method, **fields)
    except grpc.RpcError as refused:
        said = refused
    else:
        raise AssertionError(f"not refused: {answer}"[:300])
    assert said.details(), "the error says nothing"
    return str(said.code().name)
