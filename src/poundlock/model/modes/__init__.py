"""Execution modes: what happens to an event while a workflow is busy.

House rules: a mode is a frozen value. `accept(load)` decides about one event, `slots` says how many runs may be active
at once: whenever one leaves, queued runs take what is free (`Load.left`). Modes look at a Load and at nothing else, do
not know each other, and wait for nothing: that is why they mean the same in memory, in SQLite and across ten workers.
"""

from poundlock.model.modes.decisions import Decision, Drop, Load, Queue, Reject, Replace, Signal, Start
from poundlock.model.modes.exclusive import Exclusive
from poundlock.model.modes.serialized import Serialized
from poundlock.model.modes.singleton import SingletonLoop
from poundlock.model.modes.transient import Transient

Mode = Transient | Serialized | SingletonLoop | Exclusive

__all__ = [
    "Decision",
    "Drop",
    "Exclusive",
    "Load",
    "Mode",
    "Queue",
    "Reject",
    "Replace",
    "Serialized",
    "Signal",
    "SingletonLoop",
    "Start",
    "Transient",
]
