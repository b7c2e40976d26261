"""The hot path, with a real session and real lanes: right answers, clear refusals, everything booked."""

from __future__ import annotations

import asyncio
import math
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gateway.data.page import WorkerPage
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.settings import GatewaySettings, LimitSettings, Settings
from monitor.lane import LaneReader
from monitor.record import ERROR
from monitor.settings import LaneSettings
from registry import onnx
from registry.manifest import ServingOptions
from tests.support import models
from tests.support.server import v2_body
from tests.support.serving import BOOT, Answer, Bench, aspire, with_worker

ROLLOUT = "01"


def one(tmp_path: Path, **options: Any) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "a.onnx"), **options)})


def two(tmp_path: Path, weight: float, **changes: Any) -> RouteEntry:
    champion, canary = models.linear(tmp_path / "a.onnx"), models.linear(tmp_path / "b.onnx", seed=1)
    return RouteEntry(
        **{
            "champion": 1,
            "candidate": 2,
            "weight": weight,
            "salt": "5a" * 16,
            "rollout_id": ROLLOUT,
            "aspired": {1: aspire(champion), 2: aspire(canary)},
            **changes,
        }
    )


def values(answer: Answer) -> Any:
    return np.array(answer.json["outputs"][0]["data"], dtype=np.float32).reshape(answer.json["outputs"][0]["shape"])


def test_an_answer_is_bitwise_what_onnxruntime_returns_alone_and_among_64(tmp_path: Path) -> None:
    rows = np.random.default_rng(3).normal(size=(64, 3)).astype(np.float32)

    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        session = onnx.open_session(tmp_path / "a.onnx")
        expected = [onnx.run(session, {"x": row[None]})[0] for row in rows]
        alone = [await bench.infer("m", row[None]) for row in rows]
        together = await asyncio.gather(*(bench.infer("m", row[None]) for row in rows))
        for answers in (alone, together):
            for answer, want in zip(answers, expected, strict=True):
                assert answer.status == 200
                assert values(answer).tobytes() == want.tobytes()
        totals = read_pages(tmp_path / "run")[0].totals["m", 1, "champion"]
        assert int(totals.batch_rows_counts.sum()) < 128  # some were joined

    with_worker(tmp_path / "run", body)


def test_requests_of_one_and_of_many_rows_and_of_both_protocols_share_a_run_and_stay_apart(tmp_path: Path) -> None:
    rows = np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32)

    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        session = onnx.open_session(tmp_path / "a.onnx")
        single, several, v1 = await asyncio.gather(
            bench.infer("m", rows[:1]),
            bench.infer("m", rows[1:4]),
            bench.ask("/v1/models/m:predict", {"instances": rows[4:].tolist()}),
        )
        assert values(single).tobytes() == onnx.run(session, {"x": rows[:1]})[0].tobytes()
        assert values(several).tobytes() == onnx.run(session, {"x": rows[1:4]})[0].tobytes()
        got = np.array(v1.json["predictions"], dtype=np.float32)
        assert got.tobytes() == onnx.run(session, {"x": rows[4:]})[0].tobytes()
        codes = read_pages(tmp_path / "run")[0].totals["m", 1, "champion"].codes
        assert codes == {("v2", "200"): 2, ("v1", "200"): 1}

    with_worker(tmp_path / "run", body)


def test_answers_carry_id_version_and_role_and_echo_the_v2_id_only_when_given(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        mine = await bench.infer("m", [[1, 2, 3]], headers={"x-request-id": "order-7"})
        assert mine.headers["x-request-id"] == "order-7"
        assert (mine.headers["x-driftgate-version"], mine.headers["x-driftgate-role"]) == ("1", "champion")
        assert "id" not in mine.json
        assert mine.json["model_version"] == "1"
        unsafe = await bench.infer("m", [[1, 2, 3]], headers={"x-request-id": "a b"})
        assert re.fullmatch(
            r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", unsafe.headers["x-request-id"]
        )
        tensor = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [[1, 2, 3]]}
        named = await bench.ask("/v2/models/m/infer", {"id": "α", "inputs": [tensor], "outputs": [{"name": "y"}]})
        assert named.json["id"] == "α"

    with_worker(tmp_path / "run", body)


