"""Triton's model repository calls: the index, and load and unload where `gateway.repository_control` is on.

Models are registered, and their versions chosen, through the control port. Here a caller may only say that a model is
not to be served, until it is loaded again or the server is started anew. A worker writes that down (`wishes.py`), the
controller makes the route table say it, and the call returns when every live worker obeys: after an unload no later
request reaches the model, after a load every worker can answer. No event loop waits for a disk here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gateway.data.fleet import Fleet
from gateway.data.page_reader import PageSnapshot, read_pages
from gateway.data.routes import RouteEntry
from gateway.data.wishes import Wishes
from registry.clock import Clock
from registry.errors import (
    DeadlineExceeded,
    IllegalTransition,
    LoadFailed,
    MalformedRequest,
    NotEnabled,
    Overloaded,
    RolloutActive,
)
from registry.vocabulary import CHAMPION_ALIAS, LoadState

LOAD_S = 60.0  # how long a load may wait for every worker
UNLOAD_S = 15.0
LOOK_EVERY_S = 0.05
MOST_WAITING = 16  # calls; each reads pages while it waits
_WORDS = {LoadState.LOADING: "LOADING", LoadState.DRAINING: "UNLOADING"}


class Repository:
    """The repository calls of one worker."""

    def __init__(self, fleet: Fleet, run: Path, slot: int, boot_id: str, clock: Clock, *, enabled: bool) -> None:
        self._fleet = fleet
        self._run = run
        self._boot_id = boot_id
        self._clock = clock
        self._enabled = enabled
        self._wishes = Wishes(run, slot, boot_id)
        self._waiting = 0
        self._writing = asyncio.Lock()

    async def index(self, ready: bool = False) -> list[dict[str, str]]:
        """Every version that is to be loaded, in Triton's words, as all live workers together say it.

        READY is what every worker can answer; a model without any such version has one entry. ready: only those READY.
        """
        workers = await self._workers()
        found = []
        for model in self._fleet.models():
            entry = self._fleet.entry(model)
            if not entry.aspired:
                number = entry.aliases.get(CHAMPION_ALIAS)
                reason = "unloaded" if entry.unloaded else "it has no champion"
                found.append(_item(model, "" if number is None else str(number), "UNAVAILABLE", reason))
            for version in sorted(entry.aspired):
                state, reason = ("UNLOADING", "") if entry.unloaded else self._state(workers, model, version)
                found.append(_item(model, str(version), state, reason))
        return [item for item in found if not ready or item["state"] == "READY"]

    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Have the model served; returns when every live worker holds its champion. Nothing to do is no error.

        Raises NotEnabled, MalformedRequest, ModelNotFound, IllegalTransition (no champion), LoadFailed,
        DeadlineExceeded, Overloaded.
        """
        self._check_enabled("load")
        _check_parameters(parameters, {})
        if _champion(self._fleet.entry(model)) is None:
            raise IllegalTransition(
                f"model {model!r} has no champion to load: driftgate alias {model} champion VERSION", model=model
            )
        with self._admitted():
            await self._wish(model, loaded=True)
            await self._until(self._is_loaded, model, LOAD_S, f"model {model!r} is not loaded by every worker")

    async def unload(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Have the model not served; returns when no later request can reach it. Nothing to do is no error.

        `unload_dependents` is accepted: nothing depends on a model. Raises NotEnabled, MalformedRequest,
        ModelNotFound, RolloutActive, DeadlineExceeded, Overloaded.
        """
        self._check_enabled("unload")
        _check_parameters(parameters, {"unload_dependents": bool})
        _check_no_rollout(model, self._fleet.entry(model))

        async def is_unloaded(name: str) -> bool:
            entry, epoch = self._fleet.entry(name), self._fleet.epoch
            if entry.refused_wish_ns == asked_ns:
                raise RolloutActive(f"a rollout of {name!r} is running: end it before the model is unloaded")
            if not entry.unloaded or entry.aspired:  # what still leaves can be named by its number
                return False
            return all(page.acked_epoch >= epoch for page in await self._workers())

        with self._admitted():
            asked_ns = await self._wish(model, loaded=False)
            try:
                await self._until(is_unloaded, model, UNLOAD_S, f"the controller has not unloaded model {model!r}")
            except (DeadlineExceeded, RolloutActive):
                await self._wish(model, loaded=True)  # what the caller was told has not happened must not happen later
                raise

    # ---- how

    def _check_enabled(self, call: str) -> None:
        if not self._enabled:
            raise NotEnabled(
                f"{call} is switched off on this port: set gateway.repository_control = true, or use the control port"
            )

    async def _wish(self, model: str, *, loaded: bool) -> int:
        async with self._writing:
            now_ns = self._clock.host_ns()
            await asyncio.get_running_loop().run_in_executor(None, self._wishes.wish, model, loaded, now_ns)
        return now_ns

    async def _workers(self) -> list[PageSnapshot]:
        pages = await asyncio.get_running_loop().run_in_executor(None, read_pages, self._run)
        return [page for page in pages if page.alive and page.boot_id == self._boot_id and not page.draining]

    def _state(self, workers: Sequence[PageSnapshot], model: str, version: int) -> tuple[str, str]:
        """As `_state`; what is not in memory here and is loaded when a request wants it can answer, too."""
        state, reason = _state(workers, model, version)
        is_lazy = state == "LOADING" and self._fleet.servable(model, version) is not None
        return ("READY", "loaded when a request wants it") if is_lazy else (state, reason)

    async def _is_loaded(self, model: str) -> bool:
        entry = self._fleet.entry(model)
        version = _champion(entry)
        if entry.unloaded or version is None or version not in entry.aspired:
            return False
        state, reason = _state(await self._workers(), model, version)
        if state == "UNAVAILABLE":
            raise LoadFailed(f"version {version} of model {model!r} cannot be loaded: {reason}", model=model)
        return state == "READY" and entry.champion == version and self._fleet.is_loaded(model, version)

    async def _until(
        self, is_done: Callable[[str], Awaitable[bool]], model: str, seconds: float, otherwise: str
    ) -> None:
        until_s = self._clock.now_s() + seconds
        while not await is_done(model):
            if self._clock.now_s() > until_s:
                raise DeadlineExceeded(f"{otherwise} after {seconds:g} s", model=model)
            await asyncio.sleep(LOOK_EVERY_S)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._waiting >= MOST_WAITING:
            raise Overloaded(f"{self._waiting} loads and unloads are waiting already", retry_after_s=1.0)
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1


def _champion(entry: RouteEntry) -> int | None:
    return entry.champion if entry.champion is not None else entry.aliases.get(CHAMPION_ALIAS)


def _check_no_rollout(model: str, entry: RouteEntry) -> None:
    if entry.rollout_id:
        raise RolloutActive(f"a rollout of {model!r} is running: end it before the model is unloaded", model=model)


def _check_parameters(parameters: Mapping[str, Any], known: Mapping[str, type]) -> None:
    for name, value in parameters.items():
        if name == "config" or name.startswith("file:"):
            raise MalformedRequest(
                f"parameter {name!r:.100} cannot be used: a model's files and configuration come from its registration",
                parameter=name[:100],
            )
        if name not in known:
            raise MalformedRequest(f"parameter {name!r:.100} is not known", parameter=name[:100])
        if not isinstance(value, known[name]):
            raise MalformedRequest(f"parameter {name!r} wants a {known[name].__name__}", parameter=name)


def _state(workers: Sequence[PageSnapshot], model: str, version: int) -> tuple[str, str]:
    """What all workers together say of a version, and why not."""
    said = [(page.slot, *page.loads.get((model, version), (LoadState.LOADING, ""))) for page in workers]
    for slot, state, reason in said:
        if state is LoadState.FAILED:
            return "UNAVAILABLE", f"worker {slot}: {reason}"
    for state, word in _WORDS.items():
        if any(one is state for _, one, _ in said):
            return word, ""
    return ("READY", "") if said else ("LOADING", "no worker is up")


def _item(model: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": model, "version": version, "state": state, "reason": reason}
