"""Sinks: other places that get the entries of all runs of a runtime, behind their commits.

House rules: best effort. A sink never delays a run and never fails one: what waits for it is bounded, and beyond that
entries are dropped and counted. A sink is user code: it may raise, hang or block, and concerns nobody else.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from typing import Any, Final, Protocol

from poundlock.callables import is_coroutine_function
from poundlock.clock import Clock, timeout_after
from poundlock.errors import HookTimeout, InvalidDefinition
from poundlock.guard import Answer, call_now, call_within, log_text, repr_of
from poundlock.model.definitions import several
from poundlock.model.runs import LogRow
from poundlock.model.timeline import read_entries
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.pipeline.threads import StepThreads

log = logging.getLogger("poundlock.runtime")

MOST_FOR_SINK: Final = 10_000
"""Commits of runs that wait for one sink at most."""
_PORTION: Final = 64
"""Commits of one run that a sink gets with one call at most."""

Write = Callable[[str, Sequence[TimelineEntry]], Any]


Hide = Callable[[str, list[TimelineEntry]], Awaitable[list[TimelineEntry]]]


class Writer(Protocol):
    """An object that takes entries."""

    @property
    def write(self) -> Write:
        """Takes the id of a run, and some of its entries, in order."""


Sink = Write | Writer


def checked_sinks(sinks: Iterable[Any]) -> list[Any]:
    """Return sinks as a list.

    Raises:
        InvalidDefinition: one can neither be called nor has a method `write`.
    """
    found = list(several(sinks))
    for place, sink in enumerate(found):
        if not callable(getattr(sink, "write", None)) and not callable(sink):
            raise InvalidDefinition(
                f"sinks[{place}] is {repr_of(sink, 60)}: give a function of (run_id, entries), or an object with "
                f"such a method `write`",
                path=f"sinks.{place}",
            )
    return found


class SinkQueue:
    """One sink, and what waits for it.

    Args:
        sink: a function of (run_id, entries), async or not, or an object with such a method `write`.
        clock: measures how long a call takes.
        count: counts dropped and failed entries for `statistics`.
        patience: seconds that one call may take.
        hide: returns entries of a run as they are shown.
    """

    def __init__(
        self,
        sink: Any,
        clock: Clock,
        count: Callable[[str, int], None],
        patience: float,
        hide: Hide,
    ) -> None:
        self._hide = hide
        method = getattr(sink, "write", None)
        self._write: Write = method if callable(method) else sink
        self._is_async = is_coroutine_function(self._write)
        self._clock = clock
        self._count = count
        self._patience = patience
        self._rows: deque[tuple[str, LogRow]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._calls: set[asyncio.Task[Any]] = set()
        self._threads = StepThreads(clock, limit=1)
        self._said_failed = self._said_dropped = self._closed = False

    def put(self, run_id: str, row: LogRow) -> None:
        """Pass on what a commit has written."""
        if self._closed or len(self._rows) >= MOST_FOR_SINK:
            self._drop(row.size)
            return
        self._rows.append((run_id, row))
        if self._task is None:
            self._start()

    def _start(self) -> asyncio.Task[None]:
        # In a context of its own: it serves all runs, and is inside none.
        make = asyncio.get_running_loop().create_task
        task = self._task = Context().run(make, self._drain(), name="poundlock-sink")
        return task

    async def close(self, grace: float) -> None:
        """Write what waits, for up to `grace` seconds; the rest is dropped."""
        task, self._closed = self._task, True
        if task is None and self._rows:
            task = self._start()  # somebody had cancelled it
        if task is not None:
            limit = timeout_after(self._clock, grace)
            try:
                async with limit:
                    await asyncio.wait([task])
            except TimeoutError:
                log.warning("sink %s did not take everything within %g s of the stop", repr_of(self._write, 60), grace)
            finally:
                task.cancel()
        left = sum(row.size for _, row in self._rows)
        self._rows.clear()
        if left:
            self._drop(left)
        self._threads.close()

    async def _drain(self) -> None:
        try:
            while self._rows:
                run_id, row = self._rows.popleft()
                rows = [row]
                while self._rows and self._rows[0][0] == run_id and len(rows) < _PORTION:
                    rows.append(self._rows.popleft()[1])
                size = sum(row.size for row in rows)
                try:
                    shown = await self._hide(run_id, read_entries(rows))
                except Exception as error:  # noqa: BLE001 - one damaged row must not end it
                    answer = Answer(None, error)  # rather none than with what is hidden
                else:
                    answer = await self._call(run_id, shown)
                if answer.error is not None:
                    self._failed(answer.error, size)
        finally:
            self._task = None

    async def _call(self, run_id: str, entries: list[TimelineEntry]) -> Answer:
        if self._is_async:
            return await self._within(self._write, run_id, entries)
        limit = timeout_after(self._clock, self._patience)
        try:
            async with limit:
                answer: Answer = await self._threads.call(call_now, (self._write, run_id, entries), {})
        except TimeoutError:
            return Answer(None, HookTimeout(f"it took longer than {self._patience:g} s: its thread is left behind"))
        if answer.error is None and inspect.isawaitable(answer.value):
            return await self._within(lambda: answer.value)
        return answer

    async def _within(self, function: Callable[..., Any], *args: Any) -> Answer:
        return await call_within(self._patience, function, *args, clock=self._clock, keep=self._keep)

    def _keep(self, task: asyncio.Task[Any]) -> None:
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    def _failed(self, error: BaseException, entries: int) -> None:
        self._count("sinks:failed", entries)
        if not self._said_failed:
            self._said_failed = True
            what = repr_of(self._write, 60)
            log.error("sink %s failed; further failures are only counted\n%s", what, log_text(error))

    def _drop(self, entries: int) -> None:
        self._count("sinks:dropped", entries)
        if not self._said_dropped:
            self._said_dropped = True
            log.warning("sink %s is too slow; entries are dropped, and counted", repr_of(self._write, 60))