GOOD = {"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "malformed_request"),
        (b"[]", 400, "malformed_request"),
        (b"", 400, "malformed_request"),
        (b"\xff\xfe", 400, "malformed_request"),
        ({}, 400, "malformed_request"),
        ({"inputs": []}, 400, "tensor_mismatch"),
        ({"inputs": [7]}, 400, "malformed_request"),
        ({"inputs": [GOOD, GOOD]}, 400, "malformed_request"),
        ({"inputs": [{**GOOD, "name": "z"}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "name": ["x"]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "datatype": "FP64"}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "datatype": None}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "shape": [1, 4]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "shape": [3]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "shape": [1, -3]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "shape": [True, 3]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "shape": "1,3"}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "shape": [2**40, 2**40]}]}, 413, "payload_too_large"),
        ({"inputs": [{**GOOD, "data": [1, 2]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "data": ["1", "2", "3"]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "data": [1.5, None, 3]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "data": [True, False, True]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "data": [1e39, 0.5, 0.5]}]}, 400, "tensor_mismatch"),
        ({"inputs": [{**GOOD, "data": [[1, 2], [3]]}]}, 400, "tensor_mismatch"),
        (b'{"inputs":[{"name":"x","shape":[1,3],"datatype":"FP32","data":[NaN,1,2]}]}', 400, "malformed_request"),
        ({"inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32"}]}, 400, "malformed_request"),
        ({"inputs": [GOOD], "outputs": [{"name": "nope"}]}, 400, "tensor_mismatch"),
        ({"inputs": [GOOD], "outputs": "y"}, 400, "malformed_request"),
        ({"inputs": [GOOD], "id": 7}, 400, "malformed_request"),
    ],
)
def test_bad_input_is_a_clear_4xx_with_a_stable_code(tmp_path: Path, body: Any, status: int, code: str) -> None:
    async def check(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        answer = await bench.ask("/v2/models/m/infer", body, headers={"x-request-id": "r1"})
        assert (answer.status, answer.json["code"]) == (status, code), answer.json
        assert isinstance(answer.json["error"], str)
        assert answer.json["request_id"] == "r1"
        assert (await bench.infer("m", [[1, 2, 3]])).status == 200

    with_worker(tmp_path / "run", check)


def test_a_full_disk_costs_keyed_evidence_and_never_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.5))
        monkeypatch.setattr("gateway.data.keys.os.posix_fallocate", full)
        for user in range(6):
            assert (await bench.infer("m", [[1, 2, 3]], headers={"x-routing-key": f"u{user}"})).status == 200
        assert read_pages(tmp_path / "run")[0].no_room > 0

    with_worker(tmp_path / "run", body)


def test_a_table_that_cannot_be_read_keeps_a_rollouts_evidence(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.5))
        for _ in range(20):
            await bench.infer("m", [[1, 2, 3]])
        epoch = bench.table.publish({})
        (tmp_path / f"run/routes-{epoch}.json").write_bytes(b"")
        bench.worker.beat.step()
        assert sum(s.requests for s in read_pages(tmp_path / "run")[0].segments) == 20

    with_worker(tmp_path / "run", body)


def test_failures_of_both_arms_do_not_veto_the_canary(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    ends = [models.value("x", TensorProto.FLOAT, ["N", 3])], [models.value("y", TensorProto.FLOAT, ["N", 3])]
    broken = models.build(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])], *ends)

    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.5, aspired={1: aspire(broken), 2: aspire(broken)}))
        for _ in range(120):
            await bench.infer("m", [[-1, -2, -3]])
        assert read_pages(tmp_path / "run")[0].vetoes == {}

    with_worker(tmp_path / "run", body)


