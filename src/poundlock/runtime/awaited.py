"""Which run's code waits for which other run, so that a wait that can never end is refused.

Code is *inside* a run if its steps, routers or hooks call it or start it as a task (`Core.inside`). Only runs of this
process are known here. A run counts as able to continue if it waits in another process, if it waits with a timeout,
or if it went on to another stage while a task that it had started still waits. A parent waits for its children, but not
for runs that it only started.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from poundlock.errors import WouldDeadlock
from poundlock.model.lifecycle import RunStatus
from poundlock.model.runs import CHILDREN_WAIT, NEEDS_SLOT, RunHead, RunIdentity, WaitRow, paused_children
from poundlock.runtime.core import Core
from poundlock.runtime.loads import Pair
from poundlock.runtime.phases import Phase
from poundlock.runtime.waiters import Wanted


@contextmanager
def awaiting(core: Core, inside: str, wanted: Wanted) -> Iterator[None]:
    """Record, while the block runs, that run `inside` waits for another one.

    Raises:
        WouldDeadlock: that run waits for this one, directly, through others, or because this one holds its slot.
    """
    edges = core.awaited
    own = edges.setdefault(inside, [])
    own.append(wanted)
    try:
        way = _way_back(core, inside, wanted)
        if way is not None:
            raise _would_deadlock(inside, way)
        yield
    finally:
        own.remove(wanted)
        if not own and edges.get(inside) is own:
            del edges[inside]


async def to_wait_for(core: Core, inside: str, run_id: str, *, bounded: bool = False) -> Wanted:
    """Return what is known of a run that code inside another run wants to wait for.

    Args:
        core: of the runtime.
        inside: id of the run whose code wants to wait.
        run_id: for which run.
        bounded: whether the wait has a timeout.
    """
    since = _position(core, inside)
    live = core.runs.live(inside)
    if live is not None and run_id in live.run.identity.above:
        way = await _way_down(core, run_id, live.run.identity)
        return Wanted(run_id, bounded=bounded, since=since, way=way)
    if core.runs.phase(run_id) is not Phase.ABSENT:
        return Wanted(run_id, bounded=bounded, since=since)
    record = await core.store.load(run_id)
    if record is None or record.identity.load_key is None or not _needs_slot(record.head):
        return Wanted(run_id, bounded=bounded, since=since)
    pair = (record.identity.workflow_id, record.identity.load_key)
    [(load, _)] = await core.loads.read([pair])
    return Wanted(run_id, pair, load.active, bounded, since)


def _needs_slot(head: RunHead) -> bool:
    """Whether a run goes on only with a slot that it does not have."""
    return head.status is RunStatus.QUEUED or head.slot == NEEDS_SLOT


def to_wait_for_driven(core: Core, inside: str, run_id: str) -> Wanted:
    """Return the same for a run that has an owner task here."""
    return Wanted(run_id, since=_position(core, inside))


def _position(core: Core, run_id: str) -> tuple[str | None, int] | None:
    """Return the stage a run is at, and which visit of it that is; None if it is not in memory."""
    live = core.runs.live(run_id)
    return None if live is None else (live.run.stage, live.run.visits.get(live.run.stage or "", 0))


def _waits(core: Core, run_id: str, request: Wanted) -> list[Wanted]:
    """Return the waits that block a run. `request` counts even with a timeout, because the timeout would expire."""
    edges = core.awaited.get(run_id)
    if not edges or not core.runs.has_task(run_id):
        return []
    now = _position(core, run_id)
    return [each for each in edges if each is request or not (each.bounded or each.since != now)]


def _way_back(core: Core, inside: str, target: Wanted) -> list[str] | None:
    """Return how `target` waits for the run `inside`, itself first; None if it can continue without it."""
    if not core.runs.has_task(inside):
        return None  # what it started continues without it
    if target.run_id == inside or target.way:
        return list(target.way)
    waiting = _waiting(core, target)
    free = _free(core, waiting)
    if target.run_id in free:
        return None
    way, seen = [target], {target.run_id}
    while (following := _blocker(core, way[-1], waiting, free, seen)) is not None:
        way.append(following)
        seen.add(following.run_id)
        if following.run_id == inside:
            break
    return [each.run_id for each in way]


def _waiting(core: Core, request: Wanted) -> dict[str, list[Wanted]]:
    """Return the waits that block runs, by run: those of their code, and those of parents for children that wait."""
    waiting = {run_id: edges for run_id in core.awaited if (edges := _waits(core, run_id, request))}
    for run_id in list(waiting):
        live, child = core.runs.live(run_id), run_id
        for parent in () if live is None else reversed(live.run.identity.above):
            if not _follows(core, parent, child):
                break
            waiting.setdefault(parent, []).append(Wanted(child))
            child = parent
    return waiting


def _follows(core: Core, parent: str, child: str) -> bool:
    """Whether a run waits, in a stage, for the end of a run that it has started, as far as this process knows."""
    parked = core.runs.parked(parent)
    return core.followed.get(child) == parent or (parked is not None and _is_paused_for(parked.waits, child))


def _is_paused_for(waits: Iterable[WaitRow], child: str) -> bool:
    rows = [row for row in waits if row.parked and row.wait_id == CHILDREN_WAIT]
    return any(paused["run_id"] == child for row in rows for paused in paused_children(row))


async def _way_down(core: Core, run_id: str, identity: RunIdentity) -> tuple[str, ...]:
    """Return how a run waits for one below it, itself first; () if it does not: it only started it, or one between."""
    lineage = (*identity.above, identity.run_id)
    way = lineage[lineage.index(run_id) :]
    for parent, child in pairwise(way):
        if not _follows(core, parent, child):
            record = await core.store.load(parent)
            if record is None or not _is_paused_for(record.waits, child):
                return ()
    return way


def _free(core: Core, waiting: dict[str, list[Wanted]]) -> set[str]:
    """Return those runs that can continue, of all that wait, are waited for, or hold a slot that another run needs."""
    wanted = [each for edges in waiting.values() for each in edges]
    holders = {each.pair: _holders(core, each.pair) for each in wanted if each.pair is not None}
    queued = {each.run_id: each for each in wanted if each.pair is not None and _still_queued(core, each)}
    known = {*waiting, *(each.run_id for each in wanted)}.union(*holders.values())
    free = {run_id for run_id in known if run_id not in waiting and run_id not in queued}
    while True:
        more = {
            run_id
            for run_id in known - free
            if all(each.run_id in free for each in waiting.get(run_id, ()))
            and (run_id not in queued or _gets_a_slot(queued[run_id], holders, free))
        }
        if not more:
            return free
        free |= more


def _gets_a_slot(run: Wanted, holders: dict[Pair, set[str]], free: set[str]) -> bool:
    held = holders.get(run.pair, set()) if run.pair is not None else set()
    # Holders that this process does not know count as runs that can continue.
    return not held or run.active > len(held) or not held.isdisjoint(free)


def _holders(core: Core, pair: Pair) -> set[str]:
    held = [(live.run.identity, live.run.slot) for live in core.runs.all_live()]
    held += [(parked.identity, parked.head.slot) for parked in core.runs.all_parked()]
    return {
        identity.run_id for identity, slot in held if slot is True and (identity.workflow_id, identity.load_key) == pair
    }


def _still_queued(core: Core, run: Wanted) -> bool:
    return core.runs.phase(run.run_id) is Phase.ABSENT


def _blocker(
    core: Core, run: Wanted, waiting: dict[str, list[Wanted]], free: set[str], seen: set[str]
) -> Wanted | None:
    """Return a run that blocks this one, for the error message."""
    held = _holders(core, run.pair) if run.pair is not None and _still_queued(core, run) else set()
    blocking = [*waiting.get(run.run_id, ()), *(Wanted(run_id) for run_id in sorted(held))]
    return next((each for each in blocking if each.run_id not in free and each.run_id not in seen), None)


def _would_deadlock(inside: str, way: list[str]) -> WouldDeadlock:
    if not way:
        return WouldDeadlock(
            f"run '{inside}' waits for itself here: it cannot continue before this step or hook has returned. "
            f"Return first, or wait for the run from outside",
            run_id=inside,
            waits_for=[inside],
        )
    through = f", through {', '.join(repr(run_id) for run_id in way[1:-1])}," if len(way) > 2 else ""
    return WouldDeadlock(
        f"run '{inside}' waits here for run '{way[0]}', which waits{through} for run '{inside}' or for the slot that "
        f"it holds: neither could ever continue. Do not wait here: wait in on_complete, or from outside",
        run_id=inside,
        waits_for=way,
    )
