"""What a definition says is checked when it is registered, and all faults are told at once."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
from typing import Annotated, Any

import pytest
from pydantic import BaseModel

from poundlock import (
    Advance,
    Condition,
    Delay,
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
    Trigger,
    Use,
    Wait,
    Workflow,
    WorkflowRuntime,
)


class Order(BaseModel):
    amount: int = 0
    customer_name: str = ""


class Mail: ...


async def nothing(): ...


def flow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


def stage(id="one", action=nothing, **options):
    step = {name: options.pop(name) for name in ("timeout", "retry") if name in options}
    return Stage(id, [Step("s", action, **step)], **options)


async def faults(workflow, services=(), **options):
    """Register a workflow that has faults; returns them as a mapping from path to text."""
    async with WorkflowRuntime(services=services) as rt:
        with pytest.raises(InvalidDefinition) as caught:
            await rt.register(workflow, **options)
        assert rt.list_workflows() == []
    found = dict(caught.value.faults)
    assert len(found) == len(caught.value.faults), "each place has one fault"
    return found


# ------------------------------------------------------------------------------------------------------- stage names
TARGETS = {
    "text": ("aks", "router"),
    "jump": (Jump("aks"), "router"),
    "resume_at": (Pause(Wait("go"), resume_at="aks"), "router.resume_at"),
    "on_timeout": (Pause(Wait("go", timeout=5, on_timeout="aks")), "router.wait.on_timeout"),
    "on_timeout alone": (Pause(Wait("go", on_timeout="aks")), "router.wait.on_timeout"),
}


@pytest.mark.parametrize(("router", "place"), TARGETS.values(), ids=TARGETS)
async def test_unknown_stages_in_data_are_found(router, place):
    """A stage that is named anywhere in a definition has to be there; near matches are told."""
    found = await faults(flow(stage("ask", router=router), stage("two"), stage("three")))
    assert found[f"pipelines.main.ask.{place}"] == "there is no stage 'aks': did you mean 'ask'?"


@pytest.mark.parametrize("target", [5, None, nothing, ["ask"]], ids=["number", "none", "function", "list"])
async def test_what_is_no_stage_id_is_found(target):
    """A target that is not text is a fault of its own, not an error from inside."""
    found = await faults(flow(stage("ask", router=Jump(target)), stage("two", router=Jump("ask"))))
    assert "give a stage's id" in found["pipelines.main.ask.router"]


async def test_a_router_behind_a_misspelt_stage_makes_no_stage():
    """`route(after=)` names a stage that is there, written before the router or after it."""
    wf = Workflow("wf")

    @wf.route(after="ask")
    def early():
        return Advance()

    @wf.route(after="aks")
    def router():
        return None

    wf.step(id="ask")(nothing)
    wf.step(id="answer")(nothing)
    found = await faults(wf)
    assert found == {"route.aks": "there is no stage 'aks' to route after: did you mean 'ask'?"}


async def test_a_router_may_be_written_before_its_stage(runtime):
    """The order of stages is that of their steps, wherever their routers are written."""
    wf = Workflow("wf")

    @wf.route(after="two")
    def router(n: int):
        return "one" if n < 2 else None

    @wf.step
    async def one(n: int = 0):
        return {"n": n + 1}

    wf.step(id="two")(nothing)
    rt = await runtime(wf)
    result = await rt.run("wf")
    assert (await rt.timeline(result.run_id)).path() == ["one", "two", "one", "two"]


def test_a_stage_has_one_router():
    """A second router of a stage is refused where it is written, also where the stage is a wait."""
    wf = Workflow("wf")
    wf.route(after="one")(lambda: None)
    wf.wait("gate", on="go")
    for name in ("one", "gate"):
        with pytest.raises(InvalidDefinition, match="has a router already"):
            wf.route(after=name)(lambda: None)
    with pytest.raises(InvalidDefinition, match="has a router already"):
        wf.wait("one", on="go")


@pytest.mark.parametrize("place", ["correlate", "where"])
async def test_references_to_state_that_is_no_field_are_found(runtime, place):
    """A wait that refers to state the model has no field for could never be armed: that is found."""

    def waiting(path):
        given = {"correlate": {"id": StateRef(path)}, "where": [Condition("id", "==", StateRef(path))]}[place]
        return flow(Stage("gate", router=Pause(Wait("go", **{place: given}))), stage("two"), state=Order)

    [(path, text)] = (await faults(waiting("amonut"))).items()
    assert path == "pipelines.main.gate.router.wait"
    assert text == "StateRef('amonut') is not a field of the state: did you mean 'amount'?"
    rt = await runtime(waiting("amount"))
    assert (await rt.run("wf", amount=5)).status == "paused"


# --------------------------------------------------------------------------------------------------- what steps ask for
async def test_a_parameter_that_no_field_can_give_is_found():
    """With a state model every parameter is a field, an alias, a reserved name, a service, or has a default."""

    async def asks(amonut: int, ctx, state, event, amount, other=5): ...

    found = await faults(flow(stage(action=asks), state=Order))
    assert list(found) == ["pipelines.main.one.s.amonut"]
    assert "did you mean 'amount'?" in found["pipelines.main.one.s.amonut"]


async def test_aliases_and_computed_fields_are_fields(runtime):
    """A parameter may ask for a field by its alias, and for what the model computes."""
    from pydantic import Field, computed_field

    class Aliased(BaseModel):
        order_id: int = Field(alias="orderId")

        @computed_field
        def double(self) -> int:
            return 2 * self.order_id

    seen = []

    async def asks(orderId, order_id: int, double: int):  # noqa: N803 - an alias as it comes from outside
        seen.append((orderId, order_id, double))

    rt = await runtime(flow(stage(action=asks), state=Aliased))
    assert (await rt.run("wf", orderId=4)).ok
    assert seen == [(4, 4, 8)]


async def test_a_model_that_takes_more_may_be_asked_for_more(runtime):
    """Where the model allows extra keys, only the run knows which there are."""

    class Open(BaseModel, extra="allow"):
        n: int = 0

    async def asks(more: int):
        return {"n": more}

    rt = await runtime(flow(stage(action=asks), state=Open))
    assert (await rt.run("wf", more=3)).state.n == 3
    assert "the state has no field 'more'" in (await rt.run("wf")).error.message


async def test_a_type_that_is_no_data_and_no_service_is_found():
    """A parameter of a class that neither a service nor data can give is found, unless it has a default."""

    async def asks(mail: Mail): ...

    async def can_do_without(mail: Mail | None = None): ...

    found = await faults(flow(Stage("one", [Step("a", asks), Step("b", can_do_without)])))
    assert list(found) == ["pipelines.main.one.a.mail"]
    assert "no service is of its type" in found["pipelines.main.one.a.mail"]


async def test_an_optional_service_is_given(runtime):
    """`Mail | None` asks for the service of that type where there is one."""
    seen = []

    async def asks(mail: Mail | None = None):
        seen.append(type(mail))

    rt = await runtime(flow(stage(action=asks)), services=[Service("mail", Mail)])
    assert (await rt.run("wf")).ok
    assert seen == [Mail]


@pytest.mark.parametrize("where", ["step", "router", "factory", "global factory"])
async def test_an_unknown_service_is_found(where):
    """A service that is not there is found wherever it is asked for, with near matches."""

    async def asks(mail: Annotated[Any, Use("mial")]): ...

    def builds(mail: Annotated[Any, Use("mial")]):
        return object()

    services = [Service("mail", Mail), *([Service("broken", builds)] if where == "global factory" else [])]
    options = {"services": [Service("made", builds)]} if where == "factory" else {}
    if where == "step":
        wf = flow(stage(action=asks))
    else:
        wf = flow(stage(router=asks if where == "router" else None), **options)
    [(path, text)] = (await faults(wf, services)).items()
    assert (
        path
        == {
            "step": "pipelines.main.one.s.mail",
            "router": "pipelines.main.one.router.mail",
            "factory": "services.made",
            "global factory": "services.broken",
        }[where]
    )
    assert "did you mean 'mail'?" in text


async def test_a_captive_service_is_found():
    """A service that lives longer than what it needs is found, with the faults of the steps."""

    def session() -> Mail:
        return Mail()

    def pool(session: Annotated[Any, Use("session")]):
        return object()

    async def asks(pool: Annotated[Any, Use("pol")]): ...

    found = await faults(
        flow(stage(action=asks), services=[Service("session", session, scope="run"), Service("pool", pool)])
    )
    assert "needs 'session', which lives only in the shorter-lived 'run'" in found["services.pool"]
    assert "did you mean 'pool'?" in found["pipelines.main.one.s.pool"]


async def test_services_that_are_there_are_no_fault(runtime):
    """Global services, the workflow's, a run's, and the reserved ones may be asked for, by id or class."""
    seen = {}

    async def asks(
        a: Annotated[Any, Use("global")],
        b: Annotated[Any, Use("own")],
        c: Annotated[Any, Use("of_run")],
        d: Annotated[Any, Use("__env__")],
        e: Annotated[Any, Use("__pause_service__")],
        *,
        f: Annotated[Any, Use(key="own")],
    ):
        seen.update(locals())

    own = [Service("own", lambda: "own"), Service("of_run", lambda: "of_run", scope="run")]
    rt = await runtime(flow(stage(action=asks), services=own), services=[Service("global", lambda: "global")])
    result = await rt.run("wf")
    assert result.ok, result.error
    assert [seen[name] for name in "abcf"] == ["global", "own", "of_run", "own"]


async def test_unknown_options_of_a_service_are_found():
    """A misspelt option of a service is a fault with its path, not a TypeError from inside."""
    wf = flow(stage())
    wf.service(tmieout=5)(Mail)
    wf.service(id="other", timeout="soon")(Mail)
    found = await faults(wf)
    assert found["services.Mail.tmieout"] == "is not an option of a service: did you mean 'timeout'?"
    assert "not a duration" in found["services.other.timeout"]


# ------------------------------------------------------------------------------------------------------- on and steps
async def test_a_function_under_on_that_is_no_step_is_found():
    """While there are steps, a function under `on` that is none would never be called: that is told."""
    wf = Workflow("wf")

    @wf.on("begin")
    async def forgotten(): ...

    @wf.step
    async def work(): ...

    found = await faults(wf)
    assert list(found) == ["triggers.begin"]
    assert "'forgotten'" in found["triggers.begin"]


class Works:
    async def work(self): ...


async def test_functions_under_on_that_are_steps(runtime):
    """Steps under several triggers, decorators in either order, methods, wrapped steps and bare triggers are fine."""
    wf = Workflow("wf")
    works = Works()

    def traced(function):
        @functools.wraps(function)
        async def wrapper(*args, **kwargs):
            return await function(*args, **kwargs)

        return wrapper

    @wf.on("a")
    @wf.on("b")
    @wf.step
    async def one(): ...

    @wf.step
    @wf.on("c")
    async def two(): ...

    @wf.on("d")
    @traced
    @wf.step
    async def three(): ...

    wf.on("e")
    wf.on("f")(works.work)
    wf.step(works.work)
    rt = await runtime(wf)
    assert (await rt.emit("e")).verdicts == ["started"]


async def test_without_steps_a_function_under_on_is_not_the_fault():
    """A workflow without any step is told that it has none."""
    wf = Workflow("wf")
    wf.on("begin")(nothing)
    assert list(await faults(wf)) == ["pipelines"]


async def test_generator_functions_are_no_steps():
    """Nothing of a generator's body would run, so as a step it is a fault; a partial of one is too."""

    def generated():
        yield {}

    async def asynchronous():
        yield {}

    class Object:
        def __call__(self):
            yield {}

    steps = [
        Step(str(place), action)
        for place, action in enumerate(
            (generated, asynchronous, Object(), functools.partial(generated), contextlib.contextmanager(generated))
        )
    ]
    found = await faults(flow(Stage("one", steps)))
    assert list(found) == [f"pipelines.main.one.{place}" for place in range(5)]
    assert all("generator function" in text for text in found.values())


