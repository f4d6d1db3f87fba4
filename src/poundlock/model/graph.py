"""The graph of a workflow, read from its definition: boxes for triggers and stages, edges for where they lead.

To show a new part of a stage, add a line to `_lines`; a new router, a case to `_Reader._router`; a new kind of box or
edge, an entry in `drawing/graph.py`. Layout and writers take any graph.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, Protocol

from poundlock.codecs import dump
from poundlock.drawing.graph import Edge, Graph, Node, Panel
from poundlock.drawing.texts import duration
from poundlock.model.conditions import Condition, StateRef
from poundlock.model.course import course, next_stages
from poundlock.model.cron import zone_name
from poundlock.model.definitions import (
    DEFAULT_LIMIT,
    Advance,
    Branch,
    Children,
    Delay,
    Fail,
    Jump,
    JumpTo,
    Pause,
    Pipeline,
    Stage,
    Step,
    Switch,
    Terminate,
    Trigger,
    Wait,
    default_pipeline,
)
from poundlock.model.durations import Duration, seconds
from poundlock.model.moments import utc_text
from poundlock.model.quoting import name_of, shown
from poundlock.model.runs import RunInfo
from poundlock.model.timeline import Timeline
from poundlock.model.wait_checks import ends_wait

MANY: Final = 3
"""Where the failure of more stages than this leads to one place, they share an edge."""
_ENDED: Final = ("completed", "aborted")


class Drawn(Protocol):
    """What of a workflow is drawn."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def triggers(self) -> Mapping[str, Trigger]: ...
    @property
    def pipelines(self) -> Mapping[str, Pipeline]: ...
    @property
    def on_failure(self) -> str: ...
    @property
    def timeout(self) -> Duration | None: ...
    @property
    def on_timeout(self) -> str: ...


def read_graph(
    workflow: Drawn, *, run: RunInfo | None = None, timeline: Timeline | None = None, runs: Iterable[RunInfo] = ()
) -> Graph:
    """Return the graph of a workflow without faults.

    Args:
        workflow: its definition.
        run: whose place is marked.
        timeline: of that run: the stages that it entered are marked too.
        runs: counted per stage and status, those that are completed or aborted left out.
    """
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for each in runs:
        if each.workflow_id == workflow.id and each.stage is not None and each.status not in _ENDED:
            counts[each.pipeline_id, each.stage][str(each.status)] += 1
    passed = Counter(
        entry.path for entry in (timeline.entries if timeline is not None else ()) if entry.type == "stage:start"
    )
    panels = []
    for pipeline in workflow.pipelines.values():
        reader = _Reader(workflow, pipeline)
        panels.append(reader.panel(_Marks(pipeline.id, run, passed, counts), several=len(workflow.pipelines) > 1))
    parts = [workflow.id] if workflow.label else []
    if workflow.on_failure == "pause":
        parts.append("a failure pauses the run")
    if workflow.timeout is not None:
        parts.append(f"at most {_duration(workflow.timeout)}")
    if run is not None:
        parts.append(f"run {run.run_id}, {run.status}")
    return Graph(workflow.label or workflow.id, " · ".join(parts), tuple(panels))


class _Marks:
    """What of runs is shown at the stages of one pipeline."""

    def __init__(
        self,
        pipeline_id: str,
        run: RunInfo | None,
        passed: Mapping[str, int],
        counts: Mapping[tuple[str, str], Counter[str]],
    ) -> None:
        self._pipeline_id = pipeline_id
        self._run = run if run is not None and run.pipeline_id == pipeline_id else None
        self._passed = passed
        self._counts = counts

    def of(self, stage_id: str) -> dict[str, Any]:
        here = self._run is not None and self._run.stage == stage_id
        counted = self._counts.get((self._pipeline_id, stage_id), Counter[str]())
        return {
            "mark": str(self._run.status) if here and self._run is not None else "",
            "passed": self._passed.get(f"{self._pipeline_id}/{stage_id}", 0),
            "badges": tuple(f"{number} {status}" for status, number in sorted(counted.items())),
        }


