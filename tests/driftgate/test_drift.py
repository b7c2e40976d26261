"""Two tables compared: what moved is found and named, what did not is left alone, whatever a column holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy import stats

from driftgate import drift, drift_compare
from registry.errors import ArtifactRejected, MalformedRequest

N = 4000


def table(seed: int, rows: int = N, **changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "x": rng.normal(size=rows),
        "whole": rng.poisson(5, rows),
        "flag": rng.random(rows) < 0.3,
        "colour": rng.choice(["red", "green", "blue"], rows).tolist(),
        "constant": np.full(rows, 3.5),
        "empty": pa.nulls(rows),
    }
    return {**columns, **changed}


def alarms(reference: Any, current: Any, **options: Any) -> set[str]:
    return {feature.feature for feature in drift.compare(reference, current, **options).alarms}


def feature(found: drift.Comparison, name: str) -> drift.FeatureDrift:
    return next(item for item in found.features if item.feature == name)


def test_rows_of_the_same_kind_raise_no_alarm_and_every_column_is_told() -> None:
    found = drift.compare(table(0), table(1))
    assert found.alarms == ()
    assert {item.feature: item.type for item in found.features} == {
        "x": "number",
        "whole": "integer",
        "flag": "boolean",
        "colour": "category",
        "constant": "number",
        "empty": "number",
    }


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("x", lambda rng: rng.normal(0.3, 1, N), "higher"),
        ("x", lambda rng: rng.normal(-0.3, 1, N), "lower"),
        ("x", lambda rng: np.where(rng.random(N) < 0.05, np.nan, rng.normal(size=N)), "Missing values"),
        ("x", lambda rng: np.append(rng.normal(0.3, 1, N - 1), 1e4), "higher"),
        ("whole", lambda rng: rng.poisson(6, N), "higher"),
        ("flag", lambda rng: rng.random(N) < 0.5, "“true” rose"),
        ("colour", lambda rng: rng.choice(["red", "green", "pink"], N).tolist(), "most often “pink”"),
        ("constant", lambda rng: np.where(rng.random(N) < 0.05, 4.5, 3.5), "nearly every row"),
        ("empty", lambda rng: rng.normal(size=N), "Missing values"),
    ],
)
def test_only_the_column_that_moved_raises_an_alarm(name: str, values: Any, words: str) -> None:
    found = drift.compare(table(0), table(1, **{name: values(np.random.default_rng(2))}))
    assert [item.feature for item in found.alarms] == [name]
    moved = found.alarms[0]
    assert words in moved.explanation
    assert moved.value is not None
    assert moved.threshold is not None
    assert moved.value > moved.threshold


@pytest.mark.slow
def test_the_promise_holds_over_many_runs_without_drift() -> None:
    """400 runs at a promised 5 %: at most what a binomial allows in 999 of 1,000 cases."""
    runs = 400
    wrong = sum(
        bool(alarms(table(2 * seed, 1500), table(2 * seed + 1, 1000), false_alarm_probability=0.05))
        for seed in range(runs)
    )
    assert wrong <= stats.binom.ppf(0.999, runs, 0.05)


def test_a_column_of_one_side_only_is_reported() -> None:
    found = drift.compare(table(0, old=[1.0] * N), table(1, new=[1.0] * N))
    assert (found.only_in_reference, found.only_in_current) == (("old",), ("new",))
    assert "old" not in {item.feature for item in found.features}


def test_row_numbers_and_times_are_not_features() -> None:
    def numbered(seed: int, start: int) -> dict[str, Any]:
        number = np.arange(start, start + N)
        return table(seed, id=number, when=pd.Timestamp("2026-01-01") + pd.to_timedelta(number, "min"))

    found = drift.compare(numbered(0, 0), numbered(1, N))
    assert {item.feature for item in found.not_compared} == {"id", "when"}
    assert found.alarms == ()
    chosen = drift.compare(numbered(0, 0), numbered(1, N), types={"id": "number"})
    assert "id" in {item.feature for item in chosen.features}


def test_a_file_sorted_by_a_feature_hides_no_drift_of_it() -> None:
    def ordered(mean: float) -> pd.DataFrame:
        frame = pd.DataFrame({"x": np.random.default_rng(0).normal(mean, 1, N), "y": np.arange(N) % 7})
        return frame.sort_values("x")

    found = drift.compare(ordered(0.0), ordered(0.3))
    assert [item.feature for item in found.alarms] == ["x"]
    assert "sorted by x" in found.notes[0]
    assert alarms(ordered(0.0), ordered(0.0)) == set()


def test_rows_that_repeat_each_other_count_for_less_unless_told_otherwise() -> None:
    def sessions(seed: int) -> dict[str, Any]:
        return {"x": np.repeat(np.random.default_rng(seed).normal(size=N // 20), 20)}

    runs = [(sessions(seed), sessions(seed + 100)) for seed in range(10)]
    assert not any(alarms(*run) for run in runs)
    assert any(alarms(*run, independent_rows=True) for run in runs)


@pytest.mark.parametrize("form", ["parquet", "csv", "csv.gz", "pandas", "arrow"])
def test_every_form_of_table_gives_the_same_answer(tmp_path: Path, form: str) -> None:
    sides = []
    for name, seed, shift in (("a", 0, 0.0), ("b", 1, 0.4)):
        columns = table(seed)
        columns["x"] = np.round(columns["x"] + shift, 6)
        frame = pd.DataFrame(columns)
        path = tmp_path / f"{name}.{form}"
        if form == "parquet":
            frame.to_parquet(path)
        elif form.startswith("csv"):
            frame.to_csv(path, index=False)
        sides.append({"pandas": frame, "arrow": pa.Table.from_pandas(frame)}.get(form, path))
    found = drift.compare(*sides)
    assert [item.feature for item in found.alarms] == ["x"]
    assert feature(found, "x").value == pytest.approx(0.17, abs=0.03)
    assert [feature(found, name).type for name in ("whole", "flag", "colour")] == ["integer", "boolean", "category"]


def test_the_two_sides_may_store_a_column_differently() -> None:
    rng = np.random.default_rng(0)
    whole, flag = rng.integers(0, 5, N), rng.random(N) < 0.5
    before = {"a": whole, "b": whole.astype(str).tolist(), "c": flag, "d": whole.astype(float), "e": ["k"] * N}
    after = {"a": whole.astype(str).tolist(), "b": whole, "c": flag.astype(int), "d": whole, "e": pa.nulls(N)}
    found = drift.compare(before, after)
    assert [item.feature for item in found.alarms] == ["e"]
    assert all(item.unreadable == (0, 0) for item in found.features)


def test_values_of_another_type_count_as_missing_and_are_told() -> None:
    values = np.arange(N) % 50
    broken = [str(value) if at % 10 else "oops" for at, value in enumerate(values)]
    found = drift.compare({"x": values}, {"x": broken})
    assert found.alarms[0].statistic == "missing"
    assert found.alarms[0].unreadable == (0, N // 10)
    assert "400 current values are no numbers" in found.alarms[0].explanation


def test_missing_codes_are_missing_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 9, N)
    coded = [None if r < 0.2 else int(v) for v, r in zip(values, rng.random(N), strict=True)]
    for code, options in (("?", {}), (-999, {"missing_codes": ["-999"]}), ("unknown", {"missing_codes": ["unknown"]})):
        written = [code if value is None else value for value in coded]
        as_column = written if isinstance(code, int) else list(map(str, written))
        assert alarms({"x": coded}, {"x": as_column}, **options) == set()
    assert alarms({"x": coded}, {"x": [-999 if value is None else value for value in coded]}) == {"x"}


def test_a_type_can_be_chosen_and_a_column_left_out() -> None:
    rng = np.random.default_rng(0)
    codes, others = rng.integers(0, 6, N), rng.integers(3, 9, N)
    found = drift.compare({"c": codes, "z": codes}, {"c": others, "z": others}, types={"c": "category"}, skip=["z"])
    assert [(item.feature, item.type) for item in found.features] == [("c", "category")]
    assert "never had" in found.alarms[0].explanation


@pytest.mark.parametrize(
    "options",
    [
        {"types": {"nope": "number"}},
        {"skip": ["nope"]},
        {"by_time": "nope"},
        {"false_alarm_probability": 0.0},
        {"false_alarm_probability": 1.5},
        {"skip": ["x"]},
    ],
)
def test_an_option_that_means_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MalformedRequest):
        drift.compare({"x": [1.0, 2.0]}, {"x": [1.0, 2.0]}, **options)


def test_a_type_that_does_not_exist_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="types are number, integer"):
        drift.compare({"x": [1.0]}, {"x": [1.0]}, types={"x": "float"})


@pytest.mark.parametrize("rows", [1, 3, 50])
def test_few_rows_are_unknown_rather_than_good(rows: int) -> None:
    found = drift.compare(table(0, rows), table(1, rows))
    assert feature(found, "x").verdict == "unknown"
    assert feature(found, "x").cause == "not_enough"
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_table_without_rows_is_refused_or_unknown() -> None:
    with pytest.raises(ArtifactRejected, match="has no rows"):
        drift.compare(table(0, 0), table(1))
    found = drift.compare(table(0), table(1, 0))
    assert found.current.rows == 0
    assert {item.verdict for item in found.features} == {"unknown"}


def test_nasty_values_are_counted_not_feared() -> None:
    nasty = [np.inf, -np.inf, np.nan, 1e308, -1e308, 5e-324, 0.0, -0.0] * 100
    found = drift.compare({"x": nasty, "y": [1e300] * 800}, {"x": nasty[::-1], "y": [1e300] * 800})
    assert found.alarms == ()
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_reference_larger_than_memory_is_read_twice_and_counted_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    rows = 60_000
    frame = pd.DataFrame({"x": rng.normal(size=rows), "c": rng.choice(list("abc"), rows)})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.assign(x=frame["x"] + 0.1).to_parquet(tmp_path / "b.parquet")
    whole = drift.compare(tmp_path / "a.parquet", tmp_path / "b.parquet")
    monkeypatch.setattr(drift_compare, "KEEP_BYTES", 200_000)
    monkeypatch.setattr(drift_compare, "SAMPLE_VALUES", 20_000)
    parts = drift.compare(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert parts.reference.rows == rows
    assert [item.feature for item in parts.alarms] == [item.feature for item in whole.alarms] == ["x"]
    assert sum(item.reference for item in feature(parts, "x").bins) == pytest.approx(1.0)
    assert feature(parts, "x").value == pytest.approx(feature(whole, "x").value or 0.0, rel=0.2)
    assert any("does not fit" in note for note in parts.notes)


def test_progress_is_told_and_rises_to_one(tmp_path: Path) -> None:
    frame = pd.DataFrame(table(0))
    frame.to_csv(tmp_path / "a.csv", index=False)
    seen: dict[str, list[float]] = {}
    drift.compare(tmp_path / "a.csv", table(1), progress=lambda what, share: seen.setdefault(what, []).append(share))
    assert set(seen) == {"reading the reference", "counting the current rows"}
    for shares in seen.values():
        assert shares == sorted(shares)
        assert shares[-1] == 1.0


def test_outputs_are_told_apart_and_the_document_is_json() -> None:
    found = drift.compare(table(0), table(1), outputs=["x"])
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    kinds = {item["feature"]: item["kind"] for item in document["features"]}
    assert kinds["x"] == "output"
    assert kinds["whole"] == "input"
    for item in document["features"]:
        assert {"feature", "alarm", "statistic", "value", "threshold", "rows", "explanation"} <= item.keys()


def test_a_dictionary_column_decimals_and_dates_are_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    days = rng.integers(0, 365, N)
    columns = pa.table(
        {
            "d": pa.array(rng.choice(["p", "q"], N)).dictionary_encode(),
            "m": pa.array(np.round(rng.normal(size=N), 2)).cast(pa.decimal128(8, 2)),
            "born": pa.array(days.astype("datetime64[D]")),
            "nested": pa.array([[1, 2]] * N),
            "t": pa.array(days.astype(np.int32), pa.time32("s")),
        }
    )
    parquet.write_table(columns, tmp_path / "a.parquet")
    later = columns.set_column(2, "born", pa.array((days + 40).astype("datetime64[D]")))
    found = drift.compare(tmp_path / "a.parquet", later)
    assert [(item.feature, item.type) for item in found.alarms] == [("born", "date")]
    assert "1970-" in found.alarms[0].explanation
    assert [item.feature for item in found.not_compared] == ["nested"]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_what_separates_values_is_told_by_what_stands_outside_of_quotes(tmp_path: Path, mark: str) -> None:
    names = ["a", "b, in EUR; with tax, and | more", 'a 3.5" disk', 'c "quoted, twice"', "two\nlines;;;\t\t\t||| ,,,"]
    for at, path in enumerate(paths := [tmp_path / "a.csv", tmp_path / "b.csv"]):
        values = np.random.default_rng(at).integers(0, 9, (300, len(names)))
        with path.open("w", newline="") as file:
            file.write("\r\n")
            writer = csv.writer(file, delimiter=mark)
            writer.writerows([names, *values.tolist()])
    assert {feature.feature for feature in drift.compare(*paths).features} == set(names)


def test_a_quote_in_the_middle_of_a_name_quotes_nothing(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        rows = "\n".join(f"{at % 3};{at % 2},5;{at % 5}" for at in range(200))
        (tmp_path / name).write_text(f'a 3.5" disk;a 5" pipe, in stock;c\n{rows}\n')
    found = drift.compare(tmp_path / "a.csv", tmp_path / "b.csv")
    assert {feature.feature for feature in found.features} == {'a 3.5" disk', 'a 5" pipe, in stock', "c"}