# --------------------------------------------------------------------------------------------------- durations, dates
NO_DURATIONS = [True, -1, float("nan"), float("inf"), "soon", "-5s", dt.datetime.now, [5], 10**400, dt.timedelta(-1)]


@pytest.mark.parametrize(
    "value",
    NO_DURATIONS,
    ids=["bool", "negative", "nan", "inf", "text", "negative text", "function", "list", "huge", "negative delta"],
)
async def test_durations_of_the_wrong_type_are_found(value):
    """Wherever a duration is written, one that is none is a fault with its path; all are told at once."""
    wait = Pause(Wait("go", timeout=value))
    retry = Retry(backoff=value, max=value)
    wf = flow(
        stage("one", timeout=value, retry=retry, router=Delay(value)),
        Stage("two", [Step("s", nothing)], timeout=value, router=wait),
        triggers={"t": Trigger("go", dedupe=value)},
    )
    assert set(await faults(wf)) == {
        "triggers.t.dedupe",
        "pipelines.main.one.router",
        "pipelines.main.one.s.timeout",
        "pipelines.main.one.s.retry.backoff",
        "pipelines.main.one.s.retry.max",
        "pipelines.main.two.timeout",
        "pipelines.main.two.router.wait.timeout",
    }


NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone(dt.timedelta(hours=2)))


