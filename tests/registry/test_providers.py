"""Where a version runs: what is asked, what is there, and what is told when they differ."""

from __future__ import annotations

import pytest

from registry.errors import InvalidSetting, LoadFailed
from registry.options import ServingOptions
from registry.providers import CPU, NAMES, Choice, choose, fallen, is_absent, optimized_name, told

GPU = (NAMES["tensorrt"], NAMES["cuda"], CPU)


def test_the_processor_needs_no_options() -> None:
    assert choose(ServingOptions(), GPU) == Choice(((CPU, {}),))


def test_cuda_gets_its_options_and_its_memory_limit() -> None:
    options = ServingOptions.from_dict(
        {
            "provider": "cuda",
            "device_memory_mb": 2,
            "provider_options": {"device_id": 1, "do_copy_in_default_stream": True},
        }
    )
    (name, given), *rest = choose(options, GPU).providers
    assert name == NAMES["cuda"]
    assert given == {
        "arena_extend_strategy": "kSameAsRequested",
        "device_id": "1",
        "do_copy_in_default_stream": "1",
        "gpu_mem_limit": str(2 << 20),
    }
    assert rest == [(CPU, {})]


def test_what_tensorrt_cannot_run_goes_to_the_same_device_with_the_same_limit() -> None:
    options = ServingOptions.from_dict(
        {"provider": "tensorrt", "device_memory_mb": 1, "provider_options": {"device_id": 1, "trt_fp16_enable": True}}
    )
    (first, given), (second, cuda), (last, _) = choose(options, GPU).providers
    assert (first, second, last) == GPU
    assert given == {"device_id": "1", "trt_fp16_enable": "1"}
    assert (cuda["device_id"], cuda["gpu_mem_limit"]) == ("1", str(1 << 20))


def test_an_absent_provider_is_refused_and_the_refusal_says_what_there_is() -> None:
    with pytest.raises(LoadFailed, match=r"'cuda' is not available here, only cpu: pip install 'driftgate\[cuda\]'"):
        choose(ServingOptions(provider="cuda"), (CPU,))


def test_a_declared_fallback_is_taken_and_told() -> None:
    options = ServingOptions(provider="cuda", provider_fallback="cpu")
    choice = choose(options, (CPU,))
    assert choice.first == CPU
    assert "'cuda' is not available here" in choice.fell_back
    assert "it runs on cpu" in told(options, [CPU])
    assert told(options, [NAMES["cuda"], CPU]) == ""
    assert told(ServingOptions(), [CPU]) == ""


def test_a_session_that_opened_without_its_provider_is_noticed() -> None:
    choice = choose(ServingOptions(provider="cuda"), GPU)
    assert is_absent(choice, [CPU])
    assert not is_absent(choice, [NAMES["cuda"], CPU])
    with pytest.raises(LoadFailed, match="libraries"):
        fallen(ServingOptions(provider="cuda"), "its libraries are missing")


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"device_memory_mb": 10}, "device_memory_mb: the provider is cpu"),
        ({"provider_fallback": "cpu"}, "provider_fallback: the provider is cpu"),
        ({"provider": "cuda", "cache_optimized": True}, "for the provider cpu only"),
        ({"provider": "cuda", "provider_options": {"GPU mem": 1}}, "which no provider has"),
        ({"provider": "cuda", "provider_options": {"a": [1]}}, "option a: wants a text"),
        ({"provider": "cuda", "provider_options": [["a"]]}, "provider_options"),
        ({"provider": "cuda", "provider_options": {f"a{i}": 1 for i in range(65)}}, "at most 64"),
        ({"graph_optimization": "fast"}, "wants one of all, layout"),
        ({"memory_arena": 1}, "wants true or false"),
        ({"answer_cache_bytes": -1}, "wants a whole number from 0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_with_the_reason(written: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidSetting, match=fault):
        ServingOptions.from_dict(written)


def test_options_survive_being_stored_and_a_default_is_not_stored() -> None:
    options = ServingOptions.from_dict(
        {"provider": "cuda", "provider_options": {"b": 1.5, "a": "x"}, "io_binding": True}
    )
    assert options.provider_options == (("a", "x"), ("b", "1.5"))
    assert ServingOptions.from_dict(options.to_dict()) == options
    assert ServingOptions.from_dict({"provider": "cpu", "graph_optimization": "all"}).to_dict() == {}


def test_an_optimised_model_is_named_by_all_that_it_depends_on() -> None:
    names = {
        optimized_name("a" * 64, ServingOptions(), "1.31.1"),
        optimized_name("b" * 64, ServingOptions(), "1.31.1"),
        optimized_name("a" * 64, ServingOptions(graph_optimization="basic"), "1.31.1"),
        optimized_name("a" * 64, ServingOptions(), "1.32.0"),
    }
    assert len(names) == 4
    assert names == {name for name in names if name.endswith(".onnx")}
