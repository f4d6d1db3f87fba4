"""Run steps of several tasks in an order that the test chooses, without sleeping."""

from __future__ import annotations

import asyncio
from types import TracebackType

__all__ = ["BrokenSequence", "Sequencer"]


class BrokenSequence(RuntimeError):
    """A step was entered twice, or an earlier one failed or was cancelled, so the order cannot be kept."""


class Sequencer:
    """Numbered steps in several tasks, entered one after another.

    ```python
    turn = Sequencer()

    async def reader():
        async with turn(0):
            read()
        async with turn(2):
            read()

    async def writer():
        async with turn(1):
            write()
    ```

    Step n is entered when step n - 1 has been left. Numbers start at 0, and each is used once.
    """

    def __init__(self) -> None:
        self._next = 0
        self._used: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._broken = ""

    def __call__(self, step: int) -> _Turn:
        """Return the step of this number, for `async with`."""
        return _Turn(self, step)

    async def enter(self, step: int) -> None:
        """Wait for this step's turn.

        Raises:
            BrokenSequence: the step was used before, or the order is broken.
        """
        if self._broken:
            raise BrokenSequence(self._broken)
        if step in self._used:
            raise BrokenSequence(f"step {step} was entered twice: use each number once")
        self._used.add(step)
        if step == self._next:
            return
        turn = self._waiting[step] = asyncio.get_running_loop().create_future()
        try:
            await turn
        except asyncio.CancelledError:
            self.leave(step, f"step {step} was cancelled while it waited for its turn")
            raise
        finally:
            self._waiting.pop(step, None)

    def leave(self, step: int, broken: str = "") -> None:
        """Start the next step; `broken` says why the order cannot be kept, if so."""
        if broken:
            self._broken = self._broken or broken
            for turn in self._waiting.values():
                if not turn.done():
                    turn.set_exception(BrokenSequence(self._broken))
            return
        self._next = step + 1
        following = self._waiting.get(self._next)
        if following is not None and not following.done():
            following.set_result(None)


class _Turn:
    __slots__ = ("_sequencer", "_step")

    def __init__(self, sequencer: Sequencer, step: int) -> None:
        self._sequencer = sequencer
        self._step = step

    async def __aenter__(self) -> None:
        await self._sequencer.enter(self._step)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sequencer.leave(self._step, "" if kind is None else f"step {self._step} ended with {kind.__name__}")
