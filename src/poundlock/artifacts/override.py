"""Replace an artifact, and restore it.

dependency-injector keeps the stack of replacements (`interop.Artifact`). This file applies one change of it to a node.

House rule: the built original is set aside while it is replaced, and comes back unchanged. What depends on the artifact
is dropped when the override begins and when it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from poundlock.artifacts import graph
from poundlock.artifacts.node import READY, Node, Slot
from poundlock.artifacts.recipe import Recipe


def place_override(node: Node, name: str, recipe: Recipe | None) -> asyncio.Task[None] | None:
    """Replace the artifact of this name by `recipe`; None restores the original.

    Returns:
        The task that runs the clean-ups of what was dropped, if any has to be awaited.
    """
    node.calm = False
    overrides = node.overrides if node.overrides is not None else {}
    shelf = node.shelf = node.shelf if node.shelf is not None else {}
    if name in overrides:
        task = graph.drop(graph.affected(list(_slots_named(node, name).values()))).soon(node)
        _remove(node, name)
    else:
        gone = [slot for slot in graph.affected(_original(node, name)) if not _is_original(slot, node, name)]
        task = graph.drop(gone).soon(node)
        shelf[name] = _slots_named(node, name)
        _remove(node, name)
    if recipe is not None:
        overrides[name] = recipe
        node.overrides = overrides
        return task
    overrides.pop(name, None)
    node.overrides = overrides or None
    for key, slot in shelf.pop(name, {}).items():
        node.slots[key] = slot
        if slot.status is READY and key == name:
            node.warm[name] = node.warm[slot.recipe.template.key] = slot.instance
    return task


def _slots_named(node: Node, name: str) -> dict[Hashable, Slot]:
    """Return the slots of a name in this node itself, one per params."""
    return {slot.key: slot for slot in node.all_slots() if slot.recipe.name == name}


def _remove(node: Node, name: str) -> None:
    for key, slot in _slots_named(node, name).items():
        del node.slots[key]
        node.warm.pop(name, None)
        node.warm.pop(slot.recipe.template.key, None)


def _original(node: Node, name: str) -> list[Slot]:
    """Return the slots that a replacement hides: those of the node that has the key, this one or a parent."""
    found = node.find(name)
    return [] if found is None else list(_slots_named(found[0], name).values())


def _is_original(slot: Slot, node: Node, name: str) -> bool:
    """Whether a slot is kept: it is the replaced original, or its node is above the override and does not see it."""
    return slot.recipe.name == name or not (slot.node is node or any(each is node for each in slot.node.above()))
