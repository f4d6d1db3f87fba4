"""Stages: what the decorators of a workflow, and of its further pipelines, collect."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar, overload

from poundlock.callables import called_name
from poundlock.errors import InvalidDefinition, suggest
from poundlock.guard import repr_of
from poundlock.model.buffers import DEFAULT_BUFFER, Mode, Overflow
from poundlock.model.checks import Fault
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    DEFAULT_LIMIT,
    INSTRUCTIONS,
    ROUTERS,
    Branch,
    Children,
    Instruction,
    Patch,
    Pause,
    Retry,
    Stage,
    Step,
    Switch,
    Wait,
)
from poundlock.model.durations import Duration

F = TypeVar("F", bound=Callable[..., Any])


class Stages:
    """The stages of one pipeline, in the order in which they are defined.

    Decorated functions are returned unchanged, so they stay plain functions that can be called in a test.
    """

    def __init__(self) -> None:
        self._stages: dict[str, dict[str, Any]] = {}
        self._routes: dict[str, Any] = {}

    def _collecting(self) -> None:
        """Refuse to add anything once the definition is closed."""
        raise NotImplementedError

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
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
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
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
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
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
        conflict: Literal["last", "error"] | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> Any:
        """Add a function as a step.

        Args:
            stage: steps of one stage name run together; default: a new stage, named like the step.
            id: default: the function's name; required for a callable without a name, such as an object.
            retry, timeout, undo, executor, label, each, limit, into, poll, every, max_wait: see `Step`.
            conflict: what happens if two steps of the stage write the same key: "last" lets the later one win, "error"
                fails the stage. One step of the stage sets it for all; default: "last".
            then: the stage after this one; default: the next one. One step of the stage sets it for all.
            on_failure: what a failure of the stage leads to: "fail", "pause", or a stage; default: what the workflow
                says.

        Raises:
            InvalidDefinition: the callable has no name, and no id was given; the id, the stage or `then` is not text;
                or another step of the stage has said something else.
        """
        text_only("on_failure", on_failure, "write fail, pause or the id of a stage")
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
            poll=poll,
            every=every,
            max_wait=max_wait,
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
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
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
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
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
        executor: str | None = None,
        label: str = "",
        each: str | None = None,
        limit: int = DEFAULT_LIMIT,
        into: str | None = None,
        poll: Callable[..., Any] | None = None,
        every: Duration | None = None,
        max_wait: Duration | None = None,
        then: str | None = None,
    ) -> Any:
        """Add a function as a step of a stage that is entered by name only; behind it the run is completed.

        Args:
            stage, id, retry, timeout, undo, executor, label, each, limit, into, poll, every, max_wait: see `step`.
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
            poll=poll,
            every=every,
            max_wait=max_wait,
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
        text_only("after", after)

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
    ) -> None:
        """Add a stage that pauses until one of the events `on` comes; its place is in the order of definition.

        Args:
            name: id of the stage and of the wait.
            on: event type or pattern, or several; or {event type or pattern: the stage it leads to}.
            where, correlate, timeout, on_timeout, patch: see `Wait`.
            mode, distinct, collect, form, limit, ttl, overflow, early: see `Wait`.
            resume_at: stage to continue with; default: the next one.
            on_failure: what a timeout leads to where `on_timeout` is "fail", see `step`.

        Raises:
            InvalidDefinition: a stage or router of this name exists already, or the name is not text.
        """
        self._collecting()
        text_only("name", name)
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
        if name in self._stages:
            raise InvalidDefinition(f"there is a stage '{name}' already: a wait needs its own stage", path=name)
        if name in self._routes:
            raise InvalidDefinition(f"stage '{name}' has a router already, so it cannot be a wait", path=name)
        self._stage(name).update(router=Pause(wait, resume_at), on_failure=on_failure)

    # ------------------------------------------------------------------------------------------------- children
    def fork(
        self,
        *pipelines: PipelineDraft | str,
        id: str | None = None,
        into: str | None = None,
        input: Callable[..., Any] | None = None,
        join: Literal["all", "any"] | int = "all",
        on_child_failure: Literal["fail_fast", "collect"] = "fail_fast",
        limit: int | None = None,
        timeout: Duration | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> None:
        """Add a stage that runs further pipelines side by side, each as a run of its own, and waits for them.

        Args:
            pipelines: what `workflow.pipeline(id)` returned, or ids.
            id: of the stage; default: `into`.
            into: key of the state that gets `{pipeline: result}`; default: the stage's id. One of the two is needed.
            input, join, on_child_failure, limit: see `Children`.
            timeout: how long the children may take, pauses included; then they are aborted, and the stage fails.
            then, on_failure: see `step`.

        Raises:
            InvalidDefinition: a stage of this name exists already, or there is no name.
        """
        children = Children(
            tuple(map(_id_of, pipelines)),
            input=input,
            into=into,
            join=join,
            on_child_failure=on_child_failure,
            limit=limit,
        )
        self._add_children(id or into, children, {"timeout": timeout, "then": then, "on_failure": on_failure})

    def map(
        self,
        pipeline: PipelineDraft | str,
        *,
        over: str | Callable[..., Any],
        id: str | None = None,
        into: str | None = None,
        input: Callable[..., Any] | None = None,
        join: Literal["all", "any"] | int = "all",
        on_child_failure: Literal["fail_fast", "collect"] = "fail_fast",
        limit: int = DEFAULT_LIMIT,
        timeout: Duration | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> None:
        """Add a stage that runs a further pipeline once per element of a list or a mapping in the state.

        Args:
            pipeline: what `workflow.pipeline(id)` returned, or its id.
            over, input, join, on_child_failure, limit: see `Children`.
            id, into, timeout, then, on_failure: see `fork`; `into` gets the results in order.

        Raises:
            InvalidDefinition: as `fork`.
        """
        children = Children(
            (_id_of(pipeline),),
            over=over,
            input=input,
            into=into,
            join=join,
            on_child_failure=on_child_failure,
            limit=limit,
        )
        self._add_children(id or into, children, {"timeout": timeout, "then": then, "on_failure": on_failure})

    def call(
        self,
        workflow: str,
        *,
        over: str | Callable[..., Any] | None = None,
        id: str | None = None,
        into: str | None = None,
        input: Callable[..., Any] | None = None,
        on_child_failure: Literal["fail_fast", "collect"] = "fail_fast",
        limit: int | None = None,
        timeout: Duration | None = None,
        then: str | None = None,
        on_failure: str | None = None,
    ) -> None:
        """Add a stage that starts a run of another workflow and waits for it; with `over` one run per element.

        Args:
            workflow: its id; it has to be registered when the stage begins.
            over, input, on_child_failure, limit: see `Children`.
            id, into, timeout, then, on_failure: see `fork`; the default of `id` is `into`, or else the workflow's id.

        Raises:
            InvalidDefinition: as `fork`.
        """
        children = Children(
            workflow=workflow, over=over, input=input, into=into, on_child_failure=on_child_failure, limit=limit
        )
        said = {"timeout": timeout, "then": then, "on_failure": on_failure}
        self._add_children(id or into or workflow, children, said)

    def _add_children(self, name: str | None, children: Children, said: Mapping[str, Any]) -> None:
        self._collecting()
        if name is None:
            raise InvalidDefinition("a stage with children needs a name: give it id= or into=", path="id")
        text_only("id", name)
        if name in self._stages:
            raise InvalidDefinition(f"there is a stage '{name}' already: children need their own stage", path=name)
        self._stage(name).update(children=children, **said)

    # ---------------------------------------------------------------------------------------------- the definition
    def _collected(self) -> list[Stage]:
        """Return the stages as they are now."""
        return [_build_stage(name, parts, self._routes.get(name)) for name, parts in self._stages.items()]

    def _stray_routes(self) -> list[Fault]:
        """Return the routers of stages that do not exist."""
        stages = list(self._stages)
        near = [(after, suggest(str(after), stages) if stages else "decorate a step first") for after in self._routes]
        return [
            (f"route.{after}", f"there is no stage '{after}' to route after: {said}")
            for after, said in near
            if after not in self._stages
        ]

    def _stage(self, name: str) -> dict[str, Any]:
        return self._stages.setdefault(name, {"steps": [], "router": None})

    def _step_of(
        self, what: str, id: str | None, stage: str | None, said: Mapping[str, Any], **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return the decorator that adds a function as a step, with what it says of its stage; `what` is its name."""
        self._collecting()
        text_only("id", id)
        text_only("stage", stage)
        text_only("then", said["then"], "give the id of a stage")

        def collect(function: Callable[..., Any]) -> Callable[..., Any]:
            name = id or named_callable(function, what)
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


class PipelineDraft(Stages):
    """A further pipeline of a workflow, made by `workflow.pipeline(id)`; it collects stages like the workflow itself.

    Attributes:
        id: the pipeline's.
        label: for people.
        state: model of the state of its runs; "workflow": the workflow's.
    """

    def __init__(self, id: str, label: str, state: Any, check: Callable[[], None]) -> None:
        super().__init__()
        self.id = id
        self.label = label
        self.state = state
        self._check = check

    def _collecting(self) -> None:
        self._check()

    def __repr__(self) -> str:
        return f"PipelineDraft({self.id!r})"


def _id_of(pipeline: Any) -> Any:
    return pipeline.id if isinstance(pipeline, PipelineDraft) else pipeline


def text_only(name: str, given: object, advice: str = "give an id") -> None:
    """Refuse an id that is not text; for a function, suggest its name."""
    if given is not None and not isinstance(given, str):
        called = called_name(given)
        meant = f", such as '{called}'" if called and advice == "give an id" else ""
        raise InvalidDefinition(f"{name}={repr_of(given, 60)} is not text: {advice}{meant}", path=name)


def _build_stage(name: str, parts: Mapping[str, Any], router: Any) -> Stage:
    return Stage(
        name,
        parts["steps"],
        router=parts["router"] or router,
        conflict=parts.get("conflict", "last"),
        then=parts.get("then"),
        aside=parts.get("aside", False),
        on_failure=parts.get("on_failure"),
        children=parts.get("children"),
        timeout=parts.get("timeout"),
    )


def named_callable(function: Any, what: str) -> str:
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
