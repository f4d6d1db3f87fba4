"""Workflow: the short form. Decorators collect plain functions; `definition` is the frozen, validated result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, overload

from poundlock.callables import called_name
from poundlock.errors import AlreadyRegistered, InvalidDefinition, suggest
from poundlock.guard import repr_of
from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    DEFAULT_DEDUPE,
    DEFAULT_LIMIT,
    DEFAULT_VISIT_LIMIT,
    INSTRUCTIONS,
    ROUTERS,
    Branch,
    Instruction,
    Patch,
    Pause,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    Switch,
    Trigger,
    Wait,
    several,
)
from poundlock.model.durations import Duration
from poundlock.model.modes import Mode, Transient
from poundlock.model.runs import RunInfo
from poundlock.model.timeline import Timeline
from poundlock.model.validation import faults_of, refuse
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.assembling import no_steps, structure_hash
from poundlock.pipeline.contracts import contract_faults

F = TypeVar("F", bound=Callable[..., Any])

MAIN = "main"
"""Id of the pipeline that decorated steps form."""


class Workflow:
    """A named collection of triggers, pipelines and services.

    All parts may be given here, or be added by the decorators `on`, `step`, `route`, `wait` and `service`.
    Decorated functions are returned unchanged, so they stay plain functions that can be called in a test.

    Args:
        id: unique in a runtime.
        label: for people.
        triggers: id to Trigger.
        pipelines: id to Pipeline, or just pipelines.
        services: services of this workflow.
        env: variables for the `__env__` service, before the runtime's.
        state: pydantic model of the run's state; every change is validated against it.
        mode: execution mode used unless `register` names one; default `Transient()`.
        requires_env: variables that must be set; if not, registering fails and names all missing ones.
        visit_limit: how often one run may enter one stage, without a pause or delay in between, before it fails as an
            endless loop.
        on_failure: what the failure of a stage leads to, unless the stage says it: "fail" ends the run, "pause" pauses
            it until `resume` has the stage entered again, or the id of a stage, which is given the `Failure`.
        undo_on_abort: whether the steps' `undo` functions are called for a run that is aborted too, not only for one
            that fails.
        keep_outputs: whether each stage's output is kept for `ctx.require` and `ctx.optional`; it is then stored twice,
            in the state and by itself.
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
        on_failure: str = "fail",
        undo_on_abort: bool = False,
        keep_outputs: bool = False,
    ) -> None:
        self.id = id
        self.label = label
        self.state = state
        self.mode = mode
        self.env = _mapping("env", env, "names to values")
        self.requires_env = (requires_env,) if isinstance(requires_env, str) else several(requires_env)
        self.visit_limit = visit_limit
        self.on_failure = on_failure
        self.undo_on_abort = undo_on_abort
        self.keep_outputs = keep_outputs
        self.services: list[Service] = list(several(services))
        self._triggers: dict[str, Trigger] = _mapping("triggers", triggers, "ids to Triggers")
        given = pipelines.values() if isinstance(pipelines, Mapping) else pipelines
        self._pipelines: list[Pipeline] = list(several(given))
        self._stages: dict[str, dict[str, Any]] = {}
        self._routes: dict[str, Any] = {}
        self._triggered: list[tuple[str, Callable[..., Any]]] = []
        """Functions under `on`, by the trigger's id: each has to be a step too."""
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
        """Start a run for each such event. Use it above a step, or alone; the run begins at the first stage.

        Args:
            event: event type or dotted pattern.
            id: the trigger's id; default: the event type.
            pipeline, when, key, map, dedupe, priority: see `Trigger`.

        Raises:
            AlreadyRegistered: the workflow has a trigger of this id: give it another one.
            InvalidDefinition: the event or the id is not text.
        """
        self._collecting()
        _text("event", event, "write the event type, on('order.placed')")
        _text("id", id)
        name = id or event
        if name in self._triggers:
            raise AlreadyRegistered(
                f"workflow '{self.id}' has a trigger '{name}' already: give this one another id", path=name
            )
        self._triggers[name] = Trigger(
            event, pipeline=pipeline, when=when, key=key, map=map, dedupe=dedupe, priority=priority
        )

        def note(function: F) -> F:
            self._triggered.append((name, function))
            return function

        return note

    @overload
    def step(
        self,
        action: F,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: Literal["thread", "inline"] | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        conflict: Literal["last", "error"] | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> F: ...

    @overload
    def step(
        self,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: Literal["thread", "inline"] | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        conflict: Literal["last", "error"] | None = None,
        then: str | None = None,
        on_failure: str | None = None,
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
        undo: Callable[..., Any] | None = None,
        executor: Literal["thread", "inline"] | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        conflict: Literal["last", "error"] | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> Any:
        """Add a function as a step.

        Args:
            stage: steps of one stage name run together; default: a new stage, named like the step.
            id: default: the function's name; required for a callable without a name, such as an object.
            retry, timeout, undo, executor, label, each, limit, into: see `Step`.
            conflict: what happens if two steps of the stage write the same key: "last" lets the later one win, "error"
                fails the stage. One step of the stage sets it for all; default: "last".
            then: the stage after this one; default: the next one. One step of the stage sets it for all.
            on_failure: what a failure of the stage leads to: "fail", "pause", or a stage; default: what the workflow
                says.

        Raises:
            InvalidDefinition: the callable has no name, and no id was given; the id, the stage or `then` is not text;
                or another step of the stage has said something else.
        """
        _text("on_failure", on_failure, "write fail, pause or the id of a stage")
        collect = self._step_of(
            "step",
            id,
            stage,
            {"conflict": conflict, "then": then, "on_failure": on_failure, "aside": False},
            retry=retry,
            timeout=timeout,
            undo=undo,
            executor=executor,
            label=label,
            each=each,
            limit=limit,
            into=into,
        )
        return collect if action is None else collect(action)

    @overload
    def aside(
        self,
        action: F,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: Literal["thread", "inline"] | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        then: str | None = None,
    ) -> F: ...

    @overload
    def aside(
        self,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: Literal["thread", "inline"] | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        then: str | None = None,
    ) -> Callable[[F], F]: ...

    def aside(
        self,
        action: Any = None,
        /,
        *,
        stage: str | None = None,
        id: str | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: Literal["thread", "inline"] | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        then: str | None = None,
    ) -> Any:
        """Add a function as a step of a stage that is entered by name only; behind it the run is completed.

        Args:
            stage, id, retry, timeout, undo, executor, label, each, limit, into: see `step`.
            then: the stage to continue with; default: none, the run is completed.

        Raises:
            InvalidDefinition: as `step`; or the stage has steps that are not aside.
        """
        collect = self._step_of(
            "aside",
            id,
            stage,
            {"then": then, "aside": True},
            retry=retry,
            timeout=timeout,
            undo=undo,
            executor=executor,
            label=label,
            each=each,
            limit=limit,
            into=into,
        )
        return collect if action is None else collect(action)

    @overload
    def route(self, router: Instruction | Branch | Switch | str, /, *, after: str) -> None: ...

    @overload
    def route(self, /, *, after: str) -> Callable[[F], F]: ...

    def route(self, router: Any = None, /, *, after: str) -> Any:
        """Set the router of stage `after`: data, or the function below, which returns an instruction or a stage id.

        The stage may be defined before the router or after it.

        Args:
            router: `branch(...)`, `switch(...)`, an instruction or a stage id; without it, this is a decorator.
            after: the stage.

        Raises:
            InvalidDefinition: that stage has a router already, or `after` is not text.
        """
        self._collecting()
        _text("after", after)

        def collect(function: Any) -> Any:
            if after in self._routes or (after in self._stages and self._stages[after]["router"] is not None):
                raise InvalidDefinition(f"stage '{after}' has a router already: a stage has one", path=after)
            self._routes[after] = function
            return function

        if router is None:
            return collect
        if isinstance(router, (*INSTRUCTIONS, *ROUTERS, str)):
            collect(router)
            return None
        raise InvalidDefinition(
            f"{repr_of(router, 60)} is not a router as data: write @workflow.route(after={after!r}) above a function",
            path=after,
        )

    def wait(
        self,
        name: str,
        *,
        on: str | Sequence[str] | Mapping[str, str],
        where: Sequence[Condition] = (),
        correlate: Mapping[str, Any] | None = None,
        timeout: Duration | None = None,
        on_timeout: str = "fail",
        patch: Patch | None = None,
        early: bool = True,
        resume_at: str | None = None,
        on_failure: str | None = None,
    ) -> None:
        """Add a stage that pauses until one of the events `on` comes; its place is in the order of definition.

        Args:
            name: id of the stage and of the wait.
            on: event type or pattern, or several; or {event type or pattern: the stage it leads to}.
            where, correlate, timeout, on_timeout, patch, early: see `Wait`.
            resume_at: stage to continue with; default: the next one.
            on_failure: what a timeout leads to where `on_timeout` is "fail", see `step`.

        Raises:
            InvalidDefinition: a stage or router of this name exists already, or the name is not text.
        """
        self._collecting()
        _text("name", name)
        wait = Wait(
            on,
            where=where,
            correlate=correlate,
            timeout=timeout,
            on_timeout=on_timeout,
            patch=patch,
            early=early,
            id=name,
        )
        if name in self._stages:
            raise InvalidDefinition(f"there is a stage '{name}' already: a wait needs its own stage", path=name)
        if name in self._routes:
            raise InvalidDefinition(f"stage '{name}' has a router already, so it cannot be a wait", path=name)
        self._stage(name).update(router=Pause(wait, resume_at), on_failure=on_failure)

    @overload
    def service(
        self, factory: F, /, *, scope: str = "workflow", id: str | None = None, type: Any = None, **options: Any
    ) -> F: ...

    @overload
    def service(
        self, /, *, scope: str = "workflow", id: str | None = None, type: Any = None, **options: Any
    ) -> Callable[[F], F]: ...

    def service(
        self,
        factory: Any = None,
        /,
        *,
        scope: str = "workflow",
        id: str | None = None,
        type: Any = None,
        **options: Any,
    ) -> Any:
        """Add a function, class or other callable as the factory of a service.

        Args:
            scope: "workflow", "run", "stage" or "transient".
            id: default: the factory's name; required for a callable without a name, such as an object.
            type: what it provides; default: the factory's return annotation.
            options: see `Service`.

        Raises:
            InvalidDefinition: the factory has no name, and no id was given; or the id is not text.
        """
        self._collecting()
        _text("id", id)

        def collect(function: F) -> F:
            name = id or _named(function, "service")
            self.services.append(Service(name, function, scope=scope, type=type, options=options))  # type: ignore[arg-type]  # checked at register
            return function

        return collect if factory is None else collect(factory)

    # ---------------------------------------------------------------------------------------------- definition
    @property
    def definition(self) -> WorkflowDefinition:
        """The frozen, validated definition. After its first use nothing can be added.

        Raises:
            DuplicateKey: a service has a reserved id.
            InvalidDefinition: the definition has faults; all are listed.
        """
        if self._built is None:
            definition, faults = self.draft()
            refuse(self.id, faults)
            self._built = definition
        return self._built

    def draft(self) -> tuple[WorkflowDefinition, list[Fault]]:
        """Return the definition as it is now, and its faults; parameters of functions are not checked.

        Raises:
            DuplicateKey: a service has a reserved id.
        """
        if self._built is not None:
            return self._built, []
        stages = self._stages
        pipelines = [each for each in self._pipelines if isinstance(each, Pipeline) and isinstance(each.id, str)]
        faults = [
            (f"pipelines.{place}", f"{repr_of(each, 60)} is not a Pipeline: Pipeline(id, [stages])")
            for place, each in enumerate(self._pipelines)
            if each not in pipelines
        ]
        if stages:
            built = [_build_stage(name, parts, self._routes.get(name)) for name, parts in stages.items()]
            pipelines.append(Pipeline(MAIN, built))
        for after in self._routes:
            if after not in stages:
                near = suggest(str(after), list(stages)) if stages else "decorate a step first"
                faults.append((f"route.{after}", f"there is no stage '{after}' to route after: {near}"))
        ids = [pipeline.id for pipeline in pipelines]
        faults += [("pipelines", f"two pipelines are called '{id}'") for id in dict.fromkeys(ids) if ids.count(id) > 1]
        faults += no_steps(self._triggered, pipelines)
        faults += contract_faults(pipelines)
        definition = WorkflowDefinition(
            id=self.id,
            label=self.label,
            triggers=dict(self._triggers),
            pipelines={pipeline.id: pipeline for pipeline in pipelines},
            services=tuple(self.services),
            env=dict(self.env),
            state=self.state,
            mode=Transient() if self.mode is None else self.mode,
            requires_env=self.requires_env,
            visit_limit=self.visit_limit,
            hash="",
            on_failure=self.on_failure,
            undo_on_abort=self.undo_on_abort,
            keep_outputs=self.keep_outputs,
        )
        faults = [*faults_of(definition), *faults]
        return (definition if faults else replace(definition, hash=structure_hash(pipelines, self.on_failure))), faults

    def to_mermaid(
        self, *, run: RunInfo | None = None, timeline: Timeline | None = None, runs: Iterable[RunInfo] = ()
    ) -> str:
        """Return the pipelines as a Mermaid flowchart. The workflow stays open: more can be added afterwards.

        Args:
            run, timeline, runs: see `to_svg`.

        Raises:
            DuplicateKey, InvalidDefinition: as `definition`.
        """
        return self._drawable().to_mermaid(run=run, timeline=timeline, runs=runs)

    def to_svg(
        self, *, run: RunInfo | None = None, timeline: Timeline | None = None, runs: Iterable[RunInfo] = ()
    ) -> str:
        """Return the pipelines as an SVG document. The workflow stays open: more can be added afterwards.

        It needs no other file and no network, runs nothing, follows the reader's light or dark screen, and all texts in
        it are escaped, so it can be put into a page as it is.

        Args:
            run: the place of this run is marked, from `get_run`.
            timeline: of that run; the stages that it entered are marked, with how often.
            runs: these are counted at their stages, by status, from `find_runs`. Those of other workflows, and those
                that are completed or aborted, are left out.

        Raises:
            DuplicateKey, InvalidDefinition: as `definition`.
        """
        return self._drawable().to_svg(run=run, timeline=timeline, runs=runs)

    def _drawable(self) -> WorkflowDefinition:
        definition, faults = self.draft()
        refuse(self.id, faults)
        return definition

    def built(self, definition: WorkflowDefinition) -> None:
        """Close this draft, because it is registered: nothing can be added any more."""
        self._built = definition

    def _stage(self, name: str) -> dict[str, Any]:
        return self._stages.setdefault(name, {"steps": [], "router": None})

    def _step_of(
        self, what: str, id: str | None, stage: str | None, said: Mapping[str, Any], **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return the decorator that adds a function as a step, with what it says of its stage; `what` is its name."""
        self._collecting()
        _text("id", id)
        _text("stage", stage)
        _text("then", said["then"], "give the id of a stage")

        def collect(function: Callable[..., Any]) -> Callable[..., Any]:
            name = id or _named(function, what)
            self._add_step(stage or name, Step(name, function, **options), said)
            return function

        return collect

    def _add_step(self, stage: str, step: Step, said: Mapping[str, Any]) -> None:
        """Add a step, with what it says of its stage: each only once, or the same."""
        parts = self._stage(stage)
        for name, value in said.items():
            known = parts.get(name)
            if value is not None and known not in (None, value):
                raise InvalidDefinition(
                    f"stage '{stage}' has {name}={known!r} already, and step '{step.id}' says {name}={value!r}: set it "
                    f"once",
                    path=f"{stage}.{name}",
                )
        parts |= {name: value for name, value in said.items() if value is not None}
        parts["steps"].append(step)

    def _collecting(self) -> None:
        if self._built is not None:
            raise InvalidDefinition(
                f"workflow '{self.id}' is registered already, or its definition was read: add to it before that",
                path=self.id,
            )

    def __repr__(self) -> str:
        return f"Workflow({self.id!r})"


def _text(name: str, given: object, advice: str = "give an id") -> None:
    """Refuse an id that is not text; for a function, suggest its name."""
    if given is not None and not isinstance(given, str):
        called = called_name(given)
        meant = f", such as '{called}'" if called and advice == "give an id" else ""
        raise InvalidDefinition(f"{name}={repr_of(given, 60)} is not text: {advice}{meant}", path=name)


def _mapping(name: str, given: Any, what: str) -> dict[Any, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidDefinition(f"{name}={repr_of(given, 60)}: give a mapping of {what}", path=name)
    return dict(given or {})


def _build_stage(name: str, parts: Mapping[str, Any], router: Any) -> Stage:
    return Stage(
        name,
        parts["steps"],
        router=parts["router"] or router,
        conflict=parts.get("conflict", "last"),
        then=parts.get("then"),
        aside=parts.get("aside", False),
        on_failure=parts.get("on_failure"),
    )


def _named(function: Any, what: str) -> str:
    """Return the id of a step or service without an explicit one."""
    if not callable(function):
        raise InvalidDefinition(
            f"{repr_of(function, 60)} is not a function: write @workflow.{what} above one, and the rest by "
            f"name, @workflow.{what}(id='...')",
            path=what,
        )
    name = called_name(function)
    if name is None:
        raise InvalidDefinition(
            f"{repr_of(function, 60)} has no name to call the {what} by: give it one, "
            f"workflow.{what}(id='...')(the callable)",
            path="id",
        )
    return name
