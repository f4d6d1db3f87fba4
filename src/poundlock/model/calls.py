"""Calls of models that steps have recorded: what they took, summed per stage and run.

A run that goes on keeps its sums in a row of its waits, one that has ended in its outcome; so nobody has to read its
log for them. Values and pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import dump, load
from poundlock.model.runs import CALLS_WAIT, RunRecord, WaitRow
from poundlock.records import NamedTuple

_KEY: Final = "calls"
_MARK: Final = f'"{_KEY}":'


class Usage(NamedTuple):
    """What some calls took together. `cost` is in the currency of whoever records it."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: float = 0.0

    def plus(self, other: Usage) -> Usage:
        """Return both together."""
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost + other.cost,
        )


def added(sums: Mapping[str, Any] | None, stage_id: str, usage: Usage) -> dict[str, Any]:
    """Return a run's sums with the usage of a stage added; None: it has none yet. They are as users see them."""
    stages = {} if sums is None else sums["stages"]
    whole = usage if sums is None else _of(sums).plus(usage)
    of_stage = usage if stage_id not in stages else _of(stages[stage_id]).plus(usage)
    return {**whole._asdict(), "stages": {**stages, stage_id: of_stage._asdict()}}


def _of(sums: Mapping[str, Any]) -> Usage:
    return Usage(sums["calls"], sums["input_tokens"], sums["output_tokens"], sums["cost"])


def sums_in(waits: Sequence[WaitRow]) -> Mapping[str, Any] | None:
    """Return the sums that a run keeps in its waits, if any."""
    for row in waits:
        if row.wait_id == CALLS_WAIT and isinstance(row.patch, Mapping):
            return row.patch
    return None


def with_sums(outcome: str | None, sums: Mapping[str, Any] | None) -> str | None:
    """Return the outcome of a run that ends, with its sums."""
    if sums is None:
        return outcome
    return f"{{{_MARK}{dump(sums)}}}" if outcome is None else f"{outcome[:-1]},{_MARK}{dump(sums)}}}"


def sums_of(record: RunRecord) -> dict[str, Any] | None:
    """Return the sums of a stored run, if any; the caller's own."""
    outcome = record.head.outcome
    sums = sums_in(record.waits)
    if sums is None and outcome is not None and _MARK in outcome:
        sums = load(outcome).get(_KEY)
    return None if sums is None else own(sums)


def own(sums: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of sums that may be changed."""
    return {**sums, "stages": {stage_id: dict(usage) for stage_id, usage in sums["stages"].items()}}
