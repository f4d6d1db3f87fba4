"""Whatever stands in a definition's place, it is told with its path: nothing is shown, compared or hashed unguarded."""

from __future__ import annotations

import enum
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from poundlock import (
    Advance,
    Condition,
    Delay,
    Fail,
    InvalidDefinition,
    Jump,
    Pause,
    Pipeline,
    Retry,
    Serialized,
    Service,
    Stage,
    StateRef,
    Step,
    Terminate,
    Transient,
    Trigger,
    Use,
    Wait,
    Workflow,
    WorkflowRuntime,
    workflow,
)
from poundlock import flow as chain
from poundlock.model.validation import refuse


class Order(BaseModel):
    amount: int = 0


class Color(enum.Enum):
    RED = "red"


class Odd:
    """Cannot be shown, compared, hashed or asked whether it is true."""

    __hash__ = None

    def _refuse(self, *_):
        raise RuntimeError("not me")

    __repr__ = __eq__ = __bool__ = _refuse


def nothing(): ...


def stage(**options):
    return Stage("one", [Step("s", nothing)], **options)


def flow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages or [stage()])], **options)


def paused(events="go", /, **options):
    return flow(stage(router=Pause(Wait(events, **options))))


async def faults(workflow, services=(), **options):
    async with WorkflowRuntime(services=services) as rt:
        with pytest.raises(InvalidDefinition) as caught:
            await rt.register(workflow, **options)
        assert rt.list_workflows() == []
    return dict(caught.value.faults)


