"""What steps take and give is checked in a run, and the outputs of stages are there for later ones."""

from __future__ import annotations

import asyncio
import datetime as dt

import pytest
from pydantic import BaseModel, ConfigDict, Field
from support import parks

from poundlock import (
    DELETE,
    Condition,
    Fail,
    Jump,
    OutputMissing,
    Pause,
    Pipeline,
    Retry,
    Stage,
    Step,
    StepContext,
    Task,
    Terminate,
    Wait,
    Workflow,
    branch,
    flow,
)


class Order(BaseModel):
    order: str
    amount: int


class Price(BaseModel):
    total: int
    lines: list[str] = []
    at: dt.datetime | None = None


async def price(input: Order):
    return Price(total=input.amount * 2, lines=[input.order])


PRICE = Task("price", price, input=Order, output=Price)


def fail_on_purpose():
    raise RuntimeError("on purpose")


async def run(stores, made, **payload):
    rt = await stores.enter(made.build() if hasattr(made, "build") else made)
    return await rt.run("w", payload)


# ----------------------------------------------------------------------------------------------------- input and output
async def test_input_is_a_model_of_the_state(stores):
    """A task is given its fields of the state as a model; what else the state has does no harm."""
    result = await run(stores, flow("w").pipe(PRICE), order="A", amount="4", other=1)
    assert dict(result.state) == {"order": "A", "amount": "4", "other": 1, "total": 8, "lines": ["A"], "at": None}


async def test_input_that_does_not_fit_fails_the_stage(stores):
    """The stage fails with the field at fault; the function is not called, and no further attempt is made."""
    called = []

    async def never(input: Order):
        called.append(input)

    task = Task("t", never, input=Order, retry=Retry(5))
    result = await run(stores, flow("w").pipe(task), order="A", amount="four")
    assert (result.status, result.error.code, result.error.stage, result.error.step) == (
        "failed",
        "STATE_INVALID",
        "t",
        "t",
    )
    assert result.error.message.startswith("the state is no input of step 't', a Order: amount: ")
    assert called == []


async def test_input_is_checked_if_it_is_not_asked_for(stores):
    """The model counts whether the function has a parameter for it or not."""

    async def anything():
        return {"done": True}

    result = await run(stores, flow("w").pipe(Task("t", anything, input=Order)), order="A")
    assert result.error.code == "STATE_INVALID"
    assert "amount: Field required" in result.error.message


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ({"total": "much"}, "what step 't' returned is no Price: total: Input should be a valid integer"),
        ({}, "total: Field required"),
        (None, "step 't' returned None, but its output is a Price"),
        (7, "what step 't' returned is no Price"),
        (Price.model_construct(total="much"), "total: Input should be a valid integer"),
    ],
    ids=["field", "missing", "nothing", "number", "instance"],
)
async def test_output_that_does_not_fit_fails_the_stage(stores, returned, said):
    """What a task returns is checked, also an instance that was made without checks; nothing of it is merged."""

    async def act():
        return returned

    result = await run(stores, flow("w").pipe(Task("t", act, output=Price)), x=1)
    assert (result.status, result.error.code) == ("failed", "STATE_INVALID")
    assert said in result.error.message
    assert dict(result.state) == {"x": 1}


async def test_a_wrong_output_gets_another_attempt(stores):
    """A retry covers what does not fit, too: the next attempt may return something better."""
    answers = [{"total": "?"}, {"total": 5}]

    async def ask():
        return answers.pop(0)

    made = flow("w").pipe(Task("t", ask, output=Price, retry=Retry(2, backoff=0)))
    assert (await run(stores, made)).state["total"] == 5


async def test_on_failure_applies(stores):
    """A violation leads where `on_failure` says, like any failure."""

    async def act():
        return {"total": "?"}

    async def mend(failure):
        return {"mended": failure.type}

    made = flow("w").pipe(Task("t", act, output=Price), on_failure="mend").aside(mend)
    assert (await run(stores, made)).state == {"mended": "StateInvalid"}


async def test_instructions_need_no_output(stores):
    """A task may return an instruction instead of its output."""

    async def act():
        return Terminate("enough")

    assert (await run(stores, flow("w").pipe(Task("t", act, output=Price)))).result == "enough"


