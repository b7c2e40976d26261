"""Options of the suite, the server it asks, and the table of what it found.

    python -m pytest tests/conformance                                          our own server, started and ended here
    python -m pytest tests/conformance --target http://host:port [--grpc host:port] [--without binary,grpc]

`--report FILE` writes the verdicts as JSON. The table is printed where a target or a report is asked for.
"""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.conformance.cases", "tests.conformance.wire", "tests.conformance.rpc")

from tests.conformance import cases  # noqa: E402, F401
from tests.conformance.case import CASES, OPTIONAL  # noqa: E402
from tests.conformance.target import Target  # noqa: E402

collect_ignore_glob = [
    "cases/*",
    "peers/*",
]  # nothing of pytest's in there; peers' files are for their own environments
_VERDICTS: list[dict[str, str]] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance")
    group.addoption("--target", dest="target", help="http://host:port of the server to ask; none: our own")
    group.addoption("--grpc", dest="grpc", help="host:port of its gRPC port; none: no cases over gRPC")
    group.addoption(
        "--without", dest="without", default="", help=f"what it does not offer: {', '.join(sorted(OPTIONAL))}"
    )
    group.addoption("--revive", dest="revive", help="a shell command to run when the server no longer answers")
    group.addoption("--report", dest="report", help="a file to write the verdicts to, as JSON")


def _option(config: pytest.Config, name: str) -> str | None:
    return config.getoption(name, default=None) or None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a case; against our own server under xdist one for all, so that it is started once."""
    if "asked" in metafunc.fixturenames:
        alone = _option(metafunc.config, "target") or "PYTEST_XDIST_WORKER" not in os.environ
        each = [[case] for case in CASES] if alone else [CASES]
        metafunc.parametrize("asked", each, ids=[f"{c[0].group}-{c[0].name}" for c in each] if alone else ["all"])


@pytest.fixture(scope="session")
def target(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _ports: Iterator[int]
) -> Iterator[Target]:
    """The server that the cases ask."""
    url = _option(request.config, "target")
    without = [name.strip() for name in (_option(request.config, "without") or "").split(",") if name.strip()]
    unknown = set(without) - OPTIONAL
    if unknown:
        raise pytest.UsageError(f"--without knows {', '.join(sorted(OPTIONAL))}, not {', '.join(sorted(unknown))}")
    if url:
        yield Target(url, _option(request.config, "grpc"), without)
        return
    from tests.conformance import ours  # the registry and all it needs: only for our own server

    with ours.serving(tmp_path_factory.mktemp("conformance"), lambda: next(_ports)) as started:
        yield started


@pytest.fixture(scope="session")
def revive(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Does what `--revive` says."""
    command = _option(request.config, "revive")

    def run() -> None:
        if command:
            subprocess.run(command, shell=True, check=False, stderr=subprocess.DEVNULL)

    return run


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the verdicts; under xdist they come from the workers with the report."""
    if report.when == "call":
        _VERDICTS.extend(verdict for key, verdict in report.user_properties if key == "conformance")  # type: ignore[misc]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The table, and the report."""
    url, report = _option(config, "target"), _option(config, "report")
    if not _VERDICTS or not (url or report):
        return
    terminalreporter.section("conformance")
    width = max(len(verdict["name"]) for verdict in _VERDICTS)
    for verdict in _VERDICTS:
        line = f"{verdict['group']:<11} {verdict['name']:<{width}} {verdict['level']:<6} {verdict['verdict']}"
        terminalreporter.write_line(line + (f": {verdict['why']}" if verdict["why"] else ""))
    for level in ("MUST", "SHOULD"):
        of = [verdict["verdict"] for verdict in _VERDICTS if verdict["level"] == level]
        terminalreporter.write_line(
            f"{level}: {of.count('passed')} passed, {of.count('failed')} failed, "
            f"{of.count('not applicable')} not applicable"
        )
    if report:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        Path(report).write_text(json.dumps({"target": url or "ours", "time": now, "cases": _VERDICTS}, indent=1) + "\n")