ODD = {
    "workflow id": (lambda odd: Workflow(odd, pipelines=[Pipeline("main", [stage()])]), "id"),
    "router": (lambda odd: flow(stage(router=odd)), "pipelines.main.one.router"),
    "jump": (lambda odd: flow(stage(router=Jump(odd))), "pipelines.main.one.router"),
    "delay": (lambda odd: flow(stage(router=Delay(odd))), "pipelines.main.one.router"),
    "until": (lambda odd: flow(stage(router=Delay(until=odd))), "pipelines.main.one.router"),
    "result": (lambda odd: flow(stage(router=Terminate(odd))), "pipelines.main.one.router.result"),
    "reason": (lambda odd: flow(stage(router=Fail(odd))), "pipelines.main.one.router.reason"),
    "stage": (flow, "pipelines.main.stages.0"),
    "conflict": (lambda odd: flow(stage(conflict=odd)), "pipelines.main.one.conflict"),
    "timeout": (lambda odd: flow(stage(timeout=odd)), "pipelines.main.one.timeout"),
    "step": (lambda odd: flow(Stage("one", [odd])), "pipelines.main.one.steps.0"),
    "lone step": (lambda odd: flow(Stage("one", odd)), "pipelines.main.one.steps.0"),
    "step id": (lambda odd: flow(Stage("one", [Step(odd, nothing)])), "pipelines.main.one.0"),
    "action": (lambda odd: flow(Stage("one", [Step("s", odd)])), "pipelines.main.one.s"),
    "executor": (lambda odd: flow(Stage("one", [Step("s", nothing, executor=odd)])), "pipelines.main.one.s.executor"),
    "retry": (lambda odd: flow(Stage("one", [Step("s", nothing, retry=odd)])), "pipelines.main.one.s.retry"),
    "retry on": (
        lambda odd: flow(Stage("one", [Step("s", nothing, retry=Retry(on=odd))])),
        "pipelines.main.one.s.retry.on",
    ),
    "pipeline": (lambda odd: Workflow("wf", pipelines=odd), "pipelines.0"),
    "trigger": (lambda odd: flow(triggers={"t": odd}), "triggers.t"),
    "trigger event": (lambda odd: flow(triggers={"t": Trigger(odd)}), "triggers.t.event"),
    "when": (lambda odd: flow(triggers={"t": Trigger("go", when=odd)}), "triggers.t.when"),
    "condition": (lambda odd: flow(triggers={"t": Trigger("go", when=[odd])}), "triggers.t.when.0"),
    "key": (lambda odd: flow(triggers={"t": Trigger("go", key=odd)}), "triggers.t.key"),
    "map": (lambda odd: flow(triggers={"t": Trigger("go", map=odd)}), "triggers.t.map"),
    "dedupe": (lambda odd: flow(triggers={"t": Trigger("go", dedupe=odd)}), "triggers.t.dedupe"),
    "priority": (lambda odd: flow(triggers={"t": Trigger("go", priority=odd)}), "triggers.t.priority"),
    "service": (lambda odd: flow(services=odd), "services.0"),
    "service id": (lambda odd: flow(services=[Service(odd, nothing)]), "services.0"),
    "factory": (lambda odd: flow(services=[Service("a", odd)]), "services.a.factory"),
    "scope": (lambda odd: flow(services=[Service("a", nothing, scope=odd)]), "services.a.scope"),
    "type": (lambda odd: flow(services=[Service("a", nothing, type=odd)]), "services.a.type"),
    "options": (lambda odd: flow(services=[Service("a", nothing, options=odd)]), "services.a.options"),
    "needs": (lambda odd: flow(services=[Service("a", nothing, options={"needs": odd})]), "services.a.needs"),
    "env": (lambda odd: flow(env={"A": odd}), "env.A"),
    "required env": (lambda odd: flow(requires_env=[odd]), "requires_env.0"),
    "mode": (lambda odd: flow(mode=odd), "mode"),
    "visit limit": (lambda odd: flow(visit_limit=odd), "visit_limit"),
    "state": (lambda odd: flow(state=odd), "state"),
    "wait": (lambda odd: flow(stage(router=Pause(odd))), "pipelines.main.one.router.wait"),
    "wait events": (paused, "pipelines.main.one.router.wait.events"),
    "wait id": (lambda odd: paused(id=odd), "pipelines.main.one.router.wait.id"),
    "where": (lambda odd: paused(where=odd), "pipelines.main.one.router.wait.where"),
    "where value": (
        lambda odd: paused(where=[Condition("a", "==", odd)]),
        "pipelines.main.one.router.wait.where.0",
    ),
    "correlate": (lambda odd: paused(correlate=odd), "pipelines.main.one.router.wait.correlate"),
    "correlate value": (lambda odd: paused(correlate={"a": odd}), "pipelines.main.one.router.wait.correlate.a"),
    "reference": (
        lambda odd: paused(correlate={"a": StateRef(odd)}),
        "pipelines.main.one.router.wait.correlate.a",
    ),
    "wait timeout": (lambda odd: paused(timeout=odd), "pipelines.main.one.router.wait.timeout"),
    "on_timeout": (lambda odd: paused(on_timeout=odd), "pipelines.main.one.router.wait.on_timeout"),
    "patch": (lambda odd: paused(patch=odd), "pipelines.main.one.router.wait.patch"),
    "patch value": (lambda odd: paused(patch={"a": odd}), "pipelines.main.one.router.wait.patch"),
    "resume_at": (
        lambda odd: flow(stage(router=Pause(Wait("go"), resume_at=odd))),
        "pipelines.main.one.router.resume_at",
    ),
}


@pytest.mark.parametrize(("make", "path"), ODD.values(), ids=ODD)
async def test_something_odd_is_told_with_its_path(make, path):
    """An object that cannot even be shown is a fault with its path, in every place of a definition."""
    found = await faults(make(Odd()))
    assert path in found
    assert "not me" not in "".join(found.values())


@pytest.mark.parametrize("hook", ["on_prepare", "on_complete", "on_resume", "on_cleanup", "on_dispatch"])
async def test_an_odd_hook_is_told(hook):
    """What is not a function in a hook's place is told, also if it cannot be shown."""
    assert list(await faults(flow(), **{hook: Odd()})) == [hook]


