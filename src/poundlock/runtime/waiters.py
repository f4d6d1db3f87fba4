"""Who waits for which run, across its pauses and whoever drives it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from poundlock.codecs import detach
from poundlock.guard import call_now
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import RunResult
from poundlock.model.views import StateView

Waiter = asyncio.Future[RunResult]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A run that somebody waits for.

    Attributes:
        run_id: which run.
        pair: the (workflow, key) whose slot it needs, if it was queued when the wait began.
        active: how many runs held a slot of that pair then.
        bounded: whether the wait ends after a time, whatever the run does.
        since: where the run that waits stood when it began to: a stage, and which visit of it.
    """

    run_id: str
    pair: tuple[str, str] | None = None
    active: int = 0
    bounded: bool = False
    since: tuple[str | None, int] | None = None


class Waiters:
    """Futures of results, by run: some are content with a pause, others wait for the end."""

    def __init__(self) -> None:
        self._rest: dict[str, list[Waiter]] = {}
        self._end: dict[str, list[Waiter]] = {}
        self._closed: BaseException | None = None

    def rest(self, run_id: str) -> Waiter:
        """Return a future of the run's result at its next pause or its end."""
        return self._add(self._rest, run_id)

    @contextmanager
    def waiting(self, run_id: str, *, pauses_count: bool) -> Iterator[Waiter]:
        """Give a future for as long as the block lasts; left early, nobody waits any more."""
        group = self._rest if pauses_count else self._end
        waiter = self._add(group, run_id)
        try:
            yield waiter
        finally:
            _remove(group, run_id, waiter)

    def forget(self, run_id: str, waiter: Waiter) -> None:
        """Let go of a future that `rest` gave: whoever wanted it went away."""
        _remove(self._rest, run_id, waiter)

    def anybody(self, run_id: str) -> bool:
        """Whether anybody waits for a run."""
        return run_id in self._rest or run_id in self._end

    def answer(self, result: RunResult) -> None:
        """Answer those whom this result answers: a pause some, an end all, anything else nobody."""
        ended = result.status.terminal
        if self._rest and (ended or result.status is RunStatus.PAUSED):
            _resolve(self._rest.pop(result.run_id, ()), result)
        if self._end and ended:
            _resolve(self._end.pop(result.run_id, ()), result)

    def fail(self, run_id: str, error: BaseException) -> None:
        """Tell those who wait for a run that this runtime cannot drive it on."""
        for group in (self._rest, self._end):
            for waiter in group.pop(run_id, ()):
                if not waiter.done():
                    waiter.set_exception(error)
                    waiter.exception()  # one that nobody awaits any more must not leave a warning behind

    def close(self, error: BaseException) -> None:
        """Tell all that nobody will answer, also those who come later."""
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


def _resolve(waiters: list[Waiter] | tuple[()], result: RunResult) -> None:
    answered = False
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(own_copy(result) if answered else result)
            answered = True


def own_copy(result: RunResult) -> RunResult:
    """Return a result that shares nothing mutable with the original; never raises, whatever the state's model does."""
    return replace(result, state=_copied(result.state), result=detach(result.result))


def _read_back(state: Any) -> Any:
    data = state.model_dump(by_alias=False, exclude_computed_fields=True)
    return type(state).model_validate(data, by_alias=True, by_name=True)


def _copied(state: Any) -> Any:
    """Copy a state as users see it: a model as one, else by validating it anew, else as a plain mapping."""
    if not hasattr(state, "model_copy"):
        return state  # a view, which nobody can change
    for copy in (lambda: state.model_copy(deep=True), lambda: _read_back(state)):
        answer = call_now(copy)
        if answer.error is None:
            return answer.value
    answer = call_now(lambda: StateView(detach(state.model_dump())))
    return answer.value if answer.error is None else state
