"""Check a workflow's definition: all faults together, each with its path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from poundlock.errors import DuplicateKey, InvalidDefinition, suggest
from poundlock.model.checks import (
    Fault,
    condition_faults,
    duration_faults,
    is_number,
    label_faults,
    name_faults,
    patch_faults,
    storable_faults,
    target_faults,
    whole_faults,
)
from poundlock.model.children_checks import children_faults
from poundlock.model.course import course, next_stages
from poundlock.model.definitions import (
    DEFAULT_LIMIT,
    DURABILITIES,
    INSTRUCTIONS,
    OF_WORKFLOW,
    Advance,
    Branch,
    Delay,
    Fail,
    Jump,
    JumpTo,
    Pause,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    Switch,
    Terminate,
    Trigger,
    Wait,
    default_pipeline,
    several,
)
from poundlock.model.durations import Duration, moment, seconds
from poundlock.model.hold_checks import hold_faults
from poundlock.model.quoting import shown
from poundlock.model.redaction import redact_faults
from poundlock.model.retention import retention_faults
from poundlock.model.schedule_checks import schedule_faults
from poundlock.model.wait_checks import ends_wait, same_waits, wait_faults
from poundlock.model.workflow_definition import WorkflowDefinition

RESERVED_SERVICES: Final = ("__env__", "__pause_service__")
_SCOPES: Final = ("workflow", "run", "stage", "transient")
SERVICE_OPTIONS: Final = ("lazy", "timeout", "retry", "param_key", "serializable", "codec", "health", "needs")
"""The options of a service beyond its own fields; see `poundlock.artifacts.ArtifactTemplate`."""
_ON_CHANGE: Final = ("continue", "fail", "pinned")
_MOST: Final = 2**63 - 1
"""The largest integer that every store can keep."""


def faults_of(definition: WorkflowDefinition) -> list[Fault]:
    """Return the faults of a definition, each with its path; the parameters of its functions are not checked here.

    Raises:
        DuplicateKey: a service has a reserved id; raised alone, because all other checks depend on it.
    """
    check_reserved(definition.services)
    return list(_faults(definition))


def refuse(workflow_id: str, faults: Iterable[Fault]) -> None:
    """Raise InvalidDefinition with all of these faults, if there are any."""
    faults = tuple(dict.fromkeys(faults))
    if faults:
        lines = "".join(f"\n  {path}: {text}" for path, text in faults)
        raise InvalidDefinition(
            f"workflow {shown(workflow_id)} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:{lines}",
            path=faults[0][0],
            faults=faults,
            workflow_id=workflow_id,
        )


def check_reserved(services: Iterable[Service]) -> None:
    """Refuse services that take an id Poundlock keeps for itself (`DuplicateKey`)."""
    ids = [service.id for service in services if _is(service, Service) and _is(service.id, str)]
    taken = [name for name in ids if name in RESERVED_SERVICES]
    if taken:
        raise DuplicateKey(
            f"{', '.join(taken)} {'is' if len(taken) == 1 else 'are'} reserved for Poundlock: choose another id",
            path="services",
            ids=taken,
        )


def check_global_services(services: Iterable[Service]) -> None:
    """Refuse global services.

    Raises:
        DuplicateKey: one has a reserved id, or several have the same id.
        InvalidDefinition: something is not a service, or has faults; all are listed.
    """
    services = list(services)
    faults = list(_services(services))
    if faults:
        listed = "; ".join(f"{path}: {text}" for path, text in faults)
        raise InvalidDefinition(
            f"the runtime's services have faults: {listed}", path=faults[0][0], faults=tuple(faults)
        )
    check_reserved(services)
    taken = [name for name, count in Counter(service.id for service in services).items() if count > 1]
    if taken:
        raise DuplicateKey(
            f"several global services have the id {', '.join(taken)}: give each its own id",
            path="services",
            ids=taken,
        )


def duration(path: str, value: Duration) -> float:
    """Return the seconds of a duration argument.

    Raises:
        InvalidDefinition: it is not a duration; `path` names the argument.
    """
    try:
        return seconds(value)
    except ValueError as error:
        raise InvalidDefinition(f"{path}: {error}", path=path) from None


def check_env(env: Any) -> Mapping[str, str]:
    """Return the variables of a runtime.

    Raises:
        InvalidDefinition: they are not a mapping of texts. The values are not named: they may be secrets.
    """
    if not isinstance(env, Mapping):
        raise InvalidDefinition(f"env is a {type(env).__name__}: give a mapping of names to values", path="env")
    for place, (name, value) in enumerate(env.items()):
        if not isinstance(name, str) or not isinstance(value, str):
            path = f"env.{_part(name, place)}"
            raise InvalidDefinition(f"{path}: the name of a variable and its value must be text", path=path)
    return env


def check_retention(retention: object) -> None:
    """Check the retention of a runtime; None is fine.

    Raises:
        InvalidDefinition: it is not valid; all faults are named.
    """
    faults = tuple(retention_faults("retention", retention, of_workflow=False))
    if faults:
        said = "; ".join(f"{path}: {text}" for path, text in faults)
        raise InvalidDefinition(said, path=faults[0][0], faults=faults)


def check_redact(paths: Any) -> tuple[str, ...]:
    """Return the redacted paths of a runtime.

    Raises:
        InvalidDefinition: one is not a path; all faults are named.
    """
    given: tuple[Any, ...] = (paths,) if isinstance(paths, str) else several(paths)
    faults = tuple(redact_faults(given))
    if faults:
        raise InvalidDefinition("; ".join(f"{path}: {text}" for path, text in faults), path=faults[0][0], faults=faults)
    return given


def whole_number(path: str, value: int, least: int = 0) -> int:
    """Return an argument that counts something.

    Raises:
        InvalidDefinition: it is not a whole number from `least`; `path` names the argument.
    """
    for _, fault in whole_faults(path, value, least):
        raise InvalidDefinition(f"{path}: {fault}", path=path)
    return value


def _faults(definition: WorkflowDefinition) -> Iterator[Fault]:
    yield from name_faults("id", definition.id)
    yield from label_faults("", definition.label)
    if not definition.pipelines:
        yield "pipelines", "the workflow has no stages: add a step or a pipeline"
    for place, (name, trigger) in enumerate(definition.triggers.items()):
        path = f"triggers.{_part(name, place)}"
        if not _is(name, str) or not name.strip() or not name.isprintable():
            yield path, f"{shown(name)} is not an id of a trigger: use printable text"
        if _is(trigger, Trigger):
            yield from _trigger(path, trigger, definition.pipelines)
        else:
            yield path, f"{shown(trigger)} is not a Trigger"
    for pipeline in definition.pipelines.values():
        yield from _pipeline(pipeline, definition)
    yield from _time_limit(definition)
    yield from retention_faults("retention", definition.retention, of_workflow=True)
    yield from redact_faults(definition.redact)
    yield from _twice("services", (service.id for service in definition.services if _is(service, Service)))
    yield from _services(definition.services)
    yield from _env(definition)
    yield from _state("state", definition.state)
    yield from whole_faults("visit_limit", definition.visit_limit, 1)
    on_abort: object = definition.undo_on_abort
    if not isinstance(on_abort, bool):
        yield "undo_on_abort", f"{shown(on_abort)} is not True or False"
    kept: object = definition.keep_outputs
    if not isinstance(kept, bool):
        yield "keep_outputs", f"{shown(kept)} is not True or False"
    on_change: object = definition.on_change
    if not isinstance(on_change, str) or on_change not in _ON_CHANGE:
        yield "on_change", f"{shown(on_change)} is not a rule: use {', '.join(_ON_CHANGE)}"
    if definition.migrate is not None and not callable(cast("object", definition.migrate)):
        yield "migrate", f"{shown(definition.migrate)} is not a function of the state and the definition's hash"
    yield from _durability(definition)


def _durability(definition: WorkflowDefinition) -> Iterator[Fault]:
    level: object = definition.durability
    if not isinstance(level, str) or level not in DURABILITIES:
        yield "durability", f"{shown(level)} is not a durability: use {', '.join(DURABILITIES)}"
    if level != "step":
        return
    for service in definition.services:
        if _is(service, Service) and isinstance(service.scope, str) and service.scope == "stage":
            yield (
                "durability",
                (
                    f"the result of a step would be durable before service {shown(service.id)} of its stage commits: "
                    f"use durability='stage', or another scope"
                ),
            )


def _state(path: str, model: object) -> Iterator[Fault]:
    if model is not None and not (isinstance(model, type) and hasattr(model, "model_validate")):
        yield path, f"{shown(model)} is not a pydantic model: give the class of one"
    elif getattr(model, "__pydantic_root_model__", False):
        yield path, "is a RootModel, which has no fields: give a model whose fields are the keys of the state"


def _trigger(path: str, trigger: Trigger, pipelines: Mapping[str, Pipeline]) -> Iterator[Fault]:
    if trigger.event is not None and (not isinstance(trigger.event, str) or not trigger.event.strip()):
        yield (
            f"{path}.event",
            f"{shown(trigger.event)} is not an event type: give one or a pattern, such as 'order.placed'",
        )
    name: object = trigger.pipeline
    if name is not None and (not isinstance(name, str) or name not in pipelines):
        near = suggest(name if isinstance(name, str) else "", list(pipelines))
        yield f"{path}.pipeline", f"there is no pipeline {shown(name)}: {near}"
    if name is None and default_pipeline(pipelines) is None and pipelines:
        yield f"{path}.pipeline", f"name one of the workflow's pipelines: {', '.join(pipelines)}"
    if not callable(trigger.when):
        yield from condition_faults(f"{path}.when", trigger.when, state=False)
    key: object = trigger.key
    if key is not None and not callable(key) and not (isinstance(key, str) and key):
        yield f"{path}.key", f"{shown(key)} is not a key: use a payload path or a function of the event"
    if trigger.map is not None and not callable(cast("object", trigger.map)):
        yield f"{path}.map", f"{shown(trigger.map)} is not a function of the event"
    yield from schedule_faults(path, trigger)
    yield from duration_faults(f"{path}.dedupe", trigger.dedupe)
    yield from whole_faults(f"{path}.priority", trigger.priority, -_MOST, _MOST)
    yield from hold_faults(path, trigger)


def _services(services: Iterable[Service]) -> Iterator[Fault]:
    for place, service in enumerate(services):
        if _is(service, Service):
            yield from service_faults(f"services.{_part(service.id, place)}", service)
        else:
            yield f"services.{place}", f"{shown(service)} is not a Service: Service(id, factory)"


def _env(definition: WorkflowDefinition) -> Iterator[Fault]:
    for place, (name, value) in enumerate(definition.env.items()):
        if not _is(name, str) or not _is(value, str):
            yield f"env.{_part(name, place)}", "the name of a variable and its value must be text"
    for place, name in enumerate(definition.requires_env):
        if not _is(name, str) or not name:
            yield f"requires_env.{place}", f"{shown(name)} is not a name of a variable"


def service_faults(path: str, service: Service) -> Iterator[Fault]:
    """Yield what is wrong with a service by itself."""
    yield from name_faults(path, service.id)
    if not isinstance(service.scope, str) or service.scope not in _SCOPES:
        yield f"{path}.scope", f"{shown(service.scope)} is not a scope: use {', '.join(_SCOPES)}"
    if not callable(cast("object", service.factory)):
        yield (
            f"{path}.factory",
            f"{shown(service.factory)} is not callable: give a class or a function that makes the service",
        )
    if service.type is not None and not isinstance(service.type, type):
        yield f"{path}.type", f"{shown(service.type)} is not a class: give the class that the service provides"
    options: object = service.options
    if not isinstance(options, Mapping):
        yield f"{path}.options", f"{shown(options)} is not a mapping of options"
        return
    if isinstance(service.scope, str) and service.scope == "stage" and options.get("serializable"):
        yield f"{path}.serializable", "a service of a stage ends before the run pauses: leave it out"
    for name in options:
        if name not in SERVICE_OPTIONS:
            yield f"{path}.{name}", f"is not an option of a service: {suggest(str(name), SERVICE_OPTIONS)}"
    if options.get("retry") is not None:
        yield from retry_faults(f"{path}.retry", options["retry"])
    needs: object = options.get("needs", ())
    if isinstance(needs, str) or not isinstance(needs, Sequence):
        yield f"{path}.needs", f"{shown(needs)} is not a list of the ids of services"


def _time_limit(definition: WorkflowDefinition) -> Iterator[Fault]:
    yield from duration_faults("timeout", definition.timeout)
    counts: object = definition.timeout_counts
    if not isinstance(counts, str) or counts not in ("total", "active"):
        yield "timeout_counts", f"{shown(counts)} is not a rule: use total or active"
    if definition.timeout is None:
        for name, value, default in (
            ("on_timeout", definition.on_timeout, "fail"),
            ("timeout_counts", counts, "total"),
        ):
            if not isinstance(value, str) or value != default:
                yield name, "the workflow has no timeout: give timeout= too, or leave it out"


def _pipeline(pipeline: Pipeline, definition: WorkflowDefinition) -> Iterator[Fault]:
    path = f"pipelines.{pipeline.id}"
    on_failure, on_timeout = cast("tuple[object, object]", (definition.on_failure, definition.on_timeout))
    if pipeline.state != OF_WORKFLOW:
        yield from _state(f"{path}.state", pipeline.state)
    yield from name_faults(path, pipeline.id)
    yield from label_faults(path, pipeline.label)
    if not pipeline.stages:
        yield f"{path}.stages", "a pipeline needs at least one stage"
    for place, stage in enumerate(pipeline.stages):
        if not _is(stage, Stage) or not _is(stage.id, str):
            yield f"{path}.stages.{place}", f"{shown(stage)} is not a Stage: Stage(id, [steps])"
    stages = [stage for stage in pipeline.stages if _is(stage, Stage) and _is(stage.id, str)]
    ids = [stage.id for stage in stages]
    yield from _twice(f"{path}.stages", ids)
    if stages and not course(stages):
        yield f"{path}.stages", "all stages are aside, so no run could begin: define one that is not"
    for stage in stages:
        yield from _stage(f"{path}.{stage.id}", stage, ids)
        yield from children_faults(f"{path}.{stage.id}", stage, pipeline, definition)
    yield from same_waits(path, stages)
    for name, way in (("on_failure", on_failure), ("on_timeout", on_timeout)):
        ends = _is(way, str) and way in ("fail", "pause" if name == "on_failure" else "abort")
        if not ends and not _names_stage_elsewhere(way, pipeline, definition):
            yield from target_faults(name, way, ids)
    ways = [on_failure, on_timeout, *(stage.on_failure for stage in stages)]
    for stage_id in _unreachable(stages, [way for way in ways if isinstance(way, str) and way in ids]):
        yield (
            f"{path}.{stage_id}",
            "no router and no earlier stage leads here: name it in a router or then=, or leave it out",
        )


def _names_stage_elsewhere(way: object, pipeline: Pipeline, definition: WorkflowDefinition) -> bool:
    """Whether a stage of this name is only in another pipeline: then it says nothing of this one."""
    others = (other.stages for other in definition.pipelines.values() if other is not pipeline)
    return any(_is(stage, Stage) and stage.id == way for stages in others for stage in stages)


def ends_run(on_timeout: object) -> bool:
    """Whether it is a rule for the end of a run's time, and no stage."""
    return isinstance(on_timeout, str) and on_timeout in ("fail", "abort")


