"""tritonclient as it comes from PyPI, over HTTP and gRPC: every call that is offered here, and those that are not."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from tritonclient.utils import InferenceServerException

from tests.support.triton import JSON_KINDS, KINDS, ROWS, TEXTS, Served, check_echo


def plain(answer: Any) -> Any:
    """The same for both transports: gRPC answers in messages, HTTP in dicts."""
    if isinstance(answer, Message):
        return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return answer


class Way:
    """One of tritonclient's two synchronous clients, with what differs between them."""

    def __init__(self, name: str, served: Served) -> None:
        self.name = name
        self.module: ModuleType = getattr(tritonclient, name)
        self.client: Any = self.module.InferenceServerClient(getattr(served, name))

    def inputs(self, values: dict[str, tuple[str, Any]], **binary: bool) -> list[Any]:
        found = []
        for name, (datatype, array) in values.items():
            one = self.module.InferInput(name, list(array.shape), datatype)
            one.set_data_from_numpy(array, **binary)
            found.append(one)
        return found

    def x(self, rows: Any = ROWS, **binary: bool) -> list[Any]:
        return self.inputs({"x": ("FP32", rows)}, **binary)

    def index(self) -> list[dict[str, str]]:
        told = plain(self.client.get_model_repository_index())
        return list(told["models"] if isinstance(told, dict) else told)

    def statistics(self, model: str) -> dict[str, Any]:
        (one,) = plain(self.client.get_inference_statistics(model, "1"))["model_stats"]
        return dict(one)

    def config(self, model: str) -> dict[str, Any]:
        told = plain(self.client.get_model_config(model))
        return dict(told.get("config", told))


@pytest.fixture(params=["http", "grpc"])
def way(request: pytest.FixtureRequest, served: Served) -> Iterator[Way]:
    one = Way(request.param, served)
    yield one
    one.client.close()


def code(way: Way, http: int, grpc: str) -> str:
    return str(http) if way.name == "http" else f"StatusCode.{grpc}"


def test_health_and_metadata_are_told(way: Way) -> None:
    client = way.client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("linear")
    assert client.is_model_ready("linear", "1")
    server = plain(client.get_server_metadata())
    assert server["name"] == "driftgate"
    assert {"statistics", "model_repository", "model_configuration", "binary_tensor_data"} <= set(server["extensions"])
    model = plain(client.get_model_metadata("linear", "1"))
    assert model["versions"] == ["1"]
    assert [int(n) for n in model["inputs"][0].pop("shape")] == [-1, 3]
    assert model["inputs"] == [{"name": "x", "datatype": "FP32"}]


def test_the_configuration_speaks_of_rows_where_a_request_is_made_of_rows(way: Way) -> None:
    config = way.config("linear")
    assert (config["platform"], config["backend"], config["max_batch_size"]) == ("onnxruntime_onnx", "onnxruntime", 64)
    (tensor,) = config["input"]
    assert (tensor["name"], tensor["data_type"], [int(n) for n in tensor["dims"]]) == ("x", "TYPE_FP32", [3])
    fixed = way.config("fixed")
    assert fixed["max_batch_size"] == 0
    assert [int(n) for n in fixed["input"][0]["dims"]] == [2, 3]
    kinds = {tensor["name"]: tensor["data_type"] for tensor in way.config("echo")["input"]}
    told = ("TYPE_FP16", "TYPE_BF16", "TYPE_BOOL", "TYPE_INT64")
    assert kinds == dict(zip(KINDS, told, strict=True))
    assert way.config("texts")["output"][0]["data_type"] == "TYPE_STRING"