@pytest.mark.parametrize(
    ("delay", "says"),
    [
        (Delay(until=NOON.replace(tzinfo=None)), "has no zone"),
        (Delay(until=True), "not a moment"),
        (Delay(until=float("nan")), "not a moment"),
        (Delay(until="tomorrow"), "not a moment"),
        (Delay(until=NOON.date()), "not a moment"),
        (Delay(), "either seconds or until"),
        (Delay(5, until=NOON), "either seconds or until"),
    ],
    ids=["naive", "bool", "nan", "text", "date", "neither", "both"],
)
async def test_dates_that_mean_no_moment_are_found(runtime, delay, says):
    """A date without a zone, or what is no date, is a fault; made by a router it fails the run with that text."""
    found = await faults(flow(stage(router=delay), stage("two")))
    assert says in found["pipelines.main.one.router"]
    rt = await runtime(flow(stage(router=lambda: delay), stage("two")))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "STEP_FAILED")
    assert says in result.error.message


@pytest.mark.parametrize("made", ["data", "router"])
async def test_a_delay_until_a_date_with_a_zone(stores, made):
    """`Delay(until=)` takes a datetime with a zone and goes on at that moment."""
    delay = Delay(until=NOON)
    rt = await stores.enter(flow(stage(router=delay if made == "data" else lambda: delay), stage("two")))
    rt.clock.set(NOON.timestamp() - 3600)
    assert (await rt.run("wf")).ok
    assert rt.clock.now() == NOON.timestamp()


