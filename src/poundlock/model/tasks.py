"""Task: a function with models of what it takes, gives and is set to, for use in several workflows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from poundlock.model.definitions import Contract, Retry, Step
from poundlock.model.durations import Duration
from poundlock.records import dataclass, field


@dataclass(frozen=True, slots=True)
class Task:
    """A function with pydantic models of what it takes, gives and is set to. A workflow makes a step of it.

    Args:
        id: of the step, unless the workflow gives another one.
        action: the function. Besides what every step is given, it may have the parameters `input` and `config`.
        input: model of the fields of the state that it takes. They are checked when the stage begins.
        output: model of what the function returns, as an instance or a mapping. It is checked when it returns, in each
            attempt; its fields are merged into the state.
        config: model of its settings. They are checked when the workflow is built; one that the model does not know is
            a fault, unless the model sets `extra`.
        defaults: settings, in place of the model's own defaults; at every depth, what the workflow gives counts more.
        label: for people.
        retry, timeout, undo, executor: see `Step`; `undo` may have the parameters `input` and `config` too.
    """

    id: str
    action: Callable[..., Any]
    input: Any = field(default=None, kw_only=True)
    output: Any = field(default=None, kw_only=True)
    config: Any = field(default=None, kw_only=True)
    defaults: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    label: str = field(default="", kw_only=True)
    retry: Retry | None = field(default=None, kw_only=True)
    timeout: Duration | None = field(default=None, kw_only=True)
    undo: Callable[..., Any] | None = field(default=None, kw_only=True)
    executor: str | None = field(default=None, kw_only=True)

    def step(self, id: str | None = None, *, config: Mapping[str, Any] | None = None) -> Step:
        """Return a step of it, for `Stage(id, [steps])`.

        Args:
            id: of the step; default: the task's.
            config: settings for this use of it.
        """
        settings = self.defaults if config is None else deep(self.defaults, config)
        return Step(
            id or self.id,
            self.action,
            label=self.label,
            retry=self.retry,
            timeout=self.timeout,
            undo=self.undo,
            executor=self.executor,
            contract=Contract(self.input, self.output, self.config, settings),
        )


def deep(below: Any, above: Any) -> Any:
    """Return two mappings as one: where both have mappings these are merged, else what is above counts."""
    if not isinstance(below, Mapping) or not isinstance(above, Mapping):
        return above  # what is no mapping is found when the workflow is built
    return {**below, **{key: deep(below[key], value) if key in below else value for key, value in above.items()}}
