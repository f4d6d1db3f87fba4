"""dependency-injector, both ways, and overriding."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Annotated
from unittest.mock import Mock

import pytest
from dependency_injector import containers, providers
from dependency_injector.wiring import Provide, inject

from poundlock.artifacts import ArtifactContainer, Use
from poundlock.errors import ArtifactCycle, ArtifactInvalid, ArtifactNotFound, InvalidDefinition


class Database:
    pass


class Service:
    def __init__(self, database):
        self.database = database


async def connect():
    return Database()


@pytest.fixture
async def container():
    container = ArtifactContainer("app")
    container.register("database", connect)
    container.register("config", lambda: {"debug": False})
    container.register("repo", _repo)
    yield container
    await container.dispose()


async def _repo(ctx):
    return ["repo", await ctx.require("database")]


# --------------------------------------------------------------------------------------------------- overriding
async def test_an_override_is_seen_and_taken_back(container):
    """Inside `with override`, the replacement is what everybody gets; afterwards the original instance is back."""
    original, repo = await container.require("database"), await container.require("repo")
    with container.override("database", "fake"):
        assert await container.require("database") == container.peek("database") == "fake"
        assert await container.require("repo") == ["repo", "fake"]
    assert await container.require("database") is original
    assert await container.require("repo") == repo
    assert await container.require("repo") is not repo


async def test_an_override_drops_dependents_on_entry_and_on_exit(container, log):
    """What rests on the artifact is cleaned up on the way in and on the way out; the original is not."""

    def original():
        yield "original"
        log.append("-original")

    def page(ctx):
        yield [ctx.require_nowait("source")]
        log.append("-page")

    def fake():
        yield "fake"
        log.append("-fake")

    container.register("source", original)
    container.register("page", page)
    await container.require("page")
    with container.override("source", fake):
        assert log == ["-page"]
        assert await container.require("page") == ["fake"]
    assert log == ["-page", "-page", "-fake"]
    assert await container.require("page") == ["original"]


async def test_overrides_nest(container):
    """Overrides form a stack: the last one wins, and each exit brings back the one before."""
    with container.override("config", "one"):
        with container.override("config", lambda: "two"):
            assert await container.require("config") == "two"
        assert await container.require("config") == "one"
    assert await container.require("config") == {"debug": False}


async def test_children_see_an_override_and_parents_do_not(container):
    """An override holds for its container and those below; what lives above keeps the original."""
    child = ArtifactContainer("child", parents=(container,))
    child.register("page", lambda ctx: [ctx.require_nowait("config")])
    above = await container.require("config")
    assert child.require_nowait("page") == [above]
    with container.override("config", "fake"):
        assert child.require_nowait("page") == ["fake"]
    with child.override("config", "child's"):
        assert child.require_nowait("page") == ["child's"]
        assert container.require_nowait("config") is above
    assert child.require_nowait("page") == [above]
    await child.dispose()


async def test_a_replacement_may_be_any_object(container):
    """A mock is an instance although it can be called; functions, classes and providers are factories."""
    mock = Mock()
    with container.override("config", mock):
        assert await container.require("config") is mock
    with container.override("database", Database):
        assert isinstance(container.require_nowait("database"), Database)
    with container.override("config", providers.Factory(dict, a=1)):
        assert await container.require("config") == {"a": 1}
    with pytest.raises(ArtifactInvalid):
        container.override("config", None)
    with pytest.raises(ArtifactNotFound, match="did you mean 'config'"):
        container.override("confg", mock)


async def test_an_override_of_a_class_need_not_be_of_that_class(container):
    """A replacement may quack: it is found by the class it replaces, by annotation too."""

    def page(database: Database):
        return ["page", database]

    container.register(Database, Database)
    container.register("page", page)
    with container.override(Database, "fake"):
        assert await container.require(Database) == "fake"
        assert await container.require("page") == ["page", "fake"]
    assert isinstance((await container.require("page"))[1], Database)


async def test_async_with_waits_for_the_clean_ups_it_causes(container, log):
    """`async with override` returns from entry and exit when the clean-ups of what it dropped are done."""

    async def page(ctx):
        yield [await ctx.require("config")]
        await asyncio.sleep(0)  # noqa: TID251 - a clean-up that takes a moment
        log.append("-page")

    container.register("page", page)
    await container.require("page")
    async with container.override("config", "fake"):
        assert log == ["-page"]
        await container.require("page")
    assert log == ["-page", "-page"]


async def test_an_override_during_a_build_is_not_mixed_up(container, settle):
    """A build of the original that is under way ends in the original's place, not in the replacement's."""
    gate = asyncio.Event()

    async def slow():
        await gate.wait()
        return "original"

    container.register("slow", slow)
    asking = asyncio.create_task(container.require("slow"))
    await settle()
    with container.override("slow", "fake"):
        assert await container.require("slow") == "fake"
        gate.set()
        await settle()
        assert container.peek("slow") == "fake"
    assert await asking == "original"
    assert container.peek("slow") == "original"


# ------------------------------------------------------------------------------------ our artifacts as providers
async def test_an_artifact_is_a_provider(container):
    """Artifacts can be injected into providers of a declarative container; asynchronous ones are awaited there."""

    class App(containers.DeclarativeContainer):
        database = container.provider("database")
        config = container.provider("config")
        service = providers.Factory(Service, database=database)

    app = App()
    service = await app.service()
    assert service.database is container.peek("database")
    assert app.config() == {"debug": False}
    assert container.provider("database") in list(app.service.traverse())
    assert container.provider("database") is container.provider("database") is App.database


async def test_a_cancelled_user_of_a_provider_harms_nobody(settle):
    """Several waiters of one asynchronous artifact's provider are independent of each other."""
    gate = asyncio.Event()

    async def slow():
        await gate.wait()
        return Database()

    async with ArtifactContainer() as container:
        container.register("database", slow)
        provider = container.provider("database")
        waiting = [asyncio.ensure_future(provider()) for _ in range(3)]
        await settle()
        waiting[0].cancel()
        await settle()
        gate.set()
        first, second, third = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert second is third is await provider()


