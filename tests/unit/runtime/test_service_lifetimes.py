"""Services of a run across its pauses, and their replacement in tests."""

from __future__ import annotations

from typing import Annotated

import pytest

from poundlock import ArtifactNotFound, NotRegistered, Retry, Service, StateRef, Use, Workflow


def gate(**options) -> tuple[Workflow, list[str]]:
    """A workflow that counts how often its run's service is built, before and after a pause."""
    built: list[str] = []

    def catalogue(ctx):
        kind = ctx.select("kind")
        built.append(kind)
        return {"of": kind, "size": len(built)}

    wf = Workflow("desk", services=[Service("catalogue", catalogue, scope="run", options=options)])

    @wf.on("asked")
    @wf.step
    async def before(catalogue: Annotated[dict, Use("catalogue")]):
        return {"first": catalogue["size"]}

    wf.wait("answer", on="answered", correlate={"id": StateRef("id")})

    @wf.step
    async def after(catalogue: Annotated[dict, Use("catalogue")]):
        return {"second": catalogue["size"], "of": catalogue["of"]}

    return wf, built


@pytest.mark.parametrize("window", [0.0, 60.0], ids=["from the row", "from memory"])
async def test_a_serialisable_service_outlives_the_pause(runtime, window):
    """What was exported with the pause is restored, and not built again, whether the state stayed in memory or not."""
    wf, built = gate(serializable=True)
    rt = await runtime(wf, pause_window=window)
    receipt = await rt.emit("asked", id=1, kind="books")
    await receipt.results()
    await rt.emit("answered", id=1)
    result = await rt.wait(receipt.run_ids[0])
    assert (built, result.state["second"], result.state["of"]) == (["books"], 1, "books")


async def test_an_exported_service_is_built_anew_when_the_state_it_was_built_from_changed(runtime):
    """Restoring looks at what the service selected: another kind needs another catalogue."""
    wf, built = gate(serializable=True)
    rt = await runtime(wf)
    receipt = await rt.emit("asked", id=1, kind="books")
    await receipt.results()
    await rt.emit("answered", id=1, kind="maps")
    result = await rt.wait(receipt.run_ids[0])
    assert (built, result.state["of"]) == (["books", "maps"], "maps")


async def test_without_opting_in_services_are_built_anew_after_a_pause(runtime):
    """A run's services are disposed when it parks."""
    wf, built = gate()
    rt = await runtime(wf)
    receipt = await rt.emit("asked", id=1, kind="books")
    await receipt.results()
    await rt.emit("answered", id=1)
    await rt.wait(receipt.run_ids[0])
    assert built == ["books", "books"]


@pytest.mark.parametrize("scope", ["workflow", "run", "transient"])
async def test_a_workflows_service_can_be_replaced_at_any_level(runtime, scope):
    """`override` puts a replacement in place for the block, and the original back after it."""
    wf = Workflow("desk", services=[Service("mail", lambda: "real", scope=scope)])

    @wf.step
    async def send(mail: Annotated[str, Use("mail")]):
        return {"by": mail}

    rt = await runtime(wf)
    with rt.override("mail", "fake", workflow="desk"):
        assert (await rt.run("desk")).state == {"by": "fake"}
    assert (await rt.run("desk")).state == {"by": "real"}
    with rt.override("mail", lambda: "made", workflow="desk"):
        assert (await rt.run("desk")).state == {"by": "made"}


async def test_a_global_service_can_be_replaced(runtime):
    """Without a workflow the replacement is seen by all of them."""
    wf = Workflow("desk")

    @wf.step(retry=Retry(1))
    async def send(mail: Annotated[str, Use("mail")]):
        return {"by": mail}

    rt = await runtime(wf, services=[Service("mail", lambda: "real")])
    with rt.override("mail", "fake"):
        assert (await rt.run("desk")).state == {"by": "fake"}
    assert (await rt.run("desk")).state == {"by": "real"}


async def test_what_is_not_there_cannot_be_replaced(runtime):
    """Unknown services and workflows are named, and nothing changes."""
    rt = await runtime(gate()[0])
    with pytest.raises(ArtifactNotFound), rt.override("catalog", "fake", workflow="desk"):
        pass
    with pytest.raises(NotRegistered), rt.override("catalogue", "fake", workflow="dask"):
        pass


