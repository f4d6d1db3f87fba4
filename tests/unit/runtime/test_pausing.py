"""Waits: what they match, what they keep for later, and what happens when somebody answers."""

from __future__ import annotations

import pytest

from poundlock import (
    Condition,
    Event,
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

COMPLETED, PAUSED = RunStatus.COMPLETED, RunStatus.PAUSED


def pausing(wait, *, before=None, after=None, workflow_id="w", resume_at=None):
    """A workflow that begins on `begin`, pauses at the stage `gate`, and ends with the stage `after`."""

    async def start():
        return before

    async def finish(ctx, state):
        return {"why": ctx.resume.reason if ctx.resume else None, **(after(state) if after else {})}

    stages = [
        Stage("first", [Step("first", start)]),
        Stage("gate", router=Pause(wait, resume_at)),
        Stage("after", [Step("after", finish)]),
    ]
    return Workflow(workflow_id, triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])


async def begin(rt, **fields):
    receipt = await rt.emit("begin", **fields)
    [result] = await receipt.results(60)
    return result


def verdicts(receipt):
    return [(str(line.verdict), line.run_id) for line in receipt.lines]


# ------------------------------------------------------------------------------------------------- what matches
@pytest.mark.parametrize(
    ("pattern", "type", "fits"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.**", "a.b.c", True),
        ("*", "a.b.c", True),
        (["x", "a.*"], "a.b", True),
    ],
)
async def test_a_wait_is_for_types_and_patterns(stores, pattern, type, fits):
    """An event resumes a run exactly if its type fits one of the wait's types or patterns."""
    rt = await stores.enter(pausing(Wait(pattern)), pause_window=0)
    run = await begin(rt)
    receipt = await rt.emit(type)
    assert verdicts(receipt) == ([("resumed", run.run_id)] if fits else [("unmatched", None)])
    if fits:
        assert (await rt.wait(run.run_id, 60)).status is COMPLETED


@pytest.mark.parametrize(
    ("condition", "fits"),
    [
        (Condition("n", "==", StateRef("limit")), [5]),
        (Condition("n", "!=", StateRef("limit")), [4, 6]),
        (Condition("n", ">", StateRef("limit")), [6]),
        (Condition("n", ">=", StateRef("limit")), [5, 6]),
        (Condition("n", "<", StateRef("limit")), [4]),
        (Condition("n", "<=", StateRef("limit")), [4, 5]),
        (Condition("n", "exists"), [4, 5, 6]),
        (Condition("n", "exists", False), [None]),
    ],
)
async def test_where_filters_with_every_operator(stores, condition, fits):
    """Conditions are compared with the run's state; who is refused gets a `filtered` line and stays parked."""
    rt = await stores.enter(pausing(Wait("go", where=[condition])))
    for n in (4, 5, 6, None):
        run = await begin(rt, limit=5)
        receipt = await rt.emit("go", {} if n is None else {"n": n})
        expected = "resumed" if n in fits else "filtered"
        assert verdicts(receipt) == [(expected, run.run_id)]
        assert [line.trigger_id for line in receipt.lines] == [None]
        if expected == "filtered":
            await rt.abort(run.run_id)


@pytest.mark.parametrize("window", [0, 60])
async def test_correlation_reaches_the_right_run_only(stores, window):
    """With several correlated paths only the run that holds those values is reached; the others have no line."""
    wait = Wait("go", correlate={"order.id": StateRef("id"), "order.shop": StateRef("shop"), "kind": "final"})
    rt = await stores.enter(pausing(wait), pause_window=window)
    runs = {(id, shop): await begin(rt, id=id, shop=shop) for id in (1, 2) for shop in ("x", "y")}
    assert verdicts(await rt.emit("go", order={"id": 2, "shop": "z"}, kind="final")) == [("unmatched", None)]
    assert verdicts(await rt.emit("go", order={"id": 2, "shop": "y"}, kind="draft")) == [("unmatched", None)]
    assert verdicts(await rt.emit("go", order={"id": 2}, kind="final")) == [("unmatched", None)]
    wanted = runs[2, "y"].run_id
    assert verdicts(await rt.emit("go", order={"id": 2.0, "shop": "y"}, kind="final")) == [("resumed", wanted)]
    assert (await rt.wait(wanted, 60)).status is COMPLETED
    others = [run.run_id for run in runs.values() if run.run_id != wanted]
    assert {(await rt.get_run(run_id)).status for run_id in others} == {PAUSED}


