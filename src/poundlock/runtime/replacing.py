"""A new run takes the place of the active one: that is aborted, and the new one starts when it has ended.

House rule: the abort is part of the commit that queues the new run, so no crash leaves that waiting for a run which
nobody aborts.
"""

from __future__ import annotations

from poundlock.errors import LoadMoved
from poundlock.model.changes import Post, RunMove
from poundlock.model.lifecycle import RunStatus
from poundlock.records import NamedTuple
from poundlock.runtime.core import Core
from poundlock.runtime.pending_hooks import pending_of
from poundlock.runtime.phases import Phase
from poundlock.runtime.settling import leaving
from poundlock.runtime.transitions import ending, has_more_to_do

_HERE = (Phase.DRIVING, Phase.LOADING, Phase.UNSURE)
_DRIVEN_SOON = (RunStatus.RUNNING, RunStatus.READY)


class Abortion(NamedTuple):
    """How the active run is aborted: by a request that it sees, by a move that wakes or ends it, or by both.

    `hooks`: its id, if it ends with the move and has hooks at its end.
    """

    request: Post | None
    move: RunMove | None
    hooks: tuple[str, ...] = ()


def reason_of(successor: str) -> str:
    """Return why a run is aborted whose place another one takes."""
    return f"replaced by run {successor}"


async def abortion(core: Core, active: str, successor: str) -> Abortion:
    """Return how a run is aborted because another one takes its place.

    A run that is being driven gets a request. One that rests ends with the commit, and its slot goes to the successor;
    if it has stages to undo or children first, it goes on to do that.

    Raises:
        LoadMoved: it has ended; the decision has to be made again.
    """
    now, reason = core.clock.now(), reason_of(successor)
    request = Post(active, "abort", {"reason": reason, "by": "replaced"}, now)
    if core.runs.phase(active) in _HERE:  # mostly: it is not read, so that no other decision comes in between
        return Abortion(request, None)
    record = await core.store.load(active)
    if record is None or record.head.status in _DRIVEN_SOON:  # none: its creation is on its way to the store
        return Abortion(request, None)
    identity, status = record.identity, record.head.status
    if status.terminal:
        raise LoadMoved(f"run '{active}' has ended: read the load again", workflow_id=identity.workflow_id)
    if await has_more_to_do(core, record):
        return Abortion(request, RunMove.of(record, RunStatus.READY, now=now))
    move = await ending(core, record, reason=reason, by="replaced")
    release = leaving(core, core.entries.get(identity.workflow_id), identity)
    # Claimed, not driven from here: the answer to this commit may be lost.
    move = move._replace(release=None if release is None else release._replace(owner=None))
    return Abortion(None, move, pending_of(core, identity))
