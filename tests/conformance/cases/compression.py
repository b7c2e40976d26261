"""Compressed bodies, both ways. The header of the binary extension counts bytes of the body before compression."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from tests.conformance.case import Group
from tests.conformance.target import JSON, Answer, Target
from tests.conformance.wire import binary_fp32, echo, fp32, outputs, request, same

compression = Group("compression", needs=["identity_fp32"])
VALUES = np.arange(2000, dtype="<f4")
TEXT = json.dumps(request(fp32(VALUES.astype(float).tolist()))).encode()
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


def unpacked(answer: Answer) -> Answer:
    """The answer with its body as it was before compression."""
    encoding = answer.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "gzip":
        return replace(answer, body=gzip.decompress(answer.body))
    if encoding == "deflate":
        return replace(answer, body=zlib.decompress(answer.body))
    assert encoding == "identity", f"an answer in {encoding}"
    return answer


def _json_in(encoding: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        echo(target, "identity_fp32", PACK[encoding](TEXT), VALUES, JSON | {"content-encoding": encoding})

    return run


def _binary_in(encoding: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        body, headers = binary_fp32(VALUES)
        echo(target, "identity_fp32", PACK[encoding](body), VALUES, headers | {"content-encoding": encoding})

    return run


def _json_out(encoding: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        answer = target.infer("identity_fp32", TEXT, JSON | {"accept-encoding": encoding})
        assert answer.headers.get("content-encoding", "").lower() == encoding, "the answer is not compressed"
        assert len(answer.body) < len(unpacked(answer).body)
        same(outputs(unpacked(answer))["OUTPUT0"], VALUES)

    return run


def _binary_out(encoding: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        body, headers = binary_fp32(VALUES, parameters={"binary_data_output": True})
        answer = target.infer("identity_fp32", body, headers | {"accept-encoding": encoding})
        assert answer.headers.get("content-encoding", "").lower() == encoding, "the answer is not compressed"
        assert outputs(unpacked(answer))["OUTPUT0"]["bytes"] == VALUES.tobytes()

    return run


for each in PACK:
    compression.add("MUST", f"a_request_in_{each}_is_read", "the header says how to read the body", _json_in(each))
    compression.add(
        "MUST", f"a_binary_request_in_{each}_is_read", "its header counts the bytes before compression",
        _binary_in(each), features=["binary"],
    )  # fmt: skip
    compression.add("SHOULD", f"an_answer_in_{each}_when_asked_for", "Triton compresses when asked", _json_out(each))
    compression.add(
        "SHOULD", f"a_binary_answer_in_{each}_when_asked_for", "Triton compresses when asked", _binary_out(each),
        features=["binary"],
    )  # fmt: skip


everyone = Group("http", needs=["identity_fp32"])


@everyone.must("HTTP: no coding that was not asked for")
def an_answer_is_not_compressed_unasked(target: Target) -> None:
    answer = target.infer("identity_fp32", TEXT, JSON)
    assert answer.headers.get("content-encoding", "identity").lower() == "identity"
    same(outputs(answer)["OUTPUT0"], VALUES)


def _accepts(accept: str) -> Callable[[Target], None]:
    def run(target: Target) -> None:
        same(
            outputs(unpacked(target.infer("identity_fp32", TEXT, JSON | {"accept-encoding": accept})))["OUTPUT0"],
            VALUES,
        )

    return run


for name, accept in (
    ("a_list_of_codings_is_understood", "br;q=1.0, gzip;q=0.8, *;q=0.1"),
    ("unknown_codings_are_passed_over", "br, zstd"),
    ("any_coding_may_be_asked_for", "*"),
    ("a_malformed_list_of_codings_does_no_harm", "gzip;q=, ;;,=,q"),
):
    everyone.add("MUST", name, "HTTP: an answer in a coding that was asked for, or in none", _accepts(accept))


@everyone.should("HTTP: a weight of 0 means: not this one")
def a_coding_with_weight_0_is_not_used(target: Target) -> None:
    answer = target.infer("identity_fp32", TEXT, JSON | {"accept-encoding": "gzip;q=0, deflate;q=0"})
    assert answer.headers.get("content-encoding", "identity").lower() == "identity"


def _sends(body: bytes, encoding: str) -> Callable[[Target], Answer]:
    return lambda target: target.infer("identity_fp32", body, JSON | {"content-encoding": encoding})


PACKED = gzip.compress(TEXT)
for name, level, reason, body, encoding in (
    ("a_body_that_is_no_gzip", "MUST", "it cannot be read", TEXT, "gzip"),
    ("a_body_that_is_no_deflate", "MUST", "it cannot be read", TEXT, "deflate"),
    ("a_gzip_body_that_is_cut_off", "MUST", "it is not whole", PACKED[:-20], "gzip"),
    ("a_gzip_body_with_a_wrong_checksum", "SHOULD", "it is not what was sent",
     PACKED[:-8] + b"\0\0\0\0" + PACKED[-4:], "gzip"),
):  # fmt: skip
    compression.refuses(level, name, reason, _sends(body, encoding))


@cache
def _blanks() -> bytes:
    return gzip.compress(bytes([0x20]) * 80_000_000, 1)


compression.refuses(
    "MUST", "a_body_that_unpacks_to_80_megabytes_of_blanks", "it is no request, whatever the limit",
    lambda target: target.infer("identity_fp32", _blanks(), JSON | {"content-encoding": "gzip"}),
)  # fmt: skip


@everyone.must("HTTP: a body in a coding that the server cannot undo is not read as if it were plain")
def a_coding_that_nobody_knows_is_refused(target: Target) -> None:
    answer = target.infer("identity_fp32", b"\x1b\x03not really brotli", JSON | {"content-encoding": "x-unheard-of"})
    assert answer.status >= 400
