"""The graph of dependencies, and what has to be dropped with an artifact.

House rules:

1. A slot knows its dependencies: from its recipe, and from what its factory requested. The other direction is an index
   per node, built at the first invalidation and maintained from then on. A node without invalidations has no such cost.
2. Dependents are dropped first, each once: an instance is cleaned up while everything it depends on still exists.
3. Dropping is one synchronous step over all of them; only the clean-ups may take time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from poundlock.artifacts.announce import announce, notify
from poundlock.artifacts.cleanup import Sweep
from poundlock.artifacts.node import BUILDING, EMPTY, READY, CleanUp, Node, Slot
from poundlock.artifacts.recipe import Recipe


# ------------------------------------------------------------------------------------------------------- edges
def dependencies(slot: Slot) -> Iterator[Slot]:
    """Yield the singletons a slot depends on; the dependencies of a transient between them count as the slot's own."""
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


def depend(requester: Slot, slot: Slot) -> None:
    """Record that `requester` depends on `slot`."""
    if requester.dependencies is None:
        requester.dependencies = {}
    requester.dependencies[slot] = None
    if requester.node is not slot.node:
        requester.node.borrow(slot.node)
    if requester.node.index is not None and requester.key is not None:
        requester.node.index.setdefault(slot, {})[requester] = None


def enter(slot: Slot) -> None:
    """Add a slot's edges to its node's index."""
    index = slot.node.index
    if index is not None:
        for dependency in dependencies(slot):
            index.setdefault(dependency, {})[slot] = None


def forget(slot: Slot) -> list[Slot]:
    """Remove a dropped slot's edges from the index, and return what it depended on."""
    depended_on = list(dependencies(slot))
    index = slot.node.index
    if index is not None:
        for dependency in depended_on:
            entered = index.get(dependency)
            if entered is not None:
                entered.pop(slot, None)
                if not entered:
                    del index[dependency]
    slot.dependencies = None
    return depended_on


def dependents(slot: Slot) -> list[Slot]:
    """Return the direct dependents of a slot, in its own node and in the nodes below."""
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
    """Return these slots and all their dependents, each once; a dependent comes before what it depends on."""
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

    A build in progress is not stopped: it is marked as stale, and restarts by itself.
    """
    pending: list[tuple[Slot, CleanUp]] = []
    ready = [slot for slot in slots if slot.status is READY]
    beneath: dict[Slot, None] = {}
    after: set[asyncio.Task[None]] = set()
    for slot in slots:
        if slot.status is BUILDING:
            mark_stale(slot)
        elif slot.status is READY:
            pending += ((slot, cleanup) for cleanup in reversed(slot.cleanups or ()))
            after.update(slot.held_by or ())
            beneath.update(dict.fromkeys(_empty(slot)))
    return Sweep(pending, ready, beneath, after)


def _empty(slot: Slot) -> list[Slot]:
    """Empty a slot and return what it depended on."""
    node = slot.node
    slot.status = EMPTY
    slot.previous = slot.instance if slot.recipe.context is not None else None
    slot.instance = None
    slot.cleanups = slot.streams = slot.held_by = None
    if node.slots.get(slot.key) is slot:
        node.warm.pop(slot.key, None)
        node.warm.pop(slot.recipe.template.key, None)
    if node.pending_cleanups is not None and slot.disposals is None:
        node.pending_cleanups.pop(slot, None)
    depended_on = forget(slot)
    slot.unwatch()
    node.invalidations += 1
    if node.listeners is not None or node.observers is not None:
        announce(node, "artifact:invalidated", slot.name)
        notify(slot, "invalidated")
    return depended_on


def mark_stale(slot: Slot) -> None:
    """What a build has read has changed: set its `cancelled` event, and let it restart when it is done."""
    slot.stale = True
    if slot.cancelled is not None:
        slot.cancelled.set()


def invalidate_soon(slot: Slot) -> None:
    """Drop a slot and its dependents; clean-ups that have to be awaited run in a task of the slot's node."""
    drop(affected([slot])).soon(slot.node)


async def wait_until_cleaned(slot: Slot) -> None:
    """Wait for the clean-ups of the previous instance."""
    if slot.cleaning is not None:
        await asyncio.wait({slot.cleaning})
        slot.cleaning = None
