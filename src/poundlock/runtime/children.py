"""Children of runs: created by a commit of their parent, and the end of one, of which its parent is told.

House rules: a child is created in the same commit as the entry of its parent's log that names it. Its end and the
event to its parent are one commit too. So no crash leaves a parent that waits for a run which was never
started, or has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial

from poundlock.errors import NotRegistered, RunFinished, RunNotFound, WaitMoved
from poundlock.model.buffers import Hit
from poundlock.model.changes import Changes, Committed, RunCreate, RunMove
from poundlock.model.deadlines import Kept, keeping
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.receipts import Delivery, Fate, ReceiptLine, Verdict
from poundlock.model.runs import CHILD_ENDED, CHILDREN_WAIT, LOOSE, Message, RunIdentity, RunResult, StoredEvent
from poundlock.pipeline.active import ActiveRun, NewChild
from poundlock.pipeline.memo import lead_below
from poundlock.pipeline.states import as_data
from poundlock.pipeline.writing import creation_of, take_creation
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered, slots_of
from poundlock.runtime.healing import FAULTS, REPEATED, find_promoted, is_written, notify, patiently
from poundlock.runtime.pending_hooks import ending
from poundlock.runtime.results import at_rest
from poundlock.runtime.run_table import LiveRun
from poundlock.runtime.runs import invocation, new_run

Notice = tuple[Message, bool]
"""A message to a parent, and whether it resumes it."""


class Launcher:
    """The children of one run that are about to be created.

    Args:
        core: of the runtime.
        start: drives a run.
        take_up: looks runs up whose creation has an unknown outcome.
    """

    __slots__ = ("_core", "_new", "_start", "_take_up")

    def __init__(
        self,
        core: Core,
        start: Callable[[Core, LiveRun], None],
        take_up: Callable[[Core, Iterable[str]], None],
    ) -> None:
        self._core = core
        self._start = start
        self._take_up = take_up
        self._new: list[tuple[ActiveRun, Registered]] = []

    @property
    def waiting(self) -> bool:
        """Whether there are some."""
        return bool(self._new)

    def prepare(self, run: ActiveRun, children: Sequence[NewChild]) -> list[str]:
        """Make children of a run; returns their ids. All of them, or none: the stage fails, and the run may go on.

        Raises:
            NotRegistered: there is no such workflow here, or its runs have to name a pipeline.
            NotStorable, StateInvalid, InvalidEvent: one cannot begin with its state.
        """
        made = [self._made(run, child) for child in children]
        self._new += made
        return [child.run_id for child, _ in made]

    def _made(self, run: ActiveRun, child: NewChild) -> tuple[ActiveRun, Registered]:
        core, workflow_id = self._core, child.workflow_id or run.identity.workflow_id
        entry = core.entry(workflow_id)
        if entry.closing and child.workflow_id is not None:
            raise NotRegistered(f"workflow '{workflow_id}' is being deregistered", workflow_id=workflow_id)
        pipeline_id, trigger_id = child.pipeline_id, None
        if pipeline_id is None:
            if entry.invoked is None:
                raise NotRegistered(
                    f"workflow '{workflow_id}' has several pipelines and none is called 'main', so a run cannot start "
                    f"one of them without its name",
                    workflow_id=workflow_id,
                )
            trigger_id, pipeline_id = entry.invoked
        now = core.clock.now()
        run_id = core.ids.uuid7(now)
        model = entry.definition.state_of(pipeline_id)
        payload = as_data(model, child.initial) if model is not None else child.initial
        event, text = invocation(f"{workflow_id}.{pipeline_id}", payload, run_id, now)
        new = new_run(
            core,
            entry,
            event,
            {} if event.payload is None else event.payload,
            pipeline_id=pipeline_id,
            trigger_id=trigger_id,
            payload_text=text,
            now=now,
            run_id=run_id,
            parent=run.identity,
        )
        if child.address is not None:
            lead_below(new, child.address)
            new.restart_counts()
        if child.workflow_id is None and new.plan.limit is not None:
            # It ends with its parent, at the parent's deadline: an own one would only blur which of them was late.
            new.waits = keeping(new.waits, Kept(used=True), 1)
        return new, entry

    async def commit(
        self,
        run: ActiveRun,
        work: RunMove | RunCreate,
        now: Callable[[RunMove | RunCreate], Awaitable[RunMove | RunCreate]],
    ) -> RunMove | RunCreate:
        """Commit a boundary of the parent together with its new children, and drive them.

        Args:
            run: the parent.
            work: its boundary.
            now: returns what that is when it is committed, which may be repeated.

        Returns:
            What was committed in the end.

        Raises:
            PoundlockError: it was refused, or failed for too long for a parent that was never stored.
        """
        core = self._core
        new, self._new = self._new, []
        creations = tuple([creation_of(child) for child, _ in new])
        ids = [child.run_id for child, _ in new]
        task = asyncio.current_task()
        for run_id in ids:
            core.runs.expect(run_id, task)

        async def commit() -> RunMove | RunCreate:
            mine = await now(work)
            try:
                await core.commit(_together(mine, creations))
            except REPEATED:
                if not await is_written(core, mine):
                    raise
            return mine

        try:
            what = f"starting children of run '{run.run_id}'"
            committed = await patiently(core, commit, what, partial(notify, core, run))
        except BaseException:
            self._take_up(core, ids)  # it may have been written nevertheless
            raise
        for (child, entry), creation in zip(new, creations, strict=True):
            core.followed[child.run_id] = run.run_id
            take_creation(child, creation)
            self._start(core, LiveRun(child, entry, new=True))
        return committed


def _together(work: RunMove | RunCreate, creations: tuple[RunCreate, ...]) -> Changes:
    if isinstance(work, RunCreate):
        return Changes(creates=(work, *creations), now=work.start.updated_at)
    return Changes(creates=creations, moves=(work,), now=work.updated_at)


async def child_at_rest(core: Core, run_id: str, *, ended: bool) -> RunResult:
    """Return the result of a child that is paused or has ended; `ended`: only once it has ended."""
    return await patiently(core, lambda: at_rest(core, run_id, ended=ended), f"waiting for run '{run_id}'")


async def abort_and_wait(core: Core, run_id: str, request: Callable[[], Awaitable[None]]) -> None:
    """Abort a run by `request`, unless it has ended; returns once it has."""
    with suppress(RunFinished, RunNotFound):
        await patiently(core, request, f"aborting run '{run_id}'")
    with suppress(RunNotFound):
        await child_at_rest(core, run_id, ended=True)


async def commit_end(
    core: Core,
    identity: RunIdentity,
    work: RunMove | RunCreate,
    pending: tuple[str, ...],
    commit: Callable[[RunMove | RunCreate], Awaitable[Committed]],
) -> tuple[Committed, Notice | None]:
    """Commit the end of a child together with the event to its parent; `commit` is used if no parent waits.

    Raises:
        What a commit raises.
    """
    parent_id = identity.parent_id
    assert parent_id is not None  # noqa: S101 - only called for children
    while True:
        record = await core.store.load(parent_id)
        rows = () if record is None or record.head.status.terminal else record.waits
        row = next((row for row in rows if row.wait_id == CHILDREN_WAIT), None)
        if row is None:
            return await commit(work), None
        now = core.clock.now()
        status = work.start.status if isinstance(work, RunCreate) else work.status
        event = Event.trusted(
            CHILD_ENDED,
            {"run_id": identity.run_id, "completed": status is RunStatus.COMPLETED},
            id=identity.run_id,
            time=now,
            source="/child",
            key=None,
            headers={},
        )
        stored = StoredEvent(f"{LOOSE}{core.ids.uuid7(now)}", event)
        line = ReceiptLine(Verdict.RESUMED, None, None, parent_id)
        slots = 0 if record is None else slots_of(core.entries.get(record.identity.workflow_id))
        delivery = Delivery(parent_id, (Hit(CHILDREN_WAIT, row.epoch),), stored.ref, None, line, slots)
        changes = Changes(
            creates=(work,) if isinstance(work, RunCreate) else (),
            moves=(work,) if isinstance(work, RunMove) else (),
            events=(stored,),
            deliveries=(delivery,),
            hooks=pending,
            now=now,
        )
        try:
            with ending(core, pending):
                committed = await core.commit(changes)
        except WaitMoved:
            continue  # it has been paused or has continued meanwhile
        except FAULTS:
            find_promoted(core, work.release if isinstance(work, RunMove) else None)
            raise
        [outcome] = committed.delivered
        if outcome.fate is Fate.GONE:
            return committed, None
        message = Message(parent_id, outcome.seq, "event", now, None, stored)
        return committed, (message, outcome.fate is Fate.RESUMED)


def tell_parent(core: Core, notice: Notice) -> None:
    """Pass the end of a child on to its parent, once that is durable. A parent that was paused is `ready` now."""
    message, resumed = notice
    if not resumed:
        core.runs.deliver(message)
        return
    core.waits_for_slot(message.run_id)  # or for a claim
    core.wake_at(core.clock.now())


async def tell_parent_again(core: Core, identity: RunIdentity) -> None:
    """Pass the end of a run on to its parent, if it has one and that may not have been done: an answer was lost."""
    parent_id = identity.parent_id
    if parent_id is None:
        return
    messages = await patiently(core, lambda: core.store.inbox(parent_id, 0), f"reading run '{parent_id}'")
    for message in messages:
        if message.event is not None and message.event.event.id == identity.run_id:
            core.runs.deliver(message)  # a second time has no effect
    core.wake_at(core.clock.now())
