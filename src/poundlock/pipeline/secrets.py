"""What the texts of a pipeline's runs must not show: sensitive values, and values of the environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from poundlock.callables import annotations_of, parameters_of
from poundlock.codecs import dump
from poundlock.model.definitions import Children, Pipeline, Stage, Step, Trigger, state_model_of
from poundlock.model.events import Event
from poundlock.model.hiding import NOTED
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.journal import patch_entry
from poundlock.sensitive import SHORTEST, Mask, Masks, masks_of, paths_of, texts_at

_OF_EVENT: Final = ("event", "payload")
_OF_STATE: Final = ("state",)


class Secrets:
    """Of one pipeline.

    Args:
        masks: where sensitive values are in the state, and in payloads of events.
        env: returns the values of the environment that no text may show.
    """

    __slots__ = ("_env", "entry", "masks", "redact")

    def __init__(self, masks: Masks, env: Callable[[], Iterable[str]], path_json: str) -> None:
        self.masks = masks
        self._env = env
        self.redact: Callable[[Event, str], tuple[Event, str]] | None = None
        """Redacts an event and the text of its payload before it is written; None if nothing is redacted."""
        self.entry = patch_entry("state", NOTED, path_json, dump({"paths": paths_of(masks)}), "{}") if masks else ""
        """The text of the entry in the timeline of each run; empty without sensitive values."""

    def of(self, *data: Any) -> set[str]:
        """Return the texts that must not be shown: of the environment, and what is hidden in these data."""
        found = {value for value in self._env() if len(value) >= SHORTEST}
        for each in data if self.masks else ():
            found |= texts_at(each, self.masks)
        return found


def masks_in(definition: WorkflowDefinition, pipeline: Pipeline) -> Masks:
    """Return where sensitive values are in the state and the events of a pipeline's runs, by all that is annotated."""
    found: list[Mask] = list(masks_of(state_model_of(definition.state, pipeline)))
    for function in _functions(definition, pipeline):
        hints = annotations_of(function)
        for parameter in parameters_of(function) or ():
            masks = masks_of(hints.get(parameter.name))
            if not masks:
                continue
            if parameter.name in (*_OF_EVENT, *_OF_STATE):
                found += masks
            else:
                of_field = Mask()
                of_field.keys[parameter.name] = masks
                found.append(of_field)
    # What children end with is in the state of their parent.
    for stage in pipeline.stages:
        children = stage.children
        if isinstance(children, Children) and children.workflow is None:
            found += _of_children(definition, children, children.into or stage.id)
    return tuple(dict.fromkeys(found))


def _of_children(definition: WorkflowDefinition, children: Children, into: str) -> Iterator[Mask]:
    for pipeline_id in children.pipelines:
        pipeline = definition.pipelines.get(pipeline_id)
        masks = () if pipeline is None else masks_of(state_model_of(definition.state, pipeline))
        if masks:
            results = Mask()
            if children.over is None:
                results.keys[pipeline_id] = masks
            else:
                results.each = masks
            top = Mask()
            top.keys[into] = (results,)
            yield top


def _functions(definition: WorkflowDefinition, pipeline: Pipeline) -> Iterator[Any]:
    for trigger in definition.triggers.values():
        if isinstance(trigger, Trigger):
            yield from (each for each in (trigger.when, trigger.key, trigger.map) if callable(each))
    for stage in pipeline.stages:
        if isinstance(stage, Stage):
            yield from (step.action for step in stage.steps if isinstance(step, Step) and callable(step.action))
            if callable(stage.router):
                yield stage.router
