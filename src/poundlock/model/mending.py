"""Where a run that has ended can go on: its course, as its log tells it, and the place from which it is repeated.

Pure functions over the rows of a log. The course is known from the entries of stages, so a log without a timeline tells
little: where the run ended is known, and how it began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from poundlock.codecs import dump, load
from poundlock.errors import NotMendable, StageGone, WaitExpired, suggest
from poundlock.marks import DELETE, Overwrite
from poundlock.model.patches import merge
from poundlock.model.quoting import shown
from poundlock.model.runs import LogRow, RunError
from poundlock.model.timeline_entry import BUFFERED, TimelineEntry
from poundlock.records import NamedTuple, dataclass, field

RETRIED: Final = "run:retry"
RERUN: Final = "run:rerun"
FORKED: Final = "run:fork"
"""Types of the entries that say who had a run mended, why, and how it had ended; a fork has one of its own."""

OUTPUT: Final = "stage:output"
"""Type of the entries of what stages came to, if the workflow keeps that."""

LEFT: Final = "stage:left"
"""Type of the entry that keeps what a stage had come to when its run ended in it, for a retry."""

_START: Final = "stage:start"
_AGAIN: Final = "stage:resume"
_SUCCESS: Final = "stage:success"
_NOTED: Final = "undo:noted"
_UNDONE: Final = ("undo:success", "undo:failure")
_PAUSE: Final = "pipeline:pause"
_MIGRATED: Final = "state:migrated"


class Visit(NamedTuple):
    """One visit of a stage.

    Attributes:
        stage: id of the stage.
        seq: of the entry of its start.
        key: the place in the log that its idempotency keys are made of.
    """

    stage: str
    seq: int
    key: int


@dataclass(slots=True)
class Course:
    """What a log tells of a run's course.

    Attributes:
        visits: of stages, in order, those of earlier attempts too.
        path: the same without what a retry or rerun went back behind.
        again: for each visit, by the number of its start: where its stage was entered again, by a retry or after a
            crash, as pairs: the first entry that belongs to that, and the entry of its beginning.
        ends: for each visit, by the number of its start: the entry at which its stage was concluded.
        rests: numbers of the entries that say that the run was paused or delayed, or went on after that.
        open: whether the last visit of the path was not concluded.
        paused: whether the run was at a wait behind the last visit of its path when it ended.
        undone: ids of the stages that were undone at its end, the one that was committed first at the front.
        left: what was kept of the last visit, from the last commit: rows of the run's waits.
        full: whether the log has a timeline.
    """

    visits: list[Visit] = field(default_factory=list)
    path: list[Visit] = field(default_factory=list)
    again: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    rests: list[int] = field(default_factory=list)
    open: bool = False
    paused: bool = False
    undone: list[str] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    full: bool = False
    _mended: int | None = None
    """The entry of a retry whose stage was not entered so far."""

    def began(self, visit: Visit, before: int | None = None) -> int:
        """Return the entry at which a visit began last; with `before`, only as far as that entry belongs to it."""
        found = visit.seq
        for first, start in self.again.get(visit.seq, ()):
            if before is None or first <= before:
                found = start
        return found

    def started(self, visit: Visit) -> None:
        """Note that a stage was entered."""
        self.full = self.open = True
        self.paused = False
        self._mended = None
        self.visits.append(visit)
        self.path.append(visit)

    def entered_again(self, stage: str, seq: int) -> None:
        """Note that the last visit went on from the beginning of its stage."""
        self.open, self.paused = True, False
        if self.path and self.path[-1].stage == stage:
            first = seq if self._mended is None else self._mended
            self.again.setdefault(self.path[-1].seq, []).append((first, seq))
        self._mended = None

    def went_back(self, stage: str, seq: int, *, anew: bool) -> None:
        """Drop from the path what came after a stage was entered last; if `anew`, that visit as well."""
        place = next((place for place in reversed(range(len(self.path))) if self.path[place].stage == stage), None)
        if place is not None:
            del self.path[place if anew else place + 1 :]
        self.paused = False
        self.open = not anew
        self._mended = None if anew else seq


class Point(NamedTuple):
    """A recorded point at which a stage begins.

    Attributes:
        stage: id of the stage.
        seq: the state is that before this entry.
    """

    stage: str
    seq: int


def path_of(entries: Iterable[TimelineEntry]) -> list[tuple[str, int]]:
    """Return the stages on a run's way by its timeline, without what a retry or rerun went back behind.

    With each the entry at which it began last.
    """
    course = Course()
    for entry in entries:
        if entry.type == _START:
            course.started(Visit(entry.path.split("/")[1], entry.seq, entry.seq - 1))
        elif entry.type == _AGAIN:
            course.entered_again(entry.path.split("/")[1], entry.seq)
        elif entry.type in (RETRIED, RERUN):
            course.went_back(entry.payload["stage"], entry.seq, anew=entry.payload["anew"])
    return [(visit.stage, course.began(visit)) for visit in course.path]


def read_course(rows: Sequence[LogRow]) -> Course:
    """Return what a log tells of a run's course."""
    course = Course()
    due: list[tuple[int, str]] = []
    undone: list[tuple[int, str]] = []
    for row in rows:
        buffered = 0
        course.left = []
        for place, (_, _, kind, path, payload, _) in enumerate(load(row.text)):
            seq = row.first_seq + place
            if kind == BUFFERED:
                buffered += 1
            elif kind == _START:
                course.started(Visit(path.split("/")[1], seq, seq - 1 - buffered))
            elif kind == _AGAIN:
                course.entered_again(path.split("/")[1], seq)
            elif kind == _SUCCESS and course.path:
                course.open = False
                course.ends[course.path[-1].seq] = seq
            elif kind == _PAUSE:
                course.paused = True
                course.rests.append(seq)
            elif kind in ("pipeline:resume", "pipeline:delay"):
                course.paused = False
                course.rests.append(seq)
            elif kind == _NOTED:
                due += [(seq, payload["stage"])] * len(payload["steps"])
            elif kind in _UNDONE:
                undone.append(due.pop())
            elif kind == LEFT:
                course.left = payload
            elif kind in (RETRIED, RERUN):
                undone.clear()
                course.went_back(payload["stage"], seq, anew=payload["anew"])
                course.rests.append(seq)
    course.undone = list(dict.fromkeys(stage for _, stage in sorted(undone)))
    return course


