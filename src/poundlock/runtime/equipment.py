"""What every run of a workflow is equipped with: its container, and the state that its services select from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from poundlock.codecs import dump
from poundlock.errors import HookTimeout, PoundlockError
from poundlock.guard import call_now, call_within, log_text
from poundlock.model.definitions import default_pipeline
from poundlock.model.runs import Checkpoint
from poundlock.model.timeline import read_entries
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.waits import AnnouncedWaits
from poundlock.runtime.core import Core
from poundlock.runtime.core import log as core_log
from poundlock.runtime.entries import Registered
from poundlock.runtime.healing import notify, patiently
from poundlock.runtime.run_table import LiveRun
from poundlock.services.install import WorkflowServices
from poundlock.services.pause import NoWaits

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer


_EXPORTED: Final = "artifacts:exported"

log = logging.getLogger("poundlock.services")


def container_for(
    core: Core, services: WorkflowServices, definition: WorkflowDefinition
) -> Callable[[ActiveRun], ArtifactContainer]:
    """Return how a run of this workflow gets its container."""

    def make(run: ActiveRun) -> ArtifactContainer:
        return services.run_container(
            run.run_id, lambda: _state_store(core, definition, run), AnnouncedWaits(run), run.exported
        )

    return make


class StageContainers:
    """How the stages of one workflow get their containers: the pipeline's StageServices port."""

    def __init__(self, core: Core, services: WorkflowServices) -> None:
        self._core = core
        self._services = services

    def open(self, run: RunView, stage_id: str, of_run: ArtifactContainer) -> ArtifactContainer:
        name = f"stage '{stage_id}' of run {run.run_id}"
        return self._services.stage_container(name, of_run, self._core.hook_timeout)

    async def close(
        self, container: ArtifactContainer, stage_id: str, failure: BaseException | None
    ) -> BaseException | None:
        error = await _dispose(self._core, container, failure)
        if isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # the error of the clean-up says more than the group around it
        if isinstance(error, HookTimeout):
            error = HookTimeout(f"closing the services of stage '{stage_id}': {error.message}", path=stage_id)
        return error


def note_exports(core: Core, services: WorkflowServices, run: ActiveRun) -> None:
    """Put the run's serialisable services into its journal, so that they are committed with the pause.

    At each pause, changed or not: so reading them back never has to look further than the last pause.
    """
    if not services.exports:
        return
    if run.container is not None:
        try:
            run.exported = services.export(run.container)
        except PoundlockError as error:
            log.warning("services of run '%s' are not exported: %s", run.run_id, error)
    run.journal.put(core.clock.now(), f'"container","{_EXPORTED}",{run.plan.path_json},{dump(run.exported)},null]')


async def recall_exports(core: Core, services: WorkflowServices, run: ActiveRun) -> None:
    """Find what `note_exports` put into the journal of a run that is restored from its row.

    It is in the log's last row, unless the run's owner died since the pause: then longer and longer ends of the log
    are searched.
    """
    run_id, last = run.run_id, 1
    while services.exports:
        rows = await patiently(
            core, partial(core.store.history, run_id, last), f"run '{run_id}'", partial(notify, core, run)
        )
        for entry in reversed(read_entries(rows)):
            if entry.type == _EXPORTED:
                run.exported = entry.payload
                return
        if len(rows) < last:
            return
        last *= 8


def container_of_ended(core: Core, entry: Registered, checkpoint: Checkpoint) -> ArtifactContainer:
    """Return a container for a hook of a run without an owner task; the caller disposes it."""
    definition = entry.definition

    def state() -> Any:
        return _registry(core).make(
            definition.id, checkpoint.state, definition.state_of(checkpoint.record.identity.pipeline_id)
        )

    return entry.services.run_container(checkpoint.record.identity.run_id, state, NoWaits())


def _state_store(core: Core, definition: WorkflowDefinition, run: ActiveRun) -> Any:
    """Return the store that a run's services select its state from; the run keeps it current from now on."""
    if run.state_store is None:
        run.state_store = _registry(core).make(definition.id, run.state, run.plan.state_model)
    return run.state_store


def _registry(core: Core) -> Any:
    from poundlock.state import StateRegistry

    if core.state_registry is None:
        core.state_registry = StateRegistry()
    return core.state_registry


async def close_container(core: Core, live: LiveRun, failure: BaseException | None = None) -> None:
    """Dispose the run's services within `hook_timeout`; a failing clean-up is logged and stops nothing else.

    Args:
        core: of the runtime.
        live: the run.
        failure: the run's error, or why it is left inside a stage; its services see it.
    """
    container, live.run.container = live.run.container, None
    live.run.state_store = live.run.failure = None
    if container is not None and not container.idle:
        await dispose(core, container, live.run.run_id, failure)


async def dispose(core: Core, container: ArtifactContainer, run_id: str, failure: BaseException | None = None) -> None:
    """Dispose services of a run within `hook_timeout`; what a clean-up raises is logged."""
    error = await _dispose(core, container, failure)
    if error is not None:
        core_log.error("cleaning up services of run '%s' failed\n%s", run_id, log_text(error))


async def _dispose(core: Core, container: ArtifactContainer, failure: BaseException | None) -> BaseException | None:
    """Dispose of a container within `hook_timeout`; returns the error, if any."""
    answer = call_now(container.dispose_nowait, failure)
    if answer.error is None and not answer.value:
        answer = await call_within(
            core.hook_timeout, container.dispose, failure, clock=core.clock, keep=core.tasks.keep
        )
    return answer.error


def invoked_by_default(definition: WorkflowDefinition) -> tuple[str | None, str] | None:
    """Return the only trigger with its pipeline, else the pipeline that runs by default.

    None: there are several triggers, or pipelines, and the caller has to name one.
    """
    pipeline_id = default_pipeline(definition.pipelines)
    if len(definition.triggers) == 1:
        trigger_id, trigger = next(iter(definition.triggers.items()))
        return trigger_id, definition.pipeline_of(trigger)
    return None if pipeline_id is None else (None, pipeline_id)
