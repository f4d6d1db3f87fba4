"""Checking a workflow's definition: all faults at once, each with its path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from poundlock.model.durations import Duration, moment, seconds
from poundlock.model.waits import wait_events

RESERVED_SERVICES: Final = ("__env__", "__pause_service__")
_SCOPES: Final = ("workflow", "run", "stage", "transient")
SERVICE_OPTIONS: Final = ("lazy", "timeout", "retry", "param_key", "serializable", "codec", "health", "needs")
"""What a service may say beyond its own fields; see `poundlock.artifacts.ArtifactTemplate`."""
_MOST: Final = 2**63 - 1
"""The largest integer that every store can keep."""

Fault = tuple[str, str]


def faults_of(definition: WorkflowDefinition) -> list[Fault]:
    """Return what is wrong with a definition, each with its path; what its functions ask for is not looked at.

    Raises:
        DuplicateKey: a service takes a reserved id; told alone, because nothing else can be right then.
    """
    check_reserved(definition.services)
    return list(_faults(definition))


def refuse(workflow_id: str, faults: Iterable[Fault]) -> None:
    """Raise InvalidDefinition with all of these faults, if there are any."""
    faults = tuple(dict.fromkeys(faults))
    if faults:
        lines = "".join(f"\n  {path}: {text}" for path, text in faults)
        raise InvalidDefinition(
            f"workflow '{workflow_id}' has {len(faults)} fault{'s' if len(faults) > 1 else ''}:{lines}",
            path=faults[0][0],
            faults=faults,
            workflow_id=workflow_id,
        )


def check_reserved(services: Iterable[Service]) -> None:
    """Refuse services that take an id Poundlock keeps for itself (`DuplicateKey`)."""
    taken = [service.id for service in services if getattr(service, "id", None) in RESERVED_SERVICES]
    if taken:
        raise DuplicateKey(
            f"{', '.join(taken)} {'is' if len(taken) == 1 else 'are'} reserved for Poundlock: choose another id",
            path="services",
            ids=taken,
        )


def check_global_services(services: Iterable[Service]) -> None:
    """Refuse global services.

    Raises:
        DuplicateKey: one takes a reserved id, or several have one id.
        InvalidDefinition: something is no service, or has faults; all are listed.
    """
    services = list(services)
    faults = [
        fault
        for place, service in enumerate(services)
        for fault in (
            service_faults(f"services.{service.id}", service)
            if _is(service, Service)
            else [(f"services.{place}", f"{service!r:.60} is no Service: Service(id, factory)")]
        )
    ]
    if faults:
        listed = "; ".join(f"{path}: {text}" for path, text in faults)
        raise InvalidDefinition(
            f"the runtime's services have faults: {listed}", path=faults[0][0], faults=tuple(faults)
        )
    check_reserved(services)
    taken = [name for name, count in Counter(service.id for service in services).items() if count > 1]
    if taken:
        raise DuplicateKey(
            f"several global services are called {', '.join(taken)}: give each an id of its own",
            path="services",
            ids=taken,
        )


def duration(path: str, value: Duration) -> float:
    """Return the seconds of a duration that was given as an argument.

    Raises:
        InvalidDefinition: it is none; `path` names the argument.
    """
    try:
        return seconds(value)
    except ValueError as error:
        raise InvalidDefinition(f"{path}: {error}", path=path) from None


def _faults(definition: WorkflowDefinition) -> Iterator[Fault]:
    yield from _name("id", definition.id)
    if not definition.pipelines:
        yield "pipelines", "the workflow has no stages: add a step or a pipeline"
    for name, trigger in definition.triggers.items():
        if _is(trigger, Trigger):
            yield from _trigger(f"triggers.{name}", trigger, definition.pipelines)
        else:
            yield f"triggers.{name}", f"{trigger!r:.60} is no Trigger"
    for pipeline in definition.pipelines.values():
        yield from _pipeline(pipeline)
    yield from _twice("services", (service.id for service in definition.services if _is(service, Service)))
    for place, service in enumerate(definition.services):
        if _is(service, Service):
            yield from service_faults(f"services.{service.id}", service)
        else:
            yield f"services.{place}", f"{service!r:.60} is no Service: Service(id, factory)"
    if definition.state is not None and not hasattr(definition.state, "model_validate"):
        yield "state", "must be a pydantic model class"
    yield from _whole("visit_limit", definition.visit_limit, 1)


def _trigger(path: str, trigger: Trigger, pipelines: Mapping[str, Pipeline]) -> Iterator[Fault]:
    if trigger.event is not None and (not isinstance(trigger.event, str) or not trigger.event.strip()):
        yield f"{path}.event", "must be an event type or pattern"
    name: object = trigger.pipeline
    if name is not None and (not isinstance(name, str) or name not in pipelines):
        near = suggest(name if isinstance(name, str) else "", list(pipelines))
        yield f"{path}.pipeline", f"there is no pipeline {name!r:.60}: {near}"
    if name is None and len(pipelines) > 1:
        yield f"{path}.pipeline", f"name one of the workflow's pipelines: {', '.join(pipelines)}"
    if not callable(trigger.when):
        yield from _conditions(f"{path}.when", trigger.when)
    key: object = trigger.key
    if key is not None and not callable(key) and not (isinstance(key, str) and key):
        yield f"{path}.key", f"{key!r:.60} is no key: use a payload path or a function of the event"
    if trigger.map is not None and not callable(cast("object", trigger.map)):
        yield f"{path}.map", f"{trigger.map!r:.60} is no function of the event"
    yield from _duration(f"{path}.dedupe", trigger.dedupe)
    yield from _whole(f"{path}.priority", trigger.priority, -_MOST, _MOST)


def service_faults(path: str, service: Service) -> Iterator[Fault]:
    """Yield what is wrong with a service by itself."""
    yield from _name(path, service.id)
    if service.scope not in _SCOPES:
        yield f"{path}.scope", f"'{service.scope}' is no scope: use {', '.join(_SCOPES)}"
    if not callable(cast("object", service.factory)):
        yield f"{path}.factory", "a factory must be callable"
    if service.scope == "stage" and service.options.get("serializable"):
        yield f"{path}.serializable", "a service of a stage ends before the run pauses: leave it out"
    for name in service.options:
        if name not in SERVICE_OPTIONS:
            yield f"{path}.{name}", f"is no option of a service: {suggest(str(name), SERVICE_OPTIONS)}"
    if service.options.get("retry") is not None:
        yield from retry_faults(f"{path}.retry", service.options["retry"])


def _pipeline(pipeline: Pipeline) -> Iterator[Fault]:
    path = f"pipelines.{pipeline.id}"
    yield from _name(path, pipeline.id)
    if not pipeline.stages:
        yield f"{path}.stages", "a pipeline needs at least one stage"
    for place, stage in enumerate(pipeline.stages):
        if not _is(stage, Stage) or not _is(stage.id, str):
            yield f"{path}.stages.{place}", f"{stage!r:.60} is no Stage: Stage(id, [steps])"
    stages = [stage for stage in pipeline.stages if _is(stage, Stage) and _is(stage.id, str)]
    ids = [stage.id for stage in stages]
    yield from _twice(f"{path}.stages", ids)
    for stage in stages:
        yield from _stage(f"{path}.{stage.id}", stage, ids)
    for stage_id in _unreachable(stages):
        yield f"{path}.{stage_id}", "no router and no earlier stage leads here"


def _stage(path: str, stage: Stage, ids: list[str]) -> Iterator[Fault]:
    yield from _name(path, stage.id)
    if not stage.steps and stage.router is None:
        yield path, "a stage needs steps or a router"
    if stage.conflict not in ("last", "error"):
        yield f"{path}.conflict", f"'{stage.conflict}' is no rule: use last or error"
    yield from _duration(f"{path}.timeout", stage.timeout)
    yield from _twice(f"{path}.steps", (step.id for step in stage.steps if _is(step, Step)))
    for place, step in enumerate(stage.steps):
        if _is(step, Step):
            yield from _step(f"{path}.{step.id}", step)
        else:
            yield f"{path}.steps.{place}", f"{step!r:.60} is no Step: Step(id, function)"
    yield from _router(f"{path}.router", stage.router, ids)


def _router(path: str, router: object, ids: list[str]) -> Iterator[Fault]:
    if isinstance(router, str):
        yield from _target(path, router, ids)
    elif isinstance(router, Jump):
        yield from _target(path, router.stage, ids)
    elif isinstance(router, Delay):
        try:
            moment_of(router, 0.0)
        except ValueError as error:
            yield path, str(error)
    elif isinstance(router, Pause):
        if router.resume_at is not None:
            yield from _target(f"{path}.resume_at", router.resume_at, ids)
        yield from wait_faults(f"{path}.wait", router.wait, ids)
    elif router is not None and not isinstance(router, INSTRUCTIONS) and not callable(router):
        yield path, f"{router!r:.60} is neither an instruction, a stage id nor a function"


def _step(path: str, step: Step) -> Iterator[Fault]:
    yield from _name(path, step.id)
    if not callable(cast("object", step.action)):
        yield path, "a step's action must be callable"
    yield from _duration(f"{path}.timeout", step.timeout)
    if step.executor not in (None, "thread", "inline"):
        yield f"{path}.executor", f"'{step.executor}' is no executor: use thread or inline"
    if step.retry is not None:
        yield from retry_faults(f"{path}.retry", step.retry)


def retry_faults(path: str, retry: object) -> Iterator[Fault]:
    """Yield the faults of a retry rule, of a step or a service."""
    if not isinstance(retry, Retry):
        yield path, f"{retry!r:.60} is no Retry: Retry(attempts)"
        return
    yield from _whole(f"{path}.attempts", retry.attempts, 1)
    yield from _duration(f"{path}.backoff", retry.backoff)
    yield from _duration(f"{path}.max", retry.max)
    if not _is_number(retry.factor) or not 1 <= retry.factor < float("inf"):
        yield f"{path}.factor", "must be a number of at least 1"
    if not _is_number(retry.jitter) or not 0 <= retry.jitter <= 1:
        yield f"{path}.jitter", "must be a fraction between 0 and 1"
    for name, kinds in (("on", retry.on), ("not_on", retry.not_on)):
        listed: object = kinds
        for kind in listed if isinstance(listed, tuple) else (listed,):
            if not isinstance(kind, type) or not issubclass(kind, BaseException):
                yield f"{path}.{name}", f"{kind!r:.60} is no exception class: give a tuple of them"


def moment_of(delay: Delay, now: float) -> float:
    """Return when a delay that begins now is over, in seconds since 1970.

    Raises:
        ValueError: it does not say, or not in a way that means one moment.
    """
    if (delay.seconds is None) is (delay.until is None):
        raise ValueError("a delay needs either seconds or until")
    return moment(delay.until) if delay.seconds is None else now + seconds(delay.seconds)


def wait_faults(path: str, wait: object, ids: list[str]) -> Iterator[Fault]:
    """Yield the faults of a wait, also of one a router makes at run time."""
    if not isinstance(wait, Wait):
        named = f": Pause(Wait({wait!r:.60}))" if isinstance(wait, str) else ""
        yield path, f"{wait!r:.60} is no Wait{named}"
        return
    if wait.id is not None and wait.id.startswith("__"):
        yield f"{path}.id", f"'{wait.id}' is reserved: choose an id that does not begin with two underscores"
    events = wait_events(wait)
    if not events or not all(isinstance(event, str) and event for event in events):
        yield f"{path}.events", "name at least one event type or pattern"
    yield from _conditions(f"{path}.where", wait.where)
    correlate: object = {} if wait.correlate is None else wait.correlate
    if not isinstance(correlate, Mapping) or not all(isinstance(field, str) and field for field in correlate):
        yield f"{path}.correlate", "must be a mapping of payload paths to values or StateRefs"
    yield from _duration(f"{path}.timeout", wait.timeout)
    if wait.on_timeout not in ("fail", "abort", "resume"):
        yield from _target(f"{path}.on_timeout", wait.on_timeout, ids)
    patch: object = wait.patch
    if patch is not None and not isinstance(patch, Mapping) and not callable(patch):
        yield f"{path}.patch", "must be a mapping or a function of the event"


def _conditions(path: str, conditions: Any) -> Iterator[Fault]:
    if not isinstance(conditions, Sequence) or isinstance(conditions, str):
        yield path, f"{conditions!r:.60} is no list of conditions"
        return
    for place, condition in enumerate(conditions):
        if not isinstance(condition, Condition):
            yield f"{path}.{place}", f"{condition!r:.60} is no Condition: Condition(field, op, value)"


def _duration(path: str, value: Any) -> Iterator[Fault]:
    if value is not None:
        try:
            seconds(value)
        except ValueError as error:
            yield path, str(error)


def _target(path: str, stage_id: object, ids: list[str]) -> Iterator[Fault]:
    if not isinstance(stage_id, str):
        yield path, f"{stage_id!r:.60} is no stage: give a stage's id"
    elif stage_id not in ids:
        yield path, f"there is no stage '{stage_id}': {suggest(stage_id, ids)}"


def _whole(path: str, value: object, least: int, most: int | None = None) -> Iterator[Fault]:
    if type(value) is not int or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"between {least} and {most}"
        yield path, f"{value!r:.60} must be a whole number {limits}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is(value: object, kind: type) -> bool:
    """Whether a part is what the annotation of its place says; users' definitions are not checked for types."""
    return isinstance(value, kind)


def _name(path: str, name: Any) -> Iterator[Fault]:
    # "/" separates the parts of a timeline path
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        yield path, f"{name!r:.60} is no id: use printable text without '/'"


def _twice(path: str, names: Iterable[str]) -> Iterator[Fault]:
    for name, count in Counter(name for name in names if isinstance(name, str)).items():
        if count > 1:
            yield f"{path}.{name}", f"this id is used {count} times"


def _unreachable(stages: Sequence[Stage]) -> Iterator[str]:
    """Yield stages no path leads to. A router that is a function may lead anywhere."""
    ids = [stage.id for stage in stages]
    places = {stage.id: place for place, stage in enumerate(stages)}
    reached: set[int] = set()
    queue = [0] if stages else []
    while queue:
        place = queue.pop()
        if place in reached or place >= len(stages):
            continue
        reached.add(place)
        targets = _leads_to(stages[place], place)
        if targets is None or not all(isinstance(target, int) or target in ids for target in targets):
            return  # one that is not there is a fault itself, and may be the one that should lead here
        queue += [target if isinstance(target, int) else places[target] for target in targets]
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
