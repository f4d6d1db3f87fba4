"""Health checks of built artifacts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from poundlock.artifacts import explain
from poundlock.artifacts.node import READY, Node, Slot
from poundlock.clock import timeout_after
from poundlock.guard import ends
from poundlock.records import NamedTuple


class Health(NamedTuple):
    """The result of a ping.

    Attributes:
        ok: whether the artifact is healthy.
        error: what the ping raised; TimeoutError if it did not answer in time; None if it returned False.
        seconds: how long it took.
    """

    ok: bool
    error: BaseException | None
    seconds: float


async def health(node: Node, timeout: float) -> dict[str, Health]:
    """Ping all built artifacts of this node that have a ping, concurrently. Never builds."""
    if node.closed:
        raise explain.disposed(node)
    asked = [slot for slot in node.all_slots() if slot.status is READY and slot.recipe.template.health is not None]
    async with asyncio.TaskGroup() as group:
        answers = {slot.name: group.create_task(_ping(slot, timeout)) for slot in asked}
    return {name: answer.result() for name, answer in answers.items()}


async def _ping(slot: Slot, timeout: float) -> Health:
    clock, ping = slot.node.clock, slot.recipe.template.health
    started, task = clock.monotonic(), asyncio.current_task()
    error: BaseException | None = None
    well = False
    scope = timeout_after(clock, timeout)
    try:
        async with scope:
            well = await _requested(ping, slot.instance) is not False
    except BaseException as raised:  # an error of the ping is its result
        if ends(raised, task):
            raise
        late = f"the ping of '{slot.name}' did not answer within {timeout:g} s: look at what it asks, or give it longer"
        error = TimeoutError(late) if scope.expired else raised
    return Health(well, error, clock.monotonic() - started)


async def _requested(ping: Callable[[Any], Any] | None, instance: Any) -> Any:
    answer: Any = ping(instance) if ping is not None else None
    return await answer if hasattr(answer, "__await__") else answer
