"""Runs as others see them: one, many, those in memory, their results and timelines, and the counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import Any, Final, Protocol

from poundlock.codecs import load
from poundlock.errors import InvalidEvent, RunAborted, RunDamaged, StateInvalid
from poundlock.guard import repr_of
from poundlock.model.calls import own, sums_of
from poundlock.model.comparing import Comparison, attempt_of, with_outcomes
from poundlock.model.comparing import Outcome as Ended
from poundlock.model.counting import Fits, tally_of
from poundlock.model.definitions import several
from poundlock.model.drafts import maker_of
from poundlock.model.events import is_text
from poundlock.model.hiding import NOTED, hidden_entries, noted_masks
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import Pauses, pause_in, pauses_of
from poundlock.model.runs import (
    CHILDREN_WAIT,
    HIDDEN_WAITS,
    Checkpoint,
    Message,
    RunError,
    RunIdentity,
    RunInfo,
    RunQuery,
    RunRecord,
    RunResult,
    WaitInfo,
    WaitRow,
    parked_waits,
    paused_children,
    wait_infos,
    waits_below,
)
from poundlock.model.timeline import Timeline, fold, read_entries
from poundlock.model.timeline_entry import TimelineEntry
from poundlock.model.views import MaskedView, StateView
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.forms import fits_with
from poundlock.pipeline.outcome import Aborted, Completed, Failed, Halted, Outcome, Paused
from poundlock.pipeline.states import shown
from poundlock.pipeline.waits import fits_of
from poundlock.pipeline.writing import creation_of
from poundlock.ports import Page, Store
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered
from poundlock.runtime.parked_run import ParkedRun
from poundlock.sensitive import Masks, concealed, masks_of, texts_at
from poundlock.stores.answers import not_found

LARGEST_PAGE = 500


class PipelineRegistry:
    """The runs of one workflow that are in this process's memory."""

    def __init__(self, core: Core, entry: Registered) -> None:
        self._core = core
        self._entry = entry

    def runs(self) -> list[RunInfo]:
        """Return them as they are now."""
        return [info for info in list_all_runs(self._core) if info.workflow_id == self._entry.id]

    def get(self, run_id: str) -> RunInfo | None:
        """Return one of them, or None."""
        return watch(self._core, self._entry.id, run_id)

    def __len__(self) -> int:
        return len(self.runs())

    def __contains__(self, run_id: str) -> bool:
        return self.get(run_id) is not None


async def get_run(core: Core, run_id: str, *, state: bool = False) -> RunInfo:
    """Return a run as it is stored; an invoked run that is not stored yet comes from memory."""
    if state:
        checkpoint = await _present(core, run_id)
        record = await with_children_now(core.store, checkpoint.record)
        shown = result_of_checkpoint(core, checkpoint)
        return _as_here(core, replace(info_of_record(record), state=shown.state, masks=shown.masks))
    found = await core.store.load(run_id)
    if found is not None:
        return _as_here(core, info_of_record(await with_children_now(core.store, found)))
    live = core.runs.live(run_id)
    if live is None:
        raise not_found(run_id)
    return _as_here(core, info_of_run(live.run))


async def with_children_now(store: Store, record: RunRecord) -> RunRecord:
    """Return a run with what its children wait for now, if it is paused because they are.

    Its row has what they waited for when it was paused itself; since then one may have gone on to its next wait.
    """
    row = next((row for row in record.waits if row.parked and row.wait_id == CHILDREN_WAIT), None)
    if row is None or record.head.status is not RunStatus.PAUSED:
        return record
    paused = []
    for child in paused_children(row):
        below = await store.load(child["run_id"])
        if below is not None and below.head.status is RunStatus.PAUSED:
            waits = parked_waits(child["run_id"], (await with_children_now(store, below)).waits)
            paused.append({**child, "waits": waits_below(f"{row.resume_at}/{child['child']}", waits)})
    now = row._replace(patch={"paused": paused})
    return record._replace(waits=tuple([now if each is row else each for each in record.waits]))


