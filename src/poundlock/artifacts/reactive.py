"""What changes an artifact from outside: selections of state, and streams of new values."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

from poundlock.artifacts import explain, graph
from poundlock.artifacts.announce import announce, notify
from poundlock.artifacts.cleanup import add_cleanup
from poundlock.artifacts.events import logger
from poundlock.artifacts.node import BUILDING, READY, Node, Slot
from poundlock.guard import ends, log_text


# --------------------------------------------------------------------------------------------------- selections
class Selection:
    """A value an artifact has read from state, watched for as long as the instance exists.

    Attributes:
        slot: its owner; a transient passes it on to the artifact it was made for.
        selector: a dotted path, or a function of the state.
        paths: what it reads; the empty path is the whole state.
        value: the last result.
    """

    __slots__ = ("_end", "paths", "selector", "slot", "value")

    def __init__(self, slot: Slot, selector: Any) -> None:
        self.slot = slot
        self.selector = selector
        self.value, self.paths = read(slot, slot.node, selector)
        self._end = slot.node.store().subscribe(self.paths, self._on_commit)

    def _on_commit(self, _: Any) -> None:
        """A commit has touched one of the paths."""
        if self.slot.status is BUILDING and self.slot.stale:
            return
        try:
            value, paths = read(self.slot, self.slot.node, self.selector)
        except Exception:  # noqa: BLE001 - a selector that fails now means a change
            self._moved()
            return
        if value != self.value:
            self._moved()
        elif paths != self.paths:
            self.end()
            self.paths = paths
            self._end = self.slot.node.store().subscribe(paths, self._on_commit)

    def _moved(self) -> None:
        if self.slot.status is BUILDING:
            graph.mark_stale(self.slot)
        elif self.slot.status is READY:
            graph.invalidate_soon(self.slot)

    def end(self) -> None:
        """Stop watching."""
        self._end()


def read(slot: Slot | None, node: Node, selector: Any) -> tuple[Any, tuple[str, ...]]:
    """Return the value of a selector, and the paths it has read.

    Raises:
        ScopeViolation: there is no state to read here.
    """
    store = node.store() if node.allow_select else None
    if store is None:
        raise explain.no_select(slot, node)
    if isinstance(selector, str):
        return store.select(selector), (selector,)
    trace = getattr(store, "trace", None)
    # A store that does not report what a function reads is read again after every commit.
    return trace(selector) if trace is not None else (store.select(selector), ("",))


def select(slot: Slot, selector: Any) -> Any:
    """Read state on behalf of an artifact, and invalidate it when that changes."""
    selection = Selection(slot, selector)
    slot.node.selects = True
    if slot.selections is None:
        slot.selections = []
    slot.selections.append(selection)
    return selection.value


# ------------------------------------------------------------------------------------------------------ streams
def start_streams(slot: Slot) -> None:
    """Start the producers that a factory has registered."""
    for producer in slot.streams or ():
        task = slot.node.tasks().start(_produce(slot, producer), f"stream {slot.name}")
        add_cleanup(slot, functools.partial(_stop, task))
    slot.streams = None
    slot.node.add_pending(slot)


async def _produce(slot: Slot, producer: Callable[..., Any]) -> None:
    generation, task = slot.builds, asyncio.current_task()

    def emit(value: Any) -> None:
        if slot.builds == generation and slot.status is READY:
            replace(slot, value)

    try:
        if inspect.isasyncgenfunction(producer):
            async for value in producer():
                emit(value)
        else:
            await producer(emit)
    except BaseException as error:  # user code; its error is logged, and observers are notified
        if ends(error, task):
            raise
        lost = "the artifact is rebuilt when it is requested next"
        logger.error("the stream of '%s' failed; %s\n%s", slot.name, lost, log_text(error))
        if slot.builds == generation and slot.status is READY:
            slot.error = error
            notify(slot, "error", error=error)
            graph.invalidate_soon(slot)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    if task is not asyncio.current_task():
        await asyncio.wait({task})


def replace(slot: Slot, value: Any) -> None:
    """Replace the instance of a built slot; what depends on the old one is dropped."""
    if value is None or (slot.recipe.expected is not None and not isinstance(value, slot.recipe.expected)):
        raise explain.wrong_product(slot, value)
    gone = [each for each in graph.affected([slot]) if each is not slot]
    slot.instance = value
    node = slot.node
    if node.slots.get(slot.key) is slot and slot.key in node.warm:
        node.warm[slot.key] = value
        if slot.recipe.template.key in node.warm:
            node.warm[slot.recipe.template.key] = value
    graph.drop(gone).soon(node)
    announce(node, "stream:emit", slot.name)
    notify(slot, "replaced", instance=value)
