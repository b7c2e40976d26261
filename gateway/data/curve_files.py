"""What workers measured while they warmed versions up, for people: one small file a worker and version.

A worker writes into a folder of its own and empties it when it starts; the control plane reads. Nothing is decided by
these files. Stored format `driftgate.curve`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gateway.data.curve import Curve
from registry.errors import ServingError, StateDamaged
from registry.formats import check_stamp, stamped

logger = logging.getLogger(__name__)


def forget_all(run: Path, slot: int) -> None:
    """Empty a worker's folder: what a former worker of this slot measured."""
    shutil.rmtree(_folder(run, slot), ignore_errors=True)


def write(run: Path, slot: int, model: str, version: int, curve: Curve) -> None:
    """Tell a version's curve. A full disk costs the telling, and nothing else."""
    document = stamped("curve", {"model": model, "version": version, **to_dict(curve)})
    path = _folder(run, slot) / f"{model}@{version}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".aside")
        aside.write_text(json.dumps(document), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        logger.warning("the curve of %s:%d cannot be told: %s", model, version, error)


def forget(run: Path, slot: int, model: str, version: int) -> None:
    """The version is no longer loaded here."""
    with contextlib.suppress(OSError):
        (_folder(run, slot) / f"{model}@{version}.json").unlink()


def read(run: Path, slots: Collection[int], model: str) -> dict[int, list[dict[str, Any]]]:
    """Curves of a model's versions by version, as these worker slots measured them, in the order of the slots."""
    found: dict[int, list[dict[str, Any]]] = {}
    for slot in sorted(slots):
        for path in sorted(_folder(run, slot).glob(f"{model}@*.json")):
            try:
                document = json.loads(path.read_bytes())
                check_stamp("curve", document)
                curve = {name: document[name] for name in _FIELDS}
                found.setdefault(int(document["version"]), []).append({"worker": slot, **curve})
            except (OSError, ValueError, KeyError, TypeError, AttributeError, StateDamaged) as error:
                logger.warning("%s cannot be read: %s", path.name, error)
            except ServingError:
                continue  # a newer release's worker
    return found


_FIELDS = ("source", "chosen_rows", "per_row_ms", "fixed_ms", "points")


def to_dict(curve: Curve) -> dict[str, Any]:
    """A curve as stored and shown."""
    return {
        "source": curve.source,
        "chosen_rows": curve.chosen_rows,
        "per_row_ms": round(curve.line.per_row_us / 1000.0, 6),
        "fixed_ms": round(curve.line.fixed_us / 1000.0, 6),
        "points": [
            {"rows": point.rows, "ms": round(point.us / 1000.0, 6), "rows_per_s": round(point.rows_per_s, 1)}
            for point in curve.points
        ],
    }


def _folder(run: Path, slot: int) -> Path:
    return run / "curves" / str(slot)
