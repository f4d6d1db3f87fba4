"""`@workflow`: a workflow that is written as one function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from poundlock.errors import InvalidDefinition
from poundlock.guard import repr_of
from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    DEFAULT_DEDUPE,
    MAIN,
    Batch,
    Debounce,
    Pipeline,
    Stage,
    Step,
    Throttle,
    Wait,
    several,
)
from poundlock.model.durations import Duration
from poundlock.model.wait_checks import wait_faults
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.builder import Workflow
from poundlock.pipeline.durable import DurableFunction, early_id
from poundlock.pipeline.functions.generators import can_wait

F = TypeVar("F", bound=Callable[..., Any])


class FunctionWorkflow(Workflow):
    """A workflow that is one durable function, made by `@workflow`. It is registered like any other.

    Its definition has one pipeline, "main", with one stage, which has the id of the workflow: so the function may be
    renamed while runs of it wait.

    Attributes:
        function: the decorated function.
    """

    def __init__(self, id: str, function: Callable[..., Any], waits: Iterable[str | Wait], **options: Any) -> None:
        name = id if isinstance(id, str) and id else "function"
        armed = [Wait(each) if isinstance(each, str) else each for each in waits]
        self.function = function
        self._armed = armed
        action = DurableFunction(function, tuple(each for each in armed if isinstance(each, Wait)))
        super().__init__(id, pipelines=[Pipeline(MAIN, [Stage(name, [Step(name, action)])])], **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function itself."""
        return self.function(*args, **kwargs)

    def draft(self) -> tuple[WorkflowDefinition, list[Fault]]:
        """Return the definition, and its faults; see `Workflow.draft`."""
        definition, faults = super().draft()
        return definition, [*faults, *self._own_faults()]

    def _own_faults(self) -> list[Fault]:
        faults: list[Fault] = []
        if self._stages or self._routes:
            faults.append(("stages", "a durable function has no other stages: let it do the work, with step.run"))
        if not can_wait(self.function):
            shown = repr_of(self.function, 60)
            said = f"{shown} can neither await nor yield an operation: write it as `async def`, or as a generator"
            faults.append(("function", said))
        ids: list[str] = []
        for place, wait in enumerate(self._armed):
            path = f"waits.{place}"
            found = list(wait_faults(path, wait, []))
            faults += found
            if found or not isinstance(wait, Wait):
                continue
            one = (wait.mode, wait.distinct, wait.collect) == ("any", None, None)
            plain = wait.timeout is None and wait.patch is None and wait.early and one
            if isinstance(wait.events, Mapping) or not plain:
                said = "only buffers events for wait_for: leave out timeout, patch, early, mode, collect and stages"
                faults.append((path, said))
            if early_id(wait) in ids:
                faults.append(
                    (f"{path}.id", f"there is another wait '{early_id(wait)}': give this one an id of its own")
                )
            ids.append(early_id(wait))
        return faults


def workflow(
    id: str,
    /,
    *,
    on: str | Sequence[str] = (),
    waits: Sequence[str | Wait] = (),
    when: Sequence[Condition] | Callable[..., Any] = (),
    key: str | Callable[..., Any] | None = None,
    map: Callable[..., Any] | None = None,
    dedupe: Duration | None = DEFAULT_DEDUPE,
    priority: int = 0,
    debounce: Duration | Debounce | None = None,
    throttle: Duration | Throttle | None = None,
    batch: Batch | None = None,
    delay: Duration | None = None,
    **options: Any,
) -> Callable[[Callable[..., Any]], FunctionWorkflow]:
    """Make a workflow of one function, whose operations are recorded: see `Steps`.

    The function is `async def`, or a generator that yields its operations (`def`, or `async def`, which ends with
    `yield Terminate(result)`). Its parameters are `step`, `event`, `state`, `ctx`, and services, by the rules of steps.
    What it returns is the run's `result`.

    Args:
        id: unique in a runtime.
        on: event types or patterns that start a run; default: none, it is started by `run` or `invoke`.
        waits: event types, or Waits, for which events are kept from the start of a run until `step.wait_for` asks for
            them. A Wait may have `correlate`, `where` and an `id`; StateRefs read the run's state.
        when, key, map, dedupe, priority: of these triggers, see `Trigger`.
        debounce, throttle, batch, delay: how these triggers hold events, see `Trigger`.
        options: all further options of `Workflow`: label, services, env, state, mode, on_failure and so on.

    Returns:
        A decorator that returns a `FunctionWorkflow`, to be registered like a Workflow.

    Raises:
        InvalidDefinition: an argument is not valid; what is found in the function is reported when it is registered.
    """
    if callable(id):
        raise InvalidDefinition("write @workflow('an-id') above the function", path="id")
    for name in ("pipelines", "triggers"):
        if name in options:
            raise InvalidDefinition(f"a durable function has no {name}=: give on= and waits=", path=name)

    def make(function: Callable[..., Any]) -> FunctionWorkflow:
        made = FunctionWorkflow(id, function, (waits,) if isinstance(waits, str) else several(waits), **options)
        for event in (on,) if isinstance(on, str) else several(on):
            made.on(
                event,
                when=when,
                key=key,
                map=map,
                dedupe=dedupe,
                priority=priority,
                debounce=debounce,
                throttle=throttle,
                batch=batch,
                delay=delay,
            )
        return made

    return make
