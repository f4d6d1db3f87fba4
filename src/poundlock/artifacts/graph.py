"""Who depends on whom, and what has to go when one of them does.

House rules:

1. A slot knows what it depends on: from its recipe, and from what its factory asked for. The other direction is an
   index per node, built at the first invalidation and kept up from then on; a node that never invalidates never pays.
2. Dependents go first, each once: an instance is cleaned up while everything it rests on is still there.
3. Dropping is one synchronous step over all of them; only the clean-ups may take time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from poundlock.artifacts.announce import announce, tell
from poundlock.artifacts.cleanup import Sweep
from poundlock.artifacts.node import BUILDING, EMPTY, READY, CleanUp, Node, Slot
from poundlock.artifacts.recipe import Recipe


# ------------------------------------------------------------------------------------------------------- edges
def dependencies(slot: Slot) -> Iterator[Slot]:
    """Yield the singletons a slot rests on; what a transient between them asks for counts as the slot's own."""
    yield from _by_signature(slot.node, slot.recipe, ())
    yield from tuple(slot.dependencies or ())


def _by_signature(node: Node, recipe: Recipe, within: tuple[Recipe, ...]) -> Iterator[Slot]:
    for need in recipe.needs:
        found = node.find(need.key)
        if found is None:
            continue
        owner, inner = found
        if not inner.transient:
            yield owner.slot(inner)
        elif inner not in within:
            yield from _by_signature(owner, inner, (*within, inner))


def depend(asker: Slot, slot: Slot) -> None:
    """Note that `asker` has asked for `slot` in its factory's body or by signature."""
    if asker.dependencies is None:
        asker.dependencies = {}
    asker.dependencies[slot] = None
    if asker.node is not slot.node:
        asker.node.borrow(slot.node)
    if asker.node.index is not None and asker.key is not None:
        asker.node.index.setdefault(slot, {})[asker] = None


def enter(slot: Slot) -> None:
    """Put a slot's edges into its node's index."""
    index = slot.node.index
    if index is not None:
        for dependency in dependencies(slot):
            index.setdefault(dependency, {})[slot] = None


def forget(slot: Slot) -> list[Slot]:
    """Take a slot's edges out of the index, because its instance is gone, and return what it rested on."""
    rested_on = list(dependencies(slot))
    index = slot.node.index
    if index is not None:
        for dependency in rested_on:
            entered = index.get(dependency)
            if entered is not None:
                entered.pop(slot, None)
                if not entered:
                    del index[dependency]
    slot.dependencies = None
    return rested_on


def dependents(slot: Slot) -> list[Slot]:
    """Return who rests directly on a slot, in its own node and in the nodes below."""
    found = list(_index(slot.node).get(slot, ()))
    for reference in tuple(slot.node.borrowers or ()):
        borrower = reference()
        if borrower is not None:
            found += _index(borrower).get(slot, ())
    return found


def _index(node: Node) -> dict[Slot, dict[Slot, None]]:
    if node.index is None:
        node.index = {}
        node.calm = False
        for slot in node.all_slots():
            if slot.status is not EMPTY:
                enter(slot)
    return node.index


# ------------------------------------------------------------------------------------------------ invalidation
def affected(slots: Sequence[Slot]) -> list[Slot]:
    """Return these slots and all that rests on them, dependents before what they rest on, each once."""
    order: list[Slot] = []
    seen: set[Slot] = set()
    for start in slots:
        if start in seen:
            continue
        seen.add(start)
        todo = [(start, iter(dependents(start)))]
        while todo:
            slot, upwards = todo[-1]
            for dependent in upwards:
                if dependent not in seen:
                    seen.add(dependent)
                    todo.append((dependent, iter(dependents(dependent))))
                    break
            else:
                todo.pop()
                order.append(slot)
    return order


def drop(slots: Sequence[Slot]) -> Sweep:
    """Empty these slots in one step and return the sweep of their clean-ups, in the same order.

    A build under way is not stopped: its result has become stale, and it starts again by itself.
    """
    owed: list[tuple[Slot, CleanUp]] = []
    ready = [slot for slot in slots if slot.status is READY]
    beneath: dict[Slot, None] = {}
    after: set[asyncio.Task[None]] = set()
    for slot in slots:
        if slot.status is BUILDING:
            mark_stale(slot)
        elif slot.status is READY:
            owed += ((slot, cleanup) for cleanup in reversed(slot.cleanups or ()))
            after.update(slot.held_by or ())
            beneath.update(dict.fromkeys(_empty(slot)))
    return Sweep(owed, ready, beneath, after)


def _empty(slot: Slot) -> list[Slot]:
    """Empty a slot and return what it rested on."""
    node = slot.node
    slot.status = EMPTY
    slot.previous = slot.instance if slot.recipe.context is not None else None
    slot.instance = None
    slot.cleanups = slot.streams = slot.held_by = None
    if node.slots.get(slot.key) is slot:
        node.warm.pop(slot.key, None)
        node.warm.pop(slot.recipe.template.key, None)
    if node.owing is not None and slot.disposals is None:
        node.owing.pop(slot, None)
    rested_on = forget(slot)
    slot.unwatch()
    node.invalidations += 1
    if node.listeners is not None or node.observers is not None:
        announce(node, "artifact:invalidated", slot.name)
        tell(slot, "invalidated")
    return rested_on


def mark_stale(slot: Slot) -> None:
    """What a build has read is no longer so; tell it, and let it start again when it is done."""
    slot.stale = True
    if slot.cancelled is not None:
        slot.cancelled.set()


def invalidate_soon(slot: Slot) -> None:
    """Drop a slot and what rests on it; clean-ups that take waiting run in a task of the slot's node."""
    drop(affected([slot])).soon(slot.node)


async def wait_until_left(slot: Slot) -> None:
    """Wait for the clean-ups of the instance before."""
    if slot.leaving is not None:
        await asyncio.wait({slot.leaving})
        slot.leaving = None
