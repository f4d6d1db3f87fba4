"""A run as data: an identity that never changes, a small head that changes with every commit, and its messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from poundlock.model.buffers import EMPTY, Tally, WaitRules, progress
from poundlock.model.conditions import Condition, all_match, has
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.patterns import type_matches
from poundlock.records import NamedTuple, dataclass, field
from poundlock.sensitive import NO_MASKS, Masks
from poundlock.showing import plain, plain_beside, plain_state, told


class RunIdentity(NamedTuple):
    """The data of a run that is fixed at its creation. Created once, then shared.

    `load_key` is the partition of the workflow's load in which this run counts ("" if the mode has no key); None for
    invoked runs, which count in no load. `event_ref` names the stored event that started it.
    """

    run_id: str
    workflow_id: str
    trigger_id: str | None
    pipeline_id: str
    definition_hash: str
    key: str | None
    load_key: str | None
    priority: int
    parent_id: str | None
    lineage: tuple[str, ...]
    created_at: float
    event_ref: str

    @property
    def above(self) -> tuple[str, ...]:
        """The runs above a child, the first one first; none above a fork, whose lineage says where it comes from."""
        return () if self.parent_id is None else self.lineage

    @property
    def owns_event(self) -> bool:
        """Whether its event is its own: it was invoked, or the only run that the event started or was delivered to."""
        return self.event_ref == self.run_id


@dataclass(slots=True)
class RunHead:
    """The data of a run that changes. `version` grows by one per commit, `epoch` with each new owner.

    `stage` is the stage to enter next, or (paused) the one to resume at. `outcome` is the JSON text of
    `{"result": ...}` or `{"error": {...}}` after the end; a paused run has an error if its state does not match its
    model. `slot`: whether it counts as active in its load, or `NEEDS_SLOT`. `wake_at` of a run that is not paused or
    delayed any more: it went on because this time had come, and had to wait for a slot.
    `visits`: how often it entered its stages, see `visits.py`.
    """

    status: RunStatus
    version: int
    owner: str | None
    epoch: int
    stage: str | None
    attempt: int
    wake_at: float | None
    outcome: str | None
    slot: bool | int
    inbox_seq: int
    log_seq: int
    updated_at: float
    visits: str | None = None


NEEDS_SLOT: Final = 2
"""A value of `RunHead.slot` beside True and False: the run is `ready`, but waits for a slot before it goes on.

