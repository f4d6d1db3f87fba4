"""What routers are given by their parameters: the fields they name, never something else that happens to be true."""

from __future__ import annotations

import contextlib
import functools
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from poundlock import (
    Event,
    InvalidDefinition,
    Jump,
    Pipeline,
    Service,
    Stage,
    StateRef,
    Step,
    StepContext,
    Terminate,
    Use,
    Workflow,
)


class Order(BaseModel):
    approved: bool = False
    amount: int = 0
    note: str = "false"


class Rules:
    def allow(self, amount):
        return amount < 100


async def nothing():
    return None


def gated(router, paid, **options):
    """A stage whose router decides whether the run comes to the stage that pays."""

    async def pay():
        paid.append(True)

    stages = [Stage("check", [Step("check", nothing)], router=router), Stage("pay", [Step("pay", pay)])]
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


def gate(approved: bool):
    return Jump("pay") if approved else Terminate("refused")


async def async_gate(approved: bool):
    return gate(approved)


def keyword_gate(*, approved: bool):
    return gate(approved)


def bare_gate(approved):
    return gate(approved)


class Gates:
    def method(self, approved: bool):
        return gate(approved)

    def __call__(self, approved: bool):
        return gate(approved)


def with_limit(limit, approved: bool):
    return gate(approved and limit > 0)


