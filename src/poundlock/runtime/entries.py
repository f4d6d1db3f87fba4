"""What this runtime knows of a registered workflow, and how its hooks are called."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from poundlock.clock import Clock
from poundlock.guard import call_within, log_text
from poundlock.model.definitions import WorkflowDefinition
from poundlock.model.modes import Mode
from poundlock.model.receipts import ReceiptLine
from poundlock.model.runs import RunResult
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.plan import PipelinePlan
from poundlock.runtime.tasks import Tasks
from poundlock.services.install import WorkflowServices

if TYPE_CHECKING:  # heavy, and needed for a type alone
    from poundlock.artifacts import ArtifactContainer

log = logging.getLogger("poundlock.runtime")


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a workflow's owner wants to be told. Each may be sync or async."""

    on_prepare: Callable[[Any], Any] | None = None
    on_complete: Callable[[RunResult], Any] | None = None
    on_resume: Callable[[Any], Any] | None = None
    on_cleanup: Callable[[], Any] | None = None
    on_dispatch: Callable[[ReceiptLine], Any] | None = None


@dataclass(slots=True, eq=False)
class Registered:
    """A workflow as this runtime runs it."""

    id: str
    definition: WorkflowDefinition
    mode: Mode
    plans: dict[str, PipelinePlan]
    services: WorkflowServices
    hooks: Hooks
    make_container: Callable[[ActiveRun], ArtifactContainer]
    invoked: tuple[str | None, str] | None
    """The trigger and pipeline that an invocation without a trigger means; None if it has to name one."""
    subscribed: list[str] = field(default_factory=list)
    closing: bool = False
    leaving: asyncio.Task[None] | None = None
    """Takes it out, once somebody asked for that."""


class HookCaller(Protocol):
    """What calling a hook needs of the core, which stands above this file."""

    clock: Clock
    hook_timeout: float
    tasks: Tasks

    def context_of_hook(self) -> Context | None:
        """Return the context to call a hook in; None for the current one."""


async def call_hook(core: HookCaller, entry: Registered, name: str, *args: Any) -> BaseException | None:
    """Call a hook if there is one; returns what it raised, after logging it. A hook never stops or holds anybody else.

    One that is async has `hook_timeout` seconds; then it is cancelled, and left behind if it does not end.

    Raises:
        asyncio.CancelledError: the caller was cancelled.
    """
    hook = getattr(entry.hooks, name)
    if hook is None:
        return None
    answer = await call_within(
        core.hook_timeout, hook, *args, clock=core.clock, keep=core.tasks.keep, context=core.context_of_hook()
    )
    if answer.error is not None:
        log.error("%s of workflow '%s' raised\n%s", name, entry.id, log_text(answer.error))
    return answer.error