It had given its slot back when it paused, was resumed, and counts as `returning` in its load.
"""


class WaitRow(NamedTuple):
    """One armed wait of a run. All StateRefs are resolved, so it is plain data.

    `parked`: the run is paused at this wait; otherwise the wait only buffers events. `patch` None merges the event's
    payload; "call" means that the definition has a function. `keys` are the index keys for events. `leads_to`: pairs of
    an event type or pattern and the stage it leads to; empty if all lead to `resume_at`.
    `early` False: only events with a later inbox sequence than `asked_at` count; None: the question is not open.
    `rules`: how it counts events; None for the usual ones. `question`: number of its question, different for each that
    the run asks; 0 while none is open. `tally`: the buffered events that count for it, see `buffers.py`; None for none.
    """

    wait_id: str
    epoch: int
    parked: bool
    events: tuple[str, ...]
    where: tuple[Condition, ...]
    correlate: tuple[tuple[str, Any], ...]
    resume_at: str | None
    on_timeout: str
    expires_at: float | None
    patch: Mapping[str, Any] | Literal["call"] | None
    keys: tuple[str, ...]
    leads_to: tuple[tuple[str, str], ...] = ()
    early: bool = True
    rules: WaitRules | None = None
    asked_at: int | None = None
    question: int = 0
    tally: Tally | None = None

    @property
    def own(self) -> bool:
        """Whether it is one of the reserved ones, which no user has declared."""
        return self.wait_id.startswith("__")

    @property
    def counting(self) -> bool:
        """Whether events that match count now."""
        return self.early or self.asked_at is not None

    def stage_after(self, event_type: str | None) -> str | None:
        """Return the stage that an event of this type, or an answer without one (None), leads to."""
        if event_type is None or not self.leads_to:
            return self.resume_at
        for pattern, stage in self.leads_to:
            if pattern == event_type:
                return stage
        return next((stage for pattern, stage in self.leads_to if type_matches(pattern, event_type)), self.resume_at)

    def matches(self, event: Event) -> bool:
        """Whether the event matches this wait, counting or not."""
        for pattern in self.events:
            if type_matches(pattern, event.type):
                break
        else:
            return False
        payload = event.payload
        for path, value in self.correlate:
            if not has(payload, path, value):
                return False
        return all_match(self.where, payload)

    def parked_until(
        self,
        expires_at: float | None,
        epoch: int,
        resume_at: str | None,
        asked_at: int | None,
        question: int = 0,
    ) -> WaitRow:
        """Return this wait with a run paused at it; it is another wait then, with an epoch of its own.

        `question`: the number of the question that is asked again; 0 asks a new one.
        """
        wait_id, _, _, events, where, correlate, _, on_timeout, _, patch, keys, leads_to, early, rules, _, _, _ = self
        of_wait = (wait_id, epoch, True, events, where, correlate, resume_at, on_timeout, expires_at, patch, keys)
        return new_tuple(WaitRow, (*of_wait, leads_to, early, rules, asked_at, question or epoch, None))

    def left(self, *, answered: bool, epoch: int) -> WaitRow:
        """Return this wait after the run has left it: it only buffers.

        An answer closes its question. With `early` False it gets the new epoch then: a sender that still saw the open
        question has to match its event again.
        """
        wait_id, epoch_before, _, events, where, correlate, resume_at, on_timeout, _, patch, keys, *rest = self
        leads_to, early, rules, asked_at, question, tally = rest
        if answered:
            question = 0
            if not early:
                epoch_before, asked_at, tally = epoch, None, None
        of_wait = (wait_id, epoch_before, False, events, where, correlate, resume_at, on_timeout, None, patch, keys)
        return new_tuple(WaitRow, (*of_wait, leads_to, early, rules, asked_at, question, tally))

    def token(self, run_id: str) -> str:
        """Return what names the question that the run asks at this wait: "run/wait/number"."""
        return f"{run_id}/{self.wait_id}/{self.question}"


FAILURE_WAIT: Final = "__failure__"
"""Reserved id. Parked: the run is paused because a stage failed. Else it holds the failure that the run is handling.

No event matches it; its `patch` is the error as data, so that it is stored with the run's waits.
"""

UNDO_WAIT: Final = "__undo__"
"""Reserved id. While a run is undoing, this row holds how it ends: with which error, or by whose request."""

VISIT_WAIT: Final = "__visit__"
"""Reserved id. While a stage is in the middle of a visit that has a memo, this row says which, and where it began."""

GENERATION_WAIT: Final = "__generation__"
"""Reserved id. How often a durable function has begun again in this run, and with which input."""

DIVERGED_WAIT: Final = "__diverged__"
"""Reserved id. The run is paused because its durable function does not fit its record."""

CHILDREN_WAIT: Final = "__children__"
"""Reserved id. The run waits for its children: the end of one is an event of the type `CHILD_ENDED`.

Parked: all children that have not ended are paused, and its `patch` says at which waits.
"""

CHILD_ENDED: Final = "poundlock.child.ended"
"""Type of the event by which a run learns that one of its children has ended. Nobody else can send it to the run."""

DEADLINE_WAIT: Final = "__deadline__"
"""Reserved id. What a run has to know about its deadline beyond its definition, see `deadlines.py`."""

CALLS_WAIT: Final = "__calls__"
"""Reserved id. The sums of the calls of models that a run has recorded, see `calls.py`."""

ADDRESS_WAIT: Final = "__address__"
"""Reserved id. Where a child of the run's next stage begins, see `JumpTo`."""

DEFINITION_WAIT: Final = "__definition__"
"""Reserved id. The definition that the run's state was migrated for, by its hash; without it, the run's own counts."""

MENDED_WAIT: Final = "__mended__"
"""Reserved id. The run was retried, rerun or forked, and its new attempt has not begun: `on_prepare` is to be called.
"""

OPERATOR_WAIT: Final = "__operator__"
"""Reserved id. Who has paused the run besides its workflow, see `operator_pause.py`. No row of it is ever parked."""

