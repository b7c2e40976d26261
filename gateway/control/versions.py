"""Versions of models as the controller holds them: which ought to be loaded, their rows, and their files once ready.

Invariant: a version is aspired only when its files lie on this machine. `wanted` and `resident` are pure; `Versions`
reads a row once, as it never changes, and asks the `Preparer` for files until they are there. Owned by the controller.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.control.fleet import ModelState
from gateway.control.loads import Prepared, Preparer
from gateway.data.routes import AspiredVersion
from registry.catalog import Catalog, VersionRow
from registry.vocabulary import CHAMPION_ALIAS


def wanted(state: ModelState) -> list[int]:
    """Versions that ought to be loaded, the most needed first."""
    if state.unloaded:
        return []
    record = state.record.aspired if state.record is not None else ()
    listed = (state.aliases.get(CHAMPION_ALIAS), state.routed, *record, *state.aliases.values(), *state.pending)
    return list(dict.fromkeys(version for version in listed if version is not None))


def resident(state: ModelState) -> set[int]:
    """Versions that must be in memory, not only when a request wants them: a rollout's, and who takes over."""
    if state.unloaded:
        return set()
    found = set(state.pending) | set(state.record.aspired if state.record is not None else ())
    champion = state.aliases.get(CHAMPION_ALIAS)
    if champion is not None and champion != state.routed and (state.routed is not None or state.is_returning):
        found.add(champion)
    return found


class Versions:
    """Of all models."""

    def __init__(self, catalog: Catalog, preparer: Preparer) -> None:
        self._catalog = catalog
        self._preparer = preparer
        self._rows: dict[tuple[str, int], VersionRow] = {}
        self._prepared: dict[tuple[str, int], Prepared] = {}

    def row(self, model: str, version: int) -> VersionRow:
        """One version, read once: it never changes."""
        found = self._rows.get((model, version))
        if found is None:
            found = self._rows[model, version] = self._catalog.version(model, version)
        return found

    def prepared(self, model: str, version: int) -> Prepared | None:
        """A version's local files and profile, once they are there."""
        return self._prepared.get((model, version))

    def are_prepared(self, model: str, versions: Iterable[int]) -> bool:
        """Whether the files of all of these are there."""
        return all((model, version) in self._prepared for version in versions)

    def prepare(self, state: ModelState) -> bool:
        """Ask for what is wanted and not there with its present profile; whether some came."""
        has_news = False
        for version in wanted(state):
            if version not in state.profiles:
                profiles = self._catalog.profiles(state.name, version)
                state.profiles[version] = profiles[-1].sha256 if profiles else None
            profile = state.profiles[version]
            known = self._prepared.get((state.name, version))
            if known is not None and known.profile_sha256 == profile:
                continue
            ready = self._preparer.get(self.row(state.name, version), profile)
            if ready is not None:
                self._prepared[state.name, version] = ready
                has_news = True
        return has_news

    def ready(self, state: ModelState) -> dict[int, AspiredVersion]:
        """What workers are told of the wanted versions that are there, the most needed first."""
        found = ((version, self.prepared(state.name, version)) for version in wanted(state))
        return {version: prepared.aspired for version, prepared in found if prepared is not None}

    def are_current(self, state: ModelState) -> bool:
        """Whether every wanted version is there, with its present profile."""
        found = {version: self.prepared(state.name, version) for version in wanted(state)}
        return all(
            prepared is not None and prepared.profile_sha256 == state.profiles.get(version)
            for version, prepared in found.items()
        )

    def has_profile(self, state: ModelState, version: int) -> bool:
        """Whether workers know what is good of a version; a controller that has just started asks the registry."""
        found = self.prepared(state.name, version)
        return (state.profiles.get(version) if found is None else found.profile_sha256) is not None

    def close(self) -> None:
        """Let nothing more be fetched; what is being fetched is finished first."""
        self._preparer.close()
