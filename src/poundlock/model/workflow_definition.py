"""The whole of a workflow, frozen after validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from poundlock.model.definitions import Pipeline, Service, Trigger
from poundlock.model.modes import Mode
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
    undo_on_abort: bool = False
    keep_outputs: bool = False

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
