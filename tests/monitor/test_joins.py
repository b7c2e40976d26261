from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitor.answers import Answers, align
from monitor.join_counts import PairCounts, RolloutWatch
from monitor.joins import PENDING_S, JoinMemory
from monitor.labels import MAX_LABELS
from monitor.record import make_log_schema
from registry.errors import MalformedRequest
from registry.vocabulary import TensorSpec
from tests.support.records import classifier_schema, hashes_of, regression_schema

CHAMPION, CANARY = 0, 1


class World:
    """A join memory fed with request ids and answers."""

    def __init__(self, limit: int = 1000, labels: int = 100, kind: str = "number", tolerance: float = 0.5) -> None:
        schema = regression_schema() if kind == "number" else classifier_schema()
        self.memory = JoinMemory(limit, labels, 30.0)
        self.answers = Answers(schema)
        self.memory.learn(1, self.answers)
        self.memory.learn(2, self.answers)
        self.memory.begin(RolloutWatch("r", "m", 1, 2, {"y": tolerance}), PairCounts())

    def champion(self, ids: Sequence[str], values: Sequence[float], role: int = CHAMPION, version: int = 1) -> None:
        self.memory.add(
            version, role, hashes_of(ids)[:, 0], np.zeros(len(ids), np.uint32), np.array(values, float)[:, None]
        )

    def shadow(self, ids: Sequence[str], values: Sequence[float], now_s: float = 0.0) -> None:
        failed = np.isnan(np.array(values, float))
        rows = np.zeros(len(ids), np.uint32)
        said = np.array(values, float)[:, None]
        self.memory.add_shadow(2, hashes_of(ids)[:, 0], rows, said, failed, now_s)

    def resolve(self, now_s: float = 0.0) -> PairCounts:
        self.memory.resolve(now_s, 7)
        return self.memory.pairs

    def label(self, request_id: str, *values: object, now_s: float = 0.0, **more: Any) -> dict[str, int]:
        counts = self.memory.feedback([{"request_id": request_id, "values": list(values), **more}], now_s, 9)
        return {name: n for name, n in counts.items() if n}


def test_a_shadow_row_is_paired_with_the_answer_it_copies() -> None:
    world = World()
    world.champion(["a", "b", "c"], [1.0, 2.0, 3.0])
    world.shadow(["b", "a", "c"], [2.4, 1.0, 3.6])
    pairs = world.resolve()
    assert (pairs.rows, pairs.disagreements, pairs.requests) == (3, 1, 3)
    assert pairs.by_output == {"y": 1}
    assert pairs.pair_wall_ns == 7


def test_a_shadow_row_may_come_before_its_answer() -> None:
    world = World()
    world.shadow(["a"], [1.0])
    assert world.resolve().rows == 0
    world.champion(["a"], [1.0])
    assert world.resolve(1.0).rows == 1


def test_a_shadow_row_without_an_answer_is_counted_as_unpaired_after_a_while() -> None:
    world = World()
    world.shadow(["a"], [1.0])
    world.resolve(PENDING_S - 0.1)
    assert world.memory.pairs.unpaired == 0
    assert world.resolve(PENDING_S).unpaired == 1
    world.champion(["a"], [1.0])
    assert world.resolve(PENDING_S).rows == 0


def test_a_row_is_paired_once() -> None:
    world = World()
    world.champion(["a"], [1.0])
    world.shadow(["a", "a"], [1.0, 1.0])
    world.resolve()
    world.shadow(["a"], [9.0])
    assert (world.resolve().rows, world.resolve().disagreements) == (1, 0)


def test_classes_disagree_when_they_differ_and_missing_agrees_with_missing_alone() -> None:
    world = World(kind="class")
    world.champion(["a", "b", "c", "d"], [1, 0, np.nan, 1])
    world.shadow(["a", "b"], [1, 1])
    world.resolve()
    said = np.array([[np.nan], [np.nan]])
    keys = hashes_of(["c", "d"])[:, 0]
    world.memory.add_shadow(2, keys, np.zeros(2, np.uint32), said, np.zeros(2, bool), 0.0)
    pairs = world.resolve()
    assert (pairs.rows, pairs.disagreements) == (4, 2)


