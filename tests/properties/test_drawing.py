"""Pictures of random workflows and graphs: no two boxes overlap, edges end at their boxes, and the SVG is XML."""

from __future__ import annotations

import re
from itertools import combinations
from xml.etree import ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st

from poundlock import (
    Condition,
    Delay,
    Fail,
    InvalidDefinition,
    Jump,
    Pause,
    Pipeline,
    Stage,
    Step,
    Terminate,
    Wait,
    Workflow,
    branch,
    switch,
)
from poundlock.drawing.graph_svg import arranged, graph_svg
from poundlock.drawing.places import LOOP, lay_out
from poundlock.model.graph import read_graph

IDS = [f"s{number}" for number in range(9)]
TEXTS = st.text(max_size=60)


async def work():
    """Do nothing."""


def route(state):
    """Decide."""


targets = st.sampled_from(IDS)
routers = st.one_of(
    st.none(),
    st.just(route),
    targets.map(Jump),
    st.just(Terminate("x")),
    st.just(Fail("y")),
    st.builds(Delay, st.integers(1, 10**7), then=targets),
    st.builds(
        lambda ways, timeout: Pause(Wait(ways, timeout=timeout, on_timeout="s0")),
        st.dictionaries(st.sampled_from(["a", "b.c", "d.*"]), targets, min_size=1),
        st.none() | st.integers(1, 10**6),
    ),
    st.builds(
        lambda value, one, other: branch({Condition("f", ">", value): one}, otherwise=other),
        st.integers(),
        targets,
        targets,
    ),
    st.builds(lambda cases: switch("f", cases), st.dictionaries(TEXTS, targets, min_size=1, max_size=4)),
)
steps = st.lists(TEXTS, max_size=3).map(
    lambda labels: [Step(f"step{number}", work, label=label) for number, label in enumerate(labels)]
)


@st.composite
def workflows(draw):
    stages = [
        Stage(
            name,
            draw(steps) or [Step("one", work)],
            router=draw(routers),
            label=draw(TEXTS),
            aside=number > 0 and draw(st.booleans()),
            then=draw(st.none() | targets),
            on_failure=draw(st.sampled_from([None, "fail", "pause"]) | targets),
        )
        for number, name in enumerate(IDS)
    ]
    workflow = Workflow("w", label=draw(TEXTS), pipelines=[Pipeline("main", stages)], on_failure=draw(targets))
    for number in range(draw(st.integers(0, 3))):
        workflow.on(f"event.{number}")
    return workflow


def overlap(one, other):
    return (
        one.x < other.x + other.width
        and other.x < one.x + one.width
        and one.y < other.y + other.height
        and other.y < one.y + one.height
    )


def at_edge(box, point):
    """Whether a point lies on a box's outline, within the rounding of numbers."""
    x, y = point
    near = 1e-6
    inside = box.x - near <= x <= box.x + box.width + near and box.y - near <= y <= box.y + box.height + near
    sides = (abs(x - box.x), abs(x - box.x - box.width), abs(y - box.y), abs(y - box.y - box.height))
    return inside and min(sides) < near


def check(layout, edges):
    assert [pair for pair in combinations(layout.boxes, 2) if overlap(*pair)] == []
    for (source, target), wire in zip(edges, layout.wires, strict=True):
        assert at_edge(layout.boxes[source], wire.points[0])
        assert at_edge(layout.boxes[target], wire.points[-1])
    for box in layout.boxes:
        assert box.x >= -1e-6
        assert box.y >= -1e-6
        assert box.x + box.width <= layout.width + 1e-6
        assert box.y + box.height <= layout.height + 1e-6


@settings(max_examples=60, deadline=None)
@given(workflows())
def test_pictures_of_workflows_are_sound(workflow):
    """Whatever a workflow consists of, its picture is XML, boxes lie apart and edges end where they belong."""
    try:
        definition = workflow.definition
    except InvalidDefinition:
        return
    graph = read_graph(definition)
    for panel in graph.panels:
        places = {node.id: number for number, node in enumerate(panel.nodes)}
        layout = arranged(panel)
        check(layout, [(places[edge.source], places[edge.target]) for edge in panel.edges])
    root = ET.fromstring(graph_svg(graph))
    boxes = [each for each in root.iter() if "data-node" in each.attrib]
    assert len(boxes) == sum(len(panel.nodes) for panel in graph.panels)
    assert all(re.fullmatch(r'[^"]*("[^"]*")?[^"]*', line) for line in definition.to_mermaid().splitlines())


@st.composite
def graphs(draw):
    number = draw(st.integers(1, 14))
    sizes = draw(st.lists(st.tuples(st.floats(20, 300), st.floats(20, 120)), min_size=number, max_size=number))
    place = st.integers(0, number - 1)
    edges = draw(st.lists(st.tuples(place, place), max_size=24, unique=True))
    labels = {at: (draw(st.floats(10, 200)), 18.0) for at in range(len(edges)) if draw(st.booleans())}
    return sizes, edges, labels


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_layouts_of_graphs_are_sound(graph):
    """Whatever leads where, also in loops: nothing overlaps, no label lies on a box or another label."""
    sizes, edges, labels = graph
    layout = lay_out(sizes, edges, labels, [1.0] * len(edges))
    check(layout, edges)
    assert layout.labels.keys() == labels.keys()
    rooms = []
    for edge, (x, y) in layout.labels.items():
        width, height = labels[edge]
        rooms.append(type(layout.boxes[0])(x - width / 2, y - height / 2, width, height))
        if edges[edge][0] != edges[edge][1]:
            assert not any(overlap(rooms[-1], box) for box in layout.boxes)
    assert [pair for pair in combinations(rooms, 2) if overlap(*pair)] == []


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_no_edge_runs_through_a_box(graph):
    """Where an edge passes a row of boxes, it passes between them."""
    sizes, edges, _ = graph
    layout = lay_out(sizes, edges, {}, [1.0] * len(edges))
    for (source, target), wire in zip(edges, layout.wires, strict=True):
        if source == target:
            assert max(x for x, _ in wire.points) <= layout.boxes[source].x + layout.boxes[source].width + LOOP
            continue
        for (x, top), (_, bottom) in zip(wire.points[::2], wire.points[1::2], strict=True):
            low, high = min(top, bottom), max(top, bottom)
            for number, box in enumerate(layout.boxes):
                beside = number not in (source, target) and box.y < high and low < box.y + box.height
                assert not (beside and box.x < x < box.x + box.width)
