"""What the steps of a run report besides their results: how far they are, and which calls of models they made.

House rules: a run whose steps report nothing has no `Reports`. Progress lives in memory and may be reported from any
thread, thousands of times: only the last one of each step is kept. Calls are counted on the event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any, Final

from poundlock.codecs import clean, dump, pack_data
from poundlock.errors import NotStorable
from poundlock.guard import call_now, shortened
from poundlock.model.calls import Usage, added, sums_in
from poundlock.model.quoting import shown
from poundlock.model.runs import CALLS_WAIT, StepProgress, WaitRow, own_row

LONGEST_TEXT: Final = 2000
"""Characters of a prompt, an answer or a detail that are kept of a recorded call."""
MOST_TEXTS: Final = 1000
"""Calls recorded by one attempt that are kept with their texts: they are in memory until the attempt ends."""
LONGEST_MESSAGE: Final = 1000
"""Characters of a message of progress that are kept."""


class Reports:
    """What the steps of one run have reported.

    Attributes:
        calls: sums of the calls that were recorded, as users see them; None if there were none.
    """

    __slots__ = ("_entered_at", "_guard", "_row", "_shown", "calls")

    def __init__(self, calls: Mapping[str, Any] | None = None) -> None:
        self.calls = calls
        self._row: WaitRow | None = None
        self._entered_at = 0
        self._shown: dict[str, StepProgress] = {}
        self._guard = threading.Lock()

    @classmethod
    def kept_in(cls, waits: Sequence[WaitRow]) -> Reports | None:
        """Return what a stored run has kept; None if it is nothing."""
        sums = sums_in(waits)
        return None if sums is None else cls(sums)

    def count(self, stage_id: str, usage: Usage) -> None:
        """Add a call."""
        self.calls = added(self.calls, stage_id, usage)
        self._row = None

    def keep_in(self, waits: tuple[WaitRow, ...], epoch: int) -> tuple[WaitRow, ...]:
        """Return a run's waits with its sums, the same tuple if it has them; `epoch` is that of a new row."""
        if self.calls is None:
            return waits
        if self._row is None:
            self._row = own_row(CALLS_WAIT, epoch=epoch, on_timeout="", patch=self.calls)
        if any(row is self._row for row in waits):
            return waits
        return (*(row for row in waits if row.wait_id != CALLS_WAIT), self._row)

    def show(self, entered_at: int, path: str, progress: StepProgress) -> None:
        """Show how far a step is, in place of what it said before; a sign of life leaves that as it was.

        Args:
            entered_at: tells visits of stages apart: what steps of another one said is over.
            path: of the step.
            progress: what it says.
        """
        with self._guard:
            known = self._shown if self._entered_at == entered_at else {}
            before = known.get(path)
            if progress.done is None and before is not None:
                progress = StepProgress(
                    before.stage, before.step, before.done, before.of, before.message, progress.time
                )
            self._shown = {**known, path: progress}
            self._entered_at = entered_at

    def at(self, entered_at: int) -> tuple[StepProgress, ...]:
        """Return how far the steps of this visit are."""
        with self._guard:
            return tuple(self._shown.values()) if self._entered_at == entered_at else ()


def progress_of(stage: str, step: str, done: Any, of: Any, message: Any, now: float) -> StepProgress:
    """Return a checked report of progress.

    Raises:
        NotStorable: `done` or `of` is no finite number, or the message is no text.
    """
    if not isinstance(message, str):
        raise NotStorable(f"the message of a progress is {shown(message)}: give a text", path="message")
    told = shortened(clean(message), LONGEST_MESSAGE) if message else ""
    return StepProgress(stage, step, _number("done", done), None if of is None else _number("of", of), told, now)


def entry_of(progress: StepProgress) -> str:
    """Return the payload of its entry in the timeline."""
    return dump({"done": progress.done, "of": progress.of, "message": progress.message})


def usage_of(input_tokens: Any, output_tokens: Any, cost: Any) -> Usage:
    """Return what a call took; None counts as nothing.

    Raises:
        NotStorable: a number is none, or below zero.
    """
    spent = _number("cost", 0.0 if cost is None else cost)
    if spent < 0:
        raise NotStorable(f"cost is {shown(cost)}: give a number from 0", path="cost")
    return Usage(1, _whole("input_tokens", input_tokens), _whole("output_tokens", output_tokens), float(spent))


def call_entry(model: Any, usage: Usage, attempt: int, prompt: Any, answer: Any, details: Mapping[str, Any]) -> str:
    """Return the payload of a call's entry in the timeline; long texts are cut, and say how much is missing.

    Raises:
        NotStorable: a value is not data; `path` names it.
    """
    if not isinstance(model, str):
        raise NotStorable(f"model is {shown(model)}: give its name", path="model")
    payload: dict[str, Any] = {"model": shortened(clean(model), LONGEST_TEXT)}
    payload |= {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens, "cost": usage.cost}
    if attempt > 1:
        payload["attempt"] = attempt
    if prompt is not None:
        payload["prompt"] = _cut(prompt, "prompt")
    if answer is not None:
        payload["answer"] = _cut(answer, "answer")
    if details:
        payload["details"] = {name: _cut(value, name) for name, value in details.items()}
    return dump(payload)


def _cut(value: Any, path: str) -> Any:
    """Return a value that may be long: a text is cut, and so is the JSON text of other data."""
    if isinstance(value, str):
        return shortened(clean(value), LONGEST_TEXT)
    data, text = pack_data(value, path)
    return data if len(text) <= LONGEST_TEXT else shortened(text, LONGEST_TEXT)


def _whole(name: str, value: Any) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise NotStorable(f"{name} is {shown(value)}: give a whole number from 0", path=name)
    return int(value)


def _number(name: str, value: Any) -> float:
    numeric = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if numeric and call_now(isfinite, value).value:  # it raises for an int beyond the range of floats
        number: float = float(value) if isinstance(value, Decimal) else value
        return number
    raise NotStorable(f"{name} is {shown(value)}: give a finite number", path=name)
