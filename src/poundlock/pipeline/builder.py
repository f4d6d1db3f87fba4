"""Workflow: the short form. Decorators collect plain functions; `definition` is the frozen, validated result."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar, overload

from poundlock.errors import AlreadyRegistered, InvalidDefinition
from poundlock.guard import repr_of
from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    DEFAULT_DEDUPE,
    DEFAULT_VISIT_LIMIT,
    MAIN,
    OF_WORKFLOW,
    Batch,
    Debounce,
    Pipeline,
    Service,
    Throttle,
    Trigger,
    several,
)
from poundlock.model.durations import Duration
from poundlock.model.modes import Mode, Transient
from poundlock.model.retention import Retention
from poundlock.model.runs import RunInfo
from poundlock.model.schedules import Missed, time_id
from poundlock.model.timeline import Timeline
from poundlock.model.validation import faults_of, refuse
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.assembling import no_steps, structure_hash
from poundlock.pipeline.collecting import PipelineDraft, Stages, named_callable, text_only
from poundlock.pipeline.contracts import contract_faults

F = TypeVar("F", bound=Callable[..., Any])


class Workflow(Stages):
    """A named collection of triggers, pipelines and services.

    All parts may be given here, or be added by its methods, most of which are decorators.
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
        timeout: how long a run may take from its creation, a duration; default: no limit. Its end is the deadline.
        on_timeout: what passing the deadline leads to: "fail", "abort", or the id of a stage, which the run enters
            once; after that it has no deadline. No `on_failure` covers the deadline.
        timeout_counts: "total" counts all time, "active" leaves out the time in which the run is paused or delayed.
        on_change: what becomes of runs that began under another definition: "continue" has them go on by the ids of
            their stages, "fail" fails them when they go on, "pinned" leaves them paused until their own definition is
            registered again. See docs/how-to/change-a-workflow.md.
        migrate: `(state, definition_hash)`, called with the state of such a run, as data, and the hash of the
            definition it was written under; returns the whole state as it should be now.
        durability: what is durable when. "stage": each stage before the next one begins. "step": each result of a step
            or element too, so that after a crash only what was not finished runs again. "async": stages are written
            behind, in order. "exit": only pauses, delays and the end. "none": likewise, and a run that was under way
            when its process ended fails instead of being repeated. See docs/how-to/choose-a-durability.md.
        retention: how long its ended runs are kept, see `Retention`; default: as the runtime says, which is for ever.
        redact: paths of payloads that its runs do not need, such as "card.number" or "items.*.pin". Events that it
            wants have "***" there, for all workflows, before anything of them is written.
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
        timeout: Duration | None = None,
        on_timeout: str = "fail",
        timeout_counts: Literal["total", "active"] = "total",
        on_change: Literal["continue", "fail", "pinned"] = "continue",
        migrate: Callable[[dict[str, Any], str], Any] | None = None,
        durability: Literal["stage", "step", "async", "exit", "none"] = "stage",
        retention: Retention | None = None,
        redact: Sequence[str] = (),
    ) -> None:
        super().__init__()
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
        self.timeout = timeout
        self.on_timeout = on_timeout
        self.timeout_counts = timeout_counts
        self.on_change = on_change
        self.migrate = migrate
        self.durability = durability
        self.retention = retention
        self.redact = (redact,) if isinstance(redact, str) else several(redact)
        self.services: list[Service] = list(several(services))
        self._triggers: dict[str, Trigger] = _mapping("triggers", triggers, "ids to Triggers")
        given = pipelines.values() if isinstance(pipelines, Mapping) else pipelines
        self._pipelines: list[Pipeline] = list(several(given))
        self._drafts: dict[str, PipelineDraft] = {}
        self._triggered: list[tuple[str, Callable[..., Any]]] = []
        """Functions under `on`, by the trigger's id: each has to be a step too."""
        self._unnamed: list[Fault] = []
        """Time triggers without an id, of which a workflow can have one of each kind."""
        self._built: WorkflowDefinition | None = None

    # ---------------------------------------------------------------------------------------------- decorators
    def on(
        self,
        event: str | None = None,
        *,
        id: str | None = None,
        pipeline: str | None = None,
        when: Sequence[Condition] | Callable[..., Any] = (),
        key: str | Callable[..., Any] | None = None,
        map: Callable[..., Any] | None = None,
        cron: str | None = None,
        tz: str | dt.tzinfo | None = None,
        every: Duration | None = None,
        missed: Missed = "once",
        dedupe: Duration | None = DEFAULT_DEDUPE,
        priority: int = 0,
        debounce: Duration | Debounce | None = None,
        throttle: Duration | Throttle | None = None,
        batch: Batch | None = None,
        delay: Duration | None = None,
    ) -> Callable[[F], F]:
        """Start a run for each such event, or at these times. Use it above a step, or alone.

        Args:
            event: event type or dotted pattern; without one, give `cron` or `every`.
            id: the trigger's id; default: the event type, else "cron" or "every".
            pipeline, when, key, map, cron, tz, every, missed, dedupe, priority: see `Trigger`.
            debounce, throttle, batch, delay: hold events, see `Trigger`.

        Raises:
            AlreadyRegistered: the workflow has a trigger of this id: give it another one.
            InvalidDefinition: the event or the id is not text, or there is neither an event nor a time.
        """
        self._collecting()
        text_only("event", event, "write the event type, on('order.placed')")
        text_only("id", id)
        name = id or event or time_id(cron, every)
        if name is None:
            raise InvalidDefinition("say what starts a run: on('order.placed'), or on(cron='0 6 * * *')", path="event")
        if name in self._triggers and not (id or event):
            self._unnamed.append((f"triggers.{name}", f"there is a trigger '{name}' already: give this one an id="))
        elif name in self._triggers:
            raise AlreadyRegistered(
                f"workflow '{self.id}' has a trigger '{name}' already: give this one another id", path=name
            )
        self._triggers[name] = Trigger(
            event,
            pipeline=pipeline,
            when=when,
            key=key,
            map=map,
            cron=cron,
            tz=tz,
            every=every,
            missed=missed,
            dedupe=dedupe,
            priority=priority,
            debounce=debounce,
            throttle=throttle,
            batch=batch,
            delay=delay,
        )

        def note(function: F) -> F:
            self._triggered.append((name, function))
            return function

        return note

    def pipeline(self, id: str, *, label: str = "", state: Any = OF_WORKFLOW) -> PipelineDraft:
        """Return a further pipeline, to which stages are added as to the workflow: for `fork`, `map` and triggers.

        Runs of the workflow go through the stages of the workflow itself, unless their trigger names a pipeline.

        Args:
            id: unique in the workflow.
            label: for people.
            state: pydantic model of the state of its runs; None for a plain mapping; default: the workflow's.

        Raises:
            InvalidDefinition: the workflow has such a pipeline already, or the id is not text.
        """
        self._collecting()
        text_only("id", id)
        if id in self._drafts or id == MAIN:
            raise InvalidDefinition(f"there is a pipeline '{id}' already: give this one another id", path=id)
        draft = self._drafts[id] = PipelineDraft(id, label, state, self._collecting)
        return draft

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
        text_only("id", id)

        def collect(function: F) -> F:
            name = id or named_callable(function, "service")
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
        pipelines = [each for each in self._pipelines if isinstance(each, Pipeline) and isinstance(each.id, str)]
        faults = [
            (f"pipelines.{place}", f"{repr_of(each, 60)} is not a Pipeline: Pipeline(id, [stages])")
            for place, each in enumerate(self._pipelines)
            if each not in pipelines
        ]
        if self._stages:
            pipelines.append(Pipeline(MAIN, self._collected()))
        faults += self._stray_routes()
        for draft in self._drafts.values():
            pipelines.append(Pipeline(draft.id, draft._collected(), label=draft.label, state=draft.state))  # noqa: SLF001 - its own part
            faults += draft._stray_routes()  # noqa: SLF001 - its own part
        ids = [pipeline.id for pipeline in pipelines]
        faults += [("pipelines", f"two pipelines are called '{id}'") for id in dict.fromkeys(ids) if ids.count(id) > 1]
        faults += self._unnamed
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
            timeout=self.timeout,
            on_timeout=self.on_timeout,
            timeout_counts=self.timeout_counts,
            on_change=self.on_change,
            migrate=self.migrate,
            durability=self.durability,
            retention=self.retention,
            redact=self.redact,
        )
        faults = [*faults_of(definition), *faults]
        if faults:
            return definition, faults
        return replace(definition, hash=structure_hash(pipelines, self.on_failure, self.on_timeout, self.state)), faults

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

    def _collecting(self) -> None:
        if self._built is not None:
            raise InvalidDefinition(
                f"workflow '{self.id}' is registered already, or its definition was read: add to it before that",
                path=self.id,
            )

    def __repr__(self) -> str:
        return f"Workflow({self.id!r})"


def _mapping(name: str, given: Any, what: str) -> dict[Any, Any]:
    if given is not None and not isinstance(given, Mapping):
        raise InvalidDefinition(f"{name}={repr_of(given, 60)}: give a mapping of {what}", path=name)
    return dict(given or {})
