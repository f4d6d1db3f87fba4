"""Reports of a container: snapshots, never live objects, and never an instance or its values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from poundlock.artifacts import graph
from poundlock.artifacts.node import BUILDING, READY, Node, Slot
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters of one container, as of one moment.

    Attributes:
        templates: its own recipes and values.
        live: built artifacts.
        building: builds in flight, each in a task.
        waiters: callers that wait for those.
        builds: builds that succeeded.
        failures: builds that failed; a repeated attempt is not counted.
        invalidations: instances dropped.
        cleanups: clean-ups run.
        pending_cleanups: artifacts with clean-ups still to run.
        listeners: of events and of artifacts.
        scopes: children created by `scope`.
        disposed: whether it is closed.
    """

    templates: int
    live: int
    building: int
    waiters: int
    builds: int
    failures: int
    invalidations: int
    cleanups: int
    pending_cleanups: int
    listeners: int
    scopes: int
    disposed: bool


def statistics(node: Node) -> Statistics:
    """Return a node's counters."""
    slots = node.all_slots()
    flights = (node.flights or {}).values()
    listeners = sum(len(each) for each in (node.listeners or {}).values())
    return Statistics(
        templates=len(node.known()),
        live=sum(slot.status is READY for slot in slots),
        building=len(flights),
        waiters=sum(len(flight.waiters) for flight in flights),
        builds=node.builds,
        failures=node.failures,
        invalidations=node.invalidations,
        cleanups=node.cleanups_run,
        pending_cleanups=len(node.pending_cleanups or ()),
        listeners=listeners + sum(observer.count for observer in (node.observers or {}).values()),
        scopes=len(node.scopes or ()),
        disposed=node.closed,
    )


@dataclass(frozen=True, slots=True)
class ArtifactInfo:
    """One artifact, as of one moment.

    Attributes:
        key: with the cache key of its params, if it has any.
        scope: "singleton" or "transient".
        status: "empty", "building" or "ready"; a transient is always empty.
        container: name of its container.
        dependencies: keys it depends on, those of other containers as "container/key".
        dependents: keys of built artifacts that depend on it.
        builds: how often it was built.
        seconds: how long the last build took; 0.0 where the fast path built it, which does not measure.
        error: the error of the last build; empty if it succeeded.
        listeners: number of listeners.
    """

    key: str
    scope: str
    status: str
    container: str
    dependencies: tuple[str, ...]
    dependents: tuple[str, ...]
    builds: int
    seconds: float
    error: str
    listeners: int


@dataclass(frozen=True, slots=True)
class DebugInfo:
    """A container, as of one moment.

    Attributes:
        name: name of the container.
        artifacts: its own artifacts, in registration order.
        parents: the containers it falls back to.
    """

    name: str
    artifacts: tuple[ArtifactInfo, ...]
    parents: tuple[DebugInfo, ...]

    def render(self, form: Literal["tree", "mermaid"] = "tree") -> str:
        """Draw the container and its parents, as a text tree or as the source of a Mermaid diagram."""
        return "\n".join(_tree(self, "") if form == "tree" else _mermaid(self))


def debug_info(node: Node) -> DebugInfo:
    """Return a snapshot of a node and its parents."""
    upwards = _dependents(node)
    infos = []
    for name in node.known():
        recipe = node.own(name)
        if recipe is not None:
            built = [slot for slot in node.all_slots() if slot.recipe.name == name]
            infos += [_info(slot, upwards) for slot in built or [Slot(node, recipe, None, None)]]
    return DebugInfo(node.name, tuple(infos), tuple(debug_info(parent) for parent in node.parents))


def _info(place: Slot, upwards: dict[Slot, list[str]]) -> ArtifactInfo:
    node, recipe = place.node, place.recipe
    watching = (node.observers or {}).get(recipe.name)
    return ArtifactInfo(
        key=place.name,
        scope=recipe.template.scope,
        status=place.status.value,
        container=node.name,
        dependencies=tuple(dict.fromkeys(_named(each, node) for each in graph.dependencies(place))),
        dependents=tuple(upwards.get(place, ())),
        builds=place.builds,
        seconds=place.seconds,
        error=f"{type(place.error).__name__}: {place.error}" if place.error is not None else "",
        listeners=watching.count if watching is not None else 0,
    )


def _named(slot: Slot, seen_from: Node) -> str:
    return slot.name if slot.node is seen_from else f"{slot.node.name}/{slot.name}"


def _dependents(node: Node) -> dict[Slot, list[str]]:
    """Return the dependents of each slot, here and below, without building the index that invalidation uses."""
    below = [borrower for reference in node.borrowers or () if (borrower := reference()) is not None]
    found: dict[Slot, list[str]] = {}
    for place in (node, *below):
        for slot in place.all_slots():
            if slot.status is READY or slot.status is BUILDING:
                for dependency in dict.fromkeys(graph.dependencies(slot)):
                    found.setdefault(dependency, []).append(_named(slot, node))
    return found


# ----------------------------------------------------------------------------------------------------- drawing
def _tree(info: DebugInfo, indent: str) -> Iterator[str]:
    yield f"{indent}{info.name or '(unnamed)'}"
    lines = [_line(artifact) for artifact in info.artifacts]
    for index, line in enumerate(lines):
        last = index == len(lines) - 1 and not info.parents
        yield f"{indent}{'└─' if last else '├─'} {line}"
    for index, parent in enumerate(info.parents):
        last = index == len(info.parents) - 1
        yield f"{indent}{'└─' if last else '├─'} falls back to"
        yield from _tree(parent, indent + ("   " if last else "│  "))


def _line(artifact: ArtifactInfo) -> str:
    parts = [artifact.key, f"({artifact.scope}, {artifact.status})"]
    if artifact.builds:
        parts.append(f"built {artifact.builds}x, last in {artifact.seconds:.3f} s")
    if artifact.dependencies:
        parts.append(f"needs {', '.join(artifact.dependencies)}")
    if artifact.dependents:
        parts.append(f"needed by {', '.join(artifact.dependents)}")
    if artifact.error:
        parts.append(f"failed: {artifact.error}")
    return "  ".join(parts)


def _mermaid(info: DebugInfo) -> Iterator[str]:
    places: list[DebugInfo] = []

    def collect(place: DebugInfo) -> None:
        if place not in places:
            places.append(place)
            for parent in place.parents:
                collect(parent)

    collect(info)
    ids: dict[tuple[str, str], str] = {}
    yield "graph TD"
    for number, place in enumerate(places):
        yield f'  subgraph c{number}["{_quoted(place.name or "(unnamed)")}"]'
        for artifact in place.artifacts:
            mark = ids[place.name, artifact.key] = f"a{len(ids)}"
            yield f'    {mark}["{_quoted(artifact.key)}<br/>{artifact.status}"]'
        yield "  end"
    for place in places:
        for artifact in place.artifacts:
            for dependency in artifact.dependencies:
                container, slash, key = dependency.partition("/")
                target = ids.get((container, key) if slash else (place.name, dependency)) or ids.get(
                    (place.name, dependency)
                )
                if target is not None:
                    yield f"  {ids[place.name, artifact.key]} --> {target}"


def _quoted(text: str) -> str:
    return text.replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