WRONG = {
    "trigger id": (lambda: flow(triggers={5: Trigger("go")}), "triggers.0"),
    "state object": (lambda: flow(state=Order()), "state"),
    "mode class": (lambda: flow(mode=Serialized), "mode"),
    "router class": (lambda: flow(stage(router=Terminate)), "pipelines.main.one.router"),
    "wait id": (lambda: paused(id=""), "pipelines.main.one.router.wait.id"),
    "event generator": (lambda: paused(each for each in ["go"]), "pipelines.main.one.router.wait.events"),
    "event mapping": (lambda: paused({"yes": "one", "no": "ten"}), "pipelines.main.one.router.wait.events.no"),
    "no events": (lambda: paused({}), "pipelines.main.one.router.wait.events"),
    "needs text": (lambda: flow(services=[Service("a", nothing, options={"needs": "pool"})]), "services.a.needs"),
    "type text": (lambda: flow(services=[Service("a", nothing, type="Pool")]), "services.a.type"),
    "event text": (lambda: paused(["go", "\ud800"]), "pipelines.main.one.router.wait.events"),
    "payload path": (lambda: paused(correlate={"\ud800": 1}), "pipelines.main.one.router.wait.correlate"),
    "field text": (
        lambda: paused(where=[Condition("\ud800", "==", 1)]),
        "pipelines.main.one.router.wait.where.0.field",
    ),
    "enum in a trigger": (
        lambda: flow(triggers={"t": Trigger("go", when=[Condition("a", "==", Color.RED)])}),
        "triggers.t.when.0",
    ),
    "state in a trigger": (
        lambda: flow(triggers={"t": Trigger("go", when=[Condition("a", "==", StateRef("b"))])}),
        "triggers.t.when.0",
    ),
}


@pytest.mark.parametrize(("make", "path"), WRONG.values(), ids=WRONG)
async def test_what_could_not_work_is_found(make, path):
    """What would fail, or never match, only once there are runs is a fault at registration."""
    assert list(await faults(make())) == [path]


async def test_a_class_is_no_mode_at_registration_either():
    """`register(wf, Transient)` without brackets is told, instead of rejecting every event."""
    assert list(await faults(flow(), mode=Transient)) == ["mode"]


@pytest.mark.parametrize(("name", "value"), [("triggers", [Trigger("go")]), ("env", ["A"])])
def test_what_is_no_mapping_is_refused(name, value):
    """Triggers and variables have names: a list of them is refused with the argument's name."""
    with pytest.raises(InvalidDefinition, match="give a mapping") as caught:
        Workflow("wf", **{name: value})
    assert caught.value.path == name


async def test_different_waits_of_one_id_are_found(runtime):
    """Of two waits of one id each could be given the other's patch function; one that two stages share is fine."""

    def asking(first, second):
        return flow(Stage("a", router=Pause(first)), Stage("b", router=Pause(second)))

    found = await faults(asking(Wait("x", id="w"), Wait("y", id="w", patch=lambda event: {"from": event.type})))
    assert list(found) == ["pipelines.main.b.router.wait.id"]
    one = Wait("x", id="w", patch=lambda event: {"from": event.type})
    rt = await runtime(asking(one, one))
    assert (await rt.run("wf")).status == "paused"


UNFIT = {
    "where": lambda: Pause(Wait("go", where=[Condition("a", "==", object())])),
    "patch": lambda: Pause(Wait("go", patch={"a": object()})),
    "correlate": lambda: Pause(Wait("go", correlate={"a": object()})),
    "events": lambda: Pause(Wait(5)),
    "event text": lambda: Pause(Wait("\ud800")),
    "payload path": lambda: Pause(Wait("go", correlate={"\ud800": 1})),
    "field text": lambda: Pause(Wait("go", where=[Condition("\ud800", "==", 1)])),
    "id": lambda: Pause(Wait("go", id=5)),
    "no wait": lambda: Pause(Odd()),
    "jump": lambda: Jump([]),
    "resume_at": lambda: Pause(Wait("go"), resume_at=[]),
}


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
async def test_an_instruction_that_cannot_be_followed_fails_its_run(stores, make):
    """What a router makes up is checked as well: the run fails with a text that says why, and is never left running."""
    rt = await stores.enter(flow(Stage("ask", router=make), Stage("two", router=Advance())))
    result = await rt.run("wf")
    assert result.status == "failed"
    assert result.error.type in ("InvalidDefinition", "NotRegistered"), result.error


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wait("go", id="w", patch=lambda event: {"from": event.type}),
        lambda: Wait("go", id="w", patch={"a": object()}),
        Odd,
    ],
    ids=["function", "value", "no wait"],
)
async def test_an_announced_wait_that_cannot_be_kept_fails_its_step(stores, make):
    """What a step announces is stored: a patch function would be lost without a word, so it is refused there."""

    async def announces(waits: Annotated[Any, Use("__pause_service__")]):
        await waits.register(make())

    rt = await stores.enter(flow(Stage("one", [Step("s", announces)])))
    result = await rt.run("wf")
    assert (result.status, result.error.type) == ("failed", "InvalidDefinition")