def test_unknown_names_media_and_methods_are_refused(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        assert (await bench.infer("nope", [[1, 2, 3]])).json["code"] == "model_not_found"
        assert (await bench.ask("/v2/models/m/versions/9/infer", {"inputs": [GOOD]})).json[
            "code"
        ] == "version_not_found"
        xml = await bench.ask("/v2/models/m/infer", b"<a/>", headers={"content-type": "text/xml"})
        assert (xml.status, xml.json["code"]) == (415, "unsupported_media")
        brotli = await bench.ask("/v2/models/m/infer", b"x", headers={"content-encoding": "br"})
        assert (brotli.status, brotli.headers["accept-encoding"]) == (415, "gzip, deflate")
        get = await bench.ask("/v2/models/m/infer", method="GET")
        assert (get.status, get.headers["allow"]) == (405, "POST")
        assert (await bench.ask("/v2", method="DELETE")).json["code"] == "method_not_allowed"
        refused = read_pages(tmp_path / "run")[0].totals
        assert refused["", 0, ""].codes["v2", "404"] == 1  # an unknown model's name is no label
        assert refused["m", 0, ""].codes["v2", "404"] == 1

    with_worker(tmp_path / "run", body)


def test_a_body_over_the_limit_is_refused_by_its_length_and_while_it_is_read(tmp_path: Path) -> None:
    settings = Settings(gateway=GatewaySettings(limits=LimitSettings(body_bytes=1000)))

    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        announced = await bench.ask("/v2/models/m/infer", chunks=[b"x", b"y"], headers={"content-length": "104857600"})
        assert (announced.status, announced.json["code"]) == (413, "payload_too_large")
        growing = await bench.ask("/v2/models/m/infer", chunks=[b"x" * 400] * 100)
        assert growing.status == 413

    with_worker(tmp_path / "run", body, settings)


def test_the_split_lies_in_its_binomial_band_and_an_answer_names_who_gave_it(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.25))
        answers = [
            a for _ in range(20) for a in await asyncio.gather(*(bench.infer("m", [[1, 2, 3]]) for _ in range(50)))
        ]
        canary = sum(answer.headers["x-driftgate-role"] == "canary" for answer in answers)
        assert abs(canary - 250) < 5 * math.sqrt(1000 * 0.25 * 0.75)
        for answer in answers:
            version = answer.headers["x-driftgate-version"]
            assert (
                answer.json["model_version"]
                == version
                == {"canary": "2", "champion": "1"}[answer.headers["x-driftgate-role"]]
            )
        segments = {s.role: s for s in read_pages(tmp_path / "run")[0].segments}
        assert (segments["canary"].requests, segments["champion"].requests) == (canary, 1000 - canary)
        assert {s.weight for s in segments.values()} == {0.25}

    with_worker(tmp_path / "run", body)


def test_a_routing_key_always_meets_the_same_version_and_counts_once(tmp_path: Path) -> None:
    from gateway.data.keys import read_keys

    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.5))
        for _ in range(3):
            roles: dict[int, str] = {}
            for user in range(20):
                answer = await bench.infer("m", [[1, 2, 3]], headers={"x-routing-key": f"u{user}"})
                role = answer.headers["x-driftgate-role"]
                assert roles.setdefault(user, role) == role
        (keys,) = read_keys(tmp_path / "run")
        assert len(keys.rows) == 20
        assert not keys.full
        assert sum(s.requests for s in read_pages(tmp_path / "run")[0].segments) == 0

    with_worker(tmp_path / "run", body)


def test_after_a_rollback_or_the_end_of_the_lease_the_canary_gets_nothing(
    tmp_path: Path,
) -> None:
    async def body(bench: Bench) -> None:
        entry = two(tmp_path, 1.0)
        await bench.route("m", entry)
        assert (await bench.infer("m", [[1, 2, 3]])).headers["x-driftgate-role"] == "canary"
        bench.table.renew(0.0)
        late = [await bench.infer("m", [[1, 2, 3]]) for _ in range(20)]
        assert {answer.headers["x-driftgate-role"] for answer in late} == {"champion"}
        bench.table.renew(60.0)
        assert (await bench.infer("m", [[1, 2, 3]])).headers["x-driftgate-role"] == "canary"
        epoch = bench.table.publish({"m": RouteEntry(champion=1, candidate=2, weight=0.0, aspired=entry.aspired)})
        rolled = [await bench.infer("m", [[1, 2, 3]]) for _ in range(20)]
        assert {answer.headers["x-driftgate-role"] for answer in rolled} == {"champion"}
        assert read_pages(tmp_path / "run")[0].acked_epoch == epoch

    with_worker(tmp_path / "run", body)


def test_a_version_named_by_the_caller_answers_as_direct_and_is_no_evidence(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.5, aliases={"canary": 2}))
        for name in ("2", "canary"):
            answer = await bench.ask(f"/v2/models/m/versions/{name}/infer", {"inputs": [GOOD]})
            assert (answer.headers["x-driftgate-version"], answer.headers["x-driftgate-role"]) == ("2", "direct")
        assert sum(s.requests for s in read_pages(tmp_path / "run")[0].segments) == 0

    with_worker(tmp_path / "run", body)


