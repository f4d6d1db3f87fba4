"""What all adapters share: refusals, errors for unknown runs, page cursors."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final, Protocol

from poundlock.codecs import dump
from poundlock.errors import (
    HoldMoved,
    InboxAhead,
    InvalidEvent,
    KeysTaken,
    LeaseLost,
    LoadMoved,
    OutboxMoved,
    PoundlockError,
    RunExists,
    RunFinished,
    RunNotFound,
    ScheduleMoved,
    StaleVersion,
    WaitMoved,
)
from poundlock.json_core import from_json
from poundlock.model.changes import Remember, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.model.quoting import shown
from poundlock.model.runs import RunIdentity

LINED_UP_AT_ONCE: Final = 1_000
"""Due runs that a claim lines up for a slot, at most: ten thousand that are due together must not block a store."""


class Moved(Protocol):
    """What a store knows of a run, by which it judges a move."""

    version: int
    epoch: int
    inbox_seq: int


def refusal(move: RunMove, head: Moved) -> PoundlockError | None:
    """Return why a move does not apply to a run with this head, or None if it does."""
    run_id, version, epoch, inbox = move[:4]  # quicker than one after another
    if epoch == head.epoch and version == head.version and (inbox is None or head.inbox_seq == inbox):
        return None
    if epoch != head.epoch:
        return LeaseLost(f"run '{run_id}' has another owner now: discard this change", run_id=run_id)
    if version != head.version:
        return StaleVersion(f"run '{run_id}' has changed meanwhile: read it again", run_id=run_id, version=head.version)
    return InboxAhead(f"run '{run_id}' has messages its owner has not read", run_id=run_id, inbox_seq=head.inbox_seq)


def exists(run_id: str) -> RunExists:
    """Return the error for a run id that exists already."""
    return RunExists(f"a run '{run_id}' exists already: use another id, or wait for that run", run_id=run_id)


def load_moved(workflow_id: str) -> LoadMoved:
    """Return the error for a load whose token has changed."""
    return LoadMoved(f"the load of '{workflow_id}' changed meanwhile: read it again", workflow_id=workflow_id)


def keys_taken(taken: dict[str, Remember]) -> KeysTaken:
    """Return the error for keys that are stored already, by scope."""
    return KeysTaken("the event was handled before", taken=taken)


def wait_moved(run_id: str) -> WaitMoved:
    """Return the error for a delivery to waits that were armed again."""
    return WaitMoved(f"run '{run_id}' armed its waits again: match the event again", run_id=run_id)


def hold_moved(workflow_id: str) -> HoldMoved:
    """Return the error for a hold that has changed."""
    return HoldMoved(f"what '{workflow_id}' holds changed meanwhile: read it again", workflow_id=workflow_id)


def outbox_moved(seq: int) -> OutboxMoved:
    """Return the error for a row of the outbox that has changed, or is gone."""
    return OutboxMoved(f"row {seq} of the outbox changed meanwhile: read it again")


def schedule_moved(workflow_id: str, trigger_id: str) -> ScheduleMoved:
    """Return the error for the row of a time trigger that has changed."""
    return ScheduleMoved(f"trigger '{trigger_id}' of '{workflow_id}' fired meanwhile: read its row again")


def not_found(run_id: str) -> RunNotFound:
    """Return the error for an unknown run."""
    return RunNotFound(
        f"there is no run {shown(run_id, 100)} in this store: list runs with find_runs or `poundlock runs ls`"
    )


def not_deletable(run_id: str, version: int) -> StaleVersion:
    """Return the error for a run that is not the ended run that was read."""
    return StaleVersion(
        f"run '{run_id}' has not ended, or was begun again meanwhile: it stays", run_id=run_id, version=version
    )


def finished(run_id: str, status: RunStatus) -> RunFinished:
    """Return the error for a run that has ended."""
    return RunFinished(
        f"run '{run_id}' is {status} already: retry, rerun or fork it, or start a new run", run_id=run_id, status=status
    )


def write_cursor(identity: RunIdentity) -> str:
    """Return the page cursor that continues after a run."""
    return urlsafe_b64encode(dump([identity.created_at, identity.run_id]).encode()).decode()


def read_cursor(cursor: str) -> tuple[float, str]:
    """Read the result of `write_cursor`.

    Raises:
        InvalidEvent: it is not such a cursor.
    """
    try:
        created_at, run_id = from_json(urlsafe_b64decode(cursor))  # plain JSON: input from outside must not name types
        return float(created_at), str(run_id)
    except (ValueError, TypeError):
        raise InvalidEvent("this is not a cursor of a run list: start again without one", path="cursor") from None
