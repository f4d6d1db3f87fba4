"""Pauses by operators: of one run, in a row of its waits, and of all runs of a workflow, in a row of the store.

A run may be paused for several reasons at once, each with a scope of its own: "run" (by its id), "parent" (with the run
that started it), "workflow" and "all". It goes on once none of them is left. The first two are in the run's row under
`OPERATOR_WAIT`; the others are not written for each run: they are looked up by its workflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from poundlock.model.runs import OPERATOR_WAIT, OperatorPause, WaitRow, own_row
from poundlock.records import NamedTuple

Scope = Literal["run", "parent"]
"""Why a run is paused by its own row: for itself, or with its parent."""
Incoming = Literal["queue", "reject"]
"""What becomes of events that would start a run of a paused workflow."""

ALL: Final = ""
"""In place of a workflow's id: the pause of all workflows. No id is empty."""
_HOLDS: Final = "holds"
_THEN: Final = "then"
_NEW: Final = "new"
_WITH_WORKFLOW: Final = "with_workflow"
_RESUME: Final = "resume"


class WorkflowPause(NamedTuple):
    """A workflow is paused; `workflow_id` is `ALL` for all of them.

    Attributes:
        incoming: what becomes of events that would start a run: "queue" or "reject".
        reason, by: why, and who says so.
        since: seconds since 1970.
    """

    workflow_id: str
    incoming: Incoming
    reason: str
    by: str
    since: float

    def shown(self) -> OperatorPause:
        """Return it as others see it."""
        return OperatorPause("workflow" if self.workflow_id else "all", self.reason, self.by, self.since)


Pauses: TypeAlias = Mapping[str, WorkflowPause]
"""The paused workflows, by id; see `ALL`."""


def pause_in(pauses: Pauses, workflow_id: str) -> WorkflowPause | None:
    """Return the pause of a workflow, its own one first; None if it is not paused."""
    return pauses.get(workflow_id) or pauses.get(ALL)


class Then(NamedTuple):
    """What a run was when it was paused, to make it that again.

    Attributes:
        status: paused, delayed or ready; None if it is to be driven at once.
        wake_at: when it would have gone on by itself.
        owner: of a ready run whose last owner died.
    """

    status: str | None
    wake_at: float | None
    owner: str | None = None


def operator_row(waits: Iterable[WaitRow]) -> WaitRow | None:
    """Return the row that says who has paused a run, if it has one. It may have no pause left, see `lifted`."""
    for row in waits:
        if row.wait_id == OPERATOR_WAIT:
            return row
    return None


def is_held(waits: Iterable[WaitRow]) -> bool:
    """Whether a run is paused by its own row."""
    row = operator_row(waits)
    return row is not None and bool(_patch(row)[_HOLDS])


def is_new(waits: Iterable[WaitRow]) -> bool | None:
    """Whether a run was paused before it began; None if it was not paused since it went on last."""
    row = operator_row(waits)
    return None if row is None else bool(_patch(row).get(_NEW))


def has_pause(waits: Iterable[WaitRow], scope: str) -> bool:
    """Whether a run is paused for this reason."""
    row = operator_row(waits)
    return row is not None and scope in _patch(row)[_HOLDS]


def pauses_of(waits: Iterable[WaitRow]) -> tuple[OperatorPause, ...]:
    """Return the pauses in a run's row, the one of the run itself first."""
    row = operator_row(waits)
    if row is None:
        return ()
    holds = _patch(row)[_HOLDS]
    found = [OperatorPause(scope, hold["reason"], hold["by"], hold["since"]) for scope, hold in holds.items()]
    return tuple(sorted(found, key=lambda pause: pause.scope != "run"))


def then_of(row: WaitRow) -> Then:
    """Return what the run was when it was paused."""
    then = _patch(row).get(_THEN)
    return Then(None, None) if then is None else Then(then["status"], then["wake_at"], then["owner"])


def paused_with(
    waits: Sequence[WaitRow], pause: OperatorPause, epoch: int, *, new: bool = False
) -> tuple[WaitRow, ...]:
    """Return waits with one more pause. The first one of a scope stays: who pauses a paused run changes nothing.

    Args:
        waits: of the run.
        pause: by whom, and why.
        epoch: of the row.
        new: whether the run has not begun; it stays so with further pauses.
    """
    row = operator_row(waits)
    before = {} if row is None else _patch(row)
    hold = {"reason": pause.reason, "by": pause.by, "since": pause.since}
    patch = {**before, _HOLDS: {pause.scope: hold, **before.get(_HOLDS, {})}}
    if new:
        patch[_NEW] = True
    return _with_row(waits, patch, epoch)


def marked(
    waits: Sequence[WaitRow], epoch: int, *, new: bool = False, with_workflow: bool = False
) -> tuple[WaitRow, ...]:
    """Return waits with a row, which need not have a pause: it says whether the run has begun.

    Args:
        waits: of the run.
        epoch: of the row.
        new: whether the run has not begun; False leaves that as it is.
        with_workflow: whether the run is paused with its workflow.
    """
    row = operator_row(waits)
    patch = {_HOLDS: {}} if row is None else {**_patch(row)}
    patch.pop(_WITH_WORKFLOW, None)
    if new:
        patch[_NEW] = True
    if with_workflow:
        patch[_WITH_WORKFLOW] = True
    return _with_row(waits, patch, epoch)


def was_with_workflow(row: WaitRow) -> bool:
    """Whether a run was paused with its workflow."""
    return bool(_patch(row).get(_WITH_WORKFLOW))


def lifted(waits: Sequence[WaitRow], scope: str, epoch: int) -> tuple[WaitRow, ...]:
    """Return waits without the pause of this scope; their row stays, and says whether the run has begun."""
    row = operator_row(waits)
    if row is None:
        return tuple(waits)
    patch = _patch(row)
    return _with_row(
        waits, {**patch, _HOLDS: {name: hold for name, hold in patch[_HOLDS].items() if name != scope}}, epoch
    )


def reason_of(row: WaitRow) -> list[Any] | None:
    """Return why the run had been resumed when it was paused, as data; None if it had not been."""
    return _patch(row).get(_RESUME)


def with_reason(waits: Sequence[WaitRow], reason: list[Any] | None, epoch: int) -> tuple[WaitRow, ...]:
    """Return waits whose row says why the run had been resumed when it was paused: its next stage may ask for it."""
    row = operator_row(waits)
    assert row is not None  # noqa: S101 - only paused runs are asked for
    patch = {**_patch(row)}
    if reason is None:
        patch.pop(_RESUME, None)
    else:
        patch[_RESUME] = reason
    return _with_row(waits, patch, epoch)


def noted(waits: Sequence[WaitRow], then: Then, epoch: int) -> tuple[WaitRow, ...]:
    """Return waits whose row says what the run was when it was paused."""
    row = operator_row(waits)
    assert row is not None  # noqa: S101 - only paused runs are asked for
    return _with_row(waits, {**_patch(row), _THEN: then._asdict()}, epoch)


def without_row(waits: Sequence[WaitRow]) -> tuple[WaitRow, ...]:
    """Return waits without that row."""
    return tuple([row for row in waits if row.wait_id != OPERATOR_WAIT])


def _with_row(waits: Sequence[WaitRow], patch: Mapping[str, Any], epoch: int) -> tuple[WaitRow, ...]:
    row = own_row(OPERATOR_WAIT, epoch=epoch, on_timeout="resume", patch=patch)
    return (*without_row(waits), row)


def _patch(row: WaitRow) -> Mapping[str, Any]:
    assert isinstance(row.patch, Mapping)  # noqa: S101 - written here
    return row.patch
