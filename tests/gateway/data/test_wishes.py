"""Wishes: one writer a file, the newest counts, and what cannot be read wishes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.data.wishes import Wish, Wishes, read_wishes

BOOT, OTHER = "ab" * 16, "cd" * 16
TIMELESS = '{"loaded": false, "host_ns": 1e999}'
UNTRUE = '{"loaded": "false", "host_ns": 10}'


def test_the_newest_wish_of_all_workers_counts_and_a_successor_goes_on_with_its_slots(tmp_path: Path) -> None:
    Wishes(tmp_path, 0, BOOT).wish("a", False, 10)
    Wishes(tmp_path, 1, BOOT).wish("a", True, 20)
    assert read_wishes(tmp_path, BOOT) == {"a": Wish(True, 20)}
    Wishes(tmp_path, 0, BOOT).wish("b", False, 30)
    assert read_wishes(tmp_path, BOOT) == {"a": Wish(True, 20), "b": Wish(False, 30)}
    Wishes(tmp_path, 0, BOOT).wish("a", False, 40)
    assert read_wishes(tmp_path, BOOT)["a"] == Wish(False, 40)


def test_wishes_of_an_earlier_server_say_nothing(tmp_path: Path) -> None:
    Wishes(tmp_path, 0, OTHER).wish("a", False, 10)
    assert read_wishes(tmp_path, BOOT) == {}
    Wishes(tmp_path, 0, BOOT).wish("b", False, 20)
    assert read_wishes(tmp_path, BOOT) == {"b": Wish(False, 20)}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "driftgate.wishes", "v": 2}',
        f'{{"format": "driftgate.wishes", "v": 1, "boot_id": "{BOOT}", "models": {{"a": {{}}}}}}',
        f'{{"format": "driftgate.wishes", "v": 1, "boot_id": "{BOOT}", "models": {{"a": [1]}}}}',
        f'{{"format": "driftgate.wishes", "v": 1, "boot_id": "{BOOT}", "models": 3}}',
        f'{{"format": "driftgate.wishes", "v": 1, "boot_id": "{BOOT}", "models": {{"a": {TIMELESS}}}}}',
        f'{{"format": "driftgate.wishes", "v": 1, "boot_id": "{BOOT}", "models": {{"a": {UNTRUE}}}}}',
        pytest.param("[" * 100_000, id="deep"),
    ],
)
def test_a_file_that_cannot_be_read_wishes_nothing(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wishes-0.json").write_text(text)
    Wishes(tmp_path, 1, BOOT).wish("b", False, 20)
    assert read_wishes(tmp_path, BOOT) == {"b": Wish(False, 20)}
    assert "wishes-0.json cannot be read" in caplog.text


def test_a_stored_file_of_the_first_release_is_read(tmp_path: Path) -> None:
    (tmp_path / "wishes-3.json").write_text(
        '{"format": "driftgate.wishes", "v": 1, "boot_id": "' + BOOT + '", '
        '"models": {"flights": {"loaded": false, "host_ns": 123456789}}}'
    )
    assert read_wishes(tmp_path, BOOT) == {"flights": Wish(False, 123456789)}
