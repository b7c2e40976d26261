"""What callers of the data port want loaded or not, from the workers that were asked to the controller that decides.

One file per worker slot in the run folder, written whole and renamed, so each file has one writer and a reader sees all
of it or none. The newest wish for a model counts, by `host_ns`. Wishes end with the server that they were made in: a
file of another boot says nothing. Written only where `gateway.repository_control` is on. Standard library only.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.errors import ServingError
from registry.formats import check_stamp, stamped

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wish:
    """One model is to be served, or not until it is loaded again."""

    loaded: bool
    host_ns: int  # when it was asked for


class Wishes:
    """The writing side: one worker slot's file. A worker that starts goes on with what its slot said."""

    def __init__(self, run: Path, slot: int, boot_id: str) -> None:
        self._path = run / f"wishes-{slot}.json"
        self._boot_id = boot_id
        self._wishes: dict[str, Wish] | None = None

    def wish(self, model: str, loaded: bool, host_ns: int) -> None:
        """Write it down; the controller sees it at its next tick. Raises OSError."""
        if self._wishes is None:
            self._wishes = _read(self._path, self._boot_id)
        self._wishes[model] = Wish(loaded, host_ns)
        models = {name: {"loaded": wish.loaded, "host_ns": wish.host_ns} for name, wish in self._wishes.items()}
        aside = self._path.with_suffix(".tmp")
        aside.write_text(json.dumps(stamped("wishes", {"boot_id": self._boot_id, "models": models})), encoding="utf-8")
        os.replace(aside, self._path)


def read_wishes(run: Path, boot_id: str) -> Mapping[str, Wish]:
    """The newest wish for each model, of this server."""
    newest: dict[str, Wish] = {}
    for path in sorted(run.glob("wishes-*.json")):
        for model, wish in _read(path, boot_id).items():
            if model not in newest or newest[model].host_ns < wish.host_ns:
                newest[model] = wish
    return newest


def _read(path: Path, boot_id: str) -> dict[str, Wish]:
    try:
        document = json.loads(path.read_bytes())
        check_stamp("wishes", document)
        if document["boot_id"] != boot_id:
            return {}
        return {model: _wish(said["loaded"], said["host_ns"]) for model, said in document["models"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ServingError) as error:
        logger.error("%s cannot be read, so what it says is not done: %s", path.name, error)
        return {}


def _wish(loaded: object, host_ns: object) -> Wish:
    if not isinstance(loaded, bool) or not isinstance(host_ns, int) or not 0 <= host_ns < 1 << 63:
        raise ValueError(f"a wish says loaded {loaded!r:.40} at {host_ns!r:.40}")
    return Wish(loaded, host_ns)
