"""Waits of a run: arming them, draining what came early, and what it means when time runs out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from poundlock.codecs import dump, pack
from poundlock.errors import InvalidDefinition, StateInvalid, StepFailed
from poundlock.model.definitions import Pause, Wait
from poundlock.model.runs import Message, WaitInfo, WaitRow, wait_info
from poundlock.model.validation import wait_faults
from poundlock.model.waits import arm
from poundlock.pipeline.active import Resume

if TYPE_CHECKING:
    from poundlock.pipeline.active import ActiveRun
    from poundlock.pipeline.plan import StagePlan


def rearm(run: ActiveRun, previous: WaitRow | None) -> None:
    """Arm what is declared and registered against the run's state as it stands now.

    `previous` is the wait the run was resumed from: it goes on buffering until the next pause. Rows that did not change
    stay the same objects, and if none changed so does the tuple, which tells the commit that there is nothing to write.
    """
    plan = run.plan
    if not plan.declared and not run.registered and not run.waits:
        return
    known = {row.wait_id: row for row in run.waits}
    epoch = run.version + 1
    rows: list[WaitRow] = []
    wanted: dict[str, tuple[Wait, str | None]] = {
        entry.wait_id: (entry.wait, entry.resume_at) for entry in plan.declared
    }
    for wait_id, wait in (run.registered or {}).items():
        wanted[wait_id] = (wait, None)
    for wait_id, (wait, resume_at) in wanted.items():
        row = arm(wait, wait_id, run.state, epoch=epoch, resume_at=resume_at)
        if row is not None:
            old = known.get(wait_id)
            rows.append(old if old is not None and old == row._replace(epoch=old.epoch) else row)
    if previous is not None and previous.wait_id not in wanted:
        rows.append(previous)
    if tuple(rows) != run.waits:
        run.waits = tuple(rows)


def park(run: ActiveRun, stage: StagePlan, pause: Pause) -> WaitRow:
    """Return the row of the wait a run is about to stand at.

    Raises:
        InvalidDefinition: a wait made by a router has faults.
        StateInvalid: a StateRef of it has no value in the state.
    """
    wait = pause.wait
    plan = run.plan
    wait_id = wait.id or stage.id
    declared = plan.waits.get(wait_id)
    if declared is None or declared.wait is not wait:
        faults = list(wait_faults(f"{stage.path}/wait", wait, list(plan.by_id)))
        if callable(wait.patch):
            faults.append((f"{stage.path}/wait.patch", "a wait made by a router needs its patch as data"))
        if faults:
            raise InvalidDefinition(f"{faults[0][0]}: {faults[0][1]}", path=faults[0][0], faults=tuple(faults))
    resume_at = pause.resume_at or stage.following
    row = arm(
        wait,
        wait_id,
        run.state,
        epoch=run.version + 1,
        parked=True,
        resume_at=resume_at,
        now=run.clock.now(),
    )
    if row is None:
        raise StateInvalid(
            f"the wait '{wait_id}' refers to state that is not there: write it in an earlier stage", path=stage.path
        )
    return row


def stand_at(run: ActiveRun, row: WaitRow) -> None:
    """Let the run stand at a wait: it replaces an armed one of the same id, the others go on buffering."""
    others = tuple(other for other in run.waits if other.wait_id != row.wait_id and not other.parked)
    run.waits = (*others, row)


def first_match(run: ActiveRun, row: WaitRow) -> Message | None:
    """Return the earliest buffered event that the wait is for."""
    for message in run.buffer:
        if message.event is not None and row.matches(message.event.event):
            return message
    return None


def resume_with_event(run: ActiveRun, row: WaitRow, message: Message) -> Mapping[str, Any] | None:
    """Use up a buffered event: the run goes on after the wait. Returns the patch to merge.

    Raises:
        StepFailed: the wait's patch function gave no mapping.
    """
    assert message.event is not None  # noqa: S101 - only event messages are buffered
    event = message.event.event
    run.buffer = tuple(other for other in run.buffer if other.seq != message.seq)
    run.consumed.append(message.seq)
    leave(run, row)
    run.resume = Resume("event", row.wait_id, event)
    note(run, "wait:matched", row, {"event": {"id": event.id, "type": event.type, "source": event.source}})
    note(run, "pipeline:resume", row, {"reason": "event"})
    if row.patch == "call":
        declared = run.plan.waits.get(row.wait_id)
        if declared is None or not callable(declared.wait.patch):
            raise StepFailed(
                f"the patch function of wait '{row.wait_id}' is gone from the workflow: restore it", path=row.wait_id
            )
        patch = declared.wait.patch(event)
    else:
        patch = row.patch if row.patch is not None else event.payload
    if patch is None or (row.patch is None and not isinstance(patch, Mapping)):
        return None  # a payload that is no mapping has nothing to fold in; routers see it as resume.event
    if not isinstance(patch, Mapping):
        raise StepFailed(
            f"the patch function of wait '{row.wait_id}' returned a {type(patch).__qualname__}: return a mapping",
            path=row.wait_id,
        )
    return pack(patch)[0]  # type: ignore[no-any-return]  # a mapping in, a dict out


def leave(run: ActiveRun, row: WaitRow) -> None:
    """Go on from a wait: it only buffers from now on."""
    left = row._replace(parked=False, expires_at=None)
    run.waits = tuple(left if other.wait_id == row.wait_id else other for other in run.waits)
    run.stage = row.resume_at


def note(run: ActiveRun, kind: str, row: WaitRow, detail: Mapping[str, Any]) -> None:
    """Write a wait's entry into the journal."""
    if run.journal.full:
        payload = dump({"wait": row.wait_id, **detail})
        run.journal.add(run.clock.now(), "pipeline", kind, run.plan.path_json, payload)


class AnnouncedWaits:
    """The waits a run's steps announce: what its pause service works on."""

    __slots__ = ("_run",)

    def __init__(self, run: ActiveRun) -> None:
        self._run = run

    def announce(self, wait: Wait) -> str:
        """Note a wait; it is armed with the stage's commit.

        Raises:
            InvalidDefinition: the wait has faults.
        """
        run = self._run
        faults = wait_faults("wait", wait, list(run.plan.by_id))
        for path, text in faults:
            raise InvalidDefinition(f"{path}: {text}", path=path, faults=((path, text),))
        if run.registered is None:
            run.registered = {}
        wait_id = wait.id or f"wait-{len(run.registered) + 1}"
        run.registered[wait_id] = wait
        return wait_id

    def withdraw(self, wait_id: str) -> None:
        """Forget a noted wait; it is disarmed with the stage's commit."""
        run = self._run
        if run.registered is not None and run.registered.pop(wait_id, None) is not None:
            run.waits = tuple(row for row in run.waits if row.wait_id != wait_id)

    def armed(self) -> list[WaitInfo]:
        """Return the waits that are armed."""
        return [wait_info(row) for row in self._run.waits]