def test_a_request_disagrees_by_its_share_of_rows_and_fails_once() -> None:
    world = World()
    sizes = {"one": 1, "four": 4, "failed": 3}
    keys = np.repeat(hashes_of(list(sizes))[:, 0], list(sizes.values()))
    rows = np.concatenate([np.arange(n) for n in sizes.values()]).astype(np.uint32)
    said = np.zeros((8, 1))
    world.memory.add(1, CHAMPION, keys, rows, said)
    other = np.array([9.0, 9.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])[:, None]
    world.memory.add_shadow(2, keys, rows, other, np.arange(8) >= 5, 0.0)
    pairs = world.resolve()
    assert (pairs.rows, pairs.disagreements, pairs.requests) == (5, 2, 2)
    assert pairs.disagreed == pytest.approx(1.0 + 0.25)
    assert (pairs.shadow_errors, pairs.shadow_errors_requests) == (3, 1)
    assert PairCounts.from_dict(pairs.to_dict()) == pairs


def test_pairs_that_were_counted_before_requests_were_witnesses_go_on() -> None:
    stored = PairCounts(rows=100, disagreements=30, requests=10, shadow_errors=2).to_dict()
    for name in ("disagreed", "shadow_errors_requests"):
        del stored[name]
    found = PairCounts.from_dict(stored)
    assert (found.disagreed, found.shadow_errors_requests) == (3.0, 2)


def test_a_copy_that_failed_is_an_error_and_not_a_pair() -> None:
    world = World()
    world.champion(["a", "b"], [1.0, 1.0])
    world.shadow(["a", "b"], [float("nan"), 1.0])
    pairs = world.resolve()
    assert (pairs.shadow_errors, pairs.rows, pairs.requests) == (1, 1, 1)


def test_answers_of_the_canary_or_of_another_version_make_no_pair() -> None:
    world = World()
    world.champion(["a"], [1.0], CANARY, 2)
    world.champion(["b"], [1.0], CHAMPION, 2)
    world.shadow(["a", "b"], [1.0, 1.0])
    assert (world.resolve().rows, world.resolve().unpaired) == (0, 2)


def test_without_a_rollout_nothing_is_paired_and_nothing_waits() -> None:
    world = World()
    world.memory.end()
    world.champion(["a"], [1.0])
    world.shadow(["a"], [1.0])
    world.resolve()
    assert world.memory.pairs.rows == 0


def test_rows_of_one_request_are_told_apart() -> None:
    world = World()
    hashes = np.repeat(hashes_of(["a"])[:, 0], 3)
    rows = np.arange(3, dtype=np.uint32)
    world.memory.add(1, CHAMPION, hashes, rows, np.array([[1.0], [2.0], [3.0]]))
    world.memory.add_shadow(2, hashes[::-1], rows[::-1], np.array([[3.0], [2.0], [9.0]]), np.zeros(3, bool), 0.0)
    pairs = world.resolve()
    assert (pairs.rows, pairs.disagreements, pairs.requests) == (3, 1, 1)
    assert world.label("a", 1.0, None, 3.0) == {"joined": 2}


def test_a_number_without_a_tolerance_is_not_compared() -> None:
    world = World()
    world.memory.begin(RolloutWatch("r", "m", 1, 2), PairCounts())
    world.champion(["a"], [1.0])
    world.shadow(["a"], [100.0])
    assert (world.resolve().rows, world.resolve().disagreements) == (0, 0)


def test_labels_join_their_prediction_and_count_the_live_error() -> None:
    world = World()
    world.champion(["a", "b"], [1.0, 5.0])
    assert world.label("a", 3.0) == {"joined": 1}
    assert world.label("b", 4.0, output="y") == {"joined": 1}
    live = world.memory.live[1, "y"]
    assert (live.kind, live.n, live.value) == ("number", 2, 1.5)


