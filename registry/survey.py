"""What the registry says of all models at once: a few queries, where asking model by model takes thousands.

Measured: 1,000 models asked one by one held up the controller for seconds. Called by the controller whenever the
registry has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from registry import schema as t
from registry.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Survey:
    """One consistent look."""

    aliases: Mapping[str, Mapping[str, int]]  # model → alias → version
    profiles: Mapping[tuple[str, int], str]  # (model, version) → sha256 of the profile in use; absent: none
    rolled_out: frozenset[str]  # models that ever had a rollout


def survey(catalog: Catalog) -> Survey:
    """Aliases, profiles in use and who had rollouts."""
    a, p, r = t.aliases.c, t.profiles.c, t.rollouts.c
    tenant = catalog.tenant
    aliases: dict[str, dict[str, int]] = {}
    with catalog.reading() as connection:
        pointing = sa.select(a.model, a.alias, a.version).where(a.tenant == tenant, a.version.is_not(None))
        for model, alias, version in connection.execute(pointing.order_by(a.model, a.alias)):
            aliases.setdefault(model, {})[alias] = version
        given = sa.select(p.model, p.version, p.sha256).where(p.tenant == tenant)
        profiles = {(model, v): sha for model, v, sha in connection.execute(given.order_by(p.number))}
        ever = connection.execute(sa.select(r.model).where(r.tenant == tenant).distinct())
        return Survey(aliases, profiles, frozenset(row[0] for row in ever))
