"""gRPC messages to tensors and back: raw or typed, small or cut, every datatype, and nothing hostile gets through."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.data.codecs.v2 import Writer
from gateway.data.grpc import codec, wire
from gateway.data.grpc.codec import Request
from gateway.data.grpc.messages import InferTensorContents, ModelInferRequest, ModelInferResponse
from gateway.data.servable import Servable
from gateway.settings import LimitSettings
from registry.errors import CallerError, MalformedRequest, PayloadTooLarge, TensorMismatch, Unimplemented
from registry.onnx import NUMPY_DTYPES
from registry.vocabulary import TensorSpec
from tests.support.models import manifest_of

LIMITS = LimitSettings(tensor_elements=10_000)
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
TYPED = sorted(CONTENTS)
ALL = sorted(NUMPY_DTYPES)


class Unrun:
    """Stands for a session where nothing is run: codecs only ask a servable what it takes and gives."""

    def get_inputs(self) -> list[Any]:
        return []

    def get_outputs(self) -> list[Any]:
        return [SimpleNamespace(name="p", type="seq(map(string,tensor(float)))")]

    def get_providers(self) -> list[str]:
        return ["CPUExecutionProvider"]


def servable_of(*datatypes: str, outputs: tuple[TensorSpec, ...] = ()) -> Servable:
    """A servable with inputs x0, x1 … of these datatypes and any shape."""
    inputs = tuple(TensorSpec(f"x{i}", datatype, None) for i, datatype in enumerate(datatypes))
    return Servable("m", 3, Unrun(), manifest_of("a", inputs=inputs, outputs=outputs or inputs), 64)


def read(message: Any, servable: Servable) -> tuple[Any, Any]:
    request = Request(message if isinstance(message, bytes) else message.SerializeToString())
    return request.codec.read(b"", {}, servable, LIMITS)


@pytest.fixture(params=["as it is", "cut"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the reader: protobuf has the whole message, or what is left when the data is cut out."""
    if request.param == "cut":
        monkeypatch.setattr(codec, "_WHOLE_BELOW", 0)
        monkeypatch.setattr(wire, "_SMALL_INPUT", 0)
    return str(request.param)