def test_the_live_error_of_classes_is_the_wrong_share() -> None:
    world = World(kind="class")
    world.champion(["a", "b", "c"], [1, 1, 0])
    for name in "abc":
        world.label(name, 1)
    assert world.memory.live[1, "label"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("order", ["label last", "label between", "label first"])
def test_a_labelled_pair_says_who_is_farther_whatever_came_first(order: str) -> None:
    world = World()
    steps: dict[str, Callable[[], object]] = {
        "answer": lambda: world.champion(["a", "b", "c"], [1.0, 2.0, 3.0]),
        "shadow": lambda: world.shadow(["a", "b", "c"], [5.0, 2.0, 4.0]),
        "label": lambda: [world.label(name, 4.0) for name in "abc"],
    }
    orders = {
        "label last": ["answer", "shadow", "label"],
        "label between": ["answer", "label", "shadow"],
        "label first": ["label", "answer", "shadow"],
    }
    for step in orders[order]:
        steps[step]()
        world.resolve()
    pairs = world.resolve()
    assert (pairs.farther, pairs.closer, pairs.ties) == (0, 2, 1)
    assert world.memory.live[1, "y"].value == pytest.approx(2.0)
    assert world.memory.live[2, "y"].value == pytest.approx(1.0)
    assert pairs.label_wall_ns in (7, 9)


def test_a_label_waits_for_its_prediction_and_expires() -> None:
    world = World()
    assert world.label("a", 1.0) == {"waiting": 1}
    assert world.label("b", 1.0, now_s=5.0) == {"waiting": 1}
    world.resolve(29.0)
    world.champion(["b"], [1.0])
    world.resolve(30.0)
    assert world.memory.outcomes == {(1, "joined"): 1, (0, "expired"): 1}
    assert world.memory.waiting == 0


def test_labels_that_wait_are_bounded_and_the_oldest_leave() -> None:
    world = World(labels=3)
    for name in "abcde":
        world.label(name, 1.0)
    assert world.memory.waiting == 3
    assert world.memory.outcomes == {(0, "expired"): 2}


def test_an_id_that_repeats_in_memory_is_ambiguous() -> None:
    world = World()
    world.champion(["a"], [1.0])
    world.champion(["a"], [2.0])
    assert world.label("a", 1.0) == {"ambiguous": 1}
    world.shadow(["a"], [1.0])
    assert (world.resolve().rows, world.resolve().unpaired) == (0, 1)


def test_a_second_label_of_a_row_is_ambiguous_and_not_counted_twice() -> None:
    world = World()
    world.champion(["a"], [1.0])
    world.label("a", 1.0)
    assert world.label("a", 1.0) == {"ambiguous": 1}
    assert world.memory.live[1, "y"].n == 1


def test_the_oldest_answers_leave_and_their_ids_may_come_again() -> None:
    world = World(limit=10)
    for i in range(35):
        world.champion([f"id{i}"], [float(i)])
    assert world.memory.remembered == 10
    assert world.label("id3", 3.0) == {"waiting": 1}
    assert world.label("id34", 34.0) == {"joined": 1}
    world.champion(["id5"], [5.0])
    assert world.label("id5", 5.0) == {"joined": 1}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), max_size=25), st.integers(1, 50))
