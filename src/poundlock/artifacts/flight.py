"""Builds in flight: one task per singleton being built, shared by all callers that request it (single flight).

House rules:

1. The task belongs to the container, not to the first requester. A cancelled waiter only stops waiting; when none is
   left, the build is cancelled.
2. A build that waits for another build records it first (`Flight.waits`); if that closes a cycle, it raises instead.
   This one check covers a factory that requests itself, cycles across parents, and cycles between tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

from poundlock.artifacts import explain, graph
from poundlock.artifacts.announce import announce
from poundlock.artifacts.make import STALE_LIMIT, call, check_product, discard, fail, publish
from poundlock.artifacts.node import BUILDING, EMPTY, Flight, Node, Slot
from poundlock.artifacts.retry import delay_before, worth_another
from poundlock.clock import sleep_for, timeout_after
from poundlock.errors import ArtifactCycle
from poundlock.model.durations import seconds

_current: ContextVar[Flight | None] = ContextVar("poundlock_flight", default=None)
"""The flight that the current task runs; set in the clean context of that task."""


def start_build(slot: Slot, requester: Slot | Node, awaitable: Awaitable[Any] | None = None) -> None:
    """Start the build of a singleton in a task.

    Args:
        slot: gets the instance.
        requester: the first requester.
        awaitable: the result of the factory, if it has been called already.
    """
    node = slot.node
    slot.status = BUILDING
    slot.requester = requester
    slot.awaitable = None
    slot.flight = flight = Flight(slot)
    if node.flights is None:
        node.flights = {}
        node.calm = False
    node.flights[slot] = flight
    flight.task = node.tasks().start(_run_build(flight, awaitable), f"build {slot.name}")


async def join(slot: Slot, requester: Slot | Node) -> None:
    """Wait until the build of `slot` has ended.

    Raises:
        ArtifactCycle: that build waits for the requester, directly or through other builds.
        PoundlockError: the build failed; every waiter gets the same error.
    """
    flight = slot.flight
    if flight is None:
        raise cycle_error(slot, requester)
    waiting, through = _waiting_build(requester)
    if waiting is not None:
        if _wait_path(flight, waiting):
            raise cycle_error(slot, requester)
        waiting.waits.setdefault(flight, []).append(through)
    waiter = asyncio.get_running_loop().create_future()
    flight.waiters.add(waiter)
    try:
        await waiter
    finally:
        flight.waiters.discard(waiter)
        if waiting is not None:
            waiting.waits[flight].remove(through)
            if not waiting.waits[flight]:
                del waiting.waits[flight]
        if not flight.waiters and slot.flight is flight:
            _abandon(flight)
    if flight.error is not None:
        # All waiters get one error object; its traceback must not grow with each of them.
        raise flight.error.with_traceback(None)


def _abandon(flight: Flight) -> None:
    flight.abandoned = True
    if flight.slot.cancelled is not None:
        flight.slot.cancelled.set()
    flight.task.cancel()


async def _run_build(flight: Flight, awaitable: Awaitable[Any] | None) -> None:
    """The task of one build: build, then wake the waiters."""
    slot = flight.slot
    node, started = slot.node, slot.node.clock.monotonic()
    _current.set(flight)
    announce(node, "build:start", slot.name)
    while True:
        error: BaseException | None = None
        try:
            instance = await _build(slot, awaitable)
        except BaseException as raised:  # noqa: BLE001 - the waiters get it; user code must not end this task
            error = raised
        if node.closed:
            error = explain.disposed(node)
        if error is None:
            publish(slot, instance, started)
            break
        with suppress(asyncio.CancelledError):  # this task ends right below in any case
            await discard(slot)
        if flight.abandoned and not node.closed:
            if flight.waiters:  # a new request came while the cancelled build was ending
                flight.abandoned = False
                flight.task.uncancel()
                awaitable = None
                continue
            slot.status = EMPTY
            break
        flight.error = fail(slot, error, started)
        break
    _finish(flight)


def _finish(flight: Flight) -> None:
    slot = flight.slot
    slot.flight = slot.requester = None
    if slot.node.flights is not None:
        del slot.node.flights[slot]
    for waiter in flight.waiters:
        if not waiter.done():
            waiter.set_result(None)


async def build_alone(slot: Slot, requester: Slot | Node, awaitable: Awaitable[Any] | None = None) -> Any:
    """Build a transient in the task of its requester, because it is not shared."""
    node, started = slot.node, slot.node.clock.monotonic()
    _check_not_within(slot, requester)
    slot.status = BUILDING
    slot.requester = requester
    announce(node, "build:start", slot.name)
    try:
        instance = await _build(slot, awaitable)
    except BaseException as error:
        failure = error if isinstance(error, asyncio.CancelledError) else fail(slot, error, started)
        await discard(slot)
        if failure is error:
            raise
        raise failure from error
    publish(slot, instance, started)
    return instance


# ---------------------------------------------------------------------------------------------------- attempts
async def _build(slot: Slot, awaitable: Awaitable[Any] | None) -> Any:
    """Build until the state that was read is current at the end. Restarts at most once per change."""
    await graph.wait_until_cleaned(slot)
    for _ in range(STALE_LIMIT):
        try:
            instance = await _build_with_retries(slot, awaitable)
        except Exception:
            if not slot.stale:  # a failure on outdated state says nothing about the current state
                raise
        else:
            if not slot.stale:
                return instance
        awaitable = None
        await discard(slot)
    raise explain.never_settles(slot, STALE_LIMIT)


async def _build_with_retries(slot: Slot, awaitable: Awaitable[Any] | None) -> Any:
    retry = slot.recipe.retry
    attempt = 1
    while True:
        try:
            return await _attempt(slot, awaitable)
        except Exception as error:
            if retry is None or attempt >= retry.attempts or not worth_another(retry, error):
                raise
            await discard(slot)
        awaitable = None
        await sleep_for(slot.node.clock, delay_before(retry, attempt))
        attempt += 1


async def _attempt(slot: Slot, awaitable: Awaitable[Any] | None) -> Any:
    arguments = await _arguments(slot) if awaitable is None else {}
    limit = slot.recipe.timeout
    if limit is None:
        return await _make(slot, arguments, awaitable)
    span = seconds(limit)
    scope = timeout_after(slot.node.clock, span)
    try:
        async with scope:
            return await _make(slot, arguments, awaitable)
    except TimeoutError as error:
        if not scope.expired:
            raise
        raise explain.timed_out(slot, span) from error


async def _arguments(slot: Slot) -> dict[str, Any]:
    arguments = {}
    for need in slot.recipe.needs:
        if need.optional and slot.node.find(need.key) is None:
            continue
        arguments[need.param] = await slot.node.obtain(need.key, None, slot)
    return arguments


async def _make(slot: Slot, arguments: dict[str, Any], awaitable: Awaitable[Any] | None) -> Any:
    made = awaitable if awaitable is not None else call(slot, arguments)
    instance = await made if hasattr(made, "__await__") else made
    check_product(slot, instance)
    return instance


# ----------------------------------------------------------------------------------------------------- cycles
def current_flight() -> Flight | None:
    """Return the build that runs in the current task; a task started by a factory does not count."""
    flight = _current.get()
    return flight if flight is not None and asyncio.current_task() is flight.task else None


def flight_of(requester: Slot | Node | None) -> Flight | None:
    """Return the build in flight that is blocked while `requester` waits."""
    return _waiting_build(requester)[0]


def _waiting_build(requester: Slot | Node | None) -> tuple[Flight | None, tuple[Slot, ...]]:
    """Return that build, and the transients that lead from it to `requester`."""
    through: list[Slot] = []
    for each in explain.requesters(requester):
        if each.flight is not None:
            return each.flight, tuple(through[::-1])
        through.append(each)
    return None, ()


def _wait_path(start: Flight, goal: Flight) -> list[Slot]:
    """Return the path of waiting builds from `start` to `goal`, both included; empty if there is none."""
    came_from: dict[Flight, Flight] = {}
    todo = [start]
    while todo:
        flight = todo.pop()
        if flight is goal:
            way = [flight.slot]
            while flight is not start:
                before = came_from[flight]
                way[:0] = (before.slot, *before.waits[flight][0])
                flight = before
            return way
        for other in flight.waits:
            if other not in came_from and other is not start:
                came_from[other] = flight
                todo.append(other)
    return []


def cycle_error(slot: Slot, requester: Slot | Node | None, through: Sequence[Slot] = ()) -> ArtifactCycle:
    """Return the error for a request for `slot`, which waits for `requester`; the path begins and ends with `slot`.

    Args:
        slot: the requested artifact.
        requester: the artifact or container that requests it.
        through: the artifacts between `requester` and `slot`, if `requester` does not need it directly.
    """
    between: list[Slot] = []
    for each in explain.requesters(requester):
        if each is slot:
            break
        between.insert(0, each)
        if slot.flight is not None and each.flight is not None:
            # From here on builds wait for each other, perhaps across tasks.
            between[:1] = _wait_path(slot.flight, each.flight)[1:]
            break
    return explain.cycle([each.name for each in (slot, *between, *through, slot)])


def _check_not_within(slot: Slot, requester: Slot | Node | None) -> None:
    """Raise if a transient needs itself. Transients share no slot, so no other check finds this."""
    names = [slot.name]
    for each in explain.requesters(requester):
        names.append(each.name)
        if each.recipe is slot.recipe and each.node is slot.node:
            raise explain.cycle(names[::-1])