class _Reader:
    """Collects the boxes and edges of one pipeline."""

    def __init__(self, workflow: Drawn, pipeline: Pipeline) -> None:
        self._workflow = workflow
        self._pipeline = pipeline
        self._following = next_stages(pipeline.stages)
        self._ends: list[Node] = []
        self._edges: list[Edge] = []

    def panel(self, marks: _Marks, *, several: bool) -> Panel:
        """Return the pipeline's panel."""
        stages = self._pipeline.stages
        begins = [*self._triggers(), *self._failures()]
        for stage in stages:
            self._leads(stage)
        boxes = [_stage_node(stage, marks) for stage in stages]
        title = f"{self._pipeline.label or self._pipeline.id}" if several or self._pipeline.label else ""
        edges = tuple(_merged(self._edges))
        return Panel(self._pipeline.id, title, (*begins, *boxes, *self._ends), edges, tuple(self._order(edges)))

    def _order(self, edges: Sequence[Edge]) -> Iterator[tuple[str, str]]:
        """Yield the stages that only functions lead to, each with the one before it."""
        reached = {edge.target for edge in edges}
        ids = [f"stage {stage.id}" for stage in self._pipeline.stages]
        yield from ((one, other) for one, other in pairwise(ids) if other not in reached)

    # ------------------------------------------------------------------------------------------------ where it begins
    def _triggers(self) -> Iterator[Node]:
        first = course(self._pipeline.stages)[0]
        for name, trigger in self._workflow.triggers.items():
            if (trigger.pipeline or default_pipeline(self._workflow.pipelines)) == self._pipeline.id:
                node = Node(f"trigger {name}", "trigger", *_trigger_texts(name, trigger))
                self._edges.append(Edge(node.id, f"stage {first}"))
                yield node

    def _failures(self) -> Iterator[Node]:
        """Yield boxes for failures of several stages that lead to one place."""
        shared = Counter(stage.on_failure for stage in self._pipeline.stages)
        ids = [stage.id for stage in self._pipeline.stages]
        general = self._workflow.on_failure
        if general in ids:
            yield Node("failure", "failure", "any failure")
            self._edges.append(Edge("failure", f"stage {general}", "failure"))
        late = self._workflow.on_timeout
        if self._workflow.timeout is not None and late in ids:
            yield Node("deadline", "failure", f"after {_duration(self._workflow.timeout)}")
            self._edges.append(Edge("deadline", f"stage {late}", "timeout"))
        for target, number in shared.items():
            if target not in (None, "fail", "pause") and number > MANY:
                yield Node(f"failure {target}", "failure", f"failure of {number} stages")
                self._edges.append(Edge(f"failure {target}", f"stage {target}", "failure"))
        self._shared = {target for target, number in shared.items() if number > MANY}

    # ------------------------------------------------------------------------------------------------ where it leads
    def _leads(self, stage: Stage) -> None:
        self._router(stage, stage.router)
        if stage.on_failure not in (None, "fail", "pause") and stage.on_failure not in self._shared:
            self._edge(stage, stage.on_failure, "failure", "failure")

    def _router(self, stage: Stage, router: Any) -> None:
        following = self._following[stage.id]
        if router is None or isinstance(router, Advance):
            self._edge(stage, following)
        elif isinstance(router, str):
            self._edge(stage, router)
        elif isinstance(router, Jump):
            self._edge(stage, router.stage)
        elif isinstance(router, JumpTo):
            self._edge(stage, router.address.partition("/")[0])
        elif isinstance(router, Terminate):
            given = "" if router.result is None else f": {_value(router.result)}"
            self._end(stage, "completed", f"completed{given}")
        elif isinstance(router, Fail):
            self._end(stage, "failed", f"failed: {router.reason}")
        elif isinstance(router, Delay):
            self._edge(stage, router.then or following, "later", _delay_text(router))
        elif isinstance(router, Pause):
            self._wait(stage, router)
        elif isinstance(router, Branch):
            for conditions, target in router.cases:
                self._edge(stage, target, "choice", " and ".join(map(_condition, conditions)))
            self._edge(stage, router.otherwise or following, "choice", "otherwise")
        elif isinstance(router, Switch):
            for value, target in router.cases:
                self._edge(stage, target, "choice", f"{router.field} = {_value(value)}")
            self._edge(stage, router.otherwise or following, "choice", "otherwise")
        else:
            name = name_of(router)
            self._tag(stage, Node("", "unknown", "any stage"), "code", f"{name}()")
            self._edge(stage, following, "code")

    def _wait(self, stage: Stage, pause: Pause) -> None:
        wait = pause.wait
        if isinstance(wait.events, Mapping):
            for event, target in wait.events.items():
                self._edge(stage, target, "event", event)
        else:
            self._edge(stage, pause.resume_at or self._following[stage.id], "event", " or ".join(_events(wait)))
        if wait.timeout is None:
            return
        after = f"after {_duration(wait.timeout)}"
        if wait.on_timeout == "resume":
            self._edge(stage, pause.resume_at or self._following[stage.id], "timeout", after)
        elif wait.on_timeout == "abort":
            self._tag(stage, Node("", "aborted", "aborted"), "timeout", after)
        elif not ends_wait(wait.on_timeout):
            self._edge(stage, wait.on_timeout, "timeout", after)
        elif (stage.on_failure or self._workflow.on_failure) == "fail":
            self._tag(stage, Node("", "failed", "failed"), "timeout", after)

    def _edge(self, stage: Stage, target: str | None, kind: str = "next", label: str = "") -> None:
        """Add an edge; to the end of the run if there is no target."""
        if target is None:
            self._end(stage, "completed", "completed", kind, label)
        else:
            self._edges.append(Edge(f"stage {stage.id}", f"stage {target}", kind, label))

    def _end(self, stage: Stage, outcome: str, title: str, kind: str = "next", label: str = "") -> None:
        self._tag(stage, Node("", outcome, title), kind, label)

    def _tag(self, stage: Stage, tag: Node, kind: str, label: str) -> None:
        """Add an edge to a small box that belongs to this stage alone, so that no long edges lead to a common end."""
        id_ = f"{tag.kind} {stage.id}"
        if all(node.id != id_ for node in self._ends):
            self._ends.append(Node(id_, tag.kind, tag.title))
        self._edges.append(Edge(f"stage {stage.id}", id_, kind, label))


