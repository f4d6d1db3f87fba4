"""Disposal of a container.

House rules, in this order: no new builds; builds in progress are cancelled, and their waiters get an error; scopes are
disposed before the container they belong to; then every clean-up runs, last in, first out. Errors are collected and
raised together at the end; they stop nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from poundlock.artifacts.announce import announce
from poundlock.artifacts.cleanup import Sweep, outlast
from poundlock.artifacts.events import logger
from poundlock.artifacts.node import CleanUp, Node, Slot
from poundlock.clock import timeout_after
from poundlock.guard import log_text


def dispose_now(node: Node, failure: BaseException | None = None) -> bool:
    """Dispose a node without waiting, if no clean-up may have to be awaited; return whether it is disposed.

    Args:
        node: the node to dispose.
        failure: what generators and context managers see, see `Sweep`.

    Raises:
        ExceptionGroup: clean-ups failed; all of them have run.
    """
    if node.closed:
        return node.closing is None or node.closing.done()
    if node.calm and not (
        node.pending_cleanups or node.background or node.scopes or node.lenders or node.deferred or node.selects
    ):
        node.closed = True
        node.calm = False
        node.warm.clear()
        node.slots.clear()
        return True
    if not _closes_at_once(node):
        return False
    node.closed = True
    if not node.scopes and not node.pending_cleanups:
        _release(node)
        return True
    errors: list[Exception] = []
    for scope in reversed(tuple((node.scopes or {}).values())):
        try:
            dispose_now(scope, failure)
        except ExceptionGroup as group:
            errors += group.exceptions
    sweep = Sweep(_pending(node), failure=failure, together=node.together)
    sweep.advance()
    errors += sweep.errors
    _release(node)
    _raise_together(node, errors)
    return True


async def dispose(node: Node, failure: BaseException | None = None) -> None:
    """Dispose a node. A second call only waits until the first has ended.

    Args:
        node: the node to dispose.
        failure: what generators and context managers see, see `Sweep`.

    Raises:
        ExceptionGroup: clean-ups failed; all of them have run. Only the first caller gets it.
    """
    if dispose_now(node, failure):
        return
    inside = _within(node, asyncio.current_task())  # disposal waits for these tasks, so they cannot wait for it
    if node.closing is None:
        node.closed = True
        node.warm.clear()
        node.closing = node.tasks().start(_close(node, failure), f"dispose {node.name}")
        if not inside:
            try:
                await outlast(node.closing)
            except asyncio.CancelledError:
                _log_errors(node.closing)  # no caller is left to raise them to
                raise
            node.closing.result()
        else:
            node.closing.add_done_callback(_log_errors)
    elif not inside:
        await outlast(node.closing)


def _log_errors(closing: asyncio.Task[None]) -> None:
    error = None if closing.cancelled() else closing.exception()
    if error is not None:
        logger.error("%s", log_text(error))


async def _close(node: Node, failure: BaseException | None) -> None:
    errors: list[Exception] = []
    await _cancel_builds(node, errors)
    for scope in reversed(tuple((node.scopes or {}).values())):
        try:
            await dispose(scope, failure)
        except ExceptionGroup as group:
            errors += group.exceptions
    held_by = [task for slot in node.pending_cleanups or () for task in slot.held_by or ()]
    sweep = Sweep(_pending(node), after=held_by, failure=failure, together=node.together)
    await sweep.run(node)
    errors += sweep.errors
    for work in node.deferred or ():
        await work
    await _end_tasks(node)
    _release(node)
    _raise_together(node, errors)


async def _cancel_builds(node: Node, errors: list[Exception]) -> None:
    flights = list((node.flights or {}).values())
    for flight in flights:
        if flight.slot.cancelled is not None:
            flight.slot.cancelled.set()
        flight.task.cancel()
    tasks = {flight.task for flight in flights}
    if tasks:
        await _bounded_wait(node, tasks)
    errors += (
        TimeoutError(f"the factory of '{flight.slot.name}' did not end when it was cancelled and was abandoned")
        for flight in flights
        if not flight.task.done()
    )


async def _end_tasks(node: Node) -> None:
    """Wait for clean-ups of earlier invalidations, then cancel all that still runs."""
    tasks = _running(node)
    if tasks:
        await _bounded_wait(node, tasks)
    for task in _running(node):
        task.cancel()


async def _bounded_wait(node: Node, tasks: set[asyncio.Task[None]]) -> None:
    limit = node.cleanup_timeout
    try:
        async with timeout_after(node.clock, limit):
            await asyncio.wait(tasks)
    except TimeoutError:
        pass  # the caller checks which tasks are not done


def _pending(node: Node) -> Iterable[tuple[Slot, CleanUp]]:
    for slot in reversed(tuple(node.pending_cleanups or ())):
        if node.listeners is not None:
            announce(node, "artifact:disposed", slot.name)
        for cleanup in reversed(slot.cleanups or ()):
            yield slot, cleanup
        for disposal in reversed(slot.disposals or ()):
            yield slot, disposal


def _release(node: Node) -> None:
    """Drop every reference, so that a disposed node is freed at once; parents do not keep it either."""
    if not node.calm:
        announce(node, "container:dispose", "")
        for observer in (node.observers or {}).values():
            observer.close()
    if node.selects:
        for slot in node.slots.values():
            if slot is not None:
                slot.unwatch()
    if node.lenders is not None:
        for lender, reference in node.lenders.items():
            if lender.borrowers is not None:
                lender.borrowers.discard(reference)
    node.calm = False
    node.warm.clear()
    node.slots.clear()
    node.pending_cleanups = node.lenders = node.index = node.scopes = node.observers = None


def _raise_together(node: Node, errors: list[Exception]) -> None:
    if errors:
        raise ExceptionGroup(
            f"disposing of container '{node.name}': {len(errors)} clean-ups failed; all have run", errors
        )


def _closes_at_once(node: Node) -> bool:
    if node.waits_to_close or node.flights or (node.background is not None and _running(node)):
        return False
    if node.pending_cleanups is not None and any(
        not task.done() for slot in node.pending_cleanups for task in slot.held_by or ()
    ):
        return False
    return node.scopes is None or all(_closes_at_once(scope) for scope in node.scopes.values())


def _running(node: Node) -> set[asyncio.Task[None]]:
    """Return the node's unfinished tasks, without the calling one."""
    if node.background is None or not node.background.running:
        return set()
    return {task for task in node.background.running if task is not node.closing and task is not asyncio.current_task()}


def _within(node: Node, task: asyncio.Task[object] | None) -> bool:
    """Whether a task is one of the node's own: a build, a clean-up, a stream."""
    return node.background is not None and task in node.background.running