def _after_failure(path: str, way: object, ids: list[str]) -> Iterator[Fault]:
    if way is not None and not (isinstance(way, str) and way in ("fail", "pause")):
        yield from target_faults(path, way, ids)


def _stage(path: str, stage: Stage, ids: list[str]) -> Iterator[Fault]:
    yield from name_faults(path, stage.id)
    yield from label_faults(path, stage.label)
    if not stage.steps and stage.router is None and stage.children is None:
        yield path, "a stage needs steps, children or a router"
    if not isinstance(stage.conflict, str) or stage.conflict not in ("last", "error"):
        yield f"{path}.conflict", f"{shown(stage.conflict)} is not a rule: use last or error"
    aside: object = stage.aside
    if not isinstance(aside, bool):
        yield f"{path}.aside", f"{shown(aside)} is not True or False"
    if stage.then is not None:
        yield from target_faults(f"{path}.then", stage.then, ids)
    yield from _after_failure(f"{path}.on_failure", stage.on_failure, ids)
    yield from duration_faults(f"{path}.timeout", stage.timeout)
    yield from _twice(f"{path}.steps", (step.id for step in stage.steps if _is(step, Step)))
    for place, step in enumerate(stage.steps):
        if _is(step, Step):
            yield from _step(f"{path}.{_part(step.id, place)}", step)
        else:
            yield f"{path}.steps.{place}", f"{shown(step)} is not a Step: Step(id, function)"
    yield from _router(f"{path}.router", stage.router, ids)


