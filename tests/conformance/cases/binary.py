"""The binary tensor extension: values after the JSON, in requests and in answers."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.conformance.case import Group
from tests.conformance.cases.infer import LEFT, RIGHT, left, right
from tests.conformance.cases.types import ends
from tests.conformance.models import NUMBERS
from tests.conformance.target import Target
from tests.conformance.wire import (
    DTYPES,
    LENGTH,
    OCTETS,
    binary_fp32,
    echo,
    error,
    fp32,
    in_binary,
    outputs,
    request,
    same,
    strings,
    tensor,
    with_buffers,
)

binary = Group("binary", needs=["identity_fp32"])
two = Group("binary", needs=["add_sub"])
texts = Group("binary", needs=["identity_bytes"])
SIXTEEN_BITS = np.array([0x3F80, 0xC000, 0x7BFF, 0x0001], "<u2")  # finite, whichever 16-bit float they are
VALUES = np.array([1.5, -0.0, 3e38, 1e-45], "<f4")
BINARY_OUT = [{"name": "OUTPUT0", "parameters": {"binary_data": True}}]


@binary.must("an input with binary_data_size has its values after the JSON; the answer stays JSON")
def binary_in_json_out(target: Target) -> None:
    body, headers = binary_fp32([1.5, -2.0])
    answer = target.infer("identity_fp32", body, headers)
    assert LENGTH not in answer.headers
    assert answer.ok()["outputs"][0]["data"] == [1.5, -2.0]


@binary.must("an output with binary_data has its values after the JSON")
def json_in_binary_out(target: Target) -> None:
    found = outputs(target.infer("identity_fp32", request(fp32([1.5, -2.0]), outputs=BINARY_OUT)))
    assert found["OUTPUT0"]["bytes"] == np.array([1.5, -2.0], "<f4").tobytes()


@binary.must("both at once, bit by bit")
def binary_in_and_out(target: Target) -> None:
    body, headers = binary_fp32(VALUES, outputs=BINARY_OUT)
    found = outputs(target.infer("identity_fp32", body, headers))
    assert found["OUTPUT0"]["bytes"] == VALUES.tobytes()


@binary.must("binary_data_output is the default of all outputs")
def binary_data_output_makes_all_outputs_binary(target: Target) -> None:
    found = outputs(target.infer("identity_fp32", request(fp32([4.0]), parameters={"binary_data_output": True})))
    assert found["OUTPUT0"]["bytes"] == np.array([4.0], "<f4").tobytes()


@two.must("an output's own binary_data is stronger than the request's default")
def an_outputs_own_choice_is_stronger(target: Target) -> None:
    wanted = [{"name": f"OUTPUT{i}", "parameters": {"binary_data": bool(i)}} for i in range(2)]
    for default in (True, False):
        body = request(left(), right(), outputs=wanted, parameters={"binary_data_output": default})
        found = outputs(target.infer("add_sub", body))
        assert "data" in found["OUTPUT0"]
        assert "bytes" in found["OUTPUT1"]
        same(found["OUTPUT0"], LEFT + RIGHT)
        same(found["OUTPUT1"], LEFT - RIGHT)


@two.must("the default is of all outputs, also of those that are named without a choice of their own")
def an_output_named_without_a_choice_has_the_default(target: Target) -> None:
    body = request(left(), right(), outputs=[{"name": "OUTPUT1"}], parameters={"binary_data_output": True})
    output = outputs(target.infer("add_sub", body))["OUTPUT1"]
    assert "bytes" in output, "it came in JSON"
    assert output["bytes"] == (LEFT - RIGHT).tobytes()


@two.must("an output that is not binary keeps its data in the JSON")
def one_output_binary_and_one_not(target: Target) -> None:
    wanted: list[dict[str, Any]] = [{"name": "OUTPUT0"}, {"name": "OUTPUT1", "parameters": {"binary_data": True}}]
    found = outputs(target.infer("add_sub", request(left(), right(), outputs=wanted)))
    assert "data" in found["OUTPUT0"]
    assert "bytes" in found["OUTPUT1"]
    same(found["OUTPUT1"], LEFT - RIGHT)


def _as_binary(name: str, values: Any) -> dict[str, Any]:
    return in_binary(name, "INT32", values.shape, values.nbytes)


@two.must("inputs in JSON and in binary may be mixed")
def one_input_binary_and_one_not(target: Target) -> None:
    for document in (request(_as_binary("INPUT0", LEFT), right()), request(right(), _as_binary("INPUT0", LEFT))):
        found = outputs(target.infer("add_sub", *with_buffers(document, LEFT.tobytes())))
        same(found["OUTPUT1"], LEFT - RIGHT)


@two.must("buffers lie in the order of the request's inputs, not of the model's")
def buffers_are_in_the_order_of_the_request(target: Target) -> None:
    document = request(_as_binary("INPUT1", RIGHT), _as_binary("INPUT0", LEFT))
    found = outputs(target.infer("add_sub", *with_buffers(document, RIGHT.tobytes(), LEFT.tobytes())))
    same(found["OUTPUT1"], LEFT - RIGHT)


@two.must("buffers of an answer lie in the order of its outputs")
def two_binary_outputs_are_told_apart(target: Target) -> None:
    body = request(left(), right(), parameters={"binary_data_output": True})
    found = outputs(target.infer("add_sub", body))
    same(found["OUTPUT0"], LEFT + RIGHT)
    same(found["OUTPUT1"], LEFT - RIGHT)


@binary.must("the answer's header is the length of its JSON")
def the_answers_header_is_the_length_of_its_json(target: Target) -> None:
    answer = target.infer("identity_fp32", request(fp32([4.0]), outputs=BINARY_OUT))
    size = int(answer.headers[LENGTH])
    assert answer.body[:size].rstrip().endswith(b"}")
    assert len(answer.body) == size + 4


@binary.should("the body is no longer JSON alone")
def a_binary_answer_says_it_is_octets(target: Target) -> None:
    answer = target.infer("identity_fp32", request(fp32([4.0]), outputs=BINARY_OUT))
    assert answer.headers["content-type"].split(";")[0].strip().lower() == "application/octet-stream"


@binary.must("the id comes back in binary answers too")
def the_id_comes_back_in_binary_answers(target: Target) -> None:
    answer = target.infer("identity_fp32", request(fp32([4.0]), outputs=BINARY_OUT, id="7"))
    assert b'"7"' in answer.body[: int(answer.headers[LENGTH])].replace(b" ", b"").split(b'"id":')[1][:3]


@binary.must("the header may cover the whole body: a request without buffers")
def a_header_over_a_body_of_json_alone(target: Target) -> None:
    body, headers = with_buffers(request(fp32([2.0])))
    echo(target, "identity_fp32", body, np.array([2.0], "<f4"), headers)


@binary.should("the header says what follows; clients leave the content type as it was")
def the_content_type_may_still_say_json(target: Target) -> None:
    body, headers = binary_fp32([2.0])
    echo(target, "identity_fp32", body, np.array([2.0], "<f4"), headers | {"content-type": "application/json"})


@binary.must("a tensor without elements has a buffer of no bytes")
def an_empty_binary_tensor_is_answered(target: Target) -> None:
    document = request(in_binary("INPUT0", "FP32", [0], 0), outputs=BINARY_OUT)
    output = outputs(target.infer("identity_fp32", *with_buffers(document)))["OUTPUT0"]
    assert output["shape"] == [0]
    assert not output.get("bytes")
    assert not output.get("data")


@binary.must("NaN and the infinities are carried bit by bit")
def nan_and_infinity_are_carried_in_binary(target: Target) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 1], "<f4")
    body, headers = binary_fp32(values, outputs=BINARY_OUT)
    assert outputs(target.infer("identity_fp32", body, headers))["OUTPUT0"]["bytes"] == values.tobytes()


@binary.must("what is called application/json is JSON, also where a number is not finite")
def an_answer_with_nan_is_still_json(target: Target) -> None:
    body, headers = binary_fp32([float("nan"), float("inf"), -float("inf"), 1.0])
    answer = target.infer("identity_fp32", body, headers)
    if answer.status == 200:
        assert answer.json()["outputs"][0]["data"][3] == 1.0


@binary.should("a model that answers NaN has answered")
def an_answer_with_nan_is_no_error(target: Target) -> None:
    body, headers = binary_fp32([float("nan"), 1.0])
    assert target.infer("identity_fp32", body, headers).status == 200


def _every(datatype: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        values = ends(datatype)
        inputs, buffers = [], []
        for index, kind in enumerate(NUMBERS):
            data = (values if kind == datatype else np.zeros(len(values), DTYPES[kind])).tobytes()
            inputs.append(in_binary(f"INPUT{index}", kind, [len(data) // DTYPES[kind].itemsize], len(data)))
            buffers.append(data)
        document = request(*inputs, parameters={"binary_data_output": True})
        found = outputs(target.infer("every_number", *with_buffers(document, *buffers)))
        same(found[f"OUTPUT{NUMBERS.index(datatype)}"], values)

    return run


for each in NUMBERS:
    reason = "values are little-endian, row by row, without gaps; a BOOL is one byte"
    Group("binary", needs=["every_number"]).add("MUST", f"{each.lower()}_in_binary_is_exact", reason, _every(each))


def _sixteen(model: str, datatype: str, shape: list[int]) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        bits = SIXTEEN_BITS.tobytes()
        document = request(in_binary("INPUT0", datatype, shape, 8), outputs=BINARY_OUT)
        output = outputs(target.infer(model, *with_buffers(document, bits)))["OUTPUT0"]
        assert (output["datatype"], output["shape"], output["bytes"]) == (datatype, shape, bits)

    return run


for each, datatype, shape in (("identity_fp16", "FP16", [1, 2, 2]), ("identity_bf16", "BF16", [4])):
    Group("binary", needs=[each]).add(
        "MUST", f"{datatype.lower()}_in_binary_is_exact", "two bytes an element", _sixteen(each, datatype, shape)
    )


def texts_in_binary(target: Target, *values: bytes, asked: Any = BINARY_OUT) -> dict[str, Any]:
    """OUTPUT0 of identity_bytes for these elements."""
    data = strings(*values)
    document = request(in_binary("INPUT0", "BYTES", [len(values)], len(data)), outputs=asked)
    return outputs(target.infer("identity_bytes", *with_buffers(document, data)))["OUTPUT0"]


@texts.must("an element of BYTES is its length, four bytes, and its bytes")
def texts_in_binary_come_back(target: Target) -> None:
    values = (b"a", b"", "漢🙂".encode(), b"x" * 70_000)
    output = texts_in_binary(target, *values)
    assert (output["shape"], output["bytes"]) == ([4], strings(*values))


@texts.must("BYTES in binary come out in JSON as strings")
def texts_in_binary_come_out_in_json(target: Target) -> None:
    output = texts_in_binary(target, b"a\0b", "é".encode(), asked=[{"name": "OUTPUT0"}])
    assert output["data"] == ["a\0b", "é"]


@texts.must("BYTES in JSON come out in binary with their lengths")
def texts_in_json_come_out_in_binary(target: Target) -> None:
    body = request(tensor("INPUT0", "BYTES", ["ab", ""]), outputs=BINARY_OUT)
    assert outputs(target.infer("identity_bytes", body))["OUTPUT0"]["bytes"] == strings(b"ab", b"")


@texts.must("BYTES are any bytes: carried whole, or refused, but never changed")
def bytes_that_are_no_text_are_not_changed(target: Target) -> None:
    value = b"\xff\xfe\x80abc\0"
    data = strings(value)
    document = request(in_binary("INPUT0", "BYTES", [1], len(data)), outputs=BINARY_OUT)
    answer = target.infer("identity_bytes", *with_buffers(document, data))
    if answer.status == 200:
        assert outputs(answer)["OUTPUT0"]["bytes"] == data
    else:
        error(answer)


@binary.should("a body of many megabytes is an ordinary batch of pictures")
def a_large_binary_body_is_answered(target: Target) -> None:
    values = np.arange(4 * 1024 * 1024, dtype="<f4")
    body, headers = binary_fp32(values, outputs=BINARY_OUT)
    assert outputs(target.infer("identity_fp32", body, headers))["OUTPUT0"]["bytes"] == values.tobytes()


@binary.must("the tensor is not there; a server without shared memory has no such regions at all")
def a_shared_memory_region_that_is_not_there_is_refused(target: Target) -> None:
    given = {"shared_memory_region": "nowhere", "shared_memory_byte_size": 16}
    error(target.infer("identity_fp32", request(in_binary("INPUT0", "FP32", [4], 16) | {"parameters": given})))


def _refused(name: str, level: str, reason: str, body: bytes, headers: dict[str, str], model: str) -> None:
    Group("binary", needs=[model]).refuses(level, name, reason, lambda target: target.infer(model, body, headers))


FOUR = struct.pack("<4f", 1, 2, 3, 4)
SIXTEEN = request(in_binary("INPUT0", "FP32", [4], 16))
for name, level, reason, document, buffers, length in (
    ("bytes_left_over", "MUST", "they belong to no tensor", SIXTEEN, [FOUR, b"more"], None),
    ("bytes_that_are_missing", "MUST", "the tensor is not whole", SIXTEEN, [FOUR[:-1]], None),
    ("no_bytes_at_all", "MUST", "the tensor is not there", SIXTEEN, [], None),
    ("a_header_longer_than_the_body", "MUST", "the JSON is not whole", SIXTEEN, [FOUR], 100_000),
    ("a_header_shorter_than_the_json", "MUST", "the JSON is cut off", SIXTEEN, [FOUR], 10),
    ("a_negative_header", "MUST", "no JSON has that length", SIXTEEN, [FOUR], -5),
    ("a_header_of_letters", "MUST", "it is no number", SIXTEEN, [FOUR], "many"),
    ("a_header_with_a_fraction", "SHOULD", "it is no whole number", SIXTEEN, [FOUR], "12.5"),
    ("a_header_beyond_32_bits", "MUST", "no body is that long", SIXTEEN, [FOUR], 99_999_999_999),
    ("a_header_beyond_64_bits", "MUST", "no body is that long", SIXTEEN, [FOUR], 10**30),
    ("a_size_that_is_not_the_shapes", "MUST", "3 floats are no 4 floats",
     request(in_binary("INPUT0", "FP32", [4], 12)), [FOUR[:12]], None),
    ("a_size_above_the_shapes", "MUST", "4 floats are no 3 floats",
     request(in_binary("INPUT0", "FP32", [3], 16)), [FOUR], None),
    ("a_negative_size", "MUST", "no buffer has that size",
     request(in_binary("INPUT0", "FP32", [4], -16)), [FOUR], None),
    ("a_size_that_is_a_text", "SHOULD", "a size is a number",
     request(in_binary("INPUT0", "FP32", [4], 0) | {"parameters": {"binary_data_size": "16"}}), [FOUR], None),
    ("a_size_of_2_to_the_63", "MUST", "no buffer has that size",
     request(in_binary("INPUT0", "FP32", [4], 2**63)), [FOUR], None),
    ("data_beside_binary_data_size", "MUST", "which of the two is the tensor?",
     request(in_binary("INPUT0", "FP32", [4], 16) | {"data": [1, 2, 3, 4]}), [FOUR], None),
    ("neither_data_nor_a_size", "MUST", "the tensor is not there",
     request({"name": "INPUT0", "shape": [4], "datatype": "FP32"}), [], None),
    ("a_shape_beyond_64_bits_in_binary", "MUST", "2^4 x (2^60 + 2) overflows to 32 elements",
     request(in_binary("INPUT0", "FP32", [2**4, 2**60 + 2], 16)), [FOUR], None),
    ("a_shape_whose_bytes_overflow", "MUST", "2^62 + 4 floats overflow to 16 bytes",
     request(in_binary("INPUT0", "FP32", [2**62 + 4], 16)), [FOUR], None),
):  # fmt: skip
    _refused(name, level, reason, *with_buffers(document, *buffers, length=length), "identity_fp32")

_refused(
    "a_size_without_the_header", "MUST", "without the header all of the body is JSON",
    with_buffers(SIXTEEN)[0], OCTETS | {"content-type": "application/json"}, "identity_fp32",
)  # fmt: skip
for name, reason, data, count in (
    ("a_text_longer_than_its_buffer", "its length leads out of the buffer", struct.pack("<I", 9) + b"ab", 1),
    ("a_text_of_4_gigabytes_that_is_not_there", "its length leads out of the buffer",
     struct.pack("<I", 2**32 - 1) + b"ab", 1),
    ("a_length_that_is_cut_off", "an element starts with four bytes of length", b"\1\0", 1),
    ("too_few_texts", "the shape says three", strings(b"a", b"b"), 3),
    ("too_many_texts", "the shape says one", strings(b"a", b"b"), 1),
):  # fmt: skip
    document = request(in_binary("INPUT0", "BYTES", [count], len(data)))
    _refused(name, "MUST", reason, *with_buffers(document, data), "identity_bytes")
