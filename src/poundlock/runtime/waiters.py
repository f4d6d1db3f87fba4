"""Callers that wait for a run, across its pauses and its owners."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from poundlock.codecs import detach
from poundlock.guard import call_now
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunResult
from poundlock.model.views import StateView
from poundlock.records import dataclass

Waiter = asyncio.Future[RunResult]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A wait of a run's code for another run.

    Attributes:
        run_id: which run.
        pair: the (workflow, key) whose slot it needs, if it was queued when the wait began.
        active: how many runs held a slot of that pair then.
        bounded: whether the wait has a timeout.
        since: the stage, and which visit of it, at which the waiting run began to wait.
        way: how it waits for the run that wants to wait for it, itself first, if that is below it.
    """

    run_id: str
    pair: tuple[str, str] | None = None
    active: int = 0
    bounded: bool = False
    since: tuple[str | None, int] | None = None
    way: tuple[str, ...] = ()


class Waiters:
    """Futures of results, by run: some are done at a pause, others at the end only."""

    def __init__(self) -> None:
        self._rest: dict[str, list[Waiter]] = {}
        self._end: dict[str, list[Waiter]] = {}
        self._closed: BaseException | None = None

    def rest(self, run_id: str) -> Waiter:
        """Return a future of the run's result at its next pause or its end."""
        return self._add(self._rest, run_id)

    @contextmanager
    def waiting(self, run_id: str, *, pauses_count: bool) -> Iterator[Waiter]:
        """Yield a future of the result; it is dropped when the block is left early."""
        group = self._rest if pauses_count else self._end
        waiter = self._add(group, run_id)
        try:
            yield waiter
        finally:
            _remove(group, run_id, waiter)

    def end(self, run_id: str) -> Waiter:
        """Return a future of the run's result at its end."""
        return self._add(self._end, run_id)

    def forget(self, run_id: str, waiter: Waiter) -> None:
        """Drop a future from `rest` or `end` that is not awaited any more."""
        _remove(self._rest, run_id, waiter)
        _remove(self._end, run_id, waiter)

    def has_waiters(self, run_id: str) -> bool:
        """Whether a caller waits for a run."""
        return run_id in self._rest or run_id in self._end

    def answer(self, result: RunResult) -> None:
        """Complete the futures that this result answers: a pause some, an end all, other results none."""
        ended = result.status.terminal
        if self._rest and (ended or result.status is RunStatus.PAUSED):
            resolve(self._rest.pop(result.run_id, ()), result)
        if self._end and ended:
            resolve(self._end.pop(result.run_id, ()), result)

    def set_aside(self, run_id: str) -> list[Waiter]:
        """Take out the futures of a run: they are answered with what it has come to by now, and not later."""
        return [*self._rest.pop(run_id, ()), *self._end.pop(run_id, ())]

    def fail(self, run_id: str, error: BaseException) -> None:
        """Notify those who wait for a run that this runtime cannot continue it."""
        give_up(self.set_aside(run_id), error)

    def close(self, error: BaseException) -> None:
        """Fail all futures, present and future ones: there will be no answer."""
        self._closed = error
        for run_id in {*self._rest, *self._end}:
            self.fail(run_id, error)

    def _add(self, group: dict[str, list[Waiter]], run_id: str) -> Waiter:
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if run_id in group:
            group[run_id].append(waiter)
        else:
            group[run_id] = [waiter]
        if self._closed is not None:
            self.fail(run_id, self._closed)
        return waiter


def _remove(group: dict[str, list[Waiter]], run_id: str, waiter: Waiter) -> None:
    waiters = group.get(run_id)
    if waiters is not None and waiter in waiters:
        waiters.remove(waiter)
        if not waiters:
            del group[run_id]


def give_up(waiters: Sequence[Waiter], error: BaseException) -> None:
    """Complete futures with an error."""
    for waiter in waiters:
        if not waiter.done():
            waiter.set_exception(error)
            waiter.exception()  # a future that is not awaited any more must not cause a warning


def resolve(waiters: Sequence[Waiter], result: RunResult) -> None:
    """Complete futures with a result, each with its own copy."""
    answered = False
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(own_copy(result) if answered else result)
            answered = True


def own_copy(result: RunResult) -> RunResult:
    """Return a copy of a result that shares nothing mutable; never raises, whatever the state's model does."""
    return replace(result, state=_copied(result.state), result=detach(result.result))


def _read_back(state: Any) -> Any:
    data = state.model_dump(by_alias=False, exclude_computed_fields=True)
    return type(state).model_validate(data, by_alias=True, by_name=True)


def _copied(state: Any) -> Any:
    """Copy a state as users see it: a model by `model_copy`, else by validating it again, else as a plain mapping."""
    if not hasattr(state, "model_copy"):
        return state  # a read-only view
    for copy in (lambda: state.model_copy(deep=True), lambda: _read_back(state)):
        answer = call_now(copy)
        if answer.error is None:
            return answer.value
    answer = call_now(lambda: StateView(detach(state.model_dump())))
    return answer.value if answer.error is None else state
