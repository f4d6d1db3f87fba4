"""Dotted event patterns: `order.placed`, `order.*` (one segment), `order.**` (any number, also none), `*`, `**`.

A single `*` alone matches every type, as people expect of a catch-all.
"""

from __future__ import annotations

import re
from functools import lru_cache


def is_pattern(text: str) -> bool:
    """Whether the text is a pattern and not an exact event type."""
    return "*" in text


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    if pattern in ("*", "**"):
        return re.compile(r".*", re.DOTALL)
    parts = pattern.split(".")
    # `**` brings the dot on its one side along, so that `order.**` also matches `order`, and `**.failed` also `failed`
    leading = parts[0] == "**"
    pieces = [_segment(part, dot=index > int(leading)) for index, part in enumerate(parts) if index or not leading]
    return re.compile((r"(?:.*\.)?" if leading else "") + "".join(pieces), re.DOTALL)


def _segment(part: str, *, dot: bool) -> str:
    if part == "**":
        return r"(?:\..*)?" if dot else ".*"
    text = "[^.]+" if part == "*" else "[^.]*".join(re.escape(piece) for piece in part.split("*"))
    return r"\." + text if dot else text


def type_matches(pattern: str, event_type: str) -> bool:
    """Whether an event type fits an exact type or a pattern."""
    return pattern == event_type or ("*" in pattern and _compiled(pattern).fullmatch(event_type) is not None)