async def test_overriding_the_provider_overrides_the_artifact(container):
    """The provider's stack of overrides and the container's are one and the same."""
    provider = container.provider("config")
    with provider.override(providers.Object("via provider")):
        assert await container.require("config") == "via provider"
        with container.override("config", "via container"):
            assert provider() == "via container"
        assert provider() == "via provider"
    assert provider() == {"debug": False}
    provider.override("left over")
    provider.reset_override()
    assert container.require_nowait("config") == {"debug": False}


async def test_wiring_a_module(container):
    """`@inject` functions get artifacts through the container's dependency-injector face; odd keys are left out."""
    container.register("not an identifier", object)
    container.register("wire", object)
    face = container.as_dependency_injector()
    assert set(face.providers) == {"database", "config", "repo"}
    here = sys.modules[__name__]
    here.injected = inject(_async_handler)
    face.wire(modules=[here])
    try:
        assert await here.injected() == ({"debug": False}, container.peek("database"))
    finally:
        face.unwire()
        del here.injected


async def _async_handler(config=Provide["config"], database=Provide["database"]):
    return config, database


async def test_a_provider_takes_no_arguments(container):
    """An artifact is one thing; arguments would be ignored, so they are refused."""
    with pytest.raises(ArtifactInvalid, match="takes no arguments"):
        container.provider("config")(1)


async def test_a_provider_tells_what_it_rests_on(container):
    """dependency-injector's own graph walk sees dependencies by annotation."""

    def page(config: Annotated[dict, Use("config")]):
        return config

    container.register("page", page)
    assert list(container.provider("page").related) == [container.provider("config")]


