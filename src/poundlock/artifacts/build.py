"""From a key to an instance.

House rules:

1. There are three ways, each with fewer assumptions than the one before. *The fast path* (`fast_path.py`): plain
   singletons of one set, in a container without listeners and overrides. *Now*: artifacts that are synchronous with all
   that they need. *In flight* (`flight.py`): everything else, in a task.
2. The order of checks is the same in all: disposed, known, right loop, built, being built.
"""

from __future__ import annotations

import asyncio
from asyncio import _get_running_loop  # the documented way to ask without an exception; costs 30 ns
from collections.abc import Awaitable, Hashable
from typing import Any

from poundlock.artifacts import explain, graph
from poundlock.artifacts.announce import announce
from poundlock.artifacts.events import Observer
from poundlock.artifacts.fast_path import build_fast
from poundlock.artifacts.flight import build_alone, current_flight, cycle_error, flight_of, join, start_build
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.make import STALE_LIMIT, call, check_product, discard_soon, fail, publish
from poundlock.artifacts.node import BUILDING, EMPTY, READY, Node, Slot, Value
from poundlock.artifacts.recipe import Kind, Need, Recipe
from poundlock.errors import PoundlockError
from poundlock.guard import add_note

_GIVES_AWAITABLE = "is built by a function that returns an awaitable"


class _MustAwait(Exception):
    """A signal inside this file: a factory that looked synchronous returned an awaitable."""

    def __init__(self, slot: Slot, awaitable: Awaitable[Any]) -> None:
        self.slot = slot
        self.awaitable = awaitable


# ------------------------------------------------------------------------------------------------------ asking
async def obtain(node: Node, key: Key, params: Any, requester: Slot | Node) -> Any:
    """Return the instance of a key, building it if need be.

    Raises:
        PoundlockError: it cannot be built; the error has the chain of requesters.
    """
    if requester is node:
        flight = current_flight()  # a factory may call the container directly, not through its context
        requester = node if flight is None else flight.slot
    if params is None and requester is node:
        instance = fast_path(node, key)
        if instance is not None:
            return instance
    owner, recipe = _locate(node, key, requester)
    if params is None and requester is node and recipe.name in owner.warm:
        return owner.warm[recipe.name]
    slot = _place(owner, recipe, params)
    while True:
        if slot.status is READY:
            return _handed_to(requester, slot, slot.instance)
        if slot.status is EMPTY:
            if _buildable_now(slot):
                try:
                    return _handed_to(requester, slot, build_now(slot, requester))
                except _MustAwait as found:
                    if found.slot is slot and recipe.transient:
                        return _handed_to(requester, slot, await build_alone(slot, requester, found.awaitable))
                    _continue_in_flight(found)
                    continue
            if recipe.transient:
                return _handed_to(requester, slot, await build_alone(slot, requester))
            start_build(slot, requester)
        elif slot.awaitable is not None:
            start_build(slot, requester, slot.awaitable)
        await join(slot, requester)


def fast_path(node: Node, key: Key) -> Any:
    """Return a plain artifact, built on the fast path, or None if the general path has to build it."""
    if not node.calm:
        return None
    known = node.templates.plain
    if known is None:
        known = node.templates.index_plain()
    plain = known.get(key)
    return None if plain is None else build_fast(node, plain)


def obtain_now(node: Node, key: Key, params: Any, requester: Slot | Node) -> Any:
    """Return the instance of a key without waiting; builds it if all that it needs is synchronous.

    Raises:
        ArtifactInvalid: something would have to be awaited.
        PoundlockError: it cannot be built for another reason.
    """
    try:
        owner, recipe = _locate(node, key, requester)
        if params is None and requester is node and recipe.name in owner.warm:
            return owner.warm[recipe.name]
        slot = _place(owner, recipe, params)
        if slot.status is READY:
            return _handed_to(requester, slot, slot.instance)
        if slot.status is BUILDING or not _buildable_now(slot):
            _check_nothing_blocks(slot, requester)
        return _handed_to(requester, slot, build_now(slot, requester))
    except _MustAwait as found:
        found.slot.status = EMPTY
        _drop(found.awaitable)
        raise explain.must_await(recipe.name, found.slot.name, _GIVES_AWAITABLE) from None


