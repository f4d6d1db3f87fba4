"""Flow: the builder, a second way to write a workflow. It collects the same definitions as the decorators do.

Nothing is refused while a flow is written: `build` reports all faults together, those of the calls and those of the
definition that they give.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from poundlock.callables import called_name
from poundlock.guard import repr_of
from poundlock.model.buffers import DEFAULT_BUFFER, Mode, Overflow
from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    DEFAULT_DEDUPE,
    DEFAULT_LIMIT,
    INSTRUCTIONS,
    MAIN,
    ROUTERS,
    Batch,
    Debounce,
    Delay,
    Patch,
    Pause,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    Terminate,
    Throttle,
    Trigger,
    Wait,
    branch,
    several,
    switch,
)
from poundlock.model.durations import Duration
from poundlock.model.schedules import Missed, time_id
from poundlock.model.tasks import Task
from poundlock.model.validation import refuse
from poundlock.pipeline.builder import Workflow

Action = Callable[..., Any] | Task | Step


def flow(id: str, **options: Any) -> Flow:
    """Return a builder of a workflow, whose stages come one after another: `flow("orders").pipe(a).pipe(b).build()`.

    Args:
        id: of the workflow, unique in a runtime.
        options: those of `Workflow`; here `keep_outputs` is True unless it is given.
    """
    return Flow(id, **options)


class Flow:
    """A workflow that is written as a chain of calls. Each call adds to it and returns it; `build` ends the chain.

    A stage leads to the one that is added next, unless something else is said of it. Made by `flow`.
    """

    def __init__(self, id: str, **options: Any) -> None:
        self._id = id
        once: dict[str, Any] = {
            name: tuple(given) if isinstance(given, Iterator) else given for name, given in options.items()
        }
        self._options = {"keep_outputs": True, **once}
        Workflow(id, **self._options)  # an option that there is not is a TypeError here, where it is written
        self._triggers: dict[str, Trigger] = {}
        self._services: list[Service] = []
        self._stages: list[Stage] = []
        self._faults: list[Fault] = []
        self._calls = 0

    # ------------------------------------------------------------------------------------------------- what begins it
    def on(
        self,
        *events: str,
        id: str | None = None,
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
    ) -> Flow:
        """Start a run for each event of these types, or at these times.

        Args:
            events: event types or dotted patterns; without any, give `cron` or `every`.
            id: of the trigger; default: the event type, else "cron" or "every".
            when, key, map, cron, tz, every, missed, dedupe, priority: see `Trigger`.
            debounce, throttle, batch, delay: hold events, see `Trigger`.
        """
        at = self._call("on")
        if id is not None and len(events) > 1:
            self._fault(at, f"id={id!r} is for one trigger, and there are {len(events)} events: call on for each")
        timed = time_id(cron, every)
        if timed is not None and len(events) > 1:
            self._fault(at, f"a time is for one trigger, and there are {len(events)} events: call on for each")
        for event in events or (() if timed is None else (None,)):
            name: Any = id if id is not None else timed if event is None else event
            if not isinstance(name, str):
                self._fault(at, f"{repr_of(name, 60)} is not text: on('order.placed', id='placed')")
            elif name in self._triggers:
                self._fault(at, f"there is a trigger '{name}' already: give this one another id")
            else:
                pipeline = MAIN if self._options.get("pipelines") else None
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
        if not events and timed is None:
            self._fault(at, "say what starts a run: on('order.placed'), or on(cron='0 6 * * *')")
        return self

    def service(
        self,
        factory: Callable[..., Any],
        *,
        scope: Literal["workflow", "run", "stage", "transient"] = "workflow",
        id: str | None = None,
        type: Any = None,
        **options: Any,
    ) -> Flow:
        """Add a service.

        Args:
            factory: builds it.
            scope, type, options: see `Service`.
            id: default: the factory's name.
        """
        at = self._call("service")
        name = id or called_name(factory)
        if name is None:
            self._fault(at, f"{repr_of(factory, 60)} has no name to call the service by: give id=")
        else:
            self._services.append(Service(name, factory, scope=scope, type=type, options=options))
        return self

    # ------------------------------------------------------------------------------------------------------- stages
    def pipe(
        self,
        action: Action | Stage,
        *,
        id: str | None = None,
        stage: str | None = None,
        config: Mapping[str, Any] | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> Flow:
        """Add a stage of one step; or a `Stage` as it is.

        Args:
            action: a function, a `Task`, a `Step`, or a `Stage`.
            id: of the step; default: the function's name, or that of the task or step.
            stage: id of the stage; default: the step's.
            config: settings of a `Task`, merged into its defaults at every depth.
            retry, timeout, undo, executor, label, each, limit, into, poll, every, max_wait: see `Step`; they replace
                those of a task or step.
            then, on_failure: see `Stage`.
        """
        at = self._call("pipe")
        options = _said(retry, timeout, undo, executor, label, each, limit, into, poll, every, max_wait)
        self._add(at, action, id, stage, config, options, then=then, on_failure=on_failure)
        return self

    def aside(
        self,
        action: Action | Stage,
        *,
        id: str | None = None,
        stage: str | None = None,
        config: Mapping[str, Any] | None = None,
        retry: Retry | None = None,
        timeout: Duration | None = None,
        undo: Callable[..., Any] | None = None,
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
        then: str | None = None,
    ) -> Flow:
        """Add a stage that is entered by name only; behind it the run is completed, unless `then` names a stage.

        Args:
            action, id, stage, config, retry, timeout, undo, executor, label, each, limit, into, poll, every, max_wait,
                then: see `pipe`.
        """
        at = self._call("aside")
        options = _said(retry, timeout, undo, executor, label, each, limit, into, poll, every, max_wait)
        self._add(at, action, id, stage, config, options, then=then, aside=True)
        return self

    def parallel(
        self,
        *actions: Action,
        stage: str | None = None,
        timeout: Duration | None = None,
        label: str = "",
        conflict: Literal["last", "error"] = "last",
        then: str | None = None,
        on_failure: str | None = None,
    ) -> Flow:
        """Add a stage whose steps run together. Their patches are committed all at once, when all have succeeded.

        Args:
            actions: functions, tasks with `task.step(config=...)` for settings, or steps.
            stage: id of the stage; default: those of its steps, joined by "+".
            timeout: of the stage, a duration; default: none.
            label, conflict, then, on_failure: see `Stage`.
        """
        at = self._call("parallel")
        steps = [step for action in actions if (step := self._step(at, action, None, None, {})) is not None]
        if not actions:
            self._fault(at, "give it at least one step: parallel(a, b)")
        name = stage or "+".join(step.id for step in steps)
        if steps:
            made = Stage(name, steps, timeout=timeout, label=label, conflict=conflict, then=then, on_failure=on_failure)
            self._stage(at, made)
        return self

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
        mode: Mode = "any",
        distinct: str | None = None,
        collect: str | None = None,
        form: Any = None,
        limit: int = DEFAULT_BUFFER,
        ttl: Duration | None = None,
        overflow: Overflow = "drop_oldest",
        early: bool = True,
        resume_at: str | None = None,
        on_failure: str | None = None,
    ) -> Flow:
        """Add a stage that pauses until one of the events `on` comes.

        Args:
            name: id of the stage and of the wait.
            on: event type or pattern, or several; or {event type or pattern: the stage it leads to}.
            where, correlate, timeout, on_timeout, patch: see `Wait`.
            mode, distinct, collect, form, limit, ttl, overflow, early: see `Wait`.
            resume_at: stage to continue with; default: the next one.
            on_failure: what a timeout leads to where `on_timeout` is "fail", see `Stage`.
        """
        at = self._call("wait")
        wait = Wait(
            on,
            where=where,
            correlate=correlate,
            timeout=timeout,
            on_timeout=on_timeout,
            patch=patch,
            mode=mode,
            distinct=distinct,
            collect=collect,
            form=form,
            limit=limit,
            ttl=ttl,
            overflow=overflow,
            early=early,
            id=name,
        )
        self._stage(at, Stage(name, router=Pause(wait, resume_at), on_failure=on_failure))
        return self

    def delay(
        self,
        seconds: Duration | None = None,
        *,
        until: Any = None,
        then: str | None = None,
        id: str | None = None,
    ) -> Flow:
        """Add a stage behind which the run goes on later.

        Args:
            seconds: a duration.
            until: a datetime with a zone, or seconds since 1970; instead of `seconds`.
            then: the stage to continue with; default: the next one.
            id: of the stage; default: "delay", the second time "delay-2", and so on.
        """
        at = self._call("delay")
        self._stage(at, Stage(id or self._free("delay"), router=Delay(seconds, until, then=then)))
        return self

    # ------------------------------------------------------------------------------------------------- where they lead
    def branch(
        self,
        cases: Mapping[Any, str] | Iterable[tuple[Any, str]],
        *,
        otherwise: str | None = None,
        id: str | None = None,
    ) -> Flow:
        """Lead from the stage before to the stage of the first case that the state meets.

        Args:
            cases, otherwise: see the function `branch`.
            id: of a stage of its own for it; it gets one too if the stage before has a router already.
        """
        at = self._call("branch")
        try:
            router = branch(cases, otherwise=otherwise)
        except (TypeError, ValueError):
            self._fault(at, f"{repr_of(cases, 60)} is not a mapping of conditions to stages")
        else:
            self._route(at, router, id, "branch")
        return self

    def switch(
        self,
        field: str,
        cases: Mapping[Any, str] | Iterable[tuple[Any, str]],
        *,
        otherwise: str | None = None,
        id: str | None = None,
    ) -> Flow:
        """Lead from the stage before to the stage of a field's value.

        Args:
            field, cases, otherwise: see the function `switch`.
            id: of a stage of its own for it; it gets one too if the stage before has a router already.
        """
        at = self._call("switch")
        try:
            router = switch(field, cases, otherwise=otherwise)
        except (TypeError, ValueError):
            self._fault(at, f"{repr_of(cases, 60)} is not a mapping of values to stages")
        else:
            self._route(at, router, id, "switch")
        return self

    def route(self, router: Any, *, id: str | None = None) -> Flow:
        """Lead from the stage before to where a router says.

        Args:
            router: a function that returns an instruction or a stage id, or one of these.
            id: of a stage of its own for it; it gets one too if the stage before has a router already.
        """
        at = self._call("route")
        if isinstance(router, (*INSTRUCTIONS, *ROUTERS, str)) or callable(router):
            self._route(at, router, id, "route")
        else:
            self._fault(at, f"{repr_of(router, 60)} is neither an instruction, a stage id nor a function")
        return self

    def end(self, result: Any = None, *, id: str | None = None) -> Flow:
        """Complete the run behind the stage before, with this result.

        Args:
            result: data.
            id: of a stage of its own for it; it gets one too if the stage before has a router already.
        """
        self._route(self._call("end"), Terminate(result), id, "end")
        return self

    # --------------------------------------------------------------------------------------------------------- build
    def build(self) -> Workflow:
        """Return the workflow.

        Raises:
            DuplicateKey: a service has a reserved id.
            InvalidDefinition: there are faults; all are listed, each with its path.
        """
        services = [*several(self._options.get("services")), *self._services]
        others: Any = self._options.get("pipelines")
        others = several(others.values() if isinstance(others, Mapping) else others)
        pipelines = [*others, Pipeline(MAIN, self._stages)]
        given = {**(self._options.get("triggers") or {}), **self._triggers}
        options = {**self._options, "services": services, "pipelines": pipelines, "triggers": given}
        workflow = Workflow(self._id, **options)
        refuse(self._id, [*self._faults, *workflow.draft()[1]])
        return workflow

    def __repr__(self) -> str:
        return f"Flow({self._id!r}, {len(self._stages)} stages)"

    # ---------------------------------------------------------------------------------------------------------- parts
    def _call(self, name: str) -> str:
        """Count a call, and return what it is named in faults: the third call is "3.pipe"."""
        self._calls += 1
        return f"{self._calls}.{name}"

    def _fault(self, at: str, text: str) -> None:
        self._faults.append((at, text))

    def _add(
        self,
        at: str,
        action: Any,
        id: str | None,
        stage: str | None,
        config: Mapping[str, Any] | None,
        options: dict[str, Any],
        **said: Any,
    ) -> None:
        if isinstance(action, Stage):
            given = [*options, *(name for name, value in (("id", id), ("stage", stage), ("config", config)) if value)]
            if given:
                self._fault(at, f"stage '{action.id}' is added as it is: leave out {', '.join(given)}")
            self._stage(at, replace(action, **{name: value for name, value in said.items() if value is not None}))
            return
        step = self._step(at, action, id, config, options)
        if step is not None:
            self._stage(at, Stage(stage or step.id, [step], **said))

    def _step(self, at: str, action: Any, id: str | None, config: Any, options: dict[str, Any]) -> Step | None:
        if config is not None and not isinstance(config, Mapping):
            self._fault(at, f"config={repr_of(config, 60)} is not a mapping of settings")
            config = None
        if isinstance(action, Task):
            return replace(action.step(id, config=config), **options)
        if config is not None:
            self._fault(at, "config= is for a Task: a function is given its settings by its own default arguments")
        if isinstance(action, Step):
            return replace(action, id=id or action.id, **options)
        if not callable(action):
            self._fault(at, f"{repr_of(action, 60)} is not a function, a Task or a Step")
            return None
        name = id or called_name(action)
        if name is None:
            self._fault(at, f"{repr_of(action, 60)} has no name to call the step by: give id=")
            return None
        return Step(name, action, **options)

    def _stage(self, at: str, stage: Stage) -> None:
        if any(stage.id == other.id for other in self._stages):
            self._fault(at, f"there is a stage '{stage.id}' already: give this one another id with stage= or id=")
        else:
            self._stages.append(stage)

    def _route(self, at: str, router: Any, id: str | None, what: str) -> None:
        """Set the router of the last stage, or add a stage for it."""
        last = self._stages[-1] if self._stages else None
        if id is None and last is not None and last.router is None:
            self._stages[-1] = replace(last, router=router)
        else:
            self._stage(at, Stage(id or self._free(what), router=router))

    def _free(self, name: str) -> str:
        taken = {stage.id for stage in self._stages}
        number = 1
        while (found := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        return found


def _said(
    retry: Retry | None,
    timeout: Duration | None,
    undo: Callable[..., Any] | None,
    executor: str | None,
    label: str,
    each: str | None,
    limit: int,
    into: str | None,
    poll: Callable[..., Any] | None,
    every: Duration | None,
    max_wait: Duration | None,
) -> dict[str, Any]:
    """Return the options of a step that differ from their defaults."""
    given = {
        "retry": retry,
        "timeout": timeout,
        "undo": undo,
        "executor": executor,
        "label": label or None,
        "each": each,
        "limit": None if limit == DEFAULT_LIMIT else limit,
        "into": into,
        "poll": poll,
        "every": every,
        "max_wait": max_wait,
    }
    return {name: value for name, value in given.items() if value is not None}
