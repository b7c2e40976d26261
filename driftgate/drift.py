"""Drift between two tables, offline: what moved, by how much, against which limit, and in which way.

    from driftgate import drift

    found = drift.compare("reference.parquet", "current.parquet")
    for feature in found.alarms:
        print(feature.feature, feature.explanation)
    found.write_html("report.html")

Why: a data scientist can use the monitor's statistics without the gateway. Invariant: a run without drift raises any
alarm at all with a probability of at most `false_alarm_probability`, over all its features and statistics, and how
features go together.
The command `driftgate drift --reference A --current B` prints what this returns. Importing it costs next to nothing;
numpy, pyarrow and scipy are imported by the first comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from driftgate.drift_result import Began, Bin, Comparison, FeatureDrift, Moved, NotCompared, Side, Statistic
from driftgate.drift_result_together import ColumnError, Multivariate, MultivariateStatistic, PairMoved

__all__ = [
    "FALSE_ALARM_PROBABILITY",
    "Began",
    "Bin",
    "ColumnError",
    "Comparison",
    "FeatureDrift",
    "Moved",
    "Multivariate",
    "MultivariateStatistic",
    "NotCompared",
    "PairMoved",
    "Side",
    "Statistic",
    "compare",
]

FALSE_ALARM_PROBABILITY = 0.01  # of any false alarm in a run


def compare(
    reference: Any,
    current: Any,
    *,
    by_time: str | None = None,
    date_format: str | None = None,
    false_alarm_probability: float = FALSE_ALARM_PROBABILITY,
    types: Mapping[str, str] | None = None,
    skip: Collection[str] = (),
    outputs: Collection[str] = (),
    missing_codes: Sequence[str] = (),
    independent_rows: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Comparison:
    """Compare the rows of two tables, column by column.

    A table is a path (CSV, gzipped CSV, Parquet), a pandas or Polars data frame, an Arrow table, or a mapping of names
    to columns. `types` overrides what was inferred, by column: number, integer, boolean, category, date or text (whose
    length is watched). `skip` leaves columns out; `outputs` names what a model said. `missing_codes` are values that
    mean "missing", besides the usual ones. `independent_rows` says that the order of the reference's rows means
    nothing; otherwise neighbouring rows that resemble each other count for less. `by_time` names the column that tells
    the rows' time; `date_format` says how texts write dates where that can be read in two ways: year-first, day-first,
    month-first, or a format of `strptime`. `progress(what, share done)`.

    Raises ArtifactRejected (a ServingError) for a table that cannot be read, MalformedRequest for an argument that can
    mean nothing.
    """
    from driftgate.drift_clock import clocks_of
    from driftgate.drift_columns import missing_codes as codes_of
    from driftgate.drift_compare import count, head_rows, learn
    from driftgate.drift_judge import judge
    from driftgate.drift_table import Rows, nearest, open_table
    from driftgate.drift_timeline import Moment, watch
    from monitor.budget import Budget
    from monitor.dates import check_format
    from registry.errors import MalformedRequest

    if not 0.0 < false_alarm_probability < 1.0:
        raise MalformedRequest(f"a false-alarm probability lies between 0 and 1, got {false_alarm_probability}")
    report = progress or (lambda what, share: None)
    old, new = open_table(reference, "reference"), open_table(current, "current")
    known = [*old.columns, *(name for name in new.columns if name not in old.columns)]
    for what, named in (("types", types or ()), ("skip", skip), ("outputs", outputs), ("by_time", [by_time])):
        for name in named:
            if name is not None and name not in known:
                raise MalformedRequest(f"{what}: no table has a column {name!r}{nearest(str(name), known)}")
    left_out = {*skip, *([by_time] if by_time else [])}
    both = [name for name in old.columns if name in new.columns and name not in left_out]
    if not both:
        raise MalformedRequest("the tables have no column in common")
    types, codes = types or {}, codes_of(missing_codes)
    written = None if date_format is None else check_format(date_format)
    clocks = None if by_time is None else clocks_of(by_time, old, new, types.get(by_time), codes, written)
    rows = Rows(new, [*both, *([by_time] if by_time else [])], head_rows(len(both)))
    learned = learn(
        old,
        rows,
        both,
        types=types,
        codes=codes,
        date_format=written,
        independent=independent_rows,
        clocks=clocks,
        progress=report,
    )
    together = learned.together
    # Columns together have their fixed share; columns one by one have the rest, in the order of time or at once.
    apart = false_alarm_probability
    if len(learned.columns) > 1:
        apart -= Budget(false_alarm_probability).of("multivariate")
    probability = apart
    moments: dict[str, Moment] = {}
    if clocks is None:
        names = [column.name for column in learned.columns]
        batches = rows.all(names, "counting the current rows", report)
        counted = count(batches, learned.columns, learned.profile, together.see_current)
    else:
        budget = Budget(apart).among(["inputs", "quality", "level"])
        counted, moments = watch(
            new, rows, learned.columns, learned.profile, clocks.current, budget, report, together.see_current
        )
        probability = budget.of("level")
    features = judge(learned, counted, frozenset(outputs), probability, moments)
    multivariate = None
    if len(learned.columns) > 1:
        multivariate = together.judge(
            learned.profile.inputs,
            [column.name_of for column in learned.columns],
            {feature.feature for feature in features if feature.alarm},
            false_alarm_probability - apart,
        )
    return Comparison(
        reference=Side(old.name, learned.profile.rows),
        current=Side(new.name, counted.rows),
        features=tuple(features),
        not_compared=tuple(NotCompared(name, why) for name, why in learned.not_compared.items()),
        only_in_reference=tuple(name for name in old.columns if name not in new.columns and name not in left_out),
        only_in_current=tuple(name for name in new.columns if name not in old.columns and name not in left_out),
        notes=tuple(learned.notes()),
        false_alarm_probability=false_alarm_probability,
        by_time=by_time,
        multivariate=multivariate,
    )
