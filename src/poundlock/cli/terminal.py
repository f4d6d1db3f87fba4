"""The output. Colours and progress only on a terminal; output into a pipe or file is never cut to a width."""

from __future__ import annotations

import os
import sys

from rich.console import Console

_WIDE = 10_000


def console() -> Console:
    """Return the console of standard output."""
    made = Console(highlight=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDE
    return made


def errors() -> Console:
    """Return the console of standard error, where progress is shown."""
    return Console(stderr=True, highlight=False)


def chart_width(made: Console) -> int:
    """Return the width of a chart in columns."""
    return min(made.width, 100 if made.width == _WIDE else 160)


def plain_only() -> bool:
    """Whether standard output can show only ASCII."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return not encoding.startswith("utf")
