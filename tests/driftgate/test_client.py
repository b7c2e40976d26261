"""The public client against a real worker on a real socket: onnxruntime's own bits, in every form, sync and async."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper

from driftgate.client import (
    Answer,
    AsyncClient,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    DriftgateError,
    NotFound,
    Retry,
    ServerFailed,
    ServerUnavailable,
    TensorMismatch,
)
from driftgate.client_formats import Form
from gateway.data.routes import RouteEntry
from gateway.settings import GatewaySettings, LimitSettings, Settings
from registry import onnx
from tests.support import models
from tests.support.listening import listening
from tests.support.serving import Bench, aspire, with_worker

ROOT = Path(__file__).resolve().parents[2]
FORMS: tuple[Form, ...] = ("msgpack", "arrow", "json")
ROWS = np.random.default_rng(11).normal(size=(5, 3)).astype(np.float32)


def with_url(
    folder: Path,
    body: Callable[[Bench, str], Awaitable[None]],
    settings: Settings | None = None,
    paths: dict[str, Path] | None = None,
    **options: Any,
) -> None:
    """Run a coroutine beside a worker that listens and serves these models (else `m`, linear)."""

    async def main(bench: Bench) -> None:
        for name, path in (paths or {"m": models.linear(folder / "a.onnx")}).items():
            await bench.route(name, RouteEntry(champion=1, aspired={1: aspire(path, **options)}))
        async with listening(bench) as url:
            await body(bench, url)

    with_worker(folder / "run", main, settings)


def alone(path: Path, **feeds: Any) -> list[Any]:
    return onnx.run(onnx.open_session(path), feeds)


def test_both_clients_get_onnxruntime_s_own_bits_in_every_form(tmp_path: Path) -> None:
    (want,) = alone(models.linear(tmp_path / "a.onnx"), x=ROWS)
    given = [
        {"x": ROWS},
        ROWS,
        {"x": ROWS.astype(np.float64)},
        {"x": ROWS.tolist()},
        pd.DataFrame(ROWS, columns=["x[0]", "x[1]", "x[2]"]),
        pd.DataFrame(ROWS.astype(np.float64), columns=["x[0]", "x[1]", "x[2]"]),
    ]

    async def body(bench: Bench, url: str) -> None:
        def sync() -> list[Answer]:
            with Client(url) as client:
                return [client.infer("m", x, format=form) for x, form in itertools.product(given, FORMS)]

        answers = await asyncio.to_thread(sync)
        async with AsyncClient(url) as client:
            pairs = itertools.product(given, FORMS)
            answers += await asyncio.gather(*(client.infer("m", x, format=form) for x, form in pairs))
        for answer in answers:
            assert answer["y"].tobytes() == want.tobytes()
            assert answer["y"].flags.writeable
            assert answer["y"].dtype == np.float32
            assert (answer.model, answer.version, answer.role) == ("m", "1", "champion")

    with_url(tmp_path, body)


def test_a_frame_is_sent_as_arrow_by_the_names_of_its_columns(tmp_path: Path) -> None:
    (want,) = alone(models.linear(tmp_path / "a.onnx"), x=ROWS)
    turned = pd.DataFrame({"x[2]": ROWS[:, 2], "x[0]": ROWS[:, 0], "x[1]": ROWS[:, 1]})

    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            assert (await client.infer("m", turned))["y"].tobytes() == want.tobytes()

    with_url(tmp_path, body)


def test_strings_numbers_and_categories_of_a_frame_are_inputs_by_name_and_come_back_as_a_frame(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"age": [1, 2, 3], "visits": [4, 5, 6], "city": pd.Categorical(["a", "東", "a"]), "more": [0.5, 0.5, 0.5]}
    )

    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            for form in FORMS:
                answer = await client.infer("c", frame, format=form)
                back = answer.to_frame()
                assert back["total"].tolist() == [5.0, 7.0, 9.0]
                assert back["named"].tolist() == ["a", "東", "a"]
                one = await client.infer("c", frame, format=form, outputs=["named"])
                assert list(one.outputs) == ["named"]
                by_name = {"age": [1.0], "visits": [2], "city": [b"b"]}
                assert (await client.infer("c", by_name, format=form))["named"].tolist() == [["b"]]

    with_url(tmp_path, body, paths={"c": models.columns(tmp_path / "c.onnx")})


def test_models_without_rows_and_of_two_byte_floats_travel_whole(tmp_path: Path) -> None:
    x, state = np.ones((3, 4), np.float32), np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    y, new = alone(models.state_on_axis_one(tmp_path / "s.onnx"), x=x, state=state)
    two_bytes = models.build(
        tmp_path / "b.onnx",
        [helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.FLOAT), helper.make_node("Identity", ["x"], ["y"])],
        [models.value("x", TensorProto.BFLOAT16, ["N"])],
        [models.value("wide", TensorProto.FLOAT, ["N"]), models.value("y", TensorProto.BFLOAT16, ["N"])],
    )
    paths = {"s": models.state_on_axis_one(tmp_path / "s.onnx"), "b": two_bytes}

    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            for form in FORMS:
                answer = await client.infer("s", {"x": x, "state": state}, format=form)
                assert answer["y"].tobytes() == y.tobytes()
                assert answer["state_out"].tobytes() == new.tobytes()
                with pytest.raises(ValueError, match="same length"):
                    answer.to_frame()
                half = await client.infer("b", [1.5, 2.5, -3.0], format=form)
                assert half["wide"].tolist() == half["y"].astype(np.float32).tolist() == [1.5, 2.5, -3.0]
                assert half["y"].dtype.itemsize == 2

    with_url(tmp_path, body, paths=paths, by_rows=False)


def test_ids_keys_versions_and_readiness_go_both_ways(tmp_path: Path) -> None:
    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            answer = await client.infer("m", ROWS, request_id="order-7", routing_key="u", version=1, deadline_s=20)
            assert (answer.request_id, answer.role) == ("order-7", "direct")
            assert len((await client.infer("m", ROWS)).request_id) == 36
            metadata = await client.metadata("m")
            assert [(one.name, one.datatype, one.shape) for one in metadata.inputs] == [("x", "FP32", (-1, 3))]
            assert (metadata.name, metadata.versions) == ("m", ("1",))
            assert [await client.is_ready(*asked) for asked in ((), ("m",), ("m", 1), ("n",), ("m", 9))] == [
                True,
                True,
                True,
                False,
                False,
            ]

    with_url(tmp_path, body)


def test_errors_are_told_by_class_code_details_and_request_id(tmp_path: Path) -> None:
    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(NotFound) as missing:
                await client.infer("nobody", ROWS, request_id="r-1")
            assert (missing.value.status, missing.value.code) == (404, "model_not_found")
            with pytest.raises(NotFound) as version:
                await client.infer("m", pd.DataFrame(ROWS), version=7, request_id="r-2")
            assert (version.value.code, version.value.request_id) == ("version_not_found", "r-2")
            with pytest.raises(TensorMismatch) as wrong:
                await client.infer("m", ROWS[:, :2])
            assert (wrong.value.code, wrong.value.details) == ("tensor_mismatch", {"input": "x"})
            assert "model wants" in str(wrong.value)
            with pytest.raises(DeadlineExceeded):
                await client.infer("m", ROWS, deadline_s=1e-9)

    with_url(tmp_path, body)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"z": ROWS}, "no input 'z'"),
        ({}, "wants input 'x'"),
        ({"x": [["a", "b", "c"]]}, "wants FP32"),
        ({"x": [[1e300, 0, 0]]}, "does not fit"),
        ({"x": [[True, False, True]]}, "wants FP32"),
        ({"x": [[1, 2], [3]]}, "inhomogeneous"),
    ],
)
def test_inputs_that_cannot_be_sent_are_value_errors_here(tmp_path: Path, inputs: Any, told: str) -> None:
    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(ValueError, match=told):
                await client.infer("m", inputs)

    with_url(tmp_path, body)


def test_a_promoted_version_of_other_types_is_asked_for_anew_after_one_refusal(tmp_path: Path) -> None:
    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url) as client:
            await client.infer("m", {"x": [[1, 2, 3]]})
            wide = aspire(models.linear(tmp_path / "w.onnx", features=4))
            await bench.route("m", RouteEntry(champion=2, aspired={2: wide}))
            with pytest.raises(TensorMismatch):
                await client.infer("m", {"x": [[1, 2, 3]]})
            assert (await client.infer("m", {"x": [[1, 2, 3, 4]]})).version == "2"

    with_url(tmp_path, body)


# ---- trying again: a made-up server that counts


class Replies:
    """A transport that gives these replies in turn, then the last one again; an error is raised."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self.replies = list(replies)
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)


