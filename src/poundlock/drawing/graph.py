"""What a graph consists of. Values only: they are read from definitions above, and written as SVG or Mermaid here.

To show something new, add a kind: `KINDS` says how a box of it looks, `WAYS` how an edge does. No writer has to change.
"""

from __future__ import annotations

from typing import Final

from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """How boxes of a kind, or edges, are drawn.

    Attributes:
        meaning: what it stands for, in the legend; "" where that is plain.
        shape: "box", "round" (fully rounded), or "tag" (small, for ends).
        dashed: whether its line is dashed.
        light: fill, line and text on a light background.
        dark: the same on a dark one.
    """

    meaning: str
    light: tuple[str, str, str]
    dark: tuple[str, str, str]
    shape: str = "box"
    dashed: bool = False


TIMES: Final = "\u00d7"
"""The multiplication sign."""
_GREEN = ("#dafbe1", "#1a7f37", "#0f5323"), ("#12261e", "#3fb950", "#aff5b4")
_RED = ("#ffebe9", "#cf222e", "#a40e26"), ("#2d1214", "#f85149", "#ffb3ad")
_AMBER = ("#fff8c5", "#9a6700", "#6a4a00"), ("#2b2305", "#d29922", "#f2cc60")
_BLUE = ("#ddf4ff", "#0969da", "#0a3069"), ("#0c1d33", "#58a6ff", "#b6dcff")
_GREY = ("#f6f8fa", "#59636e", "#1f2328"), ("#1c2128", "#9198a1", "#e6edf3")
_PLAIN = ("#ffffff", "#59636e", "#1f2328"), ("#161b22", "#9198a1", "#e6edf3")

KINDS: Final = {
    "trigger": Look("", *_GREEN, shape="round"),
    "stage": Look("", *_PLAIN),
    "aside": Look("stage entered by name only", *_GREY, dashed=True),
    "wait": Look("pauses for an event", *_AMBER),
    "delay": Look("goes on later", *_BLUE),
    "completed": Look("", *_GREEN, shape="tag"),
    "failed": Look("", *_RED, shape="tag"),
    "aborted": Look("", *_GREY, shape="tag"),
    "failure": Look("", *_RED, shape="round"),
    "unknown": Look("", *_GREY, shape="tag", dashed=True),
}
"""The kinds of boxes."""

WAYS: Final = {
    "next": Look("", *_GREY),
    "choice": Look("", *_GREY),
    "event": Look("by event", *_AMBER),
    "later": Look("after a time", *_BLUE),
    "timeout": Look("when the time is over", *_BLUE, dashed=True),
    "failure": Look("after a failure", *_RED, dashed=True),
    "code": Look("decided by a function", *_GREY, dashed=True),
}
"""The kinds of edges."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box.

    Attributes:
        id: unique in its panel; any text.
        kind: one of `KINDS`.
        title: its first line.
        lines: what stands below it.
        badges: short texts at its lower end, such as numbers of runs.
        mark: the status of the run that is here now; "" if none is.
        passed: how often the run that is shown entered it.
    """

    id: str
    kind: str
    title: str
    lines: tuple[str, ...] = ()
    badges: tuple[str, ...] = ()
    mark: str = ""
    passed: int = 0

    def notes(self) -> list[str]:
        """Return what is noted on the box: the place of the run, how often it came, numbers of runs."""
        here = [f"{self.mark} here"] if self.mark else []
        often = [f"{TIMES}{self.passed}"] if self.passed > 1 else []
        return [*here, *often, *self.badges]


@dataclass(frozen=True, slots=True)
class Edge:
    """An arrow between two boxes of a panel, which may be the same; `kind` is one of `WAYS`."""

    source: str
    target: str
    kind: str = "next"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One connected picture: a pipeline.

    Attributes:
        id: unique in its graph; any text.
        title: the heading above it; "" for none.
        nodes: in the order in which they are to be read, as far as the edges allow it.
        edges: between these nodes.
        order: pairs of nodes; the first one stands above the second, though no edge leads there.
    """

    id: str
    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    order: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Graph:
    """What is drawn: panels, one below the other."""

    title: str
    subtitle: str
    panels: tuple[Panel, ...]
