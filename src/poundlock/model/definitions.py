"""The definitions of users: workflows of triggers, pipelines, stages and steps. Frozen after validation.

House rules: plain dataclasses (no heavy imports), which only normalise their arguments. Faults are not raised here one
by one; `validation.py` collects all of them when a workflow is registered.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from poundlock.model.buffers import DEFAULT_BUFFER, Mode, Overflow
from poundlock.model.conditions import Condition
from poundlock.model.durations import Duration
from poundlock.model.schedules import Missed
from poundlock.records import dataclass, field

DEFAULT_DEDUPE: Final = 86_400.0
DEFAULT_VISIT_LIMIT: Final = 10_000
DURABILITIES: Final = ("stage", "step", "async", "exit", "none")
DEFAULT_LIMIT: Final = 10
"""Elements that a step with `each` is called for at once."""

MAIN: Final = "main"
"""Id of the pipeline that decorated steps form."""
OF_WORKFLOW: Final = "workflow"
"""The state of a pipeline that says nothing of it is that of its workflow."""

Patch = Mapping[str, Any] | Callable[..., Mapping[str, Any] | None]
"""What is merged into the state: a mapping, or a function of the event that returns one, or None for nothing."""


def several(given: Any) -> tuple[Any, ...]:
    """Return what was given as parts: none for None, and what is no collection as one part; it is checked later."""
    if given is None:
        return ()
    return tuple(given) if isinstance(given, Iterable) else (given,)


# --------------------------------------------------------------------------------------------- instructions
@dataclass(frozen=True, slots=True)
class Wait:
    """What a paused run waits for.

    Args:
        events: one event type or pattern, or a list of several; any of them resumes. Or a mapping of event types or
            patterns to the stages they lead to: exact types come first, then patterns as written. Such a wait is
            answered by hand only with `resume(..., event=)`, so that a "no" cannot take the way of a "yes".
        where: conditions on the event's payload, joined by AND; values may be StateRefs.
        correlate: {payload path: StateRef or value}; an equality that is also the index key of the wait.
        timeout: how long to wait at most; None means no limit.
        on_timeout: "fail", "abort", "resume", or the id of the stage to go to.
        patch: what is merged into the state on resume instead of the event's payload: a mapping, or (in a wait that is
            part of the definition) a function of the event.
        mode: "any": one event resumes; "all": one of each type in `events`; a number: so many events. Until then each
            is `buffered`, and the receipt says how many there are. Their payloads are merged in order.
        distinct: dotted path into the payload, for a number: the values there have to differ, so that nobody answers
            twice. An event without it, or with a value that was there before, is `rejected`.
        collect: key of the state that gets the payloads, as a list in the order in which they came; they are not merged
            then. An answer by hand that does not set it leaves there what came so far. So does a timeout behind which
            the run goes on, where `mode` asks for several.
        form: what an answer has to contain: a pydantic model, or a JSON schema. Events are checked without their
            correlated fields; one that does not fit is `rejected`, with the field and the reason. An answer by hand is
            checked too; with `collect` only what it puts there, element by element.
        limit: how many events are buffered at most, 100 by default, up to 10,000.
        ttl: how long a buffered event counts, a duration; default: as long as the run.
        overflow: what becomes of one more than `limit`: "drop_oldest" drops the event that waits longest, "drop_newest"
            drops the new one, "reject" refuses it.
        early: False counts only events that are accepted while the wait's question is open: from the pause there until
            an answer. A timeout does not close the question.
        id: name of the wait; default: the stage that pauses. A wait with a patch function shares it with no
            other one of its pipeline.
    """

    events: str | Sequence[str] | Mapping[str, str]
    where: Sequence[Condition] = field(default=(), kw_only=True)
    correlate: Mapping[str, Any] | None = field(default=None, kw_only=True)
    timeout: Duration | None = field(default=None, kw_only=True)
    on_timeout: str = field(default="fail", kw_only=True)
    patch: Patch | None = field(default=None, kw_only=True)
    mode: Mode = field(default="any", kw_only=True)
    distinct: str | None = field(default=None, kw_only=True)
    collect: str | None = field(default=None, kw_only=True)
    form: Any = field(default=None, kw_only=True)
    limit: int = field(default=DEFAULT_BUFFER, kw_only=True)
    ttl: Duration | None = field(default=None, kw_only=True)
    overflow: Overflow = field(default="drop_oldest", kw_only=True)
    early: bool = field(default=True, kw_only=True)
    id: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Advance:
    """Continue with the next stage; after the last one the run is completed.

    Every instruction takes `patch=`, which is merged into the state like a mapping that a step returns.
    """

    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Jump:
    """Go to a stage of this pipeline, forwards or back."""

    stage: str
    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class JumpTo:
    """Go to a place below a stage with children: there, the child begins at that stage, the others at their first.

    Args:
        address: "stage/child/stage", as deep as there are children: `JumpTo("checks/review/decide")` goes to the stage
            `checks`, whose child `review` begins at its stage `decide`. A child is named by its pipeline, by the place
            or the key of its element, or by its workflow. An address of one stage is the same as `Jump`.
    """

    address: str
    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Terminate:
    """End the run as completed, with this result."""

    result: Any = None
    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Fail:
    """End the run as failed, for this reason. Its patch is part of the failed run's state."""

    reason: str
    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Delay:
    """Continue later: after `seconds`, or `until` a datetime with a zone, or seconds since 1970.

    Args:
        seconds: a duration.
        until: the moment; instead of `seconds`.
        then: the stage to continue with; default: the next one.
        patch: merged into the state before the delay.
    """

    seconds: Duration | None = None
    until: float | dt.datetime | None = None
    then: str | None = field(default=None, kw_only=True)
    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait for an event or answer, then continue at `resume_at` (default: the next stage)."""

    wait: Wait
    resume_at: str | None = None
    patch: Mapping[str, Any] | None = field(default=None, kw_only=True)


Instruction = Advance | Jump | JumpTo | Terminate | Fail | Delay | Pause
INSTRUCTIONS: Final = (Advance, Jump, JumpTo, Terminate, Fail, Delay, Pause)


@dataclass(frozen=True, slots=True)
class Pending:
    """What a poll function returns while what it checks is not done: it is called again.

    Args:
        after: a duration until the next check; default: the step's `every`.
    """

    after: Duration | None = None


# ------------------------------------------------------------------------------------------- routers as data
@dataclass(frozen=True, slots=True)
class Branch:
    """A router as data: the first case whose conditions the state meets names the stage. Made by `branch`.

    Attributes:
        cases: conditions on the state, joined by AND, and the stage they lead to; in order.
        otherwise: the stage if no case is met; None: the next one.
    """

    cases: tuple[tuple[tuple[Condition, ...], str], ...]
    otherwise: str | None = None


@dataclass(frozen=True, slots=True)
class Switch:
    """A router as data: the value of a field names the stage. Made by `switch`.

    Attributes:
        field: dotted path into the state.
        cases: values, and the stages they lead to.
        otherwise: the stage for any other value, or if there is none; None: the next one.
    """

    field: str
    cases: tuple[tuple[Any, str], ...]
    otherwise: str | None = None


def branch(
    cases: Mapping[Any, str] | Iterable[tuple[Any, str]],
    *,
    otherwise: str | None = None,
) -> Branch:
    """Return a router that goes to the stage of the first case the run's state meets.

    A graph can show it and registration can check it, unlike a function. For example
    `workflow.route(branch({Condition("amount", ">", 1000): "review"}, otherwise="pay"), after="check")`.

    Args:
        cases: {condition, or several in a tuple: stage}; pairs where a condition's value cannot be hashed.
        otherwise: the stage if no case is met; default: the next one.
    """
    pairs = cases.items() if isinstance(cases, Mapping) else cases
    return Branch(tuple((several_conditions(given), stage) for given, stage in pairs), otherwise)


def switch(field: str, cases: Mapping[Any, str] | Iterable[tuple[Any, str]], *, otherwise: str | None = None) -> Switch:
    """Return a router that goes to the stage of a field's value, compared as conditions compare.

    Args:
        field: dotted path into the state.
        cases: {value: stage}.
        otherwise: the stage for any other value, or if the field is missing; default: the next one.
    """
    pairs = cases.items() if isinstance(cases, Mapping) else cases
    return Switch(field, tuple((value, stage) for value, stage in pairs), otherwise)


def several_conditions(given: Any) -> tuple[Any, ...]:
    """Return one or several conditions as a tuple."""
    return (given,) if isinstance(given, Condition) else several(given)


ROUTERS: Final = (Branch, Switch)
"""Routers that are data and read the state."""
Router = Instruction | Branch | Switch | str | Callable[..., Any]


# ------------------------------------------------------------------------------------------------ pipelines
@dataclass(frozen=True, slots=True)
class Contract:
    """What a step takes and gives, as pydantic models; see `Task`.

    Attributes:
        input: of the fields of the state that it takes; None: not checked.
        output: of what it returns; None: not checked.
        config: of its settings; None: it has none.
        settings: values for the fields of `config`, which replace the model's defaults.
    """

    input: Any = None
    output: Any = None
    config: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and when a failed attempt is repeated.

    The delay before attempt n+1 is backoff * factor ** (n - 1), at most `max`, changed by up to `jitter` (a fraction)
    in either direction. What is tried again counts on after a crash; a run is parked during long delays.

    Args:
        attempts: all attempts together, the first included.
        backoff: duration before the second attempt, 1 second by default: seconds, or text such as "500ms".
        factor: growth per attempt.
        max: the longest such duration, 60 seconds by default.
        jitter: 0.1 spreads each delay by up to 10 percent.
        on: exception types that are worth another attempt. An exception group is, if each error in it is.
        not_on: exception types that never are, also where one is part of an exception group.
    """

    attempts: int = 3
    backoff: Duration = 1.0
    factor: float = 2.0
    max: Duration = 60.0
    jitter: float = 0.0
    on: tuple[type[BaseException], ...] = (Exception,)
    not_on: tuple[type[BaseException], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One function of a stage. `def` runs in a worker thread, `async def` on the event loop.

    Args:
        id: unique in its stage.
        action: the function. It returns a patch for the state (a mapping or a model), an instruction such as
            `Terminate`, or None.
        retry: when an attempt that fails is repeated; default: never.
        timeout: limit of each attempt, a duration: seconds, a timedelta, or text such as "2m"; default: none.
        undo: takes back what the step has done, if the run fails later, see `Workflow`. It is given what a step is
            given, with the state as the stage's commit left it; what it returns has no meaning. `retry` and `timeout`
            are those of the step.
        executor: where a `def` runs: "thread" (the default), "inline" for a quick pure function on the event loop,
            "process" for one that keeps a CPU busy or may have to be killed, or the id of a service that is a
            `concurrent.futures.Executor`.
        label: for people.
        each: dotted path to a list or a mapping in the state: the function is called once per element, with the
            parameters `item` and `index`, and `key` for a mapping, and returns a value for it. `retry` and `timeout`
            are those of each element. The first final failure cancels the others and fails the stage.
        limit: how many elements at once, at most.
        into: key of the state that gets the results, in order, as a list or a mapping by key; default: the step's id.
        contract: what a `Task` says of the step's input, output and settings.
        poll: a function that checks what the step has begun. What the step returns is the `job`: it is stored, not
            merged, and survives a restart. The poll function is given it by the name `job`, and else what steps are
            given. `Pending()` means that it is called again; what else it returns is the step's result, but no
            instruction. `timeout` and `retry` are those of the step's own call, and of each check.
        every: the duration before each check; the first one comes after it too. During long ones the run is parked.
        max_wait: how long after its own call the step is given up with `StepTimeout`, a duration; default: never.
    """

    id: str
    action: Callable[..., Any]
    retry: Retry | None = field(default=None, kw_only=True)
    timeout: Duration | None = field(default=None, kw_only=True)
    undo: Callable[..., Any] | None = field(default=None, kw_only=True)
    executor: str | None = field(default=None, kw_only=True)
    label: str = field(default="", kw_only=True)
    each: str | None = field(default=None, kw_only=True)
    limit: int = field(default=DEFAULT_LIMIT, kw_only=True)
    into: str | None = field(default=None, kw_only=True)
    contract: Contract | None = field(default=None, kw_only=True)
    poll: Callable[..., Any] | None = field(default=None, kw_only=True)
    every: Duration | None = field(default=None, kw_only=True)
    max_wait: Duration | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Children:
    """The runs that a stage starts, its children; the stage ends when they have ended.

    Each child has a state of its own. It can pause, fail and be answered like any run. While all children that have not
    ended are paused, the parent is paused too.

    Args:
        pipelines: pipelines of this workflow, one child for each, all at once (fork); with `over`, the only one.
        workflow: another workflow, instead of `pipelines`: the child is a run of it, as `invoke` would start it.
        over: dotted path to a list or a mapping in the state: one child per element (map). Or a function of the state
            that returns the list; it is called again after a crash, so it returns the same then.
        input: what the child's state begins with: a function of the state, with `over` also of the element, as
            `input(state, item)`. Default: a copy of the state; with `over` `{"item": ..., "index": ...}`, and `key` for
            a mapping.
        into: key of the state that gets the results; default: the stage's id. For `pipelines` a mapping by pipeline,
            with `over` a list or a mapping by key, for `workflow` the result itself. A child's result is what it
            terminated with, else its final state.
        join: "all"; "any", the first child that is completed; or how many have to be completed. The others are aborted,
            and are not among the results.
        on_child_failure: "fail_fast" fails the stage with the first child that failed or was aborted, and aborts the
            others; "collect" lets the others go on, and puts `{"error": {"type": ..., "message": ...}}` in its place.
        limit: how many children at once, at most, not counting those that are paused; default: all, with `over` 10.
    """

    pipelines: Sequence[str] = ()
    workflow: str | None = field(default=None, kw_only=True)
    over: str | Callable[..., Any] | None = field(default=None, kw_only=True)
    input: Callable[..., Any] | None = field(default=None, kw_only=True)
    into: str | None = field(default=None, kw_only=True)
    join: Literal["all", "any"] | int = field(default="all", kw_only=True)
    on_child_failure: Literal["fail_fast", "collect"] = field(default="fail_fast", kw_only=True)
    limit: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        pipelines = (self.pipelines,) if isinstance(self.pipelines, str) else several(self.pipelines)
        object.__setattr__(self, "pipelines", pipelines)


@dataclass(frozen=True, slots=True)
class Stage:
    """Steps that run together, and what comes after them. Their patches are committed all at once.

    Args:
        id: unique in its pipeline.
        steps: one, several, or none if the router alone decides.
        router: what comes next: an instruction, a stage id, `branch(...)`, `switch(...)`, or a function that returns an
            instruction or a stage id; default: `then`.
        timeout: limit of the steps of one visit, retries included, a duration; default: none.
        label: for people.
        conflict: if two steps write the same key, "last" lets the later one win, "error" fails the stage.
        then: the stage after this one, unless a router or a step says otherwise; default: the next one in the order of
            definition that is not `aside`, or the end behind an `aside` stage.
        aside: it is entered by name only: no stage leads to it because it is the next one.
        on_failure: what its failure leads to: "fail" ends the run, "pause" pauses it until `resume` has the stage
            entered again, or the id of a stage, which is given the `Failure`. Default: what the workflow says.
        children: runs that the stage starts and waits for, instead of steps: see `Children`.
        pipelines: short for `children=Children(pipelines)`: pipelines of the workflow that run side by side.
    """

    id: str
    steps: Sequence[Step] = ()
    router: Router | None = field(default=None, kw_only=True)
    timeout: Duration | None = field(default=None, kw_only=True)
    label: str = field(default="", kw_only=True)
    conflict: Literal["last", "error"] = field(default="last", kw_only=True)
    then: str | None = field(default=None, kw_only=True)
    aside: bool = field(default=False, kw_only=True)
    on_failure: str | None = field(default=None, kw_only=True)
    children: Children | None = field(default=None, kw_only=True)
    pipelines: Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", several(self.steps))
        pipelines = (self.pipelines,) if isinstance(self.pipelines, str) else several(self.pipelines)
        object.__setattr__(self, "pipelines", pipelines)
        if pipelines and self.children is None:
            object.__setattr__(self, "children", Children(pipelines))


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Stages in order. A run goes through them, unless a router or a step says otherwise.

    Args:
        id: unique in its workflow; a workflow that is written with decorators has one, "main".
        stages: the first one is where runs begin.
        label: for people.
        state: pydantic model of the state of its runs; None for a plain mapping; default: the workflow's.
    """

    id: str
    stages: Sequence[Stage]
    label: str = field(default="", kw_only=True)
    state: Any = field(default=OF_WORKFLOW, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", several(self.stages))


# ------------------------------------------------------------------------------------------------- workflows
@dataclass(frozen=True, slots=True)
class Debounce:
    """Hold an event until no further one has come for a time; then the latest one is decided.

    Args:
        quiet: how long nothing may come; each event starts this time again.
        longest: how long the first event of a series is held at most, however many follow; default: no limit.
    """

    quiet: Duration
    longest: Duration | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Throttle:
    """Let the first events of a time through, and hold the latest of the others until it is over.

    Args:
        n: how many are let through.
        per: in which time; it begins with the first of them.
    """

    n: int
    per: Duration


@dataclass(frozen=True, slots=True)
class Batch:
    """Collect events, and start one run for all of them. Its state is `{"events": [their payloads]}`.

    Args:
        n: how many; the event that completes the batch starts the run. At most 10,000.
        within: the longest time from the first one on; then the run starts with what there is.
    """

    n: int
    within: Duration


@dataclass(frozen=True, slots=True)
class Trigger:
    """Which events or times start a run, and how the run begins.

    Args:
        event: event type or dotted pattern (`order.*`, `order.**`); None: started only by a call, or by time.
        pipeline: id of the pipeline to run; default: the workflow's only one.
        when: conditions on the payload, or a function of the event.
        key: partition key, if the mode has none: a payload path or a function of the event. The mode's rule then holds
            per key, and runs are found by it: `find_runs(key=...)`.
        map: function of the event giving the initial state; default: the payload.
        cron: a cron expression of five fields, such as "0 6 * * *", or of six with seconds first: it starts a run at
            each of these times. The run's event has the type `poundlock.cron` and the payload `{"scheduled": ...}`, the
            time as text in UTC. A local time that does not exist fires at the next moment that does, one that exists
            twice fires the first time only.
        tz: name of the time zone of `cron`, such as "Europe/Berlin"; default: UTC.
        every: a duration from one second on, instead of `cron`: it starts a run each time so much has passed, counted
            from 1970-01-01 00:00 UTC.
        missed: what becomes of times at which the workflow was not registered anywhere: "skip" leaves them out, "once"
            has the last of them fire for all, "all" has each of them fire.
        dedupe: how long an event id is remembered, 24 hours by default; None remembers none.
        priority: higher runs leave the queue of a `Transient` first; a point is worth a minute of waiting.
        debounce: hold an event until none has come for this time, then decide the latest: a duration, or a Debounce.
        throttle: let some through, and hold the latest of the others: a Throttle, or the duration for one each.
        batch: one run for several events: a Batch.
        delay: hold each event for this time. At most one of these four; they hold per value of `key`, see
            docs/how-to/debounce-throttle-batch.md.
    """

    event: str | None = None
    pipeline: str | None = field(default=None, kw_only=True)
    when: Sequence[Condition] | Callable[..., Any] = field(default=(), kw_only=True)
    key: str | Callable[..., Any] | None = field(default=None, kw_only=True)
    map: Callable[..., Any] | None = field(default=None, kw_only=True)
    cron: str | None = field(default=None, kw_only=True)
    tz: str | dt.tzinfo | None = field(default=None, kw_only=True)
    every: Duration | None = field(default=None, kw_only=True)
    missed: Missed = field(default="once", kw_only=True)
    dedupe: Duration | None = field(default=DEFAULT_DEDUPE, kw_only=True)
    priority: int = field(default=0, kw_only=True)
    debounce: Duration | Debounce | None = field(default=None, kw_only=True)
    throttle: Duration | Throttle | None = field(default=None, kw_only=True)
    batch: Batch | None = field(default=None, kw_only=True)
    delay: Duration | None = field(default=None, kw_only=True)


@dataclass(frozen=True, slots=True)
class Service:
    """Something that steps need, built by a factory and kept as long as its scope exists.

    Args:
        id: the id that steps request; ids with two leading and trailing underscores are reserved.
        factory: sync or async callable, generator or context manager; see `poundlock.artifacts`.
        scope: "workflow", "run", "stage" or "transient"; in the runtime's `services=` always global. A stage service is
            built once per visit of a stage and closed before the visit is committed, see docs/how-to/services.md.
        type: the type it provides, for injection by annotation; default: the factory's class or return annotation.
        options: further template options (timeout, retry, lazy ...).
    """

    id: str
    factory: Callable[..., Any]
    scope: Literal["workflow", "run", "stage", "transient"] = field(default="workflow", kw_only=True)
    type: Any = field(default=None, kw_only=True)
    options: Mapping[str, Any] = field(default_factory=dict, kw_only=True)


def default_pipeline(pipelines: Mapping[str, Pipeline]) -> str | None:
    """Return the pipeline that runs where none is named: the only one, or the one of the decorated steps."""
    return MAIN if MAIN in pipelines else next(iter(pipelines)) if len(pipelines) == 1 else None


def state_model_of(of_workflow: Any, pipeline: Pipeline) -> Any:
    """Return the model of the state of a pipeline's runs; None without one."""
    return of_workflow if pipeline.state == OF_WORKFLOW else pipeline.state
