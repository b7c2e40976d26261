"""Requests that are wrong: refused in the protocol's form, blamed on the caller, and survived.

The level of each says how sure it is that no answer can be right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.conformance.case import Group
from tests.conformance.cases.infer import left, right
from tests.conformance.models import ROWS_OF
from tests.conformance.target import JSON, Answer, Target
from tests.conformance.wire import error, fp32, request, tensor

errors = Group("errors")
GOOD = fp32([1.0, 2.0])


def _without(member: str, **more: Any) -> dict[str, Any]:
    return request({key: value for key, value in {**GOOD, **more}.items() if key != member})


def _deep(levels: int) -> bytes:
    inner = "[" * levels + "1.0" + "]" * levels
    return b'{"inputs":[{"name":"INPUT0","shape":[1],"datatype":"FP32","data":' + inner.encode() + b"}]}"


def _shaped(*shape: Any) -> dict[str, Any]:
    return request({**GOOD, "shape": list(shape)})


def _data(*data: Any) -> dict[str, Any]:
    return request({**GOOD, "data": list(data)})


TEXT = json.dumps(request(GOOD)).encode()
# name: what is sent to identity_fp32 → level, reason
BAD: dict[str, tuple[Any, str, str]] = {
    "an_empty_body": (b"", "MUST", "it is no JSON"),
    "json_that_is_cut_off": (TEXT[:-3], "MUST", "it is no JSON"),
    "text_after_the_json": (TEXT + b" and more", "MUST", "it is no JSON"),
    "a_body_of_letters": (b"INPUT0=1.0", "MUST", "it is no JSON"),
    "a_body_that_is_no_utf8": (TEXT.replace(b"INPUT0", b"INPUT\xff"), "MUST", "JSON is UTF-8"),
    "a_list_instead_of_an_object": ([GOOD], "MUST", "a request is an object"),
    "a_text_instead_of_an_object": (json.dumps("inputs").encode(), "MUST", "a request is an object"),
    "null_instead_of_an_object": (b"null", "MUST", "a request is an object"),
    "no_inputs_member": ({}, "MUST", "`inputs` is required"),
    "an_empty_list_of_inputs": (request(), "MUST", "the model needs one"),
    "inputs_that_are_an_object": ({"inputs": GOOD}, "MUST", "`inputs` is a list"),
    "an_input_that_is_no_object": (request(1), "MUST", "an input is an object"),
    "an_input_that_is_null": (request(None), "MUST", "an input is an object"),
    "an_input_without_a_name": (_without("name"), "MUST", "`name` is required"),
    "an_input_without_a_shape": (_without("shape"), "MUST", "`shape` is required"),
    "an_input_without_a_datatype": (_without("datatype"), "MUST", "`datatype` is required"),
    "an_input_without_data": (_without("data"), "MUST", "`data` is required"),
    "an_input_that_the_model_does_not_have": (request({**GOOD, "name": "INPUT9"}), "MUST", "INPUT0 is not there"),
    "an_input_too_many": (request(GOOD, {**GOOD, "name": "INPUT9"}), "SHOULD", "the model has no such input"),
    "an_input_given_twice": (request(GOOD, fp32([3.0, 4.0])), "MUST", "which of the two is it?"),
    "a_name_that_is_a_number": (request({**GOOD, "name": 0}), "MUST", "a name is a string"),
    "a_shape_that_is_a_text": (request({**GOOD, "shape": "2"}), "MUST", "a shape is a list"),
    "a_shape_that_is_a_number": (request({**GOOD, "shape": 2}), "SHOULD", "a shape is a list"),
    "a_shape_with_a_negative_axis": (_shaped(-2), "MUST", "axes are unsigned"),
    "a_shape_with_two_negative_axes": (_shaped(-1, -2), "MUST", "axes are unsigned, though the product fits"),
    "a_shape_with_a_fraction": (_shaped(2.5), "MUST", "axes are whole"),
    "a_shape_with_a_text": (_shaped("two"), "MUST", "axes are numbers"),
    "a_shape_with_null": (_shaped(None), "MUST", "axes are numbers"),
    "a_shape_with_true": (request({**fp32([1.0]), "shape": [True]}), "SHOULD", "axes are numbers"),
    "a_shape_with_a_list": (_shaped([2]), "MUST", "axes are numbers"),
    "a_shape_of_more_elements_than_the_data": (_shaped(3), "MUST", "one element is missing"),
    "a_shape_of_fewer_elements_than_the_data": (_shaped(1), "MUST", "one element is too many"),
    "a_shape_of_no_elements_with_data": (_shaped(0), "MUST", "two elements are too many"),
    "a_shape_of_another_rank": (_shaped(1, 2), "MUST", "the model's tensor has one axis"),
    "a_shape_whose_product_overflows": (_shaped(2**4, 2**60 + 2), "MUST", "modulo 2^64 it would be 32"),
    "a_shape_whose_bytes_overflow": (_shaped(2**2, 2**60 + 2), "MUST", "modulo 2^64 it would be 32 bytes"),
    "a_shape_beyond_64_bits": (_shaped(2**64 + 2), "MUST", "modulo 2^64 it would be 2"),
    "a_shape_of_a_million_million": (_shaped(10**12), "MUST", "the data has two elements; nothing may be reserved"),
    "a_datatype_that_there_is_not": (request({**GOOD, "datatype": "FLOAT"}), "MUST", "the specification has a list"),
    "a_datatype_that_is_a_number": (request({**GOOD, "datatype": 32}), "MUST", "a datatype is a string"),
    "a_datatype_that_is_not_the_models": (request({**GOOD, "datatype": "FP64"}), "SHOULD", "the model declares FP32"),
    "a_datatype_of_texts_for_numbers": (
        request(tensor("INPUT0", "BYTES", ["1", "2"])), "MUST", "the model declares FP32"
    ),
    "data_that_is_null": (request({**GOOD, "data": None}), "MUST", "data is a list"),
    "data_that_is_an_object": (request({**GOOD, "data": {"0": 1.0, "1": 2.0}}), "MUST", "data is a list"),
    "data_that_is_a_text": (request({**GOOD, "data": "12"}), "MUST", "data is a list"),
    "data_with_a_text_in_it": (_data(1.0, "2.0"), "SHOULD", "a text is no number; servers may coerce, silently"),
    "data_with_true_in_it": (_data(1.0, True), "SHOULD", "true is no number; servers may coerce, silently"),
    "data_with_an_object_in_it": (_data(1.0, {}), "MUST", "an object is no number"),
    "ragged_data": (request({**fp32([[1.0, 2.0], [3.0]], [3])}), "SHOULD", "nested data has its shape's form"),
    "data_nested_120_deep": (_deep(120), "SHOULD", "Triton's limit is 100; no tensor has so many axes"),
    "data_nested_100000_deep": (_deep(100_000), "MUST", "the tensor has one axis; and no stack may run out"),
    "outputs_that_are_no_list": (request(GOOD, outputs={"name": "OUTPUT0"}), "MUST", "`outputs` is a list"),
    "an_output_that_is_no_object": (request(GOOD, outputs=["OUTPUT0"]), "MUST", "an output is an object"),
    "an_output_without_a_name": (request(GOOD, outputs=[{}]), "MUST", "`name` is required"),
    "an_output_that_the_model_does_not_have": (
        request(GOOD, outputs=[{"name": "DUMMY"}]), "MUST", "it cannot come back"
    ),
    "an_output_asked_for_twice": (
        request(GOOD, outputs=[{"name": "OUTPUT0"}] * 2), "SHOULD", "Triton refuses; names of outputs are unique"
    ),
    "an_id_that_is_a_number": (request(GOOD, id=42), "SHOULD", "an id is a string"),
    "parameters_that_are_a_list": (request(GOOD, parameters=[1]), "SHOULD", "parameters are an object"),
    "a_parameter_that_is_an_object": (
        request(GOOD, parameters={"a": {"b": 1}}), "SHOULD", "a value is a string, number or boolean"
    ),
}  # fmt: skip
# the same for add_sub
BAD_OF_TWO: dict[str, tuple[Any, str, str]] = {
    "a_missing_second_input": (request(left()), "MUST", "the model needs two"),
    "a_wrong_fixed_axis": (
        request(*(tensor(name, "INT32", [[1] * 15]) for name in ("INPUT0", "INPUT1"))), "MUST", "the axis has 16"
    ),
    "axes_the_wrong_way_round": (
        request(*(tensor(name, "INT32", [[1]] * ROWS_OF) for name in ("INPUT0", "INPUT1"))), "MUST",
        "as many elements, but the second axis has 16",
    ),
    "inputs_of_different_lengths": (
        request(left(), tensor("INPUT1", "INT32", [[1] * ROWS_OF] * 3)), "SHOULD", "what is row 1 minus nothing?"
    ),
    "null_for_an_integer": (
        request(tensor("INPUT0", "INT32", [[None] * ROWS_OF], [1, ROWS_OF]), right()), "SHOULD", "null is no number"
    ),
    "a_fraction_for_an_integer": (
        request(tensor("INPUT0", "INT32", [[1.5] * ROWS_OF]), right()), "SHOULD", "1.5 would become 1, silently"
    ),
}  # fmt: skip


def _asks(model: str, body: Any) -> Callable[[Target], Answer]:
    return lambda target: target.infer(model, body, JSON)


for model, table in (("identity_fp32", BAD), ("add_sub", BAD_OF_TWO)):
    for name, (body, level, reason) in table.items():
        errors.refuses(level, name, reason, _asks(model, body), [model])

for name, path, reason in (
    ("an_unknown_model", "/v2/models/there_is_no_such_model/infer", "it cannot answer"),
    ("an_unknown_version", "/v2/models/identity_fp32/versions/987654/infer", "it cannot answer"),
    ("a_version_of_letters", "/v2/models/identity_fp32/versions/newest-of-all/infer", "there is none"),
    ("a_negative_version", "/v2/models/identity_fp32/versions/-7/infer", "there is none"),
    ("a_version_beyond_64_bits", f"/v2/models/identity_fp32/versions/{2**64 + 1}/infer", "modulo 2^64 it would be 1"),
    ("a_model_name_of_4000_letters", f"/v2/models/{'m' * 4000}/infer", "there is no such model"),
    ("a_model_name_with_a_zero_byte", "/v2/models/identity_fp32%00/infer", "there is no such model"),
):  # fmt: skip

    def _post(target: Target, path: str = path) -> Answer:
        return target.ask("POST", path, request(GOOD))

    errors.refuses("MUST", name, reason, _post, ["identity_fp32"])


@errors.must("there is no such model, and no such file", "identity_fp32")
def a_model_name_that_climbs_is_an_error(target: Target) -> None:
    answer = target.ask("POST", "/v2/models/..%2F..%2Fetc%2Fpasswd/infer", request(GOOD))
    assert 400 <= answer.status < 500, f"status {answer.status}"


def _is_404(path: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        status = target.ask("POST", path, request(GOOD)).status
        assert status == 404, f"status {status}"

    return run


errors.add(
    "SHOULD", "an_unknown_model_is_404", "clients tell a wrong name from a wrong request by it",
    _is_404("/v2/models/there_is_no_such_model/infer"),
)  # fmt: skip
errors.add(
    "SHOULD", "an_unknown_version_is_404", "clients tell a wrong name from a wrong request by it",
    _is_404("/v2/models/identity_fp32/versions/987654/infer"), needs=["identity_fp32"],
)  # fmt: skip


@errors.must("an answer that is an error is JSON and says so", "identity_fp32")
def an_error_is_declared_as_json(target: Target) -> None:
    answer = target.infer("identity_fp32", {})
    assert answer.status >= 400
    assert answer.headers["content-type"].split(";")[0].strip().lower() == "application/json"


@errors.should("who reads it must learn what was wrong", "identity_fp32")
def the_error_names_the_tensor_that_is_wrong(target: Target) -> None:
    assert "INPUT9" in error(target.infer("identity_fp32", request({**GOOD, "name": "INPUT9"})))