# -------------------------------------------------------------------------------------- their providers as artifacts
class Gateways(containers.DeclarativeContainer):
    mail = providers.Singleton(list)


class Users(containers.DeclarativeContainer):
    database = providers.Singleton(Database)
    fresh = providers.Factory(Database)
    service = providers.Factory(Service, database=database)
    gateways = providers.Container(Gateways)


@pytest.mark.parametrize(
    "make", [lambda: Users, Users, containers.DynamicContainer], ids=["class", "object", "dynamic"]
)
async def test_a_dependency_injector_container_may_be_a_parent(make):
    """Its providers are artifacts with the lifetimes they have there, also ones that are added later."""
    theirs = make()
    if isinstance(theirs, containers.DynamicContainer) and not theirs.providers:
        theirs.database, theirs.fresh = providers.Singleton(Database), providers.Factory(Database)
    child = ArtifactContainer("child", parents=(theirs,))
    assert await child.require("database") is child.require_nowait("database") is theirs.database()
    assert child.require_nowait("fresh") is not child.require_nowait("fresh")
    child.register("repo", lambda ctx: ["repo", ctx.require_nowait("database")])
    assert child.require_nowait("repo")[1] is theirs.database()
    assert (await child.resolve("nope")).error.fields["found_in"] == []


async def test_their_nested_containers_and_overrides_are_seen():
    """A dotted key leads into nested containers; an override over there is seen here at once; classes are found."""
    theirs = Users()
    child = ArtifactContainer("child")
    child.extend(theirs)
    assert child.require_nowait("gateways.mail") == []
    with theirs.database.override(providers.Object("fake")):
        assert child.require_nowait("database") == "fake"
    with pytest.raises(InvalidDefinition, match="'database' and 'fresh' both provide Database"):
        child.require_nowait(Database)
    assert isinstance(child.require_nowait(Service).database, Database)
    child.validate()


async def test_a_waiter_of_their_shared_future_harms_nobody(settle):
    """Their asynchronous Singleton shares one future; cancelling who waits here leaves it alone."""
    gate = asyncio.Event()

    async def slow():
        await gate.wait()
        return Database()

    theirs = containers.DynamicContainer()
    theirs.database = providers.Singleton(slow)
    child = ArtifactContainer(parents=(theirs,))
    waiting = [asyncio.create_task(child.require("database")) for _ in range(2)]
    await settle()
    waiting[0].cancel()
    await settle()
    gate.set()
    assert isinstance(await waiting[1], Database)
    assert await child.require("database") is await waiting[1]


async def test_what_is_no_container_cannot_be_a_parent():
    """Anything else as a parent is a typed error."""
    with pytest.raises(ArtifactInvalid, match="cannot be a parent"):
        ArtifactContainer(parents=(object(),))
    with pytest.raises(ArtifactInvalid, match="cannot be a parent"):
        ArtifactContainer().extend({})


async def test_a_provider_may_be_a_factory():
    """A template's factory may be a provider of dependency-injector."""
    container = ArtifactContainer()
    container.register("numbers", providers.Factory(list, [1, 2]))
    assert await container.require("numbers") == [1, 2]


async def test_a_circle_through_a_provider_is_found(container):
    """An artifact that asks for itself through its own provider gets the error, not a hang."""
    container.register("loop", lambda *, me="loop": container.provider(me)())
    with pytest.raises(ArtifactCycle):
        container.require_nowait("loop")


def test_dependency_injector_is_loaded_only_where_it_is_used():
    """Importing and using the container does not import dependency-injector, tenacity or pydantic models for it."""
    program = (
        "import sys; from poundlock.artifacts import ArtifactContainer;"
        "c = ArtifactContainer(); c.register('x', object); c.require_nowait('x'); c.dispose_nowait();"
        "heavy = ('dependency_injector', 'tenacity', 'pydantic', 'blinker');"
        "sys.exit(', '.join(name for name in heavy if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
