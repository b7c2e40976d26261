"""The same protocol over gRPC: `inference.GRPCInferenceService`, its extensions, and the standard health service."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.conformance.case import Group
from tests.conformance.cases.binary import SIXTEEN_BITS
from tests.conformance.cases.types import ends as edges
from tests.conformance.models import MODELS, ROWS_OF
from tests.conformance.rpc import call, message, refusal, stream
from tests.conformance.target import Target
from tests.conformance.wire import DTYPES, strings

grpc = Group("grpc")
infer = Group("grpc", needs=["identity_fp32"])
LEFT = np.arange(ROWS_OF, dtype="<i4").reshape(1, ROWS_OF)
RIGHT = LEFT * 3 + 1


def typed(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    """An input with its values in typed contents."""
    return message("Tensor", name=name, datatype=datatype, shape=shape, contents=contents)


def bare(name: str, datatype: str, shape: list[int]) -> Any:
    """An input whose values are in raw_input_contents."""
    return message("Tensor", name=name, datatype=datatype, shape=shape)


def fp32(*values: float, shape: list[int] | None = None) -> Any:
    """INPUT0 of identity_fp32 in typed contents."""
    return typed("INPUT0", "FP32", [len(values)] if shape is None else shape, fp32_contents=values)


def asked(model: str, inputs: list[Any], **more: Any) -> Any:
    """A ModelInferRequest."""
    return message("ModelInferRequest", model_name=model, inputs=inputs, **more)


def answered(target: Target, request: Any) -> Any:
    """The answer to it."""
    return call(target, "ModelInfer", given=request)


def values(answer: Any, name: str) -> Any:
    """An output's values, raw or typed, as an array; of BYTES a list."""
    (index,) = (i for i, output in enumerate(answer.outputs) if output.name == name)
    output = answer.outputs[index]
    if answer.raw_output_contents:
        data = answer.raw_output_contents[index]
        return (
            data if output.datatype == "BYTES" else np.frombuffer(data, DTYPES[output.datatype]).reshape(output.shape)
        )
    (contents,) = (part for _, part in output.contents.ListFields())
    if output.datatype == "BYTES":
        return strings(*contents)
    return np.array(list(contents), DTYPES[output.datatype]).reshape(output.shape)


@grpc.must("a method of the service")
def server_live(target: Target) -> None:
    assert call(target, "ServerLive").live


@grpc.must("a method of the service")
def server_ready(target: Target) -> None:
    assert call(target, "ServerReady").ready


@infer.must("a method of the service")
def model_ready(target: Target) -> None:
    assert call(target, "ModelReady", name="identity_fp32").ready


@grpc.should("an unknown model is not ready: NOT_FOUND, or an answer that says so")
def an_unknown_model_is_not_ready(target: Target) -> None:
    try:
        assert not call(target, "ModelReady", name="there_is_no_such_model").ready
    except AssertionError:
        raise
    except Exception:  # grpc.RpcError; `refusal` asks again and looks at its status
        assert refusal(target, "ModelReady", name="there_is_no_such_model") in ("NOT_FOUND", "UNAVAILABLE")


@grpc.must("name, version and extensions")
def server_metadata(target: Target) -> None:
    answer = call(target, "ServerMetadata")
    assert answer.name
    assert answer.version


@grpc.must("name, platform and tensors; a free axis is -1", "add_sub")
def model_metadata(target: Target) -> None:
    answer = call(target, "ModelMetadata", name="add_sub")
    assert answer.name == "add_sub"
    for got, declared in ((answer.inputs, MODELS["add_sub"].inputs), (answer.outputs, MODELS["add_sub"].outputs)):
        assert [(t.name, t.datatype, tuple(t.shape)) for t in got] == [(t.name, t.datatype, t.shape) for t in declared]


@grpc.should("a name that is not there is NOT_FOUND")
def an_unknown_models_metadata_is_not_found(target: Target) -> None:
    assert refusal(target, "ModelMetadata", name="there_is_no_such_model") == "NOT_FOUND"


