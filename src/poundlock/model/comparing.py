"""Two runs side by side: how far they went the same way, and what is different in their states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poundlock.model.replaying import StateDiff, States, diff_of
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two runs differ. It is true if they do; as text it says where, and a line per value.

    Attributes:
        a, b: ids of the two runs.
        common: ids of the stages that both entered, in order, until their ways part.
        only_a, only_b: the stages that each entered behind those.
        differs_at: the first of the common stages that began with different states; None if there is none.
        state: what leads from the state of `a` to that of `b`, both as they are at the end of the timelines.
    """

    a: str
    b: str
    common: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    differs_at: str | None
    state: StateDiff

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.differs_at is not None or self.state)

    def __str__(self) -> str:
        lines = [f"both entered: {', '.join(self.common) or 'no stage'}"]
        for run_id, stages in ((self.a, self.only_a), (self.b, self.only_b)):
            if stages:
                lines.append(f"only {run_id} entered: {', '.join(stages)}")
        if self.differs_at is not None:
            lines.append(f"the states differ from stage '{self.differs_at}' on")
        lines += [str(self.state)] if self.state else ["the states at the end are the same"]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return it as data that `json.dumps` takes."""
        return {
            "a": self.a,
            "b": self.b,
            "common": list(self.common),
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "differs_at": self.differs_at,
            "state": self.state.to_dict(),
        }


def compared(a: str, states_a: States, b: str, states_b: States) -> Comparison:
    """Return how two runs differ, by their ids and their states."""
    starts_a, starts_b = _starts(states_a.entries), _starts(states_b.entries)
    common: list[str] = []
    differs_at: str | None = None
    for (stage, seq_a), (other, seq_b) in zip(starts_a, starts_b, strict=False):
        if stage != other:
            break
        common.append(stage)
        if differs_at is None and diff_of(states_a.at(seq_a), states_b.at(seq_b), seq_a, seq_b):
            differs_at = stage
    last_a, last_b = len(states_a.entries), len(states_b.entries)
    return Comparison(
        a,
        b,
        tuple(common),
        tuple([stage for stage, _ in starts_a[len(common) :]]),
        tuple([stage for stage, _ in starts_b[len(common) :]]),
        differs_at,
        diff_of(states_a.at(last_a), states_b.at(last_b), last_a, last_b),
    )


def _starts(entries: Sequence[TimelineEntry]) -> list[tuple[str, int]]:
    return [(entry.path.split("/")[1], entry.seq) for entry in entries if entry.type == "stage:start"]