@pytest.mark.parametrize("value", [2, "2", True, None, [1, 2], {"a": 1}, 2.5], ids=repr)
async def test_correlation_tells_kinds_apart(stores, value):
    """A run that waits for 2 is not reached by "2", True or any other kind of value."""
    rt = await stores.enter(pausing(Wait("go", correlate={"id": StateRef("id")})))
    run = await begin(rt, id=2)
    receipt = await rt.emit("go", {"id": value})
    assert verdicts(receipt) == (
        [("resumed", run.run_id)] if value == 2 and value is not True else [("unmatched", None)]
    )


async def test_one_event_resumes_every_parked_run_it_is_for(stores):
    """All runs with a matching wait go on, of whatever workflow, each with its own line."""
    first = pausing(Wait("go"), workflow_id="w")
    second = pausing(Wait(["go", "never"]), workflow_id="v")
    rt = await stores.enter(first, second)
    begun = [result.run_id for _ in range(2) for result in await (await rt.emit("begin")).results(60)]
    receipt = await rt.emit("go")
    assert sorted(verdicts(receipt)) == sorted(("resumed", run_id) for run_id in begun)
    assert {(await rt.wait(run_id, 60)).status for run_id in begun} == {COMPLETED}


async def test_one_event_starts_one_run_and_resumes_another(stores):
    """An event that is a trigger and an answer does both; the run it starts does not take it as its answer."""
    rt = await stores.enter(pausing(Wait("begin")))
    one = await begin(rt)
    receipt = await rt.emit("begin")
    started, resumed = receipt.lines
    assert (started.verdict, resumed.verdict, resumed.run_id) == (Verdict.STARTED, Verdict.RESUMED, one.run_id)
    assert (await rt.wait(one.run_id, 60)).status is COMPLETED
    two, again = await receipt.results(60)  # in line order: also of the run that the event resumed
    assert (two.status, again.run_id, again.status) == (PAUSED, one.run_id, COMPLETED)


# ----------------------------------------------------------------------------------------------- what is folded in
async def test_payload_is_folded_in(stores):
    """Without a patch of its own the wait merges the event's payload into the state."""
    rt = await stores.enter(pausing(Wait("go"), before={"keep": 1, "deep": {"a": 1}}))
    run = await begin(rt)
    await rt.emit("go", by="Ada", deep={"b": 2})
    state = (await rt.wait(run.run_id, 60)).state
    assert state == {"keep": 1, "deep": {"a": 1, "b": 2}, "by": "Ada", "why": "event"}


async def test_patch_is_folded_in_instead_of_the_payload(stores):
    """A wait with a mapping as patch merges that and leaves the payload alone."""
    rt = await stores.enter(pausing(Wait("go", patch={"approved": True})))
    run = await begin(rt)
    await rt.emit("go", by="Ada")
    assert (await rt.wait(run.run_id, 60)).state == {"approved": True, "why": "event"}


async def test_patch_function_decides_what_is_folded_in(stores):
    """A declared wait may have a function of the event as patch; what it does to the event stays with it."""
    seen = []

    def patch(event):
        seen.append(event.payload.pop("by"))
        return {"by": seen[-1].upper()}

    async def look(ctx):
        return {"payload": dict(ctx.resume.event.payload)}

    wf = pausing(Wait("go", patch=patch))
    rt = await stores.enter(wf)
    run = await begin(rt)
    await rt.emit("go", by="Ada")
    assert (await rt.wait(run.run_id, 60)).state == {"by": "ADA", "why": "event"}
    assert seen == ["Ada"]


async def test_patch_function_cannot_change_what_others_see(stores):
    """Each run gets the event as it was sent, whatever another run's patch function did to it."""

    def patch(event):
        event.payload["by"] = "changed"
        return {"by": event.payload["by"]}

    meddling = pausing(Wait("go", patch=patch), workflow_id="a")
    honest = pausing(Wait("go"), workflow_id="b")
    rt = await stores.enter(meddling, honest)
    results = await (await rt.emit("begin")).results(60)
    await rt.emit("go", by="Ada")
    states = {run.workflow_id: (await rt.wait(run.run_id, 60)).state["by"] for run in results}
    assert states == {"a": "changed", "b": "Ada"}