def _router(path: str, router: object, ids: list[str]) -> Iterator[Fault]:
    if isinstance(router, INSTRUCTIONS) and router.patch is not None:
        yield from patch_faults(f"{path}.patch", router.patch)
    if isinstance(router, str):
        yield from target_faults(path, router, ids)
    elif isinstance(router, Branch):
        yield from _branch(path, router, ids)
    elif isinstance(router, Switch):
        yield from _switch(path, router, ids)
    elif isinstance(router, Jump):
        yield from target_faults(path, router.stage, ids)
    elif isinstance(router, JumpTo):
        address: object = router.address
        yield from target_faults(path, address.partition("/")[0] if isinstance(address, str) else address, ids)
    elif isinstance(router, Delay):
        try:
            moment_of(router, 0.0)
        except ValueError as error:
            yield path, str(error)
        if router.then is not None:
            yield from target_faults(f"{path}.then", router.then, ids)
    elif isinstance(router, Pause):
        if router.resume_at is not None:
            yield from target_faults(f"{path}.resume_at", router.resume_at, ids)
            if isinstance(router.wait, Wait) and isinstance(router.wait.events, Mapping):
                yield f"{path}.resume_at", "each of the wait's events names a stage already: leave resume_at out"
        yield from wait_faults(f"{path}.wait", router.wait, ids)
    elif isinstance(router, Terminate):
        yield from storable_faults(f"{path}.result", router.result)
    elif isinstance(router, Fail):
        yield from storable_faults(f"{path}.reason", router.reason)
    elif isinstance(router, type):
        yield path, f"{router.__name__} is a class: give an object of it, {router.__name__}(...)"
    elif router is not None and not isinstance(router, INSTRUCTIONS) and not callable(router):
        yield path, f"{shown(router)} is neither an instruction, a stage id nor a function"