def _merged(edges: Iterable[Edge]) -> list[Edge]:
    """Return the edges with those between the same boxes as one: two ways to one place read better together."""
    labels: dict[tuple[str, str, str], list[str]] = {}
    for edge in edges:
        labels.setdefault((edge.source, edge.target, edge.kind), []).append(edge.label)
    return [Edge(*ends, " or ".join(dict.fromkeys(filter(None, texts)))) for ends, texts in labels.items()]


# ------------------------------------------------------------------------------------------------------------- boxes
def _stage_node(stage: Stage, marks: _Marks) -> Node:
    kind = "stage"
    if isinstance(stage.router, Pause):
        kind = "wait"
    elif isinstance(stage.router, Delay):
        kind = "delay"
    elif stage.aside:
        kind = "aside"
    return Node(f"stage {stage.id}", kind, stage.label or stage.id, tuple(_lines(stage, kind)), **marks.of(stage.id))


def _lines(stage: Stage, kind: str) -> Iterator[str]:
    if stage.label:
        yield stage.id
    if stage.aside and kind != "aside":
        yield "entered by name only"
    for step in stage.steps:
        told = list(_step_texts(step))
        named = step.label or step.id
        if len(stage.steps) > 1 or named != stage.id:
            told.insert(0, named)
        if told:
            yield " · ".join(told)
    if stage.children is not None:
        yield from _children_lines(stage.children)
    if stage.timeout is not None:
        yield f"at most {_duration(stage.timeout)}"
    if stage.conflict == "error":
        yield "writes to one key fail"
    if isinstance(stage.router, Pause):
        yield from _wait_lines(stage.router.wait)
    if stage.on_failure is not None:
        yield {"fail": "a failure ends the run", "pause": "a failure pauses the run"}.get(
            stage.on_failure, f"a failure leads to {stage.on_failure}"
        )


