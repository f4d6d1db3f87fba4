"""Validation, bundles, health, statistics and debug output."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated

import pytest

from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, Bundle, TemplateSet, Use
from poundlock.errors import BundleDamaged, ContainerDisposed, InvalidDefinition, NotStorable
from poundlock.state import StateStore


class Database:
    pass


def needs(key):
    """Return a factory with a parameter that asks for a key."""

    def make(x):
        return [x]

    make.__annotations__ = {"x": Annotated[object, Use(key)]}
    return make


# --------------------------------------------------------------------------------------------------- validation
def test_a_sound_graph_has_no_faults():
    """Needs that are met here or above, optional ones and declared ones included, are no faults; nothing is built."""
    parent = ArtifactContainer("workflow")
    parent.register("db", lambda: 1 / 0)
    child = ArtifactContainer("run", parents=(parent,))
    child.register("repo", needs("db"))
    child.register("page", lambda ctx: ..., needs=("repo", "db"))

    def optional(x: Annotated[object, Use("nowhere")] = None):
        return x

    child.register("optional", optional)
    child.validate()
    assert child.faults() == ()
    assert child.idle


def test_all_faults_are_found_at_once():
    """Missing keys, circles, and what lives longer than what it needs, are reported together, each with its key."""
    workflow = ArtifactContainer("workflow")
    workflow.register("captive", needs("user"))
    workflow.register("declared", lambda ctx: ..., needs=("user",))
    run = ArtifactContainer("run", parents=(workflow,))
    run.register("user", lambda: "Ada")
    run.register("missing", needs("usr"))
    run.register("a", needs("b"))
    run.register("b", needs("c"))
    run.register("c", needs("a"))
    run.register("self", needs("self"))
    with pytest.raises(InvalidDefinition) as caught:
        run.validate()
    found = dict(caught.value.faults)
    assert set(found) == {"captive", "declared", "missing", "a", "self"}
    assert "lives in 'workflow' and needs 'user', which lives only in the shorter-lived 'run'" in found["captive"]
    assert "did you mean 'user'?" in found["missing"]
    assert found["a"] == "needs itself: 'a' -> 'b' -> 'c' -> 'a'"
    assert found["self"] == "needs itself: 'self' -> 'self'"
    assert run.faults() == caught.value.faults


def test_an_ambiguous_class_is_a_fault():
    """A parameter whose class two artifacts provide is reported, and the rest is still checked."""

    def page(database: Database):
        return database

    container = ArtifactContainer()
    container.register("one", Database)
    container.register("two", Database)
    container.register("page", page)
    container.register("missing", needs("nowhere"))
    assert [path for path, _ in container.faults()] == ["page", "missing"]


def test_a_wide_graph_is_checked_in_reasonable_time():
    """Many layers of artifacts that all need each other's layer below are walked once, not once per path."""
    container = ArtifactContainer()
    for layer in range(40):
        below = [f"{layer - 1}.{number}" for number in range(3)] if layer else []
        for number in range(3):
            container.register(f"{layer}.{number}", lambda: ..., needs=tuple(below))
    assert container.faults() == ()


# ------------------------------------------------------------------------------------------------------ bundles
class Codec:
    def encode(self, instance):
        return {"id": instance[1]}

    def decode(self, data):
        return ("user", data["id"])


def user_templates(log):
    def user(ctx):
        log.append("user")
        return ("user", ctx.select(lambda s: s.user.id))

    def page(ctx):
        log.append("page")
        return ["page", ctx.require_nowait("user")[1]]

    async def secret():
        return "secret"

    def whole(ctx):
        return dict(ctx.state())

    return TemplateSet(
        [
            ArtifactTemplate("user", user, serializable=True, codec=Codec()),
            ArtifactTemplate("page", page, serializable=True),
            ArtifactTemplate("secret", secret),
            ArtifactTemplate("whole", whole, serializable=True),
        ]
    )


async def exported(log):
    run = ArtifactContainer("run", state=StateStore({"user": {"id": 1}, "other": 1}), templates=user_templates(log))
    for key in ("page", "secret", "whole"):
        await run.require(key)
    return run.export().to_json()


async def test_a_bundle_brings_artifacts_back(log):
    """Serialisable singletons built from a state that is still the same come back without being built."""
    text = await exported(log)
    log.clear()
    run = ArtifactContainer.from_bundle(
        StateStore({"user": {"id": 1}, "other": 2}), text, user_templates(log), name="restored"
    )
    assert run.peek("user") == ("user", 1)
    assert run.peek("page") == ["page", 1]
    assert run.peek("secret") is None
    assert run.peek("whole") is None  # it was built from all of the state, which has changed
    assert await run.require("secret") == "secret"
    assert log == []
    assert "secret" not in text


