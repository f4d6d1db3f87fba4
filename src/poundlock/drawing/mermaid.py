"""Graphs as Mermaid, the language for diagrams that many pages and editors draw."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from poundlock.drawing.graph import KINDS, WAYS, Edge, Graph, Node
from poundlock.drawing.texts import one_line

LONGEST: Final = 80
"""Characters of a line in a box or on an edge; the rest is cut."""
_ESCAPED: Final = re.compile("[^\\w .,:/=()+*?!@'\u00b7\u00d7\u2026\u2192-]")
_SHAPES: Final = {"box": ("[", "]"), "round": ("([", "])"), "tag": ("([", "])")}


def graph_mermaid(graph: Graph) -> str:
    """Return a graph as a Mermaid flowchart. Boxes have ids of their own (n0, n1 ...), so any text can be shown."""
    lines = ["flowchart TD"]
    names: dict[tuple[str, str], str] = {}
    for panel in graph.panels:
        for node in panel.nodes:
            names[panel.id, node.id] = f"n{len(names)}"
    several = len(graph.panels) > 1
    for number, panel in enumerate(graph.panels):
        indent = "    "
        if several:
            lines.append(f'    subgraph p{number}["{_text(panel.title or panel.id)}"]')
            indent *= 2
        lines += [f"{indent}{names[panel.id, node.id]}{_box(node)}:::{node.kind}" for node in panel.nodes]
        lines += ["    end"] if several else []
    edges = [(panel.id, edge) for panel in graph.panels for edge in panel.edges]
    for panel_id, edge in edges:
        lines.append(f"    {names[panel_id, edge.source]} {_arrow(edge)} {names[panel_id, edge.target]}")
    lines += _styles(graph, names, [edge for _, edge in edges])
    return "\n".join(lines) + "\n"


def _box(node: Node) -> str:
    opened, closed = _SHAPES[KINDS[node.kind].shape]
    rows = [f"<b>{_text(node.title)}</b>" if node.lines else _text(node.title)]
    rows += [_text(line) for line in (*node.lines, *node.notes())]
    return f'{opened}"{"<br>".join(rows)}"{closed}'


def _arrow(edge: Edge) -> str:
    arrow = "-.->" if WAYS[edge.kind].dashed else "-->"
    return f'{arrow}|"{_text(edge.label)}"|' if edge.label else arrow


def _text(text: str) -> str:
    """Return a text for between quotes: what has a meaning in Mermaid or in HTML becomes a number of a character."""
    text = one_line(text)
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return _ESCAPED.sub(lambda found: f"#{ord(found[0])};", text) or " "


def _styles(graph: Graph, names: dict[tuple[str, str], str], edges: list[Edge]) -> Iterator[str]:
    """Yield the colours, those of a light screen: Mermaid knows one set. Boxes bring their own background along."""
    nodes = [(names[panel.id, node.id], node) for panel in graph.panels for node in panel.nodes]
    used = {node.kind for _, node in nodes}
    for kind, look in KINDS.items():
        if kind in used:
            fill, line, ink = look.light
            dashed = ",stroke-dasharray:5 4" if look.dashed else ""
            yield f"    classDef {kind} fill:{fill},stroke:{line},color:{ink}{dashed}"
    for name, node in nodes:
        if node.mark or node.passed:
            yield f"    style {name} stroke-width:{4 if node.mark else 2}px"
    for way, look in WAYS.items():
        places = [str(place) for place, edge in enumerate(edges) if edge.kind == way]
        if places and look.light[1] != WAYS["next"].light[1]:
            yield f"    linkStyle {','.join(places)} stroke:{look.light[1]}"