HIDDEN_WAITS: Final = (
    ADDRESS_WAIT,
    CALLS_WAIT,
    CHILDREN_WAIT,
    DEADLINE_WAIT,
    DEFINITION_WAIT,
    FAILURE_WAIT,
    GENERATION_WAIT,
    MENDED_WAIT,
    OPERATOR_WAIT,
    UNDO_WAIT,
    VISIT_WAIT,
)
"""What they hold is not a wait, unless the run is paused at it."""


def own_row(
    wait_id: str,
    *,
    epoch: int,
    on_timeout: str,
    parked: bool = False,
    resume_at: str | None = None,
    patch: Mapping[str, Any] | None = None,
) -> WaitRow:
    """Return a row under a reserved id, which keeps something with the run's waits: no event and no time answers it."""
    return WaitRow(
        wait_id=wait_id,
        epoch=epoch,
        parked=parked,
        events=(),
        where=(),
        correlate=(),
        resume_at=resume_at,
        on_timeout=on_timeout,
        expires_at=None,
        patch=patch,
        keys=(),
    )


LOOSE: Final = " "
"""First character of the reference of an event that started no run: it is deleted when no inbox refers to it.

An invoked run shares its id with its event, and no id begins with a blank, so the two kinds cannot be confused.
"""


class StoredEvent(NamedTuple):
    """An accepted event under the reference that runs and inboxes share.

    All references to it are written by the commit that stores it. See `LOOSE` for an event that is only delivered.
    `payload` is the JSON text of its payload, where that is at hand, so that a store need not encode it again.
    """

    ref: str
    event: Event
    payload: str | None = None


class Message(NamedTuple):
    """A message to a run, in order of arrival.

    kind "event": `event` is set; `body` is {"answers": [id, epoch]} if its delivery decided that it answers this wait,
    one with rules: the run was paused there, and had enough events that were not too old. "signal": `body` is the
    patch. "abort": `body` is {"reason", "by"}. "resume", the answer to the wait that the run is paused at: `body` is
    {"patch"}, None if the answer changes nothing, and "event", the event type that it stands for, at a wait whose event
    types lead to different stages; and "wait", the wait's id, where a durable function waits for several things.
    "pause" and "unpause", from operators: `body` is {"scope", "reason", "by"}.
    """

    run_id: str
    seq: int
    kind: Literal["event", "signal", "abort", "resume", "pause", "unpause"]
    time: float
    body: Mapping[str, Any] | None
    event: StoredEvent | None


class RunRecord(NamedTuple):
    """A run as stored."""

    identity: RunIdentity
    head: RunHead
    waits: tuple[WaitRow, ...]


def delay_is_over(record: RunRecord) -> bool:
    """Whether a run that goes on was delayed until a time that has come, and then waited for a slot."""
    # One that was paused with its workflow has a wake time too.
    rows = record.waits
    return record.head.wake_at is not None and not any(row.parked or row.wait_id == OPERATOR_WAIT for row in rows)


class Checkpoint(NamedTuple):
    """Everything needed to continue a run: its record, state, event, and unconsumed messages.

    The sizes tell when the next snapshot is due; without them a run that is loaded in each round of a loop would never
    write one: `log_size` is the length of the log's texts since the last snapshot, in characters, `snapshot_size` the
    length of that snapshot (0: there is none).
    """

    record: RunRecord
    state: dict[str, Any]
    event: Event
    inbox: tuple[Message, ...]
    log_size: int
    snapshot_size: int


class LogRow(NamedTuple):
    """The timeline entries and state deltas of one commit.

    `text` is a JSON array of `size` entries, see `timeline.py`; the first of them has the sequence `first_seq`.
    """

    first_seq: int
    size: int
    text: str


