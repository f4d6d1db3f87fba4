"""Checking a workflow's definition: all faults at once, each with its path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

from poundlock.errors import DuplicateKey, InvalidDefinition, suggest
from poundlock.model.conditions import Condition
from poundlock.model.definitions import (
    INSTRUCTIONS,
    Delay,
    Jump,
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
from poundlock.model.durations import seconds
from poundlock.model.waits import wait_events

RESERVED_SERVICES: Final = ("__env__", "__pause_service__")
_SCOPES: Final = ("workflow", "run", "stage", "transient")

Fault = tuple[str, str]


def check(definition: WorkflowDefinition) -> None:
    """Refuse a definition with faults.

    Raises:
        DuplicateKey: a service takes a reserved id; listed alone, because nothing else can be right then.
        InvalidDefinition: all other faults, each with its path, in `faults`.
    """
    check_reserved(definition.services)
    faults = list(_faults(definition))
    if faults:
        lines = "".join(f"\n  {path}: {text}" for path, text in faults)
        raise InvalidDefinition(
            f"workflow '{definition.id}' has {len(faults)} fault{'s' if len(faults) > 1 else ''}:{lines}",
            path=faults[0][0],
            faults=tuple(faults),
            workflow_id=definition.id,
        )


def check_reserved(services: Iterable[Service]) -> None:
    """Refuse services that take an id Poundlock keeps for itself (`DuplicateKey`)."""
    taken = [service.id for service in services if service.id in RESERVED_SERVICES]
    if taken:
        raise DuplicateKey(
            f"{', '.join(taken)} {'is' if len(taken) == 1 else 'are'} reserved for Poundlock: choose another id",
            path="services",
            ids=taken,
        )


def check_global_services(services: Iterable[Service]) -> None:
    """Refuse global services that take a reserved id, or one id twice (`DuplicateKey`)."""
    services = list(services)
    check_reserved(services)
    taken = [name for name, count in Counter(service.id for service in services).items() if count > 1]
    if taken:
        raise DuplicateKey(
            f"several global services are called {', '.join(taken)}: give each an id of its own",
            path="services",
            ids=taken,
        )


def _faults(definition: WorkflowDefinition) -> Iterator[Fault]:
    yield from _name("id", definition.id)
    if not definition.pipelines:
        yield "pipelines", "the workflow has no stages: add a step or a pipeline"
    for name, trigger in definition.triggers.items():
        yield from _trigger(f"triggers.{name}", trigger, definition.pipelines)
    for pipeline in definition.pipelines.values():
        yield from _pipeline(pipeline)
    yield from _twice("services", (service.id for service in definition.services))
    for service in definition.services:
        path = f"services.{service.id}"
        yield from _name(path, service.id)
        if service.scope not in _SCOPES:
            yield f"{path}.scope", f"'{service.scope}' is no scope: use {', '.join(_SCOPES)}"
        if service.scope == "stage" and service.options.get("serializable"):
            yield f"{path}.options", "a service of a stage ends before the run pauses: leave out serializable"
        if not callable(cast("object", service.factory)):
            yield f"{path}.factory", "a factory must be callable"
    if definition.state is not None and not hasattr(definition.state, "model_validate"):
        yield "state", "must be a pydantic model class"
    if definition.visit_limit < 1:
        yield "visit_limit", "must be at least 1"


def _trigger(path: str, trigger: Trigger, pipelines: Mapping[str, Pipeline]) -> Iterator[Fault]:
    if trigger.event is not None and (not isinstance(trigger.event, str) or not trigger.event.strip()):
        yield f"{path}.event", "must be an event type or pattern"
    if trigger.pipeline is not None and trigger.pipeline not in pipelines:
        yield f"{path}.pipeline", f"no pipeline '{trigger.pipeline}': {suggest(trigger.pipeline, list(pipelines))}"
    if trigger.pipeline is None and len(pipelines) > 1:
        yield f"{path}.pipeline", f"name one of the workflow's pipelines: {', '.join(pipelines)}"
    if not callable(trigger.when):
        yield from _conditions(f"{path}.when", trigger.when)
    yield from _duration(f"{path}.dedupe", trigger.dedupe)
    for later in ("cron", "tz", "debounce", "throttle", "batch", "delay"):
        if getattr(trigger, later) is not None:
            yield f"{path}.{later}", "is not supported yet"


def _pipeline(pipeline: Pipeline) -> Iterator[Fault]:
    path = f"pipelines.{pipeline.id}"
    yield from _name(path, pipeline.id)
    if not pipeline.stages:
        yield f"{path}.stages", "a pipeline needs at least one stage"
    ids = [stage.id for stage in pipeline.stages]
    yield from _twice(f"{path}.stages", ids)
    for stage in pipeline.stages:
        yield from _stage(f"{path}.{stage.id}", stage, ids)
    for stage_id in _unreachable(pipeline):
        yield f"{path}.{stage_id}", "no router and no earlier stage leads here"


def _stage(path: str, stage: Stage, ids: list[str]) -> Iterator[Fault]:
    yield from _name(path, stage.id)
    if stage.pipelines:
        yield f"{path}.pipelines", "sub-pipelines are not supported yet"
    if not stage.steps and stage.router is None:
        yield path, "a stage needs steps or a router"
    if stage.conflict not in ("last", "error"):
        yield f"{path}.conflict", f"'{stage.conflict}' is no rule: use last or error"
    yield from _duration(f"{path}.timeout", stage.timeout)
    yield from _twice(f"{path}.steps", (step.id for step in stage.steps))
    for step in stage.steps:
        yield from _step(f"{path}.{step.id}", step)
    router: object = stage.router
    if isinstance(router, str):
        yield from _target(f"{path}.router", router, ids)
    elif isinstance(router, Jump):
        yield from _target(f"{path}.router", router.stage, ids)
    elif isinstance(router, Delay):
        yield from _duration(f"{path}.router", router.seconds)
        if (router.seconds is None) is (router.until is None):
            yield f"{path}.router", "a delay needs either seconds or until"
    elif isinstance(router, Pause):
        if router.resume_at is not None:
            yield from _target(f"{path}.router.resume_at", router.resume_at, ids)
        yield from wait_faults(f"{path}.router.wait", router.wait, ids)
    elif router is not None and not isinstance(router, INSTRUCTIONS) and not callable(router):
        yield f"{path}.router", f"{router!r} is neither an instruction, a stage id nor a function"


def _step(path: str, step: Step) -> Iterator[Fault]:
    yield from _name(path, step.id)
    if not callable(cast("object", step.action)):
        yield path, "a step's action must be callable"
    yield from _duration(f"{path}.timeout", step.timeout)
    if step.undo is not None:
        yield f"{path}.undo", "is not supported yet"
    if step.executor not in (None, "thread", "inline"):
        yield f"{path}.executor", f"'{step.executor}' is no executor: use thread or inline"
    if step.retry is not None:
        yield from _retry(f"{path}.retry", step.retry)


def _retry(path: str, retry: Retry) -> Iterator[Fault]:
    if retry.attempts < 1:
        yield f"{path}.attempts", "must be at least 1: the first attempt counts"
    yield from _duration(f"{path}.backoff", retry.backoff)
    yield from _duration(f"{path}.max", retry.max)
    if retry.factor < 1:
        yield f"{path}.factor", "must be at least 1"
    if not 0 <= retry.jitter <= 1:
        yield f"{path}.jitter", "must be a fraction between 0 and 1"


def wait_faults(path: str, wait: object, ids: list[str]) -> Iterator[Fault]:
    """Yield the faults of a wait, also of one a router makes at run time."""
    if not isinstance(wait, Wait):
        yield path, f"{wait!r:.60} is no Wait"
        return
    if wait.id is not None and wait.id.startswith("__"):
        yield f"{path}.id", f"'{wait.id}' is reserved: choose an id that does not begin with two underscores"
    events = wait_events(wait)
    if not events or not all(isinstance(event, str) and event for event in events):
        yield f"{path}.events", "name at least one event type or pattern"
    if wait.mode != "any":
        yield f"{path}.mode", f"'{wait.mode}' is not supported yet: use any"
    yield from _conditions(f"{path}.where", wait.where)
    correlate: object = {} if wait.correlate is None else wait.correlate
    if not isinstance(correlate, Mapping) or not all(isinstance(field, str) and field for field in correlate):
        yield f"{path}.correlate", "must be a mapping of payload paths to values or StateRefs"
    for later in ("limit", "ttl", "overflow"):
        if getattr(wait, later) != getattr(Wait("default"), later):
            yield f"{path}.{later}", "is not supported yet"
    yield from _duration(f"{path}.timeout", wait.timeout)
    if wait.on_timeout not in ("fail", "abort", "resume"):
        yield from _target(f"{path}.on_timeout", wait.on_timeout, ids)
    patch: object = wait.patch
    if patch is not None and not isinstance(patch, Mapping) and not callable(patch):
        yield f"{path}.patch", "must be a mapping or a function of the event"


def _conditions(path: str, conditions: Any) -> Iterator[Fault]:
    for place, condition in enumerate(conditions):
        if not isinstance(condition, Condition):
            yield f"{path}.{place}", f"{condition!r:.60} is no Condition"


def _duration(path: str, value: Any) -> Iterator[Fault]:
    if value is not None:
        try:
            seconds(value)
        except ValueError as error:
            yield path, str(error)


def _target(path: str, stage_id: str, ids: list[str]) -> Iterator[Fault]:
    if stage_id not in ids:
        yield path, f"there is no stage '{stage_id}': {suggest(stage_id, ids)}"


def _name(path: str, name: Any) -> Iterator[Fault]:
    # "/" separates the parts of a timeline path
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        yield path, f"{name!r:.60} is no id: use printable text without '/'"


def _twice(path: str, names: Iterable[str]) -> Iterator[Fault]:
    for name, count in Counter(names).items():
        if count > 1:
            yield f"{path}.{name}", f"this id is used {count} times"


def _unreachable(pipeline: Pipeline) -> Iterator[str]:
    """Yield stages no path leads to. A router that is a function may lead anywhere."""
    stages = pipeline.stages
    places = {stage.id: place for place, stage in enumerate(stages)}
    reached: set[int] = set()
    queue = [0] if stages else []
    while queue:
        place = queue.pop()
        if place in reached or place >= len(stages):
            continue
        reached.add(place)
        targets = _leads_to(stages[place], place)
        if targets is None:
            return
        queue += [target if isinstance(target, int) else places.get(target, len(stages)) for target in targets]
    yield from (stage.id for place, stage in enumerate(stages) if place not in reached)


def _leads_to(stage: Stage, place: int) -> list[int | str] | None:
    router = stage.router
    if callable(router) and not isinstance(router, INSTRUCTIONS):
        return None
    if isinstance(router, str):
        return [router]
    if isinstance(router, Jump):
        return [router.stage]
    if isinstance(router, Pause):
        ways: list[int | str] = [place + 1 if router.resume_at is None else router.resume_at]
        if isinstance(router.wait, Wait) and router.wait.on_timeout not in ("fail", "abort", "resume"):
            ways.append(router.wait.on_timeout)
        return ways
    if router is None or isinstance(router, Delay) or type(router).__name__ == "Advance":
        return [place + 1]
    return []
