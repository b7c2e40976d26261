"""`driftgate demo`: the main job on real flights, by the same commands and ports that a user has.

Train three models, register them, serve the first, replay April to December as HTTP traffic, roll out the second
(which is promoted) and the third (which is rolled back), and watch the seasons move the features. Invariant: the exit
code is 0 only if all of it really happened, as the server itself tells it. Called by the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gateway.client_control import ControlClient, name_in_path
from gateway.demo import data, models
from gateway.demo.models import MODEL
from gateway.demo.tell import MONTHS, Teller, closing_table, drift_table, holdout_table
from gateway.demo.traffic import Traffic
from registry.errors import InternalError, ServingError

SEED = 2013
RATE = 300.0  # requests a second: about a tenth of what one worker on one core answers, so two cores have air
STRIDE = 5  # every fifth flight first: the nine months pass in about 170 s
LABEL_AFTER_S = 6.0  # a flight's real delay is known this long after its prediction
REFERENCE_ROWS = 20_000
ROLLOUT_S = 100.0  # a rollout that takes longer than this has not worked
READY_S = 60.0
SEASON_S = 12.0  # of traffic after the second rollout
LATENCY_WINDOW_S = 30  # closed windows of the champion's p99; the default is a minute
_FINAL = ("succeeded", "rolled_back", "aborted", "superseded")


@dataclass(slots=True)
class Outcome:
    """What happened, for the closing table, for --json, and for the exit code."""

    requests: int = 0
    failed: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)  # "version/role" → answers
    errors_min: dict[int, float] = field(default_factory=dict)  # mean error on the hold-out
    pairs: list[dict[str, float]] = field(default_factory=list)
    promoted: dict[str, Any] | None = None  # the rollout objects, as the server told them
    rolled_back: dict[str, Any] | None = None
    champion: int | None = None
    weight_pct: float | None = None
    labels: dict[str, int] = field(default_factory=dict)
    moved: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    stopped_in_order: bool | None = None

    def checks(self) -> list[tuple[str, bool]]:
        """What a demo must show; the exit code is 0 only when all are true."""
        breach = decisive(self.rolled_back)
        return [
            ("requests were served and none failed", self.requests > 0 and self.failed == 0),
            ("version 2 was promoted", bool(self.promoted) and (self.promoted or {})["state"] == "succeeded"),
            (
                "version 3 was rolled back",
                bool(self.rolled_back) and (self.rolled_back or {})["state"] == "rolled_back",
            ),
            ("the evidence against version 3 reached its limit", breach is not None),
            ("version 2 is champion at the end", self.champion == 2),
            ("version 3 has no traffic at the end", self.weight_pct == 0),
            ("features moved with the seasons", any(item["verdict"] == "breach" for item in self.moved)),
        ]

    @property
    def ok(self) -> bool:
        """Whether all that a demo must show really happened."""
        return all(good for _name, good in self.checks()) and self.stopped_in_order is not False


def run(console: Console, *, keep: bool, as_json: bool, home: Path | None = None) -> int:
    """Play it; 0 if everything happened. home: a new or empty folder; None: a temporary one, removed at the end."""
    teller = Teller(console)
    made = None if home is not None else Path(tempfile.mkdtemp(prefix="driftgate-demo-"))
    root = home or made
    assert root is not None
    outcome = Outcome()
    code = 1
    try:
        _play(teller, root.absolute(), outcome, keep=keep)
        code = 0 if outcome.ok else 1
    except ServingError as fault:
        teller.still()
        console.print(f"[bold red]the demo stopped[/] ({fault.code}): {fault.message}", soft_wrap=True)
    except KeyboardInterrupt:
        teller.still()
        console.print("stopped by you")
        code = 130
    finally:
        teller.still()
        log = root / "serve.log"
        if code == 1 and log.exists():
            console.print("[bold]the server's last words[/]")
            teller.quote("\n".join(log.read_text(errors="replace").splitlines()[-25:]))
        if as_json:
            document = {**asdict(outcome), "ok": outcome.ok, "checks": dict(outcome.checks())}
            sys.stdout.write(json.dumps(document, default=str, indent=2) + "\n")
        if made is not None and code in (0, 130):
            shutil.rmtree(made, ignore_errors=True)
        elif made is not None:
            console.print(f"the state folder is kept for you to look at: {made}", soft_wrap=True)
    return code


def _play(teller: Teller, root: Path, outcome: Outcome, *, keep: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    later, paths, reference = _train(teller, root, outcome)
    home = root / "home"
    _register(teller, home, paths, reference)
    plan = root / "plan.toml"
    plan.write_text(files("gateway.demo").joinpath("plan.toml").read_text(encoding="utf-8"), encoding="utf-8")
    with _serving(teller, root, home) as server, ControlClient(server.control_url) as control:
        # Feedback has a connection of its own: the traffic's thread posts it while this one asks for the rollout.
        with ControlClient(server.control_url) as feedback:
            traffic = Traffic(server.data_url, feedback, MODEL, later, rate=RATE, label_after_s=LABEL_AFTER_S)
            try:
                _watch(teller, traffic, control, home, plan, outcome)
            finally:
                traffic.stop()
        _settle(teller, traffic, control, outcome)
        if keep:
            _keep_serving(teller, server, home)
    outcome.stopped_in_order = server.process.returncode == 0
    if keep:
        return
    teller.say(f"the server drained and ended with exit code {server.process.returncode}")


def _train(teller: Teller, root: Path, outcome: Outcome) -> tuple[data.Flights, dict[int, Path], Path]:
    """Three real models and the reference rows, in files."""
    teller.title("Three models of arrival delay, trained on January to March")
    rng = np.random.default_rng(SEED)
    teller.move("reading the flights of 2013")
    year = data.load_year(data.find_data())
    total = len(year.training) + len(year.later) + year.cancelled
    teller.say(
        f"{total:,} flights left or were to leave New York in 2013; {year.cancelled:,} never left. "
        f"{len(year.training):,} are for training, {len(year.later):,} come later"
    )
    teller.move("training with scikit-learn, exporting with skl2onnx")
    trained = models.train(year.training, rng)
    paths = models.write(trained, root)
    holdout = year.later.where(year.later.month <= 6)
    outcome.errors_min = models.mean_errors(trained, holdout)
    pairs = [models.compare(trained, old, new, year.training, holdout) for old, new in ((1, 2), (2, 3))]
    outcome.pairs = [asdict(pair) for pair in pairs]
    teller.still()
    teller.console.print(holdout_table(outcome.errors_min, pairs))
    teller.say("both successors change about as many late/not-late answers: only real delays can tell them apart")
    reference = root / "reference.csv"
    rows = data.write_reference(year.training, reference, REFERENCE_ROWS, rng)
    teller.say(f"{rows:,} training flights are the reference: what the models were promised to see")
    return year.later, paths, reference


def _register(teller: Teller, home: Path, paths: dict[int, Path], reference: Path) -> None:
    teller.title("Register them")
    for number, path in paths.items():
        words = ["register", MODEL, str(path), "--reference", str(reference), "--target", data.TARGET]
        words += ["--alias", "champion"] if number == 1 else []
        teller.quote(_driftgate(teller, home, *words))


@dataclass(slots=True)
class Server:
    """The `driftgate serve` that the demo started."""

    process: subprocess.Popen[bytes]
    data_url: str = ""
    control_url: str = ""


@contextlib.contextmanager
def _serving(teller: Teller, root: Path, home: Path) -> Iterator[Server]:
    """`driftgate serve` on free ports, ended by SIGTERM as an operator would."""
    teller.title("Serve")
    (home / "driftgate.toml").write_text(
        f"[gateway]\ndrain_s = 1\n[monitor]\nlatency_window_s = {LATENCY_WINDOW_S}\n", encoding="utf-8"
    )
    words = ["serve", "--home", str(home), "--port", "0", "--control-port", "0"]
    teller.command(["driftgate", *words])
    said = root / "ready.json"
    with said.open("wb") as stdout, (root / "serve.log").open("wb") as stderr:
        process = subprocess.Popen([*_python(), *words, "--json"], stdout=stdout, stderr=stderr, env=_environ())
    server = Server(process)
    try:
        until_s = time.monotonic() + READY_S
        while not said.stat().st_size:
            teller.move("waiting until both ports are ready")
            if process.poll() is not None:
                raise InternalError(f"driftgate serve ended with exit code {process.returncode}; see {root}/serve.log")
            if time.monotonic() > until_s:
                raise InternalError(f"driftgate serve was not ready in {READY_S:g} s; see {root}/serve.log")
            time.sleep(0.1)
        serving = json.loads(said.read_text())
        server.data_url, server.control_url = serving["data_url"], serving["control_url"]
        teller.still()
        teller.say(f"predictions at {server.data_url}, control, metrics and events at {server.control_url}")
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=45.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _watch(teller: Teller, traffic: Traffic, control: ControlClient, home: Path, plan: Path, outcome: Outcome) -> None:
    """Traffic, two rollouts, and the rest of the year."""
    teller.title("April to December, as HTTP traffic")
    teller.say(
        f"{RATE:g} flights a second over keep-alive connections; each flight's real delay is fed back "
        f"{LABEL_AFTER_S:g} s later"
    )
    traffic.start(STRIDE)
    baseline_s = LATENCY_WINDOW_S + 2.0
    _let_pass(teller, traffic, baseline_s, "version 1 answers; its latency is measured over one closed window")
    told: dict[str, str] = {"after": str(_newest_event(control))}
    teller.title("Roll out version 2: on copies, to 5 %, to 50 %, promoted")
    outcome.promoted = _roll_out(teller, traffic, control, home, 2, plan, told)
    if outcome.promoted["state"] != "succeeded":
        return
    _let_pass(teller, traffic, 5.0, "version 2 answers everything")
    teller.title("Roll out version 3, whose training data had the departure delay in seconds")
    outcome.rolled_back = _roll_out(teller, traffic, control, home, 3, plan, told)
    teller.title("The seasons")
    _let_pass(teller, traffic, SEASON_S, "version 2 goes on answering")
    outcome.moved = _moved(control)
    teller.still()
    teller.console.print(drift_table("What moved most since January to March", outcome.moved[:8]))


def _roll_out(
    teller: Teller, traffic: Traffic, control: ControlClient, home: Path, version: int, plan: Path, told: dict[str, str]
) -> dict[str, Any]:
    """Start it as a user would and watch until it has ended; the last rollout object."""
    words = ["rollout", "start", MODEL, str(version), "--plan", str(plan), "--reason", "demo"]
    teller.quote(_driftgate(teller, home, *words))
    until_s = time.monotonic() + ROLLOUT_S
    while True:
        document: dict[str, Any] = control.get(f"models/{name_in_path(MODEL)}/rollout")
        _tell_events(teller, control, told)
        if document["state"] in _FINAL or time.monotonic() > until_s:
            break
        teller.move(_progress(document, traffic))
        time.sleep(0.5)
    teller.still()
    breach = decisive(document)
    if breach is not None:
        teller.say(f"[bold]{breach['name']}[/]: {breach.get('sentence') or document['reason']}")
    if document["state"] not in _FINAL:
        teller.say(f"[red]version {version} was not decided in {ROLLOUT_S:g} s[/]")
        for item in document["guardrails"]:
            teller.quote(json.dumps(item))
    return document


def decisive(document: dict[str, Any] | None) -> dict[str, Any] | None:
    """The guardrail that rolled a rollout back, evidence at or above its limit; the strongest when several did."""
    if not document or document["state"] != "rolled_back":
        return None
    reached = [
        item
        for item in document["guardrails"]
        if item["evidence_log10"] is not None
        and item["limit_log10"] is not None
        and item["evidence_log10"] >= item["limit_log10"]
    ]
    return max(reached, key=lambda item: float(item["evidence_log10"] - item["limit_log10"]), default=None)


def _progress(document: dict[str, Any], traffic: Traffic) -> str:
    """One line: where the rollout stands, and what it waits for."""
    requests = document["requests"]
    waiting = [
        f"{item['name']} {item['promotion_evidence_log10']:.1f}/{item['promotion_limit_log10']:.1f}"
        for item in document["guardrails"]
        if item["verdict"] != "pass" and item["promotion_limit_log10"] and item["promotion_evidence_log10"] is not None
    ]
    return (
        f"{MONTHS[traffic.tally.month]}: version {document['candidate']} {document['state']} at "
        f"{document['weight_pct']:g} %, {requests['canary']:,} canary and {requests['shadow']:,} shadow answers, "
        f"{traffic.tally.failed} failed" + (f"; evidence for {', '.join(waiting)}" if waiting else "")
    )


def _tell_events(teller: Teller, control: ControlClient, told: dict[str, str]) -> None:
    for event in control.get("events", after=told["after"], limit=100)["items"]:
        told["after"] = str(event["id"])
        if event["type"].startswith("rollout."):
            sentence = event["data"].get("sentence") or ""
            teller.still()
            teller.say(f"[cyan]{event['type']}[/] {sentence}")


def _newest_event(control: ControlClient) -> int:
    return max((event["id"] for event in control.items("events")), default=0)


def _moved(control: ControlClient) -> list[dict[str, Any]]:
    """Each feature's worst measurement, by how far it is beyond its limit."""
    worst: dict[str, dict[str, Any]] = {}
    for item in control.get(f"models/{name_in_path(MODEL)}/drift")["items"]:
        if item["value"] is None or item["verdict"] != "breach" or not item["threshold"]:
            continue
        present = worst.get(item["feature"])
        if present is None or item["value"] / item["threshold"] > present["value"] / present["threshold"]:
            worst[item["feature"]] = item
    return sorted(worst.values(), key=lambda item: float(-item["value"] / item["threshold"]))


