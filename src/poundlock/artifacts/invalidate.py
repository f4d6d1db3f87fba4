"""Explicit invalidation: drop, clean up, and rebuild if requested."""

from __future__ import annotations

from poundlock.artifacts import explain, graph
from poundlock.artifacts.cleanup import outlast
from poundlock.artifacts.keys import Key
from poundlock.artifacts.node import READY, Node, Slot


async def invalidate(node: Node, key: Key, rebuild: bool) -> None:
    """Drop a key and what depends on it, wait for the clean-ups, and rebuild if requested.

    Raises:
        ArtifactNotFound: no container has the key.
        ExceptionGroup: clean-ups failed; all have run, and nothing was rebuilt.
    """
    if node.closed:
        raise explain.disposed(node)
    found = node.find(key)
    if found is None:
        raise explain.unknown(node, key, node)
    owner, recipe = found
    gone = graph.affected(owner.slots_of(recipe))
    dropped = [slot for slot in gone if slot.status is READY]
    sweep = graph.drop(gone)
    task = sweep.start(owner)
    if task is not None:
        await outlast(task)
    if sweep.errors:
        raise ExceptionGroup(f"{len(sweep.errors)} clean-ups failed; all have run", sweep.errors)
    if rebuild:
        for slot in dropped[::-1] or [Slot(owner, recipe, recipe.name, None)]:
            if not slot.node.closed:
                await slot.node.obtain(slot.recipe.name, slot.params, slot.node)