@pytest.mark.parametrize("payload", [["a", "list"], "text", 7])
async def test_payload_that_is_no_mapping_folds_nothing(stores, payload):
    """A payload that is not a mapping resumes the run without a patch; steps see it as the resume's event."""
    got = []
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[])

    @wf.step
    async def one(): ...

    wf.wait("gate", on="go")

    @wf.step
    async def two(ctx):
        got.append(ctx.resume.event.payload)

    rt = await stores.enter(wf)
    run = await begin(rt)
    assert verdicts(await rt.emit("go", payload)) == [("resumed", run.run_id)]
    assert (await rt.wait(run.run_id, 60)).state == {}
    assert got == [payload]


async def test_routers_see_why_the_run_went_on(stores):
    """The router of the stage a run resumes at gets the reason, the wait and the event; the next one gets nothing."""
    seen = []
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one(): ...

    wf.wait("gate", on="go")

    @wf.step
    async def two(): ...

    @wf.route(after="two")
    def route_two(resume):
        seen.append((resume.reason, resume.wait, resume.event.payload))

    @wf.step
    async def three(): ...

    @wf.route(after="three")
    def route_three(resume):
        seen.append(resume)

    rt = await stores.enter(wf)
    run = await begin(rt)
    await rt.emit("go", n=1)
    assert (await rt.wait(run.run_id, 60)).status is COMPLETED
    assert seen == [("event", "gate", {"n": 1}), None]


# ---------------------------------------------------------------------------------------------- what is kept for later
async def test_events_before_the_pause_are_drained_in_order_one_at_a_time(stores, gate):
    """What came early is used in the order it came, one event per pause; the rest stays and is expired at the end."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one():
        await gate()

    wf.wait("a", on="go")

    @wf.step
    async def two(n: int):
        return {"seen": [n]}

    wf.wait("b", on="go")

    @wf.step
    async def three(n: int, seen: list):
        return {"seen": [*seen, n]}

    rt = await stores.enter(wf)
    begun = await rt.emit("begin")
    [run_id] = begun.run_ids
    for n in (1, 2, 3):
        assert verdicts(await rt.emit("go", n=n)) == [("buffered", run_id)]
    gate.open()
    [result] = await begun.results(60)
    assert (result.status, result.state["seen"]) == (COMPLETED, [1, 2])
    entries = (await rt.timeline(run_id)).entries
    assert [entry.type for entry in entries if entry.type.startswith("wait:")].count("wait:buffered") == 3
    assert len([entry for entry in entries if entry.type == "wait:matched"]) == 2
    assert len([entry for entry in entries if entry.type == "wait:expired"]) == 1


async def test_only_what_the_wait_is_for_is_drained(stores, gate):
    """On pausing, the first buffered event that matches is used, not merely the first."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one():
        await gate()

    wf.wait("a", on="go", where=[Condition("n", ">", 1)])
    wf.wait("b", on="go")
    rt = await stores.enter(wf)
    begun = await rt.emit("begin")
    for n in (1, 2, 3):
        await rt.emit("go", n=n)
    gate.open()
    [result] = await begun.results(60)
    entries = (await rt.timeline(result.run_id)).entries
    patches = [entry.patch for entry in entries if entry.type == "state:patch" and entry.patch]
    assert patches == [{"n": 2}, {"n": 1}]


