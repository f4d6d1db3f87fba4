"""A declared wait is armed for the values that the state has now, whatever Python takes for equal."""

from __future__ import annotations

import pytest

from poundlock import (
    DELETE,
    Condition,
    Overwrite,
    Pause,
    Pipeline,
    RunStatus,
    Stage,
    StateRef,
    Step,
    Trigger,
    Verdict,
    Wait,
    Workflow,
)

ROUTES = {
    "correlate": lambda path: {"correlate": {"x": StateRef(path)}},
    "where": lambda path: {"where": [Condition("x", "==", StateRef(path))]},
}
CASES = {
    "another kind": ("a", {"a": 1}, {"a": True}, True, 1),
    "another kind below": ("a.b", {"a": {"b": 0}}, {"a": {"b": False}}, False, 0),
    "another kind in a list": ("a", {"a": [1, {"c": 1}]}, {"a": [1, {"c": True}]}, [1, {"c": True}], [1, {"c": 1}]),
    "in a list": ("a.0.b", {"a": [{"b": 1}]}, {"a": [{"b": 2}]}, 2, 1),
    "overwritten": ("a.b", {"a": {"b": 1, "c": 1}}, {"a": Overwrite({"b": 5})}, 5, 1),
    "a key with a dot": ("a.b", {"a": {"b": 1}}, {"a.b": 7}, 7, 1),
    "a key with a dot is gone": ("a.b", {"a": {"b": 1}, "a.b": 7}, {"a.b": DELETE}, 1, 7),
    "null": ("a", {"a": 1}, {"a": None}, None, 1),
}


def workflow(options, patch):
    """A run that rests once its state has changed, before it pauses at the wait that refers to the state."""

    async def untouched():
        return {"other": 1}

    async def change():
        return patch

    stages = [
        Stage("untouched", [Step("untouched", untouched)]),
        Stage("change", [Step("change", change)]),
        Stage("hold", [], router=Pause(Wait("never", id="hold"))),
        Stage("gate", [], router=Pause(Wait("ok", id="gate", **options))),
        Stage("end", [Step("end", untouched)]),
    ]
    return Workflow("w", triggers={"go": Trigger("go")}, pipelines=[Pipeline("main", stages)])


@pytest.mark.parametrize("crash", [False, True], ids=["", "crash"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("route", ROUTES)
async def test_a_wait_is_armed_for_the_value_that_is_there_now(stores, route, case, crash):
    """After a patch an event with the new value is kept for the wait, and one with the old value is not."""
    path, initial, patch, now, before = CASES[case]
    wf = workflow(ROUTES[route](path), patch)
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("go", initial)).results()
    if crash:
        await stores.crash(rt)
        rt = await stores.enter(wf)
    verdicts = [[line.verdict for line in (await rt.emit("ok", {"x": value})).lines] for value in (before, now)]
    missed = Verdict.UNMATCHED if route == "correlate" else Verdict.FILTERED
    assert verdicts == [[missed], [Verdict.BUFFERED]]
    await rt.resume(run.run_id)
    assert (await rt.wait(run.run_id)).status is RunStatus.COMPLETED
