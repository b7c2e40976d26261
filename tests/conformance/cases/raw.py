"""Raw requests of the binary extension: a header of 0, and the whole body is the one tensor."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.conformance.case import Group
from tests.conformance.target import Answer, Target
from tests.conformance.wire import LENGTH, OCTETS, error, outputs, strings

raw = Group("raw", "binary")
HEADERS = {**OCTETS, LENGTH: "0"}


def _comes_back(count: int) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        data = np.arange(count, dtype="<f4").tobytes()
        output = outputs(target.infer("identity_fp32", data, HEADERS))["OUTPUT0"]
        assert (output["shape"], output["bytes"]) == ([count], data)

    return run


for count in (8, 32, 100_000):
    raw.add(
        "MUST", f"{count}_raw_floats_come_back", "the one free axis follows from the length of the body",
        _comes_back(count), needs=["identity_fp32"],
    )  # fmt: skip


@raw.must("all outputs of a raw request are binary", "identity_fp32")
def a_raw_requests_answer_is_binary(target: Target) -> None:
    answer = target.infer("identity_fp32", np.ones(2, "<f4").tobytes(), HEADERS)
    assert "bytes" in outputs(answer)["OUTPUT0"]


@raw.must("a raw string is one element of shape [1], without a length before it", "one_string")
def a_raw_string_is_one_element(target: Target) -> None:
    for text in (b"427", "ünï".encode()):
        output = outputs(target.infer("one_string", text, HEADERS))["OUTPUT0"]
        assert (output["shape"], output["bytes"]) == ([1], strings(text))


@raw.should("HTTP: chunks are how the body was sent, not what it is", "identity_fp32")
def a_raw_request_may_come_in_chunks(target: Target) -> None:
    data = np.arange(8, dtype="<f4").tobytes()
    with target.connection() as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": connection.host, **HEADERS}.items())
        head = f"POST /v2/models/identity_fp32/infer HTTP/1.1\r\n{lines}transfer-encoding: chunked\r\n\r\n"
        connection.write(head.encode())
        for chunk in (data[:5], data[5:]):
            connection.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        connection.write(b"0\r\n\r\n")
        assert outputs(connection.read())["OUTPUT0"]["bytes"] == data


@raw.should("a raw string is one element; Triton takes it only where the model's shape is [1]", "identity_bytes")
def a_raw_string_for_a_free_axis_is_one_element_or_refused(target: Target) -> None:
    answer = target.infer("identity_bytes", b"427", HEADERS)
    if answer.status == 200:
        assert outputs(answer)["OUTPUT0"]["bytes"] == strings(b"427")
    else:
        error(answer)


for name, reason, model, data in (
    ("raw_bytes_for_two_inputs", "one body cannot be two tensors", "add_sub", bytes(128)),
    ("raw_bytes_for_free_axes", "4 elements of a row may be 2 x 2, or 1 x 4", "identity_fp16", bytes(8)),
    ("raw_bytes_that_are_no_whole_elements", "7 bytes are no floats", "identity_fp32", bytes(7)),
):

    def _ask(target: Target, model: str = model, data: bytes = data) -> Answer:
        return target.infer(model, data, HEADERS)

    raw.refuses("MUST", name, reason, _ask, [model])