async def test_the_previous_wait_buffers_until_the_next_pause(stores, gate):
    """After a resume, events for the wait that was left are kept, and the next pause takes what matches it."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one(): ...

    @wf.route(after="one")
    def to_pause():
        return Pause(Wait("go", id="here"))

    @wf.step
    async def two():
        await gate()

    @wf.route(after="two")
    def pause_again(state):
        return Pause(Wait(["go", "else"], id="there", where=[Condition("n", ">", 1)]))

    @wf.step
    async def three(ctx):
        return {"by": ctx.resume.event.payload["n"]}

    rt = await stores.enter(wf)
    run = await begin(rt)
    assert verdicts(await rt.emit("go", n=1)) == [("resumed", run.run_id)]
    await stores.clock.run_until_idle()
    assert gate.came
    assert verdicts(await rt.emit("go", n=2)) == [("buffered", run.run_id)]
    assert verdicts(await rt.emit("else", n=3)) == [("unmatched", None)]
    gate.open()
    result = await rt.wait(run.run_id, 60)
    assert (result.status, result.state["by"]) == (COMPLETED, 2)


@pytest.mark.parametrize(
    ("path", "patch"),
    [
        ("id", lambda number: {"id": number}),
        ("order.id", lambda number: {"order": {"id": number}}),
        ("order.id", lambda number: {"order.id": number}),
        ("order.lines.0", lambda number: {"order": {"lines": [number]}}),
    ],
    ids=["key", "below", "dotted", "item"],
)
async def test_declared_wait_is_armed_once_its_state_is_there_and_anew_when_it_changes(stores, make_gate, path, patch):
    """A wait that refers to state keeps events from the boundary on that writes it, under the value it holds then."""
    gates = [make_gate(), make_gate(), make_gate()]
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one():
        await gates[0]()
        return {"id": 1}

    @wf.step
    async def two():
        await gates[1]()
        return {"id": 2}

    @wf.step
    async def three():
        await gates[2]()

    wf.wait("gate", on="go", correlate={"id": StateRef("id")})
    rt = await stores.enter(wf)
    begun = await rt.emit("begin")
    [run_id] = begun.run_ids

    async def reach(number):
        await stores.clock.run_until_idle()
        assert gates[number].came

    await reach(0)
    assert verdicts(await rt.emit("go", id=1, n="too early")) == [("unmatched", None)]
    gates[0].open()
    await reach(1)
    assert verdicts(await rt.emit("go", id=2, n="other")) == [("unmatched", None)]
    assert verdicts(await rt.emit("go", id=1, n="first")) == [("buffered", run_id)]
    gates[1].open()
    await reach(2)
    assert verdicts(await rt.emit("go", id=1, n="outdated")) == [("unmatched", None)]
    assert verdicts(await rt.emit("go", id=2, n="second")) == [("buffered", run_id)]
    gates[2].open()
    [result] = await begun.results(60)
    assert (result.status, result.state["n"]) == (COMPLETED, "second")


@pytest.mark.parametrize("more", [[], ["more"]], ids=["last stage", "before another"])
async def test_a_registered_wait_that_cannot_be_armed_fails_the_run(stores, more):
    """What a step registers has to refer to state that is there, also where no stage comes after it."""

    async def one(ctx):
        async def register(deps):
            wait = Wait("go", id="later", correlate={"id": StateRef("nowhere")})
            await (await deps.require("__pause_service__")).register(wait)

        await ctx.use(register)

    stages = [Stage("one", [Step("one", one)]), *(Stage(name, [Step(name, lambda: None)]) for name in more)]
    wf = Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=[Pipeline("main", stages)])
    rt = await stores.enter(wf)
    [result] = await (await rt.emit("begin")).results(60)
    assert (result.status, result.error.code, result.error.stage) == (RunStatus.FAILED, "STATE_INVALID", "one")


async def test_a_wait_names_the_state_it_lacks(stores):
    """A run that comes to a wait whose StateRef has no value fails, and the error names the path in the state."""
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    async def first():
        return {"order": {"id": 1}}

    refs = {"order": StateRef("order.id"), "customer": StateRef("order.customer")}
    wf.wait("paid", on="order.paid", correlate=refs, where=[Condition("total", ">=", StateRef("total"))])
    rt = await stores.enter(wf)
    [result] = await (await rt.emit("begin")).results(60)
    assert (result.status, result.error.code, result.error.stage) == ("failed", "STATE_INVALID", "paid")
    assert "'order.customer', 'total'" in result.error.message


async def test_registered_wait_buffers_until_the_pause(stores, gate):
    """What a step registers with the pause service is armed with its stage; pausing with that id uses what came."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})
    wait = Wait("go", id="later", correlate={"id": StateRef("id")})

    @wf.step
    async def one(ctx):
        async def register(deps):
            service = await deps.require("__pause_service__")
            return await service.register(wait), [info.id for info in await service.list()]

        wait_id, listed = await ctx.use(register)
        return {"id": 7, "registered": wait_id, "listed": listed}

    @wf.step
    async def two():
        await gate()

    @wf.route(after="two")
    def pause():
        return Pause(wait)

    @wf.step
    async def three(): ...

    rt = await stores.enter(wf)
    begun = await rt.emit("begin")
    [run_id] = begun.run_ids
    await stores.clock.run_until_idle()
    assert gate.came
    assert verdicts(await rt.emit("go", id=8)) == [("unmatched", None)]
    assert verdicts(await rt.emit("go", id=7, n=1)) == [("buffered", run_id)]
    gate.open()
    [result] = await begun.results(60)
    assert (result.status, result.state["n"], result.state["registered"]) == (COMPLETED, 1, "later")


