"""What is marked in the parameters, and in what is returned, of any function of a definition is shown nowhere."""

from __future__ import annotations

import json
import logging
from typing import Annotated, TypedDict

import pytest
from pydantic import BaseModel

from poundlock import Children, Pipeline, Sensitive, Serialized, Stage, Trigger, Workflow, workflow
from poundlock.model.tasks import Task
from poundlock.testing import memory_timeline, run_until_idle

SECRET = "sens-canary-7315"
SHORT = "z9q"


class Card(BaseModel):
    number: Sensitive[str]


class Job(BaseModel):
    number: Sensitive[str]
    filler: str = ""


class Numbers(TypedDict):
    numbers: list[Sensitive[str]]


class Numbered(BaseModel):
    number: str = ""


def as_order(event):
    return {"order": event.payload}


def mapped_step(wf):
    wf.on("go", map=as_order)

    @wf.step
    def pay(order: Card):
        return {}


def optional(wf):
    wf.on("go", map=as_order)

    @wf.step
    def pay(order: Annotated[Card, "paid"] | None):
        return {}


def fields_of_these_names(wf):
    wf.on("go", map=lambda event: {"payload": event.payload, "_event": event.payload})

    @wf.step
    def pay(payload: Card, _event: Card):
        return {}


def returned_by_map(wf):
    def build(event) -> Card:
        return Card(number=event.payload["number"])

    wf.on("go", map=build)
    wf.step(lambda ctx: {}, id="pay")


def returned_by_step(wf):
    wf.on("go", map=lambda event: {"text": event.payload["number"][::-1]})

    @wf.step
    def pay(text: str) -> Card:
        return Card(number=text[::-1])


def undo(wf):
    wf.on("go")

    def back(number: Sensitive[str]):
        pass

    wf.step(lambda ctx: {}, id="pay", undo=back)


def job(wf):
    wf.on("go", map=lambda event: {"text": event.payload["number"][::-1]})

    def begin(text: str):
        return {"number": text[::-1], "filler": "long enough to be kept in the log" * 100}

    def check(job: Job):
        return {"done": bool(job.number)}

    wf.step(begin, id="pay", poll=check, every=1)


def elements(wf):
    wf.on("go", map=lambda event: {"items": [event.payload]})

    def one(item: Card) -> Card:
        return item

    wf.step(one, id="pay", each="items", into="paid")


def router(wf):
    wf.on("go")
    wf.step(lambda ctx: {}, id="pay")

    @wf.route(after="pay")
    def onward(number: Sensitive[str]):
        return None


def wait_patch(wf):
    wf.on("go", map=lambda event: {})

    def patch(order: Card, state) -> Numbers:
        return {"numbers": [order.number]}

    wf.wait("gate", on="paid", patch=patch)


def typed(wf):
    """The state's model does not mark it, a step does."""
    wf.on("go")

    @wf.step
    def pay(number: Sensitive[str]):
        return {}


def contract():
    paid = Task("pay", lambda ctx: {}, input=Card)
    return [Workflow("w", pipelines=[Pipeline("main", [Stage("s", [paid.step()])])], triggers={"go": Trigger("go")})]


def families():
    def begins_with(given: Card, item: Card):
        return {"ready": True}

    child = Workflow("child")
    child.step(lambda ctx: {}, id="only")
    over = Stage("below", children=Children(workflow="child", over="cards", input=begins_with))
    triggers = {"go": Trigger("go", map=lambda event: {**event.payload, "cards": [event.payload]})}
    return [child, Workflow("w", pipelines=[Pipeline("main", [over])], triggers=triggers)]


def durable():
    @workflow("w")
    async def function(step, number: Sensitive[str]):
        return {"length": len(number)}

    return [function]


def of_its_event():
    @workflow("w")
    async def function(step, event: Card):
        return {"length": len(event.number)}

    return [function]


def made(fill):
    wf = Workflow("w", state=Numbered if fill is typed else None)
    fill(wf)

    @wf.step
    def tell(ctx, state):
        if SHORT not in str(dict(state)):  # what is this short is found by its place only, and a text has none
            ctx.logger.warning("the state is %s", dict(state))
        return {"number": state["number"]} if "number" in state else {}

    return [wf]


FILLS = [
    mapped_step,
    optional,
    fields_of_these_names,
    returned_by_map,
    returned_by_step,
    undo,
    job,
    elements,
    router,
    wait_patch,
]
FAMILIES = [contract, families, durable, of_its_event]


