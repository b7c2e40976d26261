"""The wheel, installed beside a foreign registry.py: our packages have common names, which must not clash."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy so that no build folder is left in it."""
    source = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(source))
    return next(out.glob("driftgate-*.whl"))


def test_the_wheel_holds_our_packages_and_nothing_of_tests_or_bench(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")}
    assert tops == {"driftgate", "gateway", "monitor", "registry"}
    assert "driftgate/py.typed" in names


def test_the_wheel_holds_every_module_and_data_file_of_our_packages(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "driftgate", "gateway", "monitor", "registry"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    assert tracked - set(zipfile.ZipFile(wheel).namelist()) == set()


def test_the_installed_command_works_beside_a_foreign_registry_module(wheel: Path, tmp_path: Path) -> None:
    target, work = tmp_path / "site", tmp_path / "work"
    _pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    work.mkdir()
    for name in ("registry", "gateway", "monitor"):
        (work / f"{name}.py").write_text("raise SystemExit('a foreign module was imported')\n")

    done = _run_in(work, target, "-P", "-m", "driftgate", "--help")

    assert done.returncode == 0, done.stderr
    assert "rollout" in done.stdout
    where = _run_in(work, target, "-P", "-c", "import gateway, registry; print(gateway.__file__, registry.__file__)")
    assert where.stdout.split() == [str(target / "gateway/__init__.py"), str(target / "registry/__init__.py")]


def _pip(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], check=True, capture_output=True, text=True)


def _run_in(cwd: Path, target: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # PYTHONPATH comes before the environment's own packages, so the editable install of the checkout is not what runs.
    environ = {**os.environ, "PYTHONPATH": str(target), "COLUMNS": "120"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=environ, capture_output=True, text=True, check=False)
