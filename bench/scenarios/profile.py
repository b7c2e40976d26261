"""A reference profile of a large table: Parquet read into tensors, and the profile of its inputs fitted.

One process, no model behind it: what the version's own runs take comes on top. Half of the columns are independent
rows, the others come in runs, are whole numbers or have missing values, so that every part of the fit has work.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bench.result import Result
from bench.scenario import Options

SUMMARY = "a reference profile of a million rows of 50 columns, from Parquet"
BAR_S = 10.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags of this scenario."""
    parser.add_argument("--rows", type=int, default=1_000_000, help="(%(default)s)")
    parser.add_argument("--columns", type=int, default=50, help="(%(default)s)")


def run(options: Options) -> Result:
    """Run it."""
    import pandas as pd

    from monitor.profile import fit
    from monitor.record import make_log_schema
    from monitor.reference import read_reference
    from registry.vocabulary import TensorSpec

    rows, width = (20_000 if options.quick else options.arguments.rows), options.arguments.columns
    chance = np.random.default_rng(7)
    table = {}
    for at in range(width):
        values = chance.normal(size=rows).astype(np.float32)
        if at % 4 == 1:
            values = np.repeat(values, 20)[:rows]
        elif at % 4 == 2:
            values = np.floor(values * 20)
        elif at % 4 == 3:
            values[chance.random(rows) < 0.02] = np.nan
        table[f"c{at}"] = values
    path = options.folder / "rows.parquet"
    pd.DataFrame(table).to_parquet(path)
    spec = TensorSpec("x", "FP32", (None, width))
    schema = make_log_schema([spec], [], by_rows=True, columns=list(table))
    reading, fitting, busy = [], [], []
    for _ in range(options.pairs_or(3)):
        started, spent = time.perf_counter(), time.process_time()
        found = read_reference(path, [spec], None, None, None, lambda *_: None)
        read = time.perf_counter()
        profile = fit(schema, found.feeds["x"], np.empty((found.rows, 0)), order=found.order, together=True)
        fitting.append(time.perf_counter() - read)
        reading.append(read - started)
        busy.append(time.process_time() - spent)
        options.say(f"  read {reading[-1]:.2f} s, fitted {fitting[-1]:.2f} s, {profile.rows:,} rows")
    result = Result("profile")
    result.add("reading", "s", reading, "lower")
    result.add("fitting", "s", fitting, "lower")
    result.add("profile of the table", "s", [a + b for a, b in zip(reading, fitting, strict=True)], "lower")
    result.add("processor time of it", "s", busy, "lower")
    result.bar("a large reference is profiled in", "profile of the table", "<=", BAR_S)
    result.facts.update(rows=rows, columns=width, rows_kept=profile.rows)
    return result
