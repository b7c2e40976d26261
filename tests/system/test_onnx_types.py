"""Every ONNX type over a real server: the same bits over REST JSON, REST binary, gRPC, MessagePack and Arrow.

They are those that onnxruntime alone gives.

What cannot be served was refused when it was registered, with the reason that is true; nothing is answered with a 500.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from driftgate.client import Client
from registry import golden, onnx
from registry.manifest import Manifest
from registry.rows import same_bits
from tests.support import asking, models, typed_models
from tests.support.asking import Refused, Tensors
from tests.support.registered import Given, register_all
from tests.support.server import Server
from tests.support.typed_models import KINDS

Ask = Callable[[str, Tensors], dict[str, NDArray[Any]]]
ODD = "größe 1/ü 数?#%&\"'"  # a name that URLs, headers, JSON and labels must all survive


@contextmanager
def asked(home: Path, free_port: Callable[[], int]) -> Iterator[dict[str, Ask]]:
    """A server of what was registered, and the ways to ask it."""
    grpc_port = free_port()
    server = Server(home, free_port(), free_port(), gateway__grpc="on", gateway__grpc_port=grpc_port)
    try:
        server.start()
        address = f"127.0.0.1:{grpc_port}"
        with (
            httpx.Client(base_url=server.data_url, timeout=30) as client,
            grpc.insecure_channel(address) as channel,
            Client(server.data_url) as ours,
        ):
            yield {
                "json": lambda model, feeds: asking.over_json(client, model, feeds),
                "binary": lambda model, feeds: asking.over_binary(client, model, feeds),
                "grpc": lambda model, feeds: asking.over_grpc(channel, model, feeds),
                "msgpack": lambda model, feeds: dict(ours.infer(model, dict(feeds), format="msgpack").outputs),
                "arrow": lambda model, feeds: dict(ours.infer(model, dict(feeds), format="arrow").outputs),
            }
    finally:
        server.kill()


def check(ways: Mapping[str, Ask], name: str, feeds: Tensors, want: Mapping[str, NDArray[Any]]) -> None:
    """Every protocol gives these outputs, bit by bit."""
    for protocol, ask in ways.items():
        got = ask(name, feeds)
        assert list(got) == list(want), (name, protocol)
        for output, array in want.items():
            assert same_bits(got[output], array), (name, protocol, output, got[output], array)


def alone(path: Path, manifest: Manifest, feeds: Tensors) -> dict[str, NDArray[Any]]:
    """What onnxruntime returns without us."""
    outputs = onnx.runner(onnx.open_session(path), manifest.outputs)(feeds)
    return dict(zip([spec.name for spec in manifest.outputs], outputs, strict=True))


def samples(datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Values of a type, the extremes among them."""
    count, dtype = int(np.prod(shape)), onnx.NUMPY_DTYPES[datatype]
    rng = np.random.default_rng(count)
    if datatype == "BYTES":
        texts = ["", "a\0b", "größe 数 🜚", '"\\\n', "x" * 1000]
        return asking.objects([texts[i % len(texts)] for i in range(count)], list(shape))
    if datatype == "BOOL":
        return rng.integers(0, 2, shape).astype(np.bool_)
    if datatype in onnx.FLOATS:
        largest = {"FP16": 65504.0, "BF16": 3.3895e38, "FP32": 3.4028234e38, "FP64": 1.7976931348623157e308}[datatype]
        values = [largest, -largest, 0.0, -0.0, 1e-7, 1 / 3]
    else:
        values = [np.iinfo(dtype).max, np.iinfo(dtype).min, 0, 1]
    flat = np.empty(count, dtype)
    for i in range(count):
        flat[i] = values[i % len(values)]
    return flat.reshape(shape)


SHAPES: dict[str, tuple[list[int | str], tuple[int, ...]]] = {
    "scalar": ([], ()),
    "vector": (["N"], (5,)),
    "matrix": (["N", 3], (5, 3)),
    "fixed": ([2, 3], (2, 3)),
    "nothing": ([0, 2], (0, 2)),
    ODD: (["K", "M", 2], (2, 2, 2)),
    "no rows": (["R", 4], (0, 4)),
}


