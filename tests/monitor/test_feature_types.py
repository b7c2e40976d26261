"""Texts as categories or lengths, settled before the log schema is stored, and what an owner may say of a column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from monitor.feature_types import contradicted, impossible, is_free_text, settle, texts_as_categories, unknown_columns
from monitor.profile import ReferenceProfile, fit
from monitor.record import Column, LogSchema, gather, make_log_schema
from registry.vocabulary import TensorSpec

INPUTS = (
    TensorSpec("age", "FP32", (None, 1)),
    TensorSpec("words", "BYTES", (None, 2)),
    TensorSpec("city", "BYTES", (None, 1)),
)
OUTPUTS = (TensorSpec("label", "INT64", (None,)), TensorSpec("named", "BYTES", (None,)))


def schema() -> LogSchema:
    return make_log_schema(INPUTS, OUTPUTS, by_rows=True)


def texts(*columns: list[str]) -> NDArray[Any]:
    return np.array(columns, object).T


def feeds(rows: int = 200) -> dict[str, NDArray[Any]]:
    free = [f"order {at} is late" for at in range(rows)]
    return {
        "age": np.arange(rows, dtype=np.float32)[:, None],
        "words": texts(["yes", "no"] * (rows // 2), free),
        "city": texts(["Rome", "", "Oslo", "Lima"] * (rows // 4)),
    }


def test_free_text_is_many_different_texts_whatever_the_rows() -> None:
    assert not is_free_text(30, 30)
    assert is_free_text(31, 31)
    assert not is_free_text(300, 1000)
    assert is_free_text(301, 1000)


def test_what_the_rows_show_to_be_free_text_is_logged_as_its_length() -> None:
    found = settle(schema(), (), feeds())
    kinds = {column.name: (column.kind, column.hashed) for column in found.inputs}
    assert kinds == {
        "age": ("number", False),
        "words[0]": ("category", True),
        "words[1]": ("length", False),
        "city": ("category", True),
    }
    assert found.outputs == schema().outputs
    assert LogSchema.from_dict(found.to_dict()) == found
    rows = gather(found, "inputs", feeds(), 200)
    assert rows[:2, 2].tolist() == [len("order 0 is late"), len("order 1 is late")]
    assert rows[0, 1] == rows[2, 1] != rows[1, 1]


def test_owners_have_the_last_word_on_texts() -> None:
    said = (("words[1]", "categorical", ()), ("city", "text_length", ()))
    found = settle(schema(), said, feeds())
    assert [column.kind for column in found.inputs] == ["number", "category", "category", "length"]
    assert settle(schema(), said, None) == found
    assert settle(schema(), (), None) == schema()
    rows = gather(found, "inputs", feeds(), 200)
    assert rows[:3, 3].tolist()[::2] == [4.0, 4.0]
    assert np.isnan(rows[1, 3])


def test_lengths_are_characters_whatever_carries_the_text() -> None:
    found = settle(schema(), (("city", "text_length", ()),), None)
    sent = {**feeds(4), "city": texts(["größe", "größe", "数", ""])}
    sent["city"][1, 0] = sent["city"][1, 0].encode()
    rows = gather(found, "inputs", sent, 4)
    assert rows[:3, 3].tolist() == [5.0, 5.0, 1.0]
    assert np.isnan(rows[3, 3])


def test_a_profile_of_lengths_counts_live_texts_alike_and_is_read_back() -> None:
    found = settle(schema(), (), feeds())
    outputs = np.column_stack([np.zeros(200), np.ones(200)])
    made = fit(found, gather(found, "inputs", feeds(), 200), outputs)
    column = made.inputs[2]
    assert (column.type, column.bins.kind, column.hashed, column.noun) == ("text_length", "number", False, "lengths")
    assert (column.low, column.high) == (15.0, 17.0)
    assert ReferenceProfile.from_bytes(made.to_bytes()).inputs[2] == column


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (("age", "text_length", ()), "column 'age' holds numbers, so it has no text_length"),
        (("city", "numeric", ()), "input 'city' is text: it is categorical or text_length, not 'numeric'"),
        (("city", "", ("?",)), "missing codes are for numbers"),
        (("named", "text_length", ()), "output 'named' is text, and so categorical"),
        (("label", "text_length", ()), "column 'label' holds numbers"),
    ],
)
def test_what_cannot_be_is_told(said: tuple[str, str, tuple[str, ...]], told: str) -> None:
    (fault,) = impossible(settle(schema(), [said], None), [said])
    assert told in fault


def test_a_summary_has_one_type() -> None:
    wide = make_log_schema([TensorSpec("image", "FP32", (None, 9000))], OUTPUTS, by_rows=True)
    assert len(impossible(wide, [("image.mean", "integer", ())])) == 1


def test_what_can_be_is_not_told() -> None:
    said = [
        ("age", "boolean", ("?",)),
        ("city", "categorical", ()),
        ("label", "numeric", ()),
        ("nobody", "numeric", ()),
    ]
    assert impossible(schema(), said) == []


def test_a_column_that_is_not_there_is_told_with_the_nearest() -> None:
    said = [("ag", "numeric", ()), ("age", "numeric", ()), ("Stadt", "", ()), ("alter", "numeric", ())]
    told = unknown_columns(schema(), said, ["alter"])
    assert told == [
        "there is no column 'ag' (did you mean 'age'?); columns are age, words[0], words[1], city, label, named, alter",
        "there is no column 'Stadt'; columns are age, words[0], words[1], city, label, named, alter",
    ]


def test_rows_that_contradict_a_type_are_told_with_an_example() -> None:
    columns = [Column(name, "x", "number", at) for at, name in enumerate("abc")]
    rows = np.array([[0, 1, 0.5], [1, np.nan, 2], [7, np.inf, 3]])
    types = {"a": "boolean", "b": "integer", "c": "integer"}
    assert contradicted(columns, rows, types) == [
        "column 'a' is said to be boolean, and 1 of 3 reference values are something else than 0 and 1, such as 7",
        "column 'c' is said to be integer, and 1 of 3 reference values are no whole numbers, such as 0.5",
    ]
    assert contradicted(columns, rows, {"a": "numeric", "c": "categorical"}) == []


def test_a_version_that_logs_free_text_as_categories_is_noted() -> None:
    (note,) = texts_as_categories(schema(), (), feeds())
    assert note.startswith("words[1]: 200 different texts in 200 rows are free text")
    assert texts_as_categories(schema(), [("words[1]", "categorical", ())], feeds()) == []
    assert texts_as_categories(settle(schema(), (), feeds()), (), feeds()) == []
