"""Sensitive values that change their place: collected, batched, in the result of a child, taken by another name."""

from __future__ import annotations

import json

import pytest
from pydantic import BaseModel

from poundlock import (
    Batch,
    Children,
    Pipeline,
    Sensitive,
    Serialized,
    Stage,
    StoreUnavailable,
    Terminate,
    Workflow,
    WorkflowRuntime,
)
from poundlock.testing import memory_timeline, run_until_idle

SECRET = "sens-canary-7315"


class Answer(BaseModel):
    card: Sensitive[str]


class Paid(BaseModel):
    card: Sensitive[str] = ""


def ended(wf):
    """The same workflow with a last step, so that what came before is in the state."""

    @wf.step
    def end():
        return {"over": True}

    return wf


async def shown_of(rt, run_id):
    """All that is shown of a run, as text."""
    result = await rt.wait(run_id)
    entries = [repr((entry.type, entry.payload, entry.patch)) for entry in (await rt.timeline(run_id)).entries]
    return "\n".join([repr(result), json.dumps(result.to_dict(), default=str), *entries])


@pytest.mark.parametrize("marked", ["parameter", "form"])
async def test_collected_payloads_hide_what_one_of_them_hides(stores, marked):
    """`collect` puts the payloads into a list in the state: they are hidden there as well."""
    wf = Workflow("collects")

    @wf.step
    def begin(card: Sensitive[str] = ""):
        return {}

    plain = Workflow("collects")

    @plain.step
    def begin_plainly():
        return {}

    if marked == "form":
        wf = plain
    wf.wait("gate", on="paid", mode=2, collect="got", form=Paid if marked == "form" else None)
    rt = await stores.enter(ended(wf))
    run = await rt.run("collects")
    await rt.emit("paid", card=SECRET)
    await rt.emit("paid", card=SECRET + "-2")
    text = await shown_of(rt, run.run_id)
    assert "got" in text
    assert SECRET not in text


async def test_a_batch_hides_what_its_events_hide(stores):
    """A batched run begins with the payloads of its events in a list: they are hidden there as well."""
    wf = Workflow("batched")

    def key(payload: Answer):
        return "k"

    wf.on("paid", batch=Batch(2, "1m"), key=key)
    rt = await stores.enter(ended(wf))
    await rt.emit("paid", card=SECRET)
    [result] = await (await rt.emit("paid", card=SECRET + "-2")).results()
    text = await shown_of(rt, result.run_id)
    assert "events" in text
    assert SECRET not in text


def family(over=None):
    """A parent, its children in another workflow, and theirs in a third one, where the sensitive field is."""

    class State(BaseModel):
        card: Sensitive[str]

    grandchild = Workflow("grandchild", state=State)

    @grandchild.step
    def begin():
        return {}

    alone = None if over else lambda state: {"card": SECRET}
    over_input = (lambda state, item: {"card": SECRET}) if over else alone
    child = Workflow(
        "child",
        pipelines=[
            Pipeline(
                "p", [Stage("f", children=Children(workflow="grandchild", over=over, into="res", input=over_input))]
            )
        ],
    )
    parent = Workflow(
        "parent", pipelines=[Pipeline("p", [Stage("f", children=Children(workflow="child", into="below"))])]
    )
    return [grandchild, child, parent]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
@pytest.mark.parametrize("over", [None, "items"])
async def test_the_result_of_a_child_in_another_workflow_is_hidden(stores, order, over):
    """In its parent and in the parent of that, whichever of the workflows was registered first."""
    known = family(over)
    rt = await stores.enter(*[known[place] for place in order])
    run = await rt.run("parent", items=[1])
    text = await shown_of(rt, run.run_id)
    assert run.status == "completed"
    assert "below" in text
    assert SECRET not in text


