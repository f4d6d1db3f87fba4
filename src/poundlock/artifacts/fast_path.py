"""The fast path: builds the most common artifacts with a tenth of the work.

A plain artifact is a function, class or generator whose parameters are plain artifacts of the same set, or are built
already in a parent. It cannot wait, cannot be joined, and depends only on what its signature says. In a container
without listeners, overrides and invalidations it is built here. Unless it has a clean-up, its slot is created only when
something needs the slot (`Node.slot`).

House rule: in doubt, return None; the general path is always correct.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop
from contextvars import Context
from typing import Any

from poundlock.artifacts.cleanup import FinishGenerator
from poundlock.artifacts.keys import Key
from poundlock.artifacts.make import check_product, discard_soon, fail
from poundlock.artifacts.node import BUILDING, READY, Node, Slot
from poundlock.artifacts.templates import Plain


def build_fast(node: Node, plain: Plain, way: tuple[Plain, ...] = ()) -> Any:
    """Return a new instance of a plain artifact of this node, or None if the general path has to build it.

    Args:
        node: a node that is calm.
        plain: what to build.
        way: the chain of requesters, the first one first.

    Raises:
        PoundlockError: the factory failed.
    """
    name, factory, needs, expected, kept, may_await, yields, key, _ = plain
    loop = _get_running_loop()
    if loop is not node.loop:
        if node.loop is not None:
            return None
        node.loop = loop
    if kept:
        if name in node.slots:
            return None
        node.slots[name] = None  # means "built without a slot"; while building, it reveals a cycle
    slot: Slot | None = None
    instance: Any
    try:
        if needs:
            arguments = {}
            for param, inner, wanted, optional in needs:
                if inner is None:
                    instance, known = _built_above(node, wanted)
                    if not known and optional:
                        continue
                else:
                    instance = node.warm.get(inner.name)
                    if instance is None:
                        instance = build_fast(node, inner, (*way, plain))
                if instance is None:
                    if kept:
                        del node.slots[name]
                    return None
                arguments[param] = instance
            instance = Context().run(factory, **arguments) if kept else factory(**arguments)
        else:
            instance = Context().run(factory) if kept else factory()
        if yields:
            generator, instance = instance, next(instance, None)
            slot = Slot(node, plain.recipe, name, None)
            slot.cleanups = [FinishGenerator(generator)]
        if instance is None or (expected is not None and not isinstance(instance, expected)):
            check_product(_slot_on(node, plain, way), instance)
    except BaseException as error:
        failed = _slot_on(node, plain, way)
        if kept:
            node.slots[name] = failed  # empty, with the error
        failed.cleanups = slot.cleanups if slot is not None else None
        failure = fail(failed, error, node.clock.monotonic())
        discard_soon(failed)
        if failure is error:
            raise
        raise failure from error
    if may_await and hasattr(instance, "__await__"):
        return _leave_to_general_path(node, plain, way, instance)
    if slot is not None:
        slot.status = READY
        slot.instance = instance
        slot.builds = 1
        node.builds += 1
        node.slots[name] = slot
        node.add_pending(slot)
    if kept:
        node.warm[name] = instance
        if key is not name:
            node.warm[key] = instance
    return instance


def _built_above(node: Node, key: Key) -> tuple[Any, bool]:
    """Return the built instance of a key in the parents, or None, and whether a parent has the key."""
    for parent in node.parents:
        found = parent.find(key)
        if found is not None:
            owner, recipe = found
            if owner.loop is not node.loop or recipe.transient:
                return None, True
            node.borrow(owner)
            return owner.warm.get(recipe.name), True
    return None, False


def _leave_to_general_path(node: Node, plain: Plain, way: tuple[Plain, ...], awaitable: Any) -> None:
    """The factory looked synchronous but returned an awaitable: note that, and keep it for the general path."""
    plain.recipe.at_once = False
    node.templates.replan()
    if plain.kept:
        slot = node.slots[plain.name] = _slot_on(node, plain, way)
        slot.awaitable = awaitable
    elif asyncio.iscoroutine(awaitable):
        awaitable.close()  # a transient is requested again; its coroutine has not started


def _slot_on(node: Node, plain: Plain, way: tuple[Plain, ...]) -> Slot:
    """Return the slot that the general path would have used, with the chain of requesters."""
    requester: Slot | Node = node
    for each in (*way, plain):
        slot = Slot(node, each.recipe, each.name if each.kept else None, None)
        slot.status = BUILDING
        slot.requester = requester
        requester = slot
    return slot
