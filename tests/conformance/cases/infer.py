"""Inference in JSON: forms of data, outputs asked for, the id, parameters, versions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.conformance.case import Group
from tests.conformance.models import ROWS_OF
from tests.conformance.target import Target
from tests.conformance.wire import array, echo, error, fp32, outputs, request, same, tensor

infer = Group("infer", needs=["identity_fp32"])
two = Group("infer", needs=["add_sub"])
LEFT = np.arange(ROWS_OF, dtype="<i4").reshape(1, ROWS_OF)
RIGHT = LEFT * 3 + 1


def left(**more: Any) -> dict[str, Any]:
    """INPUT0 of add_sub."""
    return tensor("INPUT0", "INT32", LEFT.tolist(), **more)


def right(**more: Any) -> dict[str, Any]:
    """INPUT1 of add_sub."""
    return tensor("INPUT1", "INT32", RIGHT.tolist(), **more)


@infer.must("an answer has `model_name`, and of each output name, shape, datatype and data")
def an_answer_has_the_protocols_form(target: Target) -> None:
    answer = target.infer("identity_fp32", request(fp32([1.5, -2.0, 0.25])))
    assert answer.headers["content-type"].split(";")[0].strip().lower() == "application/json"
    document = answer.ok()
    assert document["model_name"] == "identity_fp32"
    (output,) = document["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("OUTPUT0", "FP32", [3])
    assert np.ravel(output["data"]).tolist() == [1.5, -2.0, 0.25]


@infer.must("`model_version`, where it is given, is a string")
def a_model_version_is_a_string(target: Target) -> None:
    version = target.infer("identity_fp32", request(fp32([1.0]))).ok().get("model_version")
    assert version is None or isinstance(version, str)


@two.must("data may be flat, in row-major order")
def flat_data_is_read_row_by_row(target: Target) -> None:
    rows = np.vstack([LEFT, LEFT + 100])
    flat = [tensor(name, "INT32", rows.ravel().tolist(), [2, ROWS_OF]) for name in ("INPUT0", "INPUT1")]
    same(outputs(target.infer("add_sub", request(*flat)))["OUTPUT0"], (rows + rows).astype("<i4"))


@two.must("data may be nested as the shape is")
def nested_data_is_read(target: Target) -> None:
    found = outputs(target.infer("add_sub", request(left(), right())))
    same(found["OUTPUT0"], LEFT + RIGHT)
    same(found["OUTPUT1"], LEFT - RIGHT)


@two.must("flat and nested are the same tensor, whatever the other input's form")
def one_input_flat_and_one_nested(target: Target) -> None:
    flat = tensor("INPUT0", "INT32", LEFT.ravel().tolist(), LEFT.shape)
    same(outputs(target.infer("add_sub", request(flat, right())))["OUTPUT1"], LEFT - RIGHT)


@two.must("inputs have names; their order in a request means nothing")
def the_order_of_inputs_means_nothing(target: Target) -> None:
    same(outputs(target.infer("add_sub", request(right(), left())))["OUTPUT1"], LEFT - RIGHT)


@two.must("a batch is the full shape of all its rows")
def several_rows_are_answered_in_order(target: Target) -> None:
    rows = np.arange(5 * ROWS_OF, dtype="<i4").reshape(5, ROWS_OF)
    body = request(*(tensor(name, "INT32", rows.tolist()) for name in ("INPUT0", "INPUT1")))
    same(outputs(target.infer("add_sub", body))["OUTPUT0"], rows * 2)


@infer.must("an axis of -1 takes any length, from one request to the next")
def lengths_may_change_from_request_to_request(target: Target) -> None:
    for length in (1, 7, 2, 300, 3):
        values = np.linspace(-1, 1, length, dtype="<f4")
        echo(target, "identity_fp32", request(fp32(values.tolist())), values)


@infer.must("a shape is of unsigned integers, so an axis may be 0")
def a_tensor_without_elements_is_answered(target: Target) -> None:
    echo(target, "identity_fp32", request(fp32([], [0])), np.zeros(0, "<f4"))


@two.must("so may the axis of rows, where the others are not")
def a_batch_without_rows_is_answered(target: Target) -> None:
    body = request(*(tensor(name, "INT32", [], [0, ROWS_OF]) for name in ("INPUT0", "INPUT1")))
    same(outputs(target.infer("add_sub", body))["OUTPUT0"], np.zeros((0, ROWS_OF), "<i4"))


@infer.should("a scalar has an empty shape and one value; Triton asks for [1] there", "scalar")
def a_scalar_is_answered_with_an_empty_shape(target: Target) -> None:
    echo(target, "scalar", request(tensor("INPUT0", "FP32", [2.5], [])), np.array(2.5, "<f4"))


@infer.must("an id that was given comes back")
def the_id_comes_back(target: Target) -> None:
    for given in ("42", "a b/ü-漢", 'with "quotes" \\ and \n'):
        assert target.infer("identity_fp32", request(fp32([1.0]), id=given)).ok()["id"] == given


@infer.must("the response's `id` is the one given in the request, if any")
def without_an_id_none_is_invented(target: Target) -> None:
    assert target.infer("identity_fp32", request(fp32([1.0]))).ok().get("id") in (None, "")


@two.must("only the outputs that are named come back")
def only_outputs_asked_for_come_back(target: Target) -> None:
    for name, want in (("OUTPUT0", LEFT + RIGHT), ("OUTPUT1", LEFT - RIGHT)):
        found = outputs(target.infer("add_sub", request(left(), right(), outputs=[{"name": name}])))
        assert list(found) == [name]
        same(found[name], want)


@two.must("outputs may all be named, in any order")
def outputs_may_be_asked_for_in_any_order(target: Target) -> None:
    wanted = [{"name": "OUTPUT1"}, {"name": "OUTPUT0"}]
    found = outputs(target.infer("add_sub", request(left(), right(), outputs=wanted)))
    same(found["OUTPUT0"], LEFT + RIGHT)
    same(found["OUTPUT1"], LEFT - RIGHT)


@two.must("without `outputs` all come back")
def all_outputs_come_back_when_none_is_named(target: Target) -> None:
    assert set(outputs(target.infer("add_sub", request(left(), right())))) == {"OUTPUT0", "OUTPUT1"}


@two.should("an empty list is what clients send for all")
def an_empty_list_of_outputs_means_all(target: Target) -> None:
    assert set(outputs(target.infer("add_sub", request(left(), right(), outputs=[])))) == {"OUTPUT0", "OUTPUT1"}


@infer.must("parameters are names with a string, number or boolean; those not known change nothing")
def unknown_parameters_change_nothing(target: Target) -> None:
    some = {"a_text": "x", "a_number": 1.5, "a_whole_number": 7, "a_flag": True}
    body = request(fp32([3.0], parameters=some), parameters=some, outputs=[{"name": "OUTPUT0", "parameters": some}])
    echo(target, "identity_fp32", body, np.array([3.0], "<f4"))


@infer.must("`parameters` are zero or more")
def empty_parameters_change_nothing(target: Target) -> None:
    body = request(fp32([3.0], parameters={}), parameters={}, outputs=[{"name": "OUTPUT0", "parameters": {}}])
    echo(target, "identity_fp32", body, np.array([3.0], "<f4"))


@infer.should("a client may be newer than the server; Triton passes over members it does not know")
def unknown_members_change_nothing(target: Target) -> None:
    body = request(fp32([3.0], not_a_member=1), also_not=[{}])
    echo(target, "identity_fp32", body, np.array([3.0], "<f4"))


@infer.must("a version that the metadata lists may be named in the URL")
def a_version_may_be_named_in_the_url(target: Target) -> None:
    if target.version:
        answer = target.infer("identity_fp32", request(fp32([1.0])), version=target.version).ok()
        assert answer.get("model_version", target.version) == target.version


def _with_headers(headers: Mapping[str, str]) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        text = b'{"inputs":[{"name":"INPUT0","shape":[2],"datatype":"FP32","data":[1.5,2]}]}'
        echo(target, "identity_fp32", text, np.array([1.5, 2], "<f4"), headers)

    return run


infer.add(
    "SHOULD", "a_body_without_a_content_type_is_json", "the protocol is JSON and clients leave the header out",
    _with_headers({}),
)  # fmt: skip
infer.add(
    "SHOULD", "a_charset_beside_the_content_type_is_allowed", "HTTP: a media type may have parameters",
    _with_headers({"content-type": "application/json; charset=utf-8"}),
)  # fmt: skip
infer.add(
    "SHOULD", "a_content_type_in_capitals_is_the_same", "HTTP: media types do not tell capitals from small letters",
    _with_headers({"content-type": "Application/JSON"}),
)  # fmt: skip
infer.add(
    "SHOULD", "what_curl_sends_by_default_is_json", "`curl -d` says it sends a form; Triton does not look at the type",
    _with_headers({"content-type": "application/x-www-form-urlencoded"}),
)  # fmt: skip


@infer.must("JSON allows blanks, line ends and escapes anywhere between and in its texts")
def spread_out_json_with_escapes_is_read(target: Target) -> None:
    text = (
        b' {\r\n\t"inputs" : [ { "n\\u0061me" : "INPUT\\u0030" , "shape":[ 1 ],"datatype":"FP32","data":[ 1e0 ]} ] }\n'
    )
    echo(target, "identity_fp32", text, np.array([1], "<f4"), {"content-type": "application/json"})


@infer.must("whole numbers are numbers: JSON does not tell 1 from 1.0")
def whole_numbers_are_floats_too(target: Target) -> None:
    echo(target, "identity_fp32", request(fp32([1, -2, 0, 16777216])), np.array([1, -2, 0, 16777216], "<f4"))


@infer.must("JSON numbers may have exponents")
def numbers_with_exponents_are_read(target: Target) -> None:
    text = b'{"inputs":[{"name":"INPUT0","shape":[4],"datatype":"FP32","data":[1e3,1E-3,-2.5e+1,0e0]}]}'
    echo(target, "identity_fp32", text, np.array([1e3, 1e-3, -25, 0], "<f4"), {"content-type": "application/json"})


@infer.must("a number beyond the type has no right answer: it is refused, or infinite, which JSON cannot say")
def a_number_beyond_fp32_is_never_an_ordinary_number(target: Target) -> None:
    answer = target.infer("identity_fp32", request(fp32([1e39, 1.0])))
    if answer.status == 200:
        assert answer.json()["outputs"][0]["data"][0] is None
    else:
        error(answer)


@infer.must("NaN is no JSON: it is refused, or carried and not given back as a number")
def nan_in_json_is_never_an_ordinary_number(target: Target) -> None:
    text = b'{"inputs":[{"name":"INPUT0","shape":[2],"datatype":"FP32","data":[NaN,1.0]}]}'
    answer = target.infer("identity_fp32", text, {"content-type": "application/json"})
    if answer.status == 200:
        data = answer.body.split(b'"data"')[1]
        assert b"NaN" in data or b"null" in data, answer.body
    else:
        error(answer)


@infer.should("a body of some megabytes is an ordinary picture")
def a_large_json_body_is_answered(target: Target) -> None:
    values = np.random.default_rng(5).standard_normal(3 * 224 * 224).astype("<f4")
    found = outputs(target.infer("identity_fp32", request(fp32(values.astype(float).tolist()))))
    assert array(found["OUTPUT0"]).tobytes() == values.tobytes()
