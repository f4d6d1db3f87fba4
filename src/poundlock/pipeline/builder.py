"""Workflow: the short form. Decorators collect plain functions; `definition` is the frozen, validated result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from poundlock.codecs import dump
from poundlock.errors import AlreadyRegistered, InvalidDefinition
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    DEFAULT_DEDUPE,
    DEFAULT_VISIT_LIMIT,
    Instruction,
    Patch,
    Pause,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    Trigger,
    Wait,
    WorkflowDefinition,
)
from poundlock.model.durations import Duration
from poundlock.model.modes import Mode, Transient
from poundlock.model.validation import check, check_reserved

F = TypeVar("F", bound=Callable[..., Any])

MAIN = "main"
"""Id of the pipeline that decorated steps form."""


class Workflow:
    """A named collection of triggers, pipelines and services.

    Everything may be given at once, or be collected by the decorators `on`, `step`, `route`, `wait` and `service`.
    Decorated functions are returned unchanged, so they stay plain functions that can be called in a test.

    Args:
        id: unique in a runtime.
        label: for people.
        triggers: id to Trigger.
        pipelines: id to Pipeline, or just pipelines.
        services: services this workflow brings.
        env: variables for the `__env__` service, before the runtime's.
        state: pydantic model of the run's state; every change is validated against it.
        mode: execution mode used unless `register` names one; default `Transient()`.
        requires_env: variables that must be set, or registering fails and names all that are missing.
        visit_limit: how often one run may enter one stage, without a pause or delay in between, before it fails as an
            endless loop.
    """

    def __init__(
        self,
        id: str,
        *,
        label: str = "",
        triggers: Mapping[str, Trigger] | None = None,
        pipelines: Mapping[str, Pipeline] | Iterable[Pipeline] = (),
        services: Iterable[Service] = (),
        env: Mapping[str, str] | None = None,
        state: type | None = None,
        mode: Mode | None = None,
        requires_env: Sequence[str] = (),
        visit_limit: int = DEFAULT_VISIT_LIMIT,
    ) -> None:
        self.id = id
        self.label = label
        self.state = state
        self.mode = mode
        self.env = dict(env or {})
        self.requires_env = tuple(requires_env)
        self.visit_limit = visit_limit
        self.services = list(services)
        self._triggers: dict[str, Trigger] = dict(triggers or {})
        given = pipelines.values() if isinstance(pipelines, Mapping) else pipelines
        self._pipelines: list[Pipeline] = list(given)
        self._stages: dict[str, dict[str, Any]] = {}
        self._built: WorkflowDefinition | None = None

    # ---------------------------------------------------------------------------------------------- decorators
    def on(
        self,
        event: str,
        *,
        id: str | None = None,
        pipeline: str | None = None,
        when: Sequence[Condition] | Callable[..., Any] = (),
        key: str | Callable[..., Any] | None = None,
        map: Callable[..., Any] | None = None,
        dedupe: Duration | None = DEFAULT_DEDUPE,
        priority: int = 0,
    ) -> Callable[[F], F]:
        """Start a run for each such event. May stand above a step, or alone; the run enters at the first stage.

        Args:
            event: event type or dotted pattern.
            id: the trigger's id; default: the event type.
            pipeline, when, key, map, dedupe, priority: see `Trigger`.

        Raises:
            AlreadyRegistered: the workflow has a trigger of this id: give it another one.
        """
        self._collecting()
        name = id or event
        if name in self._triggers:
            raise AlreadyRegistered(
                f"workflow '{self.id}' has a trigger '{name}' already: give this one an id of its own", path=name
            )
        self._triggers[name] = Trigger(
            event, pipeline=pipeline, when=when, key=key, map=map, dedupe=dedupe, priority=priority
        )
        return _unchanged

    @overload
    def step(self, action: F, /) -> F: ...

    @overload
    def step(
        self,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        executor: str | None = None,
        label: str = "",
        conflict: Literal["last", "error"] | None = None,
    ) -> Callable[[F], F]: ...

    def step(
        self,
        action: Any = None,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        executor: str | None = None,
        label: str = "",
        conflict: Literal["last", "error"] | None = None,
    ) -> Any:
        """Add a function as a step.

        Args:
            stage: steps of one stage name run together; default: a stage of its own, named like the step.
            id: default: the function's name.
            retry, timeout, executor, label: see `Step`.
            conflict: what happens if two steps of the stage write the same key: "last" lets the later one win, "error"
                fails the stage. One step of the stage says it for all; default: "last".

        Raises:
            InvalidDefinition: another step of the stage has another `conflict`.
        """
        self._collecting()

        def collect(function: Callable[..., Any]) -> Callable[..., Any]:
            name = id or function.__name__
            step = Step(name, function, retry=retry, timeout=timeout, executor=executor, label=label)
            parts = self._stage(stage or name)
            if conflict is not None and parts["conflict"] not in (None, conflict):
                raise InvalidDefinition(
                    f"stage '{stage or name}' has conflict='{parts['conflict']}' already, and step '{name}' says "
                    f"conflict='{conflict}': say it once",
                    path=f"{stage or name}.conflict",
                )
            parts["conflict"] = conflict or parts["conflict"]
            parts["steps"].append(step)
            return function

        return collect if action is None else collect(action)

    def route(self, *, after: str) -> Callable[[F], F]:
        """Let a function decide what comes after the stage `after`; it returns an instruction or a stage id.

        Raises:
            InvalidDefinition: that stage has a router already.
        """
        self._collecting()

        def collect(function: F) -> F:
            stage = self._stage(after)
            if stage["router"] is not None:
                raise InvalidDefinition(f"stage '{after}' has a router already: a stage has one", path=after)
            stage["router"] = function
            return function

        return collect

    def wait(
        self,
        name: str,
        *,
        on: str | Sequence[str],
        where: Sequence[Condition] = (),
        correlate: Mapping[str, Any] | None = None,
        timeout: Duration | None = None,
        on_timeout: str = "fail",
        patch: Patch | None = None,
        resume_at: str | None = None,
        form: Any = None,
    ) -> None:
        """Add a stage that pauses until one of the events `on` comes; it stands where it is written.

        Args:
            name: id of the stage and of the wait.
            on: event type or pattern, or several.
            where, correlate, timeout, on_timeout, patch, form: see `Wait`.
            resume_at: stage to go on with; default: the next one.
        """
        self._collecting()
        wait = Wait(
            on,
            where=where,
            correlate=correlate,
            timeout=timeout,
            on_timeout=on_timeout,
            patch=patch,
            form=form,
            id=name,
        )
        if name in self._stages:
            raise InvalidDefinition(f"there is a stage '{name}' already: a wait is a stage of its own", path=name)
        self._stage(name)["router"] = Pause(wait, resume_at)

    def service(
        self, *, scope: str = "workflow", id: str | None = None, type: Any = None, **options: Any
    ) -> Callable[[F], F]:
        """Add a function as the factory of a service.

        Args:
            scope: "workflow", "run", "stage" or "transient".
            id: default: the function's name.
            type: what it provides; default: the factory's return annotation.
            options: see `Service`.
        """
        self._collecting()

        def collect(function: F) -> F:
            name = id or function.__name__
            self.services.append(Service(name, function, scope=scope, type=type, options=options))  # type: ignore[arg-type]  # checked at register
            return function

        return collect

    # ---------------------------------------------------------------------------------------------- definition
    @property
    def definition(self) -> WorkflowDefinition:
        """The frozen, validated definition. From its first use on nothing can be added.

        Raises:
            DuplicateKey: a service has a reserved id.
            InvalidDefinition: the definition has faults; all are listed.
        """
        if self._built is None:
            check_reserved(self.services)
            pipelines = list(self._pipelines)
            if self._stages:
                pipelines.append(Pipeline(MAIN, [_build_stage(name, parts) for name, parts in self._stages.items()]))
            if len({pipeline.id for pipeline in pipelines}) < len(pipelines):
                raise InvalidDefinition(f"workflow '{self.id}' has two pipelines of one id", path="pipelines")
            definition = WorkflowDefinition(
                id=self.id,
                label=self.label,
                triggers=dict(self._triggers),
                pipelines={pipeline.id: pipeline for pipeline in pipelines},
                services=tuple(self.services),
                env=dict(self.env),
                state=self.state,
                mode=self.mode or Transient(),
                requires_env=self.requires_env,
                visit_limit=self.visit_limit,
                hash=_structure_hash(pipelines),
            )
            check(definition)
            self._built = definition
        return self._built

    def _stage(self, name: str) -> dict[str, Any]:
        return self._stages.setdefault(name, {"steps": [], "router": None, "conflict": None})

    def _collecting(self) -> None:
        if self._built is not None:
            raise InvalidDefinition(
                f"workflow '{self.id}' is registered already: add to it before registering", path=self.id
            )

    def __repr__(self) -> str:
        return f"Workflow({self.id!r})"


def _unchanged(function: F) -> F:
    return function


def _build_stage(name: str, parts: Mapping[str, Any]) -> Stage:
    return Stage(name, parts["steps"], router=parts["router"], conflict=parts["conflict"] or "last")


def _structure_hash(pipelines: Iterable[Pipeline]) -> str:
    """Identify the structure a run can stand in: pipelines, stages, steps and where instructions lead. No code."""
    structure = [
        [pipeline.id, [[stage.id, [step.id for step in stage.steps], _lead(stage.router)] for stage in pipeline.stages]]
        for pipeline in pipelines
    ]
    return hashlib.blake2s(dump(structure).encode(), digest_size=8).hexdigest()


def _lead(router: Instruction | str | Callable[..., Any] | None) -> str | None:
    if router is None or isinstance(router, str):
        return router
    return type(router).__name__
