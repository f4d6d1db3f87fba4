"""A run in memory: what its owner knows beyond the stored row. Data only; `writing` turns it into changes and back.

House rules: only the task that drives the run writes here, except `inbox`, which deliveries of this process append to.
`state` is never mutated, only replaced, so views and snapshots taken earlier stay valid.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from poundlock.clock import Clock
from poundlock.codecs import dump
from poundlock.guard import Interruption, LoopWatch
from poundlock.model.calls import Usage
from poundlock.model.changes import RunMove
from poundlock.model.deadlines import deadline_of
from poundlock.model.definitions import Wait
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event
from poundlock.model.lifecycle import RunStatus
from poundlock.model.operator_pause import WorkflowPause
from poundlock.model.outbox import Outgoing, Refused
from poundlock.model.runs import (
    FAILURE_WAIT,
    UNDO_WAIT,
    Failure,
    Message,
    RunHead,
    RunIdentity,
    RunResult,
    StepProgress,
    WaitRow,
)
from poundlock.pipeline.answers import Answers
from poundlock.pipeline.journal import Journal
from poundlock.pipeline.outputs import output_of
from poundlock.pipeline.plan import PipelinePlan
from poundlock.pipeline.reports import Reports
from poundlock.pipeline.run_view import Place, Resume
from poundlock.pipeline.states import shown, with_signals
from poundlock.pipeline.threads import StepThreads
from poundlock.records import NamedTuple
from poundlock.sensitive import conceal

if TYPE_CHECKING:  # a run without services never loads the container
    from poundlock.artifacts import ArtifactContainer
    from poundlock.state import StateStore

_RUNNING = RunStatus.RUNNING  # the look-up of an enum member costs more than the comparison
SMALLEST_SNAPSHOT: Final = 4096
"""Minimum characters of log for a snapshot of the state; below that it is not worth its space."""
JUMPED: Final = ""
"""In place of a walk: the run did not go straight through its stages, so its visits are written one by one."""


_FIRST_REPORT: Final = threading.Lock()
_left_behind: set[asyncio.Task[Any]] = set()


def _keep(task: asyncio.Task[Any]) -> None:
    _left_behind.add(task)
    task.add_done_callback(_left_behind.discard)


class Processes(Protocol):
    """The processes that steps run in."""

    async def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function in one of them."""


class Followers(Protocol):
    """Those who follow a run."""

    def show(self, path_json: str, progress: StepProgress, seq: int) -> None:
        """Show what a step reports; from any thread. `seq`: entries of the run's timeline that are stored by now."""


class Supervision(NamedTuple):
    """What the runs of one runtime share.

    Attributes:
        watch: reports whether the event loop is ending.
        abort_grace: seconds a step has to end after its cancellation.
        keep: keeps a reference to the task of a step that was left behind.
        answers: results of patch functions for events that were judged.
        processes: returns those that steps run in, made at the first use; None without a runtime.
        spent: by workflow, the calls of models that its runs have recorded.
        pause_window: seconds from which on a run is parked while its steps only wait for their next attempts.
        sent: called with the id of a run whose boundary was committed with outgoing events.
        followed: by run, those who follow it and hear at once what its steps report.
        paused: returns the pause of a workflow, by its id; None if it is not paused.
    """

    watch: LoopWatch = LoopWatch()  # never started: it sees no end
    abort_grace: float = 10.0
    keep: Callable[[asyncio.Task[Any]], None] = _keep
    answers: Answers = Answers()  # of runs without a runtime
    processes: Callable[[], Processes] | None = None
    spent: dict[str, Usage] = {}  # noqa: RUF012 - likewise
    pause_window: float = 60.0
    sent: Callable[[str], None] = lambda _run_id: None
    followed: Mapping[str, Followers] = {}
    paused: Callable[[str], WorkflowPause | None] = lambda _workflow_id: None


_ALONE = Supervision()


class Position(NamedTuple):
    """Position of a run and all that changes with a boundary; one value, so that a refused boundary can be undone."""

    state: dict[str, Any]
    stage: str | None
    waits: tuple[WaitRow, ...]
    buffer: tuple[Message, ...]
    backlog: tuple[Message, ...]
    inbox_seen: int
    consumed: tuple[int, ...]
    registered: Mapping[str, Wait] | None
    abort: Mapping[str, Any] | None
    resume: Resume | None
    mark: int
    visits: dict[str, int]
    walk: str | None
    outputs: Mapping[str, Any] | None
    outgoing: tuple[Outgoing | Refused, ...]


