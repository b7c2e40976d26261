"""The service over a real socket: the same answers, errors, routing and bookkeeping as REST."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from gateway.data.grpc import messages, service
from gateway.data.page_reader import read_page
from gateway.data.routes import RouteEntry
from gateway.settings import BreakerSettings, GatewaySettings, LimitSettings, Settings
from registry import onnx
from registry.errors import DeadlineExceeded
from registry.options import ServingOptions
from tests.support import models
from tests.support.grpc_front import SERVICE, Caller, array_of, request_of, with_front
from tests.support.serving import Bench, aspire

ROW = [[1.0, 2.0, 3.0]]
SMALL = Settings(gateway=GatewaySettings(limits=LimitSettings(body_bytes=1 << 20)))


def one(tmp_path: Path) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "1.onnx"))})


def codes_of(bench: Bench, model: str = "m") -> Counter[str]:
    """How the worker page has booked gRPC requests: HTTP's word for each outcome."""
    page = read_page(bench.worker.page.path)
    assert page is not None
    found: Counter[str] = Counter()
    for (name, _, _), total in page.totals.items():
        if name == model:
            found.update({code: n for (protocol, code), n in total.codes.items() if protocol == "grpc"})
    return found


async def failure_of(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def trailing(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    return dict(error.trailing_metadata() or ())


def hold_up(bench: Bench, monkeypatch: pytest.MonkeyPatch, model: str = "m") -> list[Any]:
    """Nothing that is submitted to this model runs, until the test says so: what waits is in the list."""
    waiting: list[Any] = []
    batcher = bench.worker.fleet._loaded[model][1].batcher
    monkeypatch.setattr(batcher, "submit", lambda pending, *, alone=False: waiting.append(pending))
    return waiting


async def until(is_true: Any) -> None:
    for _ in range(1000):
        if is_true():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not happen within 5 s")


def test_answers_are_bitwise_those_of_rest_and_of_onnxruntime(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(50, 1, 3)).astype(np.float32)

    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        session = onnx.open_session(tmp_path / "1.onnx")
        over_grpc = await asyncio.gather(*(caller.infer(request_of("m", row)) for row in rows))
        for row, answer in zip(rows, over_grpc, strict=True):
            alone = onnx.run(session, {"x": row})[0]
            assert array_of(answer).tobytes() == alone.tobytes()
            over_rest = (await bench.infer("m", row)).json["outputs"][0]
            assert np.array(over_rest["data"], np.float32).tobytes() == alone.tobytes()
        assert codes_of(bench) == {"200": 50}

    with_front(tmp_path / "run", body)


def test_answers_tell_who_gave_them_and_echo_the_id(tmp_path: Path) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        call = caller.infer(request_of("m", ROW, id="7"), metadata=(("x-request-id", "mine"),))
        answer = await call
        assert (answer.model_name, answer.model_version, answer.id) == ("m", "1", "7")
        told = dict(await call.trailing_metadata())
        assert told == {"x-request-id": "mine", "x-driftgate-version": "1", "x-driftgate-role": "champion"}
        named = caller.infer(request_of("m", ROW, model_version="1"))
        assert (await named).id == ""
        told = dict(await named.trailing_metadata())
        assert told["x-driftgate-role"] == "direct"
        assert len(told["x-request-id"]) == 36

    with_front(tmp_path / "run", body)


def test_a_constant_and_an_open_breaker_are_told_as_over_rest(tmp_path: Path) -> None:
    options = ServingOptions(fallback=("constant",), fallback_constant=(("y", (-1.0, -1.0, -1.0)),))
    settings = Settings(gateway=GatewaySettings(breaker=BreakerSettings(failures=2)))

    async def body(bench: Bench, caller: Caller) -> None:
        path = models.looked_up(tmp_path / "m.onnx")
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(path, options=options)}))
        call = caller.infer(request_of("m", [[1.0, 2.0, 99.0]]))
        assert array_of(await call).tolist() == [[-1.0, -1.0, -1.0]]
        told = dict(await call.trailing_metadata())
        assert (told["x-driftgate-role"], told["x-driftgate-fallback"]) == ("fallback", "constant")
        breaker = bench.worker.fleet._loaded["m"][1].breaker
        assert breaker is not None
        breaker.open(bench.worker.beat._clock.now_s())
        error = await failure_of(caller.infer(request_of("m", ROW, model_version="1")))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert trailing(error)["driftgate-code"] == "breaker_open"
        assert (await caller.ask("ModelReady", name="m")).ready  # the constant answers
        assert not (await caller.ask("ModelReady", name="m", version="1")).ready

    with_front(tmp_path / "run", body, settings)


