"""What operators may do, as the control API offers it: start, pause, resume, promote, abort, roll back, move an alias.

Invariant: a rollback acts in the data plane before it does anything else; when the call returns, the epoch that took
the canary out is stored. Called from the HTTP server's threads; each call holds the controller's lock while it acts,
and no call holds it while it waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.control import gather, store
from gateway.control.controller import Controller
from gateway.control.fleet import ModelState
from gateway.control.gather import Baseline
from gateway.control.loads import readiness
from gateway.data.page_reader import read_pages
from monitor import rollout
from monitor.plan import Plan, parse
from monitor.rollout import Readiness, RolloutRecord, Transition
from registry.catalog import ANY, AliasRow, Expected, VersionRow
from registry.errors import (
    AliasMoved,
    Draining,
    IllegalTransition,
    LoadFailed,
    ModelNotFound,
    RolloutActive,
    RolloutNotFound,
)
from registry.vocabulary import CHAMPION_ALIAS, RolloutState

LOAD_WAIT_S = 45.0  # how long `alias NAME champion` waits for every worker to load the version


@dataclass(frozen=True, slots=True)
class Act:
    """Who wants it, and why."""

    actor: str
    reason: str = ""


class Commands:
    """Operators' commands on one controller."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._catalog = controller.catalog

    # --- rollouts ------------------------------------------------------------------------------------------------

    def start(self, model: str, version: int, plan: Mapping[str, Any] | None, act: Act) -> dict[str, Any]:
        """Begin a rollout of a version against the present champion; the contract's rollout object.

        Raises ModelNotFound, VersionNotFound, InvalidPlan, RolloutActive, IllegalTransition, AliasMoved.
        """
        controller = self._controller
        parsed = parse(plan or {})
        row = self._catalog.version(model, version)
        with controller.lock:
            state = self._state(model)
            champion = state.aliases.get(CHAMPION_ALIAS)
            self._check_start(state, champion, row, parsed)
            assert champion is not None
            moment = controller.moment()
            pages = read_pages(controller.run_folder)
            transition = rollout.start(
                id=store.new_rollout_id(),
                model=model,
                champion=champion,
                candidate=version,
                plan=parsed,
                salt=store.new_salt(),
                moment=moment,
                actor=act.actor,
                reason=act.reason,
            )
            record = transition.record
            baseline = Baseline(
                shadow_rows=gather.shadow_rows(pages, model, version),
                answers=gather.arm_answers(pages, model, champion, version),
            )
            with controller.ledger.writing():
                self._check_stored_champion(model, champion)  # another process may have moved it since the last tick
                self._supersede(state, f"rollout {record.id}", act.actor)
                store.save(self._catalog, record, transition.events, None, act.actor)
                store.point_canary(self._catalog, record, act.actor)
                store.write_baseline(self._catalog, record.id, baseline)
                aliases = {alias: found.version for alias, found in self._catalog.aliases(model).items()}
            state.begin(record, baseline)
            state.aliases = aliases
            state.stored_revision = record.revision
            state.profiles.pop(version, None)
            document = record.public_json()
        controller.poke.set()
        return document

    def _check_start(self, state: ModelState, champion: int | None, row: VersionRow, plan: Plan) -> None:
        if state.record is not None and state.record.state is not RolloutState.SOAK:
            raise RolloutActive(
                f"a rollout of {state.name!r} is {state.record.state.value}: end it first",
                rollout=state.record.id,
                state=state.record.state.value,
            )
        self._check_served(state)
        if champion is None:
            raise IllegalTransition(
                f"{state.name!r} has no champion to compare with: driftgate alias {state.name} champion {row.version}"
            )
        if champion == row.version:
            raise IllegalTransition(f"version {row.version} of {state.name!r} is the champion already")
        if row.manifest.probe.run == "unproven" and not plan.has_shadow_step:
            raise IllegalTransition(
                f"version {row.version} never ran on given rows ({row.manifest.probe.reason}), so its rollout needs a "
                "step with shadow = true"
            )
        old = self._controller.versions.row(state.name, champion).manifest
        wanted = {spec.name: spec.datatype for spec in old.inputs}
        offered = {spec.name: spec.datatype for spec in row.manifest.inputs}
        if wanted != offered:
            raise IllegalTransition(
                f"version {row.version} cannot answer what version {champion} answers: its inputs are {offered}, the "
                f"champion's are {wanted}"
            )
        for spec in old.inputs:
            other = next(found for found in row.manifest.inputs if found.name == spec.name)
            if not _is_fit(spec.shape, other.shape):
                raise IllegalTransition(
                    f"version {row.version} cannot answer what version {champion} answers: its input {spec.name!r} has "
                    f"shape {_shown(other.shape)}, the champion's {_shown(spec.shape)}"
                )

    def pause(self, model: str, act: Act) -> dict[str, Any]:
        """Hold where it is."""
        return self._command(model, act, rollout.pause)

    def resume(self, model: str, act: Act) -> dict[str, Any]:
        """Go on after a pause or a timed-out step."""
        return self._command(model, act, rollout.resume)

    def promote(self, model: str, act: Act) -> dict[str, Any]:
        """Promote without waiting for evidence."""
        return self._command(model, act, rollout.promote)

    def abort(self, model: str, act: Act) -> dict[str, Any]:
        """End it: the champion takes all."""
        return self._command(model, act, rollout.abort)

    def roll_back(self, model: str, act: Act) -> dict[str, Any]:
        """Now: the champion takes all. The answer says how many requests were in flight then."""
        return self._command(model, act, rollout.roll_back)

    def _command(self, model: str, act: Act, command: Any) -> dict[str, Any]:
        controller = self._controller
        with controller.lock:
            state = self._state(model)
            record = state.record
            if record is None:
                if self._catalog.latest_rollout(model) is None:
                    raise RolloutNotFound(f"{model!r} never had a rollout", model=model)
                raise IllegalTransition(f"no rollout of {model!r} is running", model=model)
            transition: Transition = command(record, controller.moment(), act.actor, act.reason)
            if transition.events or transition.record.state is not record.state:
                controller.apply(state, transition, act.actor)
            elif state.unstored:
                controller.publish()  # what an earlier call asked for may not have got so far
            epoch = controller.table.epoch
            inflight = sum(page.inflight for page in controller.workers())
            document = self._document(model, state)
        controller.poke.set()
        return {**document, "epoch": epoch, "in_flight": inflight}

    def rollout(self, model: str) -> dict[str, Any]:
        """The running rollout, or the last one. Raises ModelNotFound, RolloutNotFound."""
        with self._controller.lock:
            state = self._controller.models.get(model)
            if state is not None and state.record is not None:
                return state.record.public_json()
        return self._document(model, None)

    def _document(self, model: str, state: ModelState | None) -> dict[str, Any]:
        if state is not None and state.record is not None:
            return state.record.public_json()
        self._catalog.aliases(model)  # ModelNotFound
        document = self._catalog.latest_rollout(model)
        if document is None:
            raise RolloutNotFound(f"{model!r} never had a rollout", model=model)
        return RolloutRecord.from_json(document).public_json()

    def _supersede(self, state: ModelState, by: str, actor: str) -> None:
        """End a rollout that only soaks, in the caller's transaction."""
        if state.record is None:
            return
        transition = rollout.supersede(state.record, self._controller.moment(), by)
        store.save(self._catalog, transition.record, transition.events, state.stored_revision, actor)

    # --- aliases -------------------------------------------------------------------------------------------------

    def set_alias(self, model: str, alias: str, version: int | None, expected: Expected, act: Act) -> AliasRow | None:
        """Move an alias. `champion` waits until every live worker holds the version, then changes the route.

        Raises RolloutActive, AliasMoved, LoadFailed, VersionNotFound, ModelNotFound and what the catalog raises.
        """
        controller = self._controller
        if alias != CHAMPION_ALIAS or version is None:
            with controller.lock:
                found = self._catalog.set_alias(
                    model, alias, version, expected=expected, actor=act.actor, reason=act.reason
                )
            controller.poke.set()
            return found
        self._catalog.version(model, version)
        with controller.lock:
            state = self._state(model)
            self._check_no_rollout(state)
            self._check_served(state)
            self._check_expected(state, expected)
            current = state.aliases.get(CHAMPION_ALIAS)
            state.pending[version] += 1
        try:
            if current is not None and current != version:
                self._wait_for_load(state, version, expected)
            with controller.lock:
                return self._move_champion(state, version, expected, act)
        finally:
            with controller.lock:
                state.pending[version] -= 1
                state.pending += Counter()  # forgets what nobody waits for
            controller.poke.set()

    @staticmethod
    def _check_served(state: ModelState) -> None:
        if state.unloaded:
            raise IllegalTransition(
                f"{state.name!r} was unloaded by a caller of the data port: load it there first "
                f"(POST /v2/repository/models/{state.name}/load), or start the server anew"
            )

    def _check_no_rollout(self, state: ModelState) -> None:
        record = state.record
        if record is not None and record.state is not RolloutState.SOAK:
            raise RolloutActive(
                f"a rollout of {state.name!r} is {record.state.value}; promote, abort or roll it back first",
                rollout=record.id,
                state=record.state.value,
            )

    def _check_expected(self, state: ModelState, expected: Expected) -> None:
        """Raise AliasMoved when the champion is another; what the last tick read may be old, so the catalog says it."""
        if expected is not ANY and expected != state.aliases.get(CHAMPION_ALIAS):
            self._check_stored_champion(state.name, expected)

    def _check_stored_champion(self, model: str, expected: int | None) -> None:
        row = self._catalog.aliases(model).get(CHAMPION_ALIAS)
        current = None if row is None else row.version
        if current != expected:
            names = ["nothing" if version is None else f"version {version}" for version in (current, expected)]
            raise AliasMoved(
                f"alias {CHAMPION_ALIAS!r} of {model!r} points to {names[0]}, not to {names[1]}",
                alias=CHAMPION_ALIAS,
                version=current,
                expected=expected,
            )

    def _wait_for_load(self, state: ModelState, version: int, expected: Expected) -> None:
        controller, model = self._controller, state.name
        controller.poke.set()
        until_s = controller.clock.now_s() + LOAD_WAIT_S
        while workers := controller.workers():
            ready, why = readiness(workers, model, version)
            if ready is Readiness.READY:
                return
            if ready is Readiness.FAILED:
                raise LoadFailed(f"version {version} of {model!r} cannot be loaded ({why}); nothing was changed")
            if controller.clock.now_s() > until_s:
                raise LoadFailed(f"version {version} of {model!r} was not loaded in time ({why}); nothing was changed")
            with controller.lock:
                self._check_expected(state, expected)
            if controller.stopping.wait(0.02):  # the process would not end before this call
                raise Draining(f"the controller stops while version {version} of {model!r} loads; nothing was changed")

    def _move_champion(self, state: ModelState, version: int, expected: Expected, act: Act) -> AliasRow | None:
        self._check_no_rollout(state)  # one may have begun while the version was loading
        controller, model = self._controller, state.name
        old = state.aliases.get(CHAMPION_ALIAS)
        with controller.ledger.writing():
            self._supersede(state, f"version {version}, made champion by {act.actor}", act.actor)
            found = self._catalog.set_alias(
                model, CHAMPION_ALIAS, version, expected=expected, actor=act.actor, reason=act.reason
            )
            if old is not None and old != version:
                store.note_takeover(self._catalog, model, old, version, controller.moment(), act.actor)
        state.record = None
        state.aliases = {**state.aliases, CHAMPION_ALIAS: version}
        if controller.workers() or state.routed is None:
            state.routed = version
        controller.publish()
        return found

    def _state(self, model: str) -> ModelState:
        state = self._controller.models.get(model)
        if state is None:
            self._controller.reload()
            state = self._controller.models.get(model)
        if state is None:
            raise ModelNotFound(f"no model {model!r}", model=model)
        return state


def _is_fit(champion: tuple[int | None, ...] | None, candidate: tuple[int | None, ...] | None) -> bool:
    """Whether a row for the one can be a row for the other: no size behind the first axis is declared differently."""
    if champion is None or candidate is None or len(champion) != len(candidate):
        return True  # a rank that differs may be one that is not told; what then fails counts as a failed copy
    return all(None in pair or pair[0] == pair[1] for pair in zip(champion[1:], candidate[1:], strict=True))


def _shown(shape: tuple[int | None, ...] | None) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape or ()) + "]"


__all__ = ["ANY", "Act", "Commands"]