def test_every_datatype_in_every_shape_under_any_name_goes_through_every_protocol_unchanged(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Also: rows that may be joined, no rows at all, no inputs, classes, text of some megabytes, lists of inputs."""
    given = {
        f"all-{datatype}": Given(
            typed_models.identities(tmp_path / f"{datatype}.onnx", {n: (kind, s) for n, (s, _) in SHAPES.items()})
        )
        for datatype, kind in KINDS.items()
    }
    for datatype in ("INT64", "BF16", "BYTES"):  # by rows, proven to be joinable
        rows = samples(datatype, (12, 3))
        path = typed_models.identity(tmp_path / f"rows-{datatype}.onnx", KINDS[datatype], ["N", 3], ODD, f"{ODD}.")
        case = tmp_path / f"rows-{datatype}.npz"
        if datatype == "BYTES":
            given[f"rows-{datatype}"] = Given(path)
        else:
            np.savez(case, **{f"in:{ODD}": rows})  # type: ignore[arg-type]
            given[f"rows-{datatype}"] = Given(path, case)
    many = {f"{ODD} {i}": (KINDS["FP32"], ["N"]) for i in range(100)}
    given["many"] = Given(typed_models.identities(tmp_path / "many.onnx", many))  # type: ignore[arg-type]
    given["constant"] = Given(typed_models.constant(tmp_path / "constant.onnx"))
    given["initializer"] = Given(typed_models.optional_by_initializer(tmp_path / "initializer.onnx"))
    given["zipmap-text"] = Given(typed_models.zipmap(tmp_path / "zt.onnx", ["ü 1", "a", "数"]))
    given["zipmap-numbers"] = Given(typed_models.zipmap(tmp_path / "zn.onnx", [7, -1]))
    given["one-class"] = Given(typed_models.zipmap(tmp_path / "z1.onnx", [7]))
    given["linear"] = Given(models.linear(tmp_path / "linear.onnx"))
    feeds: dict[str, Tensors] = {
        f"all-{datatype}": {name: samples(datatype, shape) for name, (_, shape) in SHAPES.items()} for datatype in KINDS
    }
    feeds |= {f"rows-{datatype}": {ODD: samples(datatype, (4, 3))} for datatype in ("INT64", "BF16", "BYTES")}
    feeds["many"] = {name: np.arange(4, dtype=np.float32) for name in many}
    feeds["constant"] = {}
    feeds["initializer"] = {"x": np.arange(4, dtype=np.float32)}
    matrix = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    feeds |= {name: {"x": matrix} for name in ("zipmap-text", "zipmap-numbers", "one-class", "linear")}
    found = register_all(tmp_path / "home", given)
    refused = {name: why for name, why in found.items() if isinstance(why, str)}
    assert not refused
    with asked(tmp_path / "home", free_port) as ways:
        for name, manifest in found.items():
            assert isinstance(manifest, Manifest)
            assert manifest.probe.run == "proven"
            check(ways, name, feeds[name], alone(given[name].path, manifest, feeds[name]))
        for name in ("rows-INT64", "rows-BF16", "rows-BYTES", "linear", "zipmap-text"):  # the same with no rows
            manifest = found[name]
            assert isinstance(manifest, Manifest)
            assert manifest.probe.by_rows
            none = {key: array[:0] for key, array in feeds[name].items()}
            check(ways, name, none, alone(given[name].path, manifest, none))
        long = {ODD: asking.objects(["ü" * 1_000_000, "", "b" * 2_000_000], [1, 3])}
        check(ways, "rows-BYTES", long, {f"{ODD}.": long[ODD]})
        wrong = {"x": asking.objects(["1"] * 3, [1, 3])}
        for protocol in ("json", "binary", "grpc"):  # the client itself refuses this
            with pytest.raises(Refused) as caught:
                ways[protocol]("linear", wrong)
            assert caught.value.args[0] in (400, "INVALID_ARGUMENT"), protocol


@pytest.mark.slow
def test_what_no_request_can_hold_is_refused_at_registration(tmp_path: Path) -> None:
    kinds = ["FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "UINT4", "INT4", "FLOAT4E2M1"]
    given = {
        f"{side}-{kind}": Given(
            typed_models.casts(
                tmp_path / f"{side}-{kind}.onnx",
                getattr(TensorProto, kind) if side == "in" else TensorProto.FLOAT,
                TensorProto.FLOAT if side == "in" else getattr(TensorProto, kind),
            )
        )
        for kind in kinds
        for side in ("in", "out")
    }
    given["sequence"] = Given(typed_models.sequence(tmp_path / "sequence.onnx"))
    for name, why in register_all(tmp_path / "home", given).items():
        assert isinstance(why, str), name
        assert "which cannot be served" in why or ("FLOAT4" in name and "find an implementation" in why), (name, why)


TRUE_REASONS = (
    "Open Inference has no such datatype",
    "holds tensors, not sequences of them",
    "holds tensors, none of which may be absent",
    "Could not find an implementation",  # onnxruntime has none for this type
    "is not a registered function/op",
    "locale",  # the host has no en_US.UTF-8
    "is not what the model returns",  # random numbers, another rounding of strings, another quantisation
)
QUICK = frozenset(
    [
        "add_uint8",
        "cast_UINT4_to_FLOAT",
        "clip_default_int8_min",
        "constantofshape_int_shape_zero",
        "if_seq",
        "identity_opt",
        "nonzero_example",
        "reduce_l1_empty_set",
        "string_split_basic",
        "training_dropout_mask",
    ]
)


@pytest.mark.parametrize(
    "names", [pytest.param(QUICK, id="some"), pytest.param(None, id="all", marks=pytest.mark.slow)]
)
def test_onnx_own_operator_cases_are_answered_over_every_protocol_or_were_refused_with_the_true_reason(
    tmp_path: Path, material: Path, free_port: Callable[[], int], names: frozenset[str] | None
) -> None:
    folders = sorted((material / "models" / "onnx_node").glob("test_*"))
    chosen = [folder for folder in folders if names is None or folder.name.removeprefix("test_") in names]
    assert len(chosen) >= 10
    given = {folder.name: Given(folder / "model.onnx", folder) for folder in chosen}
    found = register_all(tmp_path / "home", given)
    served = {name: manifest for name, manifest in found.items() if isinstance(manifest, Manifest)}
    for name, why in found.items():
        assert name in served or any(reason in str(why) for reason in TRUE_REASONS), (name, why)
    assert len(served) >= len(chosen) * 0.4
    with asked(tmp_path / "home", free_port) as ways:
        for name, manifest in served.items():
            path = given[name].path
            every_output = [spec.name for spec in manifest.outputs]
            cases = golden.read_golden(path.parent, manifest.inputs, manifest.outputs, every_output)
            for case in cases:
                want = alone(path, manifest, case.inputs)
                golden.compare(case, want)
                assert case.outputs
                check(ways, name, case.inputs, want)


def tokens(content: bytes, config: Mapping[str, Any]) -> NDArray[np.int32]:
    """A file as magika takes it: its stripped beginning and end, padded."""
    padding, block = config["padding_token"], config["block_size"]
    head = list(content[:block].lstrip()[: config["beg_size"]])
    tail = list(content[-block:].rstrip()[-config["end_size"] :])
    head += [padding] * (config["beg_size"] - len(head))
    return np.array([head + [padding] * (config["end_size"] - len(tail)) + tail], np.int32)


def test_magika_predicts_what_its_authors_say_and_maps_come_as_named_columns(
    tmp_path: Path, material: Path, free_port: Callable[[], int]
) -> None:
    """Real models: the reference predictions of magika, and two classifiers whose exporter ended them in ZipMap."""
    folder = material / "models"
    forests = {"forest": "go_sklearn_randomforest", "iris": "logreg_iris"}
    given = {"magika": Given(folder / "real" / "magika_standard_v3_2.onnx")}
    given |= {name: Given(folder / "awkward" / f"{file}.onnx") for name, file in forests.items()}
    config = json.loads((folder / "magika_ref" / "standard_v3_2.config.min.json").read_text())
    packed = (folder / "magika_ref" / "standard_v3_2-inference_examples_by_content.json.gz").read_bytes()
    examples = [
        (base64.b64decode(example["content_base64"]), example["prediction"])
        for example in json.loads(gzip.decompress(packed))
        if example["status"] == "ok" and example["prediction"]["dl"] != "undefined"
    ]
    assert len(examples) > 100
    found = register_all(tmp_path / "home", given)
    rng = np.random.default_rng(0)
    with asked(tmp_path / "home", free_port) as ways:
        for number, (content, prediction) in enumerate(examples):
            protocol = ("json", "binary", "grpc")[number % 3]
            (scores,) = ways[protocol]("magika", {"bytes": tokens(content, config)}).values()
            best = int(scores[0].argmax())
            assert config["target_labels_space"][best] == prediction["dl"]
            assert abs(float(scores[0, best]) - prediction["score"]) < 1e-3
        for name in forests:
            manifest = found[name]
            assert isinstance(manifest, Manifest)
            (spec,), (label, probabilities) = manifest.inputs, manifest.outputs
            assert probabilities.classes == ("0", "1", "2")
            rows, width = spec.shape or ()
            feeds = {spec.name: rng.normal(3, 2, size=(rows or 7, width or 0)).astype(np.float32)}
            session = onnx.open_session(given[name].path)
            labels, maps = session.run([label.name, probabilities.name], feeds)
            matrix = np.array([[row[int(key)] for key in probabilities.classes] for row in maps], np.float32)
            check(ways, name, feeds, {label.name: labels, probabilities.name: matrix})
