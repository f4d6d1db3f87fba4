"""A run with two waits against a model of it: whatever is sent, in whatever order, whenever the process dies."""

from __future__ import annotations

from hypothesis import settings
from support_pausing_machine import PausingMachine


class PausingMachineOnSqlite(PausingMachine):
    storage = "sqlite"


TestPausingInMemory = PausingMachine.TestCase
TestPausingInMemory.settings = settings(max_examples=60, stateful_step_count=30)
TestPausingOnSqlite = PausingMachineOnSqlite.TestCase
TestPausingOnSqlite.settings = settings(max_examples=15, stateful_step_count=30)
