"""Execution modes: what happens to an event while a workflow is busy.

House rules: a mode is a frozen value. `accept(load)` decides about one event, `slots` is the number of runs that may be
active at the same time: when one leaves, runs that wait take the free slots (`Load.left`): resumed ones, then queued
ones. While resumed runs wait, a mode counts as busy. Modes read only a Load, do not know each other, and never wait. So
they behave the same in memory, in SQLite and across ten workers.
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