def test_a_routing_key_meets_the_version_that_it_meets_over_rest(tmp_path: Path) -> None:
    aspired = {i: aspire(models.linear(tmp_path / f"{i}.onnx", seed=i)) for i in (1, 2)}
    entry = RouteEntry(
        champion=1, candidate=2, aspired=aspired, weight=0.5, salt="ab" * 16, rollout_id="r", key="header:x-user"
    )

    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", entry)
        roles = set()
        for user in map(str, range(20)):
            rest = await bench.infer("m", ROW, headers={"x-user": user})
            call = caller.infer(request_of("m", ROW), metadata=(("x-user", user),))
            await call
            told = dict(await call.trailing_metadata())
            assert told["x-driftgate-role"] == rest.headers["x-driftgate-role"]
            roles.add(told["x-driftgate-role"])
        assert roles == {"champion", "canary"}

    with_front(tmp_path / "run", body)


@pytest.mark.parametrize(
    ("message", "status", "code", "booked"),
    [
        (request_of("nope", ROW), "NOT_FOUND", "model_not_found", None),
        (request_of("m", ROW, model_version="9"), "NOT_FOUND", "version_not_found", "404"),
        (request_of("m", [[1.0]]), "INVALID_ARGUMENT", "tensor_mismatch", "400"),
        (b"\xff\xff", "INVALID_ARGUMENT", "malformed_request", None),
        (request_of("m", ROW, parameters={"sequence_id": {"int64_param": 4}}), "UNIMPLEMENTED", "unimplemented", "501"),
    ],
)
def test_errors_carry_grpcs_status_and_the_stable_code(
    tmp_path: Path, message: Any, status: str, code: str, booked: str | None
) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        error = await failure_of(caller.infer(message, metadata=(("x-request-id", "mine"),)))
        assert error.code().name == status
        assert error.details()
        told = trailing(error)
        assert (told["driftgate-code"], told["x-request-id"]) == (code, "mine")
        assert codes_of(bench) == ({} if booked is None else {booked: 1})

    with_front(tmp_path / "run", body)


def test_too_many_waiting_requests_are_refused_with_a_time_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(gateway=GatewaySettings(limits=LimitSettings(waiting_requests=1)))

    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        waiting = hold_up(bench, monkeypatch)
        first = caller.infer(request_of("m", ROW))
        await until(lambda: waiting)
        error = await failure_of(caller.infer(request_of("m", ROW)))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert trailing(error)["driftgate-code"] == "overloaded"
        assert int(trailing(error)["grpc-retry-pushback-ms"]) >= 1000
        first.cancel()

    with_front(tmp_path / "run", body, settings)


def test_long_messages_of_all_callers_are_bounded_together_until_they_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        waiting, bodies = hold_up(bench, monkeypatch), bench.worker.predict.bodies
        long = request_of("m", np.zeros((10_000, 3)))
        size = len(long.SerializeToString())
        bodies.most_bytes = size + 1000
        first = caller.infer(long)
        await until(lambda: waiting)
        assert bodies.now_bytes == size
        error = await failure_of(caller.infer(long))
        assert (error.code(), trailing(error)["driftgate-code"]) == (grpc.StatusCode.UNAVAILABLE, "overloaded")
        first.cancel()
        await until(lambda: bodies.now_bytes == 0)

    with_front(tmp_path / "run", body)


@pytest.mark.parametrize("given", [{"timeout": 0.1}, {"metadata": (("x-deadline-ms", "30"),)}])
def test_a_deadline_that_passes_is_told_and_booked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        waiting = hold_up(bench, monkeypatch)
        error = await failure_of(caller.infer(request_of("m", ROW), **given))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: codes_of(bench) == {"504": 1})
        assert isinstance(waiting[0].future.exception(), DeadlineExceeded)  # our own timer was first
        assert bench.worker.predict.inflight == 0

    with_front(tmp_path / "run", body)


def test_a_cancelled_call_is_skipped_and_its_batch_mates_are_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        with monkeypatch.context() as patch:
            waiting = hold_up(bench, patch)
            calls = [caller.infer(request_of("m", ROW)) for _ in range(3)]
            await until(lambda: len(waiting) == 3)
        calls[1].cancel()
        await until(lambda: any(pending.future.cancelled() for pending in waiting))
        for pending in waiting:
            bench.worker.fleet._loaded["m"][1].batcher.submit(pending)
        await asyncio.gather(calls[0], calls[2])
        assert codes_of(bench) == {"200": 2, "499": 1}
        assert bench.worker.predict.inflight == 0

    with_front(tmp_path / "run", body)


