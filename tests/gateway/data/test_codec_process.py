"""Long JSON bodies, which a process of their own reads: the same answers and errors, and nobody else waits."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from gateway.data import codec_process
from gateway.data.accounts import code_word
from gateway.data.codec_process import CodecProcess
from gateway.data.codecs import mlflow, v1, v2
from gateway.data.codecs.call import Codec
from gateway.data.codecs.v2_calls import FullCall
from gateway.data.doors import Target
from gateway.data.exchange import Exchange
from gateway.data.predict import PENDING, Predict
from gateway.data.routes import RouteEntry
from gateway.data.servable import Servable, describe
from gateway.settings import LimitSettings
from registry.errors import Cancelled, Draining, MalformedRequest, Overloaded, ServingError
from registry.manifest import ServingOptions
from registry.rows import same_bits
from tests.support import models
from tests.support.registered import Given, register_all
from tests.support.server import Server
from tests.support.serving import Answer, Bench, aspire, with_worker

LIMITS = LimitSettings()
ROWS = np.random.default_rng(0).normal(size=(70_000, 3)).round(9)
LONG_V1 = json.dumps({"instances": ROWS.tolist()}).encode()
NEVER_ANSWERS = (sys.executable, "-c", "import time; time.sleep(100)")
ENDS = (sys.executable, "-c", "")
SLOW = (  # a second for each body
    sys.executable,
    "-P",
    "-c",
    "import sys, time; from gateway.data import codec_child as c; a = c.work_one\n"
    "c.work_one = lambda *given: (time.sleep(1.0), a(*given)); c.main(sys.argv[1:])",
)


def described(path: Path) -> Servable:
    return describe("m", 1, Path(aspire(models.linear(path)).manifest_path), 64)


def always() -> bool:
    return True


def children() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has ended
            if "gateway.data.codec_child" in child.cmdline():
                found.append(child)
    return found


def use(job: Callable[[CodecProcess], Awaitable[None]], **options: Any) -> None:
    """Run a job with a process, and see that no process is left."""

    async def main() -> None:
        process = CodecProcess(LIMITS, **options)
        try:
            await job(process)
        finally:
            process.close()

    asyncio.run(main())
    psutil.wait_procs(children(), timeout=10)
    assert not children()


DOCUMENTS: dict[str, tuple[Codec, Any]] = {
    "v2": (
        v2.CODEC,
        {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [[1, 2, 3], [4, 5, 6.5]]}]},
    ),
    "v2 with an id": (
        v2.CODEC,
        {"id": "seven", "inputs": [{"name": "x", "shape": [0, 3], "datatype": "FP32", "data": []}]},
    ),
    "v1 rows": (v1.CODEC, {"instances": [[1, 2, 3], [4, 5, 6.5]]}),
    "v1 columns": (v1.CODEC, {"inputs": [[1, 2, 3], [4, 5, 6.5]]}),
    "mlflow split": (mlflow.MLFLOW.json, {"dataframe_split": {"columns": ["a", "b", "c"], "data": [[1, 2, 3]]}}),
    "mlflow records": (mlflow.MLFLOW.json, {"dataframe_records": [{"a": 1, "b": 2, "c": 3}]}),
    "sagemaker": (mlflow.SAGEMAKER.json, [[1, 2, 3]]),
    "azure": (mlflow.AZURE.json, {"input_data": {"columns": ["a", "b", "c"], "data": [[1, 2, 3]]}}),
}
WRONG: dict[str, tuple[Codec, bytes]] = {
    "no JSON": (v1.CODEC, b'{"instances": ['),
    "another width": (v1.CODEC, b'{"instances": [[1, 2]]}'),
    "text": (v2.CODEC, b'{"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, "3"]}]}'),
    "no form": (mlflow.MLFLOW.json, b'{"rows": []}'),
    "too deep": (v1.CODEC, b"[" * 200 + b"]" * 200),
}


def test_what_the_process_reads_is_what_the_codec_reads(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")

    async def job(process: CodecProcess) -> None:
        for name, (codec, document) in DOCUMENTS.items():
            body = json.dumps(document).encode()
            read = await process.read(codec, body, {b"accept": b"text/csv"}, servable, always)
            assert read.protocol == codec.protocol
            got, call = read.read(b"not looked at any more", {}, servable, LIMITS)
            want, expected = codec.read(body, {b"accept": b"text/csv"}, servable, LIMITS)
            assert len(got) == len(want)
            assert all(same_bits(*pair) for pair in zip(got, want, strict=True)), name
            assert type(call) is type(expected)
            slots = [slot for kind in type(call).__mro__ for slot in getattr(kind, "__slots__", ())]
            assert {slot: getattr(call, slot) for slot in slots} == {slot: getattr(expected, slot) for slot in slots}
        assert len(children()) == 1

    use(job)


def test_what_is_wrong_with_a_body_is_told_in_the_same_words(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")

    async def job(process: CodecProcess) -> None:
        for codec, body in WRONG.values():
            with pytest.raises(ServingError) as expected:
                codec.read(body, {}, servable, LIMITS)
            with pytest.raises(ServingError) as got:
                await process.read(codec, body, {}, servable, always)
            assert type(got.value) is type(expected.value)
            assert (got.value.message, got.value.details) == (expected.value.message, expected.value.details)

    use(job)


def test_texts_and_other_types_come_back_whole(tmp_path: Path) -> None:
    servable = describe("m", 1, Path(aspire(models.texts(tmp_path / "m.onnx")).manifest_path), 64)
    words = ["größe", "", "\u0000", "x" * 1000]
    rows = [{"age": 1.5, "visits": 2**60, "city": word, "comment": word} for word in words]
    body = json.dumps({"instances": rows}).encode()

    async def job(process: CodecProcess) -> None:
        read = await process.read(v1.CODEC, body, {}, servable, always)
        age, visits, city, comment = read.read(b"", {}, servable, LIMITS)[0]
        assert city.ravel().tolist() == comment.ravel().tolist() == words
        assert (age.dtype, visits.dtype) == (np.dtype(np.float32), np.dtype(np.int64))
        assert visits.ravel().tolist() == [2**60] * 4

    use(job)


def test_a_version_that_takes_something_else_reads_the_body_itself(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")
    alike, other = described(tmp_path / "alike.onnx"), described(tmp_path / "other.onnx")
    other.refuses_nonfinite = not other.refuses_nonfinite
    body = b'{"instances": [[1, 2, 3]]}'

    async def job(process: CodecProcess) -> None:
        read = await process.read(v1.CODEC, body, {}, servable, always)
        assert read.read(b"{", {}, alike, LIMITS)[0][0].tolist() == [[1, 2, 3]]
        with pytest.raises(MalformedRequest, match="not JSON"):
            read.read(b"{", {}, other, LIMITS)

    use(job)


def test_a_process_that_ends_costs_its_request_and_no_other(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")

    async def job(process: CodecProcess) -> None:
        await process.read(v1.CODEC, b'{"instances": [[1, 2, 3]]}', {}, servable, always)
        (child,) = children()
        child.send_signal(signal.SIGSTOP)
        asked = asyncio.ensure_future(process.read(v1.CODEC, LONG_V1, {}, servable, always))
        await asyncio.sleep(0.05)
        child.kill()
        with pytest.raises(Overloaded, match="has ended") as refused:
            await asked
        assert refused.value.retry_after_s == 1.0
        read = await process.read(v1.CODEC, LONG_V1, {}, servable, always)
        (feed,), _ = read.read(b"", {}, servable, LIMITS)
        assert same_bits(feed, ROWS.astype(np.float32))

    use(job)


def test_one_that_ends_at_once_is_a_refusal_and_one_that_is_not_there_is_done_without(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")
    body = b'{"instances": [[1, 2, 3]]}'

    async def refused(process: CodecProcess) -> None:
        for _ in range(2):
            with pytest.raises(Overloaded, match="has ended"):
                await process.read(v1.CODEC, LONG_V1, {}, servable, always)

    async def read_here(process: CodecProcess) -> None:
        assert await process.read(v1.CODEC, body, {}, servable, always) is v1.CODEC

    use(refused, command=ENDS)
    use(read_here, command=[str(tmp_path / "nothing")])


def test_what_could_not_be_taken_in_is_never_taken_for_the_next_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = described(tmp_path / "m.onnx")
    take = codec_process._take

    def no_memory(line: socket.socket, size: int) -> memoryview:
        if size > 100_000:
            raise MemoryError
        return take(line, size)

    async def job(process: CodecProcess) -> None:
        monkeypatch.setattr(codec_process, "_take", no_memory)
        with pytest.raises(Overloaded):
            await process.read(v1.CODEC, LONG_V1, {}, servable, always)
        monkeypatch.undo()
        read = await process.read(v1.CODEC, b'{"instances": [[1, 2, 3]]}', {}, servable, always)
        assert read.read(b"", {}, servable, LIMITS)[0][0].tolist() == [[1, 2, 3]]

    use(job)


def test_a_body_is_let_go_of_when_nobody_waits_for_it_though_others_are_before_it(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")

    async def job(process: CodecProcess) -> None:
        before = asyncio.ensure_future(process.read(v1.CODEC, LONG_V1, {}, servable, always))
        await asyncio.sleep(0.05)
        body = bytes(1 << 20)
        known = sys.getrefcount(body)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.read(v1.CODEC, body, {}, servable, always), 0.05)
        assert sys.getrefcount(body) == known
        process.close()
        await asyncio.gather(before, return_exceptions=True)

    use(job, command=NEVER_ANSWERS)


def test_nobody_waits_without_end(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")

    async def job(process: CodecProcess) -> None:
        asked = [asyncio.ensure_future(process.read(v1.CODEC, LONG_V1, {}, servable, always)) for _ in range(32)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="32 long bodies") as refused:
            await process.read(v1.CODEC, LONG_V1, {}, servable, always)
        assert refused.value.retry_after_s is not None
        process.close()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(end, Overloaded | Draining | asyncio.CancelledError) for end in ends)

    use(job, command=NEVER_ANSWERS)


def test_it_ends_when_nothing_has_come_for_a_while_and_comes_back(tmp_path: Path) -> None:
    servable = described(tmp_path / "m.onnx")
    body = b'{"instances": [[1, 2, 3]]}'

    async def job(process: CodecProcess) -> None:
        for _ in range(2):
            await process.read(v1.CODEC, body, {}, servable, always)
            (child,) = children()
            for _ in range(1000):
                if not child.is_running():
                    break
                await asyncio.sleep(0.01)
            assert not child.is_running()

    use(job, idle_s=0.05)


def test_it_does_not_outlive_its_worker() -> None:
    ours, its = socket.socketpair()
    with its:
        command = [sys.executable, "-P", "-m", "gateway.data.codec_child", str(its.fileno())]
        child = subprocess.Popen(command, pass_fds=[its.fileno()])
    ours.sendall(b"half of a head")
    ours.close()
    assert child.wait(20) == 0


class Line:
    """A connection on which one exchange came."""

    limits = LIMITS
    transport: Any = None  # nothing is written

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.tasks: set[asyncio.Task[None]] = set()
        self.freed = 0

    def free(self, exchange: Exchange) -> None:
        assert exchange.response_complete
        self.freed += 1


def worker_test(
    tmp_path: Path, visit: Callable[[Bench], Awaitable[None]], command: tuple[str, ...] | None = None
) -> None:
    async def main(bench: Bench) -> None:
        if command is not None:
            bench.worker.codec_process._process._command = command
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "m.onnx"))}))
        await visit(bench)
        assert bench.worker.predict.bodies.now_bytes == 0
        assert bench.worker.predict.inflight == 0

    with_worker(tmp_path / "run", main)


def test_a_long_request_is_answered_as_short_ones_are(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        long = await bench.ask("/v1/models/m:predict", LONG_V1)
        short = await bench.ask("/v1/models/m:predict", {"instances": ROWS[:50].tolist()})
        zipped = {"content-encoding": "gzip"}
        packed = await bench.ask("/v1/models/m:predict", gzip.compress(LONG_V1, 1), headers=zipped)
        assert [answer.status for answer in (long, short, packed)] == [200, 200, 200]
        assert len(long.json["predictions"]) == len(ROWS)
        assert long.json["predictions"][:50] == short.json["predictions"]
        assert packed.body == long.body
        assert len(children()) == 1
        wrong = await bench.ask("/v1/models/m:predict", LONG_V1.replace(b"[", b"[1, ", 2))
        assert (wrong.status, wrong.json["code"]) == (400, "tensor_mismatch")
        nobody = await bench.ask("/v1/models/other:predict", LONG_V1)
        assert nobody.status == 404

    worker_test(tmp_path, visit)


def test_others_are_answered_meanwhile_and_a_deadline_is_kept(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        slow = asyncio.ensure_future(bench.ask("/v1/models/m:predict", LONG_V1))
        late = asyncio.ensure_future(bench.ask("/v1/models/m:predict", LONG_V1, headers={"x-deadline-ms": "300"}))
        answered = 0
        while not late.done():
            assert (await bench.infer("m", [[1, 2, 3]])).status == 200
            answered += 1
            await asyncio.sleep(0.001)
        assert answered > 20
        assert (late.result().status, late.result().json["code"]) == (504, "deadline_exceeded")
        assert not slow.done()
        assert (await slow).status == 200

    worker_test(tmp_path, visit, SLOW)


def test_a_lost_process_is_a_503_that_says_when_to_come_back(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        answer = await bench.ask("/v1/models/m:predict", LONG_V1)
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"

    worker_test(tmp_path, visit, ENDS)


def test_packed_bodies_do_not_wait_for_long_ones_that_are_being_read(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        zipped = {"content-encoding": "gzip"}
        long, short = gzip.compress(LONG_V1, 1), gzip.compress(LONG_V1[:20_000].rsplit(b"]", 1)[0] + b"]]}", 1)
        assert len(short) >= 4096
        path = "/v1/models/m:predict"
        slow = [asyncio.ensure_future(bench.ask(path, long, headers=zipped)) for _ in range(3)]
        while bench.worker.codec_process._waiting < 3:  # two bodies are inflated at once, and wait no more
            assert not any(one.done() for one in slow)
            await asyncio.sleep(0.001)
        assert (await bench.ask(path, short, headers=zipped)).status == 200
        assert {answer.status for answer in await asyncio.gather(*slow)} == {200}

    worker_test(tmp_path, visit, SLOW)


def test_what_the_champion_would_refuse_is_still_for_a_canary_that_takes_it(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        short = b'{"instances":[[NaN,2,3]]}'
        long = LONG_V1[:-2] + b",[NaN,2,3]]}"
        one = bench.models["m"].aspired[1]
        other = aspire(models.linear(tmp_path / "n.onnx"), options=ServingOptions(nan="allow"))
        refused = await bench.ask("/v1/models/m:predict", long)
        assert (refused.status, refused.json["code"]) == (400, "malformed_request")
        entry = RouteEntry(champion=1, candidate=2, weight=1.0, salt="ab" * 16, aspired={1: one, 2: other})
        await bench.route("m", entry)
        for body in (short, long):
            answer = await bench.ask("/v1/models/m:predict", body)
            assert (answer.status, answer.headers["x-driftgate-version"]) == (200, "2")
        wrong = await bench.ask("/v1/models/m:predict", LONG_V1.replace(b"[", b"[1, ", 2))
        assert (wrong.status, wrong.json["code"]) == (400, "tensor_mismatch")
        named = await bench.ask("/v1/models/m/versions/1:predict", long)
        assert (named.status, named.json["code"]) == (400, "malformed_request")

    worker_test(tmp_path, visit)


MANY = ROWS[:20_000].astype(np.float32)  # which become 4 MB of outputs


def wide_test(
    tmp_path: Path, visit: Callable[[Bench], Awaitable[None]], command: tuple[str, ...] | None = None
) -> None:
    async def main(bench: Bench) -> None:
        if command is not None:
            bench.worker.codec_process._process._command = command
        tmp_path.mkdir(exist_ok=True)
        path = models.linear(tmp_path / "w.onnx", outputs=50)
        await bench.route("w", RouteEntry(champion=1, aspired={1: aspire(path)}))
        await visit(bench)
        servable = bench.worker.fleet._loaded["w"][1].servable
        for _ in range(500):
            if not servable.leases:
                break
            await asyncio.sleep(0.01)  # an answer that came too late is still being written
        assert servable.leases == 0
        assert bench.worker.predict.inflight == 0

    with_worker(tmp_path / "run", main)


def asked(rows: Any, *, binary: bool = False) -> tuple[bytes, dict[str, str]]:
    """A V2 request of raw rows, which are quick to read, and what it wants back."""
    about = {"name": "x", "datatype": "FP32", "shape": rows.shape, "parameters": {"binary_data_size": rows.nbytes}}
    text = json.dumps({"inputs": [about], "parameters": {"binary_data_output": binary}}).encode()
    return text + rows.tobytes(), {"inference-header-content-length": str(len(text))}


async def ask_wide(bench: Bench, rows: Any, headers: dict[str, str] | None = None, *, binary: bool = False) -> Answer:
    body, more = asked(rows, binary=binary)
    return await bench.ask("/v2/models/w/infer", body, headers={**more, **(headers or {})})


def test_long_answers_are_written_as_short_ones_are_and_booked(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        raw = await ask_wide(bench, MANY, binary=True)
        assert not children()  # raw answers need no writing
        start = int(raw.headers["inference-header-content-length"])
        want = np.frombuffer(raw.body, np.float32, offset=start).reshape(-1, 50)
        text, short = await ask_wide(bench, MANY), await ask_wide(bench, MANY[:2])
        assert len(children()) == 1
        assert (text.status, short.status) == (200, 200)
        (output,) = text.json["outputs"]
        assert output["shape"] == [len(MANY), 50]
        assert same_bits(np.array(output["data"], np.float32).reshape(-1, 50), want)
        assert text.headers.keys() == short.headers.keys()
        rows = await bench.ask("/v1/models/w:predict", {"instances": ROWS[:20_000].tolist()})
        assert same_bits(np.array(rows.json["predictions"], np.float32), want)
        totals = bench.worker.page.totals("w", 1, "champion")
        words = bench.worker.page.words
        assert words[totals + code_word("v2", 200)] == 3
        assert words[totals + code_word("v1", 200)] == 1

    wide_test(tmp_path, visit)


def test_a_version_whose_long_answer_is_to_be_written_is_not_let_go_of(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        leases: list[int] = []
        answer = bench.worker.predict._answer

        def look(loaded: Any, batch: Any) -> None:
            answer(loaded, batch)
            leases.append(loaded.servable.leases)

        bench.worker.predict._answer = look  # type: ignore[method-assign]
        assert (await ask_wide(bench, MANY)).status == 200
        assert leases == [1]  # already when the run is over

    wide_test(tmp_path, visit)


def test_long_answers_to_events_are_written_there_too(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        event = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
        answer = await ask_wide(bench, MANY, event)
        assert answer.headers["ce-specversion"] == "1.0"
        assert answer.json["outputs"][0]["shape"] == [len(MANY), 50]
        assert len(children()) == 1

    wide_test(tmp_path, visit)


def test_an_answer_that_is_text_in_part_is_text() -> None:
    assert FullCall(None, [0, 1], None, frozenset((1,))).is_text
    assert FullCall(None, [1], None, frozenset()).is_text
    assert not FullCall(None, [0, 1], None, frozenset((0, 1))).is_text
    assert not FullCall(None, None, None, frozenset((0, 1))).is_text  # what a raw request asks: every output


def test_others_are_answered_while_one_is_written_and_a_deadline_is_kept(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        slow = asyncio.ensure_future(ask_wide(bench, MANY))
        late = asyncio.ensure_future(ask_wide(bench, MANY, {"x-deadline-ms": "300"}))
        answered = 0
        while not late.done():
            assert (await ask_wide(bench, MANY[:1])).status == 200
            answered += 1
            await asyncio.sleep(0.001)
        assert answered > 20
        assert (late.result().status, late.result().json["code"]) == (504, "deadline_exceeded")
        assert (await slow).status == 200

    wide_test(tmp_path, visit, SLOW)


def test_an_answer_whose_process_is_lost_is_503_and_without_one_it_is_written_here(tmp_path: Path) -> None:
    async def lost(bench: Bench) -> None:
        answer = await ask_wide(bench, MANY)
        assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (503, "overloaded", "1")

    async def here(bench: Bench) -> None:
        assert (await ask_wide(bench, MANY)).json["outputs"][0]["shape"] == [len(MANY), 50]

    wide_test(tmp_path / "lost", lost, ENDS)
    wide_test(tmp_path / "here", here, (str(tmp_path / "nothing"),))


def test_who_leaves_while_its_body_waits_waits_no_more(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        predict, codec_process = bench.worker.predict, bench.worker.codec_process
        target = Target(v1.DOOR, "m", None)
        slow = asyncio.ensure_future(bench.ask("/v1/models/m:predict", LONG_V1))
        for _ in range(3):
            line = Line(predict)
            exchange = Exchange(line, "v1", "m", b"x", time.perf_counter_ns(), {}, {})
            predict.take(exchange, v1.CODEC, target, LONG_V1, {})
            await asyncio.sleep(0.05)
            assert codec_process._waiting == 2
            assert predict.bodies.now_bytes == 2 * len(LONG_V1)
            exchange.abandon()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert codec_process._waiting == 1
            assert predict.bodies.now_bytes == len(LONG_V1)
            assert line.freed == 1
        assert (await slow).status == 200

    worker_test(tmp_path, visit, SLOW)


def test_who_leaves_on_the_long_way_while_its_body_waits_waits_no_more(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        predict, codec_process = bench.worker.predict, bench.worker.codec_process
        slow = asyncio.ensure_future(bench.ask("/v1/models/m:predict", LONG_V1))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": LONG_V1}

        async def send(message: Any) -> None:
            sent.append(message)

        scope: dict[str, Any] = {"headers": [(b"content-type", b"application/json"), (b"connection", b"close")]}
        asked = asyncio.ensure_future(predict.infer(scope, receive, send, v1.DOOR, "m", None))
        await asyncio.sleep(0.05)
        assert codec_process._waiting == 2
        scope[PENDING].fail(Cancelled("the caller left before its answer"))
        await asked
        assert sent[0]["status"] == 499
        assert codec_process._waiting == 1
        assert predict.bodies.now_bytes == len(LONG_V1)
        assert PENDING not in scope
        assert (await slow).status == 200

    worker_test(tmp_path, visit, SLOW)


def test_an_answer_that_cannot_be_booked_is_an_error_and_nobody_waits_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def visit(bench: Bench) -> None:
        def breaks(*_given: Any, **_named: Any) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(bench.worker.predict._accounts, "answered", breaks)
        answer = await asyncio.wait_for(ask_wide(bench, MANY), 10)
        assert (answer.status, answer.json["code"]) == (500, "inference_failed")
        monkeypatch.undo()
        assert (await ask_wide(bench, MANY)).status == 200

    wide_test(tmp_path, visit)


def test_outputs_that_wait_to_be_written_count_among_the_answers_that_nobody_has_read(tmp_path: Path) -> None:
    async def visit(bench: Bench) -> None:
        unread = bench.worker.predict.unread
        unread.most_bytes = 10_000_000  # each has 4 MB of outputs
        waiting = [asyncio.ensure_future(ask_wide(bench, MANY)) for _ in range(6)]
        answers = await asyncio.gather(*waiting)
        refused = [answer for answer in answers if answer.status != 200]
        assert {(answer.status, answer.json["code"]) for answer in refused} == {(503, "overloaded")}
        assert 1 <= len(answers) - len(refused) <= 3
        assert unread.waiting_bytes == 0
        unread.most_bytes = 1  # one alone is always answered
        unread._counted = 0
        assert (await ask_wide(bench, MANY)).status == 200

    wide_test(tmp_path, visit, SLOW)


def test_a_caller_who_leaves_takes_its_body_along(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    server = Server(tmp_path / "home", port, free_port())
    register_all(tmp_path / "home", {"m": Given(models.linear(tmp_path / "m.onnx"))})
    path, kind = "/v1/models/m:predict", {"content-type": "application/json"}
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(LONG_V1)}\r\n\r\n"
    )
    try:
        server.start()
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as line:
                line.sendall(head.encode() + LONG_V1)
        with httpx.Client(base_url=server.data_url, headers=kind, timeout=30) as client:
            whole = client.post(path, content=LONG_V1)
            assert (whole.status_code, len(whole.json()["predictions"])) == (200, len(ROWS))
            bad = client.post(path, content=LONG_V1[:-1])
            assert (bad.status_code, bad.json()["code"]) == (400, "malformed_request")
        for _ in range(300):
            inside = server.metrics()["driftgate_inflight_requests"]
            if not sum(inside.values()):
                break
            time.sleep(0.02)
        assert sum(inside.values()) == 0
    finally:
        server.kill()


@pytest.mark.parametrize("rows", [1, 4])
def test_long_answers_of_one_run_hold_their_own_rows_whoever_else_was_in_it(tmp_path: Path, rows: int) -> None:
    async def main(bench: Bench) -> None:
        aspired = {1: aspire(models.linear(tmp_path / "w.onnx", outputs=200_000))}
        await bench.route("w", RouteEntry(champion=1, aspired=aspired))
        servable = bench.worker.fleet._loaded["w"][1].servable
        servable.max_rows, servable.joinable = 64, True  # however long its runs took while it was loaded
        runs: list[int] = []
        answer = bench.worker.predict._answer

        def count(loaded: Any, batch: Any) -> None:
            runs.append(len(batch.waiters))
            answer(loaded, batch)

        bench.worker.predict._answer = count  # type: ignore[method-assign]
        paths = ["/v2/models/w/infer", "/v2/models/w/versions/1/infer", "/v2/models/w/infer"]
        given = [ROWS[rows * at : rows * (at + 1)].astype(np.float32) for at in range(3)]
        bodies = [asked(one) for one in given]
        # The named version is another arm of the same run, and alone in it.
        together = await asyncio.gather(
            *(bench.ask(path, body, headers=more) for path, (body, more) in zip(paths, bodies, strict=True))
        )
        assert runs == [3]
        alone = [await bench.ask(path, body, headers=more) for path, (body, more) in zip(paths, bodies, strict=True)]
        for one, other in zip(together, alone, strict=True):
            assert (one.status, other.status) == (200, 200)
            assert one.json["outputs"][0]["shape"] == [rows, 200_000]
            np.testing.assert_allclose(one.json["outputs"][0]["data"], other.json["outputs"][0]["data"], rtol=1e-4)

    with_worker(tmp_path / "run", main)