@infer.must("values in typed contents")
def typed_contents_are_read(target: Target) -> None:
    answer = answered(target, asked("identity_fp32", [fp32(1.5, -2.0)]))
    assert answer.model_name == "identity_fp32"
    assert answer.outputs[0].datatype == "FP32"
    assert values(answer, "OUTPUT0").tolist() == [1.5, -2.0]


@infer.must("values in raw_input_contents, bit by bit")
def raw_contents_are_read(target: Target) -> None:
    data = np.array([0.1, np.nan, np.inf, -0.0, 1e-45], "<f4").tobytes()
    answer = answered(target, asked("identity_fp32", [bare("INPUT0", "FP32", [5])], raw_input_contents=[data]))
    assert values(answer, "OUTPUT0").tobytes() == data


@infer.should("raw outputs are what clients ask for by sending raw inputs; tritonclient reads nothing else")
def raw_contents_are_answered_raw(target: Target) -> None:
    data = np.ones(2, "<f4").tobytes()
    answer = answered(target, asked("identity_fp32", [bare("INPUT0", "FP32", [2])], raw_input_contents=[data]))
    assert list(answer.raw_output_contents) == [data]


@grpc.must("raw contents are in the order of the request's inputs, not of the model's", "add_sub")
def raw_contents_are_in_the_order_of_the_request(target: Target) -> None:
    inputs = [bare(name, "INT32", [1, ROWS_OF]) for name in ("INPUT1", "INPUT0")]
    answer = answered(target, asked("add_sub", inputs, raw_input_contents=[RIGHT.tobytes(), LEFT.tobytes()]))
    assert (values(answer, "OUTPUT1") == LEFT - RIGHT).all()
    assert (values(answer, "OUTPUT0") == LEFT + RIGHT).all()


TYPED = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP64": "fp64_contents",
}  # fmt: skip


@grpc.must("each datatype has its field of typed contents", "every_number")
def every_number_in_typed_contents(target: Target) -> None:
    inputs, want = [], {}
    for tensor in MODELS["every_number"].inputs:
        dtype = DTYPES[tensor.datatype]
        ends = edges(tensor.datatype)[:2].tolist()
        want[tensor.name.replace("INPUT", "OUTPUT")] = np.array(ends, dtype)
        inputs.append(typed(tensor.name, tensor.datatype, [2], **{TYPED[tensor.datatype]: ends}))
    answer = answered(target, asked("every_number", inputs))
    for name, array in want.items():
        assert values(answer, name).tobytes() == array.tobytes(), name


def _sixteen(model: str, datatype: str, shape: list[int]) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        bits = SIXTEEN_BITS.tobytes()
        answer = answered(target, asked(model, [bare("INPUT0", datatype, shape)], raw_input_contents=[bits]))
        assert values(answer, "OUTPUT0").tobytes() == bits
        assert answer.outputs[0].datatype == datatype

    return run


for each, datatype, shape in (("identity_fp16", "FP16", [1, 2, 2]), ("identity_bf16", "BF16", [4])):
    grpc.add("MUST", f"{datatype.lower()}_is_raw", "16-bit floats are raw", _sixteen(each, datatype, shape), [each])


@grpc.must("BYTES in typed contents have no length before them", "identity_bytes")
def texts_in_typed_contents(target: Target) -> None:
    texts = [b"a", b"", "漢".encode()]
    answer = answered(target, asked("identity_bytes", [typed("INPUT0", "BYTES", [3], bytes_contents=texts)]))
    assert values(answer, "OUTPUT0") == strings(*texts)


@grpc.must("BYTES in raw contents have a length before each", "identity_bytes")
def texts_in_raw_contents(target: Target) -> None:
    data = strings(b"a", b"", "漢".encode())
    answer = answered(target, asked("identity_bytes", [bare("INPUT0", "BYTES", [3])], raw_input_contents=[data]))
    assert values(answer, "OUTPUT0") == data


@infer.must("an id that was given comes back")
def the_id_comes_back_over_grpc(target: Target) -> None:
    assert answered(target, asked("identity_fp32", [fp32(1.0)], id="a-7")).id == "a-7"


@infer.must("the response's id is the request's, if one was given")
def without_an_id_none_is_invented_over_grpc(target: Target) -> None:
    assert answered(target, asked("identity_fp32", [fp32(1.0)])).id == ""


