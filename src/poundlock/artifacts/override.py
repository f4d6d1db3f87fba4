"""Putting a replacement in an artifact's place, and taking it away again.

The stack of replacements is dependency-injector's (`interop.Artifact`); here is what one change of it means for a node.

House rule: what was built stays aside while it is replaced, and comes back untouched. What rested on it is dropped on
the way in and on the way out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable

from poundlock.artifacts import graph
from poundlock.artifacts.node import READY, Node, Slot
from poundlock.artifacts.recipe import Recipe


def place_override(node: Node, name: str, recipe: Recipe | None) -> asyncio.Task[None] | None:
    """Let `recipe` stand in for the artifact of a name from now on; None brings the original back.

    Returns:
        The task that runs the clean-ups of what was dropped, if they take waiting.
    """
    node.calm = False
    overrides = node.overrides if node.overrides is not None else {}
    shelf = node.shelf = node.shelf if node.shelf is not None else {}
    if name in overrides:
        task = graph.drop(graph.affected(list(_standing(node, name).values()))).soon(node)
        _take_away(node, name)
    else:
        gone = [slot for slot in graph.affected(_original(node, name)) if not _is_original(slot, node, name)]
        task = graph.drop(gone).soon(node)
        shelf[name] = _standing(node, name)
        _take_away(node, name)
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


def _standing(node: Node, name: str) -> dict[Hashable, Slot]:
    """Return the slots of a name in this very node, one per params."""
    return {slot.key: slot for slot in node.all_slots() if slot.recipe.name == name}


def _take_away(node: Node, name: str) -> None:
    for key, slot in _standing(node, name).items():
        del node.slots[key]
        node.warm.pop(name, None)
        node.warm.pop(slot.recipe.template.key, None)


def _original(node: Node, name: str) -> list[Slot]:
    """Return the slots that a replacement hides: this node's, or those of the parent that has the key."""
    found = node.find(name)
    return [] if found is None else list(_standing(found[0], name).values())


def _is_original(slot: Slot, node: Node, name: str) -> bool:
    """Whether a slot stays: it is what is replaced itself, or lives above the replacement and does not see it."""
    return slot.recipe.name == name or not (slot.node is node or any(each is node for each in slot.node.above()))