def refused(status: int, after: str | None = "0", code: str = "overloaded") -> httpx.Response:
    headers = {"x-request-id": "r"} | ({} if after is None else {"retry-after": after})
    return httpx.Response(status, headers=headers, json={"error": "no", "code": code, "details": {"a": 1}})


METADATA = httpx.Response(
    200,
    json={
        "name": "m",
        "versions": ["1"],
        "platform": "onnx_onnxv1",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    },
)
QUICK = Retry(base_s=0.001, jitter=lambda: 1.0)


def client_of(replies: Replies, retry: Retry = QUICK, **options: Any) -> Client:
    return Client("http://h", retry=retry, transport=httpx.MockTransport(replies), **options)


@pytest.mark.parametrize(
    "first", [refused(429, code="over_quota"), refused(503), refused(503, None), httpx.ConnectError("refused")]
)
def test_what_was_not_answered_is_tried_again_and_then_answered(first: Any) -> None:
    replies = Replies(first, first, METADATA)
    with client_of(replies) as client:
        assert client.metadata("m").name == "m"
    assert len(replies.seen) == 3

    async def main() -> None:
        again = Replies(first, METADATA)
        async with AsyncClient("http://h", retry=QUICK, transport=httpx.MockTransport(again)) as client:
            assert (await client.metadata("m")).name == "m"
        assert len(again.seen) == 2

    asyncio.run(main())