def _locate(node: Node, key: Key, requester: Slot | Node) -> tuple[Node, Recipe]:
    if node.closed:
        raise explain.disposed(node)
    found = node.find(key)
    if found is None:
        raise explain.unknown(node, key, requester)
    _check_usable(found[0])
    return found


def _check_usable(owner: Node) -> None:
    if owner.closed:
        raise explain.disposed(owner)
    loop = _get_running_loop()
    if loop is not owner.loop:
        if owner.loop is not None:
            raise explain.wrong_loop(owner)
        owner.loop = loop


def _place(owner: Node, recipe: Recipe, params: Any) -> Slot:
    """Return the slot of a singleton, created on first use, or a new slot for a transient."""
    if recipe.transient:
        return Slot(owner, recipe, None, params)
    if params is None:
        return owner.slot(recipe)
    if recipe.param_key is None:
        raise explain.no_params(recipe.name)
    key: Hashable = (recipe.name, recipe.param_key(params))
    slot = owner.slots.get(key)
    if slot is None:
        slot = owner.slots[key] = Slot(owner, recipe, key, params)
    return slot


def _handed_to(requester: Slot | Node, slot: Slot, instance: Any) -> Any:
    """Record that `requester` depends on `slot`; it takes over a transient's clean-ups, edges and selections."""
    if slot.key is None:
        _adopt(requester, slot)
    elif isinstance(requester, Slot):
        graph.depend(requester, slot)
    return instance


def _adopt(requester: Slot | Node, transient: Slot) -> None:
    has_cleanups = transient.cleanups is not None or transient.disposals is not None
    node = requester if isinstance(requester, Node) else requester.node
    node.waits_to_close = node.waits_to_close or (has_cleanups and transient.node.waits_to_close)
    if isinstance(requester, Node):
        transient.unwatch()
        if has_cleanups:
            node.add_pending(transient)
        return
    for dependency in graph.dependencies(transient):
        graph.depend(requester, dependency)
    requester.take_over_selections(transient)
    if has_cleanups:
        requester.cleanups = [*(requester.cleanups or ()), *(transient.disposals or ()), *(transient.cleanups or ())]
        if requester.status is READY and requester.key is not None:
            node.add_pending(requester)


# ------------------------------------------------------------------------------------------------ building now
def build_now(slot: Slot, requester: Slot | Node) -> Any:
    """Build synchronously. The caller has checked that nothing has to be awaited, as far as that is known."""
    node = slot.node
    slot.status = BUILDING
    slot.requester = requester
    started = node.clock.monotonic()
    if not node.calm:
        announce(node, "build:start", slot.name)
    try:
        instance = _make_now(slot)
    except _MustAwait as found:
        slot.status = EMPTY
        if found.slot is not slot:
            discard_soon(slot)
        raise
    except BaseException as error:
        failure = fail(slot, error, started)
        discard_soon(slot)
        if failure is error:
            raise
        raise failure from error
    publish(slot, instance, started)
    return instance


def _make_now(slot: Slot) -> Any:
    for _ in range(STALE_LIMIT):
        instance = call(slot, _arguments_now(slot))
        if hasattr(instance, "__await__"):
            slot.recipe.at_once = False
            slot.node.templates.replan()
            raise _MustAwait(slot, instance)
        check_product(slot, instance)
        if not slot.stale:
            return instance
        discard_soon(slot)
    raise explain.never_settles(slot, STALE_LIMIT)


def _arguments_now(slot: Slot) -> dict[str, Any]:
    given = ((need.param, _need_now(slot, need)) for need in slot.recipe.needs)
    return {param: instance for param, instance in given if instance is not None}


def _need_now(slot: Slot, need: Need) -> Any:
    """Return what a parameter requests; None if no container has it and the parameter has a default."""
    node = slot.node
    found = node.find(need.key)
    if found is None:
        if need.optional:
            return None
        raise explain.unknown(node, need.key, slot)
    owner, recipe = found
    if owner is not node:
        _check_usable(owner)
    inner = _place(owner, recipe, None)
    if inner.status is READY:
        instance = inner.instance
    elif inner.status is BUILDING:
        raise cycle_error(inner, slot)
    else:
        instance = build_now(inner, slot)
    if recipe.transient:
        _adopt(slot, inner)
    elif owner is not node:
        node.borrow(owner)
    return instance


