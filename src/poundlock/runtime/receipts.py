"""Receipt: the answer to `emit`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from poundlock.model.drafts import maker_of
from poundlock.model.durations import Duration
from poundlock.model.events import Event
from poundlock.model.receipts import ReceiptLine, Verdict
from poundlock.model.runs import RunResult
from poundlock.records import dataclass, field

MAKES_A_RUN = frozenset({Verdict.STARTED, Verdict.QUEUED, Verdict.REPLACED})
"""Verdicts of lines whose run was created by the event."""

_HAS_RESULT = MAKES_A_RUN | {Verdict.RESUMED}

Gather = Callable[[list[str], Duration | None], Awaitable[list[RunResult]]]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of an event. Iterating over it gives its lines.

    Attributes:
        accepted: the event as it was accepted, time stamped; shared: do not change it. See `event`.
        lines: one per trigger whose type fits, and one per run with a fitting wait.
    """

    accepted: Event
    lines: tuple[ReceiptLine, ...]
    _gather: Gather | None = field(default=None, repr=False, compare=False)

    @property
    def event(self) -> Event:
        """The event as it was accepted, with its own copy of the payload."""
        return self.accepted.detached()

    @property
    def run_ids(self) -> list[str]:
        """The runs this event started, queued, signalled or resumed, in line order, each once."""
        return list(dict.fromkeys(line.run_id for line in self.lines if line.run_id is not None))

    @property
    def verdicts(self) -> list[Verdict]:
        """The lines' verdicts in order."""
        return [line.verdict for line in self.lines]

    async def results(self, timeout: Duration | None = None) -> list[RunResult]:
        """Return the results of the runs this event started, queued or resumed, in line order.

        Each at its next pause or its end.

        Raises:
            TimeoutError: not all are paused or have ended within `timeout`; the runs are unchanged.
        """
        run_ids = [line.run_id for line in self.lines if line.verdict in _HAS_RESULT and line.run_id is not None]
        return [] if self._gather is None else await self._gather(run_ids, timeout)

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain data."""
        return {
            "event": {"id": self.accepted.id, "type": self.accepted.type, "source": self.accepted.source},
            "lines": [line.to_dict() for line in self.lines],
        }

    def __repr__(self) -> str:
        """Return it as text. The payload is left out, because what is sensitive in it is known to workflows alone."""
        event = self.accepted
        return f"Receipt(accepted=<event type={event.type!r} id={event.id!r}>, lines={self.lines!r})"

    def __iter__(self) -> Iterator[ReceiptLine]:
        return iter(self.lines)


new_receipt: Final = maker_of(Receipt)
"""Makes a receipt from all its fields, by place, in a third of the time."""