@pytest.mark.parametrize(
    ("reply", "kind", "tries"),
    [
        (refused(503), ServerUnavailable, 4),
        (refused(503, "60"), ServerUnavailable, 1),  # longer than a client is willing to wait
        (refused(503, "never"), ServerUnavailable, 4),
        (refused(400, code="malformed_request"), DriftgateError, 1),
        (refused(500, code="inference_failed"), ServerFailed, 1),
        (refused(504, code="deadline_exceeded"), DeadlineExceeded, 1),
        (httpx.Response(502, text="<html>bad gateway"), ServerFailed, 1),
        (httpx.Response(200, text="[]"), ServerFailed, 1),
        (httpx.Response(200, text="{}"), ServerFailed, 1),
        (httpx.ConnectError("refused"), ConnectionFailed, 4),
        (httpx.ReadError("gone"), ConnectionFailed, 1),  # it may have been answered
        (httpx.ReadTimeout("slow"), ConnectionFailed, 1),
        (httpx.DecodingError("bad gzip"), ConnectionFailed, 1),
    ],
)
def test_only_what_cannot_have_been_answered_is_tried_again(
    reply: httpx.Response | Exception, kind: type[DriftgateError], tries: int
) -> None:
    replies = Replies(reply)
    with client_of(replies) as client, pytest.raises(kind) as raised:
        client.metadata("m")
    assert len(replies.seen) == tries
    if isinstance(reply, httpx.Response) and reply.status_code in (400, 503):
        assert (raised.value.status, raised.value.details, raised.value.request_id) == (
            reply.status_code,
            {"a": 1},
            "r",
        )


def test_a_deadline_holds_for_all_tries_and_is_told_to_the_server() -> None:
    replies = Replies(refused(503, "1"))
    with client_of(replies) as client, pytest.raises(ServerUnavailable):
        client.infer("m", pd.DataFrame({"x": [1.0]}), deadline_s=0.5)
    assert len(replies.seen) == 1  # a second one would start after the deadline
    assert 400 < int(replies.seen[0].headers["x-deadline-ms"]) <= 500
    with client_of(Replies(httpx.ReadTimeout("slow"))) as client, pytest.raises(DeadlineExceeded):
        client.infer("m", pd.DataFrame({"x": [1.0]}), deadline_s=5)


@pytest.mark.parametrize("deadline_s", [1e9, float("inf")])
def test_a_deadline_longer_than_the_server_takes_is_told_as_its_longest(deadline_s: float) -> None:
    replies = Replies(refused(400))
    with client_of(replies) as client, pytest.raises(DriftgateError):
        client.infer("m", pd.DataFrame({"x": [1.0]}), deadline_s=deadline_s)
    assert replies.seen[0].headers["x-deadline-ms"] == "86400000"


def test_a_redirect_is_no_answer() -> None:
    moved = httpx.Response(302, headers={"location": "http://login"})
    with client_of(Replies(moved)) as client:
        assert not client.is_ready()
        with pytest.raises(DriftgateError) as raised:
            client.infer("m", pd.DataFrame({"x": [1.0]}))
    assert raised.value.status == 302