def _branch(path: str, router: Branch, ids: list[str]) -> Iterator[Fault]:
    if not router.cases:
        yield f"{path}.cases", "give at least one case: branch({Condition(field, op, value): stage})"
    for place, (conditions, stage) in enumerate(router.cases):
        if not conditions:
            yield f"{path}.{place}", "a case needs a condition: use otherwise= for the rest"
        yield from condition_faults(f"{path}.{place}", conditions, state=True)
        yield from target_faults(f"{path}.{place}", stage, ids)
    if router.otherwise is not None:
        yield from target_faults(f"{path}.otherwise", router.otherwise, ids)


def _switch(path: str, router: Switch, ids: list[str]) -> Iterator[Fault]:
    if not isinstance(router.field, str) or not router.field:
        yield f"{path}.field", f"{shown(router.field)} is not a path into the state"
    if not router.cases:
        yield f"{path}.cases", "give at least one case: switch(field, {value: stage})"
    for place, (value, stage) in enumerate(router.cases):
        yield from storable_faults(f"{path}.{place}", value)
        yield from target_faults(f"{path}.{place}", stage, ids)
    if router.otherwise is not None:
        yield from target_faults(f"{path}.otherwise", router.otherwise, ids)


def _step(path: str, step: Step) -> Iterator[Fault]:
    yield from name_faults(path, step.id)
    yield from label_faults(path, step.label)
    if not callable(cast("object", step.action)):
        yield path, f"{shown(step.action)} is not callable: give a function"
    if step.undo is not None and not callable(cast("object", step.undo)):
        yield f"{path}.undo", f"{shown(step.undo)} is not a function: give one that takes the step back"
    yield from duration_faults(f"{path}.timeout", step.timeout)
    if not isinstance(step.executor, str | None) or step.executor == "":
        yield f"{path}.executor", f"{shown(step.executor)} is not an executor: use thread, inline, process or a service"
    if step.retry is not None:
        yield from retry_faults(f"{path}.retry", step.retry)
    yield from _each(path, step)
    yield from _poll(path, step)