# ---------------------------------------------------------------------------------------------------------- all at once
async def test_all_faults_are_told_at_once():
    """Faults of the structure, of what functions ask for, of services, of the mode and of hooks come in one error."""

    async def asks(amonut: int): ...

    wf = flow(
        stage("one", asks, router=Jump("tow"), timeout=-1),
        stage("two"),
        state=Order,
        services=[Service("a", lambda b: b)],
        triggers={"t": Trigger("go", when=lambda e: e, priority="high")},
        visit_limit=True,
    )
    wf.on("begin")(nothing)
    wf.on("other")(asks.__class__)
    found = await faults(wf, mode=Serialized(key=lambda e: e), on_complete=lambda: None)
    assert set(found) == {
        "pipelines.main.one.s.amonut",
        "pipelines.main.one.router",
        "pipelines.main.one.s.timeout",
        "services.a.b",
        "triggers.t.when.e",
        "triggers.t.priority",
        "triggers.other",
        "visit_limit",
        "mode.key.e",
        "on_complete",
    }


PARTS = {
    "stage": (lambda: flow(nothing), "pipelines.main.stages.0"),
    "step": (lambda: flow(Stage("one", [nothing])), "pipelines.main.one.steps.0"),
    "pipeline": (lambda: Workflow("wf", pipelines=[stage()]), "pipelines.0"),
    "trigger": (lambda: flow(stage(), triggers={"t": "go"}), "triggers.t"),
    "service": (lambda: flow(stage(), services=[Mail]), "services.0"),
    "retry": (lambda: flow(stage(retry=3)), "pipelines.main.one.s.retry"),
    "attempts": (lambda: flow(stage(retry=Retry("3"))), "pipelines.main.one.s.retry.attempts"),
    "factor": (lambda: flow(stage(retry=Retry(factor=float("nan")))), "pipelines.main.one.s.retry.factor"),
    "jitter": (lambda: flow(stage(retry=Retry(jitter="a"))), "pipelines.main.one.s.retry.jitter"),
    "on": (lambda: flow(stage(retry=Retry(on=(5,)))), "pipelines.main.one.s.retry.on"),
    "mode": (lambda: flow(stage(), mode="transient"), "mode"),
    "class of a mode": (lambda: flow(stage(), mode=Serialized), "mode"),
    "conditions": (lambda: flow(stage(), triggers={"t": Trigger("go", when=5)}), "triggers.t.when"),
    "map": (lambda: flow(stage(), triggers={"t": Trigger("go", map={})}), "triggers.t.map"),
    "key": (lambda: flow(stage(), triggers={"t": Trigger("go", key=5)}), "triggers.t.key"),
    "trigger's pipeline": (lambda: flow(stage(), triggers={"t": Trigger("go", pipeline=[])}), "triggers.t.pipeline"),
    "wait": (lambda: flow(stage(router=Pause("go"))), "pipelines.main.one.router.wait"),
    "patch": (lambda: flow(stage(router=Pause(Wait("go", patch=5)))), "pipelines.main.one.router.wait.patch"),
}


