"""A command that stays until it is stopped, and what is said of the times it waits for."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from poundlock.cli.faults import INTERRUPTED, TERMINATED
from poundlock.model.moments import utc_text
from poundlock.model.workflow_definition import WorkflowDefinition


class Stop:
    """What SIGINT and SIGTERM do: they interrupt the work, or, while it only stays, tell it to come to its end."""

    def __init__(self) -> None:
        self._staying: asyncio.Event | None = None
        self._received: list[int] = []

    async def until_told(self) -> None:
        """Stay until the first signal; a second one interrupts what is done after that."""
        self._staying = asyncio.Event()
        try:
            await self._staying.wait()
        finally:
            self._staying = None

    async def around(self, work: Coroutine[Any, Any, int]) -> int:
        """Do the work and return its exit code, or that of the signal that interrupted it."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - asyncio.run made one
        loop = asyncio.get_running_loop()
        for number, code in ((signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)):
            try:
                loop.add_signal_handler(number, self._signalled, code, task.cancel)
            except (NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
                continue
        try:
            return await work
        except asyncio.CancelledError:
            if not self._received:
                raise
            while task.cancelling():
                task.uncancel()
            print("poundlock: interrupted; on the same store the same command continues from here", file=sys.stderr)
            return self._received[0]

    def _signalled(self, code: int, cancel: Callable[[], object]) -> None:
        if self._staying is not None:
            self._staying.set()
            return
        self._received.append(code)
        cancel()


def has_times(definitions: Iterable[WorkflowDefinition]) -> bool:
    """Whether any of these workflows has a time trigger."""
    triggers = (trigger for definition in definitions for trigger in definition.triggers.values())
    return any(trigger.cron is not None or trigger.every is not None for trigger in triggers)


def next_time(definitions: Iterable[WorkflowDefinition], now: float) -> str:
    """Return a sentence about the earliest time of the time triggers of these workflows; "" if there is none."""
    from poundlock.model.cron import schedule_of

    times = []
    for definition in definitions:
        for trigger_id, trigger in definition.triggers.items():
            schedule = schedule_of(trigger)
            time = None if schedule is None else schedule.after(now)
            if time is not None:
                times.append((time, f"{definition.id}/{trigger_id}"))
    if not times:
        return ""
    time, name = min(times)
    return f"the next time is {utc_text(time)} ({name})"