def test_a_bug_is_internal_and_booked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))

        def broken(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(bench.worker.fleet._loaded["m"][1].batcher, "submit", broken)
        error = await failure_of(caller.infer(request_of("m", ROW)))
        assert (error.code(), trailing(error)["driftgate-code"]) == (grpc.StatusCode.INTERNAL, "internal_error")
        assert codes_of(bench) == {"500": 1}

    with_front(tmp_path / "run", body)


def test_messages_over_the_limit_are_refused_also_when_they_are_small_on_the_wire(tmp_path: Path) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        row = request_of("m", ROW).SerializeToString()
        answer = await caller.infer(row, compression=grpc.Compression.Gzip)
        assert array_of(answer).shape == (1, 2)
        large = request_of("m", np.zeros((200_000, 3))).SerializeToString()  # 2.4 MB, and good but for its size
        for compression in (grpc.Compression.NoCompression, grpc.Compression.Gzip):
            error = await failure_of(caller.infer(large, compression=compression))
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert codes_of(bench) == {"200": 1}

    with_front(tmp_path / "run", body, SMALL)


def test_a_stream_answers_in_order_and_goes_on_after_an_error(tmp_path: Path) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        call = caller.stream(metadata=(("x-request-id", "s"),))
        sent = [request_of("nope" if n == 3 else "m", [[n, 0, 0]], id=str(n)).SerializeToString() for n in range(60)]
        sent[5] = b"\xff"

        async def write() -> None:
            for message in sent:
                await call.write(message)
            await call.done_writing()

        writing = asyncio.create_task(write())
        got = [response async for response in call]
        await writing
        assert [r.infer_response.id for r in got] == [str(n) if n != 5 else "" for n in range(60)]
        for n, response in enumerate(got):
            parameters = response.infer_response.parameters
            assert parameters["triton_final_response"].bool_param
            assert parameters["x-request-id"].string_param == f"s.{n}"
            assert bool(response.error_message) is (n in (3, 5))
        assert got[3].infer_response.parameters["driftgate-code"].string_param == "model_not_found"
        assert got[7].infer_response.parameters["x-driftgate-version"].string_param == "1"
        first, second = (array_of(got[n].infer_response) for n in (0, 1))
        assert (first != second).all()
        assert (await call.code()) is grpc.StatusCode.OK
        assert codes_of(bench) == {"200": 58}

    with_front(tmp_path / "run", body)


def test_a_streams_answers_wait_for_those_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        call = caller.stream()
        with monkeypatch.context() as patch:
            waiting = hold_up(bench, patch)
            await call.write(request_of("m", ROW, id="first").SerializeToString())
            await until(lambda: waiting)
        for _ in range(3):
            await call.write(request_of("m", ROW, id="later").SerializeToString())
        await until(lambda: codes_of(bench) == {"200": 3})
        bench.worker.fleet._loaded["m"][1].batcher.submit(waiting[0])
        ids = [(await call.read()).infer_response.id for _ in range(4)]
        assert ids == ["first", "later", "later", "later"]
        await call.done_writing()

    with_front(tmp_path / "run", body)


def test_a_stream_holds_few_requests_inside_and_lets_them_go_when_it_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        waiting = hold_up(bench, monkeypatch)
        call = caller.stream()
        for _ in range(3 * service.STREAM_AHEAD):
            await call.write(request_of("m", ROW).SerializeToString())
        await until(lambda: len(waiting) == service.STREAM_AHEAD)
        await asyncio.sleep(0.05)
        assert len(waiting) == service.STREAM_AHEAD
        call.cancel()
        await until(lambda: codes_of(bench) == {"499": service.STREAM_AHEAD})
        assert bench.worker.predict.inflight == 0

    with_front(tmp_path / "run", body)


def test_stop_answers_what_is_inside_and_ends_streams_and_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        stream = caller.stream()
        await stream.write(request_of("m", ROW).SerializeToString())
        await stream.read()
        watch = caller.channel.unary_stream(f"/{messages.HEALTH}/Watch")(b"")
        assert await watch.read() == b"\x08\x01"  # SERVING
        with monkeypatch.context() as patch:
            waiting = hold_up(bench, patch)
            call = caller.infer(request_of("m", ROW))
            await until(lambda: waiting)
        bench.worker.beat.drain()
        assert await watch.read() == b"\x08\x02"  # NOT_SERVING
        stopping = asyncio.create_task(caller.front.stop(5.0))
        error = await failure_of(stream.read())
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert trailing(error)["driftgate-code"] == "draining"
        assert await watch.read() is grpc.aio.EOF
        assert not stopping.done()
        bench.worker.fleet._loaded["m"][1].batcher.submit(waiting[0])
        assert array_of(await call).shape == (1, 2)
        await stopping

    with_front(tmp_path / "run", body)


def test_questions_are_answered_as_over_rest(tmp_path: Path) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        assert (await caller.ask("ServerLive")).live
        assert (await caller.ask("ServerReady")).ready
        assert (await caller.ask("ModelReady", name="m")).ready
        server = (await bench.ask("/v2", method="GET")).json
        over_grpc = await caller.ask("ServerMetadata")
        assert (over_grpc.name, list(over_grpc.extensions)) == (server["name"], server["extensions"])
        tensor = (await caller.ask("ModelMetadata", name="m")).inputs[0]
        assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", "FP32", [-1, 3])
        config = (await caller.ask("ModelConfig", name="m")).config
        assert config.input[0].dims == [3]
        assert config.max_batch_size == (await bench.ask("/v2/models/m/config", method="GET")).json["max_batch_size"]
        await caller.infer(request_of("m", ROW))
        statistics = (await caller.ask("ModelStatistics", name="m")).model_stats[0]
        assert statistics.inference_stats.success.count == 1
        assert [model.name for model in (await caller.ask("RepositoryIndex")).models] == ["m"]
        for method in ("ModelReady", "ModelConfig"):
            assert (await failure_of(caller.ask(method, name="x"))).code() is grpc.StatusCode.NOT_FOUND
        refused = await failure_of(caller.ask("RepositoryModelUnload", model_name="m"))
        assert refused.code() is grpc.StatusCode.PERMISSION_DENIED

    with_front(tmp_path / "run", body)


def test_every_method_answers_garbage_with_an_error_of_the_callers(tmp_path: Path) -> None:
    offered = {"ServerLive", "ServerReady", "ServerMetadata"}  # whose requests have no fields

    async def body(bench: Bench, caller: Caller) -> None:
        await bench.route("m", one(tmp_path))
        for method in messages.methods(SERVICE):
            if method != "ModelStreamInfer":
                error = await failure_of(caller.ask(method, body=b"\x0f\xff"))
                assert error.code().name in ("INVALID_ARGUMENT", "UNIMPLEMENTED"), method
        for method in offered:
            await caller.ask(method, body=b"")
        not_offered = [name for name in messages.methods(SERVICE) if "SharedMemory" in name or "Setting" in name]
        assert len(not_offered) == 8
        for method in not_offered:
            error = await failure_of(caller.ask(method))
            assert (error.code(), trailing(error)["driftgate-code"]) == (grpc.StatusCode.UNIMPLEMENTED, "unimplemented")

    with_front(tmp_path / "run", body)


def test_health_knows_the_server_and_its_services(tmp_path: Path) -> None:
    async def body(bench: Bench, caller: Caller) -> None:
        check = messages.HEALTH
        assert (await caller.ask("Check", check)).status == 2  # no route table has been read
        await bench.route("m", one(tmp_path))
        for name in ("", SERVICE, *messages.REFLECTIONS):
            assert (await caller.ask("Check", check, service=name)).status == 1
        error = await failure_of(caller.ask("Check", check, service="nobody"))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        unknown = caller.channel.unary_stream(f"/{check}/Watch")(b"\x0a\x01x")
        assert await unknown.read() == b"\x08\x03"  # SERVICE_UNKNOWN, and it stays open
        unknown.cancel()

    with_front(tmp_path / "run", body)


def test_reflection_tells_every_message_to_grpcs_own_client(tmp_path: Path) -> None:
    database = pytest.importorskip("grpc_reflection.v1alpha.proto_reflection_descriptor_database")
    from google.protobuf.descriptor_pool import DescriptorPool

    def look(port: int) -> tuple[list[str], int]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            found = database.ProtoReflectionDescriptorDatabase(channel)
            pool = DescriptorPool(found)
            response = pool.FindMessageTypeByName("inference.ModelInferResponse")
            pool.FindServiceByName(SERVICE)
            return sorted(found.get_services()), response.fields_by_name["raw_output_contents"].number

    async def body(bench: Bench, caller: Caller) -> None:
        services, number = await asyncio.to_thread(look, caller.port)
        assert services == sorted([SERVICE, messages.HEALTH, *messages.REFLECTIONS])
        assert number == 6
        name = messages.REFLECTIONS[0]
        request, response = messages.methods(name)["ServerReflectionInfo"]
        call = caller.channel.stream_stream(
            f"/{name}/ServerReflectionInfo", response_deserializer=response.FromString
        )()
        for asked in ({"file_by_filename": "grpc_service.proto"}, {"file_containing_symbol": "no.Such"}):
            await call.write(request(**asked).SerializeToString())
        files = (await call.read()).file_descriptor_response.file_descriptor_proto
        assert len(files) == 2  # with the file that it imports
        assert (await call.read()).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        await call.done_writing()

    with_front(tmp_path / "run", body)
