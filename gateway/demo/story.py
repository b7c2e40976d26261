"""`driftgate demo`: the main job on real flights, by the same commands and ports that a user has.

Train three models, register them, serve the first, replay April to December as HTTP traffic, roll out the second
(which is promoted) and the third (which is rolled back), and watch the seasons move the features. Invariant: the exit
code is 0 only if all of it really happened, as the server itself tells it. Called by the command line.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gateway.client_control import ControlClient, name_in_path
from gateway.demo import data, models
from gateway.demo.models import MODEL
from gateway.demo.outcome import Outcome, closing_rows, decisive, evidence_of
from gateway.demo.processes import Server, driftgate, serving
from gateway.demo.tell import MONTHS, Teller, closing_table, drift_table, holdout_table
from gateway.demo.traffic import Traffic
from registry.errors import InvalidSetting, ServingError

SEED = 2013
RATE = 300.0  # requests a second: a fiftieth of what one core answers, so two cores have air for everything else
STRIDE = 6  # every sixth flight first: the nine months pass in 140 s
LABEL_AFTER_S = 6.0  # a flight's real delay is known this long after its prediction
REFERENCE_ROWS = 20_000
ROLLOUT_S = 100.0  # a rollout that takes longer than this has not worked
LATENCY_WINDOW_S = 30  # closed windows of the champion's p99; the default is a minute, and there are four in all
BASELINE_S = LATENCY_WINDOW_S + 3.0  # until one such window has closed
LAST_S = 8.0  # of traffic after the second rollout
_FINAL = ("succeeded", "rolled_back", "aborted", "superseded")


def run(console: Console, *, keep: bool, as_json: bool, home: Path | None = None) -> int:
    """Play it; 0 if everything happened. home: a new or empty folder; None: a temporary one, removed at the end."""
    teller = Teller(console)
    if home is not None and home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise InvalidSetting(f"{home} is not an empty folder: the demo plays in one of its own")
    root = home.absolute() if home is not None else Path(tempfile.mkdtemp(prefix="driftgate-demo-"))
    outcome = Outcome()
    code = 1
    try:
        _play(teller, root, outcome, keep=keep)
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
        if as_json:
            document = {**asdict(outcome), "ok": outcome.ok, "checks": outcome.checks()}
            sys.stdout.write(json.dumps(document, default=str, indent=2) + "\n")
        if code == 1:
            _show_failure(teller, root, outcome)
        elif home is None:
            shutil.rmtree(root, ignore_errors=True)
    return code


def _play(teller: Teller, home: Path, outcome: Outcome, *, keep: bool) -> None:
    scratch = home / "demo"  # the models, the reference, the plan and the server's log, beside the state
    scratch.mkdir(parents=True, exist_ok=True)
    later, paths, reference = _train(teller, scratch, outcome)
    teller.title("Register them")
    for number, path in paths.items():
        alias = ["--alias", "champion"] if number == 1 else []
        words = ["register", MODEL, str(path), "--reference", str(reference), "--target", data.TARGET, *alias]
        driftgate(teller, home, *words)
    plan = scratch / "plan.toml"
    plan.write_text(files("gateway.demo").joinpath("plan.toml").read_text(encoding="utf-8"), encoding="utf-8")
    settings = f"[gateway]\ndrain_s = 1\n[monitor]\nlatency_window_s = {LATENCY_WINDOW_S}\n"
    (home / "driftgate.toml").write_text(settings, encoding="utf-8")
    teller.title("Serve")
    with (
        serving(teller, home, scratch / "ready.json", scratch / "serve.log") as server,
        ControlClient(server.control_url) as control,
        # Feedback has a connection of its own: the traffic's thread posts it while this one asks for the rollout.
        ControlClient(server.control_url) as feedback,
    ):
        traffic = Traffic(server.data_url, feedback, MODEL, later, rate=RATE, label_after_s=LABEL_AFTER_S)
        try:
            _watch(teller, traffic, control, home, plan, outcome)
            if keep:
                _settle(teller, traffic, control, outcome)
                _keep_serving(teller, server, home)
        finally:
            traffic.stop()
        if not keep:
            _settle(teller, traffic, control, outcome)
    outcome.stopped_in_order = server.process.returncode == 0
    teller.say(f"the server drained and ended with exit code {server.process.returncode}")


def _train(teller: Teller, scratch: Path, outcome: Outcome) -> tuple[data.Flights, dict[int, Path], Path]:
    """Three real models and the reference rows, in files."""
    teller.title("Three models of arrival delay, trained on January to March")
    rng = np.random.default_rng(SEED)
    teller.move("reading the flights of 2013")
    year = data.load_year(data.find_data())
    total = len(year.training) + len(year.later) + year.cancelled
    teller.say(
        f"{total:,} flights were to leave New York in 2013, and {year.cancelled:,} never did; "
        f"{len(year.training):,} are for training, {len(year.later):,} come later"
    )
    teller.move("training with scikit-learn, exporting with skl2onnx")
    trained = models.train(year.training, rng)
    paths = models.write(trained, scratch)
    teller.move("measuring them on April to June")
    holdout = year.later.where(year.later.month <= 6)
    outcome.errors_min = models.mean_errors(trained, holdout)
    pairs = [models.compare(trained, old, new, year.training, holdout) for old, new in ((1, 2), (2, 3))]
    outcome.pairs = [asdict(pair) for pair in pairs]
    teller.still()
    teller.console.print(holdout_table(outcome.errors_min, pairs))
    teller.say("both successors change about as many late/not-late answers: only real delays can tell them apart")
    reference = scratch / "reference.csv"
    rows = data.write_reference(year.training, reference, REFERENCE_ROWS, rng)
    teller.say(f"{rows:,} training flights are the reference: what the models were promised to see")
    return year.later, paths, reference


def _watch(teller: Teller, traffic: Traffic, control: ControlClient, home: Path, plan: Path, outcome: Outcome) -> None:
    """Traffic, two rollouts, and the rest of the year."""
    teller.title("April to December, as HTTP traffic")
    teller.say(f"{RATE:g} flights a second; each one's real delay is fed back {LABEL_AFTER_S:g} s later")
    traffic.start(STRIDE)
    news = _News(teller, control)
    seasons = _Seasons(teller, traffic, control)
    _let_pass(teller, traffic, BASELINE_S, seasons, "version 1 answers; its latency window closes")
    teller.title("Roll out version 2: on copies, to 5 %, to 50 %, promoted")
    outcome.promoted = _roll_out(teller, traffic, control, home, 2, plan, news)
    if outcome.promoted["state"] != "succeeded":
        return
    _let_pass(teller, traffic, BASELINE_S, seasons, "version 2 answers; its latency window closes")
    teller.title("Roll out version 3, whose training data had the departure delay in seconds")
    outcome.rolled_back = _roll_out(teller, traffic, control, home, 3, plan, news)
    teller.title("The rest of the year")
    _let_pass(teller, traffic, LAST_S, seasons, "version 2 goes on answering")
    outcome.moved = _moved(control)
    teller.still()
    teller.console.print(drift_table("What moved most since January to March", outcome.moved[:8]))


def _roll_out(
    teller: Teller,
    traffic: Traffic,
    control: ControlClient,
    home: Path,
    version: int,
    plan: Path,
    news: _News,
) -> dict[str, Any]:
    """Start it as a user would and watch until it has ended; the last rollout object."""
    driftgate(teller, home, "rollout", "start", MODEL, str(version), "--plan", str(plan), "--reason", "demo")
    until_s = time.monotonic() + ROLLOUT_S
    while True:
        document: dict[str, Any] = control.get(f"models/{name_in_path(MODEL)}/rollout")
        news.tell()
        if document["state"] in _FINAL or time.monotonic() > until_s:
            break
        teller.move(_progress(document, traffic))
        time.sleep(0.5)
    teller.still()
    breach = decisive(document)
    if breach is not None:
        teller.say(f"[bold]{evidence_of(breach)}[/]")
    if document["state"] not in _FINAL:
        teller.say(f"[red]version {version} was not decided in {ROLLOUT_S:g} s[/]")
        for item in document["guardrails"]:
            teller.quote(json.dumps(item))
    return document


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


class _News:
    """The rollout's events, each told once, in the server's own sentences."""

    def __init__(self, teller: Teller, control: ControlClient) -> None:
        self._teller = teller
        self._control = control
        self._after = max((event["id"] for event in control.items("events")), default=0)

    def tell(self) -> None:
        for event in self._control.get("events", after=self._after, limit=100)["items"]:
            self._after = event["id"]
            if event["type"].startswith("rollout."):
                self._teller.still()
                self._teller.say(f"[cyan]{event['type']}[/] {event['data'].get('sentence') or ''}")


class _Seasons:
    """What has moved, told when a month begins."""

    def __init__(self, teller: Teller, traffic: Traffic, control: ControlClient) -> None:
        self._teller = teller
        self._traffic = traffic
        self._control = control
        self._month = 0

    def __call__(self) -> None:
        month = self._traffic.tally.month
        if month == self._month:
            return
        self._month = month
        moved = [
            f"{item['feature']} ({item['statistic']} {item['value']:.2g}, limit {item['threshold']:.2g})"
            for item in _moved(self._control)[:3]
        ]
        if moved:
            self._teller.still()
            self._teller.say(f"[magenta]{MONTHS[month]}[/] against January to March: {', '.join(moved)}")


def _moved(control: ControlClient) -> list[dict[str, Any]]:
    """Each feature's worst measurement beyond its limit, worst first."""
    worst: dict[str, dict[str, Any]] = {}
    for item in control.get(f"models/{name_in_path(MODEL)}/drift")["items"]:
        if item["value"] is None or item["verdict"] != "breach" or not item["threshold"]:
            continue
        present = worst.get(item["feature"])
        if present is None or item["value"] / item["threshold"] > present["value"] / present["threshold"]:
            worst[item["feature"]] = item
    return sorted(worst.values(), key=lambda item: float(-item["value"] / item["threshold"]))


