"""The route table: what a worker may believe, and when a canary must be at 0."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from gateway.control.table import KEPT_SNAPSHOTS, RouteTable
from gateway.data.routes import AspiredVersion, RouteEntry, RouteReader, RouteSnapshot, decode, encode, snapshot_path
from registry.errors import FormatTooNew, StateDamaged
from tests.support.clock import ManualClock

BOOT, OTHER = "ab" * 16, "cd" * 16
ENTRY = RouteEntry(
    champion=1,
    candidate=2,
    weight=0.05,
    rollout_id="r",
    aliases={"stable": 1},
    aspired={1: AspiredVersion("/m", "/f", ((0.0, 1.0), None)), 2: AspiredVersion("/n", "/g")},
)


def pair(run: Path) -> tuple[RouteTable, RouteReader, ManualClock]:
    clock = ManualClock()
    return RouteTable(run, BOOT, clock), RouteReader(run, BOOT, clock), clock


def test_a_snapshot_survives_storage() -> None:
    snapshot = RouteSnapshot(7, {"m": ENTRY})
    assert decode(encode(snapshot, BOOT), BOOT) == snapshot


def test_what_has_not_changed_is_neither_written_nor_read_anew(tmp_path: Path) -> None:
    table, reader, _ = pair(tmp_path)
    others = {f"m{i}": RouteEntry(champion=i) for i in range(5)}
    table.publish({"m": ENTRY, **others})
    before = reader.current().models
    table.publish({"m": RouteEntry(champion=2), **others, "new": ENTRY})
    after = reader.current().models
    assert after == {"m": RouteEntry(champion=2), **others, "new": ENTRY}
    assert all(after[name] is before[name] for name in others)
    table.publish(others)
    assert reader.current().models == others


def _refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_on_a_full_disk_the_next_table_is_written_over_the_spare_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, reader, _ = pair(tmp_path)
    for _ in range(5):
        table.publish({"m": ENTRY})
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", _refuse)
        without_canary = {"m": RouteEntry(champion=1)}
        epoch = table.publish(without_canary)
        assert reader.current() == RouteSnapshot(epoch, without_canary)
    kept = {path.name for path in tmp_path.iterdir() if path.name.startswith("routes-")}
    assert kept == {f"routes-{epoch - 1}.json", f"routes-{epoch}.json"}  # the others' room is given back
    spare = tmp_path / "routes.spare"
    assert spare.stat().st_size >= 2 * snapshot_path(tmp_path, epoch).stat().st_size


def test_a_disk_without_any_room_leaves_the_table_as_it_was_and_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, reader, _ = pair(tmp_path)
    epoch = table.publish({"m": ENTRY})
    spare = tmp_path / "routes.spare"
    spare.unlink()
    before = sorted(tmp_path.iterdir())
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", _refuse)
        for _ in range(3):
            with pytest.raises(OSError, match="routes-"):
                table.publish({"m": RouteEntry(champion=1)})
    assert reader.current() == RouteSnapshot(epoch, {"m": ENTRY})
    assert sorted(tmp_path.iterdir()) == before
    table.publish({"m": RouteEntry(champion=1)})  # room came back
    assert reader.current().models == {"m": RouteEntry(champion=1)}
    assert spare.exists()


def test_a_stored_v1_snapshot_is_read_for_ever() -> None:
    stored = (
        b'{"format":"driftgate.routes","v":1,"boot_id":"' + BOOT.encode() + b'","epoch":3,"models":{"m":{"champion":1,'
        b'"aliases":{},"aspired":{"1":{"model_path":"/m","manifest_path":"/f"}}}}}'
    )
    assert decode(stored, BOOT).models["m"] == RouteEntry(champion=1, aspired={1: AspiredVersion("/m", "/f")})


def test_a_newer_snapshot_is_refused_by_name() -> None:
    document = json.loads(encode(RouteSnapshot(1, {}), BOOT)) | {"v": 2}
    with pytest.raises(FormatTooNew, match=r"driftgate\.routes v2"):
        decode(json.dumps(document).encode(), BOOT)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"format":"driftgate.routes","v":1}'])
def test_a_damaged_snapshot_is_refused(data: bytes) -> None:
    with pytest.raises((StateDamaged, AttributeError)):
        decode(data, BOOT)


def test_a_reader_obeys_an_epoch_as_soon_as_it_is_stored(tmp_path: Path) -> None:
    table, reader, _ = pair(tmp_path)
    assert reader.current().epoch == 0
    for weight in (0.05, 0.5, 0.0):
        epoch = table.publish({"m": RouteEntry(champion=1, candidate=2, weight=weight)})
        assert reader.current().models["m"].weight == weight
        assert reader.current().epoch == epoch


def test_the_lease_runs_out_by_the_host_clock(tmp_path: Path) -> None:
    table, reader, clock = pair(tmp_path)
    table.publish({"m": ENTRY})
    reader.current()
    assert reader.lease_left_ns() <= 0
    table.renew(3.0)
    assert reader.lease_left_ns() == 3_000_000_000
    clock.advance(2.0)
    assert table.lease_age_s(3.0) == pytest.approx(2.0)
    clock.advance(1.5)
    assert reader.lease_left_ns() < 0


def test_a_snapshot_that_cannot_be_read_takes_canaries_to_0_and_keeps_the_champion(tmp_path: Path) -> None:
    table, reader, clock = pair(tmp_path)
    table.publish({"m": ENTRY})
    assert reader.current().trusted
    epoch = table.publish({"m": ENTRY})
    good = snapshot_path(tmp_path, epoch).read_bytes()
    snapshot_path(tmp_path, epoch).write_bytes(b"{")
    assert not reader.current().trusted
    assert reader.current().models["m"].champion == 1
    snapshot_path(tmp_path, epoch).write_bytes(good)
    clock.advance(1.0)
    assert reader.current().trusted
    assert reader.current().epoch == epoch


def test_another_boots_table_is_not_trusted_and_epochs_go_on_over_boots(tmp_path: Path) -> None:
    old, _, clock = pair(tmp_path)
    first = old.publish({"m": ENTRY})
    old.renew(3.0)
    reader = RouteReader(tmp_path, OTHER, clock)
    assert reader.current().models["m"].champion == 1
    assert not reader.current().trusted
    new = RouteTable(tmp_path, OTHER, clock)
    assert reader.lease_left_ns() <= 0
    assert new.publish({"m": ENTRY}) > first
    clock.advance(1.0)
    assert reader.current().trusted


def test_an_epoch_that_goes_back_is_refused(tmp_path: Path) -> None:
    table, reader, clock = pair(tmp_path)
    table.publish({"m": ENTRY})
    table.publish({"m": ENTRY})
    newest = reader.current().epoch
    table._words[3] = newest - 1
    clock.advance(1.0)
    assert not reader.current().trusted
    assert reader.current().epoch == newest


def test_old_snapshots_are_removed(tmp_path: Path) -> None:
    table, _, _ = pair(tmp_path)
    for _ in range(KEPT_SNAPSHOTS + 10):
        table.publish({"m": ENTRY})
    assert len(list(tmp_path.glob("routes-*.json"))) == KEPT_SNAPSHOTS