def logged(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


GATES = {
    "function": gate,
    "async": async_gate,
    "keyword only": keyword_gate,
    "no annotation": bare_gate,
    "method": Gates().method,
    "object": Gates(),
    "partial": functools.partial(with_limit, 5),
    "partial by name": functools.partial(with_limit, limit=5),
    "wrapped": logged(gate),
    "lambda": lambda approved: Jump("pay") if approved else Terminate("refused"),
}


@pytest.mark.parametrize("model", [None, Order], ids=["mapping", "model"])
@pytest.mark.parametrize("router", GATES.values(), ids=GATES)
async def test_a_lone_parameter_is_the_field_of_that_name(runtime, any_store, router, model):
    """A router with one parameter gets the field it names, never the whole state: a closed gate stays closed."""
    paid = []
    rt = await runtime(gated(router, paid, state=model), store=any_store)
    refused = await rt.run("wf", approved=False)
    assert (refused.status, refused.result, paid) == ("completed", "refused", [])
    assert (await rt.run("wf", approved=True)).ok
    assert paid == [True]


@pytest.mark.parametrize("router", GATES.values(), ids=GATES)
async def test_a_field_that_is_not_there_fails_the_run(runtime, any_store, router):
    """A router that reads a field nobody wrote fails the run, and the error names the field; the run goes nowhere."""
    paid = []
    rt = await runtime(gated(router, paid), store=any_store)
    result = await rt.run("wf", other=True)
    assert (result.status, result.error.code, result.error.stage) == ("failed", "STATE_INVALID", "check")
    assert "the state has no field 'approved'" in result.error.message
    assert paid == []


async def test_a_field_removed_by_a_patch_is_not_there(runtime):
    """What the stage's own patch took away is not there for its router."""
    from poundlock import DELETE

    paid = []

    async def forget():
        return {"approved": DELETE}

    wf = gated(gate, paid)
    [main] = wf._pipelines
    stages = [Stage("check", [Step("check", forget)], router=gate), *main.stages[1:]]
    rt = await runtime(Workflow("wf", pipelines=[Pipeline("main", stages)]))
    assert (await rt.run("wf", approved=True)).status == "failed"
    assert paid == []


@pytest.mark.parametrize("value", ["false", "no", 0, "0", False], ids=repr)
async def test_a_field_is_checked_against_the_annotation(runtime, value):
    """A text that is true to Python but means no is validated to the annotation: the gate stays closed."""
    paid = []
    rt = await runtime(gated(gate, paid))
    assert (await rt.run("wf", approved=value)).result == "refused"
    assert paid == []


@pytest.mark.parametrize("value", ["perhaps", None, {}, [False], 7], ids=repr)
async def test_a_field_that_does_not_fit_the_annotation_fails_the_run(runtime, value):
    """A value that the annotation does not allow fails the run, naming the field."""
    paid = []
    rt = await runtime(gated(gate, paid))
    result = await rt.run("wf", approved=value)
    assert (result.status, result.error.code) == ("failed", "STATE_INVALID")
    assert "'approved' does not fit its annotation" in result.error.message
    assert paid == []


async def test_a_model_field_is_checked_against_another_annotation(runtime):
    """Where a parameter is annotated otherwise than the model's field, its value is validated to the parameter's."""
    paid = []

    def by_note(note: bool):
        return gate(note)

    rt = await runtime(gated(by_note, paid, state=Order))
    assert (await rt.run("wf")).result == "refused"
    failed = await rt.run("wf", note="perhaps")
    assert (failed.status, failed.error.code) == ("failed", "STATE_INVALID")
    assert paid == []


async def test_a_default_stands_in_for_a_missing_field(runtime):
    """A parameter with a default gets it where the field is missing, and the field where it is there."""
    paid = []

    def by_default(approved: bool = False):
        return gate(approved)

    rt = await runtime(gated(by_default, paid))
    assert (await rt.run("wf")).result == "refused"
    assert (await rt.run("wf", approved=True)).ok
    assert paid == [True]


async def test_everything_a_router_may_ask_for(runtime, any_store):
    """Context, event, state, fields, results, resume and services come to a router by name or annotation."""
    seen = {}

    def router(
        ctx,
        anything: StepContext,
        event,
        happened: Event,
        state,
        whole: Order,
        amount: int,
        results,
        resume,
        named: Annotated[Any, Use("rules")],
        by_type: Rules,
        *,
        note: str,
        unknown: str = "default",
    ):
        seen.update(locals())
        ctx.annotate("decided", True)
        return Terminate()

    async def one():
        return {"amount": 5}

    stages = [Stage("check", [Step("one", one)], router=router)]
    wf = Workflow("wf", pipelines=[Pipeline("main", stages)], state=Order, services=[Service("rules", Rules)])
    rt = await runtime(wf, store=any_store)
    result = await rt.run("wf", approved=True)
    assert result.ok, result.error
    assert isinstance(seen["ctx"], StepContext)
    assert (seen["ctx"].stage_id, seen["ctx"].step_id) == ("check", "router")
    assert isinstance(seen["anything"], StepContext)
    assert seen["event"].payload == seen["happened"].payload == {"approved": True}
    assert seen["state"] == seen["whole"] == Order(approved=True, amount=5)
    assert (seen["amount"], seen["note"], seen["unknown"]) == (5, "false", "default")
    assert (seen["results"], seen["resume"]) == ({"one": {"amount": 5}}, None)
    assert seen["named"] is seen["by_type"]
    assert isinstance(seen["named"], Rules)
    assert "annotation" in (await rt.timeline(result.run_id)).types()


async def test_a_router_sees_why_the_run_went_on(stores):
    """`resume` is what it was by the old way: the reason, the wait and the event."""
    seen = []
    wf = Workflow("wf")
    wf.on("begin")
    wf.wait("ask", on="said", correlate={"n": StateRef("n")})

    @wf.step
    async def look(): ...

    @wf.route(after="look")
    def decide(resume, n: int):
        seen.append((resume.reason, resume.event.payload, n))

    rt = await stores.enter(wf)
    receipt = await rt.emit("begin", n=1)
    await rt.emit("said", n=1, by="Ada")
    assert (await rt.wait(receipt.run_ids[0], 60)).ok
    assert seen == [("event", {"n": 1, "by": "Ada"}, 1)]


def hidden(function):
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def positional(approved, /):
    return gate(approved)


class Unreadable:
    @property
    def __signature__(self):
        raise RuntimeError("no signature")

    def __call__(self, approved):
        return gate(approved)


def generator(approved: bool):
    yield Jump("pay")


@pytest.mark.parametrize(
    ("router", "says"),
    [
        (hidden(gate), "functools.wraps"),
        (lambda *args: None, "functools.wraps"),
        (lambda **kwargs: None, "functools.wraps"),
        (positional, "take the '/' out"),
        (Unreadable(), "cannot be read"),
        (generator, "generator function"),
        (contextlib.contextmanager(generator), "context manager"),
    ],
    ids=["wrapper", "args", "kwargs", "positional", "unreadable", "generator", "manager"],
)
async def test_routers_that_nothing_can_be_given_are_refused(runtime, router, says):
    """A router whose parameters cannot be read is a fault when its workflow is registered, never a guess."""
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(gated(router, []))
    [path] = [path for path, text in caught.value.faults if says in text]
    assert path.startswith("pipelines.main.check.router")
    assert not rt.has_workflow("wf")


async def test_a_router_that_asks_for_what_the_model_lacks_is_refused(runtime):
    """With a state model, a parameter that is not a field, service, name or default is found when it is registered."""

    def misspelt(aproved: bool):
        return gate(aproved)

    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(gated(misspelt, [], state=Order))
    [(path, text)] = caught.value.faults
    assert path == "pipelines.main.check.router.aproved"
    assert "did you mean 'approved'?" in text


@pytest.mark.parametrize("name", ["ctx", "state", "event", "results", "resume", "job"])
async def test_reserved_names_cannot_be_fields_of_the_state(runtime, name):
    """A state model with a field of a reserved name is refused: a parameter of that name would get something else."""
    model = type("Model", (BaseModel,), {"__annotations__": {name: int}, name: 0})
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(gated(lambda: None, [], state=model))
    [(path, text)] = caught.value.faults
    assert path == f"state.{name}"
    assert "reserved" in text