def _let_pass(teller: Teller, traffic: Traffic, seconds: float, seasons: Callable[[], None], what: str) -> None:
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0 and traffic.is_running:
        tally = traffic.tally
        seasons()
        teller.move(
            f"{MONTHS[tally.month]}: {what}; {tally.answered:,} answered, {tally.failed} failed, {left_s:.0f} s to go"
        )
        time.sleep(min(0.5, left_s))


def _settle(teller: Teller, traffic: Traffic, control: ControlClient, outcome: Outcome) -> None:
    """What callers and server say at the end, and the closing table."""
    tally = traffic.tally
    outcome.requests, outcome.failed, outcome.faults = tally.sent, tally.failed, dict(tally.faults)
    outcome.answers = {f"{version}/{role}": count for (version, role), count in sorted(tally.by_version.items())}
    outcome.labels = dict(tally.labels)
    outcome.latency_ms = {"median": tally.quantile_ms(0.5), "99th percentile": tally.quantile_ms(0.99)}
    outcome.champion = control.get(f"models/{name_in_path(MODEL)}")["aliases"].get("champion")
    with contextlib.suppress(ServingError):
        outcome.weight_pct = control.get(f"models/{name_in_path(MODEL)}/rollout")["weight_pct"]
    outcome.seconds = teller.elapsed_s
    teller.title("What happened")
    teller.console.print(closing_table(closing_rows(outcome)))
    for fault, count in tally.faults.most_common(5):
        teller.say(f"[red]{count} times: {fault}[/]")
    for fault, count in tally.feedback_failures.most_common(3):
        teller.say(f"[yellow]feedback failed {count} times: {fault}[/]")


def _keep_serving(teller: Teller, server: Server, home: Path) -> None:
    """Until Ctrl-C or SIGTERM to the server; flights go on leaving, so that there is something to see."""
    teller.title("Still serving, and flights go on leaving (Ctrl-C to stop)")
    teller.say(f"predictions {server.data_url}   control {server.control_url}   metrics {server.control_url}/metrics")
    teller.say(f"try: driftgate rollout status {MODEL} --home {home}")
    teller.say(f"try: driftgate drift {MODEL} --home {home}")
    with contextlib.suppress(KeyboardInterrupt):
        server.process.wait()


def _show_failure(teller: Teller, root: Path, outcome: Outcome) -> None:
    for name, good in outcome.checks().items():
        if not good:
            teller.say(f"[red]not so:[/] {name}")
    log = root / "demo" / "serve.log"
    if log.exists():
        teller.say("[bold]the server's last words[/]")
        teller.quote("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]))
    teller.say(f"its folder is kept for you to look at: {root}")
