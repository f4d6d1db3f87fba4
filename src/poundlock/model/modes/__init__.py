"""Execution modes: what happens to an event while a workflow is busy.

House rules: a mode is a frozen value with two pure functions. `accept(load)` decides about one event, `settled(load)`
says how many queued runs may start now. Modes look at a Load and at nothing else, do not know each
other, and wait for nothing: that is why they mean the same in memory, in SQLite and across ten workers.
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