def _let_pass(teller: Teller, traffic: Traffic, seconds: float, what: str) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0 and traffic.is_running:
        tally = traffic.tally
        teller.move(
            f"{MONTHS[tally.month]}: {what}; {tally.answered:,} answered, {tally.failed} failed, {left_s:.0f} s to go"
        )
        time.sleep(min(0.5, left_s))


def _settle(teller: Teller, traffic: Traffic, control: ControlClient, outcome: Outcome) -> None:
    """After the last request: what the server says, and the closing table."""
    tally = traffic.tally
    outcome.requests, outcome.failed, outcome.faults = tally.sent, tally.failed, dict(tally.faults)
    outcome.answers = {f"{version}/{role}": count for (version, role), count in sorted(tally.by_version.items())}
    outcome.labels = dict(tally.labels)
    model = control.get(f"models/{name_in_path(MODEL)}")
    outcome.champion = model["aliases"].get("champion")
    with contextlib.suppress(ServingError):
        outcome.weight_pct = control.get(f"models/{name_in_path(MODEL)}/rollout")["weight_pct"]
    outcome.seconds = teller.elapsed_s
    teller.title("What happened")
    teller.console.print(closing_table(_closing(outcome, tally.quantile_ms(0.5), tally.quantile_ms(0.99))))
    for fault, count in tally.faults.most_common(5):
        teller.say(f"[red]{count} times: {fault}[/]")
    for fault, count in tally.feedback_failures.most_common(3):
        teller.say(f"[yellow]feedback failed {count} times: {fault}[/]")