def _as_here(core: Core, info: RunInfo) -> RunInfo:
    """Return it with the pause of its workflow, and with the progress of its steps if this process drives it."""
    if core.pauses:
        info = with_workflow(info, core.pauses)
    live = core.runs.driven(info.run_id)
    if live is None or live.run.reports is None or info.status is not RunStatus.RUNNING:
        return info
    return replace(info, progress=live.run.reports.at(live.run.entered_at))


def with_workflow(info: RunInfo, pauses: Pauses) -> RunInfo:
    """Return it with the pause of its workflow, if that is paused and the run has not ended."""
    paused = None if info.status.terminal else pause_in(pauses, info.workflow_id)
    return info if paused is None else replace(info, paused_by=(*info.paused_by, paused.shown()))


async def as_it_is(core: Core, run_id: str) -> RunResult:
    """Return the present result of a run, whatever its status; from memory if it is not stored yet."""
    return await result_now(core, await _present(core, run_id))


async def waits_now(core: Core, result: RunResult) -> RunResult:
    """Return the result of a paused run with what its children wait for now."""
    record = await core.store.load(result.run_id)
    if record is None or record.head.status is not RunStatus.PAUSED:
        return result
    return replace(result, waits=parked_waits(result.run_id, (await with_children_now(core.store, record)).waits))


async def result_now(core: Core, checkpoint: Checkpoint) -> RunResult:
    """Return what a run has come to, with what its children wait for now."""
    record = await with_children_now(core.store, checkpoint.record)
    return result_of_checkpoint(core, checkpoint._replace(record=record))


async def _present(core: Core, run_id: str) -> Checkpoint:
    """Return a run as of its last commit, or as it is going to be created."""
    checkpoint = await core.store.checkpoint(run_id)
    if checkpoint is not None:
        return checkpoint
    live = core.runs.live(run_id)
    if live is None:
        raise not_found(run_id)
    create = creation_of(live.run)
    log = create.start.log
    return Checkpoint(create.record, fold(() if log is None else (log,)), live.run.event, (), 0, 0)


def query(
    workflow: str | None,
    status: RunStatus | str | Sequence[RunStatus | str] | None,
    key: str | None,
    text: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    cursor: str | None,
) -> RunQuery:
    """Return a checked query.

    Raises:
        InvalidEvent: a filter is not valid; `path` names it.
    """
    if type(limit) is not int or not 1 <= limit <= LARGEST_PAGE:
        raise InvalidEvent(f"limit is {repr_of(limit, 60)}: ask for 1 to {LARGEST_PAGE} runs per page", path="limit")
    for path, words in (("workflow", workflow), ("key", key), ("text", text), ("cursor", cursor)):
        if words is not None and not is_text(words):
            raise InvalidEvent(f"{path} is {repr_of(words, 60)}: give text", path=path)
    for path, moment in (("since", since), ("until", until)):
        if moment is not None and (type(moment) not in (int, float) or isnan(moment)):
            raise InvalidEvent(
                f"{path} is {repr_of(moment, 60)}: give seconds since 1970, as `datetime.timestamp()` returns them",
                path=path,
            )
    wanted = () if status is None else (status,) if isinstance(status, str) else several(status)
    try:
        statuses = tuple(RunStatus(name) for name in wanted)
    except ValueError as error:
        known = ", ".join(RunStatus)
        raise InvalidEvent(f"{error}: use {known}", path="status") from None
    return RunQuery(workflow, statuses, key, text, since, until, limit, cursor)


async def find_runs(core: Core, wanted: RunQuery) -> Page[RunInfo]:
    """Return stored runs, newest first."""
    page = await core.store.find(wanted)
    return Page([_as_here(core, info_of_record(record)) for record in page.items], page.next_cursor)


def watch(core: Core, workflow_id: str, run_id: str) -> RunInfo | None:
    """Return a run in memory, or None."""
    live = core.runs.live(run_id)
    if live is not None:
        return _as_here(core, info_of_run(live.run)) if live.entry.id == workflow_id else None
    parked = core.runs.parked(run_id)
    if parked is None or parked.entry.id != workflow_id:
        return None
    return _as_here(core, info_of_parked(parked, core.clock.now()))


