"""What all SVG documents share: the frame, and colours for light and dark screens.

Colours are plain values in a style sheet, so that programs show them that know neither variables nor media queries; a
second set counts where the reader prefers a dark screen. Everything stands on a background of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from poundlock.drawing.texts import FONT, number, xml

Rules = Mapping[str, str]
"""Class of the document to its declarations."""

BASE: Final[Rules] = {
    "bg": "fill:#ffffff",
    "ink": "fill:#1f2328",
    "muted": "fill:#59636e",
    "rule": "stroke:#d1d9e0",
}
BASE_DARK: Final[Rules] = {
    "bg": "fill:#0d1117",
    "ink": "fill:#e6edf3",
    "muted": "fill:#9198a1",
    "rule": "stroke:#3d444d",
}


def document(width: float, height: float, title: str, light: Rules, dark: Rules, parts: Iterable[str]) -> str:
    """Return an SVG document.

    Args:
        width, height: in pixels.
        title: what it shows, for people who cannot see it.
        light, dark: further declarations by class.
        parts: elements.
    """
    size = f"{number(width)} {number(height)}"
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="poundlock" role="img" viewBox="0 0 {size}" '
        f'width="{number(width)}" height="{number(height)}" font-family="{FONT}" font-size="13">'
    )
    style = _sheet({**BASE, **light}) + "@media (prefers-color-scheme: dark){" + _sheet({**BASE_DARK, **dark}) + "}"
    back = f'<rect class="bg" width="{number(width)}" height="{number(height)}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{xml(title)}</title>", f"<style>{style}</style>", back, *parts, "</svg>", ""])


def _sheet(rules: Rules) -> str:
    return "".join(f".poundlock .{name}{{{declared}}}" for name, declared in rules.items())


def text(x: float, y: float, content: str, classes: str, **attributes: str) -> str:
    """Return a line of text; `text_anchor="middle"` becomes an attribute of that name."""
    more = "".join(f' {name.replace("_", "-")}="{xml(value)}"' for name, value in attributes.items())
    return f'<text class="{classes}" x="{number(x)}" y="{number(y)}"{more}>{xml(content)}</text>'