class Stored(NamedTuple):
    """What a commit says of a run for others to see, if no boundary of the run itself says it."""

    status: RunStatus
    stage: str | None
    wake_at: float | None
    outcome: str | None
    updated_at: float


class StageVisit(Protocol):
    """A visit of a stage that has its own services."""

    def services(self, of_run: ArtifactContainer) -> ArtifactContainer:
        """Return the container of this visit; it falls back to the run's."""


class NewChild(NamedTuple):
    """A run that a stage is going to start.

    Attributes:
        workflow_id: None for a pipeline of the same workflow.
        pipeline_id: None for the one that runs by default.
        initial: what its state begins with.
        address: where it begins; None: at its first stage.
    """

    workflow_id: str | None
    pipeline_id: str | None
    initial: Any
    address: str | None = None


class Midway(Protocol):
    """What a stage can do in the middle of a visit, beyond its run."""

    async def midway(self, run: ActiveRun) -> None:
        """Commit the run as it is within its current stage. The caller makes no other commit meanwhile."""

    def prepare(self, run: ActiveRun, children: Sequence[NewChild]) -> list[str]:
        """Return the ids of new children; they are created by the next `midway`, and driven from then on.

        Raises:
            NotRegistered: there is no such workflow here, or its runs have to name a pipeline. No child is created.
            PoundlockError: one cannot begin with its state. No child is created.
        """

    async def child_at_rest(self, run_id: str, *, ended: bool) -> RunResult:
        """Return the result of a child that is paused or has ended; `ended`: only once it has ended."""

    async def start_run(self, run: ActiveRun, workflow_id: str, payload: Any, key: str) -> str:
        """Start a run that is not waited for, once for each key; returns its id. Raises as `StepContext.start`."""

    async def start_run_patiently(self, run: ActiveRun, workflow_id: str, payload: Any, key: str) -> str:
        """Do as `start_run`, and retry while the store cannot take it, as with a commit of the run itself."""

    async def abort_child(self, run_id: str, reason: str) -> None:
        """Abort a child, unless it has ended; returns once it has."""


class KeptSoFar(Protocol):
    """The memo of a visit of a stage, see `memo`."""

    kept: dict[str, Any]

    @property
    def writing(self) -> bool:
        """Whether a commit of it is in flight."""

    def note(self, path_json: str, key: str, value: Any) -> Any:
        """Note a value, and return it as it will be read back."""

    def put(self, key: str, value: Any) -> Any:
        """Put a small value in place of the last one of this key, and return it as it will be read back."""

    def drop(self, key: str) -> None:
        """Take out a small value."""

    async def keep(self, *, needed: bool = False) -> None:
        """Return once all that was noted is durable, if the workflow's durability says so, or it is `needed`."""

    async def finish(self, task: asyncio.Task[Any]) -> None:
        """Wait for the commit in flight."""


class Rest(Protocol):
    """The waits of the steps of one visit of a stage, see `resting`."""

    began: float
    parked: bool

    def more(self, pieces: int) -> None:
        """Count further pieces of work."""

    def less(self) -> None:
        """Count a piece of work that has ended."""

    def long(self, delay: float) -> bool:
        """Whether a wait of so many seconds is one that the run may be parked for."""

    async def rest(self, until: float, delay: float, *, quiet: bool = False) -> None:
        """Wait for `delay` seconds, or have the run parked `until` then; a `quiet` wait is not told in the timeline."""


