"""Starting and stopping a runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from poundlock.clock import timeout_after
from poundlock.errors import AlreadyRegistered, RuntimeStopped
from poundlock.model.definitions import Service
from poundlock.model.modes import Mode
from poundlock.pipeline.builder import Workflow
from poundlock.runtime.commands.claim import Pump
from poundlock.runtime.core import Core, log
from poundlock.runtime.emitting import CONTROL_EVENTS, from_bus
from poundlock.runtime.registration import Hooks, Subscriptions, register

if TYPE_CHECKING:
    from poundlock.ports import Bus, Publication


def default_bus() -> Bus:
    """Return the bus of a runtime that was given none."""
    from poundlock.bus import LocalBus

    return LocalBus()


def split_services(services: Iterable[Service] | Any) -> tuple[tuple[Any, ...], tuple[Service, ...]]:
    """Return (parents, services): a dependency-injector container is a parent, everything else a list of services."""
    if hasattr(services, "providers"):
        return (services,), ()
    return (), tuple(services)


class Lifetime:
    """What is between entering and leaving a runtime."""

    def __init__(self, core: Core, workflows: Sequence[Workflow], services: tuple[Service, ...]) -> None:
        self._core = core
        self._workflows = workflows
        self._services = services
        self._pump = Pump(core)
        self._state = "new"
        self.subscriptions = Subscriptions(core, self._heard)

    async def start(self) -> None:
        """Open the store, register the workflows, claim what nobody drives.

        Raises:
            AlreadyRegistered: the runtime was started before; a stopped one is not started again.
            PoundlockError: the store cannot be opened, or a workflow cannot be registered; nothing is left open.
        """
        if self._state != "new":
            raise AlreadyRegistered("a runtime is entered once: make a new one to start again")
        core = self._core
        self._state = "started"
        await core.store.open(core.worker)
        core.size_at_start = core.store.size
        try:
            core.accepting = True
            core.wake_at = self._pump.wake_at
            core.want = self.subscriptions.want
            for pattern in CONTROL_EVENTS:
                self.subscriptions.take(pattern)
            for workflow in self._workflows:
                await self.register(workflow, None, Hooks())
            core.spawn(self._pump.run(), "poundlock-pump")
        except BaseException:
            await self.stop(drain=0.0)
            raise

    async def register(self, workflow: Workflow, mode: Mode | None, hooks: Hooks) -> None:
        """Register a workflow and have its orphaned and due runs claimed."""
        core = self._core
        if self._state != "started":
            raise RuntimeStopped("the runtime is not running: register inside `async with runtime:`")
        await register(core, self.subscriptions, workflow, mode, hooks, self._services)
        self._pump.wake()

    async def stop(self, *, drain: float) -> None:
        """Stop; doing it twice does nothing."""
        if self._state != "started":
            return
        self._state = "stopped"
        core = self._core
        core.accepting = False
        self._pump.stop()
        self.subscriptions.close()
        await self._drain(drain)
        await core.join_tasks(cancel=True)
        core.stop_evicting()
        core.threads.close()
        for entry in list(core.entries.values()):
            await _closing(entry.services.close(), f"services of workflow '{entry.id}'")
        core.entries.clear()
        if core.built_container is not None:
            await _closing(core.built_container.dispose(), "global services")
        core.waiters.close(RuntimeStopped("the runtime stopped before the run ended: start it again and it goes on"))
        await core.store.close()

    async def _drain(self, drain: float) -> None:
        """Let runs reach their next boundary; those that do not are interrupted where they are."""
        core = self._core
        current = asyncio.current_task()
        live = [entry for entry in core.live.values() if entry.task is not None and entry.task is not current]
        for entry in live:
            entry.run.stopping = True
        tasks = [entry.task for entry in live if entry.task is not None]
        if tasks and drain > 0:
            try:
                async with timeout_after(core.clock, drain):
                    await asyncio.wait(tasks)
            except TimeoutError:
                log.warning(
                    "%d runs did not reach a boundary in %g s; they go on from their last one", len(tasks), drain
                )

    async def _heard(self, publication: Publication) -> None:
        await from_bus(self._core, publication)


async def _closing(disposal: Any, what: str) -> None:
    try:
        await disposal
    except Exception:  # noqa: BLE001 - clean-ups are user code; they stop nobody
        log.exception("cleaning up %s failed", what)