def _buildable_now(slot: Slot) -> bool:
    """Whether `build_now` can build it, as far as this is known without visiting every dependency."""
    node = slot.node
    if not slot.recipe.at_once or node.overrides is not None or node.flights or slot.is_being_cleaned:
        return False
    plan = node.templates.plan(slot.recipe)
    return plan.at_once and all(_is_built(node, need) for need in plan.outside)


def _is_built(node: Node, need: Need) -> bool:
    found = node.find(need.key)
    if found is None:
        return need.optional
    owner, recipe = found
    return recipe.name in owner.warm


def _check_nothing_blocks(slot: Slot, requester: Slot | Node) -> None:
    """Raise if something that `slot` needs has to be awaited, or needs `slot`. The error names it."""
    cleared: set[tuple[Node, Recipe]] = set()

    def look(inner: Slot, way: tuple[Slot, ...]) -> None:
        place = (inner.node, inner.recipe)
        if inner.status is READY or place in cleared:
            return
        for index, outer in enumerate(way):
            if (outer.node, outer.recipe) == place:
                raise explain.cycle([each.name for each in (*way[index:], inner)])
        reason = _reason_to_wait(inner, requester, way)
        if reason is not None:
            raise explain.must_await(slot.name, inner.name, reason)
        for need in inner.recipe.needs:
            found = inner.node.find(need.key)
            if found is not None:
                look(_place(*found, None), (*way, inner))
        cleared.add(place)

    look(slot, ())


def _reason_to_wait(slot: Slot, requester: Slot | Node, way: tuple[Slot, ...]) -> str | None:
    if slot.status is BUILDING:
        if slot.awaitable is not None:
            _drop(slot.awaitable)
            slot.awaitable, slot.status = None, EMPTY
            return _GIVES_AWAITABLE
        own = flight_of(requester) or (current_flight() if _get_running_loop() is not None else None)
        if slot.flight is None or slot.flight is own:
            raise cycle_error(slot, requester if isinstance(requester, Slot) or own is None else own.slot, way)
        return "is being built"
    if slot.is_being_cleaned:
        return "is still being cleaned up"
    if slot.recipe.at_once:
        return None
    kind = slot.recipe.kind
    if kind is Kind.FUNCTION:
        return "may take time or be repeated"
    return f"is built by {'an' if kind.value.startswith('async') else 'a'} {kind.value} function"


def _continue_in_flight(found: _MustAwait) -> None:
    """Let a task await what a seemingly synchronous factory returned."""
    if found.slot.key is None:
        _drop(found.awaitable)  # a transient: its requester restarts and requests a new one
    else:
        start_build(found.slot, found.slot.requester or found.slot.node, found.awaitable)


def _drop(awaitable: Awaitable[Any]) -> None:
    """Discard an awaitable without a "never awaited" warning."""
    if asyncio.iscoroutine(awaitable):
        awaitable.close()
    elif isinstance(awaitable, asyncio.Future):
        awaitable.cancel()


# ------------------------------------------------------------------------------------- small methods of the container
def peek(node: Node, key: Key) -> Any:
    """Return the instance of a key if it is built, here or above, else None."""
    if node.closed:
        raise explain.disposed(node)
    found = node.find(key)
    return found[0].warm.get(found[1].name) if found is not None else None


def put(node: Node, key: Key, instance: Any) -> None:
    """Add a value as a built artifact."""
    if node.closed:
        raise explain.disposed(node)
    name = key_name(key)
    if instance is None:
        raise explain.no_value(name)
    if name in node.warm or node.own(name) is not None:
        raise explain.taken(name)
    if node.values is None:
        node.values = {}
    node.values[name] = Value(key, instance)
    node.slots[name] = None
    node.warm[name] = node.warm[key] = instance


async def start(node: Node) -> None:
    """Build the eager artifacts; an error names the artifact that failed."""
    for name in node.templates.eager:
        try:
            await obtain(node, name, None, node)
        except PoundlockError as error:
            add_note(error, f"'{name}' is eager (lazy=False), so container '{node.name}' did not start")
            raise


def observer(node: Node, key: Key) -> Observer:
    """Return the observer of an artifact; the container that has its recipe keeps it."""
    owner, recipe = _locate(node, key, node)
    owner.calm = False
    if owner.observers is None:
        owner.observers = {}
    watching = owner.observers.get(recipe.name)
    if watching is None:
        watching = owner.observers[recipe.name] = Observer(recipe.name, lambda: owner.warm.get(recipe.name))
    return watching
