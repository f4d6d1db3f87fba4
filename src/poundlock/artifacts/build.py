"""From a key to an instance.

House rules:

1. Three ways lead there, each with fewer assumptions than the one before. *In passing* (`passing.py`): plain singletons
   of one set, in a container where nobody looks on. *Now*: whatever is synchronous all the way down. *In flight*
   (`flight.py`): everything else, in a task.
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
from poundlock.artifacts.flight import build_alone, circle, current_flight, flight_of, join, take_off
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.make import STALE_LIMIT, call, check_product, discard_soon, fail, publish
from poundlock.artifacts.node import BUILDING, EMPTY, READY, Node, Slot, Value
from poundlock.artifacts.passing import build_in_passing
from poundlock.artifacts.recipe import Kind, Need, Recipe
from poundlock.errors import PoundlockError
from poundlock.guard import add_note

_GIVES_AWAITABLE = "is built by a function that gives an awaitable"


class _MustAwait(Exception):
    """A signal inside this file: a factory that looked synchronous gave an awaitable."""

    def __init__(self, slot: Slot, awaitable: Awaitable[Any]) -> None:
        self.slot = slot
        self.awaitable = awaitable


# ------------------------------------------------------------------------------------------------------ asking
async def obtain(node: Node, key: Key, params: Any, asker: Slot | Node) -> Any:
    """Return the instance of a key, building it if need be.

    Raises:
        PoundlockError: whatever stood in the way, with the chain of who asked for whom.
    """
    if asker is node:
        flight = current_flight()  # a factory may ask the container directly, past its context
        asker = node if flight is None else flight.slot
    if params is None and asker is node:
        instance = in_passing(node, key)
        if instance is not None:
            return instance
    owner, recipe = _locate(node, key, asker)
    if params is None and asker is node and recipe.name in owner.warm:
        return owner.warm[recipe.name]
    slot = _place(owner, recipe, params)
    while True:
        if slot.status is READY:
            return _handed_to(asker, slot, slot.instance)
        if slot.status is EMPTY:
            if _buildable_now(slot):
                try:
                    return _handed_to(asker, slot, build_now(slot, asker))
                except _MustAwait as found:
                    if found.slot is slot and recipe.transient:
                        return _handed_to(asker, slot, await build_alone(slot, asker, found.awaitable))
                    _continue_in_flight(found)
                    continue
            if recipe.transient:
                return _handed_to(asker, slot, await build_alone(slot, asker))
            take_off(slot, asker)
        elif slot.awaitable is not None:
            take_off(slot, asker, slot.awaitable)
        await join(slot, asker)


def in_passing(node: Node, key: Key) -> Any:
    """Return a plain artifact, built with next to no work, or None if it takes the long way."""
    if not node.calm:
        return None
    known = node.templates.plain
    if known is None:
        known = node.templates.index_plain()
    plain = known.get(key)
    return None if plain is None else build_in_passing(node, plain)


def obtain_now(node: Node, key: Key, params: Any, asker: Slot | Node) -> Any:
    """Return the instance of a key without waiting, building it if nothing in its way is asynchronous.

    Raises:
        ArtifactInvalid: something would have to be awaited.
        PoundlockError: whatever else stood in the way.
    """
    try:
        owner, recipe = _locate(node, key, asker)
        if params is None and asker is node and recipe.name in owner.warm:
            return owner.warm[recipe.name]
        slot = _place(owner, recipe, params)
        if slot.status is READY:
            return _handed_to(asker, slot, slot.instance)
        if slot.status is BUILDING or not _buildable_now(slot):
            _check_nothing_blocks(slot, asker)
        return _handed_to(asker, slot, build_now(slot, asker))
    except _MustAwait as found:
        found.slot.status = EMPTY
        _drop(found.awaitable)
        raise explain.must_await(recipe.name, found.slot.name, _GIVES_AWAITABLE) from None


def _locate(node: Node, key: Key, asker: Slot | Node) -> tuple[Node, Recipe]:
    if node.closed:
        raise explain.disposed(node)
    found = node.find(key)
    if found is None:
        raise explain.unknown(node, key, asker)
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
    """Return the slot of a singleton, made on first use, or a slot of its own for a transient."""
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


def _handed_to(asker: Slot | Node, slot: Slot, instance: Any) -> Any:
    """Note that `asker` rests on `slot` now. A transient's clean-ups, edges and selections pass to who asked for it."""
    if slot.key is None:
        _adopt(asker, slot)
    elif isinstance(asker, Slot):
        graph.depend(asker, slot)
    return instance


def _adopt(asker: Slot | Node, transient: Slot) -> None:
    owes = transient.cleanups is not None or transient.disposals is not None
    node = asker if isinstance(asker, Node) else asker.node
    node.waits_to_close = node.waits_to_close or (owes and transient.node.waits_to_close)
    if isinstance(asker, Node):
        transient.unwatch()
        if owes:
            node.owe(transient)
        return
    for dependency in graph.dependencies(transient):
        graph.depend(asker, dependency)
    asker.take_over_selections(transient)
    if owes:
        asker.cleanups = [*(asker.cleanups or ()), *(transient.disposals or ()), *(transient.cleanups or ())]
        if asker.status is READY and asker.key is not None:
            node.owe(asker)


