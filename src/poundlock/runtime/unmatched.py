"""Events that nobody wanted: `on_unmatched` of the runtime is told of them."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, Final

from poundlock.callables import parameters_of, runs_later
from poundlock.errors import InvalidDefinition
from poundlock.guard import call_within, log_text, repr_of
from poundlock.model.events import Event
from poundlock.runtime.core import Core, log

_telling: Final[ContextVar[bool]] = ContextVar("poundlock_on_unmatched", default=False)
"""Whether this code was called by `on_unmatched`: what it emits in vain does not call it again, for ever."""


def checked_hook(hook: object) -> Callable[..., Any] | None:
    """Return `on_unmatched` as it was given.

    Raises:
        InvalidDefinition: it cannot be called with one event.
    """
    if hook is None:
        return None
    if not callable(hook):
        raise InvalidDefinition(f"on_unmatched={repr_of(hook, 60)} is not a function", path="on_unmatched")
    if runs_later(hook):
        raise InvalidDefinition(
            "on_unmatched is a generator function or context manager, so nothing of it would run", path="on_unmatched"
        )
    parameters = parameters_of(hook)
    if parameters is None:  # it cannot be read: it is called with the event all the same
        return hook
    by_place = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    takes_one = bool(by_place) or any(each.kind is each.VAR_POSITIONAL for each in parameters)
    needed = [
        each
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if not (takes_one and needed in ([], by_place[:1])):
        raise InvalidDefinition("on_unmatched is called with the event, and nothing else", path="on_unmatched")
    return hook


def is_telling() -> bool:
    """Whether the current code was called by `on_unmatched`."""
    return _telling.get()


async def call_unmatched(core: Core, event: Event) -> None:
    """Call `on_unmatched`, and log what it raises. It has `hook_timeout` seconds, as other hooks.

    Raises:
        asyncio.CancelledError: the caller was cancelled.
    """
    hook = core.on_unmatched
    if hook is None:
        return
    context = core.context_of_hook() or copy_context()
    context.run(_telling.set, True)
    answer = await call_within(
        core.hook_timeout, hook, event.detached(), clock=core.clock, keep=core.tasks.keep, context=context
    )
    if answer.error is not None:
        log.error("on_unmatched raised for event '%s'\n%s", event.id, log_text(answer.error))
