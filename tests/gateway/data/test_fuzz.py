"""Nonsense near good requests, for every reader: only ServingError comes out, and nothing stays behind in memory."""

from __future__ import annotations

import gc
import importlib.util
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from registry.errors import ServingError
from tests.support.fuzzing import FORMS, Reader, mutations, reader, requests

ROOT = Path(__file__).resolve().parents[3]


def feed(read: Reader, bodies: Iterable[bytes]) -> int:
    """Read all of them → how many were read without a complaint."""
    good = 0
    for body in bodies:
        try:
            read(body)
        except ServingError:
            continue
        except BaseException as error:
            raise AssertionError(f"{type(error).__name__}: {error}, of {body!r}") from error
        good += 1
    return good


@pytest.mark.parametrize("form", FORMS)
def test_what_the_fuzzing_starts_from_is_right_for_some_model(form: str, tmp_path: Path) -> None:
    with reader(form, tmp_path) as read:
        assert [read(body) for body in requests(form)] == [1] * len(requests(form))


@pytest.mark.parametrize("form", FORMS)
def test_damaged_requests_are_refused_and_nothing_else_happens(form: str, tmp_path: Path) -> None:
    with reader(form, tmp_path) as read:
        feed(read, mutations(requests(form), 250, seed=len(form)))


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("azure", b'{"input_data":{"columns":["c"],"data":[555]}}'),
        ("v2_long", b'{"inputs":[{"name":"x","shape":[1],"data":[' + b"9" * 30 + b"]}]" + b" " * 9000 + b"}"),
        ("mlflow", b'{"dataframe_split":{"columns":["c"],"data":["text"]}}'),
    ],
)
def test_what_a_search_has_found_stays_refused(form: str, body: bytes, tmp_path: Path) -> None:
    with reader(form, tmp_path) as read, pytest.raises(ServingError):
        read(body)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", FORMS)
def test_many_damaged_requests_leave_nothing_in_memory(form: str, tmp_path: Path) -> None:
    with reader(form, tmp_path) as read:
        assert_nothing_stays(read, requests(form))


def assert_nothing_stays(read: Reader, seeds: list[bytes]) -> None:
    feed(read, mutations(seeds, 3_000, seed=1))
    gc.collect()
    before = psutil.Process().memory_info().rss
    for part in range(10):
        feed(read, mutations(seeds, 2_000, seed=2 + part))
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 24 << 20

    traced = list(mutations(seeds, 2_000, seed=99))
    tracemalloc.start()
    try:
        feed(read, traced[:500])
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        feed(read, traced[500:])
        gc.collect()
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left - held < 256 << 10
    assert peak - held < 8 << 20  # bodies have some hundred bytes: no claim in them is believed


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", FORMS)
def test_a_search_guided_by_coverage_finds_nothing_either(form: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: no search guided by coverage here")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzzing", form, "60000", str(tmp_path / "corpus")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
