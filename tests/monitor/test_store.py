from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monitor.counts import BinSet, ColumnBins, Counter
from monitor.store import MonitorStore, Saved
from monitor.windows import Tile, VersionBins
from registry.catalog import Catalog

BINS = VersionBins(BinSet((ColumnBins("x", "number", (0.0,)),)), BinSet((ColumnBins("y", "number", (0.0,)),)))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MonitorStore]:
    catalog = Catalog.open(f"sqlite:///{tmp_path / 'registry.db'}")
    yield MonitorStore(catalog)
    catalog.close()


def tile(start_s: int, n: int, role: str = "champion") -> Tile:
    made = Tile.empty(("m", 1, role), start_s, 10, BINS, BINS.edges)
    Counter(BINS.inputs, "f4").add(made.inputs, np.ones((n, 1), "f4"))
    return made


def test_a_checkpoint_replaces_what_it_names_and_keeps_the_rest(store: MonitorStore) -> None:
    store.save(Saved([tile(0, 1), tile(10, 2)], {"a": 5, "b": 6}, {("r", "pairs"): {"rows": 1}}), 1)
    store.save(Saved([tile(10, 3)], {"a": 7}, {("r", "pairs"): {"rows": 2}, ("r", "watch"): {}}), 2)
    assert [t.rows for t in store.tiles("m", 1, BINS, 0, 100)] == [1, 3]
    assert store.positions() == {"a": 7, "b": 6}
    assert store.evidence("r") == {"pairs": {"rows": 2}, "watch": {}}


def test_positions_are_whole_words(store: MonitorStore) -> None:
    store.save(Saved([], {"a": 2**63, "b": 2**64 - 1, "c": 2**63 - 1}, {}), 1)
    assert store.positions() == {"a": 2**63, "b": 2**64 - 1, "c": 2**63 - 1}


def test_tiles_are_found_by_time_version_and_edges(store: MonitorStore) -> None:
    store.save(Saved([tile(0, 1), tile(10, 2), tile(10, 4, "canary"), tile(20, 8)], {}, {}), 1)
    assert sum(t.rows for t in store.tiles("m", 1, BINS, 10, 20)) == 6
    assert store.tiles("m", 2, BINS, 0, 100) == []
    other = VersionBins(BINS.inputs, BINS.inputs)
    assert store.tiles("m", 1, other, 0, 100) == []


def test_old_tiles_and_lanes_that_are_gone_leave(store: MonitorStore) -> None:
    store.save(Saved([tile(0, 1), tile(10, 2)], {"a": 1, "b": 2}, {}), 1)
    assert store.prune(10) == 1
    store.forget_lanes(["a"])
    assert store.positions() == {"b": 2}
    assert len(store.tiles("m", 1, BINS, 0, 100)) == 1


def test_a_failed_checkpoint_writes_nothing(store: MonitorStore) -> None:
    bad = tile(10, 1)
    bad.role = None  # type: ignore[assignment]
    with pytest.raises(Exception, match="NOT NULL"):
        store.save(Saved([tile(0, 1), bad], {"a": 1}, {}), 1)
    assert store.tiles("m", 1, BINS, 0, 100) == []
    assert store.positions() == {}
