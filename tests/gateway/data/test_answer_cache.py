"""Kept answers: only for the same question to the same version, bounded, and each run once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.data.answer_cache import AnswerCache, Turn, of
from gateway.data.servable import load
from registry.options import ServingOptions
from tests.support import models
from tests.support.serving import aspire

DIGEST = "ab" * 32


class Request:
    """Somebody who waits, or has left."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.waiting = True

    def is_waiting(self) -> bool:
        return self.waiting


def cache(most_bytes: int = 1 << 20, digest: str = DIGEST, **names: Any) -> AnswerCache[Request]:
    return AnswerCache(digest, names.get("inputs", ("x",)), names.get("outputs", ("y",)), most_bytes)


def keys(*feeds: Any) -> list[bytes]:
    made = cache()
    return [made.key([np.asarray(feed)]) for feed in feeds]


X = np.arange(6, dtype=np.float32)


def test_a_question_is_its_values_datatype_and_shape() -> None:
    told = keys(
        X,
        X.reshape(2, 3),
        X.reshape(3, 2),
        X.reshape(1, 6),
        X.view(np.int32),
        X.view(np.uint32),
        X.astype(np.float64),
        X[::-1],
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0), np.float32),
    )
    assert len(set(told)) == len(told)
    same = keys(X, X.copy(), np.stack([X, X + 1], axis=1)[:, 0], X.astype(">f4").astype("=f4"))
    assert len(set(same)) == 1


def test_zeros_and_nans_of_other_bits_are_other_questions() -> None:
    quiet = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    told = keys([np.float32(0.0)], [np.float32(-0.0)], quiet[:1], quiet[1:])
    assert len(set(told)) == 4
    assert len(set(keys(quiet[:1], quiet[:1].copy()))) == 1  # although NaN is not equal to itself


def test_texts_are_told_apart_however_they_are_cut() -> None:
    def texts(*items: object) -> Any:
        array = np.empty(len(items), dtype=object)
        array[:] = items
        return array

    told = keys(texts("ab", "c"), texts("a", "bc"), texts("abc"), texts("", "abc"), texts("ü"), texts("u\u0308"))
    assert len(set(told)) == len(told)
    assert len(set(keys(texts("ab"), texts(b"ab")))) == 2
    assert keys(texts("\ud800"))  # a lone surrogate is a text, too


@pytest.mark.parametrize(
    "other",
    [{"digest": "cd" * 32}, {"inputs": ("z",)}, {"outputs": ("y", "p")}, {"inputs": ("xy",), "outputs": ("",)}],
)
def test_another_version_input_name_or_set_of_outputs_is_another_question(other: dict[str, Any]) -> None:
    assert cache(**other).key([X]) != cache().key([X])


def test_two_inputs_are_not_taken_for_each_other() -> None:
    made = cache(inputs=("a", "b"))
    assert made.key([X, X + 1]) != made.key([X + 1, X])
    assert made.key([X[:2], X]) != made.key([X, X[:2]])


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=2, max_size=2))
def test_keys_are_equal_exactly_when_questions_are(pair: list[list[int]]) -> None:
    one, other = (np.array(values, dtype=np.int8) for values in pair)
    assert (keys(one)[0] == keys(other)[0]) == (one.shape == other.shape and bool((one == other).all()))


def test_a_kept_answer_is_given_to_every_equal_request_and_cannot_be_changed() -> None:
    made = cache()
    key, first = made.key([X]), Request()
    assert made.ask(key, first) is Turn.RUN
    batch = np.arange(8, dtype=np.float32).reshape(4, 2)
    copies, others = made.keep(key, [batch[1:2]])
    batch[:] = 0
    assert (others, copies[0].base) == ([], None)
    kept = made.ask(key, Request())
    assert not isinstance(kept, Turn)
    np.testing.assert_array_equal(kept[0], [[2, 3]])
    with pytest.raises(ValueError, match="read-only"):
        kept[0][0, 0] = 1


def test_of_equal_requests_at_once_one_runs_and_those_that_still_wait_get_its_answer() -> None:
    made = cache()
    key = made.key([X])
    requests = [Request(str(i)) for i in range(4)]
    assert [made.ask(key, request) for request in requests] == [Turn.RUN, Turn.WAIT, Turn.WAIT, Turn.WAIT]
    requests[2].waiting = False
    _, others = made.keep(key, [X])
    assert [other.name for other in others] == ["1", "3"]
    assert not isinstance(made.ask(key, Request()), Turn)


def test_when_a_run_gives_no_answer_the_next_that_waits_runs_and_nobody_fails_for_another() -> None:
    made = cache()
    key = made.key([X])
    requests = [Request(str(i)) for i in range(4)]
    for request in requests:
        made.ask(key, request)
    requests[1].waiting = False
    taking_over = made.give_up(key)
    assert taking_over is requests[2]
    assert made.ask(key, Request("late")) is Turn.WAIT
    _, others = made.keep(key, [X])
    assert [other.name for other in others] == ["3", "late"]


def test_a_run_without_an_answer_that_nobody_else_waits_for_leaves_nothing() -> None:
    made = cache()
    key = made.key([X])
    assert made.ask(key, Request()) is Turn.RUN
    assert made.give_up(key) is None
    assert made.ask(key, Request()) is Turn.RUN
    assert len(made) == 0


def test_bytes_are_bounded_and_the_least_recently_asked_leaves_first() -> None:
    made = cache(most_bytes=3 * (512 + 400))
    answer = np.zeros(100, np.float32)
    for i in range(3):
        key = made.key([X + i])
        made.ask(key, Request())
        made.keep(key, [answer])
    assert not isinstance(made.ask(made.key([X]), Request()), Turn)  # asked again: it stays
    key = made.key([X + 3])
    made.ask(key, Request())
    made.keep(key, [answer])
    assert made.ask(made.key([X + 1]), Request()) is Turn.RUN
    assert not isinstance(made.ask(made.key([X]), Request()), Turn)
    assert (len(made), made.kept_bytes) == (3, 3 * 912)


def test_an_answer_larger_than_the_cache_is_not_kept_but_reaches_those_who_wait() -> None:
    made = cache(most_bytes=1000)
    key = made.key([X])
    made.ask(key, Request())
    made.ask(key, Request("other"))
    copies, others = made.keep(key, [np.zeros(1000, np.float32)])
    assert (len(copies[0]), [other.name for other in others], len(made), made.kept_bytes) == (1000, ["other"], 0, 0)


def test_a_version_has_a_cache_only_when_its_options_say_how_large(tmp_path: Path) -> None:
    spec = aspire(models.linear(tmp_path / "a.onnx"))
    assert of(load("m", 1, Path(spec.model_path), Path(spec.manifest_path), 1, 64)) is None
    spec = aspire(models.linear(tmp_path / "b.onnx"), options=ServingOptions(answer_cache_bytes=1 << 20))
    servable = load("m", 1, Path(spec.model_path), Path(spec.manifest_path), 1, 64)
    made = of(servable)
    assert made is not None
    feeds = [np.ones((1, 3), np.float32)]
    assert made.ask(made.key(feeds), Request()) is Turn.RUN
    made.keep(made.key(feeds), servable.run(feeds))
    kept = made.ask(made.key(feeds), Request())
    assert not isinstance(kept, Turn)
    np.testing.assert_array_equal(kept[0], servable.run(feeds)[0])
