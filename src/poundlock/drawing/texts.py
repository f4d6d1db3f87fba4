"""Texts in pictures: how wide they are, cut to a width, and free of what a format does not take."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_NARROW: Final = frozenset("iljtfrI.,:;'`|!()[]{}/\\ ·")
_BROAD: Final = frozenset("mwMW@%—…→&")
_NOT_IN_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BREAKS: Final = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_DIRECTIONS: Final = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """Return a text as one line: line breaks and control characters become blanks, marks of direction are left out."""
    return _DIRECTIONS.sub("", _BREAKS.sub(" ", text)).strip()


def xml(text: str) -> str:
    """Return a text for an XML document: what has a meaning there is escaped, what it cannot hold is replaced."""
    text = _NOT_IN_XML.sub("\ufffd", text)
    for plain, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(plain, escaped)
    return text


@lru_cache(maxsize=4096)
def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Return about how wide a text is, rather too wide than too narrow: the font of the reader is not known.

    Args:
        text: one line.
        size: of the font, in pixels.
        bold: whether it is bold.
    """
    return sum(map(_share, text)) * size * (1.07 if bold else 1.0)


def _share(character: str) -> float:
    """Return the width of a character as a share of the size of its font."""
    if character in _NARROW:
        return 0.38
    if character in _BROAD:
        return 1.0
    if character.isascii():
        return 0.7 if character.isupper() else 0.62
    if unicodedata.combining(character):
        return 0.0
    return 1.05 if unicodedata.east_asian_width(character) in "WF" or ord(character) > 0xFFFF else 0.75


def cut(text: str, most: float, size: float, *, bold: bool = False) -> str:
    """Return a text as one line that is at most `most` pixels wide, with an ellipsis where it was cut."""
    text = one_line(text)
    if width_of(text, size, bold=bold) <= most:
        return text
    kept, room = [], most - width_of("…", size, bold=bold)
    for character in text:
        room -= width_of(character, size, bold=bold)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


def number(value: float) -> str:
    """Return a coordinate as text, to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text.removesuffix(".0") if text != "-0.0" else "0"


def duration(seconds: float) -> str:
    """Return a duration with two or three figures: "0.8 ms", "12 ms", "1.3 s", "2 min 5 s", "3 d 4 h"."""
    if seconds < 0.9995:
        ms = seconds * 1000
        return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    seconds += 0.05  # so that the value that is rounded up above starts the minute here
    units = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    size, unit, below, lesser = next(found for found in units if seconds >= found[0])
    whole, rest = divmod(int(seconds), size)
    return f"{whole} {unit} {rest // below} {lesser}" if rest // below else f"{whole} {unit}"
