"""Commands: every write from outside a run, one file each.

A command is a frozen value; its handler takes the core and the command. `runtime.dispatch` finds it in `HANDLERS`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from poundlock.runtime.commands.admit import Admit, admit
from poundlock.runtime.commands.cancel import Cancel, cancel
from poundlock.runtime.commands.claim import Claim, claim
from poundlock.runtime.commands.create import Create, create
from poundlock.runtime.commands.end_hold import EndHold, end_hold
from poundlock.runtime.commands.fork import Fork, fork
from poundlock.runtime.commands.mend import Rerun, Retry, rerun, retry
from poundlock.runtime.commands.outbox import FlushOutbox, ReplayDeadLetters, flush_outbox, replay_dead_letters
from poundlock.runtime.commands.pause import Pause, pause
from poundlock.runtime.commands.pause_workflow import PauseWorkflow, pause_workflow
from poundlock.runtime.commands.poll import PollSuspended, poll_suspended
from poundlock.runtime.commands.reap import ReapStuck, reap
from poundlock.runtime.commands.resume import Resume, resume
from poundlock.runtime.commands.signal import Signal, signal
from poundlock.runtime.commands.take_over import TakeOver, take_over
from poundlock.runtime.commands.unpause import Unpause, unpause
from poundlock.runtime.commands.unpause_workflow import UnpauseWorkflow, unpause_workflow
from poundlock.runtime.commands.vacuum import Vacuum, vacuum

__all__ = [
    "HANDLERS",
    "Admit",
    "Cancel",
    "Claim",
    "Create",
    "EndHold",
    "FlushOutbox",
    "Fork",
    "Pause",
    "PauseWorkflow",
    "PollSuspended",
    "ReapStuck",
    "ReplayDeadLetters",
    "Rerun",
    "Resume",
    "Retry",
    "Signal",
    "TakeOver",
    "Unpause",
    "UnpauseWorkflow",
    "Vacuum",
]

HANDLERS: Mapping[type, Callable[..., Awaitable[Any]]] = {
    Admit: admit,
    Cancel: cancel,
    Claim: claim,
    Create: create,
    Fork: fork,
    Rerun: rerun,
    EndHold: end_hold,
    Pause: pause,
    PauseWorkflow: pause_workflow,
    PollSuspended: poll_suspended,
    FlushOutbox: flush_outbox,
    ReapStuck: reap,
    ReplayDeadLetters: replay_dead_letters,
    Resume: resume,
    Retry: retry,
    Signal: signal,
    TakeOver: take_over,
    Vacuum: vacuum,
    Unpause: unpause,
    UnpauseWorkflow: unpause_workflow,
}
"""Command type to handler."""