@pytest.mark.parametrize(("make", "path"), PARTS.values(), ids=PARTS)
async def test_parts_of_the_wrong_type_are_found(make, path):
    """Something else in a part's place is a fault with its path, not an error from inside."""
    assert path in await faults(make())


async def test_a_refused_definition_can_be_mended(runtime):
    """A workflow that was refused is not sealed: what was missing may be added, and then it is registered."""
    wf = Workflow("wf")
    wf.route(after="two")(lambda: None)
    wf.step(id="one")(nothing)
    rt = await runtime()
    with pytest.raises(InvalidDefinition):
        await rt.register(wf)
    wf.step(id="two")(nothing)
    await rt.register(wf)
    assert (await rt.run("wf")).ok
    with pytest.raises(InvalidDefinition, match="registered already"):
        wf.step(id="three")(nothing)


def test_the_definition_alone_tells_what_needs_no_runtime():
    """`definition` checks what can be checked without a runtime."""
    wf = Workflow("wf")
    wf.route(after="aks")(lambda: None)
    wf.step(id="ask")(nothing)
    with pytest.raises(InvalidDefinition, match="did you mean 'ask'"):
        _ = wf.definition


# ------------------------------------------------------------------------------------------------ beside definitions
def test_the_options_of_a_service_are_those_of_a_template():
    """What a service may say is what its template takes."""
    import dataclasses

    from poundlock.artifacts import ArtifactTemplate
    from poundlock.model.validation import SERVICE_OPTIONS

    names = {field.name for field in dataclasses.fields(ArtifactTemplate)}
    assert names - {"key", "factory", "scope", "type"} == set(SERVICE_OPTIONS)