def test_statistics_count_rows_runs_and_requests(way: Way) -> None:
    before = way.statistics("fixed")
    for _ in range(3):
        way.client.infer("fixed", way.x())
    with pytest.raises(InferenceServerException, match="not finite"):
        way.client.infer("fixed", way.x(np.full((2, 3), np.inf, np.float32)))
    with pytest.raises(InferenceServerException, match="model wants"):  # never taken in: no statistic of the version
        way.client.infer("fixed", way.x(ROWS[:1]))
    after = way.statistics("fixed")

    def more(*path: str) -> int:
        was, now = before, after
        for name in path:
            was, now = was[name], now[name]
        return int(now) - int(was)  # type: ignore[call-overload, no-any-return]

    # `fixed` takes two rows always, so a request is one inference.
    assert more("inference_count") == more("execution_count") == 3
    assert more("inference_stats", "success", "count") == 3
    assert more("inference_stats", "fail", "count") == 1
    stages = ("queue", "compute_input", "compute_infer", "compute_output")
    assert all(more("inference_stats", stage, "count") == 3 for stage in stages)
    assert more("inference_stats", "success", "ns") == sum(more("inference_stats", stage, "ns") for stage in stages)
    assert more("inference_stats", "compute_infer", "ns") > 0


def test_every_kind_of_tensor_comes_back_as_it_was_sent(way: Way) -> None:
    check_echo(way.client.infer("echo", way.inputs(KINDS)), KINDS)
    check_echo(way.client.infer("texts", way.inputs(TEXTS)), TEXTS)


@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_answers_equal_those_of_onnxruntime_alone(way: Way, compression: str | None, served: Served) -> None:
    many = np.tile(ROWS, (2000, 1))  # large enough that the answer is worth compressing
    ways = {"request_compression_algorithm": compression, "response_compression_algorithm": compression}
    options = ways if way.name == "http" else {"compression_algorithm": compression}
    result = way.client.infer("linear", way.x(many), request_id="7", **options)
    assert result.as_numpy("y").tobytes() == served.want("linear", many).tobytes()
    response = result.get_response()
    assert (response["id"] if way.name == "http" else response.id) == "7"


@pytest.mark.parametrize("sent_binary", [True, False])
@pytest.mark.parametrize("wanted_binary", [True, False])
def test_json_and_raw_buffers_may_be_mixed(served: Served, sent_binary: bool, wanted_binary: bool) -> None:
    way = Way("http", served)
    wanted = [way.module.InferRequestedOutput("y", binary_data=wanted_binary)]
    result = way.client.infer("linear", way.x(binary_data=sent_binary), outputs=wanted)
    assert result.as_numpy("y").tobytes() == served.want("linear", ROWS).tobytes()
    outputs = [way.module.InferRequestedOutput(f"{name}_out", binary_data=wanted_binary) for name in JSON_KINDS]
    raw = {name: kind for name, kind in KINDS.items() if name not in JSON_KINDS}
    inputs = [*way.inputs(JSON_KINDS, binary_data=sent_binary), *way.inputs(raw)]
    echoed = way.client.infer("echo", inputs, outputs=outputs)
    for name, (_, sent) in JSON_KINDS.items():
        assert echoed.as_numpy(f"{name}_out").tolist() == sent.tolist()
    assert echoed.as_numpy("half_out") is None, "not asked for"
    way.client.close()


def test_requests_that_wait_for_later_are_answered(way: Way, served: Served) -> None:
    want = served.want("linear", ROWS).tobytes()
    if way.name == "http":
        pending = [way.client.async_infer("linear", way.x()) for _ in range(8)]
        assert all(one.get_result().as_numpy("y").tobytes() == want for one in pending)
        return
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for _ in range(8):
        way.client.async_infer("linear", way.x(), lambda result, error: done.put((result, error)))
    for _ in range(8):
        result, error = done.get(timeout=20)
        assert error is None
        assert result.as_numpy("y").tobytes() == want


