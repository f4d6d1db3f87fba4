"""What the texts of a pipeline's runs must not show: sensitive values, and values of the environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from poundlock.callables import annotations_of, bare, parameters_of
from poundlock.codecs import dump
from poundlock.model.definitions import Children, Pipeline, Stage, Step, Trigger, Wait, state_model_of
from poundlock.model.events import Event
from poundlock.model.hiding import NOTED
from poundlock.model.modes import Mode
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.annotations import is_payload_model
from poundlock.pipeline.journal import patch_entry
from poundlock.sensitive import SHORTEST, Mask, Masks, masks_at, masks_of, paths_of, texts_at

_WHOLE: Final = ("event", "payload", "state")
"""Parameters that get the whole of an event's payload or of the state."""
_OF_BATCH: Final = "events"
"""The key of the state that gets the payloads of a batch."""


class Secrets:
    """Of one pipeline.

    Args:
        own: where sensitive values are in the state, and in payloads of events, without those of children.
        env: returns the values of the environment that no text may show.
    """

    __slots__ = ("_env", "_path_json", "entry", "masks", "own", "redact")

    def __init__(self, own: Masks, env: Callable[[], Iterable[str]], path_json: str) -> None:
        self.own = own
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

    def of(self, *data: Any) -> set[str]:
        """Return the texts that must not be shown: of the environment, and what is hidden in these data."""
        found = {value for value in self._env() if len(value) >= SHORTEST}
        for each in data if self.masks else ():
            found |= texts_at(each, self.masks)
        return found


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
    for function in _of_event(definition, mode, waits):
        found += _in_parameters(function, by_model=True)
    for function in _of_stages(pipeline):
        found += _in_parameters(function, by_model=False)
    # Payloads are not only merged into the state: these are lists of them.
    lists = [wait.collect for wait in waits if isinstance(wait.collect, str)]
    if any(each.batch is not None for each in _triggers(definition)):
        lists.append(_OF_BATCH)
    payload = tuple(found)
    for key in dict.fromkeys(lists) if payload else ():
        found.append(_under(key, (_each(payload),)))
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
                masks = (_each(masks),)
            elif pipeline_id is not None:
                masks = (_under(pipeline_id, masks),)
            found.append(_under(into, masks))
    return tuple(found)


def _under(key: str, masks: Masks) -> Mask:
    mask = Mask()
    mask.keys[key] = masks
    return mask


def _each(masks: Masks) -> Mask:
    mask = Mask()
    mask.each = masks
    return mask


def _in_parameters(function: Any, *, by_model: bool) -> Iterator[Mask]:
    """Yield what the parameters of a function mark; `by_model`: one with a model gets the payload, by any name."""
    hints = annotations_of(function)
    for parameter in parameters_of(function) or ():
        hint = hints.get(parameter.name)
        masks = masks_of(hint)
        if not masks:
            continue
        if parameter.name.removeprefix("_") in _WHOLE or (by_model and is_payload_model(bare(hint))):
            yield from masks
        else:
            yield _under(parameter.name, masks)


def _triggers(definition: WorkflowDefinition) -> Iterator[Trigger]:
    return (trigger for trigger in definition.triggers.values() if isinstance(trigger, Trigger))


def _of_event(definition: WorkflowDefinition, mode: Mode, waits: Sequence[Wait]) -> Iterator[Any]:
    """Yield the functions that are given an event."""
    named: list[Any] = [getattr(mode, "key", None), *(wait.patch for wait in waits)]
    for trigger in _triggers(definition):
        named += (trigger.when, trigger.key, trigger.map)
    yield from (each for each in named if callable(each))


def _of_stages(pipeline: Pipeline) -> Iterator[Any]:
    """Yield the functions that are given the state, or fields of it."""
    for stage in pipeline.stages:
        if isinstance(stage, Stage):
            yield from (step.action for step in stage.steps if isinstance(step, Step) and callable(step.action))
            if callable(stage.router):
                yield stage.router
