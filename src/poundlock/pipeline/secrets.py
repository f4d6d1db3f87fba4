"""What the texts of a pipeline's runs must not show: sensitive values, and values of the environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from poundlock.callables import annotations_of, bare, parameters_of
from poundlock.codecs import dump
from poundlock.model.definitions import Children, Contract, Pipeline, Stage, Step, Trigger, Wait, state_model_of
from poundlock.model.events import Event
from poundlock.model.hiding import NOTED
from poundlock.model.modes import Mode
from poundlock.model.timeline_entry import job_key
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.annotations import is_payload_model
from poundlock.pipeline.durable import DurableFunction
from poundlock.pipeline.journal import patch_entry
from poundlock.sensitive import SHORTEST, Mask, Masks, masked, masks_at, masks_of, paths_of, places_of, texts_at

_Parts = tuple[str, ...]
"""A path in the state, or in a payload; empty: the whole of it."""
_OF_STATE: Final[Mapping[str, _Parts]] = {"event": (), "state": ()}
"""Names of parameters that get the whole of the event's payload or of the state; others are fields of the state."""
_OF_EVENT: Final[Mapping[str, _Parts]] = dict.fromkeys(
    ("event", "payload", "state", "_event", "_payload", "_state"), ()
)
"""The same for functions of the event."""
_OF_BATCH: Final = "events"
"""The key of the state that gets the payloads of a batch."""


class Secrets:
    """Of one pipeline.

    Args:
        own: where sensitive values are in the state, and in payloads of events, without those of children.
        mapped: where they may be in payloads as well, because a `map` moves them.
        env: returns the values of the environment that no text may show.
    """

    __slots__ = ("_env", "_mapped", "_path_json", "entry", "masks", "own", "redact")

    def __init__(self, own: Masks, mapped: Masks, env: Callable[[], Iterable[str]], path_json: str) -> None:
        self.own = own
        self._mapped = mapped
        self.masks: Masks = ()
        """These, and what `learn` was told."""
        self._env = env
        self._path_json = path_json
        self.redact: Callable[[Event, str], tuple[Event, str]] | None = None
        """Redacts an event and the text of its payload before it is written; None if nothing is redacted."""
        self.entry = ""
        """The text of the entry in the timeline of each run; empty without sensitive values."""
        self.learn(own)

    def learn(self, more: Masks) -> None:
        """Hide these as well; what was hidden before stays so."""
        known = paths_of(self.masks)
        new = [path for path in paths_of(more) if path not in known]
        if new:
            self.masks = (*self.masks, *masks_at(new)) if self.masks else more
            self.entry = patch_entry("state", NOTED, self._path_json, dump({"paths": paths_of(self.masks)}), "{}")

    @property
    def of_events(self) -> Masks:
        """Where sensitive values are in payloads of events."""
        return (*self.masks, *self._mapped) if self._mapped else self.masks

    def of(self, *data: Any) -> set[str]:
        """Return the texts that must not be shown: of the environment, and what is hidden in these data."""
        found = {value for value in self._env() if len(value) >= SHORTEST}
        masks = self.of_events
        for each in data if masks else ():
            found |= texts_at(each, masks)
        return found

    def moved(self, patch: Mapping[str, Any], payload: Any) -> str | None:
        """Return the entry that says where a function has put sensitive values of a payload; None if nowhere else.

        Only from then on are these places known: no annotation names them.
        """
        secrets = texts_at(payload, self.of_events)
        paths = places_of(masked(patch, self.masks), secrets) if secrets else []
        return patch_entry("state", NOTED, self._path_json, dump({"paths": paths}), "{}") if paths else None


def masks_in(definition: WorkflowDefinition, pipeline: Pipeline, mode: Mode, waits: Sequence[Wait]) -> Masks:
    """Return where sensitive values are in the state and the events of a pipeline's runs, by all that is annotated.

    Args:
        definition: the workflow.
        pipeline: one of its pipelines.
        mode: the one it is registered with.
        waits: those that the pipeline declares.
    """
    found: list[Mask] = list(masks_of(state_model_of(definition.state, pipeline)))
    for wait in waits:
        found += masks_of(wait.form) if isinstance(wait.form, type) else ()
    for function, is_patch in _of_event(definition, mode, waits):
        found += _in_parameters(function, _OF_EVENT, by_model=True)
        found += _returned(function, ()) if is_patch else ()
    for stage in pipeline.stages:
        if isinstance(stage, Stage):
            found += _in_stage(stage)
    # Payloads are not only merged into the state: these are lists of them.
    lists = [wait.collect for wait in waits if isinstance(wait.collect, str)]
    if any(each.batch is not None for each in _triggers(definition)):
        lists.append(_OF_BATCH)
    payload = tuple(found)
    for key in dict.fromkeys(lists) if payload else ():
        found += at_path((key, "*"), payload)
    return tuple(dict.fromkeys(found))


def masks_of_mapped(definition: WorkflowDefinition, pipeline: Pipeline) -> Masks:
    """Return where sensitive values may be in payloads from which a `map` makes a state with fields of other names.

    It may have put a payload as a whole into a field, whose model is known from the parameter of a step.
    """
    if not any(callable(trigger.map) for trigger in _triggers(definition)):
        return ()
    found: list[Mask] = []
    for stage in pipeline.stages:
        for step in stage.steps if isinstance(stage, Stage) else ():
            for function in _functions(step):
                found += [mask for hint in annotations_of(function).values() for mask in _of_model(hint)]
    return tuple(dict.fromkeys(found))