def _each(path: str, step: Step) -> Iterator[Fault]:
    """What a step says of its elements."""
    yield from whole_faults(f"{path}.limit", step.limit, 1)
    if step.each is None:
        if step.into is not None:
            yield f"{path}.into", "only a step with each= puts its results somewhere: leave it out, or give each="
        if step.limit != DEFAULT_LIMIT:
            yield f"{path}.limit", "only a step with each= has elements: leave it out, or give each="
        return
    if not _is(step.each, str) or not step.each:
        yield f"{path}.each", f"{shown(step.each)} is not a path into the state: give that of a list or a mapping"
    if step.into is not None and (not _is(step.into, str) or not step.into or "." in step.into):
        yield f"{path}.into", f"{shown(step.into)} is not a key of the state: give a text without dots"
    if step.executor == "inline" and step.limit != DEFAULT_LIMIT:
        yield f"{path}.limit", "inline functions run one after another: leave it out, or leave out executor"


def _poll(path: str, step: Step) -> Iterator[Fault]:
    """What a step says of the checks of what it began."""
    if step.poll is None:
        for name, given in (("every", step.every), ("max_wait", step.max_wait)):
            if given is not None:
                yield f"{path}.{name}", "only a step with poll= is checked again: leave it out, or give poll="
        return
    if not callable(cast("object", step.poll)):
        yield f"{path}.poll", f"{shown(step.poll)} is not a function"
    if step.each is not None:
        yield f"{path}.poll", "a step with each= cannot poll: let one step begin everything, and poll for all of it"
    yield from duration_faults(f"{path}.max_wait", step.max_wait)
    if step.every is None:
        yield f"{path}.every", "say how long to wait before each check, such as every='1m'"
        return
    try:
        if seconds(step.every) <= 0:
            yield f"{path}.every", "must be longer than 0: a check follows each wait"
    except ValueError as error:
        yield f"{path}.every", str(error)


