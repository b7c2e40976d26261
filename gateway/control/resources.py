"""The control API's handlers: what each call means in terms of the catalog, the controller and the monitor.

Every handler takes a `Call` and returns JSON-able values or raises a ServingError. `operations()` lists them with
their documentation, from which `/openapi.json` is made. No handler decides anything: that is the controller's part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.control.commands import Act, Commands
from gateway.control.controller import Controller
from gateway.control.loads import where
from gateway.control.operation import MOST_ITEMS, Call, Operation, page
from gateway.data import curve_files
from gateway.data.page_reader import PageSnapshot
from gateway.registration import version_document
from monitor.drill import FORMS
from registry.catalog import ANY, AliasRow, Catalog, EventRow, Expected, ModelRow, ProfileRow, VersionRow, check_alias
from registry.errors import MalformedRequest
from registry.vocabulary import CHAMPION_ALIAS

MOST_LABELS = 10_000
_OF_A_TABLE = ("reference", "columns", "target", "prediction", "by_time", "date_format", "unordered")
Register = Callable[[str, Mapping[str, Any], str], dict[str, Any]]
MakeProfile = Callable[[str, int, Mapping[str, Any], str], dict[str, Any]]  # model, version, body, actor


class Resources:
    """All handlers of `/api/v1`."""

    def __init__(self, controller: Controller, register: Register, profile: MakeProfile) -> None:
        self._controller = controller
        self._catalog: Catalog = controller.catalog
        self._commands = Commands(controller)
        self._register = register
        self._profile = profile

    # --- models --------------------------------------------------------------------------------------------------

    def models(self, call: Call) -> dict[str, Any]:
        return page([self._model(row) for row in self._catalog.models()], call, "model")

    def model(self, call: Call) -> dict[str, Any]:
        self._catalog.aliases(call.model)
        row = next(row for row in self._catalog.models() if row.model == call.model)
        workers = self._controller.workers()
        curves, now_ns = self._curves(workers, row.model), self._controller.clock.host_ns()
        versions = [
            {
                **version_json(found),
                **where(workers, row.model, found.version, now_ns),
                "curves": curves.get(found.version, []),
            }
            for found in self._catalog.versions(row.model)
        ]
        return {**self._model(row), "versions": versions}

    def _model(self, row: ModelRow) -> dict[str, Any]:
        aliases = self._catalog.aliases(row.model)
        with self._controller.lock:
            state = self._controller.models.get(row.model)
            record = state.record if state is not None else None
        return {
            "model": row.model,
            "created_at": row.created_at,
            "version_count": row.versions,
            "latest": row.latest,
            "aliases": {alias: found.version for alias, found in aliases.items()},
            "rollout": None if record is None else {"id": record.id, "state": record.state.value},
        }

    def versions(self, call: Call) -> dict[str, Any]:
        return page([version_json(row) for row in self._catalog.versions(call.model)], call, "version")

    def version(self, call: Call) -> dict[str, Any]:
        row = self._catalog.version(call.model, version_number(call.path["version"]))
        curves = self._curves(self._controller.workers(), row.model)
        return {**version_json(row, whole=True), "curves": curves.get(row.version, [])}

    def _curves(self, workers: Sequence[PageSnapshot], model: str) -> dict[int, list[dict[str, Any]]]:
        return curve_files.read(self._controller.run_folder, {page.slot for page in workers}, model)

    def register(self, call: Call) -> dict[str, Any]:
        call.need("path", str, "a path or URL that this server can read")
        alias = call.text("alias")
        if alias:
            check_alias(alias)  # before the work, which is not undone
        answer = self._register(call.model, call.body, call.principal.name)
        if alias:
            self._commands.set_alias(call.model, alias, answer["version"], ANY, self._act(call))
        self._controller.poke.set()
        return {**answer, "alias": alias or None}

    def profiles(self, call: Call) -> dict[str, Any]:
        number = version_number(call.path["version"])
        self._catalog.version(call.model, number)
        return page([profile_json(row) for row in self._catalog.profiles(call.model, number)], call, "number")

    def make_profile(self, call: Call) -> dict[str, Any]:
        number = version_number(call.path["version"])
        self._catalog.version(call.model, number)  # before the work
        answer = self._profile(call.model, number, call.body, call.principal.name)
        self._controller.poke.set()
        return answer

    # --- aliases -------------------------------------------------------------------------------------------------

    def aliases(self, call: Call) -> dict[str, Any]:
        at_ns = call.time_ns("at")
        if at_ns is not None:
            then = self._catalog.alias_history(call.model, at=at_ns)
            items = [{"alias": was.alias, "version": was.version, "since": was.time} for was in then if was.version]
            return {"items": items, "next": None}
        history = self._catalog.alias_history(call.model)
        moves = [
            {
                "alias": move.alias,
                "version": move.version,
                "previous": move.previous,
                "time": move.time,
                "actor": move.actor,
                "reason": move.reason,
            }
            for move in history
        ]
        items = [
            {**alias_json(row), "history": [move for move in moves if move["alias"] == row.alias]}
            for row in self._catalog.aliases(call.model).values()
        ]
        return page(items, call, "alias")

    def set_alias(self, call: Call) -> dict[str, Any]:
        version = call.body.get("version")
        if version is not None:
            version = version_number(version)
        elif "version" not in call.body:
            raise MalformedRequest("the body needs 'version', a number, or null to remove the alias")
        expected: Expected = ANY
        if "expected" in call.body:
            expected = None if call.body["expected"] is None else version_number(call.body["expected"])
        row = self._commands.set_alias(call.model, call.path["alias"], version, expected, self._act(call))
        return {"alias": call.path["alias"], "version": None} if row is None else alias_json(row)

    # --- rollouts ------------------------------------------------------------------------------------------------

    def rollout(self, call: Call) -> dict[str, Any]:
        return self._commands.rollout(call.model)

    def start(self, call: Call) -> dict[str, Any]:
        plan = call.body.get("plan") or {}
        if not isinstance(plan, dict):
            raise MalformedRequest("'plan' must be an object with the keys of a plan file")
        return self._commands.start(call.model, version_number(call.body.get("version")), plan, self._act(call))

    def pause(self, call: Call) -> dict[str, Any]:
        return self._commands.pause(call.model, self._act(call))

    def resume(self, call: Call) -> dict[str, Any]:
        return self._commands.resume(call.model, self._act(call))

    def promote(self, call: Call) -> dict[str, Any]:
        return self._commands.promote(call.model, self._act(call))

    def abort(self, call: Call) -> dict[str, Any]:
        return self._commands.abort(call.model, self._act(call))

    def roll_back(self, call: Call) -> dict[str, Any]:
        return self._commands.roll_back(call.model, self._act(call))

    # --- what the monitor saw ------------------------------------------------------------------------------------

    def drift(self, call: Call) -> dict[str, Any]:
        most = call.number("limit", MOST_ITEMS, 1, MOST_ITEMS) if "limit" in call.query else None
        self._catalog.aliases(call.model)
        with self._controller.watch_lock:
            view = self._controller.watch.drift(call.model, call.query.get("window"))
        return view.to_json(most)

    def drill(self, call: Call) -> dict[str, Any]:
        aliases = self._catalog.aliases(call.model)
        if call.body.get("version") is not None:
            version = version_number(call.body["version"])
        elif CHAMPION_ALIAS in aliases:
            version = aliases[CHAMPION_ALIAS].version
        else:
            raise MalformedRequest(f"{call.model} has no champion: the body needs 'version'")
        with self._controller.watch_lock:
            return {"items": self._controller.watch.drill(call.model, version, call.body)}

    def drills(self, call: Call) -> dict[str, Any]:
        self._catalog.aliases(call.model)
        with self._controller.watch_lock:
            return {"items": self._controller.watch.drills(call.model), "next": None}

    def shadow(self, call: Call) -> dict[str, Any]:
        most = call.number("limit", MOST_ITEMS, 1, MOST_ITEMS) if "limit" in call.query else None
        self._catalog.aliases(call.model)
        with self._controller.lock:
            state = self._controller.models.get(call.model)
            measured = state.measured if state is not None and state.record is not None else None
        with self._controller.watch_lock:
            items = self._controller.watch.shadow(call.model)
        reference = None if measured is None else measured.to_json()
        return {"items": [{**item, "reference": reference} for item in items[:most]], "next": None}

    def feedback(self, call: Call) -> dict[str, int]:
        labels = call.need("labels", list, "a list of labels")
        if len(labels) > MOST_LABELS:
            raise MalformedRequest(f"at most {MOST_LABELS} labels a call, got {len(labels)}")
        for index, label in enumerate(labels):
            _check_label(index, label)
        self._catalog.aliases(call.model)
        with self._controller.watch_lock:
            return self._controller.watch.feedback(call.model, labels)

    def events(self, call: Call) -> dict[str, Any]:
        after = call.number("after", 0, 0, 2**62)
        limit = call.number("limit", 100, 1, 1000)
        rows = self._catalog.events(after=after, limit=limit + 1, model=call.query.get("model"))
        shown = [event_json(row) for row in rows[:limit]]
        return {"items": shown, "next": shown[-1]["id"] if len(rows) > limit else None}

    @staticmethod
    def _act(call: Call) -> Act:
        on_behalf_of = call.text("on_behalf_of", 200)
        reason = call.text("reason")
        return Act(call.principal.name, f"{reason} (on behalf of {on_behalf_of})" if on_behalf_of else reason)


def _check_label(index: int, label: Any) -> None:
    if not isinstance(label, dict) or not isinstance(label.get("request_id"), str) or not label["request_id"]:
        raise MalformedRequest(f"label {index}: needs request_id, a text")
    values = label.get("values")
    plain = (int, float, str, type(None))
    if not isinstance(values, list) or not values or not all(isinstance(value, plain) for value in values):
        raise MalformedRequest(f"label {index}: needs values, a list with one number, text or null per row")
    if not isinstance(label.get("output", ""), str | None):
        raise MalformedRequest(f"label {index}: output must be a text")


def version_number(value: Any) -> int:
    """A version as a body or path gives it. Raises MalformedRequest."""
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise MalformedRequest(f"a version is a number from 1, got {value!r:.40}")
    return value


def version_json(row: VersionRow, *, whole: bool = False) -> dict[str, Any]:
    """A version as the API shows it."""
    manifest = row.manifest
    document = version_document(row)
    if whole:
        document["probe"] = {
            "run": manifest.probe.run,
            "reason": manifest.probe.reason,
            "batch": manifest.probe.batch,
            "batch_reason": manifest.probe.batch_reason,
            "rows_tried": manifest.probe.rows_tried,
            "onnxruntime": manifest.probe.onnxruntime,
            "opset": dict(manifest.probe.opset),
        }
        document["files"] = [file.to_dict() for file in manifest.files]
        document["guarded"] = None if manifest.guarded is None else manifest.guarded.to_dict()
        document["options"] = manifest.options.to_dict()
    return document


def profile_json(row: ProfileRow) -> dict[str, Any]:
    """A profile as a list shows it; `profile` is what measurements name."""
    return {
        "number": row.number,
        "profile": row.sha256,
        "source": row.source,
        "created_at": row.time,
        "actor": row.actor,
    }


def alias_json(row: AliasRow) -> dict[str, Any]:
    """An alias as the API shows it."""
    return {"alias": row.alias, "version": row.version, "since": row.since, "revision": row.revision}


def event_json(row: EventRow) -> dict[str, Any]:
    """An event as the API shows it."""
    return {
        "id": row.id,
        "time": row.time,
        "type": row.type,
        "model": row.model,
        "version": row.version,
        "actor": row.actor,
        "data": dict(row.data),
    }


def operations(resources: Resources) -> tuple[Operation, ...]:
    """Every call of `/api/v1` but the event stream, in the order of the documentation."""
    r = resources
    paging = {"limit": "at most this many, 1 to 1000", "after": "the last item that you have"}
    why = {"reason": "free text, kept with the event", "on_behalf_of": "for whom; kept beside the actor"}
    reference = {
        "reference": "CSV or Parquet with reference rows",
        "golden": ".npz, or a folder of ONNX test data",
        "columns": "names of the model's columns, in order",
        "target": "reference column that is the label",
        "prediction": "reference column that is a prediction",
        "by_time": "reference column with the rows' moments",
        "date_format": "how its texts write dates, where that can be read in two ways",
        "unordered": "true: the reference's rows are in no order of time",
        "options": "serving options",
        "tags": "texts by name",
        "alias": "an alias to move to the new version",
        "new_version": "true: a new version even for known bytes",
    }
    return (
        Operation("GET", "/models", "models", "All models.", r.models, query=paging),
        Operation("GET", "/models/{model}", "model", "One model with its versions.", r.model),
        Operation("GET", "/models/{model}/versions", "versions", "A model's versions.", r.versions, query=paging),
        Operation(
            "POST",
            "/models/{model}/versions",
            "register",
            "Probe, store and number a version. Files are read on the server.",
            r.register,
            "operator",
            {"path": "file, folder or fsspec URL", **reference},
            created=True,
            waits=True,
        ),
        Operation("GET", "/models/{model}/versions/{version}", "version", "One version, whole.", r.version),
        Operation(
            "GET",
            "/models/{model}/versions/{version}/profiles",
            "profiles",
            "A version's reference profiles; the last is in use.",
            r.profiles,
            query=paging,
        ),
        Operation(
            "POST",
            "/models/{model}/versions/{version}/profiles",
            "make_profile",
            "Another reference profile, from a table that the server can read or from live traffic.",
            r.make_profile,
            "operator",
            {
                "from_traffic": "how far back, such as 24h; or reference",
                **{name: reference[name] for name in _OF_A_TABLE},
            },
            created=True,
            waits=True,
        ),
        Operation(
            "GET",
            "/models/{model}/aliases",
            "aliases",
            "Where aliases point, with every move; or where they pointed.",
            r.aliases,
            query={**paging, "at": "RFC 3339: where they pointed then"},
        ),
        Operation(
            "POST",
            "/models/{model}/aliases/{alias}",
            "set_alias",
            "Move an alias. champion: every worker loads the version first.",
            r.set_alias,
            "operator",
            {"version": "number, or null to remove", "expected": "the version it must point to now", **why},
            waits=True,
        ),
        Operation("GET", "/models/{model}/rollout", "rollout", "The running rollout, or the last one.", r.rollout),
        Operation(
            "POST",
            "/models/{model}/rollout",
            "start_rollout",
            "Begin a rollout of a version against the champion.",
            r.start,
            "operator",
            {"version": "number", "plan": "the keys of a plan file; {} is a good plan", **why},
        ),
        *(
            Operation("POST", f"/models/{{model}}/rollout/{name}", f"{name}_rollout", text, handler, "operator", why)
            for name, text, handler in (
                ("pause", "Hold; evidence goes on being read and rollback still acts.", r.pause),
                ("resume", "Go on after a pause or a timed-out step.", r.resume),
                ("promote", "Promote now, without waiting for evidence.", r.promote),
                ("abort", "End it: the champion takes all.", r.abort),
            )
        ),
        Operation(
            "POST",
            "/models/{model}/rollback",
            "rollback",
            "Now: the champion takes all. When this has answered, no later request reaches the canary.",
            r.roll_back,
            "operator",
            why,
        ),
        Operation(
            "GET",
            "/models/{model}/drift",
            "drift",
            "What moved, by how much, against which limit.",
            r.drift,
            query={"window": "5m, 1h, …", "limit": "the worst so many, 1 to 1000; all without it"},
        ),
        Operation("GET", "/models/{model}/drill", "drills", "Drills, and after how many rows each was seen.", r.drills),
        Operation(
            "POST",
            "/models/{model}/drill",
            "start_drill",
            "Shift a copy of one column of the stream, to see how long the detectors take to see it.",
            r.drill,
            "operator",
            {
                "version": "number; the champion without it",
                "feature": "a column; the first numeric input without it",
                "shifts": f"texts like {FORMS}",
                "max_seconds": "give up after; 600 without it",
            },
        ),
        Operation("GET", "/models/{model}/shadow", "shadow", "Champion and shadow on the same input.", r.shadow),
        Operation(
            "POST",
            "/models/{model}/feedback",
            "feedback",
            "What really was: labels by request id, up to 10,000.",
            r.feedback,
            "operator",
            {"labels": '[{"request_id", "output"?, "values": [one per row, null = unknown], "time"?}]'},
        ),
    )