async def test_defaults_and_conversions_of_the_output_count(stores):
    """What is merged is the output as its model has it: with defaults, and converted."""

    class Out(BaseModel):
        model_config = ConfigDict(populate_by_name=True)
        total: int = Field(alias="sum")
        note: str = "none"

    async def act():
        return {"sum": "5"}

    async def look(ctx: StepContext):
        found = ctx.require("t")
        return {"seen": [type(found) is Out, found.total, found.note]}

    result = await run(stores, flow("w").pipe(Task("t", act, output=Out)).pipe(look))
    assert result.state["seen"] == [True, 5, "none"]
    assert result.state["note"] == "none"


async def test_a_def_step_and_an_undo_are_given_both(stores):
    """A function in a thread has `input` and `config` too, and so has the undo."""
    undone = []

    class Settings(BaseModel):
        rate: int = 3

    def act(input: Order, config: Settings):
        return {"total": input.amount * config.rate}

    def take_back(input: Order, config: Settings):
        undone.append((input.amount, config.rate))

    task = Task("t", act, input=Order, output=Price, config=Settings, undo=take_back)
    result = await run(stores, flow("w").pipe(task).pipe(fail_on_purpose), order="A", amount=4)
    assert (result.state["total"], undone) == (12, [(4, 3)])


async def test_tasks_run_together(stores):
    """Tasks of one stage are each checked; one that fails gives up the others, and nothing is merged."""
    gone = asyncio.Event()

    async def endless():
        await gone.wait()

    async def wrong():
        return {"total": None}

    made = flow("w").parallel(endless, Task("t", wrong, output=Price), PRICE)
    result = await run(stores, made, order="A", amount=1)
    assert (result.error.step, dict(result.state)) == ("t", {"order": "A", "amount": 1})


async def test_with_a_state_model(stores):
    """The state's model counts as well: an output with a field that it lacks fails the stage."""

    class State(BaseModel):
        order: str
        amount: int
        total: int = 0

    class Total(BaseModel):
        total: int

    async def double(input: Order):
        return Total(total=input.amount * 2)

    fitting = flow("w", state=State).pipe(Task("t", double, input=Order, output=Total)).build()
    rt = await stores.enter(fitting, flow("w2", state=State).pipe(PRICE).build())
    assert (await rt.run("w", order="A", amount=4)).state.total == 8
    assert (await rt.run("w2", order="A", amount=4)).error.code == "STATE_INVALID"


# ---------------------------------------------------------------------------------------------------- outputs of stages
async def test_outputs_of_all_kinds(stores):
    """`require` gives a model of a task with one, a mapping of other steps, and one per step of several."""
    seen = {}

    async def one():
        return {"a": 1, "gone": DELETE}

    async def two():
        return None

    async def look(ctx: StepContext):
        seen["price"] = ctx.require("price")
        seen["both"] = ctx.require("one+price-2")
        seen["two"] = (ctx.require("two"), ctx.optional("two"))
        seen["later"] = ctx.optional("look")

    made = flow("w").pipe(PRICE).parallel(one, PRICE.step("price-2")).pipe(two).pipe(look)
    result = await run(stores, made, order="A", amount=4, gone=1)
    assert result.ok
    assert seen == {
        "price": Price(total=8, lines=["A"]),
        "both": {"one": {"a": 1, "gone": DELETE}, "price-2": Price(total=8, lines=["A"])},
        "two": (None, None),
        "later": None,
    }


async def test_the_outputs_of_elements(stores):
    """A step with `each` has its list of results as its output."""

    async def double(item: int):
        return {"twice": 2 * item}

    async def look(ctx: StepContext):
        return {"seen": ctx.require("double")}

    result = await run(stores, flow("w").pipe(double, each="items").pipe(look), items=[1, 2])
    assert result.state["seen"] == [{"twice": 2}, {"twice": 4}]


async def test_an_output_belongs_to_its_step(stores):
    """What a step changes in an output that it was given, no other step sees, nor the state."""

    async def spoil(ctx: StepContext):
        ctx.require("first")["list"].append(4)
        ctx.require("price").lines.append("x")

    async def look(ctx: StepContext):
        return {"seen": [ctx.require("first"), ctx.require("price").lines]}

    async def first():
        return {"list": [1]}

    made = flow("w").pipe(first).pipe(PRICE).pipe(spoil).pipe(look)
    result = await run(stores, made, order="A", amount=1)
    assert result.state["seen"] == [{"list": [1]}, ["A"]]
    assert result.state["list"] == [1]


