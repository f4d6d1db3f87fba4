"""Graphs as pictures: what can be seen, in both colour schemes."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree as ET

from poundlock.drawing.graph import KINDS, WAYS, Edge, Graph, Node, Panel
from poundlock.drawing.graph_svg import arranged, graph_svg
from poundlock.drawing.texts import cut, width_of


def graph(nodes, edges=()):
    return Graph("g", "", (Panel("main", "", tuple(nodes), tuple(edges)),))


def every_kind():
    nodes = [Node(kind, kind, kind, ("line",)) for kind in KINDS]
    names = list(KINDS)
    edges = [Edge(names[0], names[1 + place % 6], way, f"by {way}") for place, way in enumerate(WAYS)]
    return graph(nodes, edges)


def test_each_kind_has_colours_in_both_schemes():
    """Each class of the picture has a colour on light and on dark screens, and the light one needs no media query."""
    svg = graph_svg(every_kind())
    light, dark = re.findall(r"<style>(.*?)@media \(prefers-color-scheme: dark\)\{(.*)\}</style>", svg)[0]
    used = set(re.findall(r'class="([\w-]+)"', svg)) - {"poundlock"}
    assert {f"k-{kind}" for kind in KINDS} <= used
    for name in used:
        assert f".poundlock .{name}{{" in light
        assert f".poundlock .{name}{{" in dark
    assert "var(" not in svg


def contrast(one, other):
    """Return the contrast of two colours as WCAG defines it."""

    def light(colour):
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        red, green, blue = [each / 12.92 if each <= 0.03928 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_texts_can_be_read():
    """Text stands out from its box by 4.5 at least, and lines from the background by 3."""
    for look in (*KINDS.values(), *WAYS.values()):
        for (fill, line, ink), back in ((look.light, "#ffffff"), (look.dark, "#0d1117")):
            assert contrast(fill, ink) >= 4.5
            assert contrast(back, ink) >= 4.5
            assert contrast(back, line) >= 3


def test_nothing_is_loaded_or_run():
    """The document has no scripts, links or addresses other than the name of its language."""
    svg = graph_svg(every_kind())
    assert re.findall(r"https?:[^\"']+", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<(script|image|use|a|foreignObject)\b|href|url\(|@import", svg)


def test_long_texts_are_cut_and_shown_whole_on_hover():
    """A text that is too long ends with an ellipsis inside its box; the whole of it is in the box's title."""
    long = "one very long name " * 30
    svg = graph_svg(graph([Node("a", "stage", long, (long,))]))
    [box] = arranged(graph([Node("a", "stage", long, (long,))]).panels[0]).boxes
    assert box.width <= 300
    texts = [each.text for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert all(len(text) < 60 for text in texts)
    assert sum(text.endswith("…") for text in texts) == 2
    assert long in svg


def test_cut_fits():
    """A cut text is at most as wide as asked, for letters of any width."""
    for text in ("iiiiiiiiiiiiiiiiiiiiiiiiii", "WWWWWWWWWWWWW", "日本語のとても長い名前です", "a\nb" * 20, "🚢" * 20):
        assert width_of(cut(text, 60, 12), 12) <= 60
    assert cut("short", 60, 12) == "short"


def test_the_legend_explains_what_is_there():
    """The legend has what the picture uses and needs words, and nothing else."""
    svg = graph_svg(graph([Node("a", "stage", "a"), Node("b", "wait", "b")], [Edge("a", "b", "code")]))
    shown = [each.text for each in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert shown == ["g", "a", "b", "pauses for an event", "decided by a function"]


def test_arrows_point_the_way_of_the_edge():
    """The head of an arrow is at its target: at the top of what is below, at the bottom of what is above."""
    panel = graph(
        [Node(each, "stage", each) for each in "abc"], [Edge("a", "b"), Edge("b", "c"), Edge("c", "a")]
    ).panels[0]
    layout = arranged(panel)
    down, _, up = layout.wires
    assert down.points[-1][1] == layout.boxes[1].y
    assert up.points[0][1] == layout.boxes[2].y
    assert up.points[-1][1] == layout.boxes[0].y + layout.boxes[0].height


def test_one_way_is_straight():
    """Stages that follow each other stand in one straight line, whatever runs beside them."""
    names = [f"s{number}" for number in range(40)]
    edges = [Edge(one, other) for one, other in pairwise(names)]
    edges += [Edge(names[number], names[(number * 7) % 40], "choice", "if so") for number in range(0, 40, 5)]
    layout = arranged(Panel("main", "", tuple(Node(each, "stage", each) for each in names), tuple(edges)))
    assert max(box.middle for box in layout.boxes) - min(box.middle for box in layout.boxes) < 60
    assert layout.width < 800
    assert layout.height < 40 * 110
