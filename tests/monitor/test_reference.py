"""Tables as tensors: by name, in order, never a value changed in silence; every refusal says where and why."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monitor import reference
from monitor.reference import ReferenceRows, read_reference
from registry.errors import ArtifactRejected
from registry.vocabulary import TensorSpec

FREE = TensorSpec("x", "FP32", (None, None))
THREE = TensorSpec("x", "FP32", (None, 3))


def read(
    path: Path,
    *specs: TensorSpec,
    columns: list[str] | None = None,
    target: str | None = None,
    prediction: str | None = None,
) -> ReferenceRows:
    return read_reference(path, specs, columns, target, prediction, lambda *_: None)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("a,b,c,y\n1,2.5,,0\n3,-inf,1e300,1\n")
    return path


def test_one_matrix_takes_all_columns_but_target_in_order(table: Path) -> None:
    rows = read(table, THREE, target="y")
    assert rows.columns == ("a", "b", "c")
    assert rows.feeds["x"].dtype == np.float32
    np.testing.assert_array_equal(rows.feeds["x"], [[1, 2.5, np.nan], [3, -np.inf, np.inf]])


def test_columns_picks_and_orders(table: Path) -> None:
    rows = read(table, FREE, columns=["b", "a"])
    assert rows.columns == ("b", "a")
    np.testing.assert_array_equal(rows.feeds["x"], [[2.5, 1], [-np.inf, 3]])


def test_many_inputs_take_the_columns_of_their_names(table: Path) -> None:
    rows = read(
        table, TensorSpec("b", "FP64", (None, 1)), TensorSpec("a", "INT64", (None,)), TensorSpec("y", "BOOL", (None, 1))
    )
    assert {name: (feed.shape, feed.dtype.name) for name, feed in rows.feeds.items()} == {
        "b": ((2, 1), "float64"),
        "a": ((2,), "int64"),
        "y": ((2, 1), "bool"),
    }


def test_text_stays_text_and_missing_text_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('code,land\n007,NA\n,"Côte d\'Ivoire"\n')
    rows = read(path, TensorSpec("code", "BYTES", (None, 1)), TensorSpec("land", "BYTES", (None, 1)))
    assert rows.feeds["code"].tolist() == [["007"], [""]]
    assert rows.feeds["land"].tolist() == [["NA"], ["Côte d'Ivoire"]]


def test_large_integers_are_exact(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id\n9007199254740993\n")
    assert read(path, TensorSpec("id", "INT64", (None, 1))).feeds["id"].tolist() == [[9007199254740993]]


def test_parquet_and_packed_csv_read_as_the_plain_file(table: Path, tmp_path: Path) -> None:
    plain = read(table, THREE, target="y").feeds["x"]
    (tmp_path / "packed").write_bytes(gzip.compress(table.read_bytes()))
    pd.read_csv(table).to_parquet(tmp_path / "other")
    for name in ("packed", "other"):
        np.testing.assert_array_equal(read(tmp_path / name, THREE, target="y").feeds["x"], plain)


def test_an_unnamed_first_column_is_a_row_number_and_no_input(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1.0], "b": [2.0]}).to_csv(tmp_path / "t.csv")
    assert read(tmp_path / "t.csv", FREE).columns == ("a", "b")


def test_truth_values_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\nTrue,yes\nFalse,\n")
    np.testing.assert_array_equal(read(tmp_path / "t.csv", FREE).feeds["x"], [[1, 1], [0, np.nan]])


@pytest.mark.parametrize(
    ("content", "spec", "reason"),
    [
        ("", FREE, "cannot be read"),
        ("a,b\n", FREE, "no rows"),
        ("a,b\n1,2\n3,red\n", FREE, r"column 'b', row 2: 'red' is not a number"),
        ("a,b\n1,2\n", THREE, "takes 3 columns, got 2: a, b; pick and order them with --columns"),
        ("a,a\n1,2\n", FREE, "columns appear twice: a"),
        ("x\n1\n\n1.5\n", TensorSpec("x", "INT64", (None, 1)), r"row 2: '1.5' is not a whole number"),
        ("x,y\n1,1\n,2\n", TensorSpec("x", "INT32", (None, 1)), r"row 2: 'nan' is a missing value"),
        ("x\n300\n", TensorSpec("x", "INT8", (None, 1)), "out of the range of the INT8 input"),
        ("x\n1\n", TensorSpec("x", "FP32", (None, 3, 8, 8)), "use --golden instead"),
        ("a,b\n1,2,3,4\n1\n1,2,3,4,5\n", FREE, "cannot be read|not"),
    ],
)
def test_what_the_model_cannot_take_is_refused_with_the_place(
    tmp_path: Path, content: str, spec: TensorSpec, reason: str
) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ArtifactRejected, match=reason):
        read(tmp_path / "t.csv", spec)


def test_missing_columns_are_named_with_their_nearest(table: Path) -> None:
    with pytest.raises(ArtifactRejected, match=r"'aa' \(did you mean 'a'\?\)"):
        read(table, FREE, columns=["aa"])
    with pytest.raises(ArtifactRejected, match="the model's inputs are missing: 'z'"):
        read(table, TensorSpec("a", "FP32", (None, 1)), TensorSpec("z", "FP32", (None, 1)))
    with pytest.raises(ArtifactRejected, match="--target z: there is no such column"):
        read(table, FREE, target="z")
    with pytest.raises(ArtifactRejected, match="no such file"):
        read(table.with_name("absent.csv"), FREE)


@pytest.mark.parametrize("junk", [b"PAR1" + b"\0" * 100, b"\x1f\x8b" + b"\0" * 50, b"\xff\xfe\0a,b\n\x80\x81\n"])
def test_a_damaged_file_is_refused(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "t").write_bytes(junk)
    with pytest.raises(ArtifactRejected):
        read(tmp_path / "t", FREE)


def test_a_large_file_is_thinned_in_order_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "MOST_ROWS", 1000)
    monkeypatch.setattr(reference, "_CHUNK_ROWS", 300)
    pd.DataFrame({"a": np.arange(5000.0)}).to_csv(tmp_path / "t.csv", index=False)
    said: list[float] = []
    one = read_reference(tmp_path / "t.csv", [FREE], None, None, None, lambda _, share: said.append(share))
    values = one.feeds["x"].ravel()
    assert (one.rows, one.rows_read, len(values)) == (1000, 5000, 1000)
    assert (np.diff(values) > 0).all()
    assert 2200 < values.mean() < 2800
    np.testing.assert_array_equal(read(tmp_path / "t.csv", FREE).feeds["x"].ravel(), values)
    assert said == sorted(said)
    assert said[-1] == 1.0


@pytest.mark.parametrize("name", ["nannyml_titanic_reference.parquet", "german_credit.parquet", "adult_train.parquet"])
def test_real_tables_with_nulls_text_and_many_categories_are_read(material: Path, name: str) -> None:
    frame = pd.read_parquet(material / "data" / name)
    specs = [
        TensorSpec(str(c), "FP32" if pd.api.types.is_numeric_dtype(kind) else "BYTES", (None, 1))
        for c, kind in frame.dtypes.items()
    ]
    rows = read(material / "data" / name, *specs)
    assert rows.rows == len(frame)
    for spec in specs:
        absent = int(frame[spec.name].isna().sum())
        feed = rows.feeds[spec.name].ravel()
        assert (int((feed == "").sum()) if spec.datatype == "BYTES" else int(np.isnan(feed).sum())) == absent


def test_rows_are_put_into_the_order_of_their_moments(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,at\n" + "\n".join(f"{i},2026-01-01 00:{59 - i:02d}:00" for i in range(60)))
    rows = read_reference(path, [FREE], None, None, None, lambda *_: None, by_time="at")
    assert rows.columns == ("a",)
    assert rows.feeds["x"][:, 0].tolist() == list(range(59, -1, -1))
    assert rows.order.in_time is True
    assert rows.order.times_s is not None
    assert np.diff(rows.order.times_s).tolist() == [60.0] * 59
    pd.DataFrame({"a": [1.0, 2.0], "at": [5, 3]}).to_parquet(tmp_path / "t.parquet")
    plain = read_reference(tmp_path / "t.parquet", [FREE], None, None, None, lambda *_: None, by_time="at")
    assert plain.feeds["x"][:, 0].tolist() == [2.0, 1.0]
    assert plain.order.times_s is None  # an order, but no moments


def test_a_moment_that_is_none_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,at\n1,2026-01-01\n2,soon\n")
    with pytest.raises(ArtifactRejected, match="column 'at', row 2: 'soon' is no moment of time"):
        read_reference(path, [FREE], None, None, None, lambda *_: None, by_time="at")


def test_a_table_sorted_by_its_target_is_not_in_the_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(0)
    path.write_text("a,y\n" + "\n".join(f"{rng.normal():.3f},{i // 100}" for i in range(300)))
    rows = read(path, FREE, target="y")
    assert rows.order.in_time is False
    assert "sorted by 'y'" in rows.notes[0]
    assert read(path, FREE, columns=["a"]).order.in_time is None
    assert read_reference(path, [FREE], None, "y", None, lambda *_: None, unordered=True).notes == ()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_texts_that_their_owner_calls_missing_are_missing_numbers(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"t.{kind}"
    frame = pd.DataFrame({"a": ["1", "?", "3"], "b": ["x", "?", "z"]})
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    specs = (TensorSpec("a", "FP32", (None, 1)), TensorSpec("b", "BYTES", (None, 1)))
    with pytest.raises(ArtifactRejected, match="'\\?' is not a number"):
        read(path, *specs)
    rows = read_reference(path, specs, None, None, None, lambda *_: None, missing={"a": ("?",), "b": ("?",)})
    np.testing.assert_array_equal(rows.feeds["a"][:, 0], [1, np.nan, 3])
    assert rows.feeds["b"][:, 0].tolist() == ["x", "?", "z"]  # a category like any other: so it is live