async def test_a_message_at_the_last_moment(stores):
    """A stage that is concluded again, because a message came, has its output once, and later stages see it."""
    made = flow("w").on("go").pipe(PRICE).route(Pause(Wait("yes", id="ok")))
    rt = await stores.enter(made.pipe(lambda ctx: {"seen": ctx.require("price").total}, id="z").build())
    rt.store.hold = parks
    [run_id] = (await rt.emit("go", {"order": "A", "amount": 4})).run_ids
    [held] = await rt.store.until_held()
    await rt.signal(run_id, {"amount": 5})
    rt.store.hold = None
    held.release()
    await stores.clock.run_until_idle()
    await rt.emit("yes")
    assert (await rt.wait(run_id, 60)).state["seen"] == 8
    noted = [entry for entry in (await rt.timeline(run_id)).entries if entry.type == "stage:output"]
    assert [entry.path for entry in noted] == ["main/price", "main/z"]


async def test_missing_outputs_say_what_ran(stores):
    """A stage that has not run, and one that is not there, are told apart; both say what ran."""
    errors = []

    async def look(ctx: StepContext):
        for name, ask in (("last", ctx.require), ("pice", ctx.require), ("pice", ctx.optional), (7, ctx.require)):
            with pytest.raises(OutputMissing) as caught:
                ask(name)
            errors.append(caught.value)

    async def last():
        """Do nothing."""

    assert (await run(stores, flow("w").pipe(PRICE).pipe(look).pipe(last), order="A", amount=4)).ok
    assert str(errors[0]) == (
        "stage 'last' has no output yet (with an output so far: price): ask for it in a later stage, or with "
        "ctx.optional"
    )
    assert "has no stage 'pice': did you mean 'price'" in str(errors[1])
    assert [error.fields["ran"] for error in errors] == [["price"]] * 4
    assert {error.code for error in errors} == {"OUTPUT_MISSING"}


async def test_an_output_is_asked_for_where_none_is_kept(stores):
    """A workflow that keeps no outputs says how to have them kept."""
    wf = Workflow("w")

    @wf.step
    async def look(ctx: StepContext):
        ctx.require("look")

    result = await run(stores, wf)
    assert result.error.code == "OUTPUT_MISSING"
    assert "keep_outputs=True" in result.error.message


async def test_the_latest_output_of_a_loop(stores):
    """A stage that ran several times has its latest output."""
    seen = []

    async def count(ctx: StepContext, n: int = 0):
        before = ctx.optional("count")
        seen.append(before and before["n"])
        return {"n": n + 1}

    made = flow("w").pipe(count).branch({Condition("n", "<", 3): "count"}, otherwise="last")
    made = made.pipe(lambda ctx: {"last": ctx.require("count")["n"]}, id="last")
    result = await run(stores, made)
    assert (seen, result.state["last"]) == ([None, 1, 2], 3)


async def test_routers_see_the_output_of_their_stage(stores):
    """A router may ask for the output of the stage it stands behind."""

    async def route(ctx):
        return Terminate(ctx.require("price").total)

    assert (await run(stores, flow("w").pipe(PRICE).route(route), order="A", amount=4)).result == 8


async def test_a_failed_stage_leaves_no_output(stores):
    """A stage whose router raised, or that returned Fail, has no output for the stage that mends it."""
    seen = []

    async def broken(ctx):
        raise ValueError("on purpose")

    async def fails():
        return Fail("no")

    async def mend(ctx: StepContext):
        seen.append((ctx.optional("a"), ctx.optional("b")))
        return Jump("a") if len(seen) == 1 else Terminate("mended")

    made = flow("w", on_failure="mend").pipe(fails, stage="b").pipe(PRICE, stage="a").route(broken).aside(mend)
    assert (await run(stores, made, order="A", amount=1)).result == "mended"
    assert seen == [(None, None), (None, None)]


