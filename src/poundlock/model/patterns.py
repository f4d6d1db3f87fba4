"""Dotted event patterns: `order.placed`, `order.*` (one segment), `order.**` (any number, also none), `*`, `**`.

A single `*` alone matches every type, because people expect a catch-all.
"""

from __future__ import annotations

import re
from functools import lru_cache


def is_pattern(text: str) -> bool:
    """Whether the text is a pattern and not an exact event type."""
    return "*" in text


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    segments = pattern.split(".")
    # `**.**` means the same as `**`
    parts = [part for part, before in zip(segments, ["", *segments], strict=False) if (part, before) != ("**", "**")]
    if pattern == "*" or parts == ["**"]:
        return re.compile(".*", re.DOTALL)
    # `**` includes the dot on one side, so that `order.**` also matches `order`, and `**.failed` also `failed`
    leading = parts[0] == "**"
    text = r"(?:.*\.)?" if leading else ""
    for place, part in enumerate(parts[leading:]):
        text += r"(?:\..*)?" if part == "**" else (r"\." if place else "") + _segment(part)
    return re.compile(text, re.DOTALL)


def _segment(part: str) -> str:
    return "[^.]+" if part == "*" else "[^.]*".join(re.escape(piece) for piece in part.split("*"))


def type_matches(pattern: str, event_type: str) -> bool:
    """Whether an event type matches an exact type or a pattern."""
    return pattern == event_type or ("*" in pattern and _compiled(pattern).fullmatch(event_type) is not None)
