"""What a memo keeps, as data and back: results of steps, waits that were registered, and why a run was resumed.

Data only: a value is rebuilt from it in another process, perhaps by a newer version of the workflow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import dump
from poundlock.model.conditions import Condition, StateRef
from poundlock.model.definitions import INSTRUCTIONS, Instruction, Pause, Wait
from poundlock.model.events import Event
from poundlock.model.forms import is_model_form, schema_of
from poundlock.model.outbox import Outgoing
from poundlock.pipeline.plan import StepPlan
from poundlock.pipeline.run_view import Resume
from poundlock.pipeline.step_results import MappedDone, ModelDone, StepDone

_BY_NAME: Final = {kind.__name__: kind for kind in INSTRUCTIONS}
_EVENT: Final = ("type", "payload", "id", "time", "source", "key")


# ------------------------------------------------------------------------------------------------ results of steps
def result_as_data(done: StepDone) -> dict[str, Any]:
    """Return the result of a step; its parts are data, or values that the codec refuses."""
    data: dict[str, Any] = {"patch": done.patch}
    if done.instruction is not None:
        data["instruction"] = _instruction_as_data(done.instruction)
    if isinstance(done, ModelDone):
        data["whole"] = done.whole
    if isinstance(done, MappedDone):
        data["results"] = done.results
    if done.outgoing:
        data["sent"] = sent_as_data(done.outgoing)
    return data


def result_of(step: StepPlan, data: Mapping[str, Any]) -> StepDone:
    """Return the result that a step had."""
    patch = data["patch"]
    text = None if patch is None else dump(patch)
    instruction = _instruction_of(*data["instruction"]) if "instruction" in data else None
    sent = sent_of(data["sent"]) if "sent" in data else None
    if "whole" in data:
        return ModelDone(step, patch, text, instruction, sent, whole=data["whole"])
    if "results" in data:
        return MappedDone(step, patch, text, instruction, sent, results=data["results"])
    return StepDone(step, patch, text, instruction, sent)


def sent_as_data(outgoing: Sequence[Outgoing]) -> list[Any]:
    """Return events that a step has emitted."""
    return [_event_as_data(event) for event, _ in outgoing]


def sent_of(data: Sequence[Any]) -> list[Outgoing]:
    """Return the events of such data."""
    events = [_event_of(said) for said in data]
    return [Outgoing(event, dump(event.payload)) for event in events]


def _event_as_data(event: Event) -> list[Any]:
    return [*(getattr(event, name) for name in _EVENT), dict(event.headers)]


def _event_of(said: Sequence[Any]) -> Event:
    kind, payload, event_id, time, source, key, headers = said
    return Event.trusted(kind, payload, id=event_id, time=time, source=source, key=key, headers=headers)


def _instruction_as_data(instruction: Instruction) -> list[Any]:
    fields = {name: getattr(instruction, name) for name in type(instruction).__slots__}
    # What it carries is in the result's own patch already.
    fields["patch"] = None
    if isinstance(instruction, Pause):
        fields["wait"] = wait_as_data(instruction.wait)
    return [type(instruction).__name__, fields]


def _instruction_of(name: str, fields: Mapping[str, Any]) -> Instruction:
    if name == "Pause":
        fields = {**fields, "wait": wait_of(fields["wait"])}
    return _BY_NAME[name](**fields)


# ------------------------------------------------------------------------------------------------------- waits
_COUNTING: Final = ("mode", "distinct", "collect", "form", "limit", "ttl", "overflow")


def wait_as_data(wait: Wait) -> dict[str, Any]:
    """Return a wait that code has made; one that is part of the definition may have a function, which is no data."""
    return {
        "events": wait.events if isinstance(wait.events, str | Mapping) else list(wait.events),
        "where": [[each.field, each.op, _referring(each.value)] for each in wait.where],
        "correlate": None if wait.correlate is None else {at: _referring(each) for at, each in wait.correlate.items()},
        "timeout": wait.timeout,
        "on_timeout": wait.on_timeout,
        "patch": wait.patch,
        "mode": wait.mode,
        "distinct": wait.distinct,
        "collect": wait.collect,
        "form": schema_of(wait.form) if is_model_form(wait.form) else wait.form,
        "limit": wait.limit,
        "ttl": wait.ttl,
        "overflow": wait.overflow,
        "early": wait.early,
        "id": wait.id,
    }


def wait_of(data: Mapping[str, Any]) -> Wait:
    """Return the wait of such data."""
    correlate = data["correlate"]
    # Records of earlier versions lack these.
    counting = {name: data[name] for name in _COUNTING if name in data}
    return Wait(
        data["events"],
        where=[Condition(field, op, _referred(value)) for field, op, value in data["where"]],
        correlate=None if correlate is None else {at: _referred(value) for at, value in correlate.items()},
        timeout=data["timeout"],
        on_timeout=data["on_timeout"],
        patch=data["patch"],
        early=data["early"],
        id=data["id"],
        **counting,
    )


def _referring(value: Any) -> list[Any]:
    return ["state", value.path] if isinstance(value, StateRef) else ["value", value]


def _referred(said: list[Any]) -> Any:
    kind, value = said
    return StateRef(value) if kind == "state" else value


# ------------------------------------------------------------------------------------------ why a run was resumed
def resume_as_data(resume: Resume) -> list[Any]:
    """Return why a run was resumed."""
    event = resume.event
    if event is None:
        return [resume.reason, resume.wait, None]
    return [resume.reason, resume.wait, _event_as_data(event)]


def resume_of(data: list[Any] | None) -> Resume | None:
    """Return the reason of such data."""
    if data is None:
        return None
    reason, wait, said = data
    if said is None:
        return Resume(reason, wait)
    return Resume(reason, wait, _event_of(said))