@pytest.mark.parametrize("timeline", [True, False], ids=["timeline", "no-timeline"])
@pytest.mark.parametrize("end", ["crash", "stop", "park"])
async def test_outputs_outlive_the_process(stores, end, timeline):
    """After a crash, a stop or a long pause the outputs are those that were stored; without a timeline too."""
    seen = []

    async def look(ctx: StepContext):
        seen.append((ctx.require("price"), ctx.require("ok-before")))

    async def before():
        return {"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}

    def made():
        return flow("w").on("go").pipe(before, stage="ok-before").pipe(PRICE).wait("ok", on="yes").pipe(look).build()

    rt = await stores.enter(made(), timeline=timeline)
    run_id = (await rt.run("w", order="A", amount=4)).run_id
    if end == "park":
        stores.clock.advance(1000)
    else:
        await (stores.crash(rt) if end == "crash" else rt.stop())
        rt = await stores.enter(made(), timeline=timeline)
    await rt.emit("yes")
    result = await rt.wait(run_id)
    assert result.ok, result.error
    assert seen == [(Price(total=8, lines=["A"]), {"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)})]


async def test_kept_results_are_outputs(stores):
    """With durability="step" the results of finished steps are not computed again, and are outputs like others."""
    reached, never, calls, seen = asyncio.Event(), asyncio.Event(), [], []
    blocked = [True]

    async def counted(input: Order):
        calls.append(input.order)
        return {"total": 5}

    async def slow():
        if blocked:
            reached.set()
            await never.wait()
        return {"slow": True}

    async def look(ctx: StepContext):
        seen.append(ctx.require("both"))

    def made():
        task = Task("t", counted, input=Order, output=Price)
        return flow("w", durability="step").on("go").parallel(task, slow, stage="both").pipe(look).build()

    rt = await stores.enter(made())
    [run_id] = (await rt.emit("go", {"order": "A", "amount": 4})).run_ids
    await reached.wait()
    await stores.clock.run_until_idle()
    await stores.crash(rt)
    blocked.clear()
    rt = await stores.enter(made())
    assert (await rt.wait(run_id, 60)).ok
    assert calls == ["A"]
    assert seen == [{"t": Price(total=5), "slow": {"slow": True}}]


async def test_children_have_an_output(stores):
    """A stage that starts children has their results as its output."""

    async def child():
        return Terminate(7)

    async def look(ctx: StepContext):
        return {"seen": ctx.require("fork")}

    made = flow("w", pipelines=[Pipeline("one", [Stage("a", Step("a", child))])])
    result = await run(stores, made.on("go").pipe(Stage("fork", pipelines=["one"])).pipe(look))
    assert result.ok, result.error
    assert result.state["seen"] == {"one": 7}


async def test_an_undo_after_a_crash_sees_outputs(stores):
    """An undo may ask for outputs, also where another process undoes."""
    seen, reached, never = [], asyncio.Event(), asyncio.Event()
    blocked = [True]

    async def take_back(ctx: StepContext):
        if blocked:
            reached.set()
            await never.wait()
        seen.append(ctx.require("price").total)

    def made():
        task = Task("price", price, input=Order, output=Price, undo=take_back)
        return flow("w").on("go").pipe(task).pipe(fail_on_purpose).build()

    rt = await stores.enter(made())
    [run_id] = (await rt.emit("go", {"order": "A", "amount": 4})).run_ids
    await reached.wait()
    await stores.crash(rt)
    blocked.clear()
    rt = await stores.enter(made())
    assert (await rt.wait(run_id)).status == "failed"
    assert seen == [8]


async def test_a_changed_output_model_is_said(stores):
    """A stored output that does not fit the model of now fails the step that asks, with the path."""

    class Other(BaseModel):
        total: str

    async def look(ctx: StepContext):
        return {"total": ctx.require("price").total}

    def made(model):
        task = Task("price", price, input=Order, output=model)
        return flow("w").on("go").pipe(task).wait("ok", on="yes").pipe(look).build()

    rt = await stores.enter(made(Price))
    run_id = (await rt.run("w", order="A", amount=4)).run_id
    await rt.stop()
    rt = await stores.enter(made(Other))
    await rt.emit("yes")
    result = await rt.wait(run_id)
    assert result.error.code == "STATE_INVALID"
    assert "the stored output at 'main/price' is no Other: total: " in result.error.message


async def test_outputs_by_decorators(stores):
    """`Workflow(keep_outputs=True)` keeps the outputs of decorated steps."""
    wf = Workflow("w", keep_outputs=True)

    @wf.step
    def first(amount: int):
        return {"double": 2 * amount}

    @wf.step
    def second(ctx: StepContext):
        return {"seen": ctx.require("first")["double"]}

    wf.route(branch({Condition("seen", "==", 8): "third"}), after="second")

    @wf.step
    def third():
        return None

    assert (await run(stores, wf, amount=4)).state["seen"] == 8