@dataclass(frozen=True, slots=True)
class RunQuery:
    """The filter of `find`; None and empty mean any. Newest runs first."""

    workflow: str | None = None
    status: tuple[RunStatus, ...] = ()
    key: str | None = None
    text: str | None = None
    since: float | None = None
    until: float | None = None
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class WaitInfo:
    """What a run waits for.

    Attributes:
        id: name of the wait.
        events: event types or patterns; any of them is an answer.
        where: conditions on the event's payload.
        correlate: {path in the payload: value that the run has}.
        parked: whether the run is paused at it; False: it only buffers events for later.
        expires_at: when its time is out, in seconds since 1970 UTC; None: never, or the run is not paused at it.
        resume_at: id of the stage to go on with; None: the end, or `leads_to` says it.
        leads_to: {event type or pattern: id of the stage it leads to}; empty if all lead to `resume_at`.
        token: names the question that the run asks here: `resume(wait=)` with it answers this one and no later one. It
            stays the same while the run asks again with the same values, as after a reminder. None: it only buffers.
        mode: how many events it takes: "any" (one), "all" (one of each type) or a number.
        have, need: how many of them have come, and how many it takes; of a single one, none has come yet.
        form: JSON schema of what an answer has to contain; None: anything.
    """

    id: str
    events: tuple[str, ...]
    where: tuple[Condition, ...]
    correlate: Mapping[str, Any]
    parked: bool
    expires_at: float | None
    resume_at: str | None
    leads_to: Mapping[str, str] = field(default_factory=dict)
    token: str | None = None
    mode: Literal["any", "all"] | int = "any"
    have: int = 0
    need: int = 1
    form: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the wait as data that `json.dumps` takes. Each of `where` is `field`, `op` and `value`."""
        return plain(wait_shape(self))  # type: ignore[no-any-return]  # a dict in, a dict out


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a stage failed, for the stage that its `on_failure` leads to.

    Attributes:
        type: name of the exception's class; "Fail" for the instruction.
        message: what it says.
        stage: id of the stage that failed.
        step: id of the step that failed; None where it was not a step.
        attempt: how many attempts the step had made.
    """

    type: str
    message: str
    stage: str | None
    step: str | None
    attempt: int


@dataclass(frozen=True, slots=True)
class RunError:
    """Why a run failed or was aborted.

    Attributes:
        type: name of the exception's class, "Fail" or "RunAborted".
        message: what it says.
        code: code of a PoundlockError; None for other exceptions.
        stage, step: where; None where it was neither.
        traceback: for developers; "" where there is none.
        attempt: how many attempts the step had made, the last one included.
    """

    type: str
    message: str
    code: str | None = None
    stage: str | None = None
    step: str | None = None
    traceback: str = ""
    attempt: int = 1

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type

    def to_dict(self) -> dict[str, Any]:
        """Return type, message, code, stage and step as data; the traceback is left out, it is for developers."""
        return plain(error_shape(self))  # type: ignore[no-any-return]  # a dict in, a dict out


