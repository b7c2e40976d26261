from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from monitor import looks as module
from monitor import profile
from monitor.counts import Counter
from monitor.drift import measure
from monitor.histograms import histogram
from monitor.looks import LOOK_EVERY_S, WINDOWS, Look, Slices
from monitor.windows import Window
from tests.support.records import classifier_schema


def a_window(rows: int = 500) -> tuple[profile.ReferenceProfile, Window]:
    rng = np.random.default_rng(3)
    schema = classifier_schema(7)
    x = rng.normal(size=(4000, 7)).astype("f4")
    y = np.column_stack([rng.integers(0, 2, 4000), rng.random((4000, 2))]).astype(schema.output_dtype)
    fitted = profile.fit(schema, x, y)
    inputs = Counter(fitted.input_bins(), schema.input_dtype).count((x[:rows] + 0.3).astype("f4"))
    outputs = Counter(fitted.output_bins(), schema.output_dtype).count(y[:rows])
    return fitted, Window(0, 300, 0, inputs, outputs)


@pytest.mark.parametrize("columns", [1, 3, 100])
def test_a_look_in_parts_says_what_a_whole_one_says(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE_COLUMNS", columns)
    fitted, window = a_window()
    whole = measure(fitted, window.inputs, window.outputs, window="5m", level=1e-6)
    look = Look(Slices(fitted), window, "5m", 1e-6)
    assert look.finish() == whole
    assert look.finish() == whole
    assert {m.profile for m in whole} == {fitted.digest}


def test_a_window_ends_where_its_profile_begins() -> None:
    fitted, _ = a_window()
    lately = replace(fitted, since_s=1000.5)
    assert [module.reach_s(lately, 300, wall_s) for wall_s in (5000, 1100, 900)] == [300, 100, 300]
    assert module.reach_s(fitted, 300, 1100) == 300


def test_every_window_is_looked_at_many_times_in_its_length() -> None:
    for name, seconds in WINDOWS.items():
        assert seconds / 30 <= LOOK_EVERY_S[name] <= seconds / 18


def test_a_histogram_is_the_counts_that_were_compared() -> None:
    fitted, window = a_window()
    drawn = histogram(fitted.inputs[2], fitted.rows, window.inputs, 2)
    assert json.loads(json.dumps(drawn)) == drawn
    assert len(drawn["edges"]) + 1 == len(drawn["reference"]["counts"]) == len(drawn["now"]["counts"])
    assert sum(drawn["reference"]["counts"]) + drawn["reference"]["missing"] == fitted.rows == 4000
    assert sum(drawn["now"]["counts"]) + drawn["now"]["missing"] == drawn["now"]["rows"] == 500
    assert drawn["now"]["mean"] == pytest.approx(drawn["reference"]["mean"] + 0.3, abs=0.1)
    label = histogram(fitted.outputs[0], fitted.rows, window.outputs, 0)
    assert (label["of"], label["values"]) == ("category", [0.0, 1.0])
    assert label["now"]["counts"][2] == 0
