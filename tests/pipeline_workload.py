"""Scenarios of pipelines one after another, each on an SQLite file of its own, as a program that may be killed.

`pipeline_workload.py FOLDER SECONDS`: it kills itself after so many seconds of real time; never, if that is "never".
Started again on the same folder, it goes on. It notes there what was done, called, and came of it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from pathlib import Path

from pipeline_scenarios import SCENARIOS, Call, Calls, outcome, play

from poundlock import WorkflowRuntime
from poundlock.stores.sqlite import SqliteStore
from poundlock.testing import VirtualClock

NAMES = (
    "three stages",
    "step in a process",
    "concurrent steps each durable",
    "each with long retry",
    "fork",
    "map over a list",
    "call of another workflow",
    "wait before starts of other runs",
    "wait in a loop",
    "polling step",
    "undo with long retry",
    "failure route",
    "durable function",
)
START = 1_767_225_600.0


class Notes:
    """The notes of all processes on one folder: lines of a file, as literals `[kind, scenario, value]`."""

    def __init__(self, folder):
        self.path = Path(folder) / "notes"

    def write(self, kind, name, value):
        with self.path.open("a") as file:
            file.write(f"{[kind, name, value]!r}\n")

    def read(self, kind, name):
        import ast

        lines = self.path.read_text().splitlines() if self.path.exists() else []
        notes = [ast.literal_eval(line) for line in lines if line.endswith("]")]
        return [value for noted, of, value in notes if (noted, of) == (kind, name)]

    def calls(self, name):
        return [Call(run_id, place, visit, which) for _, run_id, place, visit, which in self.read("call", name)]


async def one(name, folder, notes):
    """Play a scenario, from where the last process left it."""
    if notes.read("outcome", name):
        return
    scenario = SCENARIOS[name]
    moments = [call[0] for call in notes.read("call", name)] + [now for _, now in notes.read("done", name)]
    clock = VirtualClock(max([START, *moments]), autojump=False)

    def called(call):
        notes.write("call", name, (clock.now(), call.run_id, call.place, call.visit, call.which))

    class Done(set):
        def add(self, number):
            notes.write("done", name, (number, clock.now()))

    store = SqliteStore(folder / f"{name}.db", synchronous="OFF", clock=clock)
    made = scenario.make(Calls(clock, called))
    async with WorkflowRuntime(*(made if isinstance(made, tuple) else (made,)), store=store, clock=clock) as rt:
        await play(scenario, rt, clock, START, Done(number for number, _ in notes.read("done", name)))
        found, run_ids = await outcome(rt)
    notes.write("outcome", name, (repr(found), sorted(run_ids)))
    clock.close()


async def main(folder, seconds):
    notes = Notes(folder)
    if seconds != "never":
        killer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    began = time.monotonic()
    for name in NAMES:
        await one(name, Path(folder), notes)
    notes.write("took", "all", time.monotonic() - began)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
    os._exit(0)  # a timer that is left must not kill what is over