def test_burn_in_answers_are_not_evidence(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.5, burn_in=10))
        roles = [(await bench.infer("m", [[1, 2, 3]])).headers["x-driftgate-role"] for _ in range(100)]
        tenth = [i for i, role in enumerate(roles) if role == "canary"][9]
        counted = sum(s.requests for s in read_pages(tmp_path / "run")[0].segments)
        assert counted == 100 - tenth - 1

    with_worker(tmp_path / "run", body)


def test_outputs_out_of_the_promised_range_and_slow_answers_are_counted_as_evidence(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        tight = {
            1: aspire(models.linear(tmp_path / "a.onnx"), limits=((-1e9, 1e9), None)),
            2: aspire(models.linear(tmp_path / "b.onnx", seed=1), limits=((1e8, 1e9), None)),
        }
        await bench.route("m", two(tmp_path, 0.5, aspired=tight, latency_threshold_us=0.001, slowdown=1.25))
        for _ in range(50):
            await bench.infer("m", [[1, 2, 3]])
        for segment in read_pages(tmp_path / "run")[0].segments:
            assert segment.slow == segment.requests > 0
            assert segment.bad_outputs == (segment.requests if segment.role == "canary" else 0)

    with_worker(tmp_path / "run", body)


def test_shadows_see_what_the_champion_answered_and_answer_nobody(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 0.0, shadow=True))
        for i in range(30):
            answer = await bench.infer("m", [[i, 2, 3]], headers={"x-request-id": f"r{i}"})
            assert answer.headers["x-driftgate-role"] == "champion"
        await asyncio.sleep(0.05)
        champion = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(1000)
        shadow = LaneReader.open(next((tmp_path / "run/lanes").glob("*shadow*"))).read(1000)
        assert champion["hash0"].tolist() == shadow["hash0"].tolist()
        assert np.array_equal(champion["features"], shadow["features"])
        session = onnx.open_session(tmp_path / "b.onnx")
        assert np.array_equal(shadow["outputs"], onnx.run(session, {"x": shadow["features"]})[0])

    with_worker(tmp_path / "run", body)


def test_copies_that_wait_when_their_version_leaves_are_run_before_it_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.data import shadow

    monkeypatch.setattr(shadow, "_WAIT_S", 0.1)

    async def body(bench: Bench) -> None:
        entry = two(tmp_path, 0.0, shadow=True)
        await bench.route("m", entry)
        for _ in range(5):
            await bench.infer("m", [[1, 2, 3]])
        assert bench.worker.shadows.waiting_rows == 5
        await bench.route("m", RouteEntry(champion=1, aspired={1: entry.aspired[1]}))
        while bench.worker.shadows.waiting_rows:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        bench.worker.beat.step()
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*shadow*"))).read(1000)
        assert (rows["flags"].tolist(), bool(np.isfinite(rows["outputs"]).all())) == ([0] * 5, True)
        assert {version for _, version, _ in bench.worker.tap._lanes} == {1}

    with_worker(tmp_path / "run", body)


def test_copies_of_requests_that_came_one_after_another_are_run_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.data import shadow

    real, rows = shadow._runs, []

    def noted(copy: shadow.Copy) -> Any:
        rows.append(copy.rows)
        return real(copy)

    async def body(bench: Bench) -> None:
        monkeypatch.setattr(shadow, "_runs", noted)
        monkeypatch.setattr(shadow, "_WAIT_S", 0.2)
        await bench.route("m", two(tmp_path, 0.0, shadow=True))
        for i in range(12):
            await bench.infer("m", [[i, 2, 3]] * (1 + i % 3), headers={"x-request-id": f"r{i}"})
        assert rows == []  # nobody's next request waited for a copy
        await asyncio.sleep(0.3)
        assert (len(rows), sum(rows)) == (1, 24)
        champion = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*"))).read(1000)
        shadow_rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*shadow*"))).read(1000)
        for name in ("hash0", "row", "rows"):
            assert champion[name].tolist() == shadow_rows[name].tolist()

    with_worker(tmp_path / "run", body)


