"""Forms that are JSON schemas, checked by the package of the extra `forms`."""

from __future__ import annotations

import pytest
from pydantic import BaseModel
from support import Stores

from poundlock import AnswerInvalid, InvalidDefinition, Pause, StateRef, Wait, Workflow
from poundlock.pipeline import forms

SCHEMA = {
    "type": "object",
    "properties": {"member": {"type": "string"}, "yes": {"type": "boolean"}},
    "required": ["member", "yes"],
    "additionalProperties": False,
}


class Vote(BaseModel):
    member: str
    yes: bool


def board(form, made=False):
    """A workflow whose wait has a form: a declared one, or one that a router makes."""
    wf = Workflow("board")
    wf.on("motion")
    wait = Wait("vote", correlate={"motion": StateRef("motion")}, form=form, id="votes")
    if made:

        @wf.step
        def first():
            return Pause(wait)

    else:
        wf.wait("votes", on="vote", correlate=wait.correlate, form=form)
    wf.step(id="last")(lambda: None)
    return wf


async def said(rt, **fields):
    [line] = (await rt.emit("vote", motion="M", **fields)).lines
    return f"{line.verdict} {line.reason}"


@pytest.mark.parametrize("made", [False, True])
async def test_events_and_answers_are_checked(stores: Stores, made):
    """What does not fit is refused with field and reason; the correlated field is none of the answer's."""
    rt = await stores.enter(board(SCHEMA, made))
    [run] = await (await rt.emit("motion", motion="M")).results()
    assert run.waits[0].form == SCHEMA
    assert await said(rt, member="b") == "rejected wait votes: 'yes' is a required property"
    assert await said(rt, member="b", yes="no?") == "rejected wait votes: yes: 'no?' is not of type 'boolean'"
    assert (await said(rt, member="b", yes=True, more=1)).startswith("rejected wait votes: Additional properties")
    with pytest.raises(AnswerInvalid, match="yes: 1 is not of type 'boolean'") as error:
        await rt.resume(run.run_id, {"member": "b", "yes": 1})
    assert error.value.path == "patch.yes"
    assert await said(rt, member="b", yes=True) == "resumed wait votes"
    assert (await rt.wait(run.run_id)).state["yes"] is True


async def test_a_router_gives_the_schema_of_a_model(stores: Stores):
    """The schema of a model does as a form where only data can be stored."""
    rt = await stores.enter(board(Vote.model_json_schema(), made=True))
    [run] = await (await rt.emit("motion", motion="M")).results()
    assert await said(rt, member="b") == "rejected wait votes: 'yes' is a required property"
    assert (await rt.resume(run.run_id, {"member": "b", "yes": True})).ok


async def test_a_schema_that_is_none(stores: Stores):
    """It is a fault at registration."""
    with pytest.raises(InvalidDefinition, match="form: it is no JSON schema: 'sometimes' is not valid"):
        await stores.enter(board({"type": "sometimes"}))


async def test_without_the_package(stores: Stores, monkeypatch):
    """Registration says what to install, or what to give instead; a model needs nothing."""
    monkeypatch.setattr(forms, "find_spec", lambda _name: None)
    with pytest.raises(InvalidDefinition, match=r"install poundlock\[forms\], or give a pydantic model"):
        await stores.enter(board(SCHEMA))
    rt = await stores.enter(board(Vote))
    await rt.emit("motion", motion="M")
