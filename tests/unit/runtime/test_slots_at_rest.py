"""Whether a run that rests keeps its slot: for each mode, each setting, and each way to rest."""

from __future__ import annotations

import pytest

from poundlock import (
    Children,
    Delay,
    Exclusive,
    Pause,
    Pipeline,
    Retry,
    Serialized,
    SingletonLoop,
    Stage,
    Step,
    Transient,
    Trigger,
    Wait,
    Workflow,
)
from poundlock.testing import run_until_idle

MODES = {
    "transient": lambda holds: Transient(1, holds_slot_while_paused=holds),
    "serialized": lambda holds: Serialized(holds_slot_while_paused=holds),
    "drop": lambda holds: SingletonLoop("drop", holds_slot_while_paused=holds),
    "reject": lambda holds: Exclusive("reject", holds_slot_while_paused=holds),
    "queue": lambda holds: Exclusive("queue_single", holds_slot_while_paused=holds),
}
BUSY = {"transient": "queued", "serialized": "queued", "drop": "dropped", "reject": "rejected", "queue": "queued"}
WAYS = ("wait", "delay", "failure", "retry", "children")


def workflow(way, mode):
    """A workflow whose run rests after its first event, and ends at once for each later one."""

    async def work(ctx, n: int):
        if n == 1 and way == "failure":
            raise ValueError("broken")
        if n == 1 and way == "retry" and ctx.attempt == 1:
            raise ConnectionError("away")

    def gate(n: int):
        if n > 1:
            return None
        return {"wait": Pause(Wait("on")), "delay": Delay("1h")}.get(way)

    retry = Retry(2, backoff=3600) if way == "retry" else None
    stages = [Stage("one", [Step("work", work, retry=retry)], router=gate)]
    pipelines = [Pipeline("main", stages)]
    if way == "children":
        child = Pipeline("child", [Stage("c", router=lambda n: Pause(Wait("on")) if n == 1 else None)])
        pipelines = [Pipeline("main", [*stages, Stage("kids", children=Children(["child"]))]), child]
    stages.append(Stage("end", [Step("end", lambda: {"ended": True})]))
    if way != "children":
        pipelines = [Pipeline("main", stages)]
    return Workflow(
        "w",
        mode=mode,
        triggers={"go": Trigger("go", pipeline="main")},
        pipelines=pipelines,
        on_failure="pause" if way == "failure" else "fail",
    )


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("holds", [True, False], ids=["keeps", "gives"])
@pytest.mark.parametrize("name", MODES)
async def test_a_slot_at_rest(stores, name, holds, way, crash):
    """It is kept exactly where the mode says so: then the next event meets a busy mode. It is free after the end."""
    clock = stores.clock
    clock.autojump = False
    wf = workflow(way, MODES[name](holds))
    rt = await stores.enter(wf)
    [first] = (await rt.emit("go", n=1)).run_ids
    await clock.run_until_idle()
    assert (await rt.get_run(first)).status in ("paused", "delayed")
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(wf)
        await run_until_idle(clock)
    [line] = (await rt.emit("go", n=2)).lines
    assert line.verdict == (BUSY[name] if holds else "started")
    await clock.run_until_idle()
    if way in ("wait", "children"):
        await rt.emit("on")
    elif way == "failure":
        await rt.resume(first, {"n": 0})
    else:
        await clock.run_for(hours=2)
    await clock.run_until_idle()
    for run in (first, *([line.run_id] if line.run_id is not None else [])):
        assert (await rt.wait(run)).status == "completed"
    [(load, _)] = await rt.store.read_loads([("w", "")])
    assert load.idle