def test_the_memory_finds_exactly_the_last_rows(steps: list[tuple[int, bool]], limit: int) -> None:
    world = World(limit=limit)
    n = 0
    for count, look in steps:
        world.champion([f"id{i}" for i in range(n, n + count)], [float(i) for i in range(n, n + count)])
        n += count
        if look:
            keys = hashes_of([f"id{i}" for i in range(n)])[:, 0]
            found = world.memory._find(keys)
            assert (found[: max(0, n - limit)] == -1).all()
            kept = found[max(0, n - limit) :]
            assert world.memory._said[kept, 0].tolist() == [float(i) for i in range(max(0, n - limit), n)]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([{"request_id": "a"}], "values"),
        ([{"request_id": "", "values": [1]}], "request_id"),
        ([{"request_id": "a", "values": "x"}], "values"),
        ([{"request_id": "a", "values": [{}]}], "numbers"),
        ([{"request_id": "a", "values": ["late"]}], "got 'late'"),
        ([{"request_id": "b", "values": [1.0]}, {"request_id": "a", "values": [float("nan")]}], "finite"),
        ([{"request_id": "a", "output": "nope", "values": [1.0]}], "'nope'"),
        ([{"request_id": "a", "output": 3, "values": [1.0]}], "output"),
        ([{"request_id": "a", "output": "y" * 1025, "values": [1.0]}], "1024 characters"),
        ([{"request_id": "a", "output": "\ud800", "values": [1.0]}], "output"),
        ([{"request_id": "c", "values": ["v" * 1025]}], "1024 characters"),
        ([{"request_id": "c", "values": ["\udfff"]}], "string value"),
        ([{"request_id": "\ud800", "values": [1.0]}], "visible ASCII"),
        ([{"request_id": "a b", "values": [1.0]}], "visible ASCII"),
        ([{"request_id": "é", "values": [1.0]}], "visible ASCII"),
        ([{"request_id": "a\n", "values": [1.0]}], "visible ASCII"),
        ([{"request_id": "a" * 129, "values": [1.0]}], "visible ASCII"),
        (["a"], "object"),
        ([{"request_id": "a", "values": [1.0]}] * (MAX_LABELS + 1), "at most"),
        ([{"request_id": "a", "values": [1.0] * 70_000}], "values"),
    ],
)
def test_a_label_that_cannot_be_read_is_refused_before_any_is_taken(labels: list[Any], message: str) -> None:
    world = World()
    world.champion(["a", "b"], [1.0, 1.0])
    with pytest.raises(MalformedRequest, match=message):
        world.memory.feedback(labels, 0.0, 0)
    assert world.memory.live == {}
    assert world.memory.waiting == 0


def test_scores_are_compared_by_their_largest() -> None:
    schema = classifier_schema(classes=3)
    outputs = np.array([[2, 0.1, 0.2, 0.7]])
    assert Answers(schema).reduce(outputs).tolist() == [[2.0]]
    alone = make_log_schema([], [TensorSpec("logits", "FP32", (None, 3))], True)
    answers = Answers(alone)
    assert answers.items[0].kind == "class"
    assert answers.reduce(np.array([[0.1, 5.0, 0.2], [np.nan, 1.0, 2.0]])).tolist()[0] == [1.0]
    assert np.isnan(answers.reduce(np.array([[np.nan, 1.0, 2.0]]))).all()


def scores_of(*classes: str) -> Answers:
    """A version that gives only named class scores."""
    spec = TensorSpec("probabilities", "FP32", (None, len(classes)), classes=classes)
    return Answers(make_log_schema([], [spec], True))


def test_scores_of_named_classes_are_compared_by_name_whatever_their_order() -> None:
    champion, candidate = scores_of("no", "yes", "maybe"), scores_of("yes", "other", "no")
    assert align(champion, candidate) == [(0, 0)]
    left = champion.reduce(np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9]]))
    right = candidate.reduce(np.array([[0.0, 0.1, 0.9], [0.9, 0.1, 0.0], [0.0, 0.9, 0.1]]))
    assert (left == right)[:, 0].tolist() == [True, True, False]
    assert champion.code(0, "yes") == left[1, 0]


def test_scores_of_numbered_classes_say_the_class_and_not_its_place() -> None:
    named = scores_of("3", "-1")
    assert named.reduce(np.array([[0.9, 0.1], [0.1, 0.9]])).tolist() == [[3.0], [-1.0]]
    assert named.code(0, -1) == -1.0
    assert align(named, scores_of("0", "1")) == [(0, 0)]
    assert align(named, scores_of("a", "b")) == []