def _closing(outcome: Outcome, median_ms: float, p99_ms: float) -> list[tuple[str, str, bool | None]]:
    rows: list[tuple[str, str, bool | None]] = [
        (
            "requests served",
            f"{outcome.requests:,} ({', '.join(f'v{name} {count:,}' for name, count in outcome.answers.items())})",
            outcome.requests > 0,
        ),
        ("errors", str(outcome.failed), outcome.failed == 0),
        ("client latency", f"median {median_ms:.1f} ms, 99th percentile {p99_ms:.1f} ms", None),
        ("real delays fed back", ", ".join(f"{name} {count:,}" for name, count in outcome.labels.items()), None),
    ]
    for version, document in ((2, outcome.promoted), (3, outcome.rolled_back)):
        rows.append((f"version {version}", *_ended(document, "succeeded" if version == 2 else "rolled_back")))
    rows.append(("champion now", f"version {outcome.champion}", outcome.champion == 2))
    moved = ", ".join(f"{item['feature']} ({item['statistic']} {item['value']:.2g})" for item in outcome.moved[:4])
    rows.append(("moved most", moved or "nothing", bool(outcome.moved)))
    rows.append(("took", f"{outcome.seconds:.0f} s", None))
    return rows


def _ended(document: dict[str, Any] | None, wanted: str) -> tuple[str, bool]:
    if document is None:
        return "was not rolled out", False
    requests = document["requests"]
    after = f"after {requests['canary']:,} canary and {requests['shadow']:,} shadow answers"
    if document["state"] == "succeeded":
        evidence = ", ".join(
            f"{item['name']} {item['promotion_evidence_log10']:.1f} of {item['promotion_limit_log10']:.1f}"
            for item in document["guardrails"]
            if item["promotion_evidence_log10"] is not None and item["promotion_limit_log10"] is not None
        )
        return f"promoted {after}; evidence (log10) {evidence}", wanted == "succeeded"
    breach = decisive(document)
    if breach is not None:
        evidence = f"{breach['name']}: evidence {breach['evidence_log10']:.1f} of {breach['limit_log10']:.1f} (log10)"
        return f"rolled back {after}; {evidence}", wanted == "rolled_back"
    return f"{document['state']} {after}: {document['reason']}", False


def _keep_serving(teller: Teller, server: Server, home: Path) -> None:
    teller.title("Still serving (Ctrl-C to stop)")
    teller.say(f"predictions {server.data_url}   control {server.control_url}   metrics {server.control_url}/metrics")
    teller.say(f"driftgate rollout status {MODEL} --home {home}")
    with contextlib.suppress(KeyboardInterrupt):
        server.process.wait()


def _driftgate(teller: Teller, home: Path, *words: str) -> str:
    """Run one command as a user would; what it printed. Raises InternalError with that when it fails."""
    teller.still()
    teller.command(["driftgate", *words])
    done = subprocess.run(
        [*_python(), "--home", str(home), *words], capture_output=True, text=True, check=False, env=_environ()
    )
    if done.returncode != 0:
        raise InternalError(f"driftgate {words[0]} ended with exit code {done.returncode}: {done.stderr.strip()}")
    return done.stderr + done.stdout


def _python() -> list[str]:
    return [sys.executable, "-P", "-m", "driftgate"]


def _environ() -> dict[str, str]:
    """Ours without settings for another server; lines are as long as a reader's screen."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTGATE_")}
    return {**kept, "COLUMNS": "140", "PYTHONUNBUFFERED": "1"}