# ------------------------------------------------------------------------------------------------------------ retry
def retry_stage(course: Course, stage: str | None, error: RunError | None, at: str | None, run_id: str) -> str:
    """Return the stage at which a retry begins.

    Args:
        course: of the run.
        stage: the one it was in when it ended, by its head.
        error: why it failed.
        at: the one that was asked for; None: the one that failed, or the first one that was undone.
        run_id: of the run, for messages.

    Raises:
        NotMendable: it cannot begin there; the message says where it can.
    """
    failed = failed_stage(course, stage, error)
    if at is None:
        if course.undone:
            return course.undone[0]
        if failed is None:
            raise NotMendable(
                f"run '{run_id}' had no stage left when it ended: rerun it from one of its stages", run_id=run_id
            )
        return failed
    if at == failed and not course.undone:
        return at
    entered = list(dict.fromkeys(visit.stage for visit in course.path))
    if at not in entered:
        raise not_entered(course, at, entered, run_id)
    if course.undone and course.undone[0] in entered and entered.index(at) > entered.index(course.undone[0]):
        first = course.undone[0]
        raise NotMendable(
            f"the work of {', '.join(course.undone)} was undone when run '{run_id}' ended, so it cannot go on at "
            f"'{at}': retry it at '{first}', or at a stage before that",
            path="at",
            run_id=run_id,
            undone=list(course.undone),
        )
    return at


def failed_stage(course: Course, stage: str | None, error: RunError | None) -> str | None:
    """Return the stage that failed. At a wait it is the one that led there: it arms the wait anew."""
    if course.paused and course.path:
        return course.path[-1].stage
    if not course.full and error is not None and error.code == WaitExpired.code and error.stage is not None:
        return error.stage
    return stage


def open_visit(course: Course, stage: str) -> Visit | None:
    """Return the visit of a stage that a run was in when it ended; None if it was not in the middle of one."""
    if not course.open or not course.path or course.undone or course.path[-1].stage != stage:
        return None
    return course.path[-1]


def not_entered(course: Course, stage: str, entered: Sequence[str], run_id: str) -> NotMendable:
    """Return the error for a stage that a run has not entered, or not on the way it ended on."""
    if not course.full:
        return NotMendable(
            f"run '{run_id}' has kept no timeline, so it is not known when it entered '{stage}': retry it from the "
            f"stage it failed in, or rerun it from its first stage",
            path="at",
            run_id=run_id,
        )
    way = ", ".join(entered) if entered else "none"
    return NotMendable(
        f"run '{run_id}' has not entered stage '{stage}' on its way (it entered {way}): name one of these, or fork it",
        path="at",
        run_id=run_id,
        entered=list(entered),
    )