@pytest.mark.parametrize(
    ("service", "path"),
    [
        (Mail, "services.0"),
        (Service("mail", 5), "services.mail.factory"),
        (Service("mail", Mail, options={"tmieout": 5}), "services.mail.tmieout"),
        (Service("mail", Mail, options={"retry": Retry(0)}), "services.mail.retry.attempts"),
    ],
    ids=["no service", "no factory", "no option", "retry"],
)
def test_global_services_are_checked_when_the_runtime_is_made(service, path):
    """What is not a service, or has faults, is refused before anything starts."""
    with pytest.raises(InvalidDefinition) as caught:
        WorkflowRuntime(services=[service])
    assert [place for place, _ in caught.value.faults] == [path]


async def test_a_faulty_global_service_is_told_with_the_rest():
    """What only the container finds in a global service comes with the faults of the workflow."""
    found = await faults(
        flow(stage(router="two")), [Service("mail", Mail, options={"timeout": "soon"}), Service("b", lambda c: c)]
    )
    assert {path.partition(".")[0] for path in found} == {"services", "pipelines"}


@pytest.mark.parametrize("name", ["pause_window", "abort_grace", "hook_timeout"])
@pytest.mark.parametrize("value", [True, -1, "soon", None, float("nan")], ids=repr)
def test_durations_of_a_runtime_are_checked(name, value):
    """A duration of the runtime that is none is refused with its name."""
    with pytest.raises(InvalidDefinition) as caught:
        WorkflowRuntime(**{name: value})
    assert caught.value.path == name


async def test_durations_of_calls_are_checked(runtime):
    """`wait`, `results` and `stop` refuse what is not a duration, and nothing happens."""
    rt = await runtime(flow(stage(), triggers={"t": Trigger("go")}))
    receipt = await rt.emit("go")
    for call in (rt.wait(receipt.run_ids[0], "soon"), receipt.results("soon"), rt.stop("soon")):
        with pytest.raises(InvalidDefinition, match="not a duration"):
            await call
    assert (await rt.wait(receipt.run_ids[0])).ok


@pytest.mark.parametrize("what", [5, None, [flow(stage())], nothing], ids=["number", "none", "list", "function"])
async def test_what_is_no_workflow_is_refused(what):
    """Something else in a workflow's place is a typed error, when it is registered and when the runtime is entered."""
    async with WorkflowRuntime() as rt:
        with pytest.raises(InvalidDefinition, match="not a Workflow"):
            await rt.register(what)
    with pytest.raises(InvalidDefinition, match="not a Workflow"):
        await WorkflowRuntime(what).__aenter__()


async def test_a_mode_that_is_none_is_found_with_the_rest():
    """A mode given at registration is checked like the workflow's own."""
    assert set(await faults(flow(stage(router="tow"), stage("two")), mode="serial")) == {
        "mode",
        "pipelines.main.one.router",
    }


def test_one_required_variable_may_be_a_text():
    """A text is one variable, not one per letter."""
    assert flow(stage(), requires_env="TOKEN").definition.requires_env == ("TOKEN",)


async def test_a_stage_that_only_a_step_leads_to_is_reachable(runtime):
    """A step may return an instruction, so behind a stage without a router any stage may come."""

    async def decides(ok: bool):
        return Jump("far") if ok else None

    rt = await runtime(flow(Stage("one", [Step("s", decides)]), Stage("near", router=Terminate("near")), stage("far")))
    assert (await rt.run("wf", ok=False)).result == "near"
    assert (await rt.timeline((await rt.run("wf", ok=True)).run_id)).path() == ["one", "far"]