async def test_an_artifact_whose_state_differs_is_rebuilt(log):
    """What was built from another value, directly or through what it rests on, is left out and built anew."""
    text = await exported(log)
    log.clear()
    run = ArtifactContainer.from_bundle(StateStore({"user": {"id": 2}, "other": 1}), text, user_templates(log))
    assert run.peek("user") is run.peek("page") is None
    assert await run.require("page") == ["page", 2]
    assert log == ["page", "user"]


async def test_a_restored_artifact_stays_reactive(log):
    """Restored artifacts are invalidated by state and by their dependencies as if they had been built here."""
    text = await exported(log)
    store = StateStore({"user": {"id": 1}, "other": 1})
    run = ArtifactContainer.from_bundle(store, text, user_templates(log))
    store.patch({"user": {"id": 3}})
    assert run.peek("user") is run.peek("page") is None
    again = ArtifactContainer.from_bundle(StateStore({"user": {"id": 1}}), text, user_templates(log))
    await again.invalidate("user")
    assert again.peek("page") is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("page", "pagE", 1),
        lambda text: text.replace('"version": 1', '"version": 99'),
        lambda text: "[]",
        lambda text: "null",
        lambda text: b"\xff\xfe",
        lambda text: json.dumps(json.loads(text) | {"items": [["x"]]}),
    ],
    ids=["cut off", "altered", "newer", "list", "null", "no text", "items"],
)
async def test_a_damaged_bundle_is_refused(log, damage):
    """Whatever is wrong with a bundle, it is refused with a typed error, and the container stays as it was."""
    text = damage(await exported(log))
    run = ArtifactContainer("run", state=StateStore({"user": {"id": 1}}), templates=user_templates(log))
    with pytest.raises(BundleDamaged, match="nothing was restored"):
        run.restore(text)
    assert run.idle
    assert await run.require("user") == ("user", 1)


async def test_every_altered_byte_is_noticed(log):
    """Flipping any single byte of a bundle never restores something else."""
    text = await exported(log)
    for position in range(len(text)):
        altered = text[:position] + chr(ord(text[position]) ^ 1) + text[position + 1 :]
        run = ArtifactContainer(state=StateStore({"user": {"id": 1}, "other": 1}), templates=user_templates(log))
        try:
            run.restore(altered)
        except BundleDamaged:
            assert run.idle
        else:
            assert run.peek("user") in {None, ("user", 1)}


async def test_an_artifact_that_cannot_be_decoded_restores_nothing(log):
    """If one artifact's codec fails, none is restored, so that there is no half."""

    class Broken(Codec):
        def decode(self, data):
            raise KeyError("id")

    text = await exported(log)
    templates = [
        ArtifactTemplate("page", lambda: ["page"], serializable=True),
        ArtifactTemplate("user", lambda: "user", serializable=True, codec=Broken()),
    ]
    run = ArtifactContainer("run", state=StateStore({"user": {"id": 1}}), templates=TemplateSet(templates))
    with pytest.raises(BundleDamaged, match="'user' cannot be decoded"):
        run.restore(text)
    assert run.peek("page") is None


async def test_a_bundle_of_older_code_is_read_as_far_as_it_fits(log):
    """Artifacts that no longer exist, or are no longer serialisable, are left out."""
    text = await exported(log)
    run = ArtifactContainer("run", state=StateStore({"user": {"id": 1}}))
    run.register("user", lambda: "user")
    assert run.restore(Bundle.from_json(text)) == []
    assert run.require_nowait("user") == "user"


async def test_what_is_built_already_is_not_replaced_by_a_bundle(log):
    """Restoring leaves built artifacts alone."""
    text = await exported(log)
    run = ArtifactContainer(state=StateStore({"user": {"id": 1}, "other": 1}), templates=user_templates(log))
    before = await run.require("user")
    assert run.restore(text) == ["page", "whole"]
    assert run.peek("user") is before


def test_what_is_no_data_cannot_be_exported():
    """A codec that gives no data is told so, with the key in the path."""
    container = ArtifactContainer()
    container.register("db", Database, serializable=True)
    container.require_nowait("db")
    container.put("value", 1)
    with pytest.raises(NotStorable) as caught:
        container.export()
    assert caught.value.path == "db"