def retry_faults(path: str, retry: object) -> Iterator[Fault]:
    """Yield the faults of a retry rule, of a step or a service."""
    if not isinstance(retry, Retry):
        yield path, f"{shown(retry)} is not a Retry: Retry(attempts)"
        return
    yield from whole_faults(f"{path}.attempts", retry.attempts, 1)
    yield from duration_faults(f"{path}.backoff", retry.backoff)
    yield from duration_faults(f"{path}.max", retry.max)
    if not is_number(retry.factor) or not 1 <= retry.factor < float("inf"):
        yield f"{path}.factor", "must be a number of at least 1"
    if not is_number(retry.jitter) or not 0 <= retry.jitter <= 1:
        yield f"{path}.jitter", "must be a fraction between 0 and 1"
    for name, kinds in (("on", retry.on), ("not_on", retry.not_on)):
        listed: object = kinds
        for kind in listed if isinstance(listed, tuple) else (listed,):
            if not isinstance(kind, type) or not issubclass(kind, BaseException):
                yield f"{path}.{name}", f"{shown(kind)} is not an exception class: give a tuple of them"


def moment_of(delay: Delay, now: float) -> float:
    """Return the end of a delay that begins now, in seconds since 1970.

    Raises:
        ValueError: the end is missing or ambiguous.
    """
    if (delay.seconds is None) is (delay.until is None):
        raise ValueError("a delay needs either seconds or until")
    return moment(delay.until) if delay.seconds is None else now + seconds(delay.seconds)