async def test_registered_waits_survive_a_crash(stores, make_gate):
    """All waits that were registered go on buffering after a restart, and until the run has paused for them."""
    gates = [make_gate(), make_gate()]

    def workflow():
        wf = Workflow("w", triggers={"begin": Trigger("begin")})
        waits = [Wait("go.a", id="a"), Wait("go.b", id="b")]

        @wf.step
        async def one(ctx):
            async def register(deps):
                service = await deps.require("__pause_service__")
                for wait in waits:
                    await service.register(wait)

            await ctx.use(register)

        @wf.step
        async def two():
            await gates[0]()

        @wf.step
        async def three():
            await gates[1]()

        @wf.route(after="three")
        def first():
            return Pause(waits[0])

        @wf.step
        async def four(): ...

        @wf.route(after="four")
        def second():
            return Pause(waits[1])

        return wf

    rt = await stores.enter(workflow())
    begun = await rt.emit("begin")
    [run_id] = begun.run_ids
    await stores.clock.run_until_idle()
    assert gates[0].came
    await stores.crash(rt)
    gates[0].open()
    rt = await stores.enter(workflow())
    await stores.clock.run_until_idle()
    assert gates[1].came
    assert verdicts(await rt.emit("go.b", b=1)) == [("buffered", run_id)]
    gates[1].open()
    await stores.clock.run_until_idle()
    assert verdicts(await rt.emit("go.b", b=2)) == [("buffered", run_id)]
    assert verdicts(await rt.emit("go.a", a=1)) == [("resumed", run_id)]
    result = await rt.wait(run_id, 60)
    assert (result.status, result.state) == (COMPLETED, {"a": 1, "b": 1})


async def test_cancelled_registration_buffers_no_more(stores, gate):
    """After `cancel` of a registered wait its events find nobody."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one(ctx):
        async def register(deps):
            await (await deps.require("__pause_service__")).register(Wait("go", id="a"))

        await ctx.use(register)

    @wf.step
    async def two(ctx):
        async def cancel(deps):
            await (await deps.require("__pause_service__")).cancel("a")

        await ctx.use(cancel)

    @wf.step
    async def three():
        await gate()

    rt = await stores.enter(wf)
    await rt.emit("begin")
    await stores.clock.run_until_idle()
    assert gate.came
    assert verdicts(await rt.emit("go")) == [("unmatched", None)]
    gate.open()


# ----------------------------------------------------------------------------------------------------- only once
async def test_an_event_is_used_for_waits_once(stores):
    """The same event again is a duplicate for every wait, also for one that was armed later."""
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.step
    async def one(): ...

    wf.wait("a", on="go")
    wf.wait("b", on="go")
    rt = await stores.enter(wf)
    run = await begin(rt)
    event = Event("go", {"n": 1})
    assert verdicts(await rt.emit(event)) == [("resumed", run.run_id)]
    await stores.clock.run_until_idle()
    assert (await rt.get_run(run.run_id)).waits[0].id == "b"
    assert verdicts(await rt.emit(event)) == [("duplicate", run.run_id)]
    later = await begin(rt)
    assert sorted(verdicts(await rt.emit(event))) == sorted([("duplicate", run.run_id), ("duplicate", later.run_id)])
    assert {(await rt.get_run(run_id)).status for run_id in (run.run_id, later.run_id)} == {PAUSED}


async def test_a_filtered_event_may_be_sent_again(stores):
    """An event that a wait refused is not remembered: once the wait would take it, it does."""
    rt = await stores.enter(pausing(Wait("go", where=[Condition("n", "==", StateRef("n"))])))
    one = await begin(rt, n=1)
    event = Event("go", {"n": 2})
    assert verdicts(await rt.emit(event)) == [("filtered", one.run_id)]
    two = await begin(rt, n=2)
    assert sorted(verdicts(await rt.emit(event))) == sorted([("filtered", one.run_id), ("resumed", two.run_id)])


# ------------------------------------------------------------------------------------------------------ memory
async def test_parked_state_leaves_memory_after_the_window(stores):
    """A parked run is held in memory for the pause window only; from its row it resumes all the same."""
    rt = await stores.enter(pausing(Wait("go"), before={"keep": [1]}), pause_window=30)
    run = await begin(rt)
    assert rt.statistics()["runs:parked"] == 1
    assert rt.watch("w", run.run_id) is not None
    await stores.clock.run_for(29)
    assert rt.statistics()["runs:parked"] == 1
    await stores.clock.run_for(2)
    assert rt.statistics()["runs:parked"] == 0
    assert rt.watch("w", run.run_id) is None
    await rt.emit("go", n=1)
    assert (await rt.wait(run.run_id, 60)).state == {"keep": [1], "n": 1, "why": "event"}


@pytest.mark.parametrize("window", [0, 60])
async def test_run_services_end_at_the_pause_and_are_rebuilt(stores, window):
    """A run's services are closed when it parks, before the caller hears of it, and built anew from its state after."""
    log = []
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.service(scope="run")
    async def session(ctx):
        seen = ctx.select(lambda state: state.get("n"))
        log.append(f"open {seen}")
        ctx.on_cleanup(lambda: log.append(f"close {seen}"))
        return object()

    async def touch(ctx):
        await ctx.use(lambda deps: deps.require("session"))

    wf.step(id="one")(touch)
    wf.wait("gate", on="go")
    wf.step(id="two")(touch)
    rt = await stores.enter(wf, pause_window=window)
    run = await begin(rt, n=1)
    assert log == ["open 1", "close 1"]
    await rt.emit("go", n=2)
    await rt.wait(run.run_id, 60)
    assert log == ["open 1", "close 1", "open 2", "close 2"]