def array_of(datatype: str, shape: list[int], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "O":
        words = ["", "a", "Zürich", "\0", "数"]
        array = np.empty(shape, dtype=object)
        array.ravel()[:] = [words[i % len(words)] for i in range(array.size)]
        return array
    octets = rng.bytes(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    if dtype.kind == "b":
        octets = bytes(octet & 1 for octet in octets)
    return np.frombuffer(octets, dtype).reshape(shape)


def same(ours: Any, theirs: Any) -> bool:
    if ours.dtype.kind == "O":
        return bool(ours.shape == theirs.shape and ours.tolist() == theirs.tolist())
    return bool(ours.dtype == theirs.dtype and ours.shape == theirs.shape and ours.tobytes() == theirs.tobytes())


def raw_of(array: Any) -> bytes:
    if array.dtype.kind != "O":
        return bytes(array.tobytes())
    encoded = [str(value).encode() for value in array.ravel()]
    return b"".join(len(octets).to_bytes(4, "little") + octets for octets in encoded)


SHAPES = st.lists(st.integers(0, 4), max_size=3)
SEEDS = st.integers(0, 1000)
PER_WAY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@given(st.lists(st.tuples(st.sampled_from(ALL), SHAPES), min_size=1, max_size=3), SEEDS)
@PER_WAY
def test_raw_tensors_of_every_datatype_arrive_bit_for_bit(way: str, inputs: Any, seed: int) -> None:
    arrays = [array_of(datatype, shape, seed) for datatype, shape in inputs]
    message = ModelInferRequest(
        inputs=[{"name": f"x{i}", "datatype": d, "shape": s} for i, (d, s) in enumerate(inputs)],
        raw_input_contents=[raw_of(array) for array in arrays],
    )
    feeds, call = read(message, servable_of(*(datatype for datatype, _ in inputs)))
    assert all(same(feed, array) for feed, array in zip(feeds, arrays, strict=True))
    assert call.id is None


@given(st.sampled_from(TYPED), SHAPES, SEEDS)
@PER_WAY
def test_typed_contents_arrive_as_they_were(way: str, datatype: str, shape: list[int], seed: int) -> None:
    array = array_of(datatype, shape, seed)
    values = [value.encode() for value in array.ravel()] if datatype == "BYTES" else array.ravel().tolist()
    tensor = {"name": "x0", "datatype": datatype, "shape": shape, "contents": {CONTENTS[datatype]: values}}
    feeds, _ = read(ModelInferRequest(inputs=[tensor]), servable_of(datatype))
    assert feeds[0].flags.aligned
    if array.dtype.kind == "f":
        assert np.array_equal(feeds[0], array, equal_nan=True)
    else:
        assert same(feeds[0], array)


@given(st.lists(st.sampled_from(ALL), min_size=1, max_size=3), SHAPES, SEEDS, st.booleans())
@PER_WAY
def test_answers_read_back_bit_for_bit(datatypes: list[str], shape: list[int], seed: int, is_raw: bool) -> None:
    servable = servable_of(*datatypes)
    arrays = [array_of(datatype, shape, seed) for datatype in datatypes]
    body = codec.Answering("an id", None, None, is_raw=is_raw).write(Writer(servable), arrays, 1)
    answer = ModelInferResponse.FromString(body)
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "3", "an id")
    assert [output.name for output in answer.outputs] == servable.output_names
    typed = not is_raw and all(datatype in CONTENTS for datatype in datatypes)
    assert len(answer.raw_output_contents) == (0 if typed else len(arrays))
    for i, (array, output) in enumerate(zip(arrays, answer.outputs, strict=True)):
        assert list(output.shape) == shape
        if typed:
            values = getattr(output.contents, CONTENTS[output.datatype])
            back = [value.decode() for value in values] if output.datatype == "BYTES" else list(values)
            assert np.array_equal(back, array.ravel().tolist(), equal_nan=array.dtype.kind == "f")
        else:
            assert answer.raw_output_contents[i] == raw_of(array)


@given(st.binary(max_size=200))
@PER_WAY
def test_any_bytes_are_a_request_or_the_callers_error(way: str, body: bytes) -> None:
    servable = servable_of("FP32")
    with contextlib.suppress(CallerError):
        read(body, servable)


@given(SEEDS, st.data())
@PER_WAY
def test_a_damaged_message_is_read_the_same_both_ways(seed: int, data: st.DataObject) -> None:
    whole = ModelInferRequest(
        model_name="m",
        inputs=[
            {"name": "x0", "datatype": "FP32", "shape": [2], "contents": {"fp32_contents": [1.0, 2.0]}},
            {"name": "x1", "datatype": "INT64", "shape": [1], "contents": {"int64_contents": [seed]}},
        ],
        raw_input_contents=data.draw(st.sampled_from([[], [b"\0" * 8, b"\0" * 8]])),
    ).SerializeToString()
    at = data.draw(st.integers(0, len(whole) - 1))
    octet = data.draw(st.integers(0, 255))
    body = whole[:at] + bytes([octet]) + whole[at + 1 :]
    outcomes = []
    for below, small in ((1 << 30, 0), (0, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(codec, "_WHOLE_BELOW", below)
            patch.setattr(wire, "_SMALL_INPUT", small)
            try:
                feeds, _ = read(body, servable_of("FP32", "INT64"))
                outcomes.append([feed.tobytes() for feed in feeds])
            except CallerError:  # of two faults in one message either may be found first
                outcomes.append([b"refused"])
    assert outcomes[0] == outcomes[1]


def test_numbers_in_a_large_message_are_not_copied() -> None:
    array = np.arange(40_000, dtype=np.uint8)
    message = ModelInferRequest(
        inputs=[{"name": "x0", "datatype": "UINT8", "shape": [9_000]}], raw_input_contents=[array.tobytes()[:9_000]]
    )
    body = message.SerializeToString() + ModelInferRequest(id="i" * 70_000).SerializeToString()
    feeds, call = read(body, servable_of("UINT8"))
    assert np.shares_memory(feeds[0], np.frombuffer(body, np.uint8))
    assert len(call.id) == 70_000


def test_many_typed_floats_are_read_without_an_object_each(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("numbers were read one by one")

    array = np.arange(5_000, dtype=np.float32)
    tensor = {"name": "x0", "datatype": "FP32", "shape": [5_000], "contents": {"fp32_contents": array.tolist()}}
    body = ModelInferRequest(inputs=[tensor]).SerializeToString()
    if way == "cut":
        monkeypatch.setattr(codec, "_from_contents", refuse)
    assert same(read(body, servable_of("FP32"))[0][0], array)


def request_of(**tensor: Any) -> Any:
    return ModelInferRequest(inputs=[{"name": "x0", "datatype": "FP32", "shape": [1], **tensor}])


def with_raw(message: Any, *raws: bytes) -> Any:
    message.raw_input_contents.extend(raws)
    return message


ONE = {"fp32_contents": [1.0]}
FOUR = b"\0\0\0\0"


@pytest.mark.parametrize(
    ("message", "error", "why"),
    [
        (with_raw(request_of(contents=ONE), FOUR), MalformedRequest, "beside raw_input_contents"),
        (with_raw(request_of(), FOUR, FOUR), MalformedRequest, "2 raw_input_contents for 1 inputs"),
        (with_raw(request_of(), b"\0"), TensorMismatch, "got 1 bytes"),
        (request_of(), TensorMismatch, "fp32_contents has 0"),
        (request_of(contents={"int_contents": [1]}), TensorMismatch, "sent in fp32_contents, got int_contents"),
        (request_of(name="y", contents=ONE), TensorMismatch, "unknown input 'y'"),
        (request_of(datatype="FP64", contents=ONE), TensorMismatch, "model wants FP32"),
        (request_of(shape=[-1], contents=ONE), TensorMismatch, "0 or more"),
        (request_of(shape=[20_000]), PayloadTooLarge, "the limit is 10000"),
        (ModelInferRequest(), TensorMismatch, 'missing input: "x0"'),
        (ModelInferRequest(inputs=[request_of(contents=ONE).inputs[0]] * 2), MalformedRequest, "given twice"),
        (request_of(contents=ONE, parameters={"shared_memory_region": {"string_param": "r"}}), Unimplemented, "shared"),
        (request_of(contents=ONE, parameters={"p": {}}), MalformedRequest, "has no value"),
    ],
)
def test_what_is_wrong_with_a_request_is_told(way: str, message: Any, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        read(message, servable_of("FP32"))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_is_raw_only(datatype: str) -> None:
    tensor = {"name": "x0", "datatype": datatype, "shape": [1], "contents": ONE}
    with pytest.raises(TensorMismatch, match="sent in raw_input_contents"):
        read(ModelInferRequest(inputs=[tensor]), servable_of(datatype))


@pytest.mark.parametrize(("datatype", "value"), [("INT8", 128), ("UINT8", 256), ("INT16", -40_000)])
def test_a_number_that_does_not_fit_is_an_error_and_not_another_number(datatype: str, value: int) -> None:
    tensor = {"name": "x0", "datatype": datatype, "shape": [1], "contents": {CONTENTS[datatype]: [value]}}
    with pytest.raises(TensorMismatch, match="does not fit"):
        read(ModelInferRequest(inputs=[tensor]), servable_of(datatype))


def test_outputs_are_chosen_in_the_order_asked_and_parameters_are_obeyed() -> None:
    servable = servable_of("FP32", outputs=(TensorSpec("a", "FP32", None), TensorSpec("b", "INT64", None)))
    message = request_of(contents=ONE)
    message.outputs.add(name="b")
    message.outputs.add(name="a")
    message.id = "7"
    message.parameters["timeout"].int64_param = 5_000
    message.parameters["binary_data_output"].bool_param = False
    _, call = read(message, servable)
    assert (call.id, call.outputs, call.timeout_us, call.is_raw) == ("7", [1, 0], 5_000, False)
    body = call.write(Writer(servable), [np.ones(1, np.float32), np.ones(1, np.int64)], 1)
    answer = ModelInferResponse.FromString(body)
    assert [output.name for output in answer.outputs] == ["b", "a"]
    assert not answer.raw_output_contents
    message.outputs.add(name="c")
    with pytest.raises(TensorMismatch, match="unknown output 'c'"):
        read(message, servable)


def test_classes_of_an_output_go_with_it() -> None:
    servable = servable_of("FP32", outputs=(TensorSpec("p", "FP32", (None, 2), classes=("no", "yes")),))
    body = codec.Answering(None, None, None, is_raw=True).write(Writer(servable), [np.ones((1, 2), np.float32)], 1)
    parameters = ModelInferResponse.FromString(body).outputs[0].parameters
    assert parameters["classes"].string_param == '["no","yes"]'


def test_many_empty_fields_are_refused_before_they_cost_memory() -> None:
    head_is_full = b"\x2a\x00" * 60_000 + b"\x22\x00" * 60_000  # inputs and parameters of two bytes each
    with pytest.raises(PayloadTooLarge, match="fields"):
        Request(head_is_full)
    nested = wire.tagged(5, 80_000) + b"\x2a\x00" * 40_000  # an input whose contents come in empty pieces
    with pytest.raises(PayloadTooLarge, match="fields"):
        Request(nested * 2)
    with pytest.raises(PayloadTooLarge, match="beside its tensors' data"):
        Request(ModelInferRequest(id="i" * (wire.HEAD_BYTES + 1)).SerializeToString())
    parameters = ModelInferRequest.InferInputTensor(name="n" * (wire.HEAD_BYTES + 1)).SerializeToString()
    with pytest.raises(PayloadTooLarge, match="beside its data"):
        Request(wire.tagged(5, len(parameters)) + parameters)


def test_contents_in_several_pieces_are_one_as_protobuf_has_it(way: str) -> None:
    piece = InferTensorContents(fp32_contents=[1.5]).SerializeToString()
    tensor = request_of(shape=[2]).inputs[0].SerializeToString() + (wire.tagged(5, len(piece)) + piece) * 2
    feeds, _ = read(wire.tagged(5, len(tensor)) + tensor, servable_of("FP32"))
    assert feeds[0].tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("datatype", "contents"),
    [
        ("INT64", InferTensorContents(int64_contents=[1] * 2000)),
        ("BYTES", InferTensorContents(bytes_contents=[b""] * 2000)),
        ("BYTES", InferTensorContents(bytes_contents=[b"a"], int64_contents=[1] * 2000)),
    ],
)
def test_contents_that_hold_more_than_their_shape_are_refused_before_they_are_read(
    datatype: str, contents: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 MiB of small values protobuf made 1.35 GiB."""
    monkeypatch.setattr(codec, "_WHOLE_BELOW", 0)
    monkeypatch.setattr(wire, "_HARMLESS_BYTES", 1000)
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x0", datatype=datatype, shape=[4]).contents.CopyFrom(contents)
    with pytest.raises(TensorMismatch, match="input 'x0': the shape has 4 elements, its contents hold more"):
        read(message, servable_of(datatype))


@pytest.mark.parametrize("datatype", TYPED)
def test_no_contents_that_fit_are_taken_for_too_many(datatype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_WHOLE_BELOW", 0)
    monkeypatch.setattr(wire, "_HARMLESS_BYTES", 0)
    monkeypatch.setattr(wire, "_SMALL_INPUT", 0)
    dtype = NUMPY_DTYPES[datatype]
    worst = b"long " * 20 if datatype == "BYTES" else dtype.type(1) if dtype.kind in "bf" else np.iinfo(dtype).min
    worst = np.iinfo(dtype).max if dtype.kind == "u" else worst  # the most bytes on the wire
    contents = InferTensorContents(**{CONTENTS[datatype]: [worst] * 50})
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x0", datatype=datatype, shape=[50]).contents.CopyFrom(contents)
    feeds, _ = read(message, servable_of(datatype))
    assert len(feeds[0]) == 50