# ------------------------------------------------------------------------------------------------ building now
def build_now(slot: Slot, asker: Slot | Node) -> Any:
    """Build right here. The caller has made sure that nothing on the way has to be awaited."""
    node = slot.node
    slot.status = BUILDING
    slot.asker = asker
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
    """Return what a parameter asks for; None if nobody has it and the parameter has a default."""
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
        raise circle(inner, slot)
    else:
        instance = build_now(inner, slot)
    if recipe.transient:
        _adopt(slot, inner)
    elif owner is not node:
        node.borrow(owner)
    return instance


def _buildable_now(slot: Slot) -> bool:
    """Whether `build_now` can do it, as far as that can be told without walking through every need."""
    node = slot.node
    if not slot.recipe.at_once or node.overrides is not None or node.flights or slot.is_leaving:
        return False
    plan = node.templates.plan(slot.recipe)
    return plan.at_once and all(_is_built(node, need) for need in plan.outside)


def _is_built(node: Node, need: Need) -> bool:
    found = node.find(need.key)
    if found is None:
        return need.optional
    owner, recipe = found
    return recipe.name in owner.warm


def _check_nothing_blocks(slot: Slot, asker: Slot | Node) -> None:
    """Raise, naming it, if something on the way to `slot` has to be awaited, or leads back to it."""
    cleared: set[tuple[Node, Recipe]] = set()

    def look(inner: Slot, way: tuple[Slot, ...]) -> None:
        place = (inner.node, inner.recipe)
        if inner.status is READY or place in cleared:
            return
        for index, outer in enumerate(way):
            if (outer.node, outer.recipe) == place:
                raise explain.cycle([each.name for each in (*way[index:], inner)])
        reason = _reason_to_wait(inner, asker, way)
        if reason is not None:
            raise explain.must_await(slot.name, inner.name, reason)
        for need in inner.recipe.needs:
            found = inner.node.find(need.key)
            if found is not None:
                look(_place(*found, None), (*way, inner))
        cleared.add(place)

    look(slot, ())


def _reason_to_wait(slot: Slot, asker: Slot | Node, way: tuple[Slot, ...]) -> str | None:
    if slot.status is BUILDING:
        if slot.awaitable is not None:
            _drop(slot.awaitable)
            slot.awaitable, slot.status = None, EMPTY
            return _GIVES_AWAITABLE
        own = flight_of(asker) or (current_flight() if _get_running_loop() is not None else None)
        if slot.flight is None or slot.flight is own:
            raise circle(slot, asker if isinstance(asker, Slot) or own is None else own.slot, way)
        return "is being built"
    if slot.is_leaving:
        return "is still being cleaned up"
    if slot.recipe.at_once:
        return None
    kind = slot.recipe.kind
    return "may take time or be repeated" if kind is Kind.FUNCTION else f"is built by an {kind.value} function"


def _continue_in_flight(found: _MustAwait) -> None:
    """Let a task wait for what a seemingly synchronous factory gave."""
    if found.slot.key is None:
        _drop(found.awaitable)  # a transient of somebody who starts again, and then asks for a new one
    else:
        take_off(found.slot, found.slot.asker or found.slot.node, found.awaitable)


def _drop(awaitable: Awaitable[Any]) -> None:
    """Get rid of an awaitable that nobody will await, without a warning."""
    if asyncio.iscoroutine(awaitable):
        awaitable.close()
    elif isinstance(awaitable, asyncio.Future):
        awaitable.cancel()


# ------------------------------------------------------------------------------------- small verbs of the container
def peek(node: Node, key: Key) -> Any:
    """Return the instance of a key if it is built, here or above, else None."""
    if node.closed:
        raise explain.disposed(node)
    found = node.find(key)
    return found[0].warm.get(found[1].name) if found is not None else None


def put(node: Node, key: Key, instance: Any) -> None:
    """Put a value in as a built artifact."""
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
    """Build the eager artifacts; the error of one that fails names it."""
    for name in node.templates.eager:
        try:
            await obtain(node, name, None, node)
        except PoundlockError as error:
            add_note(error, f"'{name}' is eager (lazy=False), so container '{node.name}' did not start")
            raise


def observer(node: Node, key: Key) -> Observer:
    """Return the observer of an artifact, kept by the container that has its recipe."""
    owner, recipe = _locate(node, key, node)
    owner.calm = False
    if owner.observers is None:
        owner.observers = {}
    watching = owner.observers.get(recipe.name)
    if watching is None:
        watching = owner.observers[recipe.name] = Observer(recipe.name, lambda: owner.warm.get(recipe.name))
    return watching