# ------------------------------------------------------------------------------------------------------- decorators
def named(): ...


DECORATORS = {
    "on without brackets": (lambda wf: wf.on(named), "event", "on('order.placed')"),
    "several events": (lambda wf: wf.on(["a", "b"]), "event", "is not text"),
    "odd event": (lambda wf: wf.on(Odd()), "event", "cannot be shown"),
    "trigger id": (lambda wf: wf.on("a", id=[]), "id", "is not text"),
    "stage as an argument": (lambda wf: wf.step("reserve"), "step", "'reserve' is not a function"),
    "stage": (lambda wf: wf.step(stage=5), "stage", "is not text"),
    "step id": (lambda wf: wf.step(id=named), "id", "such as 'named'"),
    "route after a function": (lambda wf: wf.route(after=named), "after", "such as 'named'"),
    "route after a list": (lambda wf: wf.route(after=["a"]), "after", "is not text"),
    "wait": (lambda wf: wf.wait(["w"], on="a"), "name", "is not text"),
    "service as an argument": (lambda wf: wf.service("pool"), "service", "'pool' is not a function"),
    "service object": (lambda wf: wf.service(Odd()), "service", "is not a function"),
    "service id": (lambda wf: wf.service(id=5), "id", "is not text"),
}


@pytest.mark.parametrize(("write", "path", "says"), DECORATORS.values(), ids=DECORATORS)
def test_a_decorator_says_what_it_takes(write, path, says):
    """A decorator that is given something else says so where it is written, and what to write instead."""
    with pytest.raises(InvalidDefinition) as caught:
        write(Workflow("wf"))
    assert caught.value.path == path
    assert says in caught.value.message


def test_a_definition_that_was_read_is_complete():
    """Adding after `definition` was read is refused with that reason, not only with registering."""
    wf = Workflow("wf")
    wf.step(named)
    assert wf.definition.id == "wf"
    with pytest.raises(InvalidDefinition, match="its definition was read"):
        wf.step(id="more")(named)


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: Workflow("wf", pipelines=[main(Stage("s", [Step("a", does_nothing)]))], label=5), "label"),
        (
            lambda: Workflow("wf", pipelines=[Pipeline("main", [Stage("s", [Step("a", does_nothing)])], label=5)]),
            "pipelines.main.label",
        ),
        (
            lambda: Workflow("wf", pipelines=[main(Stage("s", [Step("a", does_nothing)], label=5))]),
            "pipelines.main.s.label",
        ),
        (
            lambda: Workflow("wf", pipelines=[main(Stage("s", [Step("a", does_nothing, label=5)]))]),
            "pipelines.main.s.a.label",
        ),
        (lambda: chain("wf").on(["a"]).pipe(does_nothing).build(), "1.on"),
        (lambda: chain("wf").on("a", id=["b"]).pipe(does_nothing).build(), "1.on"),
        (lambda: chain("wf", pipelines=5).pipe(does_nothing).build(), "pipelines.0"),
        (lambda: chain("wf", services=5).pipe(does_nothing).build(), "services.0"),
        (lambda: workflow("wf", on=5)(waiting), "event"),
        (lambda: workflow("wf", waits=5)(waiting), "waits.0"),
    ],
    ids=["workflow", "pipeline", "stage", "step", "on", "id", "pipelines", "services", "events", "waits"],
)
def test_an_argument_of_another_type_is_told_with_its_path(make, path):
    """Labels that are no text, and one thing where several are expected, are faults and never a TypeError."""
    with pytest.raises(InvalidDefinition) as caught:
        refuse("wf", make().draft()[1])
    assert path in [caught.value.path, *(place for place, _ in caught.value.fields.get("faults", ()))]


def main(*stages):
    return Pipeline("main", stages)


async def does_nothing():
    return None


async def waiting(step):
    await step.wait_for("x")