# ------------------------------------------------------------------------------------------------------- health
async def test_health_pings_what_is_built_all_at_once(clock, settle):
    """Every ping of a built artifact is asked concurrently: well, unwell, raising, hanging, sync or async."""

    async def fine(instance):
        assert instance == "fine"

    async def hangs(instance):
        await asyncio.Event().wait()

    def raises(instance):
        raise OSError("gone")

    container = ArtifactContainer("app", clock=clock)
    container.register("fine", lambda: "fine", health=fine)
    container.register("says no", lambda: "x", health=lambda instance: False)
    container.register("raises", lambda: "x", health=raises)
    container.register("hangs", lambda: "x", health=hangs)
    container.register("no ping", lambda: "x")
    container.register("not built", lambda: "x", health=fine)
    for key in ("fine", "says no", "raises", "hangs", "no ping"):
        container.require_nowait(key)
    asking = asyncio.create_task(container.health(timeout=2.0))
    await settle()
    await clock.run_for(2)
    answers = await asking
    assert {key: answer.ok for key, answer in answers.items()} == {
        "fine": True,
        "says no": False,
        "raises": False,
        "hangs": False,
    }
    assert isinstance(answers["raises"].error, OSError)
    assert isinstance(answers["hangs"].error, TimeoutError)
    assert "the ping of 'hangs' did not answer within" in str(answers["hangs"].error)
    assert answers["hangs"].seconds == 2.0
    assert container.peek("not built") is None
    await container.dispose()
    with pytest.raises(ContainerDisposed):
        await container.health()


# ------------------------------------------------------------------------------------------ statistics and drawing
async def test_statistics_are_a_snapshot():
    """Counters tell what has happened, and do not change afterwards."""
    container = ArtifactContainer("app")
    container.register("a", lambda: "a")
    container.register("b", needs("a"))
    container.put("value", 1)
    before = container.statistics()
    await container.require("b")
    container.on("build:start", print)
    container.watch("a").subscribe(print)
    container.scope("inner")
    await container.invalidate("b")
    after = container.statistics()
    assert (before.templates, before.live, before.builds) == (3, 1, 1)
    assert (after.live, after.builds, after.invalidations, after.listeners, after.scopes) == (2, 3, 1, 2, 1)
    assert before.live == 1
    with pytest.raises(AttributeError):
        after.live = 7
    await container.dispose()
    assert container.statistics().disposed


async def test_debug_info_tells_what_is_and_shows_no_values(clock):
    """Each artifact's status, dependencies, dependents, builds and listeners are told; instances never are."""
    workflow = ArtifactContainer("workflow", clock=clock)
    workflow.register("db", lambda: "SECRET")
    run = ArtifactContainer("run", parents=(workflow,), clock=clock)
    run.register("repo", needs("db"))
    run.register("page", lambda ctx: ["SECRET", ctx.require_nowait("repo")])
    run.register("each", object, scope="transient")
    run.register("by host", lambda params: ["SECRET"], param_key=lambda params: params)
    run.register("fails", lambda: 1 / 0)
    await run.require("page")
    await run.require("by host", "x")
    await run.resolve("fails")
    run.watch("repo").subscribe(print)
    info = run.debug_info()
    artifacts = {artifact.key: artifact for artifact in info.artifacts}
    assert set(artifacts) == {"repo", "page", "each", "by host['x']", "fails"}
    assert artifacts["repo"].dependencies == ("workflow/db",)
    assert artifacts["repo"].dependents == ("page",)
    assert (artifacts["repo"].status, artifacts["repo"].builds, artifacts["repo"].listeners) == ("ready", 1, 1)
    assert (artifacts["each"].scope, artifacts["each"].status) == ("transient", "empty")
    assert "ZeroDivisionError" in artifacts["fails"].error
    (above,) = info.parents
    assert above.artifacts[0].dependents == ("run/repo",)
    for drawing in (info.render(), info.render("mermaid")):
        assert "SECRET" not in drawing
        assert "page" in drawing


async def test_the_drawings_can_be_read():
    """The tree and the Mermaid source are these."""
    workflow = ArtifactContainer("workflow")
    workflow.register("db", lambda: "db")
    run = ArtifactContainer("run", parents=(workflow,))
    run.register("repo", needs("db"))
    assert run.debug_info().render().splitlines() == [
        "run",
        "├─ repo  (singleton, empty)  needs workflow/db",
        "└─ falls back to",
        "   workflow",
        "   └─ db  (singleton, empty)",
    ]
    assert run.debug_info().render("mermaid").splitlines() == [
        "graph TD",
        '  subgraph c0["run"]',
        '    a0["repo<br/>empty"]',
        "  end",
        '  subgraph c1["workflow"]',
        '    a1["db<br/>empty"]',
        "  end",
        "  a0 --> a1",
    ]