async def test_explain_foretells_resumes_and_buffers(stores, gate):
    """`explain` tells which parked runs would resume and which would keep the event, and does neither."""
    wf = pausing(Wait("go"))
    slow = Workflow("slow", triggers={"begin": Trigger("begin")})

    @slow.step
    async def one():
        await gate()

    slow.wait("gate", on="go")
    rt = await stores.enter(wf, slow)
    begun = await rt.emit("begin")
    runs = {line.workflow_id: line.run_id for line in begun.lines}
    while (await rt.get_run(runs["w"])).status is not PAUSED:
        await stores.clock.run_until_idle()
    foretold = await rt.explain("go")
    assert sorted(verdicts(foretold)) == sorted([("resumed", runs["w"]), ("buffered", runs["slow"])])
    assert sorted(verdicts(await rt.emit("go"))) == sorted(verdicts(foretold))
    gate.open()
    await begun.results(60)


async def test_a_run_goes_on_after_its_services_are_closed(stores, gate):
    """Resumed while the services of its last stretch are still being closed, a run waits for that before it goes on."""
    log = []
    wf = Workflow("w", triggers={"begin": Trigger("begin")})

    @wf.service(scope="run")
    async def session(ctx):
        async def close():
            await gate()
            log.append("closed")

        ctx.on_cleanup(close)
        return object()

    @wf.step
    async def one(ctx):
        await ctx.use(lambda deps: deps.require("session"))

    wf.wait("gate", on="go")

    @wf.step
    async def two():
        log.append("two")

    rt = await stores.enter(wf)
    [run_id] = (await rt.emit("begin")).run_ids
    await stores.clock.run_until_idle()
    assert gate.came
    assert verdicts(await rt.emit("go")) == [("resumed", run_id)]
    await stores.clock.run_until_idle()
    assert log == []
    gate.open()
    assert (await rt.wait(run_id, 60)).status is COMPLETED
    assert log == ["closed", "two"]


async def test_the_wait_a_run_is_paused_at_comes_first(stores):
    """Of several waits in a definition `waits[0]` is the one the run is paused at, in every view of the run."""
    wf = Workflow("w")
    wf.on("begin")

    @wf.step
    async def first():
        return None

    wf.wait("one", on="a")
    wf.wait("two", on="b")
    rt = await stores.enter(wf)
    [run] = await (await rt.emit("begin")).results()
    for at in ("one", "two"):
        info = await rt.get_run(run.run_id)
        [listed] = (await rt.find_runs(status="paused")).items
        for view in (info, listed, rt.watch("w", run.run_id), run):
            assert (view.waits[0].id, view.waits[0].parked) == (at, True)
        assert [wait.parked for wait in info.waits].count(True) == 1
        assert info.to_dict()["waits"][0]["id"] == at
        run = await rt.resume(run.run_id)
