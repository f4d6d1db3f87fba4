"""What this process may do with a run, and which phase may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """What this process does with a run. The texts are for debugging."""

    ABSENT = "absent"
    LOADING = "loading"
    DRIVING = "driving"
    CLOSING = "closing"
    PARKED = "parked"
    RESUMING = "resuming"
    UNSURE = "unsure"
    STRANDED = "stranded"


# from -> {to: why}
MOVES: Final[Mapping[Phase, Mapping[Phase, str]]] = {
    Phase.ABSENT: {
        Phase.LOADING: "promoted or resumed by a commit of this process; its checkpoint is being read",
        Phase.DRIVING: "new, or claimed together with its checkpoint",
        Phase.RESUMING: "an answer to a run that is only a row is being committed",
        Phase.UNSURE: "a commit that gives it to this process is in flight, or its answer was lost",
        Phase.STRANDED: "its row cannot be restored",
    },
    Phase.LOADING: {
        Phase.DRIVING: "its checkpoint was read",
        Phase.STRANDED: "its checkpoint cannot be read",
        Phase.ABSENT: "another owner was quicker, or the runtime stops",
    },
    Phase.DRIVING: {
        Phase.CLOSING: "its pause or end is stored; hooks and services are finishing",
        Phase.LOADING: "resumed by an event before its task has seen that its pause is stored",
        Phase.DRIVING: "taken over again before its task has seen that it was released",
        Phase.STRANDED: "it cannot continue here; the error is kept",
        Phase.ABSENT: "released, taken over by another owner, or ended",
    },
    Phase.CLOSING: {
        Phase.LOADING: "resumed meanwhile, and promoted",
        Phase.PARKED: "all is closed; its state is kept for the pause window",
        Phase.DRIVING: "resumed meanwhile",
        Phase.ABSENT: "all is closed",
    },
    Phase.PARKED: {
        Phase.RESUMING: "an answer is being committed",
        Phase.DRIVING: "resumed by an event, a person or because it is due",
        Phase.UNSURE: "the answer to a commit that may have resumed it was lost",
        Phase.ABSENT: "the pause window is over, or its row was moved by another process",
    },
    Phase.RESUMING: {
        Phase.DRIVING: "the answer is durable",
        Phase.PARKED: "the answer was refused",
        Phase.UNSURE: "the caller that resumed it was cancelled before the commit's answer",
        Phase.ABSENT: "another caller was quicker",
    },
    Phase.UNSURE: {
        Phase.DRIVING: "this process owns it",
        Phase.LOADING: "resumed or promoted by another commit meanwhile",
        Phase.STRANDED: "the store cannot say",
        Phase.ABSENT: "by the store, this process does not own it",
    },
    Phase.STRANDED: {
        Phase.DRIVING: "driven again",
        Phase.ABSENT: "ended, or released",
    },
}
_LEGAL: Final = {str(source): frozenset(str(target) for target in targets) for source, targets in MOVES.items()}


def check_phase(source: Phase, target: Phase) -> None:
    """Refuse an illegal move.

    Raises:
        AssertionError: the table has no such move. That is a bug in Poundlock, not in a workflow.
    """
    # By plain text: a look-up by enum member calls Enum.__hash__, which is Python code.
    if target._value_ not in _LEGAL[source._value_]:
        raise AssertionError(f"illegal phase of a run: {source} -> {target}")
