"""Plans: a definition compiled once, so that a run needs no reflection, no look-ups and no repeated decisions.

Values only; `compiling` makes them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from poundlock.errors import NotRegistered, suggest
from poundlock.guard import repr_of
from poundlock.model.deadlines import RunLimit
from poundlock.model.definitions import Instruction, Retry, Wait
from poundlock.model.events import Event
from poundlock.model.paths import get_path
from poundlock.pipeline.journal import entry, patch_head
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.secrets import Secrets
from poundlock.records import dataclass, field

if TYPE_CHECKING:  # a run without services never loads the container
    from poundlock.artifacts import ArtifactContainer

Getter = Callable[[RunView, Any], Any]
"""Returns one argument of a user's function: from its run, and its StepContext (steps) or Deciding (routers)."""
Performer = Callable[[Any, Any, Any], Awaitable[Any]]
"""Performs a stage in its own way: from the run, the StagePlan and the current task, a StageDone."""
Router = Callable[[RunView, dict[str, Any]], Awaitable[Instruction | None]]
"""Decides where a run goes, from the run and what the steps of its stage returned."""


@dataclass(frozen=True, slots=True)
class Binding:
    """Call plan of a function: getters for positional and keyword parameters, and services to resolve.

    `services` maps a parameter's place (positional) or name (keyword) to a service id; they are resolved first,
    because that may take time.
    """

    positional: tuple[Getter, ...]
    keyword: tuple[tuple[str, Getter], ...]
    services: tuple[tuple[int | str, str], ...]
    wants_context: bool


Elsewhere = Callable[[Any, Callable[..., Any], Sequence[Any], Mapping[str, Any]], Awaitable[Any]]
"""Calls a function neither on the loop nor in a thread of the runtime: takes the run, the function, its arguments."""


@dataclass(frozen=True, slots=True)
class EachPlan:
    """What a step with `each` runs over.

    Attributes:
        path: dotted path into the state.
        limit: how many elements at once, at most.
        into: key of the state that gets the results.
    """

    path: str
    limit: int
    into: str


@dataclass(frozen=True, slots=True)
class ContractPlan:
    """What a step takes and gives.

    Attributes:
        input: model of the fields of the state that it takes; None without one.
        output: model of what it returns; None without one.
        step_id: the step, for errors.
        path: of the step, for errors.
    """

    input: Any
    output: Any
    step_id: str
    path: str


@dataclass(frozen=True, slots=True)
class ChildrenPlan:
    """The runs that a stage starts and waits for.

    Attributes:
        pipelines, workflow, over, input: see `Children`.
        into: key of the state that gets the results.
        needed: how many have to be completed; None: all have to end.
        collects: whether the failure of one is a result.
        limit: how many at once, at most; None: all.
    """

    pipelines: tuple[str, ...]
    workflow: str | None
    over: str | Callable[..., Any] | None
    input: Callable[..., Any] | None
    into: str
    needed: int | None
    collects: bool
    limit: int | None


@dataclass(slots=True, eq=False)
class PollPlan:
    """How what a step began is checked.

    Attributes:
        check: the poll function.
        every: seconds between two checks, and before the first one.
        max_wait: seconds after which it is given up; None for no limit.
    """

    check: StepPlan
    every: float
    max_wait: float | None


