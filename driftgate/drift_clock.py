"""Which column tells the rows' time, and how it writes it: what `--by-time` names, as each table holds it.

Why: rows in the wrong order tell a wrong story with confidence. Invariants: how times are written is settled by every
row of both tables; a time that is missing, that nothing can read, or that can be read in two ways is refused with its
reason, never put somewhere. Called by `driftgate/drift.py` and what reads rows in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from driftgate.drift_columns import Column, Seen, look, settle
from driftgate.drift_table import Progress, Source, read
from monitor.dates import AMBIGUOUS, Dates
from monitor.reference_order import several_units
from registry.errors import MalformedRequest

MOST_ROWS = 100_000_000  # whose times are held at once

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Clocks:
    """The column that tells the time, as each table holds it; None where the reference has none: its order is taken."""

    reference: Column | None
    current: Column


def clocks_of(
    name: str,
    reference: Source,
    current: Source,
    override: str | None,
    codes: frozenset[str],
    date_format: str | None,
) -> Clocks:
    """Raises MalformedRequest for a column that tells no time, or one that can be read in two ways."""
    if name not in current.columns:
        raise MalformedRequest(f"by_time: the current rows have no column {name!r}")
    sides = [
        None if name not in source.columns else _seen(source, name, codes, date_format)
        for source in (reference, current)
    ]
    dates = [seen.dates for seen in sides if seen is not None and seen.dates is not None]
    if len(dates) == 2:  # what one side leaves open, the other may tell
        both = dates[0].joined(dates[1])
        sides = [seen and replace(seen, dates=seen.dates and _narrowed(seen.dates, both)) for seen in sides]
    before, now = sides
    told = None if before is None else _clock(name, before, override, codes)
    return Clocks(told, _clock(name, now or Seen(None), override, codes))


def times_of(source: Source, clock: Column, progress: Progress) -> Floats:
    """Every row's time (n,). Raises MalformedRequest for a row without one, and for too many rows."""
    parts: list[Floats] = []
    rows = 0
    for batch in read(source, [clock.name], "reading times", progress):
        parts.append(clock.convert(batch.column(0)).values)
        rows += batch.num_rows
        if rows > MOST_ROWS:
            raise MalformedRequest(f"by_time: {source.name} has more than {MOST_ROWS:,} rows")
    times = np.concatenate(parts) if parts else np.zeros(0)
    check_times(times, source.name, clock)
    return times


def check_times(times: Floats, table: str, clock: Column) -> None:
    """Raises MalformedRequest unless every row has a time, all in one unit."""
    wrong = np.flatnonzero(~np.isfinite(times))
    if len(wrong):
        rows = "1 row of {} has" if len(wrong) == 1 else f"{len(wrong):,} rows of {{}} have"
        raise MalformedRequest(
            f"by_time: {rows.format(table)} no time in {clock.name} that can be read (the first is row "
            f"{wrong[0] + 1:,}): leave them out or fill them in"
        )
    if clock.type != "date" and (fault := several_units(times)):
        raise MalformedRequest(f"by_time: {clock.name} of {table} {fault}")


def _seen(source: Source, name: str, codes: frozenset[str], date_format: str | None) -> Seen:
    """What all rows of a table say that its times are."""
    parts = [
        look(batch.column(0), codes, date_format, is_clock=True)
        for batch in read(source, [name], "reading times", lambda what, share: None)
        if batch.num_rows
    ]
    return _joined(source, name, [part for part in parts if part.type is not None or part.why_not])


def _joined(source: Source, name: str, parts: Sequence[Seen]) -> Seen:
    types = {part.type for part in parts}
    if not parts:
        return Seen(None)  # no row has a time, or there are no rows
    if len(types) > 1 and types != {"number", "integer"}:
        raise MalformedRequest(
            f"by_time: column {name!r} of {source.name} is not of one kind: {', '.join(sorted(map(str, types)))}"
        )
    if types != {"date"} or parts[0].dates is None:
        return parts[0]
    dates = parts[0].dates
    for part in parts[1:]:
        if part.dates is not None:
            dates = dates.joined(part.dates)
    if fault := dates.unlike():
        raise MalformedRequest(f"by_time: in column {name!r} of {source.name}, {fault}")
    return replace(parts[0], dates=dates)


def _narrowed(dates: Dates, both: Dates) -> Dates:
    """A side's readings, without those that are worse on both sides together."""
    best = [name for name in dates.best() if name in both.best()]
    return replace(dates, readable={name: dates.readable[name] for name in best or dates.best()})


def _clock(name: str, seen: Seen, override: str | None, codes: frozenset[str]) -> Column:
    column = settle(name, seen, seen, override, codes)  # a number where no row has a time
    if isinstance(column, str) and column == AMBIGUOUS:
        raise MalformedRequest(f"by_time: column {name!r}: {AMBIGUOUS}")
    if isinstance(column, str) or column.type not in ("date", "number", "integer"):
        kind = column if isinstance(column, str) else column.type
        raise MalformedRequest(f"by_time: column {name!r} tells no time ({kind}): dates or numbers do")
    return column