async def test_a_deregistered_child_is_hidden_still(stores):
    """What a workflow has learnt of its children stays when their workflow goes, and another one comes."""
    grandchild, child, parent = family()
    rt = await stores.enter(grandchild, child, parent)
    run = await rt.run("parent")
    assert run.status == "completed"
    await rt.deregister("grandchild")
    other = Workflow("other", state=Answer)
    await rt.register(ended(other))
    assert SECRET not in await shown_of(rt, run.run_id)


@pytest.mark.parametrize("where", ["map", "key", "patch", "mode"])
@pytest.mark.parametrize("name", ["order", "_payload"])
async def test_a_model_of_a_payload_counts_by_any_name(stores, where, name):
    """A function of the event may call its model as it likes; what the model marks is hidden in the run's event."""
    spaces: dict = {"Answer": Answer}
    exec(f"def function({name}: Answer): return {{'card': {name}.card}}\ndef key({name}: Answer): return 'k'", spaces)
    key = spaces["key"]
    wf = Workflow("named", mode=Serialized(key=key) if where == "mode" else Serialized())
    wf.on("go", **({"map": spaces["function"]} if where == "map" else {"key": key} if where == "key" else {}))

    @wf.step
    def begin():
        return {}

    wf.wait("gate", on="paid", patch=spaces["function"] if where == "patch" else None)
    rt = await stores.enter(ended(wf))
    [paused] = await (await rt.emit("go", card=SECRET)).results()
    await rt.emit("paid", card=SECRET)
    text = await shown_of(rt, paused.run_id)
    assert "over" in text
    assert SECRET not in text


async def test_a_receipt_shows_no_payload():
    """Its event is that of its emitter: its `repr` names it, and leaves its data to `receipt.event`."""
    async with WorkflowRuntime(ended(Workflow("w", state=Answer))) as rt:
        receipt = await rt.emit("go", card=SECRET)
    assert SECRET not in repr(receipt)
    assert "type='go'" in repr(receipt)
    assert receipt.event.id in repr(receipt)
    assert receipt.event.payload == {"card": SECRET}


def copying():
    """A value that is marked first, and then moved to a place where nothing marks it."""

    class State(BaseModel):
        card: Sensitive[str] = ""
        kept: str = ""

    wf = Workflow("copies", state=State)

    @wf.step
    def take(state: State):
        return {"card": state.card or SECRET}

    wf.wait("gate", on="go")

    @wf.step
    def move(state: State):
        return {"card": "cleared", "kept": state.card}

    @wf.step
    def end(state: State):
        return Terminate({"echo": state.kept})

    return wf


@pytest.mark.parametrize("begins", [{}, {"card": SECRET}])
async def test_a_follower_that_comes_late_hides_what_was_hidden_before(stores, begins):
    """From any entry on, it shows what the timeline shows: what was marked before that is hidden behind it too."""
    rt = await stores.enter(copying())
    run = await rt.run("copies", **begins)
    early = len(await rt.timeline(run.run_id))
    assert (await rt.resume(run.run_id)).result == {"echo": SECRET}
    whole = (await rt.timeline(run.run_id)).entries
    assert SECRET not in repr(whole)
    for after in range(early, len(whole) + 1):
        assert [entry async for entry in rt.follow(run.run_id, after=after)] == list(whole[after:])


async def test_a_sink_is_patient_with_the_store(stores, vclock):
    """A store that cannot be read for a time costs no entry: what is hidden is read again until that works."""
    kept = memory_timeline()
    rt = await stores.enter(copying(), sinks=[kept])
    failures = [StoreUnavailable("busy") for _ in range(4)]
    read = rt.store.checkpoint

    async def checkpoint(run_id):
        if failures:
            raise failures.pop()
        return await read(run_id)

    rt.store.checkpoint = checkpoint
    run = await rt.run("copies")
    await run_until_idle(stores)
    for _ in range(8):
        vclock.advance(seconds=60)
        await run_until_idle(stores)
    assert not failures
    assert kept.of(run.run_id).entries == (await rt.timeline(run.run_id)).entries
    assert "sinks:failed" not in rt.statistics()
    assert SECRET not in repr(kept.of(run.run_id).entries)