@grpc.must("only the outputs that are named come back", "add_sub")
def only_outputs_asked_for_come_back_over_grpc(target: Target) -> None:
    inputs = [bare(name, "INT32", [1, ROWS_OF]) for name in ("INPUT0", "INPUT1")]
    raw = [LEFT.tobytes(), RIGHT.tobytes()]
    wanted = [message("Wanted", name="OUTPUT1")]
    answer = answered(target, asked("add_sub", inputs, raw_input_contents=raw, outputs=wanted))
    assert [output.name for output in answer.outputs] == ["OUTPUT1"]
    assert (values(answer, "OUTPUT1") == LEFT - RIGHT).all()


@infer.must("parameters not known change nothing")
def unknown_parameters_change_nothing_over_grpc(target: Target) -> None:
    request = asked("identity_fp32", [fp32(1.0)])
    request.parameters["a_text"].string_param = "x"
    request.inputs[0].parameters["a_number"].int64_param = 7
    assert values(answered(target, request), "OUTPUT0").tolist() == [1.0]


@infer.must("a version that the metadata lists may be named")
def a_version_may_be_named_over_grpc(target: Target) -> None:
    for version in call(target, "ModelMetadata", name="identity_fp32").versions:
        answer = answered(target, asked("identity_fp32", [fp32(1.0)], model_version=version))
        assert answer.model_version == version


@infer.must("an axis may be 0")
def a_tensor_without_elements_over_grpc(target: Target) -> None:
    answer = answered(target, asked("identity_fp32", [bare("INPUT0", "FP32", [0])], raw_input_contents=[b""]))
    assert list(answer.outputs[0].shape) == [0]


@infer.should("grpc's own limit is 4 MiB, less than a batch of pictures; Triton has none")
def a_message_of_16_megabytes_is_answered(target: Target) -> None:
    data = np.arange(4 * 1024 * 1024, dtype="<f4").tobytes()
    shape = [4 * 1024 * 1024]
    answer = answered(target, asked("identity_fp32", [bare("INPUT0", "FP32", shape)], raw_input_contents=[data]))
    assert values(answer, "OUTPUT0").tobytes() == data


FOUR = np.arange(4, dtype="<f4").tobytes()
for name, statuses, reason, request in (
    ("an_unknown_model", ("NOT_FOUND",), "a name that is not there",
     asked("there_is_no_such_model", [fp32(1.0)])),
    ("an_unknown_version", ("NOT_FOUND",), "a name that is not there",
     asked("identity_fp32", [fp32(1.0)], model_version="987654")),
    ("a_version_of_letters", ("INVALID_ARGUMENT", "NOT_FOUND"), "there is none",
     asked("identity_fp32", [fp32(1.0)], model_version="newest")),
    ("no_inputs", ("INVALID_ARGUMENT",), "the model needs one", asked("identity_fp32", [])),
    ("an_unknown_input", ("INVALID_ARGUMENT",), "INPUT0 is not there",
     asked("identity_fp32", [typed("INPUT9", "FP32", [1], fp32_contents=[1.0])])),
    ("an_input_given_twice", ("INVALID_ARGUMENT",), "which one?", asked("identity_fp32", [fp32(1.0), fp32(2.0)])),
    ("an_unknown_output", ("INVALID_ARGUMENT",), "it cannot come back",
     asked("identity_fp32", [fp32(1.0)], outputs=[message("Wanted", name="DUMMY")])),
    ("a_wrong_datatype", ("INVALID_ARGUMENT",), "the model declares FP32",
     asked("identity_fp32", [typed("INPUT0", "INT32", [1], int_contents=[1])])),
    ("a_wrong_rank", ("INVALID_ARGUMENT",), "it has one axis", asked("identity_fp32", [fp32(1.0, shape=[1, 1])])),
    ("too_few_values", ("INVALID_ARGUMENT",), "one is missing", asked("identity_fp32", [fp32(1.0, shape=[2])])),
    ("too_many_values", ("INVALID_ARGUMENT",), "one is too many", asked("identity_fp32", [fp32(1.0, 2.0, shape=[1])])),
    ("values_in_another_types_field", ("INVALID_ARGUMENT",), "FP32 are in fp32_contents",
     asked("identity_fp32", [typed("INPUT0", "FP32", [1], int_contents=[1])])),
    ("a_negative_axis", ("INVALID_ARGUMENT",), "no tensor has it", asked("identity_fp32", [fp32(1.0, shape=[-1])])),
    ("a_shape_that_overflows", ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), "modulo 2^64 it would be 16 bytes",
     asked("identity_fp32", [bare("INPUT0", "FP32", [2**62 + 4])], raw_input_contents=[FOUR])),
    ("raw_bytes_too_few", ("INVALID_ARGUMENT",), "one byte is missing",
     asked("identity_fp32", [bare("INPUT0", "FP32", [4])], raw_input_contents=[FOUR[:-1]])),
    ("raw_bytes_too_many", ("INVALID_ARGUMENT",), "one float is too many",
     asked("identity_fp32", [bare("INPUT0", "FP32", [3])], raw_input_contents=[FOUR])),
    ("raw_contents_of_no_input", ("INVALID_ARGUMENT",), "there are more buffers than inputs",
     asked("identity_fp32", [bare("INPUT0", "FP32", [4])], raw_input_contents=[FOUR, FOUR])),
    ("raw_contents_beside_typed_ones", ("INVALID_ARGUMENT",), "the specification forbids both",
     asked("identity_fp32", [fp32(0.0, 1.0, 2.0, 3.0)], raw_input_contents=[FOUR])),
):  # fmt: skip

    def _is_refused(target: Target, request: Any = request) -> None:
        refusal(target, "ModelInfer", given=request)

    def _has_status(target: Target, request: Any = request, statuses: tuple[str, ...] = statuses) -> None:
        status = refusal(target, "ModelInfer", given=request)
        assert status in statuses, status

    infer.add("MUST", f"{name}_is_refused_over_grpc", reason, _is_refused)
    infer.add("SHOULD", f"{name}_is_{'_or_'.join(statuses).lower()}", "clients look at the status", _has_status)