def list_all_runs(core: Core) -> list[RunInfo]:
    """Return all runs in memory: driven ones first, then parked ones."""
    now = core.clock.now()
    worked_on = [_as_here(core, info_of_run(live.run)) for live in core.runs.all_live()]
    return worked_on + [_as_here(core, info_of_parked(parked, now)) for parked in core.runs.all_parked()]


async def compare(core: Core, a: tuple[str, int | None], b: tuple[str, int | None]) -> Comparison:
    """Return how two runs differ, each given with the attempt that counts; None: the last one."""
    sides = []
    for run_id, attempt in (a, b):
        checkpoint, whole = await _present(core, run_id), await timeline(core, run_id)
        sides.append(side_of(checkpoint, whole, attempt, await masks_for(core, run_id, whole.entries)))
    return compare_sides(*sides)


Side = tuple[Timeline, Ended]
"""One side of a comparison: a timeline up to the end of an attempt, and what that came to."""


def side_of(checkpoint: Checkpoint, whole: Timeline, attempt: int | None, masks: Masks) -> Side:
    """Return a run as one side of a comparison, from its timeline as it is shown; `masks`: what is hidden in it."""
    head = checkpoint.record.head
    result, error = outcome_of(head.outcome)
    secrets = texts_at(checkpoint.state, masks) | texts_at(checkpoint.event.payload, masks)
    result = concealed(result, secrets)
    last = Ended(str(head.status), result, None if error is None else str(error))
    entries, came_to = attempt_of(whole.run_id, whole.entries, attempt, head.attempt, last)
    return (whole if len(entries) == len(whole) else Timeline(whole.run_id, entries)), came_to


def compare_sides(a: Side, b: Side) -> Comparison:
    """Return how two sides differ."""
    return with_outcomes(a[0].compare(b[0]), a[1], b[1])


async def timeline(core: Core, run_id: str) -> Timeline:
    """Return a run's timeline."""
    rows = await core.store.history(run_id)
    if not rows and await core.store.load(run_id) is None:
        raise not_found(run_id)
    entries = read_entries(rows)
    if core.hides or any(entry.type == NOTED for entry in entries):
        entries, _ = hidden_entries(entries, await masks_for(core, run_id, entries))
    return Timeline(run_id, entries)


async def hidden_for_sink(core: Core, run_id: str, entries: list[TimelineEntry], noted: Masks) -> list[TimelineEntry]:
    """Return some entries of a run as they are shown, where those before them are not at hand.

    What is hidden in them is known from the run's present state and event, and from what the run has noted.
    """
    masks = noted
    secrets: set[str] = set()
    if core.hides:
        masks = (*masks, *await masks_for(core, run_id, ()))
        secrets = await secrets_now(core, run_id, masks)
    return hidden_entries(entries, masks, secrets)[0]


async def secrets_now(core: Core, run_id: str, masks: Masks) -> set[str]:
    """Return the texts of what is hidden in a run's present state, and in its event."""
    checkpoint = await core.store.checkpoint(run_id) if masks else None
    return (
        set() if checkpoint is None else texts_at(checkpoint.state, masks) | texts_at(checkpoint.event.payload, masks)
    )


async def masks_for(core: Core, run_id: str, entries: Sequence[TimelineEntry]) -> Masks:
    """Return where values are hidden in a run: as its timeline says, and as its workflow does, if it is registered."""
    found = noted_masks(entries)
    record = await core.store.load(run_id) if core.hides else None
    entry = None if record is None else core.entries.get(record.identity.workflow_id)
    plan = None if entry is None or record is None else entry.plans.get(record.identity.pipeline_id)
    return found if plan is None or plan.secrets is None else (*found, *plan.secrets.masks)


_TIMED: Final = (RunStatus.PAUSED, RunStatus.DELAYED)
_OF_CALLS: Final = ("", ":input_tokens", ":output_tokens", ":cost")


