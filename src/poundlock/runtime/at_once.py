"""Begin a coroutine and see whether it has to wait: only then does anything have to be prepared for the wait.

A store in memory answers without waiting, so that nobody can see what is in flight; noting it all the same took a tenth
of an event's admission.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Unfinished(Generic[T]):
    """The rest of a coroutine that has begun, and waits for something. It is awaited once, and before anything else."""

    __slots__ = ("_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], waits_for: Any) -> None:
        self._work = work
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, T]:
        # What `await` does, from the second step on.
        work, waits_for = self._work, self._waits_for
        try:
            while True:
                try:
                    came = yield waits_for
                except BaseException as error:  # noqa: BLE001 - a cancellation, for the work to handle
                    waits_for = work.throw(error)
                else:
                    waits_for = work.send(came)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # the result of the work


def begin(work: Coroutine[Any, Any, T]) -> T | Unfinished[T]:
    """Do a coroutine's work up to its first wait; returns its result if there is none, else the rest.

    Raises what the work raises until then.
    """
    try:
        waits_for = work.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]  # the result of the work
    return Unfinished(work, waits_for)