@infer.should("a stream's answers come in the order of its requests, each with its id", features=["stream"])
def a_stream_answers_in_order(target: Target) -> None:
    answers = stream(target, [asked("identity_fp32", [fp32(float(n))], id=str(n)) for n in range(5)])
    assert [(a.error_message, a.infer_response.id) for a in answers] == [("", str(n)) for n in range(5)]
    assert [float(values(a.infer_response, "OUTPUT0")[0]) for a in answers] == [0, 1, 2, 3, 4]


@infer.should("an error on a stream is a message, and the stream goes on", features=["stream"])
def a_stream_survives_an_error(target: Target) -> None:
    answers = stream(target, [asked("identity_fp32", [fp32(1.0, shape=[7])]), asked("identity_fp32", [fp32(2.0)])])
    assert len(answers) == 2
    assert answers[0].error_message
    assert not answers[1].error_message
    assert values(answers[1].infer_response, "OUTPUT0").tolist() == [2.0]


@grpc.should("grpc's standard health service is what Kubernetes asks")
def the_health_service_says_serving(target: Target) -> None:
    assert call(target, "Check", "grpc.health.v1.Health", "HealthCheckResponse").status == 1


index = Group("grpc", "repository", needs=["identity_fp32"])


@index.must("the index lists the models")
def repository_index(target: Target) -> None:
    assert "identity_fp32" in {model.name for model in call(target, "RepositoryIndex").models}


@index.must("a model that is not there cannot be loaded")
def loading_an_unknown_model_is_refused(target: Target) -> None:
    refusal(target, "RepositoryModelLoad", model_name="there_is_no_such_model")


@infer.must("the configuration has the model's name", features=["config"])
def model_config(target: Target) -> None:
    assert call(target, "ModelConfig", name="identity_fp32").config.name == "identity_fp32"


@infer.must("a request that was answered is counted", features=["statistics"])
def model_statistics(target: Target) -> None:
    def count() -> int:
        (model,) = call(target, "ModelStatistics", name="identity_fp32").model_stats
        return int(model.inference_count)

    before = count()
    answered(target, asked("identity_fp32", [fp32(1.0)]))
    assert count() == before + 1