def test_copies_that_a_shadow_does_not_take_end_neither_it_nor_those_beside_them(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        aspired = {1: aspire(models.sums(tmp_path / "a.onnx", "W")), 2: aspire(models.sums(tmp_path / "b.onnx", 3))}
        entry = RouteEntry(champion=1, candidate=2, shadow=True, rollout_id="r", aspired=aspired)
        await bench.route("m", entry)
        for _ in range(2):
            answers = await asyncio.gather(*(bench.infer("m", [[1.0] * width]) for width in (3, 4, 3)))
            assert [answer.status for answer in answers] == [200] * 3
            await asyncio.sleep(0.05)
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*shadow*"))).read(10)
        assert sorted(rows["flags"].tolist()) == [0] * 4 + [ERROR] * 2
        assert bench.worker.shadows.waiting_rows == 0

    with_worker(tmp_path / "run", body)


def test_copies_for_shadows_are_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gateway.data import shadow

    async def body(bench: Bench) -> None:
        monkeypatch.setattr(shadow, "_WAIT_S", 0.1)
        monkeypatch.setattr(shadow, "_MOST_BYTES", 3 * 12)
        await bench.route("m", two(tmp_path, 0.0, shadow=True))
        for _ in range(2):
            for rows in (1, 1, 2, 1):
                await bench.infer("m", [[1, 2, 3]] * rows)
            assert bench.worker.shadows.waiting_rows == 3
            await asyncio.sleep(0.2)
            assert bench.worker.shadows.waiting_rows == 0
        assert read_pages(tmp_path / "run")[0].totals["m", 2, "shadow"].shadow_dropped == 4

    with_worker(tmp_path / "run", body)


def test_a_shadow_run_that_fails_by_a_bug_does_not_end_all_later_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gateway.data import shadow

    real, fails = shadow._runs, [True]

    def sometimes(copy: shadow.Copy) -> Any:
        if fails.pop() if fails else False:
            raise KeyError("a bug")
        return real(copy)

    async def body(bench: Bench) -> None:
        monkeypatch.setattr(shadow, "_runs", sometimes)
        await bench.route("m", two(tmp_path, 0.0, shadow=True))
        for _ in range(3):
            assert (await bench.infer("m", [[1, 2, 3]])).status == 200
            await asyncio.sleep(0.02)
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*shadow*"))).read(10)
        assert len(rows) == 2

    with_worker(tmp_path / "run", body)


def test_every_answered_row_is_in_its_lane_and_large_requests_are_sampled(tmp_path: Path) -> None:
    settings = Settings(lanes=LaneSettings(lane_rows_per_request=8))

    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        await asyncio.gather(*(bench.infer("m", np.ones((n, 3))) for n in (1, 8, 20, 1)))
        reader = LaneReader.open(next((tmp_path / "run/lanes").glob("*champion*")))
        counts = reader.statistics()
        assert (counts.offered, counts.committed, counts.dropped, counts.sampled) == (18, 18, 0, 12)
        rows = reader.read(1000)
        assert sorted(set(rows["rows"].tolist())) == [1, 8, 20]
        assert len(set(zip(rows["hash0"].tolist(), rows["hash1"].tolist(), strict=True))) == 4

    with_worker(tmp_path / "run", body, settings)


@pytest.mark.parametrize("limits", [None, ((-10.0, 10.0),) * 3, ((-10.0, 10.0), None, (-10.0, 10.0))])
def test_a_number_that_is_not_finite_is_a_fault_of_the_model_unless_it_may(tmp_path: Path, limits: Any) -> None:
    from onnx import TensorProto, helper

    ends = [models.value("x", TensorProto.FLOAT, ["N", 3])], [models.value("y", TensorProto.FLOAT, ["N", 3])]
    root = models.build(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])], *ends)

    async def body(bench: Bench) -> None:
        await bench.route("strict", RouteEntry(champion=1, aspired={1: aspire(root, limits=limits)}))
        good, bad = await asyncio.gather(bench.infer("strict", [[1, 1, 1]]), bench.infer("strict", [[1, -1, 1]]))
        assert good.status == 200
        assert (bad.status, bad.json["code"]) == (500, "inference_failed")
        assert bad.headers["x-driftgate-version"] == "1"
        free = aspire(root, options=ServingOptions(nan="allow"))
        await bench.route("free", RouteEntry(champion=1, aspired={1: free}))
        assert (await bench.infer("free", [[-1, 1, 1]])).json["outputs"][0]["data"] == [None, 0.0, 0.0]
        rows = LaneReader.open(next((tmp_path / "run/lanes").glob("*strict*"))).read(10)
        assert sorted(rows["flags"].tolist()) == [0, 1]

    with_worker(tmp_path / "run", body)


