"""Hostile MessagePack and Arrow in large numbers: no crash, no other error than a refusal, no memory that stays."""

from __future__ import annotations

import gc
import random
import struct
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from gateway.data.codecs import arrow, msgpack
from registry.errors import ServingError
from tests.gateway.data import test_arrow as arrows
from tests.gateway.data import test_msgpack as packs
from tests.support import models

BODIES = 40_000
SETTLED = 8_000  # bodies after which caches and pools have their size
GROWTH_BYTES = 24 * 1024 * 1024


def damaged(body: bytes, chance: random.Random) -> bytes:
    """A body with some octets, words or stretches changed, or cut."""
    changed = bytearray(body)
    for _ in range(chance.randint(1, 4)):
        at, how = chance.randrange(len(changed)), chance.random()
        if how < 0.5:
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, chance.randrange(256)))
        elif how < 0.7 and len(changed) > 8:
            at = min(at, len(changed) - 4) // 4 * 4
            changed[at : at + 4] = struct.pack("<i", chance.choice((0, 1, -1, 2**31 - 1, -(2**31), at)))
        elif how < 0.85 and len(changed) > 16:
            at = min(at, len(changed) - 8) // 8 * 8
            changed[at : at + 8] = struct.pack("<q", chance.choice((0, 1, -1, 2**62, chance.randrange(4000))))
        elif how < 0.95:
            start = chance.randrange(len(changed))
            part = changed[start : start + chance.randrange(64)]
            changed[at : at + len(part)] = part
        elif at:
            del changed[at:]
    return bytes(changed)


def storm(bodies: list[bytes], read: Callable[[bytes], object]) -> tuple[int, int]:
    """Read many damaged bodies → how many were read all the same, and how many bytes the process grew meanwhile."""
    chance, process = random.Random(7), psutil.Process()
    settled = good = 0
    for number in range(BODIES):
        try:
            read(damaged(chance.choice(bodies), chance))
            good += 1
        except ServingError:
            pass
        if number == SETTLED:
            gc.collect()
            settled = process.memory_info().rss
    gc.collect()
    return good, process.memory_info().rss - settled


@pytest.mark.slow
def test_a_storm_of_damaged_messagepack_is_read_or_refused_and_leaves_nothing(tmp_path: Path) -> None:
    servable = packs.served(models.linear(tmp_path / "a.onnx"))
    good, growth = storm([packs.GOOD], lambda body: msgpack.read(body, {}, servable, packs.LIMITS))
    assert 0 < good < BODIES
    assert growth < GROWTH_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["matrix", "columns"])
def test_a_storm_of_damaged_arrow_is_read_or_refused_and_leaves_nothing(tmp_path: Path, kind: str) -> None:
    model = models.linear if kind == "matrix" else models.columns
    servable = arrows.served(model(tmp_path / "a.onnx"))
    bodies = arrows.GOOD if kind == "matrix" else arrows.MIXED
    good, growth = storm(bodies, lambda body: arrow.read(body, {}, servable, arrows.LIMITS))
    assert 0 < good < BODIES
    assert growth < GROWTH_BYTES
