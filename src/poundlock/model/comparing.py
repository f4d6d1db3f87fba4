"""Two runs, or two attempts of one, side by side: how far they went the same way, and how they differ.

Everything comes from their timelines, so what a timeline hides is hidden here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import InvalidDefinition
from poundlock.model.mending import FORKED, RERUN, RETRIED, path_of
from poundlock.model.quoting import shown
from poundlock.model.replaying import StateDiff, States, diff_of
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.records import dataclass, field
from poundlock.showing import plain


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two runs differ. It is true if they do; as text it says where, and a line per value.

    Attributes:
        a, b: ids of the two runs.
        common: ids of the stages that both entered, in order, until their ways part.
        only_a, only_b: the stages that each entered behind those.
        differs_at: the first of the common stages that began with different states; None if there is none.
        state: what leads from the state of `a` to that of `b`, both as they are at the end of the timelines.
        outcome: {"status", "result" or "error": (of `a`, of `b`)}, as far as these differ; empty for two timelines.

    What a retry or rerun went back behind is on no way. A fork that is compared with the run it was forked from has
    that run's stages before the point.
    """

    a: str
    b: str
    common: tuple[str, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    differs_at: str | None
    state: StateDiff
    outcome: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.differs_at is not None or self.state or self.outcome)

    def __str__(self) -> str:
        lines = [f"both entered: {', '.join(self.common) or 'no stage'}"]
        for run_id, stages in ((self.a, self.only_a), (self.b, self.only_b)):
            if stages:
                lines.append(f"only {run_id} entered: {', '.join(stages)}")
        if self.differs_at is not None:
            lines.append(f"the states differ from stage '{self.differs_at}' on")
        lines += [str(self.state)] if self.state else ["the states at the end are the same"]
        lines += [f"{name}: {_text(a)} -> {_text(b)}" for name, (a, b) in self.outcome.items()]
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
            "outcome": {name: plain(list(pair)) for name, pair in self.outcome.items()},
        }


def compared(a: str, states_a: States, b: str, states_b: States) -> Comparison:
    """Return how two runs differ, by their ids and their states."""
    starts_a, starts_b = _ways(a, states_a.entries, b, states_b.entries)
    common: list[str] = []
    differs_at: str | None = None
    for (stage, seq_a), (other, seq_b) in zip(starts_a, starts_b, strict=False):
        if stage != other:
            break
        common.append(stage)
        if seq_a is None or seq_b is None:
            continue  # before the point of a fork they are one run
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


_Starts = list[tuple[str, int | None]]
"""Stages, with the entries of their starts; None for a stage of the run that this one was forked from."""


def _ways(
    a: str, entries_a: Sequence[TimelineEntry], b: str, entries_b: Sequence[TimelineEntry]
) -> tuple[_Starts, _Starts]:
    ways = _starts(entries_a), _starts(entries_b)
    if a != b:
        return _continued(ways[0], entries_a, b, ways[1]), _continued(ways[1], entries_b, a, ways[0])
    return ways


def _starts(entries: Sequence[TimelineEntry]) -> _Starts:
    return list(path_of(entries))


def _continued(starts: _Starts, entries: Sequence[TimelineEntry], other: str, of_other: _Starts) -> _Starts:
    """Return the stages of a run. If it was forked from the other one, they begin with those before the fork."""
    origin = next((entry.payload["from"] for entry in entries if entry.type == FORKED), None)
    if origin is None or origin["run_id"] != other:
        return starts
    return [*((stage, None) for stage, seq in of_other if seq is not None and seq < origin["seq"]), *starts]


# ------------------------------------------------------------------------------------------------ attempts and outcomes
@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run, or an attempt of one, came to; or what the run is now. `error` is a text."""

    status: str
    result: Any = None
    error: str | None = None


def attempt_of(
    run_id: str, entries: Sequence[TimelineEntry], attempt: int | None, last: int, outcome: Outcome
) -> tuple[Sequence[TimelineEntry], Outcome]:
    """Return the timeline up to the end of an attempt, and what that came to.

    Args:
        run_id: of the run, for messages.
        entries: of the whole timeline.
        attempt: which one; None: the last one.
        last: the number of the last one.
        outcome: what that came to.

    Raises:
        InvalidDefinition: no attempt of this number ended.
    """
    known = []
    for place, entry in enumerate(entries):
        if entry.type in (RETRIED, RERUN):
            earlier = entry.payload["earlier"]
            known.append(earlier["attempt"])
            if earlier["attempt"] == attempt:
                error = earlier["error"]
                text = None if error is None else f"{error['type']}: {error['message']}"
                return entries[:place], Outcome(earlier["status"], earlier["result"], text)
    if attempt not in (None, last):
        raise InvalidDefinition(
            f"run '{run_id}' has no attempt {shown(attempt)} that ended: compare one of "
            f"{', '.join(map(str, dict.fromkeys([*known, last])))}",
            path="attempt",
        )
    return entries, outcome


def with_outcomes(comparison: Comparison, a: Outcome, b: Outcome) -> Comparison:
    """Return a comparison that says what the runs came to, as far as that differs."""
    pairs = {
        "status": (a.status, b.status),
        "result": (a.result, b.result),
        "error": (a.error, b.error),
    }
    differing = {name: pair for name, pair in pairs.items() if dump(plain(pair[0])) != dump(plain(pair[1]))}
    return replace(comparison, outcome=differing)


def _text(value: Any) -> str:
    return "-" if value is None else value if isinstance(value, str) else shown(value)