def test_a_deadline_that_passes_while_waiting_is_a_504_and_books_an_error(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", two(tmp_path, 1.0))
        batcher = bench.worker.fleet._loaded["m"][2].batcher
        batcher._is_scheduled = True  # nothing runs: as if a long run were in front
        answer = await bench.infer("m", [[1, 2, 3]], headers={"x-deadline-ms": "20"})
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        batcher._is_scheduled = False
        bad = await bench.infer("m", [[1, 2, 3]], headers={"x-deadline-ms": "soon"})
        assert (bad.status, bad.json["code"]) == (400, "malformed_request")
        (canary,) = [s for s in read_pages(tmp_path / "run")[0].segments if s.role == "canary"]
        assert (canary.requests, canary.errors) == (1, 1)

    with_worker(tmp_path / "run", body)


def test_too_many_waiting_requests_are_refused_with_retry_after_and_counted(tmp_path: Path) -> None:
    settings = Settings(gateway=GatewaySettings(limits=LimitSettings(waiting_requests=4)))

    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        answers = await asyncio.gather(*(bench.infer("m", [[1, 2, 3]]) for _ in range(10)))
        refused = [answer for answer in answers if answer.status != 200]
        assert len(refused) == 6
        assert {(a.status, a.json["code"], a.headers["retry-after"]) for a in refused} == {(503, "overloaded", "1")}
        assert read_pages(tmp_path / "run")[0].shed["m", "overloaded"] == 6

    with_worker(tmp_path / "run", body, settings)


def test_a_new_route_table_makes_no_room_for_more_requests(tmp_path: Path) -> None:
    settings = Settings(gateway=GatewaySettings(limits=LimitSettings(waiting_requests=4)))

    async def body(bench: Bench) -> None:
        await bench.route("m", one(tmp_path))
        batcher, asked = bench.worker.fleet._loaded["m"][1].batcher, []
        batcher._is_scheduled = True  # no turn comes meanwhile
        for _ in range(3):
            asked += [asyncio.ensure_future(bench.infer("m", [[1, 2, 3]])) for _ in range(3)]
            await asyncio.sleep(0)
            await bench.route("m", bench.models["m"])
        assert batcher.waiting == 4
        batcher.turn()
        statuses = [answer.status for answer in await asyncio.gather(*asked)]
        assert (statuses.count(200), statuses.count(503)) == (4, 5)
        assert bench.worker.fleet.traffic("m").inside.waiting == 0

    with_worker(tmp_path / "run", body, settings)


def test_twenty_canary_failures_in_a_row_veto_the_canary_here(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    ends = [models.value("x", TensorProto.FLOAT, ["N", 3])], [models.value("y", TensorProto.FLOAT, ["N", 3])]
    broken = models.build(tmp_path / "log.onnx", [helper.make_node("Log", ["x"], ["y"])], *ends)

    async def body(bench: Bench) -> None:
        aspired = {1: aspire(models.linear(tmp_path / "a.onnx")), 2: aspire(broken)}
        await bench.route("m", two(tmp_path, 1.0, aspired=aspired))
        answers = [await bench.infer("m", [[-1, -2, -3]]) for _ in range(25)]
        assert [answer.status for answer in answers] == [200] * 25
        roles = [answer.headers["x-driftgate-role"] for answer in answers]
        assert roles == ["fallback"] * 20 + ["champion"] * 5
        assert {answer.headers["x-driftgate-version"] for answer in answers} == {"1"}
        alone = await bench.ask("/v2/models/m/versions/1/infer", v2_body([[-1, -2, -3]]))
        assert values(answers[0]).tobytes() == values(alone).tobytes()
        assert read_pages(tmp_path / "run")[0].vetoes == {"m": ROLLOUT}

    with_worker(tmp_path / "run", body)


def test_only_runs_of_a_running_rollouts_candidate_are_marked(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        def would_blame() -> bool:
            """Whether a worker that ended now by its own fault would take the canary out."""
            (tmp_path / "after").mkdir(exist_ok=True)
            (tmp_path / "after" / "worker-0.page").write_bytes(bench.worker.page.path.read_bytes())
            WorkerPage(tmp_path / "after" / "worker-0.page", 0, BOOT, signal.SIGFPE).close()
            return read_pages(tmp_path / "after")[0].vetoes == {"m": ROLLOUT}

        entry, blamed = two(tmp_path, 0.5), dict[int, bool]()
        await bench.route("m", entry)
        loaded = bench.worker.fleet._loaded["m"]
        for version, one_loaded in loaded.items():
            servable: Any = one_loaded.servable

            def noted(*given: Any, version: int = version, run: Any = servable._run) -> Any:
                blamed[version] = would_blame()
                return run(*given)

            servable._run = noted

        async def ask_both() -> dict[int, bool]:
            blamed.clear()
            while len(blamed) < 2:
                assert (await bench.infer("m", [[1, 2, 3]])).status == 200
            return blamed

        assert await ask_both() == {1: False, 2: True}
        assert not would_blame()
        await bench.route("m", replace(entry, champion=2, candidate=None, rollout_id="", weight=0.0))
        assert (await bench.infer("m", [[1, 2, 3]])).headers["x-driftgate-version"] == "2"
        assert not blamed[2]

    with_worker(tmp_path / "run", body)


def test_a_model_with_strings_integers_and_several_inputs_answers_in_both_protocols(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("c", RouteEntry(champion=1, aspired={1: aspire(models.columns(tmp_path / "c.onnx"))}))
        tensors = [
            {"name": "city", "shape": [2, 1], "datatype": "BYTES", "data": ["Zürich", "東京"]},
            {"name": "age", "shape": [2, 1], "datatype": "FP32", "data": [1.5, 2]},
            {"name": "visits", "shape": [2, 1], "datatype": "INT64", "data": [[3], [4]]},
        ]
        v2 = await bench.ask("/v2/models/c/infer", {"inputs": tensors})
        assert {o["name"]: o["data"] for o in v2.json["outputs"]} == {"total": [4.5, 6.0], "named": ["Zürich", "東京"]}
        rows = [{"city": "Zürich", "age": 1.5, "visits": 3}, {"city": "東京", "age": 2.0, "visits": 4}]
        v1 = await bench.ask("/v1/models/c:predict", {"instances": rows})
        assert v1.json["predictions"] == [{"total": [4.5], "named": ["Zürich"]}, {"total": [6.0], "named": ["東京"]}]
        wrong = await bench.ask("/v1/models/c:predict", {"instances": [{"city": "Zürich", "age": "x", "visits": 3}]})
        assert (wrong.status, wrong.json["code"]) == (400, "tensor_mismatch")
        half = [{**tensors[1], "data": [1.5], "shape": [1, 1]}, tensors[0], tensors[2]]
        assert (await bench.ask("/v2/models/c/infer", {"inputs": half})).json["code"] == "tensor_mismatch"
        fraction = [{**tensors[2], "data": [1.5, 2.0]}, tensors[0], tensors[1]]
        assert (await bench.ask("/v2/models/c/infer", {"inputs": fraction})).json["code"] == "tensor_mismatch"

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize("said", ["x-deadline-ms", "timeout"])
def test_a_request_whose_time_is_over_when_it_has_been_read_is_not_run(tmp_path: Path, said: str) -> None:
    """An inline run ends before any timer: it was answered 200 after its deadline."""
    rows = np.zeros((30_000, 3), np.float32)
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    document: dict[str, Any] = {"inputs": [tensor]}
    if said == "timeout":
        document["parameters"] = {"timeout": 1000}

    async def body(bench: Bench) -> None:
        await bench.route("m", RouteEntry(champion=1, aspired={1: aspire(models.linear(tmp_path / "m.onnx"))}))
        headers = {"x-deadline-ms": "1"} if said != "timeout" else {}
        answer = await bench.ask("/v2/models/m/infer", document, headers=headers)
        assert (answer.status, answer.json["code"]) == (504, "deadline_exceeded")
        assert bench.worker.scheduler.running == 0

    with_worker(tmp_path / "run", body)