def statistics(core: Core) -> Mapping[str, float]:
    """Return counters."""
    outbox, dead = core.store.undelivered
    held = Counter(
        {
            "workflows": len(core.entries),
            "runs:live": len(core.runs.all_driven()),
            "runs:parked": core.runs.parked_count,
            "workflows:paused": len(core.pauses),
            "outbox": outbox,
            "dead_letters": dead,
            "holds": core.store.holding,
        }
    )
    size = core.store.size
    stored = {"store:bytes": size, "store:bytes:grown": size - core.size_at_start} if size else {}
    spent = {
        f"calls:{workflow_id}{name}": number
        for workflow_id, usage in core.supervision.spent.items()
        for name, number in zip(_OF_CALLS, usage, strict=True)
    }
    return {**core.counters, **held, **stored, **spent}


_make: Final = maker_of(RunResult)


def info_of_record(record: RunRecord) -> RunInfo:
    """Return a stored run as others see it."""
    head = record.head
    return _info(record.identity, head, head.stage, record.waits, outcome_of(head.outcome)[1])


def info_of_run(run: ActiveRun) -> RunInfo:
    """Return a run in this process's memory as others see it.

    Uncommitted changes are not shown, because they may be undone: so this is equal to what the store has.
    """
    if not run.written:
        return _info(run.identity, run, run.stage, run.waits, None)
    rows = _counted_now(run.stored_waits, (*run.buffer, *run.inbox), run.clock.now(), fits_of(run))
    return _info(run.identity, run, run.stored_stage, rows, outcome_of(run.stored_outcome)[1])


def info_of_parked(parked: ParkedRun, now: float) -> RunInfo:
    """Return a run that is parked in this process's memory as others see it."""
    record = parked.record()
    plan = parked.entry.plans.get(parked.identity.pipeline_id)
    fits = fits_with({} if plan is None else plan.waits)
    rows = _counted_now(record.waits, parked.messages, now, fits) if parked.messages else record.waits
    return info_of_record(record._replace(waits=rows))


def _counted_now(rows: tuple[WaitRow, ...], messages: Sequence[Message], now: float, fits: Fits) -> tuple[WaitRow, ...]:
    """Return waits with what counts for them now: in memory, a row is as the run's last commit left it."""
    if not any(row.rules is not None and row.rules.several for row in rows):
        return rows
    return tuple([row._replace(tally=tally_of(row, messages, now, fits)) for row in rows])


class _Head(Protocol):
    """What a stored run's head and a run in memory have in common."""

    @property
    def status(self) -> RunStatus: ...
    @property
    def attempt(self) -> int: ...
    @property
    def updated_at(self) -> float: ...
    @property
    def wake_at(self) -> float | None: ...


def _info(
    identity: RunIdentity, head: _Head, stage: str | None, waits: tuple[WaitRow, ...], error: RunError | None
) -> RunInfo:
    status = head.status
    rows = () if status.terminal else waits
    return RunInfo(
        run_id=identity.run_id,
        workflow_id=identity.workflow_id,
        pipeline_id=identity.pipeline_id,
        status=status,
        stage=stage,
        key=identity.key,
        attempt=head.attempt,
        waits=_waits(identity.run_id, rows, paused=status is RunStatus.PAUSED),
        created_at=identity.created_at,
        updated_at=head.updated_at,
        parent_id=identity.parent_id,
        lineage=identity.lineage,
        error=error,
        trigger_id=identity.trigger_id,
        wake_at=head.wake_at if status in _TIMED else None,
        paused_by=pauses_of(rows),
    )


def _waits(run_id: str, rows: tuple[WaitRow, ...], *, paused: bool) -> tuple[WaitInfo, ...]:
    """Return a run's waits, the one it is paused at first: so `waits[0]` is the same here and in a RunResult."""
    # An answered wait stays marked until the run's next boundary, so that a crash does not lose the answer.
    # A failure that is being handled is no wait, nor is an end that is pending.
    shown = [row for row in rows if row.parked or row.wait_id not in HIDDEN_WAITS]
    infos = [info for row in shown for info in wait_infos(run_id, row, parked=row.parked and paused)]
    return tuple(sorted(infos, key=lambda info: not info.parked))


def outcome_of(text: str | None) -> tuple[Any, RunError | None]:
    """Return the result and the error a run's head records."""
    if text is None:
        return None, None
    try:
        record = load(text)
    except ValueError:  # it must not keep others from being listed
        said = "what it came to is damaged in the store: restore that from a backup"
        return None, RunError(RunDamaged.__name__, said, RunDamaged.code)
    error = record.get("error")
    return record.get("result"), None if error is None else RunError(**error)


