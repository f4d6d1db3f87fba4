"""Call a factory, and record the result.

House rule: before its factory has succeeded, a slot gets only a status and a requester. A failed build leaves the slot
empty, with its clean-ups run: an error is never cached.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextvars import Context
from typing import Any, Final

from poundlock.artifacts import explain, graph, reactive
from poundlock.artifacts.announce import announce, notify
from poundlock.artifacts.cleanup import (
    ExitAsyncManager,
    ExitManager,
    FinishAsyncGenerator,
    FinishGenerator,
    Sweep,
    add_cleanup,
    outlast,
)
from poundlock.artifacts.context import FactoryContext
from poundlock.artifacts.node import EMPTY, READY, Slot
from poundlock.artifacts.recipe import Kind
from poundlock.errors import PoundlockError
from poundlock.guard import for_the_process

STALE_LIMIT: Final = 10
"""How often one build restarts because the state it read has changed."""


def call(slot: Slot, arguments: dict[str, Any]) -> Any:
    """Call the factory and return the instance, or an awaitable of it."""
    recipe = slot.recipe
    if recipe.context is not None:
        arguments[recipe.context] = FactoryContext(slot)
    if recipe.params is not None:
        arguments[recipe.params] = slot.params
    # A singleton is shared and outlives its requester, so it must not see the requester's context variables.
    made = recipe.factory(**arguments) if slot.key is None else Context().run(recipe.factory, **arguments)
    kind = recipe.kind
    if kind is Kind.FUNCTION or kind is Kind.COROUTINE:
        return made
    if kind is Kind.GENERATOR:
        return _first_of(slot, made)
    if kind is Kind.ASYNC_GENERATOR:
        return _first_of_async(slot, made)
    if kind is Kind.MANAGER:
        instance = made.__enter__()
        add_cleanup(slot, ExitManager(made))
        return instance
    return _enter(slot, made)


def _first_of(slot: Slot, generator: Generator[Any, None, None]) -> Any:
    instance = next(generator, None)
    add_cleanup(slot, FinishGenerator(generator))
    return instance


async def _first_of_async(slot: Slot, generator: AsyncGenerator[Any, None]) -> Any:
    instance = await anext(generator, None)
    add_cleanup(slot, FinishAsyncGenerator(generator))
    return instance


async def _enter(slot: Slot, manager: Any) -> Any:
    instance = await manager.__aenter__()
    add_cleanup(slot, ExitAsyncManager(manager))
    return instance


def check_product(slot: Slot, instance: Any) -> None:
    """Raise ArtifactInvalid if the instance is None or not of the template's type."""
    if instance is None or (slot.recipe.expected is not None and not isinstance(instance, slot.recipe.expected)):
        raise explain.wrong_product(slot, instance)


# -------------------------------------------------------------------------------------------------- the result
def publish(slot: Slot, instance: Any, started: float) -> None:
    """Put an instance into its slot, and notify."""
    node, key = slot.node, slot.key
    replaced = slot.builds > 0
    slot.instance = instance
    slot.status = READY
    slot.builds += 1
    node.builds += 1
    slot.seconds = node.clock.monotonic() - started
    slot.requester = slot.error = slot.previous = None
    if key is None:
        return
    if node.slots.get(key) is slot and type(key) is str:
        node.warm[key] = instance
        if slot.recipe.template.key is not key:
            node.warm[slot.recipe.template.key] = instance
    if slot.cleanups is not None or slot.disposals is not None:
        node.add_pending(slot)
    if node.index is not None:
        graph.enter(slot)
    if not node.calm:
        announce(node, "build:complete", slot.name, duration=slot.seconds)
        notify(slot, "replaced" if replaced else "built", instance=instance)
    if slot.streams is not None:
        reactive.start_streams(slot)


def fail(slot: Slot, error: BaseException, started: float) -> BaseException:
    """Mark a slot as not built, notify, and return the error to raise: a Poundlock error unchanged, others wrapped."""
    failure: BaseException = error
    if not isinstance(error, PoundlockError) and not for_the_process(error):
        failure = explain.failed(slot, error)
        failure.__cause__ = error
    node = slot.node
    slot.status = EMPTY
    slot.error = failure
    slot.requester = None
    node.failures += 1
    if not node.calm:
        announce(node, "build:error", slot.name, duration=node.clock.monotonic() - started, error=failure)
        notify(slot, "error", error=failure)
    return failure


async def discard(slot: Slot) -> None:
    """Undo one attempt: run its clean-ups, drop its edges and subscriptions."""
    task = discard_soon(slot)
    if task is not None:
        await outlast(task)


def discard_soon(slot: Slot) -> asyncio.Task[None] | None:
    """The same without waiting: clean-ups that have to be awaited run in the returned task."""
    left = [*(slot.disposals or ()), *(slot.cleanups or ())]
    slot.cleanups = slot.disposals = slot.streams = slot.cancelled = None
    slot.stale = False
    depended_on = graph.forget(slot)
    slot.unwatch()
    if not left:
        return None
    return Sweep(((slot, cleanup) for cleanup in reversed(left)), [slot], depended_on).soon(slot.node)
