"""What this runtime knows of a registered workflow, and how its hooks are called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from poundlock.clock import Clock
from poundlock.guard import call_within, log_text
from poundlock.model.modes import Mode
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.binding import Bindings
from poundlock.pipeline.plan import PipelinePlan
from poundlock.records import dataclass, field
from poundlock.runtime.hooks import BoundHook, BoundHooks
from poundlock.runtime.tasks import Tasks
from poundlock.services.install import WorkflowServices

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer

log = logging.getLogger("poundlock.runtime")


@dataclass(slots=True, eq=False)
class Registered:
    """A workflow as this runtime runs it."""

    id: str
    definition: WorkflowDefinition
    mode: Mode
    plans: dict[str, PipelinePlan]
    functions: Bindings
    services: WorkflowServices
    hooks: BoundHooks
    make_container: Callable[[ActiveRun], ArtifactContainer]
    invoked: tuple[str | None, str] | None
    """The trigger and pipeline of an invocation without a trigger; None if it has to name one."""
    subscribed: list[str] = field(default_factory=list)
    closing: bool = False
    leaving: asyncio.Task[None] | None = None
    """Deregisters it, once that was requested."""
    replaying: asyncio.Task[None] | None = None
    """Calls the hooks that were pending when it was registered."""


def slots_of(entry: Registered | None) -> int:
    """Return how many runs of a workflow may be active at the same time; 0 if this process may not start any."""
    return 0 if entry is None or entry.closing else entry.mode.slots


class HookCaller(Protocol):
    """What calling a hook needs of the core, which is in a higher layer than this file."""

    clock: Clock
    hook_timeout: float
    tasks: Tasks

    def context_of_hook(self) -> Context | None:
        """Return the context to call a hook in; None for the current one."""


async def call_hook(
    core: HookCaller,
    entry: Registered,
    name: str,
    *args: Any,
    services: Callable[[], ArtifactContainer] | None = None,
) -> BaseException | None:
    """Call a hook if there is one; returns what it raised, after logging it. A hook never stops or blocks other code.

    A hook that is async or needs services has `hook_timeout` seconds; then it is cancelled, and left behind if it
    does not end.

    Args:
        core: the clock and the timeout.
        entry: the workflow.
        name: which hook.
        args: the documented argument, if it has one.
        services: returns the container of its services; default: the workflow's.

    Raises:
        asyncio.CancelledError: the caller was cancelled.
    """
    hook: BoundHook | None = getattr(entry.hooks, name)
    if hook is None:
        return None
    function = hook.on(core.clock, services or (lambda: entry.services.container))
    answer = await call_within(
        core.hook_timeout, function, *args, clock=core.clock, keep=core.tasks.keep, context=core.context_of_hook()
    )
    if answer.error is not None:
        log.error("%s of workflow '%s' raised\n%s", name, entry.id, log_text(answer.error))
    return answer.error
