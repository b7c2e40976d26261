"""What the controller writes to the registry: rollout records with their events, champion moves, baselines.

Invariant: every function is part of the caller's transaction, so a record, its alias and the sentence that tells of it
are written together or not at all.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from gateway.control.gather import Baseline
from gateway.control.measure import Measured
from monitor.plan import Plan
from monitor.rollout import Event, Moment, RolloutRecord
from registry import schema
from registry.catalog import ANY, Catalog
from registry.errors import AliasMoved, ServingError
from registry.vocabulary import CANARY_ALIAS, CHAMPION_ALIAS, DEFAULT_TENANT, Cause, RolloutState

ACTOR = "driftgate"  # of what nobody asked for
_BASELINE = "controller"
_MEASURED = "measured"
_ALL = 2**31


def new_rollout_id() -> str:
    """Short, random, safe in file names and worker pages."""
    return secrets.token_hex(8)


def new_salt() -> str:
    """The split's key of one rollout: 16 random bytes as hex."""
    return secrets.token_hex(16)


def save(
    catalog: Catalog, record: RolloutRecord, events: Sequence[Event], expected_revision: int | None, actor: str
) -> int:
    """Store a record over the revision expected (None: new) and tell its events; returns its revision."""
    catalog.save_rollout(record.to_json(), expected_revision=expected_revision)
    for event in events:
        data = {**event.data, "sentence": event.sentence}
        catalog.append_event(event.type, model=record.model, version=record.candidate, actor=actor, data=data)
    return record.revision


def move_champion(catalog: Catalog, record: RolloutRecord, current: int, target: int, actor: str) -> None:
    """Move the champion alias for a rollout; nothing when it is there already. Raises AliasMoved."""
    found = catalog.aliases(record.model).get(CHAMPION_ALIAS)
    if found is not None and found.version == target:
        return
    if found is None or found.version != current:
        at = "nothing" if found is None else f"version {found.version}"
        raise AliasMoved(f"the champion alias of {record.model!r} points to {at}, not to version {current}")
    catalog.set_alias(
        record.model,
        CHAMPION_ALIAS,
        target,
        expected=current,
        actor=actor,
        reason=record.reason,
        rollout_id=record.id,
    )


def point_canary(catalog: Catalog, record: RolloutRecord, actor: str) -> None:
    """Make the canary alias say what the rollout says: its candidate while it runs, nothing after."""
    running = not record.is_final and record.state is not RolloutState.SOAK
    catalog.set_alias(
        record.model,
        CANARY_ALIAS,
        record.candidate if running else None,
        expected=ANY,
        actor=actor,
        reason=record.reason,
        rollout_id=record.id,
    )


def note_takeover(catalog: Catalog, model: str, old: int, new: int, moment: Moment, actor: str) -> RolloutRecord:
    """Write an all-at-once rollout into the history: the champion changed without steps or evidence."""
    sentence = f"Version {new} of {model} took over from version {old} all at once: the champion alias was moved."
    record = RolloutRecord(
        id=new_rollout_id(),
        model=model,
        champion=old,
        candidate=new,
        plan=Plan(),
        salt=new_salt(),
        state=RolloutState.SUCCEEDED,
        cause=Cause.OPERATOR,
        revision=1,
        started_ns=moment.wall_ns,
        updated_ns=moment.wall_ns,
        reason=sentence,
        actor=actor,
    )
    data = {"rollout": record.id, "champion": old, "candidate": new, "all_at_once": True, "state": "succeeded"}
    with catalog.transaction():
        save(catalog, record, (Event("rollout.succeeded", data, sentence),), None, actor)
    return record


def ended(catalog: Catalog, model: str) -> tuple[dict[str, int], int]:
    """Rollbacks of a model by reason, and promotions, since the registry was made."""
    rollbacks: dict[str, int] = {}
    promotions = 0
    for document in catalog.rollouts(model, limit=_ALL):
        try:
            record = RolloutRecord.from_json(document)
        except (ServingError, KeyError, TypeError, ValueError):
            continue  # one that this release cannot read must not keep the others from going on
        if record.state is RolloutState.ROLLED_BACK:
            reason = rollback_reason(record)
            rollbacks[reason] = rollbacks.get(reason, 0) + 1
        # Promoted before it was rolled back, perhaps; an alias move is no promotion and has no history.
        promotions += any(entry["state"] == RolloutState.SOAK for entry in record.history)
    return rollbacks, promotions


def rollback_reason(record: RolloutRecord) -> str:
    """The guardrail that ended it, else its cause."""
    breach = next((report.name for report in record.guardrails if report.rolls_back), None)
    return breach or (record.cause.value if record.cause is not None else "operator")


def read_baseline(catalog: Catalog, rollout_id: str) -> Baseline:
    """What was stored when the rollout began."""
    document = _read(catalog, rollout_id, _BASELINE)
    return Baseline() if document is None else Baseline.from_json(document)


def write_baseline(catalog: Catalog, rollout_id: str, baseline: Baseline) -> None:
    """Store it, over what was there."""
    _write(catalog, rollout_id, _BASELINE, baseline.to_json())


def read_measured(catalog: Catalog, rollout_id: str) -> Measured | None:
    """What comparing the versions on reference rows gave; None when that did not end yet."""
    document = _read(catalog, rollout_id, _MEASURED)
    return None if document is None else Measured.from_json(document)


def write_measured(catalog: Catalog, rollout_id: str, measured: Measured) -> None:
    """Store it, over what was there."""
    _write(catalog, rollout_id, _MEASURED, measured.to_json())


def _read(catalog: Catalog, rollout_id: str, name: str) -> dict[str, Any] | None:
    query = sa.select(schema.evidence.c.document).where(_where(rollout_id, name))
    with catalog.reading() as connection:
        text = connection.execute(query).scalar()
    document: dict[str, Any] | None = None if text is None else json.loads(text)
    return document


def _write(catalog: Catalog, rollout_id: str, name: str, document: Mapping[str, Any]) -> None:
    table = schema.evidence
    values = {"tenant": DEFAULT_TENANT, "rollout_id": rollout_id, "name": name, "document": json.dumps(document)}
    with catalog.transaction() as connection:
        connection.execute(table.delete().where(_where(rollout_id, name)))
        connection.execute(table.insert().values(**values))


def _where(rollout_id: str, name: str) -> sa.ColumnElement[bool]:
    c = schema.evidence.c
    return (c.tenant == DEFAULT_TENANT) & (c.rollout_id == rollout_id) & (c.name == name)