def _children_lines(children: Children) -> Iterator[str]:
    runs = f"runs of {children.workflow}" if children.workflow is not None else " and ".join(children.pipelines)
    if children.over is None:
        beside = "side by side" if len(children.pipelines) > 1 else "as a run of its own"
        yield f"{runs}, {beside}" if children.workflow is None else f"a run of {children.workflow}"
    else:
        over = children.over if isinstance(children.over, str) else f"{name_of(children.over)}()"
        yield f"for each of {over}: {runs}, {children.limit or DEFAULT_LIMIT} at once"
    if children.join != "all":
        yield "the first one is enough" if children.join in ("any", 1) else f"the first {children.join} are enough"
    if children.on_child_failure == "collect":
        yield "failures are collected"


def _step_texts(step: Step) -> Iterator[str]:
    if step.each is not None:
        yield f"for each of {step.each}, {step.limit} at once"
    if step.contract is not None and (step.contract.input or step.contract.output) is not None:
        yield f"{_model(step.contract.input)} \u2192 {_model(step.contract.output)}"
    if step.poll is not None and step.every is not None:
        yield f"checked every {_duration(step.every)}"
    if step.retry is not None:
        yield f"{step.retry.attempts} attempts"
    if step.timeout is not None:
        yield f"at most {_duration(step.timeout)}"
    if step.undo is not None:
        yield "undo"
    if step.executor not in (None, "thread", "inline"):
        yield "in a process" if step.executor == "process" else f"by {step.executor}"


def _wait_lines(wait: Wait) -> Iterator[str]:
    yield "waits for " + (" and " if wait.mode == "all" else " or ").join(_events(wait))
    if isinstance(wait.mode, int):
        yield f"{wait.mode} of them" + (f", each with another {wait.distinct}" if wait.distinct else "")
    needs = [f"{path} = {_value(value)}" for path, value in (wait.correlate or {}).items()]
    needs += map(_condition, wait.where)
    if needs:
        yield "with " + " and ".join(needs)
    if not wait.early:
        yield "only while it is paused"


def _trigger_texts(name: str, trigger: Trigger) -> tuple[str, tuple[str, ...]]:
    lines = []
    timed = trigger.cron is not None or trigger.every is not None
    if trigger.event is None and not timed:
        lines.append("by a call")
    elif trigger.event is not None and name != trigger.event:
        lines.append(trigger.event)
    if trigger.cron is not None:
        lines.append(f"at {trigger.cron}" + ("" if trigger.tz is None else f" in {zone_name(trigger.tz)}"))
    if trigger.every is not None:
        lines.append(f"every {_duration(trigger.every)}")
    if callable(trigger.when):
        lines.append(f"when {name_of(trigger.when)}()")
    elif trigger.when:
        lines.append("when " + " and ".join(map(_condition, trigger.when)))
    if trigger.key is not None:
        lines.append(f"by {trigger.key}" if isinstance(trigger.key, str) else "by a key of a function")
    return name, tuple(lines)


# ------------------------------------------------------------------------------------------------------------- texts
def _events(wait: Wait) -> Sequence[str]:
    return [wait.events] if isinstance(wait.events, str) else list(wait.events)


def _condition(condition: Condition) -> str:
    if condition.op == "exists":
        return f"{condition.field} {'is absent' if condition.value is False else 'exists'}"
    return f"{condition.field} {condition.op} {_value(condition.value)}"


def _value(value: Any) -> str:
    if isinstance(value, StateRef):
        return f"state {value.path}"
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return dump(value)
    return shown(value)


def _model(given: Any) -> str:
    return "state" if given is None else name_of(given)


def _duration(given: Duration) -> str:
    return duration(seconds(given)).replace(".0 s", " s")


def _delay_text(delay: Delay) -> str:
    if delay.seconds is not None:
        return f"after {_duration(delay.seconds)}"
    until = delay.until
    return f"at {utc_text(until, ' ', 'minutes')}" if isinstance(until, int | float) else f"at {until}"