def masks_of_children(pipeline: Pipeline, of_run: Callable[[str | None, str | None], Masks]) -> Masks:
    """Return where sensitive values are in the state of a parent: what its children end with is there.

    Args:
        pipeline: of the parent.
        of_run: returns the masks of runs of a workflow and a pipeline. None: of this workflow; of the pipeline that is
            invoked there.
    """
    found: list[Mask] = []
    for stage in pipeline.stages:
        children = stage.children
        if not isinstance(children, Children):
            continue
        into = children.into or stage.id
        for pipeline_id in (None,) if children.workflow is not None else children.pipelines:
            masks = of_run(children.workflow, pipeline_id)
            if not masks:
                continue
            if children.over is not None:
                masks = at_path(("*",), masks)
            elif pipeline_id is not None:
                masks = at_path((pipeline_id,), masks)
            found += at_path((into,), masks)
    return tuple(found)


def _in_stage(stage: Stage) -> Iterator[Mask]:
    """Yield what the functions of a stage mark: they are given the state, or fields of it."""
    for step in stage.steps:
        if isinstance(step, Step):
            yield from _in_step(step)
    if callable(stage.router):
        yield from _in_parameters(stage.router, _OF_STATE)
    if isinstance(stage.children, Children):
        yield from _in_children(stage.children)


def _in_step(step: Step) -> Iterator[Mask]:
    into: _Parts = ()
    places: dict[str, _Parts] = dict(_OF_STATE)
    if isinstance(step.each, str):
        into = (step.into or step.id, "*")
        places["item"] = (*step.each.split("."), "*")
    if isinstance(step.contract, Contract):
        for model in (step.contract.input, step.contract.output):
            yield from _opened(masks_of(model))
        places["input"] = ()
    job = (job_key(step.id), "job")  # it is kept beside the state
    if step.poll is not None:
        places["job"] = job
    for function in _functions(step):
        yield from _in_parameters(function, places)
        if function is not step.undo:
            begins = step.poll is not None and function is not step.poll
            yield from _returned(function, job if begins else into)


def _in_children(children: Children) -> Iterator[Mask]:
    """Yield what `over` and `input` mark, whose arguments come by place: the state, and the element."""
    item = (*children.over.split("."), "*") if isinstance(children.over, str) else None
    for function in (children.over, children.input):
        if callable(function):
            names = [parameter.name for parameter in parameters_of(function) or ()]
            yield from _in_parameters(function, dict(zip(names, ((), item), strict=False)))


def _functions(step: Any) -> Iterator[Any]:
    """Yield the functions of a step; of a durable function the user's own."""
    if isinstance(step, Step):
        action: Any = step.action
        yield from (
            function
            for function in (action.function if isinstance(action, DurableFunction) else action, step.undo, step.poll)
            if callable(function)
        )


def _in_parameters(function: Any, places: Mapping[str, _Parts | None], *, by_model: bool = False) -> Iterator[Mask]:
    """Yield what the parameters of a function mark.

    Args:
        function: the user's.
        places: what parameters of these names get; None: nothing of the state. Any other gets the field of its name.
        by_model: whether one with a model gets the payload, by any name.
    """
    hints = annotations_of(function)
    for parameter in parameters_of(function) or ():
        hint = hints.get(parameter.name)
        masks = masks_of(hint)
        if masks:
            place = () if by_model and is_payload_model(bare(hint)) else places.get(parameter.name, (parameter.name,))
            yield from () if place is None else at_path(place, masks)


def _returned(function: Any, into: _Parts) -> Masks:
    """Return what a function marks of what it returns, which is merged into the state."""
    return at_path(into, masks_of(annotations_of(function).get("return")))


def _of_model(hint: Any) -> Masks:
    """Return the masks of a model; none of anything else."""
    return masks_of(hint) if is_payload_model(bare(hint)) else ()


def at_path(parts: Iterable[str], masks: Masks) -> Masks:
    """Return the masks of what is at a path; "*" is each element of a list, or each value of a mapping."""
    for part in reversed(tuple(parts)) if masks else ():
        mask = Mask()
        if part == "*":
            mask.each = masks
        else:
            mask.keys[part] = masks
        masks = (mask,)
    return _opened(masks)


def _opened(masks: Masks) -> Masks:
    """Return masks of a whole state or payload: where all of it is hidden, it is still a mapping with keys."""
    return tuple(masks_at([("*",)])[0] if mask.whole else mask for mask in masks)


def _triggers(definition: WorkflowDefinition) -> Iterator[Trigger]:
    return (trigger for trigger in definition.triggers.values() if isinstance(trigger, Trigger))


def _of_event(definition: WorkflowDefinition, mode: Mode, waits: Sequence[Wait]) -> Iterator[tuple[Any, bool]]:
    """Yield the functions that are given an event, and whether what they return is merged into the state."""
    named: list[tuple[Any, bool]] = [(getattr(mode, "key", None), False), *((wait.patch, True) for wait in waits)]
    for trigger in _triggers(definition):
        named += ((trigger.when, False), (trigger.key, False), (trigger.map, True))
    yield from (each for each in named if callable(each[0]))
