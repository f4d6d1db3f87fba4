"""The life cycle of a run: THE table.

House rule: code that moves a run calls `check_move` first; only this table knows which moves are legal. The diagram in
the documentation is printed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class RunStatus(StrEnum):
    """The status of a run."""

    QUEUED = "queued"
    READY = "ready"
    RUNNING = "running"
    PAUSED = "paused"
    DELAYED = "delayed"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"

    terminal: bool
    """Whether the run has ended."""

    def __init__(self, value: str) -> None:
        # Set once: a property would cost a call, and a set a hash, at every boundary of every run.
        self.terminal = value in ("completed", "failed", "aborted")


# from -> {to: why}. Queued: waits for a slot. Ready: any worker may claim it. Running: has an owner.
MOVES: Final[Mapping[RunStatus, Mapping[RunStatus, str]]] = {
    RunStatus.QUEUED: {
        RunStatus.QUEUED: "paused or unpaused by an operator: it keeps its place",
        RunStatus.RUNNING: "promoted by the process that freed the slot",
        RunStatus.READY: "promoted by a process that does not have its workflow",
        RunStatus.FAILED: "its time ran out while it waited for a slot",
        RunStatus.ABORTED: "aborted or superseded while waiting for a slot",
    },
    RunStatus.READY: {
        RunStatus.RUNNING: "claimed, or promoted after it was resumed and waited for a slot",
        RunStatus.READY: "unpaused before it was claimed",
        RunStatus.PAUSED: "paused by an operator",
        RunStatus.FAILED: "its time ran out while it waited for a slot",
        RunStatus.ABORTED: "aborted before it was claimed",
    },
    RunStatus.RUNNING: {
        RunStatus.RUNNING: "stage boundary",
        RunStatus.READY: "released: its owner died or stopped",
        RunStatus.PAUSED: "paused at a wait, by an operator, or with an error until somebody helps",
        RunStatus.DELAYED: "delayed until a time",
        RunStatus.COMPLETED: "last stage done, or terminated by a step or router",
        RunStatus.FAILED: "a stage failed and nothing handles that, or its time is over",
        RunStatus.ABORTED: "abort request received",
    },
    RunStatus.PAUSED: {
        RunStatus.RUNNING: "resumed: event, person, timeout or deadline",
        RunStatus.READY: "resumed, and waits for a slot; where its workflow is unknown; or tried again; or unpaused",
        RunStatus.PAUSED: "paused by an operator at its wait, or unpaused there",
        RunStatus.DELAYED: "unpaused within its delay",
        RunStatus.ABORTED: "aborted while paused",
    },
    RunStatus.DELAYED: {
        RunStatus.RUNNING: "claimed when due",
        RunStatus.READY: "due, and waits for a slot; or made due where its workflow is unknown",
        RunStatus.PAUSED: "paused by an operator",
        RunStatus.ABORTED: "aborted while delayed",
    },
    RunStatus.COMPLETED: {
        RunStatus.READY: "rerun from one of its stages",
    },
    RunStatus.FAILED: {
        RunStatus.READY: "retried, or rerun from one of its stages",
    },
    RunStatus.ABORTED: {
        RunStatus.READY: "retried, or rerun from one of its stages",
    },
}


# The same by plain text: looking up an enum member calls Enum.__hash__, which is Python code.
_LEGAL: Final = {source._value_: frozenset(target._value_ for target in targets) for source, targets in MOVES.items()}


def check_move(source: RunStatus, target: RunStatus) -> None:
    """Refuse an illegal move.

    Raises:
        AssertionError: the table has no such move. That is a bug in Poundlock, not in a workflow.
    """
    if target._value_ not in _LEGAL[source._value_]:
        raise AssertionError(f"illegal move of a run: {source} -> {target}")


def draw() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for source, targets in MOVES.items():
        lines += [f"    {source} --> {target}: {why}" for target, why in targets.items()]
        if source.terminal:
            lines.append(f"    {source} --> [*]")
    return "\n".join(lines) + "\n"
