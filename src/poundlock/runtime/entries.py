"""What this runtime knows of a registered workflow, and how its hooks are called."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from poundlock.model.definitions import WorkflowDefinition
from poundlock.model.modes import Mode
from poundlock.model.receipts import ReceiptLine
from poundlock.model.runs import RunResult
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.plan import PipelinePlan
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


async def call_hook(entry: Registered, name: str, *args: Any) -> BaseException | None:
    """Call a hook if there is one; returns what it raised, after logging it. A hook never stops anybody else."""
    hook = getattr(entry.hooks, name)
    if hook is None:
        return None
    try:
        answer = hook(*args)
        if inspect.isawaitable(answer):
            await answer
    except Exception as error:
        log.exception("%s of workflow '%s' raised", name, entry.id)
        return error
    return None
