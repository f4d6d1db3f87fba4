"""Services of runs: how long they live, and who may have which id."""

from __future__ import annotations

from typing import Annotated

import pytest
from dependency_injector import containers, providers

from poundlock import (
    DuplicateKey,
    InvalidDefinition,
    Pipeline,
    Service,
    Stage,
    Step,
    StepContext,
    Use,
    Workflow,
    WorkflowRuntime,
)
from poundlock.errors import AlreadyRegistered, EnvMissing


class Made:
    """Factories that note what they made and what was cleaned up."""

    def __init__(self):
        self.told = []
        self.count = 0

    def factory(self, name):
        def make(ctx):
            self.count += 1
            label = f"{name}{self.count}"
            self.told.append(f"open {label}")
            ctx.on_cleanup(lambda: self.told.append(f"close {label}"))
            return label

        return make


def using(*names, twice=False):
    async def step(ctx: StepContext):
        got = {}
        for name in names:
            got[name] = [await ctx.use(lambda deps, name=name: deps.require(name)) for _ in range(2)]
        return {"got": got}

    return step


def flow(action, id="wf", **options):
    return Workflow(id, pipelines=[Pipeline("main", [Stage("one", [Step("s", action)])])], **options)


async def test_lifetimes(runtime):
    """Global, workflow and run services live as long as what they are named after; clean-ups come in reverse."""
    made = Made()
    services = [
        Service("w", made.factory("w")),
        Service("r", made.factory("r"), scope="run"),
        Service("t", made.factory("t"), scope="transient"),
    ]
    wf = flow(using("g", "w", "r", "t"), services=services)
    rt = await runtime(wf, services=[Service("g", made.factory("g"))])
    first, second = [(await rt.run("wf")).state["got"] for _ in range(2)]
    assert first == {"g": ["g1", "g1"], "w": ["w2", "w2"], "r": ["r3", "r3"], "t": ["t4", "t5"]}
    assert second == {"g": ["g1", "g1"], "w": ["w2", "w2"], "r": ["r6", "r6"], "t": ["t7", "t8"]}
    opened = ["open g1", "open w2", "open r3", "open t4", "open t5"]
    assert made.told[:5] == opened
    assert made.told[5:8] == ["close t5", "close t4", "close r3"]
    made.told.clear()
    await rt.deregister("wf")
    assert made.told == ["close w2"]
    await rt.stop()
    assert made.told == ["close w2", "close g1"]


async def test_services_by_annotation_in_threads(runtime):
    """A `def` step takes services as parameters, whatever their scope."""
    made = Made()

    def step(a: Annotated[str, Use("w")], b: Annotated[str, Use("r")], env: Annotated[object, Use("__env__")]):
        return {"got": [a, b, env.get("X")]}

    wf = flow(step, services=[Service("w", made.factory("w")), Service("r", made.factory("r"), scope="run")])
    rt = await runtime(wf, env={"X": "1"})
    assert (await rt.run("wf")).state["got"] == ["w1", "r2", "1"]


async def test_a_failing_factory_fails_the_step(runtime):
    """A factory that raises fails the step that asked, and the next run tries again."""
    left = [1]

    def make():
        if left:
            left.pop()
            raise RuntimeError("no database")
        return "db"

    rt = await runtime(flow(using("db"), services=[Service("db", make)]))
    result = await rt.run("wf")
    assert (result.status, result.error.step) == ("failed", "s")
    assert "no database" in result.error.message + result.error.traceback
    assert (await rt.run("wf")).ok


async def test_a_failing_clean_up_stops_nobody(runtime, caplog):
    """A clean-up that raises is logged; the other clean-ups and the result are as if it had not."""
    told = []

    def make(ctx):
        def bad():
            raise RuntimeError("clean")

        ctx.on_cleanup(lambda: told.append("first"))
        ctx.on_cleanup(bad)
        return 1

    rt = await runtime(flow(using("x"), services=[Service("x", make, scope="run")]))
    assert (await rt.run("wf")).ok
    assert told == ["first"]
    assert "clean" in caplog.text


async def test_env_layers(runtime):
    """`__env__` asks the workflow's env, then the runtime's, then gives None; its values show up nowhere."""

    async def step(ctx: StepContext):
        env = await ctx.use(lambda deps: deps.require("__env__"))
        ctx.logger.info("env is %r", env)
        assert not hasattr(env, "set")
        return {"got": [env.get("A"), env.get("B"), env.get("C")]}

    rt = await runtime(flow(step, env={"A": "canary-wf"}), env={"A": "canary-rt", "B": "canary-b"})
    result = await rt.run("wf")
    assert result.state["got"] == ["canary-wf", "canary-b", None]
    logged = [entry for entry in (await rt.timeline(result.run_id)).entries if entry.source == "logger"]
    assert "canary" not in str(logged)


async def test_required_env_names_all_missing(runtime):
    """Missing variables fail registration, all named at once; either layer may bring them."""
    rt = await runtime(env={"B": "1"})
    with pytest.raises(EnvMissing) as caught:
        await rt.register(flow(using(), env={"A": "1"}, requires_env=["A", "B", "C", "D"]))
    assert caught.value.fields["missing"] == ["C", "D"]
    assert not rt.has_workflow("wf")
    await rt.register(flow(using(), env={"A": "1"}, requires_env=["A", "B"]))


@pytest.mark.parametrize("id", ["__env__", "__pause_service__"])
async def test_reserved_ids_are_refused(runtime, id):
    """Reserved ids raise DUPLICATE_KEY, in a workflow (whatever else is wrong with it) and as global services."""
    rt = await runtime()
    broken = Workflow(
        "wf", services=[Service(id, str), Service("__env__", str)], pipelines=[Pipeline("a", []), Pipeline("a", [])]
    )
    with pytest.raises(DuplicateKey) as caught:
        await rt.register(broken)
    assert caught.value.code == "DUPLICATE_KEY"
    assert caught.value.fields["ids"] == [id, "__env__"]
    with pytest.raises(DuplicateKey):
        WorkflowRuntime(services=[Service(id, str)])


async def test_two_global_services_of_one_id_are_refused():
    """Two global services of one id are refused before anything runs."""
    with pytest.raises(DuplicateKey):
        WorkflowRuntime(services=[Service("a", str), Service("a", int)])


async def test_a_dependency_injector_container_gives_global_services(runtime):
    """Providers of a dependency-injector container are global services; its overrides are seen."""

    class Container(containers.DeclarativeContainer):
        clock = providers.Singleton(list)
        name = providers.Object("real")

    container = Container()
    rt = await runtime(flow(using("name", "clock")), services=container)
    assert (await rt.run("wf")).state["got"]["name"] == ["real", "real"]
    with container.name.override("fake"):
        assert (await rt.run("wf")).state["got"]["name"] == ["fake", "fake"]


async def test_faulty_service_graphs_are_refused_at_register(runtime):
    """Two services of one id, or a bad scope, are faults of the definition, listed together."""
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(
            flow(using(), services=[Service("a", str), Service("a", str), Service("b", str, scope="moon")])
        )
    assert {path for path, _ in caught.value.faults} == {"services.a", "services.b.scope"}


async def test_two_workflows_of_one_id(runtime):
    """A second workflow of one id is refused, at the start and later; the first one stays."""
    rt = await runtime(flow(using()))
    with pytest.raises(AlreadyRegistered):
        await rt.register(flow(using()))
    assert (await rt.run("wf")).ok
    with pytest.raises(AlreadyRegistered):
        await runtime(flow(using()), flow(using()))