# --------------------------------------------------------------------------------------------------- rerun and fork
def stage_point(course: Course, stage: str, first: str | None, run_id: str) -> Point:
    """Return the latest start of a stage.

    Args:
        course: of the run.
        stage: id of the stage.
        first: id of the pipeline's first stage, if that is known: a log without a timeline tells the state before it.
        run_id: of the run, for messages.

    Raises:
        NotMendable: the run has not entered it.
    """
    for visit in reversed(course.visits):
        if visit.stage == stage:
            return Point(stage, course.began(visit))
    if stage == first and not course.full:
        return Point(stage, 2)  # behind the entry of its creation, which has its initial state
    raise not_entered(course, stage, list(dict.fromkeys(visit.stage for visit in course.visits)), run_id)


def entry_point(course: Course, seq: int, last: int, first: str | None, run_id: str) -> Point:
    """Return the stage that an entry of the timeline belongs to, at its start.

    An entry behind the end of a stage belongs to the next one, unless the run was paused or delayed in between: then it
    belongs to the stage that led there, which leads there again.

    Raises:
        NotMendable: there is no such entry, or no stage is known.
    """
    if not 1 <= seq <= last:
        raise NotMendable(
            f"run '{run_id}' has no entry {seq} in its timeline: it has entries 1 to {last}", path="at", run_id=run_id
        )
    visits = course.visits
    place = next((place for place in reversed(range(len(visits))) if visits[place].seq <= seq), None)
    if place is None:
        if visits:
            return Point(visits[0].stage, visits[0].seq)
        if first is not None:
            return Point(first, 2)
        raise not_entered(course, "?", (), run_id)
    visit = visits[place]
    end = course.ends.get(visit.seq)
    if end is not None and end <= seq and place + 1 < len(visits):
        following = visits[place + 1]
        if not any(end < rest < following.seq for rest in course.rests):
            return Point(following.stage, following.seq)
    return Point(visit.stage, course.began(visit, seq))


def state_before(rows: Iterable[LogRow], seq: int) -> dict[str, Any]:
    """Return the state before an entry of a log, the first of which is 1."""
    state: dict[str, Any] = {}
    for row in rows:
        for place, entry in enumerate(load(row.text)):
            if row.first_seq + place >= seq:
                return state
            if entry[5] is not None:
                state = merge(state, entry[5])
    return state


def definition_before(rows: Iterable[LogRow], seq: int | None) -> str | None:
    """Return the hash of the definition that the state before an entry was migrated for; None: it never was.

    `seq` None: behind the last one.
    """
    found = None
    for row in rows:
        for place, (_, _, kind, _, payload, _) in enumerate(load(row.text)):
            if seq is not None and row.first_seq + place >= seq:
                return found
            if kind == _MIGRATED:
                found = payload["to"]
    return found


def outputs_before(rows: Sequence[LogRow], seq: int | None) -> dict[str, Any]:
    """Return the latest output of each stage before an entry, by the paths of the stages. None: behind the last one."""
    outputs: dict[str, Any] = {}
    for row in rows:
        for place, (_, _, kind, path, payload, _) in enumerate(load(row.text)):
            if seq is not None and row.first_seq + place >= seq:
                return outputs
            if kind == OUTPUT:
                outputs[path] = payload
            elif kind == RERUN:  # what came behind the start of its stage counts no more
                outputs = outputs_before(rows, payload["seq"])
    return outputs


def restoring(now: Mapping[str, Any], then: Mapping[str, Any]) -> dict[str, Any]:
    """Return the patch that leads from the present state back to an earlier one, key by key."""
    patch: dict[str, Any] = {key: DELETE for key in now if key not in then}
    for key, value in then.items():
        if key not in now or (now[key] is not value and dump(now[key]) != dump(value)):
            patch[key] = Overwrite(value)
    return patch


def check_stage(stage: str, known: Sequence[str], pipeline_id: str) -> None:
    """Refuse a stage that a pipeline does not have (`StageGone`); near matches are named."""
    if not isinstance(stage, str) or stage not in known:
        said = shown(stage)
        raise StageGone(
            f"pipeline '{pipeline_id}' has no stage {said}: {suggest(str(stage), list(known))}",
            path=pipeline_id,
            stage=str(stage),
        )
