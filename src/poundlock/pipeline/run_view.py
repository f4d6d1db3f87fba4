"""What user code sees of a run. Injection, routing and contexts use only this view of a run in memory.

So all that a step can reach is in one place, and none of them depends on how a run is driven.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from poundlock.clock import Clock
from poundlock.guard import Interruption
from poundlock.model.calls import Usage
from poundlock.model.events import Event
from poundlock.model.outbox import Outgoing, Refused
from poundlock.model.runs import Failure, RunIdentity, StepProgress
from poundlock.pipeline.journal import Journal
from poundlock.records import dataclass

if TYPE_CHECKING:  # a run without services never loads the container
    from poundlock.artifacts import ArtifactContainer


@dataclass(frozen=True, slots=True)
class Resume:
    """Why a paused run was resumed.

    Attributes:
        reason: "event", "timeout", "api" or "delay"; a stage that is repeated after a crash does not see a delay.
        wait: id of the wait; None after a delay.
        event: the event that matched; None for other reasons.
    """

    reason: str
    wait: str | None = None
    event: Event | None = None


class Place(Protocol):
    """Where in a pipeline user code runs; `path_json` is the JSON text that names it in the timeline."""

    @property
    def id(self) -> str: ...

    @property
    def stage_id(self) -> str: ...

    @property
    def path_json(self) -> str: ...


class RunView(Protocol):
    """A run, as far as user code may read it.

    Attributes:
        state: the state as of now; replaced at a boundary, never changed in place.
        visit_key: tells visits of a stage apart, the same for every start of that visit.
        resume: why the run was resumed, if it was paused right before this stage.
        deadline: when the run's time is over, in seconds since 1970; None without a limit.
        handled: the failure that led the run here; None if none did.
        abort: the request to end the run, once it was taken in.
        interruption: why the runtime wants the run to stop.
        journal: where notes go.
        outgoing: events that leave with the next boundary.
    """

    identity: RunIdentity
    run_id: str
    event: Event
    state: dict[str, Any]
    clock: Clock
    visit_key: int | str
    resume: Resume | None

    @property
    def handled(self) -> Failure | None: ...

    @property
    def deadline(self) -> float | None: ...

    abort: Mapping[str, Any] | None
    interruption: Interruption | None
    journal: Journal
    outgoing: tuple[Outgoing | Refused, ...]

    def conceal(self, text: str) -> str:
        """Return a text without what may be shown nowhere."""

    def secrets(self) -> set[str]:
        """Return the texts that may be shown nowhere."""

    def redacted(self, event: Event, text: str) -> tuple[Event, str]:
        """Return an event that user code emits, and its payload's text, as it may be written."""

    def report(self, step: Place, progress: StepProgress) -> None:
        """Show how far a step is; from any thread."""

    def spend(self, stage_id: str, usage: Usage) -> None:
        """Count a call of a model that a step has recorded."""

    def view(self, state: dict[str, Any] | None = None) -> Any:
        """Return a state as users see it; default: the run's."""

    def latest(self) -> Any:
        """Return the state, merged with the signals that came since the last boundary."""

    def output(self, stage_id: str, *, required: bool) -> Any:
        """Return the latest output of a stage; None if it has none and is not required."""

    async def start_run(self, workflow_id: str, payload: Any, key: str) -> str:
        """Start a run of another workflow, once for each key; returns its id."""

    def services(self) -> ArtifactContainer:
        """Return the run's container."""