def _is(value: object, kind: type) -> bool:
    """Whether a part has its annotated type; user code may pass anything."""
    return isinstance(value, kind)


def _part(name: object, place: int) -> str:
    """Return what a part is called in paths: its id, or its place if it has none that can be shown."""
    return name if isinstance(name, str) else str(place)


def _twice(path: str, names: Iterable[str]) -> Iterator[Fault]:
    for name, count in Counter(name for name in names if isinstance(name, str)).items():
        if count > 1:
            yield f"{path}.{name}", f"this id is used {count} times: give each its own"


def _unreachable(stages: Sequence[Stage], after_failures: list[str]) -> Iterator[str]:
    """Yield stages no path leads to. A router that is a function may lead anywhere, and so may a step without one."""
    by_id = {stage.id: stage for stage in stages}
    following = next_stages(stages)
    reached: set[str] = set()
    queue: list[str | None] = [*course(stages)[:1], *after_failures]
    while queue:
        place = queue.pop()
        if place is None or place in reached:
            continue
        reached.add(place)
        targets = _leads_to(by_id[place], following[place])
        if targets is None or not all(target is None or (_is(target, str) and target in by_id) for target in targets):
            return  # one that is not there is a fault itself, and may be the one that should lead here
        queue += targets
    yield from (stage.id for stage in stages if stage.id not in reached)


def _leads_to(stage: Stage, following: str | None) -> list[str | None] | None:
    """Return where a stage leads to, None for the end; None if that is not known before it runs."""
    router = stage.router
    if isinstance(router, str):
        return [router]
    if isinstance(router, Branch | Switch):
        return [*(target for _, target in router.cases), _either(router.otherwise, following)]
    if (router is None and stage.steps and stage.children is None) or (
        callable(router) and not isinstance(router, INSTRUCTIONS)
    ):
        return None
    if isinstance(router, Jump):
        return [router.stage]
    if isinstance(router, JumpTo):
        return [router.address.partition("/")[0]] if _is(router.address, str) else None
    if isinstance(router, Delay):
        return [_either(router.then, following)]
    if isinstance(router, Pause):
        return _ways_of(router, following)
    return [following] if router is None or isinstance(router, Advance) else []


def _either(named: str | None, following: str | None) -> str | None:
    return following if named is None else named  # what is named may be anything, also without a truth value


def _ways_of(pause: Pause, following: str | None) -> list[str | None]:
    wait = pause.wait
    if isinstance(wait, Wait) and isinstance(wait.events, Mapping):
        ways: list[str | None] = list(wait.events.values())
    else:
        ways = [_either(pause.resume_at, following)]
    if isinstance(wait, Wait) and not ends_wait(wait.on_timeout):
        ways.append(wait.on_timeout)
    return ways