async def all_shown(rt, run_id):
    """Everything that is shown of a run besides its own state object, by what shows it."""
    result, info, told = await rt.wait(run_id), await rt.get_run(run_id, state=True), await rt.timeline(run_id)
    shown = {"repr": repr(result), "to_dict": json.dumps(result.to_dict())}
    shown |= {"info": repr(info), "info.to_dict": json.dumps(info.to_dict())}
    shown["timeline"] = repr([(entry.type, entry.payload, entry.patch) for entry in told.entries])
    shown["state_at"] = json.dumps(told.state_at())
    shown["follow"] = repr([entry async for entry in rt.follow(run_id)])
    shown["picture"] = told.to_svg()
    return shown


def leaks(shown, secret):
    return {name: text[max(0, text.index(secret) - 80) :][:120] for name, text in shown.items() if secret in text}


@pytest.mark.parametrize("make", [*FILLS, typed, *FAMILIES])
@pytest.mark.parametrize("secret", [SECRET, SHORT])
async def test_whatever_function_marks_it(stores, vclock, caplog, make, secret):
    """By place a value is hidden whatever its length, in timeline, result, run, receipt and pictures."""
    caplog.set_level(logging.DEBUG, "poundlock")
    kept = memory_timeline()
    rt = await stores.enter(*(make() if make in FAMILIES else made(make)), sinks=[kept])
    if make in (durable, of_its_event):
        run_id = (await rt.run("w", number=secret)).run_id
        shown = {}
    else:
        receipt = await rt.emit("go", number=secret)
        run_id = receipt.run_ids[0]
        shown = {"receipt": repr(receipt)}
        await run_until_idle(stores.clock)
        if make is wait_patch:
            await rt.emit("paid", number=secret)
    await vclock.run_for(5)
    assert (await rt.get_run(run_id)).status == "completed"
    shown |= await all_shown(rt, run_id)
    await run_until_idle(vclock)
    shown["sink"] = repr(kept.of(run_id).entries)
    shown["log"] = caplog.text
    assert not leaks(shown, secret)


async def test_what_a_patch_function_moves_is_hidden_in_the_timeline(stores):
    """No mark says where it goes: the run's timeline notes that when it happens, for steps that copy it further too."""
    wf = Workflow("moves")

    def patch(order: Card):
        return {"seen": {"deep": [f"card {order.number}"]}, "n": 1}

    wf.wait("gate", on="paid", patch=patch)

    @wf.step
    def copy(seen: dict):
        return {"copied": seen["deep"][0], "open": "to see"}

    kept = memory_timeline()
    rt = await stores.enter(wf, sinks=[kept])
    run = await rt.run("moves")
    await rt.emit("paid", number=SECRET)
    result = await rt.wait(run.run_id)
    assert result.state["copied"] == f"card {SECRET}"
    entries = (await rt.timeline(run.run_id)).entries
    assert SECRET not in repr(entries)
    assert "to see" in repr(entries)
    noted = [entry.payload["paths"] for entry in entries if entry.type == "state:sensitive"]
    assert noted == [[["number"]], [["seen", "deep", "*"]]]
    for after in range(len(entries)):
        assert [entry async for entry in rt.follow(run.run_id, after=after)] == list(entries[after:])
    forked = await rt.fork(run.run_id, "copy")
    assert SECRET not in repr((await rt.timeline(forked.run_id)).entries)
    await run_until_idle(stores.clock)
    await rt.stop()
    assert "to see" in repr(kept.of(run.run_id).entries)
    assert SECRET not in repr(kept.of(run.run_id).entries)
    again = await stores.enter()  # which knows no workflow, as the command line
    assert (await again.timeline(run.run_id)).entries == entries


@pytest.mark.parametrize("where", ["map", "when", "mode"])
async def test_the_reason_of_a_refusal_hides_what_a_map_would_have_moved(stores, where):
    """A payload whose model is that of a step's field counts where there is no state yet: in the receipt's reason."""

    def fails(event):
        raise ValueError(f"no such card: {event.payload['number']}")

    wf = Workflow("w", mode=Serialized(key=fails if where == "mode" else None))
    when = {"when": fails} if where == "when" else {}
    wf.on("go", map=fails if where == "map" else as_order, **when)

    @wf.step
    def pay(order: Card):
        return {}

    rt = await stores.enter(wf)
    [line] = (await rt.emit("go", number=SECRET)).lines
    assert "no such card: ***" in line.reason
    [line] = (await rt.explain("go", {"number": SECRET})).lines
    assert SECRET not in line.reason