async def test_a_runs_service_follows_the_state_it_selected(runtime):
    """When a boundary changes what a service of the run selected, the next step gets a new one; else the same."""
    built: list[str] = []

    def catalogue(ctx):
        built.append(ctx.select(lambda state: state["kind"]))
        return list(built)

    wf = Workflow("desk", services=[Service("catalogue", catalogue, scope="run")])
    seen: list[int] = []

    @wf.step
    async def first(catalogue: Annotated[list, Use("catalogue")]):
        seen.append(id(catalogue))
        return {"other": 1}

    @wf.step
    async def second(catalogue: Annotated[list, Use("catalogue")]):
        seen.append(id(catalogue))
        return {"kind": "maps"}

    @wf.step
    async def third(catalogue: Annotated[list, Use("catalogue")]):
        return {"of": catalogue}

    rt = await runtime(wf)
    result = await rt.run("desk", kind="books")
    assert (built, len(set(seen)), result.state["of"]) == (["books", "maps"], 1, ["books", "maps"])


async def test_a_workflows_own_service_cannot_select_from_a_run(runtime):
    """It outlives every run, so asking for a run's state is refused, and the sentence says what to do instead."""
    wf = Workflow("desk", services=[Service("catalogue", lambda ctx: ctx.select("kind"))])

    @wf.step
    async def first(catalogue: Annotated[str, Use("catalogue")]):
        return {"of": catalogue}

    rt = await runtime(wf)
    result = await rt.run("desk", kind="books")
    assert result.error is not None
    assert (result.status, result.error.code) == ("failed", "SCOPE_VIOLATION")
    assert "scope" in result.error.message


async def test_a_transient_service_selects_too(runtime):
    """A transient belongs to the run that asks for it, so it may read its state."""
    wf = Workflow("desk", services=[Service("label", lambda ctx: ctx.select("kind").upper(), scope="transient")])

    @wf.step
    async def first(label: Annotated[str, Use("label")]):
        return {"label": label}

    rt = await runtime(wf)
    assert (await rt.run("desk", kind="books")).state["label"] == "BOOKS"


async def test_an_override_that_misses_says_what_there_is(runtime):
    """A service of a workflow needs `workflow=`, and the error says so; a misspelt id is answered with near ones."""
    wf = Workflow("desk", services=[Service("bank", dict, scope="run"), Service("tx", dict, scope="stage")])

    @wf.step
    async def first():
        return {}

    rt = await runtime(wf, services=[Service("mail", dict)])
    with pytest.raises(ArtifactNotFound, match="workflow='desk'") as refused, rt.override("bank", {}):
        pass
    assert refused.value.fields["workflows"] == ["desk"]
    with pytest.raises(ArtifactNotFound, match="'bank'"), rt.override("bnk", {}, workflow="desk"):
        pass
    with (
        pytest.raises(ArtifactNotFound, match="there is no global service 'mial': did you mean 'mail'") as refused,
        rt.override("mial", {}),
    ):
        pass
    assert refused.value.fields["known"] == ["mail"]
    with rt.override("mail", {}), rt.override("tx", {}, workflow="desk"), rt.override("mail", {}, workflow="desk"):
        pass


@pytest.mark.parametrize("scope", ["run", "stage", "workflow"])
async def test_overrides_in_each_other(runtime, scope):
    """Each holds for its own block, also when others begin and end meanwhile; the last of two counts."""
    seen = []

    async def step(one: Annotated[str, Use("one")], two: Annotated[str, Use("two")]):
        seen.append(one + two)

    wf = Workflow("wf", services=[Service(name, lambda name=name: name[0], scope=scope) for name in ("one", "two")])
    wf.step(step)
    rt = await runtime(wf)
    with rt.override("one", "1", workflow="wf"):
        with rt.override("two", "2", workflow="wf"):
            await rt.run("wf")
            with rt.override("one", "!", workflow="wf"):
                await rt.run("wf")
            await rt.run("wf")
        await rt.run("wf")
    await rt.run("wf")
    assert seen == ["12", "!2", "12", "1t", "ot"]


@pytest.mark.parametrize("scope", ["run", "stage"])
async def test_overrides_that_overlap(runtime, scope):
    """The first of two for one service ends before the second: the second still counts, and then the original."""
    seen = []

    async def step(one: Annotated[str, Use("one")]):
        seen.append(one)

    wf = Workflow("wf", services=[Service("one", lambda: "o", scope=scope)])
    wf.step(step)
    rt = await runtime(wf)
    first, second = rt.override("one", "1", workflow="wf"), rt.override("one", "2", workflow="wf")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    await rt.run("wf")
    second.__exit__(None, None, None)
    await rt.run("wf")
    assert seen == ["2", "o"]