@pytest.mark.parametrize("names", [["x", "x"], [1, "1"]])
def test_a_frame_with_two_columns_of_one_name_is_not_sent(names: list[Any]) -> None:
    with client_of(Replies()) as client, pytest.raises(ValueError, match="two columns of one name"):
        client.infer("m", pd.DataFrame([[1.0, 2.0]], columns=names))


def test_what_is_sent_says_its_form_and_asks_for_no_compression() -> None:
    replies = Replies(METADATA, refused(400))
    for form, kind in (("json", "json"), ("msgpack", "msgpack"), ("arrow", "vnd.apache.arrow.stream")):
        replies.replies = [METADATA, refused(400)]
        with client_of(replies, format=form) as client, pytest.raises(DriftgateError):
            client.infer("m", [1.0], request_id="a", routing_key="k")
        headers = replies.seen[-1].headers
        assert (headers["content-type"], headers["accept"]) == (f"application/{kind}", f"application/{kind}")
        assert (headers["x-request-id"], headers["x-routing-key"]) == ("a", "k")
        assert headers["accept-encoding"] == "identity"


def test_labels_go_to_the_control_port_in_portions_each_with_a_key_of_its_own() -> None:
    import json

    replies = Replies(refused(503), httpx.Response(200, json={"joined": 2, "waiting": 1}))
    with client_of(replies, control_url="http://c/", token="t") as client:
        told = client.feedback("a b", {f"r-{i}": np.float64(i) for i in range(10_001)})
    assert told == {"joined": 4, "waiting": 2}
    assert [len(json.loads(request.content)["labels"]) for request in replies.seen] == [10_000, 10_000, 1]
    assert json.loads(replies.seen[-1].content) == {"labels": [{"request_id": "r-10000", "values": [10000.0]}]}
    keys = [request.headers["idempotency-key"] for request in replies.seen]
    assert keys[0] == keys[1] != keys[2]
    assert str(replies.seen[0].url) == "http://c/api/v1/models/a%20b/feedback"
    assert replies.seen[0].headers["authorization"] == "Bearer t"
    with client_of(replies) as client, pytest.raises(ValueError, match="control_url"):
        client.feedback("m", {"r": 1})


def test_labels_may_be_rows_or_the_control_port_s_own_objects() -> None:
    import json

    replies = Replies(httpx.Response(200, json={"joined": 1}))
    own = {"request_id": "q", "output": "y", "values": [None, 1]}
    with client_of(replies, control_url="http://c") as client:
        client.feedback("m", {"r": np.array([1, 0])})
        client.feedback("m", [own])
    sent = [json.loads(request.content)["labels"] for request in replies.seen]
    assert sent == [[{"request_id": "r", "values": [1, 0]}], [own]]


def test_an_overloaded_worker_is_waited_for(tmp_path: Path) -> None:
    none = Settings(gateway=GatewaySettings(limits=LimitSettings(waiting_requests=0)))

    async def body(bench: Bench, url: str) -> None:
        async with AsyncClient(url, retry=Retry(attempts=2, most_s=0.5)) as client:
            with pytest.raises(ServerUnavailable) as shed:
                await client.infer("m", ROWS)
        assert (shed.value.code, shed.value.retry_after_s) == ("overloaded", 1.0)

    with_url(tmp_path, body, none)


def test_nobody_there_is_told_as_such(free_port: Callable[[], int]) -> None:
    with Client(f"http://127.0.0.1:{free_port()}", retry=Retry(attempts=1)) as client:
        with pytest.raises(ConnectionFailed) as failed:
            client.infer("m", ROWS)
        assert (failed.value.status, failed.value.code) == (0, "not_connected")
        assert client.is_ready() is False


def test_the_client_loads_nothing_of_the_server_and_nothing_heavy(tmp_path: Path) -> None:
    for name in ("registry", "gateway", "monitor"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a foreign module was imported')\n")
    program = (
        "import sys\n"
        "from driftgate.client import AsyncClient, Client\n"
        "heavy = {'httpx', 'onnxruntime', 'scipy', 'pandas', 'pyarrow', 'msgpack', 'ml_dtypes'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "Client('http://127.0.0.1:1').close()\n"
        "assert not (heavy - {'httpx'}) & set(sys.modules)\n"
    )
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environ)
