"""A program whose triggers hold events, on a folder: emits what is left, and ends when all is decided.

It may be killed at any moment and started again. Each run notes its events in a file before it ends, so a run that is
cut off notes them again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from pathlib import Path

from poundlock import Batch, Debounce, Event, Throttle, Transient, Trigger, Workflow, WorkflowRuntime
from poundlock.clock import SystemClock, sleep_for

EVENTS = 40
KINDS = {
    "debounce": {"debounce": Debounce(0.03, longest=0.06)},
    "throttle": {"throttle": Throttle(2, 0.05)},
    "batch": {"batch": Batch(5, 0.05)},
    "delay": {"delay": 0.05},
}


def workflows(folder: Path) -> list[Workflow]:
    return [listener(folder, kind) for kind in KINDS]


def listener(folder: Path, kind: str) -> Workflow:
    trigger = Trigger(kind, **KINDS[kind])
    wf = Workflow(kind, mode=Transient(capacity=None), triggers={"t": trigger})

    @wf.step(executor="inline")
    def note(state, ctx):
        events = state.get("events", [state])
        with (folder / f"{kind}.runs").open("a", encoding="utf-8") as file:
            file.write(f"{ctx.run_id} {' '.join(str(each['n']) for each in events)}\n")
            file.flush()

    return wf


async def main(folder: Path) -> None:
    clock = SystemClock()
    async with WorkflowRuntime(*workflows(folder), store=f"sqlite:///{folder / 'runs.db'}") as rt:
        for n in range(EVENTS):
            for kind in KINDS:
                await rt.emit(Event(kind, {"n": n}, id=f"{kind}-{n}", source="/workload"))
            await sleep_for(clock, 0.004)
        while (await rt.store.stats()).get("held") or (await rt.find_runs(status=["running", "ready", "queued"])).items:
            await sleep_for(clock, 0.01)


if __name__ == "__main__":
    place, seconds = Path(sys.argv[1]), sys.argv[2]
    if seconds != "never":
        killer = threading.Timer(float(seconds), os.kill, (os.getpid(), signal.SIGKILL))
        killer.daemon = True
        killer.start()
    asyncio.run(main(place))
