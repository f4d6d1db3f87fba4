"""The whole of a workflow, frozen after validation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from poundlock.model.definitions import Pipeline, Service, Trigger, default_pipeline, state_model_of
from poundlock.model.durations import Duration
from poundlock.model.modes import Mode
from poundlock.model.retention import Retention
from poundlock.model.runs import RunInfo
from poundlock.model.timeline import Timeline
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class WorkflowDefinition:
    """A validated workflow. `hash` identifies its structure; code is not part of it."""

    id: str
    label: str
    triggers: Mapping[str, Trigger]
    pipelines: Mapping[str, Pipeline]
    services: tuple[Service, ...]
    env: Mapping[str, str]
    state: type | None
    mode: Mode
    requires_env: tuple[str, ...]
    visit_limit: int
    hash: str
    on_failure: str = "fail"
    on_change: str = "continue"
    migrate: Callable[[dict[str, Any], str], Any] | None = None
    undo_on_abort: bool = False
    keep_outputs: bool = False
    durability: str = "stage"
    timeout: Duration | None = None
    on_timeout: str = "fail"
    timeout_counts: Literal["total", "active"] = "total"
    retention: Retention | None = None
    redact: tuple[str, ...] = ()

    def pipeline_of(self, trigger: Trigger) -> str:
        """Return the pipeline that a trigger starts."""
        return trigger.pipeline or default_pipeline(self.pipelines) or next(iter(self.pipelines))

    def state_of(self, pipeline_id: str) -> Any:
        """Return the model of the state of a pipeline's runs; None without one, or if there is no such pipeline."""
        pipeline = self.pipelines.get(pipeline_id)
        return None if pipeline is None else state_model_of(self.state, pipeline)

    def failure_way(self, pipeline: Pipeline) -> str:
        """Return what a failure in a pipeline leads to by the workflow; a stage of another pipeline does not count."""
        ways = ["fail", "pause", *(stage.id for stage in pipeline.stages)]
        return self.on_failure if self.on_failure in ways else "fail"

    def timeout_way(self, pipeline: Pipeline) -> str:
        """Return what the end of a run's time leads to in a pipeline, as `failure_way` does for failures."""
        ways = ["fail", "abort", *(stage.id for stage in pipeline.stages)]
        return self.on_timeout if self.on_timeout in ways else "fail"

    def to_mermaid(
        self, *, run: RunInfo | None = None, timeline: Timeline | None = None, runs: Iterable[RunInfo] = ()
    ) -> str:
        """Return the pipelines as a Mermaid flowchart, see `Workflow.to_mermaid`."""
        from poundlock.drawing.mermaid import graph_mermaid  # only programs that draw load it
        from poundlock.model.graph import read_graph

        return graph_mermaid(read_graph(self, run=run, timeline=timeline, runs=runs))

    def to_svg(
        self, *, run: RunInfo | None = None, timeline: Timeline | None = None, runs: Iterable[RunInfo] = ()
    ) -> str:
        """Return the pipelines as an SVG document, see `Workflow.to_svg`."""
        from poundlock.drawing.graph_svg import graph_svg
        from poundlock.model.graph import read_graph

        return graph_svg(read_graph(self, run=run, timeline=timeline, runs=runs))