def test_a_stream_answers_in_order_and_goes_on_after_an_error(served: Served) -> None:
    way = Way("grpc", served)
    done: queue.Queue[tuple[Any, Any]] = queue.Queue()
    way.client.start_stream(lambda result, error: done.put((result, error)))
    for number, rows in enumerate((ROWS, ROWS[:1], np.zeros((1, 4), np.float32), ROWS)):
        way.client.async_stream_infer("linear", way.x(rows), request_id=str(number))
    answers = [done.get(timeout=20) for _ in range(4)]
    way.client.stop_stream()
    way.client.close()
    assert [None if result is None else result.get_response().id for result, _ in answers] == ["0", "1", None, "3"]
    assert "model wants (?, 3)" in str(answers[2][1])
    assert answers[3][0].as_numpy("y").tobytes() == served.want("linear", ROWS).tobytes()


def test_a_model_is_unloaded_and_loaded_again(way: Way, served: Served) -> None:
    client = way.client
    assert {"name": "spare", "version": "1", "state": "READY", "reason": ""} in way.index()
    client.unload_model("spare", unload_dependents=True)
    try:
        assert not client.is_model_ready("spare")
        assert {"name": "spare", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"} in way.index()
        with pytest.raises(InferenceServerException) as refused:
            client.infer("spare", way.x())
        assert refused.value.status() == code(way, 503, "UNAVAILABLE")
        with pytest.raises(InferenceServerException) as named:
            client.infer("spare", way.x(), model_version="1")
        assert named.value.status() == code(way, 404, "NOT_FOUND")
        client.unload_model("spare")  # again: nothing to do
        assert client.is_server_ready()
        assert client.is_model_ready("linear")
    finally:
        client.load_model("spare")
    client.load_model("spare")
    for _ in range(8):  # whichever worker answers
        assert client.infer("spare", way.x()).as_numpy("y").tobytes() == served.want("spare", ROWS).tobytes()


def test_loads_that_bring_their_own_files_or_name_nothing_are_refused(way: Way) -> None:
    for parameters in ({"config": "{}"}, {"config": "{}", "files": {"file:1/model.onnx": b"x"}}):
        with pytest.raises(InferenceServerException, match="come from its registration") as refused:
            way.client.load_model("spare", **parameters)
        assert refused.value.status() == code(way, 400, "INVALID_ARGUMENT")
    for call in (way.client.load_model, way.client.unload_model):
        with pytest.raises(InferenceServerException, match="no model 'missing'") as unknown:
            call("missing")
        assert unknown.value.status() == code(way, 404, "NOT_FOUND")


def test_what_is_not_offered_says_so(way: Way) -> None:
    client = way.client
    calls: list[Callable[[], Any]] = [
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        lambda: client.register_system_shared_memory("a", "/a", 8),
        lambda: client.register_cuda_shared_memory("a", b"aGFuZGxl", 0, 8),
        client.unregister_system_shared_memory,
        client.unregister_cuda_shared_memory,
        client.get_trace_settings,
        lambda: client.update_trace_settings("linear", {"trace_level": ["OFF"]}),
        client.get_log_settings,
        lambda: client.update_log_settings({"log_info": True}),
    ]
    for call in calls:
        with pytest.raises(InferenceServerException, match="not offer") as refused:
            call()
        assert refused.value.status() == code(way, 501, "UNIMPLEMENTED")


def test_wrong_requests_are_told_as_such(way: Way) -> None:
    wrong: list[tuple[Callable[[], Any], int, str]] = [
        (lambda: way.client.infer("missing", way.x()), 404, "NOT_FOUND"),
        (lambda: way.client.infer("linear", way.x(), model_version="9"), 404, "NOT_FOUND"),
        (lambda: way.client.infer("linear", way.x(np.zeros((1, 4), np.float32))), 400, "INVALID_ARGUMENT"),
        (lambda: way.client.get_model_config("missing"), 404, "NOT_FOUND"),
        (lambda: way.client.get_inference_statistics("missing"), 404, "NOT_FOUND"),
        (lambda: way.client.get_model_metadata("linear", "9"), 404, "NOT_FOUND"),
    ]
    for call, http, grpc in wrong:
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == code(way, http, grpc)
