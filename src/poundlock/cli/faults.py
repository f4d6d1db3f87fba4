"""How a command reports an error: one message with the next action, and an exit code.

0: done. 1: done in part, or refused; the message has the error's code. 2: wrong arguments. 130 and 143: interrupted.
Unexpected errors are not caught here: they are bugs, and their traceback helps.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from poundlock.errors import FeedInvalid, PoundlockError

REFUSED = 1
MISUSED = 2
INTERRUPTED = 130
TERMINATED = 143


@contextmanager
def reporting(*, as_json: bool) -> Iterator[None]:
    """Turn an error raised inside into a message on standard error and an exit code."""
    try:
        yield
    except PoundlockError as error:
        if as_json:
            from poundlock.codecs import dump  # here, as in all commands: the list of commands needs no library

            print(dump({"error": error.to_dict()}))
        say(error)
        raise typer.Exit(MISUSED if isinstance(error, FeedInvalid) else REFUSED) from None
    except KeyboardInterrupt:
        print("poundlock: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def say(error: PoundlockError) -> None:
    """Print an error as one line."""
    print(f"poundlock: {sentence(error)}", file=sys.stderr)


def sentence(error: PoundlockError) -> str:
    """Return an error as one line: what is wrong, what to do, and its code."""
    return f"{' '.join(error.message.split())} [{error.code}]"