@dataclass(frozen=True, slots=True)
class StepProgress:
    """How far a step is, as it says itself with `ctx.progress` and `ctx.heartbeat`.

    Attributes:
        stage, step: ids of the stage and the step.
        done: how much is done; None if it only gave a sign of life.
        of: of how much; None if it does not know.
        message: what it is doing; "" if it does not say.
        time: of its last report or sign of life, in seconds since 1970 UTC.
    """

    stage: str
    step: str
    done: float | None
    of: float | None
    message: str
    time: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as data that `json.dumps` takes."""
        return progress_shape(self)


@dataclass(frozen=True, slots=True)
class OperatorPause:
    """Somebody has paused a run, beyond the waits of its own.

    Attributes:
        scope: "run": by its id; "parent": with the run that started it; "workflow" or "all": with all runs of its
            workflow, or of all workflows.
        reason: why, as given; "" if no reason was given.
        by: who: "api", "cli" or a name.
        since: seconds since 1970 UTC.
    """

    scope: str
    reason: str
    by: str
    since: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as data that `json.dumps` takes."""
        return {"scope": self.scope, "reason": self.reason, "by": self.by, "since": self.since}


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A run as it is in the store or in memory.

    `await runtime.get_run(run_id, state=True)` reads its state too; lists leave it out.

    Attributes:
        run_id, workflow_id, pipeline_id, trigger_id: which run it is. `trigger_id` is None without a trigger.
        status: queued, ready, running, paused, delayed, completed, failed or aborted.
        stage: id of the stage it is in, is paused at, goes on with, or failed in; None when it is completed.
        key: partition key of its mode or trigger, else the event's key; what `find_runs(key=)` looks for.
        attempt: from 1; one more each time it is taken over after a crash, retried or rerun.
        waits: the wait it is paused at comes first, then those it buffers events for.
        created_at, updated_at: seconds since 1970 UTC.
        wake_at: when it goes on by itself, in seconds since 1970 UTC: end of a delay, timeout of a wait, or deadline.
        parent_id: the run that started it as its child; else None.
        lineage: the runs that it comes from, the first one first: those above a child, and for a fork the run it was
            forked from and all that comes from; else ().
        error: why it failed or was aborted, or why its state does not fit its model; else None.
        state: an instance of the workflow's state model, or a read-only mapping without one, or where it does not fit;
            None unless it was asked for.
        progress: how far its present steps are, those that say so, if this process drives the run; else empty.
        paused_by: by whom it is paused besides its own waits, see `runtime.pause`; a queued run keeps its place
            meanwhile. Empty if nobody has.
    """

    run_id: str
    workflow_id: str
    pipeline_id: str
    status: RunStatus
    stage: str | None
    key: str | None
    attempt: int
    waits: tuple[WaitInfo, ...]
    created_at: float
    updated_at: float
    parent_id: str | None
    lineage: tuple[str, ...]
    error: RunError | None
    trigger_id: str | None = None
    wake_at: float | None = None
    state: Any = None
    progress: tuple[StepProgress, ...] = ()
    paused_by: tuple[OperatorPause, ...] = ()
    masks: Masks = field(default=NO_MASKS, repr=False, compare=False)
    """What is hidden in the state besides what its model marks."""

    def to_dict(self) -> dict[str, Any]:
        """Return the run as data that `json.dumps` takes; never raises.

        The keys are the names of the fields; times are seconds since 1970, `waits`, `progress` and `paused_by` lists,
        `error` an object or None; `state` is there if it was asked for.
        """
        shape = run_shape(self)
        if self.state is None:
            return plain(shape)  # type: ignore[no-any-return]  # a dict in, a dict out
        shape["state"] = plain_state(self.state, self.masks)
        return plain_beside(shape, self.state, self.masks)  # type: ignore[no-any-return]  # likewise

    def __repr__(self) -> str:
        """Return its fields as text, without what is sensitive."""
        return told(self, self.state)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to, at its end or at a pause; or what it is now, with `until="accepted"`.

    `ok` is True for completed, and for paused unless an error is the reason.

    Attributes:
        run_id, workflow_id: which run it is.
        status: completed, failed, aborted or paused; ready after a `resume` where its workflow is not registered; any
            other one with `until="accepted"`.
        state: an instance of the workflow's state model, or a read-only mapping.
        result: what `Terminate(result)` was given; else None.
        error: why it failed, was aborted, or is paused with an error; else None.
        waits: what it is paused at; empty if it is not paused.
        metadata: `durability` ("memory", "committed" or "fsynced") and `attempt`; `calls`, the sums of what its steps
            recorded with `ctx.record_call`, if they did: `calls`, `input_tokens`, `output_tokens`, `cost`, and the same
            by stage under `stages`. `replayed` is True for `on_complete`, if that was pending when the process ended.
            by stage under `stages`. `paused_by`, if it is paused by an operator: by whom, as `RunInfo.paused_by`.
    """

    run_id: str
    workflow_id: str
    status: RunStatus
    state: Any
    result: Any
    error: RunError | None
    waits: tuple[WaitInfo, ...]
    metadata: Mapping[str, Any]
    masks: Masks = field(default=NO_MASKS, repr=False, compare=False)
    """What is hidden in the state besides what its model marks."""

    @property
    def ok(self) -> bool:
        """Whether the run is completed, or paused at a wait of its own: not because of an error."""
        return self.error is None and self.status in (RunStatus.COMPLETED, RunStatus.PAUSED)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as data that `json.dumps` takes; never raises.

        The keys are `ok` and the names of the fields; state and result become plain JSON: dates ISO 8601 text,
        Decimals and UUIDs text, models objects. `error` is an object without the traceback, or None.
        """
        shape = {
            "run_id": self.run_id,
            "workflow_id": self.workflow_id,
            "status": str(self.status),
            "ok": self.ok,
            "state": plain_state(self.state, self.masks),
            "result": self.result,
            "error": error_shape(self.error),
            "waits": [wait_shape(wait) for wait in self.waits],
            "metadata": self.metadata,
        }
        return plain_beside(shape, self.state, self.masks)  # type: ignore[no-any-return]  # a dict in, a dict out

    def __repr__(self) -> str:
        """Return its fields as text, without what is sensitive."""
        return told(self, self.state)


def wait_info(run_id: str, row: WaitRow, *, parked: bool) -> WaitInfo:
    """Return a wait as users see it; `parked`: whether the run is paused at it now."""
    resume_at = None if row.leads_to else row.resume_at
    correlate, leads_to = dict(row.correlate), dict(row.leads_to)
    token = row.token(run_id) if parked else None
    of_wait = (row.wait_id, row.events, row.where, correlate, parked, row.expires_at, resume_at, leads_to, token)
    rules = row.rules
    if rules is None:
        return WaitInfo(*of_wait)
    keys = [part.key for part in (row.tally or EMPTY).parts] if rules.several else []
    have, need = progress(rules, row.events, keys)
    return WaitInfo(*of_wait, rules.mode, min(have, need), need, rules.form)


def parked_waits(run_id: str, waits: Sequence[WaitRow]) -> tuple[WaitInfo, ...]:
    """Return the waits a paused run is paused at; while it waits for its children, those of the children."""
    return tuple(info for row in waits if row.parked for info in wait_infos(run_id, row, parked=True))


def wait_infos(run_id: str, row: WaitRow, *, parked: bool) -> list[WaitInfo]:
    """Return a wait as users see it; a wait for children as their waits, each by its address."""
    if row.wait_id != CHILDREN_WAIT:
        return [wait_info(run_id, row, parked=parked)]
    shapes = [shape for child in paused_children(row) for shape in child["waits"]]
    return [WaitInfo(**{**shape, "events": tuple(shape["events"]), "where": _where(shape)}) for shape in shapes]


def paused_children(row: WaitRow) -> Sequence[Mapping[str, Any]]:
    """Return the paused children that a run is waiting for: `child`, `run_id` and `waits` (see `wait_shape`)."""
    return row.patch.get("paused", ()) if isinstance(row.patch, Mapping) else ()


def waits_below(address: str, waits: Iterable[WaitInfo]) -> list[dict[str, Any]]:
    """Return the waits of a child as its parent keeps them: each by its address, below `stage/child`."""
    return [{**wait_shape(wait), "id": f"{address}/{wait.id}"} for wait in waits]


def _where(shape: Mapping[str, Any]) -> tuple[Condition, ...]:
    return tuple(Condition(each["field"], each["op"], each["value"]) for each in shape["where"])


# ------------------------------------------------------------------------------------------------- their shapes
def wait_shape(wait: WaitInfo) -> dict[str, Any]:
    """Return a wait."""
    return {
        "id": wait.id,
        "events": list(wait.events),
        "where": [{"field": at.field, "op": at.op, "value": at.value} for at in wait.where],
        "correlate": dict(wait.correlate),
        "parked": wait.parked,
        "expires_at": wait.expires_at,
        "resume_at": wait.resume_at,
        "leads_to": dict(wait.leads_to),
        "token": wait.token,
        "mode": wait.mode,
        "have": wait.have,
        "need": wait.need,
        "form": None if wait.form is None else dict(wait.form),
    }


def error_shape(error: RunError | None) -> dict[str, Any] | None:
    """Return why a run failed; only `runs show` has the traceback."""
    if error is None:
        return None
    return {
        "type": error.type,
        "message": error.message,
        "code": error.code,
        "stage": error.stage,
        "step": error.step,
    }


def run_shape(info: RunInfo) -> dict[str, Any]:
    """Return a run in the form of lists."""
    return {
        "run_id": info.run_id,
        "workflow_id": info.workflow_id,
        "pipeline_id": info.pipeline_id,
        "trigger_id": info.trigger_id,
        "status": str(info.status),
        "stage": info.stage,
        "key": info.key,
        "attempt": info.attempt,
        "created_at": info.created_at,
        "updated_at": info.updated_at,
        "wake_at": info.wake_at,
        "parent_id": info.parent_id,
        "lineage": list(info.lineage),
        "waits": [wait_shape(wait) for wait in info.waits],
        "progress": [progress_shape(each) for each in info.progress],
        "paused_by": [pause.to_dict() for pause in info.paused_by],
        "error": error_shape(info.error),
    }


def progress_shape(progress: StepProgress) -> dict[str, Any]:
    """Return how far a step is."""
    return {
        "stage": progress.stage,
        "step": progress.step,
        "done": progress.done,
        "of": progress.of,
        "message": progress.message,
        "time": progress.time,
    }
