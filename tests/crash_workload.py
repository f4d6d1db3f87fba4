"""A workload that goes through every primitive, and can be taken up again after a crash at any moment.

Run as a program it works on a file and kills itself at a commit: `crash_workload.py FILE NOTES NUMBER before|after`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from poundlock import (
    Event,
    NotPaused,
    Pause,
    Pipeline,
    RunFinished,
    Serialized,
    Stage,
    StaleResume,
    StateRef,
    Step,
    Trigger,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.testing import VirtualClock

TIMEOUT = 100.0


def workflows(note):
    """Two workflows; `note(run, stage)` hears of every execution of a step."""

    def step(name, label):
        async def run(ctx, state):
            note(f"{ctx.workflow_id} {state[label]}", name)
            return {"trail": [*state.get("trail", []), f"{name} {ctx.resume.reason if ctx.resume else '-'}"]}

        return Step(name, run)

    correlated = {"id": StateRef("id")}
    checked = Wait("checked", id="a", correlate=correlated, timeout=TIMEOUT, on_timeout="escalate")
    approved = Wait("approved", id="b", correlate=correlated)
    order = Workflow(
        "order",
        triggers={"placed": Trigger("placed", key="id")},
        pipelines=[
            Pipeline(
                "main",
                [
                    Stage("reserve", [step("reserve", "id")]),
                    Stage("charge", [step("charge", "id")]),
                    Stage("check", router=Pause(checked)),
                    Stage("pack", [step("pack", "id")]),
                    Stage("approve", router=Pause(approved)),
                    Stage("ship", [step("ship", "id")], router=lambda: "sent"),
                    Stage("escalate", [step("escalate", "id")]),
                    Stage("sent", [step("sent", "id")]),
                ],
            )
        ],
    )
    release = Workflow(
        "release",
        triggers={"asked": Trigger("asked", key="repo")},
        mode=Serialized(),
        pipelines=[
            Pipeline(
                "main",
                [
                    Stage("build", [step("build", "n")]),
                    Stage("hold", router=Pause(Wait("published", correlate={"n": StateRef("n")}))),
                    Stage("announce", [step("announce", "n")]),
                ],
            )
        ],
    )
    return order, release


async def _order(rt, number):
    runs = await rt.find_runs(workflow="order", key=str(number))
    return runs.items[0].run_id


async def _resume(rt):
    try:
        await rt.resume(await _order(rt, 1), {"by": "Ada"}, wait="a")
    except (NotPaused, StaleResume, RunFinished):
        return  # it had happened before the crash


async def _signal(rt):
    try:
        await rt.signal(await _order(rt, 1), {"told": True})
    except RunFinished:
        return


def _emit(type, event_id, /, **payload):
    async def emit(rt):
        receipt = await rt.emit(Event(type, payload, id=event_id))
        return [(str(line.verdict), line.workflow_id) for line in receipt.lines]

    return emit


OPERATIONS = {
    "place 1": _emit("placed", "e1", id=1),
    "place 2": _emit("placed", "e2", id=2),
    "approve 1 early": _emit("approved", "e3", id=1, approved=True),
    "signal 1": _signal,
    "resume 1": _resume,
    "ask 1": _emit("asked", "e4", repo="x", n=1),
    "ask 2": _emit("asked", "e5", repo="x", n=2),
    "ask 3": _emit("asked", "e6", repo="x", n=3),
    "publish 2 early": _emit("published", "e7", n=2),
    "publish 1": _emit("published", "e8", n=1),
    "publish 3": _emit("published", "e9", n=3),
    "time": None,
    "place 3": _emit("placed", "e10", id=3),
    "check 3": _emit("checked", "e11", id=3),
    "approve 3": _emit("approved", "e12", id=3, approved=True),
    "approve 3 again": _emit("approved", "e12", id=3, approved=True),
}
"""What is done, in this order; a crash makes the operation that was under way be done again."""


async def work(rt, clock, done, acknowledge):
    """Do what was not acknowledged yet, letting everything come to rest in between."""
    await clock.run_until_idle()
    for name, operation in OPERATIONS.items():
        if name in done:
            continue
        answer = None
        if operation is None:
            await clock.run_for(TIMEOUT * 2)
        else:
            answer = await operation(rt)
        await clock.run_until_idle()
        acknowledge(name, answer)
    await clock.run_until_idle()


async def outcome(rt):
    """Return what the workload came to: each run's status, state and waits."""
    page = await rt.find_runs(limit=500)
    found = {}
    for info in page.items:
        state = (await rt.timeline(info.run_id)).state_at(len(await rt.timeline(info.run_id)))
        label = f"{info.workflow_id} {state.get('id', state.get('n'))}"
        assert label not in found, f"{label} was started twice"
        found[label] = (str(info.status), state, [wait.id for wait in info.waits if wait.parked])
    return found


def agrees(undisturbed, crashed):
    """Whether the answers after a crash are those of an undisturbed run, or say that it was done before."""
    for name, lines in undisturbed.items():
        again = crashed.get(name)
        if lines is None or again == lines:
            continue
        # Done, but not acknowledged: asked again, the store knows the event, or nobody waits for it any more.
        if not all(verdict in ("duplicate", "filtered", "unmatched") for verdict, _ in again):
            return False
    return True


def extra(executions):
    """Return how many executions of a step were not the first of its run."""
    return sum(count - 1 for count in Counter(executions).values())


# ------------------------------------------------------------------------------------------------- as a program
async def _main(path, notes, number, where):
    from support import GatedStore

    from poundlock.stores.sqlite import SqliteStore

    notes = Path(notes)
    lines = notes.read_text().splitlines() if notes.exists() else []
    done = {line.removeprefix("done ") for line in lines if line.startswith("done ")}

    def write(text):
        with notes.open("a") as file:
            file.write(text + "\n")

    class Killed(GatedStore):
        def die(self):
            os.kill(os.getpid(), signal.SIGKILL)

    start = 1_767_225_600.0 + (TIMEOUT * 2 if "time" in done else 0)
    clock = VirtualClock(start, autojump=False)
    store = Killed(SqliteStore(path, clock=clock))
    store.crash = (int(number), where)
    runtime = WorkflowRuntime(*workflows(lambda run, stage: write(f"ran {run} {stage}")), store=store, clock=clock)
    async with runtime:
        await work(runtime, clock, done, lambda name, _answer: write(f"done {name}"))
        write(f"commits {store.commits}")
        write(f"outcome {sorted((await outcome(runtime)).items())!r}")
    clock.close()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