class ActiveRun:
    """One run that this process drives: the `RunView` of its steps, and what only its owner knows.

    `parked` on a position is expressed by its waits: a row with `parked` set is the wait the run is paused at.
    """

    __slots__ = (
        "abort",
        "armed",
        "attempt",
        "backlog",
        "buffer",
        "clock",
        "consumed",
        "container",
        "entered",
        "entered_at",
        "entered_outgoing",
        "entered_waits",
        "epoch",
        "event",
        "exported",
        "failure",
        "fitted",
        "identity",
        "inbox",
        "inbox_seen",
        "interruptible",
        "interruption",
        "journal",
        "let_go",
        "log_seq",
        "log_size",
        "make_container",
        "memo",
        "outgoing",
        "outputs",
        "owner",
        "pausing",
        "payload_text",
        "plan",
        "progress",
        "rearmed",
        "recovered",
        "registered",
        "reports",
        "resting",
        "resume",
        "returning",
        "run_id",
        "slot",
        "snapshot_size",
        "spared",
        "stage",
        "state",
        "state_store",
        "stopping",
        "stored",
        "stored_waits",
        "supervision",
        "threads",
        "version",
        "visit",
        "visit_key",
        "visits",
        "waits",
        "walk",
        "written",
    )

    def __init__(
        self,
        *,
        identity: RunIdentity,
        plan: PipelinePlan,
        event: Event,
        state: dict[str, Any],
        owner: str,
        clock: Clock,
        threads: StepThreads,
        timeline: bool,
        make_container: Callable[[ActiveRun], ArtifactContainer] | None = None,
        supervision: Supervision = _ALONE,
    ) -> None:
        self.identity = identity
        self.run_id = identity.run_id
        """At hand: reading a field of a named tuple costs ten times as much, and this one is read all the time."""
        self.plan = plan
        self.event: Event = event
        self.fitted: dict[tuple[str, int, int], bool] | None = None
        """Whether buffered events fit the forms of waits, by wait, its epoch and message; see `fits_of`."""
        self.payload_text: str | None = None
        """JSON text of the event's payload, until the run is stored."""
        self.state = state
        self.owner = owner
        self.clock = clock
        self.threads = threads
        self.make_container = make_container
        self.supervision = supervision
        self.container: ArtifactContainer | None = None
        self.exported: str | None = None
        """Services exported at the last pause, as text; restored into the next container if they still fit."""
        self.state_store: StateStore | None = None
        """The state store of the run's services; created at its first use."""
        self.journal = Journal(full=timeline)
        # the head, as of the last commit
        self.written = False
        self.stored: Stored | RunMove | RunHead | None = None
        """What its last commit says of it, for others to see; None while it is not stored."""
        self.version = 0
        self.epoch = 1
        self.attempt = 1
        self.slot: int = identity.load_key is not None
        self.log_seq = 0
        self.entered_at = 0
        """Entries of the timeline before the current stage."""
        self.visit_key: int | str = 0
        """The same without those of events that came meanwhile: so it is the same for every start of that stage."""
        self.entered: str | None = None
        """The stage it entered last: once that is concluded, `stage` is another one."""
        self.entered_waits: tuple[WaitRow, ...] = ()
        """The waits that were armed then."""
        self.entered_outgoing: tuple[Outgoing | Refused, ...] = ()
        """The events that were to leave then."""
        self.stored_waits: tuple[WaitRow, ...] = ()
        self.log_size = 0
        self.snapshot_size = SMALLEST_SNAPSHOT
        """Characters of log after the last snapshot, and those after which the next one is due."""
        # position
        self.stage: str | None = plan.course[0]
        self.waits: tuple[WaitRow, ...] = ()
        self.registered: Mapping[str, Wait] | None = None
        """Waits that steps announced since the last boundary; replaced, never changed. Once armed they are rows."""
        self.armed: dict[str, tuple[tuple[Any, ...], WaitRow | None]] | None = None
        """Declared waits as last armed, with the state values they use."""
        self.rearmed: tuple[WaitRow, ...] | None = None
        """The waits as last armed, to detect changes since then."""
        self.buffer: tuple[Message, ...] = ()
        self.consumed: list[int] = []
        self.resume: Resume | None = None
        self.visits: dict[str, int] = {}
        """How often each stage was entered since the last pause or delay; replaced when the count restarts."""
        self.walk: str | None = None
        """The visits as the head has them while the run goes straight on; JUMPED if the counts have to be written."""
        self.outputs: Mapping[str, Any] | None = None
        """The stages' latest outputs, replaced with each; None if they are not kept, or not read from the log yet."""
        self.outgoing: tuple[Outgoing | Refused, ...] = ()
        """Events that leave with its next boundary."""
        # messages
        self.inbox: list[Message] = []
        self.backlog: tuple[Message, ...] = ()
        self.inbox_seen = 0
        self.abort: Mapping[str, Any] | None = None
        self.stopping = False
        self.pausing = False
        """Whether it has to look at its next boundary whether operators want it paused, see `operator_pausing`."""
        self.interruption: Interruption | None = None
        """Why the runtime wants this run to stop, see `interrupting`."""
        self.spared: tuple[asyncio.Task[Any] | None, ...] = ()
        """Tasks of the run that requested its abort: a step among them is not cancelled with the others."""
        self.interruptible = False
        """Whether its task may be cancelled now: user code runs, and no commit is in flight."""
        self.recovered = False
        self.reports: Reports | None = None
        """What its steps have reported besides their results; None if that is nothing."""
        self.visit: StageVisit | None = None
        """The stage it is in, if the workflow has services that live as long as one."""
        self.failure: BaseException | None = None
        """Its error, until its services are closed: they see it."""
        self.let_go: Callable[[], None] | None = None
        """Ends what its stage only waits for, because the runtime stops or an operator pauses the run."""
        self.progress: Midway | None = None
        """Where its commits go while it is driven."""
        self.memo: KeptSoFar | None = None
        """What the current visit of its stage has come to so far, if that is kept before the stage is concluded."""
        self.resting: Rest | None = None
        """How the steps of its current stage wait, if they may have to."""
        self.returning = False
        """Whether it continues after a pause, a delay or another owner: its state has to be validated again."""

    async def start_run(self, workflow_id: str, payload: Any, key: str) -> str:
        """Start a run of another workflow, once for each key; returns its id."""
        assert self.progress is not None  # noqa: S101 - set while it is driven
        return await self.progress.start_run(self, workflow_id, payload, key)

    async def start_run_patiently(self, workflow_id: str, payload: Any, key: str) -> str:
        """Start a run of another workflow as soon as the store can take it; returns its id."""
        assert self.progress is not None  # noqa: S101 - set while it is driven
        return await self.progress.start_run_patiently(self, workflow_id, payload, key)

    async def commit_midway(self) -> None:
        """Commit what its current stage has come to so far."""
        assert self.progress is not None  # noqa: S101 - set while it is driven
        await self.progress.midway(self)

    # ----------------------------------------------------------------------------------------------- what is seen
    @property
    def status(self) -> RunStatus:
        """Its status, as of the last commit."""
        return _RUNNING if self.stored is None else self.stored.status

    @property
    def stored_stage(self) -> str | None:
        """Its stage, as of the last commit."""
        return None if self.stored is None else self.stored.stage

    @property
    def stored_outcome(self) -> str | None:
        """JSON text of its result or error, as of the last commit."""
        return None if self.stored is None else self.stored.outcome

    @property
    def wake_at(self) -> float | None:
        """When it is due, as of the last commit."""
        return None if self.stored is None else self.stored.wake_at

    @property
    def updated_at(self) -> float:
        """When its last commit was made; before that, when it was created."""
        return self.identity.created_at if self.stored is None else self.stored.updated_at

    def conceal(self, text: str) -> str:
        """Return a text without the sensitive values that the run has, and without those of the environment."""
        return conceal(text, self.secrets())

    def secrets(self) -> set[str]:
        """Return the texts that may be shown nowhere: of its state, its events, and the environment."""
        secrets = self.plan.secrets
        if secrets is None:
            return set()
        by = None if self.resume is None or self.resume.event is None else self.resume.event.payload
        return secrets.of(self.state, self.event.payload, by)

    def redacted(self, event: Event, text: str) -> tuple[Event, str]:
        """Return an event that user code emits, and its payload's text, as it may be written."""
        secrets = self.plan.secrets
        return (event, text) if secrets is None or secrets.redact is None else secrets.redact(event, text)

    def view(self, state: dict[str, Any] | None = None) -> Any:
        """Return a state as users see it: a detached instance of the state model, or a read-only mapping.

        Args:
            state: which one; default: the run's state now.
        """
        return shown(self.plan.state_model, self.state if state is None else state)

    def latest(self) -> Any:
        """Return the state with the signals that came since the last boundary merged in."""
        return shown(self.plan.state_model, self.coming())

    def coming(self) -> dict[str, Any]:
        """Return the same as it is stored; it must not be changed."""
        return with_signals(self.plan.state_model, self.state, (*self.backlog, *self.inbox))

    def report(self, step: Place, progress: StepProgress) -> None:
        """Show how far a step is; from any thread."""
        self._reports().show(self.entered_at, step.path_json, progress)
        followers = self.supervision.followed.get(self.run_id)
        if followers is not None:
            followers.show(step.path_json, progress, self.log_seq)

    def spend(self, stage_id: str, usage: Usage) -> None:
        """Count a call of a model that a step has recorded."""
        self._reports().count(stage_id, usage)
        spent, workflow_id = self.supervision.spent, self.identity.workflow_id
        spent[workflow_id] = spent.get(workflow_id, Usage()).plus(usage)

    def _reports(self) -> Reports:
        if self.reports is None:
            with _FIRST_REPORT:  # steps in threads may come together
                self.reports = self.reports or Reports()
        return self.reports

    @property
    def parked(self) -> WaitRow | None:
        """The wait the run is paused at, if any."""
        for row in self.waits:
            if row.parked:
                return row
        return None

    @property
    def handled(self) -> Failure | None:
        """The failure that led the run to its current stage, while it is handled."""
        for row in self.waits:
            if row.wait_id == FAILURE_WAIT and not row.parked and isinstance(row.patch, Mapping):
                error = row.patch
                return Failure(error["type"], error["message"], error["stage"], error["step"], error["attempt"])
        return None

    @property
    def leaving(self) -> bool:
        """Whether it begins nothing more in its stage: it is to be released, or paused, as soon as that is possible."""
        return self.stopping or self.pausing

    @property
    def undoing(self) -> WaitRow | None:
        """How the run ends, while its stages are being undone; None while its end is not decided."""
        for row in self.waits:
            if row.wait_id == UNDO_WAIT:
                return row
        return None

    def output(self, stage_id: str, *, required: bool) -> Any:
        """Return the latest output of a stage."""
        return output_of(self.plan, self.outputs, stage_id, required=required)

    @property
    def deadline(self) -> float | None:
        """When its time is over, in seconds since 1970; None if nothing limits it, or its time does not count now."""
        limit = self.plan.limit
        if limit is None or self.undoing is not None:
            return None
        return deadline_of(limit, self.identity.created_at, self.waits)

    def services(self) -> ArtifactContainer:
        """Return the container for user code: that of the current stage, if it has services, else the run's own.

        Both are created at the first use, so a run without services never has one.
        """
        if self.container is None:
            assert self.make_container is not None  # noqa: S101 - every run of a runtime has a workflow
            self.container = self.make_container(self)
        return self.container if self.visit is None else self.visit.services(self.container)

    # ------------------------------------------------------------------------------------------------- positions
    def position(self) -> Position:
        """Return the run's position, for `restore`."""
        return new_tuple(
            Position,
            (
                self.state,
                self.stage,
                self.waits,
                self.buffer,
                self.backlog,
                self.inbox_seen,
                tuple(self.consumed),
                self.registered,
                self.abort,
                self.resume,
                self.journal.mark,
                self.visits,
                self.walk,
                self.outputs,
                self.outgoing,
            ),
        )

    def restore(self, position: Position, messages: Sequence[Message]) -> None:
        """Undo what a refused boundary proposed, and take over the messages it did not know."""
        self.state = position.state
        self.stage = position.stage
        self.waits = position.waits
        self.rearmed = None
        self.buffer = position.buffer
        self.resume = position.resume
        self.abort = position.abort
        self.backlog = (*position.backlog, *messages)
        self.inbox_seen = max((position.inbox_seen, *(message.seq for message in messages)))
        self.consumed[:] = position.consumed  # messages used up by earlier stages may be in the same commit
        self.registered = position.registered
        self.visits = position.visits
        self.walk = position.walk
        self.outputs = position.outputs
        if self.outgoing:  # some of those it had may have left meanwhile, with its creation
            had = set(map(id, position.outgoing))
            self.outgoing = tuple([each for each in self.outgoing if id(each) in had])
        self.journal.rewind(position.mark)

    def restart_counts(self) -> None:
        """Restart the count of visits with the next stage: the run paused or was delayed before it."""
        self.visits = {}
        self.walk = dump(self.stage)
