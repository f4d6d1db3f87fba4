"""A stage with children: runs of their own that it starts and waits for (fork, map, call).

The ids of the children are in the memo of the visit, written by the commit that creates them: after a crash
they are not started again. While children are driven, so is their parent, at no cost but its memory. Once all that have
not ended are paused, the parent is paused as well, and the end of one of them, an event to the parent in the
commit of that end, has it continue.

House rule: every way out of such a stage but "all have ended" goes through `abandon`, so no child is left without a
parent that waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final

from poundlock.codecs import dump, pack
from poundlock.errors import ChildFailed, NotRegistered, RuntimeStopped, StateInvalid, suggest
from poundlock.guard import call_now, name_of
from poundlock.marks import Overwrite
from poundlock.model.lifecycle import RunStatus
from poundlock.model.paths import MISSING
from poundlock.model.runs import CHILD_ENDED, CHILDREN_WAIT, LogRow, RunError, RunResult, WaitRow, waits_below
from poundlock.pipeline.active import ActiveRun, KeptSoFar, Midway, NewChild
from poundlock.pipeline.attempts import Work
from poundlock.pipeline.interrupting import Scope
from poundlock.pipeline.mapping import Elements, GivenElements
from poundlock.pipeline.memo import address_below, began, drop_notices, kept_entries, memo_of, visit_row
from poundlock.pipeline.plan import ChildrenPlan, StepPlan
from poundlock.pipeline.states import written
from poundlock.pipeline.step_results import MappedDone, Suspended
from poundlock.records import dataclass

_CHILD: Final = "child:"
"""First part of the keys of a memo under which the ids of children are kept."""
_DEEPEST: Final = 50
"""Parents above a child, at most: a pipeline that forks itself without an end would fill the store."""
_BY_PARENT: Final = "aborted by parent: "
"""First part of the message of a child that its parent has aborted, whatever the reason."""
_TOGETHER: Final = 100
"""Children created by one commit, at most."""


@dataclass(slots=True)
class _Child:
    """One child of the stage.

    Attributes:
        key: its pipeline, its place in a list or its key in a mapping, or its workflow.
        result: at its last rest; None before that.
        error: why waiting for it ended without a result.
        paused: whether it was paused when it was looked at last.
        watch: waits for its next rest.
    """

    key: str
    run_id: str
    result: RunResult | None = None
    error: BaseException | None = None
    paused: bool = False
    watch: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        return self.result is not None and self.result.status.terminal

    @property
    def completed(self) -> bool:
        return self.result is not None and self.result.status is RunStatus.COMPLETED


class Parent(Work):
    """The work of a stage with children."""

    __slots__ = (
        "_arrived",
        "_below",
        "_busy",
        "_by_key",
        "_children",
        "_completed",
        "_dismissed",
        "_elements",
        "_left",
        "_memo",
        "_paused",
        "_plan",
        "_progress",
        "_shown",
        "_turn",
    )

    def __init__(self, run: ActiveRun, step: StepPlan, plan: ChildrenPlan, scope: Scope | None) -> None:
        super().__init__(run, step, scope)
        assert run.progress is not None  # noqa: S101 - set while it is driven
        self._plan = plan
        self._progress: Midway = run.progress
        self._memo: KeptSoFar = memo_of(run)
        self._children: list[_Child] = []
        self._left: deque[str] = deque()
        """Keys of the children that are not started yet."""
        self._busy = self._paused = self._completed = 0
        """How many have been started and not reported yet, are paused, are completed."""
        self._dismissed: _Child | None = None
        """One that this run has aborted, in an owner that died before the stage was concluded."""
        self._arrived: deque[_Child] = deque()
        """Those that have reported since the last look."""
        self._turn: asyncio.Future[None] | None = None
        self._elements: Elements | None = None
        self._below: tuple[str, str] | None = None
        self._shown: Any = None
        self._by_key: dict[str, int] | None = None

    async def _result(self) -> MappedDone | Suspended:
        run = self.run
        drop_notices(run)  # what they say is read below
        keys = self._keys()
        self._below = address_below(run, self.step.stage_id)
        if visit_row(run) is None:
            self._check_depth()
            self._check_address(keys)
            detail = dump({"children": len(keys)})
            run.journal.add(run.clock.now(), "pipeline", "subpipeline:fork", self.step.path_json, detail)
        # A retry takes those out that were not completed: they begin anew.
        known = {key[len(_CHILD) :]: run_id for key, run_id in self._memo.kept.items() if _is_child(key, run_id)}
        self._left.extend(key for key in keys if key not in known)
        run.let_go = self._stop
        try:
            for key, run_id in known.items():
                self._follow(_Child(key, run_id))
            return await self._joined()
        except RuntimeStopped:
            if not self.run.leaving:
                raise  # user code has raised it
            return Suspended(released=True)
        finally:
            run.let_go = None
            for child in self._children:
                if child.watch is not None:
                    child.watch.cancel()

    async def _joined(self) -> MappedDone | Suspended:
        """Start children as the limit allows, until enough have ended, one has failed, or only pauses are left."""
        plan = self._plan
        limit = plan.limit or len(self._left) or 1
        while True:
            if plan.needed is not None and self._completed >= plan.needed:
                await self._abort_rest("not needed")
                return self._done()
            if self._left and self._busy < limit:
                if not self.run.leaving:
                    count = min(limit - self._busy, _TOGETHER, len(self._left))
                    await self._start([self._left.popleft() for _ in range(count)])
                if self.run.leaving:  # new children are released at once, perhaps before anybody has waited for them
                    return Suspended(released=True)
            elif self._busy or self._arrived:
                await self._next()
            elif self._paused:
                return self._suspended()
            elif self._dismissed is not None and not plan.collects:
                raise self._failure_of(self._dismissed)
            else:
                return self._done()

    async def _start(self, keys: list[str]) -> None:
        run = self.run
        run_ids = self._progress.prepare(run, [self._new(key) for key in keys])
        _arm(run)
        children = [_Child(key, run_id) for key, run_id in zip(keys, run_ids, strict=True)]
        for child in children:
            self._memo.note(self.step.path_json, _CHILD + child.key, child.run_id)
        await self._memo.keep(needed=True)  # it creates them
        for child in children:
            self._follow(child)

    # ------------------------------------------------------------------------------------------ what they begin with
    def _keys(self) -> list[str]:
        plan = self._plan
        if plan.over is None:
            return list(plan.pipelines) or [plan.workflow or ""]
        if callable(plan.over):
            elements: Elements = GivenElements(self.run, self._call(plan.over, self._view()), self.step.id)
        else:
            elements = Elements(self.run, self.run.plan.state_model, self.step.id, plan.over)
        self._elements = elements
        return elements.keys if elements.keys is not None else [str(index) for index in range(len(elements))]

    def _new(self, key: str) -> NewChild:
        plan = self._plan
        pipeline = None if plan.workflow is not None else key if plan.over is None else plan.pipelines[0]
        below = self._below
        address = below[1] if below is not None and below[0] == key else None
        return NewChild(plan.workflow, pipeline, self._initial(key), address)

    def _initial(self, key: str) -> Any:
        plan, elements, run = self._plan, self._elements, self.run
        if elements is None:
            if plan.input is None:
                return run.state
            initial = self._call(plan.input, self._view())
        else:
            index = int(key) if elements.keys is None else self._places()[key]
            if plan.input is None:
                stored = elements.stored_item(index, 1)
                item = elements.item(index, 1) if stored is MISSING else stored
                return {"item": item, "index": index} | ({} if elements.keys is None else {"key": key})
            initial = self._call(plan.input, self._view(), elements.item(index, 1))
        if not isinstance(initial, Mapping) and not hasattr(type(initial), "model_dump"):
            raise StateInvalid(
                f"input= of stage '{self.step.id}' returned a {name_of(type(initial))} for child '{key}': return a "
                f"mapping or a model",
                path=self.step.path,
            )
        return initial

    def _view(self) -> Any:
        """Return the state for `over` and `input`: read once, because a state with many elements is read for long."""
        if self._shown is None:
            self._shown = self.run.view()
        return self._shown

    def _places(self) -> dict[str, int]:
        """Return the place of each key of a mapping."""
        if self._by_key is None:
            assert self._elements is not None  # noqa: S101 - it has keys
            self._by_key = {key: index for index, key in enumerate(self._elements.keys or ())}
        return self._by_key

    def _call(self, function: Any, *args: Any) -> Any:
        answer = call_now(function, *args)
        if answer.error is not None:
            raise answer.error
        return answer.value

    def _check_address(self, keys: list[str]) -> None:
        below = self._below
        if below is None:
            return
        if below[0] not in keys:
            raise NotRegistered(f"stage '{self.step.id}' has no child '{below[0]}' to go to: {suggest(below[0], keys)}")
        if not below[1]:
            raise NotRegistered(f"the address below stage '{self.step.id}' ends at child '{below[0]}': add a stage")

    def _check_depth(self) -> None:
        if len(self.run.identity.above) >= _DEEPEST:
            raise ChildFailed(
                f"stage '{self.step.id}' would start children {_DEEPEST} levels below the first run: end the recursion",
                path=self.step.path,
            )

    # ------------------------------------------------------------------------------------------------- waiting for them
    def _follow(self, child: _Child) -> None:
        self._children.append(child)
        self._busy += 1
        self._watch(child, ended=False)

    def _watch(self, child: _Child, *, ended: bool) -> None:
        loop = asyncio.get_running_loop()
        child.watch = loop.create_task(self._rest_of(child, ended=ended), name=f"child {child.run_id}")

    async def _rest_of(self, child: _Child, *, ended: bool) -> None:
        try:
            child.result = await self._progress.child_at_rest(child.run_id, ended=ended)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised where the stage waits
            child.error = error
        self._arrived.append(child)
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _stop(self) -> None:
        """Wait no longer: a child that is delayed would hold up the stop of the runtime, or a pause of this run."""
        if self._turn is not None and not self._turn.done():
            self._turn.set_exception(RuntimeStopped("the run leaves its stage"))

    async def _next(self) -> None:
        """Return when something has become known of a child.

        Raises:
            RuntimeStopped: the runtime stops, or an operator pauses the run.
            ChildFailed: one has failed, and the stage does not collect that.
        """
        if self.run.leaving:
            raise RuntimeStopped("the run leaves its stage")
        if not self._arrived:
            self._turn = asyncio.get_running_loop().create_future()
            await self._turn
        while self._arrived:
            child = self._arrived.popleft()
            if isinstance(child.error, asyncio.CancelledError):  # by other code: nobody else waits for this child
                child.error = None
                self._watch(child, ended=child.paused)
                continue
            if child.error is not None:
                raise child.error
            if not child.ended:  # it is paused: its siblings go on
                self._busy -= 1
                self._paused += 1
                child.paused = True
                self._watch(child, ended=True)
                continue
            if child.paused:
                self._paused -= 1
            else:
                self._busy -= 1
            if child.completed:
                self._completed += 1
            elif _dismissed(child):  # why, another child says: enough are completed, or one has failed
                self._dismissed = child
            elif not self._plan.collects:
                raise self._failure_of(child)

    async def _abort_rest(self, reason: str) -> None:
        for child in self._children:
            if not child.ended:
                await self._progress.abort_child(child.run_id, reason)

    def _failure_of(self, child: _Child) -> ChildFailed:
        assert child.result is not None  # noqa: S101 - it has ended
        status, error = child.result.status, child.result.error
        return ChildFailed(
            f"child '{child.key}' {'failed' if status is RunStatus.FAILED else 'was aborted'}: {error}",
            path=self.step.path,
            run_id=child.run_id,
        )

    # -------------------------------------------------------------------------------------------------------- outcomes
    def _suspended(self) -> Suspended:
        paused = []
        for child in self._children:
            if child.result is not None and not child.ended:
                waits = waits_below(f"{self.step.stage_id}/{child.key}", child.result.waits)
                paused.append({"child": child.key, "run_id": child.run_id, "waits": waits})
        run, stage_id = self.run, self.step.stage_id
        row = _children_row(
            run, parked=True, stage_id=stage_id, patch={"paused": paused, "all": self._plan.needed is None}
        )
        limit = run.plan.by_id[stage_id].timeout
        return Suspended(wait=row if limit is None else row._replace(expires_at=began(run) + limit))

    def _done(self) -> MappedDone:
        plan, run = self._plan, self.run
        ended = [child for child in self._children if child.completed or (plan.needed is None and child.ended)]
        if plan.needed is not None and len(ended) < plan.needed:
            raise ChildFailed(
                f"{len(ended)} of {len(self._children)} children of stage '{self.step.id}' were completed, and "
                f"{plan.needed} are needed",
                path=self.step.path,
            )
        values = {child.key: _value_of(child) for child in ended}
        results: Any = values
        if plan.over is None and plan.workflow is not None:
            results = next(iter(values.values()))
        elif self._elements is not None and self._elements.keys is None:
            results = list(values.values())
        whole = isinstance(results, dict)  # what an earlier visit wrote goes
        patch = {plan.into: Overwrite(results) if whole else results}
        stored, text = written(run.plan.state_model, patch, run.state)
        detail = dump({"children": {child.key: child.run_id for child in self._children[:_TOGETHER]}})
        run.journal.add(run.clock.now(), "pipeline", "subpipeline:join", self.step.path_json, detail)
        return MappedDone(self.step, stored, text, results=results)


def _dismissed(child: _Child) -> bool:
    """Whether a child was aborted by its parent."""
    result = child.result
    if result is None or result.status is not RunStatus.ABORTED or result.error is None:
        return False
    return result.error.message.startswith(_BY_PARENT)


def _value_of(child: _Child) -> Any:
    result = child.result
    assert result is not None  # noqa: S101 - it has ended
    if not child.completed:
        error = result.error or RunError("RunAborted", "aborted")
        return {"error": {"type": error.type, "message": error.message}}
    return pack(result.state if result.result is None else result.result)[0]


def _arm(run: ActiveRun) -> None:
    """Arm the wait for the ends of children, with the commit that creates the first of them."""
    if not any(row.wait_id == CHILDREN_WAIT for row in run.waits):
        run.waits = (*run.waits, _children_row(run, parked=False, stage_id=None, patch={}))


def _children_row(run: ActiveRun, *, parked: bool, stage_id: str | None, patch: Mapping[str, Any]) -> WaitRow:
    return WaitRow(
        wait_id=CHILDREN_WAIT,
        epoch=run.version + 1,
        parked=parked,
        events=(CHILD_ENDED,),
        where=(),
        correlate=(),
        resume_at=stage_id,
        on_timeout="resume",
        expires_at=None,
        patch=patch,
        keys=(),
    )


def _is_child(key: str, value: Any) -> bool:
    return value is not None and key.startswith(_CHILD)


def started(rows: Iterable[LogRow], visit: WaitRow | None) -> list[str]:
    """Return the ids of the children that the current visit has started, by the run's log."""
    if visit is None or not isinstance(visit.patch, Mapping):
        return []
    after = visit.patch["entered_at"]
    return [value for key, value in kept_entries(rows, after) if _is_child(key, value)]


async def abandon(run: ActiveRun, history: Any, reason: str) -> None:
    """Abort all children that have not ended, and wait for their ends: the run leaves the stage in another way.

    Args:
        run: the parent; it has a row for its children.
        history: returns the run's log.
        reason: of the abort.
    """
    progress = run.progress
    assert progress is not None  # noqa: S101 - set while it is driven
    before, run.interruptible = run.interruptible, False
    try:
        if run.memo is not None:
            ids = [value for key, value in run.memo.kept.items() if _is_child(key, value)]
        else:
            ids = started(await history(run), visit_row(run))
        for run_id in ids:
            await progress.abort_child(run_id, reason)
    finally:
        run.interruptible = before
