"""How `driftgate models NAME` tells whether requests are joined, and what workers measured when they warmed up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from gateway.cli_common import plain_table


def batching_line(version: int, batching: Mapping[str, Any]) -> str:
    """One sentence on how requests for a version are joined, or why they are not."""
    if batching["kind"] == "never":
        return f"version {version} is never joined: {escape(batching['reason'])}"
    axes = {axis for axis in (*batching["inputs"], *batching["outputs"]) if axis is not None}
    where = "rows on axis " + " and ".join(str(axis) for axis in sorted(axes))
    if None in batching["inputs"]:
        where += ", inputs without one equal"
    how = "bit for bit" if batching["kind"] == "exact" else f"within {batching['largest_difference']:.2g}"
    return f"version {version} is joined {how}: {where}, up to {batching['rows_proven']} rows proven"


def curve_table(version: int, curves: list[Mapping[str, Any]]) -> Iterator[Table | str]:
    """The first worker's curve, and in one line what other workers chose otherwise."""
    first = curves[0]
    yield f"  in worker {first['worker']}, warmed up with {first['source']} rows, version {version} takes:"
    table = plain_table("", ">rows a run", ">ms", ">rows/s", "")
    table.title = None
    for point in first["points"]:
        is_chosen = point["rows"] == first["chosen_rows"] and len(first["points"]) > 1
        table.add_row(
            str(point["rows"]), f"{point['ms']:.3g}", f"{point['rows_per_s']:,.0f}", "chosen" if is_chosen else ""
        )
    yield table
    others = [f"worker {one['worker']} {one['chosen_rows']}" for one in curves[1:] if _differs(one, first)]
    if others:
        yield f"  other workers chose other sizes: {', '.join(others)}"


def _differs(one: Mapping[str, Any], first: Mapping[str, Any]) -> bool:
    return bool(one["chosen_rows"] != first["chosen_rows"])
