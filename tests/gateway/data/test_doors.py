"""Which model answers where a path names none, what platforms' headers carry, and health in the platforms' words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.data.doors import Doors, platform_headers, vertex_paths
from gateway.data.page_reader import read_pages
from gateway.data.routes import RouteEntry
from gateway.settings import GatewaySettings, Settings
from registry.errors import MalformedRequest, ModelNotFound
from tests.support import models
from tests.support.serving import Bench, aspire, with_worker

ROWS = {"inputs": [[1.0, 2.0, 3.0]]}
INSTANCES = {"instances": [[1.0, 2.0, 3.0]], "parameters": {"any": ["thing"]}}


def doors(*names: str, **settings: str) -> Doors:
    return Doors(GatewaySettings(**settings), lambda: list(names))  # type: ignore[arg-type]


def entry(path: Path, seed: int = 0) -> RouteEntry:
    return RouteEntry(champion=1, aspired={1: aspire(models.linear(path, seed=seed))})


def test_a_header_beats_the_default_model_beats_the_only_model() -> None:
    assert doors("a").model({}) == "a"
    assert doors("a", "b", default_model="b").model({}) == "b"
    assert doors("a", default_model="b").model({b"x-driftgate-model": b"c"}) == "c"
    target = {b"x-amzn-sagemaker-target-model": b"models/churn.tar.gz"}
    assert doors("a").model(target) == "churn"
    assert doors("a").model({**target, b"x-driftgate-model": b"c"}) == "c"


def test_without_a_way_to_tell_the_names_are_told() -> None:
    with pytest.raises(MalformedRequest, match=r"x-driftgate-model.*a, b") as caught:
        doors("a", "b").model({})
    assert caught.value.details == {"models": ["a", "b"]}
    with pytest.raises(ModelNotFound):
        doors().model({})
    with pytest.raises(MalformedRequest) as caught:
        doors(*(f"m{number}" for number in range(5000))).model({})
    assert len(caught.value.details["models"]) == 100


def test_paths_that_name_a_model_are_remembered_within_bounds() -> None:
    table = doors("m")
    for number in range(5000):
        target = table.named(f"/v2/models/m{number}/infer")
        assert target is not None
        assert (target.model, target.version) == (f"m{number}", None)
    assert len(table.known) <= 4096
    before = len(table.known)
    assert table.named("/v2/models/" + "m" * 300 + "/infer") is not None
    assert len(table.known) == before
    for path in ("/v2/models//infer", "/v2/models/a/b/infer", "/v1/models/a:classify", "/v1/models/a", "/v2/models/a"):
        assert table.named(path) is None


def test_a_predict_route_never_takes_a_path_of_ours() -> None:
    assert vertex_paths("") == vertex_paths("/v2/models/m/infer") == vertex_paths("/v1/models/m/labels/l:predict") == ()
    assert doors("m", predict_route="/invocations").nameless("/invocations", {}).json.protocol == "mlflow"
    assert doors("m", predict_route="/predict").nameless("/predict", {}).json.protocol == "vertex"


def test_what_a_platform_passes_on_stands_for_headers_of_ours_unless_these_are_there() -> None:
    attributes = b"x-routing-key=u 7,X-Driftgate-Model=churn,note,host=evil,x-deadline-ms=50"
    headers = {b"x-amzn-sagemaker-custom-attributes": attributes, b"x-amzn-sagemaker-inference-id": b"order-7"}
    assert platform_headers(headers) == [
        (b"x-request-id", b"order-7"), (b"x-driftgate-model", b"churn"), (b"x-deadline-ms", b"50"),
    ]  # fmt: skip
    assert (
        platform_headers({**headers, b"x-request-id": b"mine", b"x-driftgate-model": b"a", b"x-deadline-ms": b"9"})
        == []
    )
    assert platform_headers({b"x-ms-client-request-id": b"azure"}) == [(b"x-request-id", b"azure")]
    assert platform_headers({b"x-amzn-sagemaker-custom-attributes": b"," * 4000 + b"x-a=1"}) == []


def test_sagemaker_names_model_request_and_deadline_in_its_own_headers(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("a", entry(tmp_path / "a.onnx"))
        await bench.route("b", entry(tmp_path / "b.onnx", seed=1))
        target = {"X-Amzn-SageMaker-Target-Model": "b.tar.gz", "X-Amzn-SageMaker-Inference-Id": "order-7"}
        answer = await bench.ask("/invocations", ROWS, headers=target)
        assert answer.headers["x-request-id"] == "order-7"
        direct = await bench.ask("/v1/models/b:predict", {"instances": ROWS["inputs"]})
        assert answer.json == direct.json
        inside = {"X-Amzn-SageMaker-Custom-Attributes": "x-driftgate-model=a, x-deadline-ms=nonsense"}
        refused = await bench.ask("/invocations", ROWS, headers=inside)
        assert (refused.status, refused.json["code"]) == (400, "malformed_request")
        codes = {code for total in read_pages(tmp_path / "run")[0].totals.values() for code in total.codes}
        assert codes == {("sagemaker", "200"), ("v1", "200"), ("sagemaker", "400")}

    with_worker(tmp_path / "run", body)


@pytest.mark.parametrize(("path", "protocol"), [("/invocations", "mlflow"), ("/score", "azureml"), ("/p", "vertex")])
def test_a_path_without_a_model_finds_one_or_tells_the_names(tmp_path: Path, path: str, protocol: str) -> None:
    request = INSTANCES

    async def body(bench: Bench) -> None:
        none = await bench.ask(path, request)
        assert (none.status, none.json["code"]) == (404, "model_not_found")
        await bench.route("a", entry(tmp_path / "a.onnx"))
        assert (await bench.ask(path, request)).json["predictions"]
        await bench.route("b", entry(tmp_path / "b.onnx", seed=1))
        unclear = await bench.ask(path, request)
        assert (unclear.status, unclear.json["details"]) == (400, {"models": ["a", "b"]})
        assert set(unclear.json) == {"error", "code", "details", "request_id"}
        assert (await bench.ask(path, request, headers={"x-driftgate-model": "b"})).status == 200
        unknown = await bench.ask(path, request, headers={"x-driftgate-model": "c"})
        assert (unknown.status, unknown.json["code"]) == (404, "model_not_found")
        codes = {code for total in read_pages(tmp_path / "run")[0].totals.values() for code in total.codes}
        assert codes == {(protocol, "200"), (protocol, "400"), (protocol, "404")}

    with_worker(tmp_path / "run", body, Settings(gateway=GatewaySettings(predict_route="/p")))


@pytest.mark.parametrize("path", ["/ping", "/health", "/live-and-well"])
def test_ping_is_about_the_model_that_would_answer(tmp_path: Path, path: str) -> None:
    async def body(bench: Bench) -> None:
        assert (await bench.ask(path, method="GET")).status == 503  # no route table yet
        await bench.route("a", entry(tmp_path / "a.onnx"))
        waits = await bench.ask(path, method="GET")  # the default model is not there
        assert (waits.status, waits.json["code"], waits.headers["retry-after"]) == (503, "not_ready", "1")
        await bench.route("main", entry(tmp_path / "b.onnx"))
        ready = await bench.ask(path, method="GET")
        assert (ready.status, ready.json) == (200, {"ready": True})
        assert (await bench.ask(path, method="HEAD")).status == 200
        bench.worker.beat.drain()
        assert (await bench.ask(path, method="GET")).status == 503

    settings = GatewaySettings(default_model="main", health_route="/live-and-well")
    with_worker(tmp_path / "run", body, Settings(gateway=settings))


def test_one_path_may_be_health_for_get_and_predictions_for_post(tmp_path: Path) -> None:
    async def body(bench: Bench) -> None:
        await bench.route("m", entry(tmp_path / "a.onnx"))
        assert (await bench.ask("/both", method="GET")).json == {"ready": True}
        assert (await bench.ask("/both", INSTANCES)).json["predictions"]
        assert (await bench.ask("/version", method="GET")).headers["content-type"].startswith("text/plain")
        assert (await bench.ask("/", method="GET")).status == 200

    with_worker(tmp_path / "run", body, Settings(gateway=GatewaySettings(health_route="/both", predict_route="/both")))