def result_of(core: Core, run: ActiveRun, status: RunStatus, outcome: Outcome) -> RunResult:
    """Return the result of driving a run, for those who wait for it; never raises, whatever the state's model does."""
    result, error = None, None
    waits: tuple[WaitInfo, ...] = ()
    if isinstance(outcome, Completed):
        result = outcome.result
    elif isinstance(outcome, Failed):
        error = outcome.error
    elif isinstance(outcome, Aborted):
        error = aborted_error(outcome.reason, outcome.by)
    elif isinstance(outcome, Paused):
        waits = parked_waits(run.run_id, run.waits)
    elif isinstance(outcome, Halted):
        waits, error = parked_waits(run.run_id, run.waits), outcome.error
    known = metadata(core, run.attempt, None if run.reports is None else run.reports.calls)
    if run.pausing and not status.terminal:
        known = _with_pauses(core, run.identity, run.waits, known)
    model = run.plan.state_model
    secrets = run.plan.secrets
    masks = () if secrets is None else secrets.masks
    if model is None and status.terminal and run.identity.owns_event and not masks:
        # Runs that one event has started share its payload in their states; this one shares it with nobody.
        state: Any = StateView.over(run.state)
    else:
        state, known = _state_of(model, run.state, known, masks)
    masks = () if model is None else masks
    return _make(run.run_id, run.identity.workflow_id, status, state, result, error, waits, known, masks)


def result_of_checkpoint(core: Core, checkpoint: Checkpoint) -> RunResult:
    """Return the result of a stored run; never raises, whatever the state's model does."""
    record = checkpoint.record
    result, error = outcome_of(record.head.outcome)
    entry = core.entries.get(record.identity.workflow_id)
    model = entry.definition.state_of(record.identity.pipeline_id) if entry is not None else None
    known = metadata(core, record.head.attempt, sums_of(record))
    plan = None if entry is None else entry.plans.get(record.identity.pipeline_id)
    masks = () if plan is None or plan.secrets is None else plan.secrets.masks
    if not record.head.status.terminal:
        known = _with_pauses(core, record.identity, record.waits, known)
    state, known = _state_of(model, checkpoint.state, known, masks)
    return RunResult(
        run_id=record.identity.run_id,
        workflow_id=record.identity.workflow_id,
        status=record.head.status,
        state=state,
        result=result,
        error=error,
        waits=parked_waits(record.identity.run_id, record.waits) if record.head.status is RunStatus.PAUSED else (),
        metadata=known,
        masks=() if model is None else masks,
    )


def _with_pauses(
    core: Core, identity: RunIdentity, waits: Sequence[WaitRow], known: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the metadata of a run with those who have paused it, if somebody has."""
    workflow = core.pause_of(identity.workflow_id)
    pauses = (*pauses_of(waits), *(() if workflow is None else (workflow.shown(),)))
    return {**known, "paused_by": [pause.to_dict() for pause in pauses]} if pauses else known


def _state_of(
    model: Any, state: dict[str, Any], known: Mapping[str, Any], masks: Masks
) -> tuple[Any, Mapping[str, Any]]:
    """Return a state as users see it, and the metadata: a state that does not fit its model is shown as it is."""
    if model is None:
        return MaskedView.of(state, masks), known
    try:
        return shown(model, state), known
    except StateInvalid as error:
        return MaskedView.of(state, (*masks, *masks_of(model))), {**known, "state_invalid": error.message}


def aborted_error(reason: str, by: str) -> RunError:
    """Return the error of an aborted run: by whom and why."""
    whom = f" by {by}" if by else ""
    return RunError("RunAborted", f"aborted{whom}: {reason}" if reason else f"aborted{whom}", RunAborted.code)


def metadata(core: Core, attempt: int, calls: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the metadata of a result; `calls`: sums of the calls that were recorded, if any."""
    known: dict[str, Any] = {"attempt": attempt, "durability": core.store.durability}
    if calls is not None:
        known["calls"] = own(calls)
    return known