@dataclass(slots=True, eq=False)
class StepPlan:
    """One step, ready to be called."""

    id: str
    stage_id: str
    path: str
    path_json: str
    action: Callable[..., Any]
    is_async: bool
    in_thread: bool
    binding: Binding
    timeout: float | None
    retry: Retry | None
    each: EachPlan | None = None
    """None if it is called once."""
    contract: ContractPlan | None = None
    """None if nothing is said of what it takes and gives."""
    elsewhere: Elsewhere | None = None
    """How it is called in a process or by an executor; None on the loop or in a thread."""
    kind: Literal["step", "undo", "poll"] = "step"
    """An undo is performed like a step, but what it returns has no meaning, and its end is noted with its commit."""
    poll: PollPlan | None = None
    undo: StepPlan | None = None
    children: ChildrenPlan | None = None
    """The runs it waits for, in place of a function."""
    start_entry: str = field(init=False)
    success_entry: str = field(init=False)
    patch_head: str = field(init=False)

    def __post_init__(self) -> None:
        self.start_entry = entry(
            "pipeline", f"{self.kind}:start", self.path_json, '{"attempt":1}'
        )  # the first of all attempts
        self.success_entry = entry("pipeline", "step:success", self.path_json)
        self.patch_head = patch_head(self.path_json)

    @property
    def simple(self) -> bool:
        """Whether the step is only an await of the action: nothing is around it, and it is called once."""
        return (
            self.is_async
            and self.timeout is None
            and self.retry is None
            and self.each is None
            and self.contract is None
            and self.children is None
            and self.undo is None
            and self.poll is None
            and not self.binding.services
            and not self.binding.keyword
        )


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How the output of a stage is read: as the models of its steps, by step; `single` if it has one step."""

    models: Mapping[str, Any]
    single: bool


@dataclass(slots=True, eq=False)
class StagePlan:
    """One stage, ready to be performed and concluded."""

    id: str
    path: str
    path_json: str
    steps: tuple[StepPlan, ...]
    timeout: float | None
    conflict_is_error: bool
    router: Router | None
    only: StepPlan | None
    following: str | None
    strays: bool
    """The stage that follows is not the next one in order, so visits are counted one by one, see `visits`."""
    silent: bool
    """No user code runs here (no steps, a fixed instruction), so no commit is needed before it."""
    plain: bool
    """One async step, no router and no model: mostly there is nothing to decide, see `short_way`."""
    aside: bool
    on_failure: str
    """What its failure leads to: "fail", "pause" or a stage."""
    undoes: bool
    """A step of it has an undo."""
    output: OutputPlan | None
    """How its output is kept and read; None if the workflow keeps none."""
    keeps: bool = False
    """Its steps may have to wait, or their results are kept one by one: see `resting`."""
    perform: Performer | None = None
    """How it is performed, if it is a durable function: it is called again by its record, also after a failure."""
    start_entries: tuple[str, ...] = field(init=False)
    """Timeline entries for the stage's start; with a single step, for the step's start too."""
    success_entry: str = field(init=False)

    def __post_init__(self) -> None:
        start = entry("pipeline", "stage:start", self.path_json)
        self.start_entries = (start,) if self.only is None else (start, self.only.start_entry)
        self.success_entry = entry("pipeline", "stage:success", self.path_json)


@dataclass(frozen=True, slots=True)
class DeclaredWait:
    """A wait from the definition; events for it are buffered before the run gets there."""

    wait_id: str
    wait: Wait
    resume_at: str | None
    refs: tuple[str, ...]
    """The state paths it refers to: while their values are unchanged, it is armed for the same events."""
    patch: Callable[[Event, Callable[[], Any]], Any] | None = None
    """Its patch, if that is a function: called with the event and a getter of the run's state."""
    stage_id: str | None = None
    """The stage that pauses at it."""

    def values(self, state: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return a state's values at those paths."""
        return tuple([get_path(state, path) for path in self.refs])


class StageServices(Protocol):
    """How the services of one visit of a stage are opened and closed."""

    def open(self, run: RunView, stage_id: str, of_run: ArtifactContainer) -> ArtifactContainer:
        """Return a new container for a visit; it falls back to the run's."""

    async def close(
        self, container: ArtifactContainer, stage_id: str, failure: BaseException | None
    ) -> BaseException | None:
        """Dispose of it; its services see the failure. Returns the error, if any."""


@dataclass(slots=True, eq=False)
class PipelinePlan:
    """One pipeline of one workflow."""

    id: str
    path_json: str
    stages: tuple[StagePlan, ...]
    course: tuple[str, ...]
    """The stages in order, without those that are entered by name only. A run begins at the first one."""
    by_id: Mapping[str, StagePlan]
    declared: tuple[DeclaredWait, ...]
    waits: Mapping[str, DeclaredWait]
    state_model: Any
    visit_limit: int
    on_failure: str
    """What the failure of a wait leads to that no stage declares."""
    undoes: bool = False
    """A stage has an undo."""
    undo_on_abort: bool = False
    replays: bool = False
    """Its stage is a durable function: events and answers for its waits are the function's, no patches of the state."""
    keeps_outputs: bool = False
    limit: RunLimit | None = None
    """How long a run may take; None without a limit."""
    definition_hash: str = ""
    on_change: str = "continue"
    """What becomes of runs that another definition has written."""
    migrate: Callable[[dict[str, Any], str], Any] | None = None
    """Brings the state of such a run up to date."""
    durability: str = "stage"
    stage_services: StageServices | None = None
    """None if the workflow has no services that live as long as a stage."""
    secrets: Secrets | None = None
    """What texts of its runs must not show; set when it is registered."""
    prompt: bool = field(init=False)
    """Whether each boundary is durable before the run goes on."""
    midway: bool = field(init=False)
    """Whether something is written in the middle of a stage."""
    parks: bool = field(init=False)
    """Whether a run is parked while its steps only wait."""
    keeps_steps: bool = field(init=False)
    """Whether each result of a step is kept at once."""
    start_entry: str = field(init=False)
    success_entry: str = field(init=False)
    correlated: frozenset[str] = field(init=False)
    """The keys of a state that its declared waits refer to, or look below: a patch of other keys arms none anew."""

    def __post_init__(self) -> None:
        paths = [path for declared in self.declared for path in declared.refs]
        self.prompt = self.durability in ("stage", "step")
        self.midway = self.durability in ("stage", "step", "async")
        self.parks = self.durability != "none"
        self.keeps_steps = self.durability == "step"
        self.correlated = frozenset([*paths, *(path.partition(".")[0] for path in paths)])
        self.start_entry = entry("pipeline", "pipeline:start", self.path_json)
        self.success_entry = entry("pipeline", "pipeline:success", self.path_json)

    def existing(self, stage_id: str) -> str:
        """Return a stage id that exists.

        Raises:
            NotRegistered: the pipeline has no such stage; the message names near matches.
        """
        if not isinstance(stage_id, str) or stage_id not in self.by_id:
            named = stage_id if isinstance(stage_id, str) else repr_of(stage_id, 60)
            raise NotRegistered(
                f"pipeline '{self.id}' has no stage '{named}': {suggest(named, list(self.by_id))}",
                path=self.id,
                stage=named,
            )
        return stage_id
