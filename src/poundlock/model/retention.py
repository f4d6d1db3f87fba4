"""How long ended runs and other remains are kept, and which of them are deleted: decided on data, without a store.

House rules:

1. A run with its children is one family. Its first run decides; a child goes as soon as its parent is gone, whatever
   its age. So no child is deleted before its parent, and none stays for long without it.
2. Everything here is asked in the order of the runs' creation: parents come before their children.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from poundlock.model.checks import Fault, whole_faults
from poundlock.model.durations import Duration, seconds
from poundlock.model.lifecycle import RunStatus
from poundlock.model.quoting import shown
from poundlock.records import NamedTuple, dataclass

SAME: Final = "same"
WEEK: Final = 7 * 86_400.0
_OF_EVENTS: Final = ("receipts", "unwanted_events", "dead_letters")
"""What belongs to events, so that only a runtime can say it."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is over is kept. A duration is seconds, a timedelta, or text such as "30d"; None means for ever.

    For a workflow (`Workflow(retention=)`) or, as the default of its workflows, for a runtime
    (`WorkflowRuntime(retention=)`). The last three are of events: only a runtime takes them.

    Attributes:
        ended_runs: how long a run is kept after its end, with its timeline and its children.
        completed, failed, aborted: the same for runs of this status; "same" is what `ended_runs` says.
        count: how many ended runs of a workflow are kept at most, whatever their age; those that were created first go
            first. Children do not count.
        receipts: how long receipts are kept; never shorter than the id of their event is remembered (`dedupe=`).
        unwanted_events: how long the receipt of an event that nobody wanted is kept.
        dead_letters: how long after it was given up a dead letter is kept; "same": until its run is deleted.
    """

    ended_runs: Duration | None = None
    completed: Duration | Literal["same"] | None = SAME
    failed: Duration | Literal["same"] | None = SAME
    aborted: Duration | Literal["same"] | None = SAME
    count: int | None = None
    receipts: Duration = WEEK
    unwanted_events: Duration = WEEK
    dead_letters: Duration | Literal["same"] | None = SAME

    def age(self, status: RunStatus) -> float | None:
        """Return how many seconds a run of an ended status is kept; None: for ever."""
        own: Any = getattr(self, status.value)
        return _seconds(self.ended_runs if own == SAME else own)

    def ages(self) -> dict[str, float | None]:
        """Return how many seconds ended runs are kept, by status; None: for ever."""
        return {status.value: self.age(status) for status in ENDED}

    @property
    def dead_letter_age(self) -> float | None:
        """How many seconds a dead letter is kept; None: for ever, or as long as its run."""
        return None if self.dead_letters == SAME else _seconds(self.dead_letters)

    @property
    def keeps_all_runs(self) -> bool:
        """Whether no run is ever deleted because of this."""
        return self.count is None and all(self.age(status) is None for status in ENDED)


ENDED: Final = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.ABORTED)


def _seconds(value: Duration | None) -> float | None:
    return None if value is None else seconds(value)


def retention_faults(path: str, value: object, *, of_workflow: bool) -> Iterator[Fault]:
    """Yield what is wrong with a retention, or with what is given as one; None is fine."""
    if value is None:
        return
    if not isinstance(value, Retention):
        yield path, f"{shown(value)} is not a Retention: Retention(ended_runs='30d')"
        return
    for name, wanted in (
        ("ended_runs", "a duration or None"),
        ("completed", "a duration, None or 'same'"),
        ("failed", "a duration, None or 'same'"),
        ("aborted", "a duration, None or 'same'"),
        ("receipts", "a duration"),
        ("unwanted_events", "a duration"),
        ("dead_letters", "a duration, None or 'same'"),
    ):
        each: Any = getattr(value, name)
        if (each is None and "None" in wanted) or (isinstance(each, str) and each == SAME and SAME in wanted):
            continue
        try:
            seconds(each)
        except ValueError as error:
            yield f"{path}.{name}", f"{error}; give {wanted}"
    if value.count is not None:
        yield from whole_faults(f"{path}.count", value.count, 0)
    for name in _OF_EVENTS if of_workflow else ():
        if getattr(value, name) != getattr(KEEP, name):
            yield f"{path}.{name}", "belongs to events, not to a workflow: give it to WorkflowRuntime(retention=)"


class EndedRun(NamedTuple):
    """An ended run, as far as it is needed to decide whether it is deleted.

    Attributes:
        ended_at: seconds since 1970.
        version: how often it was written: the most rows that its log can have.
        orphan: whether it has a parent that is gone.
    """

    run_id: str
    workflow_id: str
    status: RunStatus
    ended_at: float
    version: int
    parent_id: str | None
    orphan: bool


class Sweep:
    """One pass over the ended runs of a store: which of them are deleted.

    Args:
        now: seconds since 1970.
        by_workflow: whose runs are looked at, and how long they are kept.
        everywhere: how long the runs of all other workflows are kept; None: they are left alone.
    """

    def __init__(self, now: float, by_workflow: Mapping[str, Retention], everywhere: Retention | None = None) -> None:
        self.now = now
        self._rules = by_workflow
        self._everywhere = everywhere
        self._gone: set[str] = set()
        self._left: dict[str, int] = {}
        """By workflow with a `count`: how many of its runs are there."""

    @property
    def idle(self) -> bool:
        """Whether no run can be deleted, except orphans."""
        rules = [*self._rules.values(), *([] if self._everywhere is None else [self._everywhere])]
        return all(rule.keeps_all_runs for rule in rules)

    @property
    def counts(self) -> bool:
        """Whether the runs have to be counted (`counted`) before the pass."""
        rules = [*self._rules.values(), *([] if self._everywhere is None else [self._everywhere])]
        return any(rule.count is not None for rule in rules)

    def counted(self, run: EndedRun) -> None:
        """Count a run."""
        if run.parent_id is None:
            self._left[run.workflow_id] = self._left.get(run.workflow_id, 0) + 1

    def leaves(self, run: EndedRun) -> bool:
        """Whether a run is to be deleted. Note it with `deleted` if it was."""
        if run.parent_id is not None:
            return run.orphan or run.parent_id in self._gone
        rule = self._rules.get(run.workflow_id, self._everywhere)
        if rule is None:
            return False
        age = rule.age(run.status)
        if age is not None and run.ended_at + age <= self.now:
            return True
        return rule.count is not None and self._left.get(run.workflow_id, 0) > rule.count

    def deleted(self, run: EndedRun) -> None:
        """Note that a run was deleted, or would be."""
        self._gone.add(run.run_id)
        if run.parent_id is None and run.workflow_id in self._left:
            self._left[run.workflow_id] -= 1

    def stays(self, run: EndedRun) -> None:
        """Note that a run that was to be deleted stays after all; so do its children."""
        self._gone.discard(run.run_id)
        if run.parent_id is None and run.workflow_id in self._left:
            self._left[run.workflow_id] += 1

    def turn_page(self) -> None:
        """Forget which runs were deleted: what is read from now on says which are orphans."""
        self._gone.clear()


@dataclass(frozen=True, slots=True)
class Vacuumed:
    """What a vacuum has deleted, or would delete.

    Attributes:
        runs: ended runs, children included.
        children: how many of them were children of another run.
        by_workflow: the runs by workflow.
        dead_letters: dead letters.
        receipts: receipts, of wanted and of unwanted events.
        remembered: ids of events whose window is over, and idempotency keys of deleted runs.
        done: whether everything was looked at; False: the limit was reached, and the next call goes on.
    """

    runs: int = 0
    children: int = 0
    by_workflow: Mapping[str, int] | None = None
    dead_letters: int = 0
    receipts: int = 0
    remembered: int = 0
    done: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "runs": self.runs,
            "children": self.children,
            "by_workflow": dict(self.by_workflow or {}),
            "dead_letters": self.dead_letters,
            "receipts": self.receipts,
            "remembered": self.remembered,
            "done": self.done,
        }


KEEP: Final = Retention()
"""All ended runs are kept for ever."""
