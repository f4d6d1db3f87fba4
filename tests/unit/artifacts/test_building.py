"""Templates, factories of every kind, resolution and its errors."""

from __future__ import annotations

import asyncio
import functools
import itertools
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Protocol, runtime_checkable

import pytest

from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, FactoryContext, Retry, TemplateSet, Use, injections
from poundlock.errors import (
    ArtifactCycle,
    ArtifactFailed,
    ArtifactInvalid,
    ArtifactNotFound,
    ArtifactTimeout,
    ContainerDisposed,
    DuplicateKey,
    InvalidDefinition,
    ScopeViolation,
)


class Database:
    pass


class Repository:
    def __init__(self, database: Database):
        self.database = database


# ---------------------------------------------------------------------------------------------- registering
async def test_a_registered_artifact_is_built_once_and_shared():
    """A singleton is built on first use and is the same object from then on, asked for in any way."""
    container = ArtifactContainer()
    container.register("db", Database)
    first = await container.require("db")
    assert isinstance(first, Database)
    assert await container.require("db") is container.require_nowait("db") is container.peek("db") is first
    resolved = await container.resolve("db")
    assert (resolved.ok, resolved.instance, resolved.error, resolved.key, resolved.scope) == (
        True,
        first,
        None,
        "db",
        "",
    )


async def test_nothing_is_built_before_it_is_asked_for(log):
    """Registering and peeking build nothing; peek gives None."""
    container = ArtifactContainer()
    container.register("db", lambda: log.append("built") or Database())
    assert container.peek("db") is None
    assert container.idle
    assert log == []


def test_a_key_registered_twice_is_refused():
    """The second registration of a key raises DuplicateKey with its stable code; the first one stays."""
    container = ArtifactContainer()
    container.register("db", lambda: "first")
    with pytest.raises(DuplicateKey, match="'db' is registered already") as caught:
        container.register(ArtifactTemplate("db", lambda: "second"))
    assert caught.value.code == "DUPLICATE_KEY"
    assert container.require_nowait("db") == "first"


def test_a_key_may_hide_one_of_a_parent():
    """Keys are unique in one container; a child may have its own artifact under a parent's key."""
    parent = ArtifactContainer()
    parent.register("db", lambda: "parent's")
    child = ArtifactContainer(parents=(parent,))
    child.register("db", lambda: "child's")
    assert child.require_nowait("db") == "child's"
    assert parent.require_nowait("db") == "parent's"


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"scope": "session"}, "x.scope"),
        ({"scope": "transient", "lazy": False}, "x.lazy"),
        ({"scope": "transient", "serializable": True}, "x.serializable"),
        ({"scope": "transient", "param_key": str}, "x.param_key"),
        ({"lazy": False, "param_key": str}, "x.lazy"),
        ({"timeout": "soon"}, "x.timeout"),
    ],
)
def test_a_template_that_makes_no_sense_is_refused(options, path):
    """Options that contradict each other are found when the template is made, with their paths."""
    with pytest.raises(InvalidDefinition) as caught:
        ArtifactTemplate("x", Database, **options)
    assert [fault[0] for fault in caught.value.faults] == [path]


def test_all_faults_of_a_template_are_named_at_once():
    """A template with several faults names all of them."""
    with pytest.raises(InvalidDefinition) as caught:
        ArtifactTemplate("x", None, scope="session", timeout=-1)
    assert [fault[0] for fault in caught.value.faults] == ["x.factory", "x.scope", "x.timeout"]


@pytest.mark.parametrize("key", ["", None, 7])
def test_what_cannot_be_a_key_is_refused(key):
    """Keys are strings with something in them, or classes."""
    with pytest.raises(ArtifactInvalid, match="cannot name an artifact"):
        ArtifactContainer().register(key, Database)


def test_a_parameter_that_nothing_can_fill_is_refused_at_once():
    """A factory whose parameter says nothing about what it wants is refused when it is registered."""
    with pytest.raises(InvalidDefinition, match="parameter 'whatever' that cannot be injected") as caught:
        ArtifactContainer().register("db", lambda whatever: whatever)
    assert caught.value.path == "db.whatever"


def test_registering_in_one_container_leaves_a_shared_set_untouched():
    """Containers may share a set of templates; adding to one of them is seen by that one only."""
    shared = TemplateSet([ArtifactTemplate("db", Database)])
    one, two = ArtifactContainer(templates=shared), ArtifactContainer(templates=shared)
    one.register("more", Database)
    assert one.key_of("more") == "more"
    assert two.key_of("more") is None
    assert shared.names() == ["db"]


# --------------------------------------------------------------------------------------------- kinds of factory
def plain():
    return Database()


async def coroutine():
    return Database()


def generator():
    yield Database()


async def async_generator():
    yield Database()


@contextmanager
def manager():
    yield Database()


@asynccontextmanager
async def async_manager():
    yield Database()


class Callable:
    async def __call__(self):
        return Database()


FACTORIES = {
    "function": plain,
    "coroutine function": coroutine,
    "generator": generator,
    "async generator": async_generator,
    "context manager": manager,
    "async context manager": async_manager,
    "class": Database,
    "function that gives a coroutine": lambda *, make=coroutine: make(),
    "partial of a coroutine function": functools.partial(coroutine),
    "callable object": Callable(),
    "bound method": Callable().__call__,
}


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("scope", ["singleton", "transient"])
async def test_every_kind_of_factory_builds(name, scope):
    """Whatever kind a factory is, awaiting it gives the instance, as one or as many as its scope says."""
    async with ArtifactContainer() as container:
        container.register(ArtifactTemplate("db", FACTORIES[name], scope=scope))
        first, second = await container.require("db"), await container.require("db")
        assert isinstance(first, Database)
        assert (first is second) is (scope == "singleton")


SYNCHRONOUS = ("function", "generator", "context manager", "class")


@pytest.mark.parametrize("name", FACTORIES)
def test_without_waiting_there_are_only_synchronous_artifacts(name):
    """`require_nowait` builds what is synchronous; anything else is a typed error that names it."""
    container = ArtifactContainer()
    container.register("db", FACTORIES[name])
    if name in SYNCHRONOUS:
        assert isinstance(container.require_nowait("db"), Database)
    else:
        with pytest.raises(ArtifactInvalid, match="cannot be built without waiting, because 'db'"):
            container.require_nowait("db")
        assert isinstance(asyncio.run(_required(container, "db")), Database)
    assert container.dispose_nowait() or name in {"async context manager", "async generator"}


async def _required(container, key):
    async with container:
        return await container.require(key)


def test_without_waiting_the_artifact_in_the_way_is_named():
    """If something further down has to be awaited, `require_nowait` says what, before it has called any factory."""
    called = []
    container = ArtifactContainer()
    container.register(Database, coroutine)
    container.register("cache", lambda: called.append("cache") or "cache")
    container.register(ArtifactTemplate("repo", _repo_with_cache))
    with pytest.raises(ArtifactInvalid, match=r"'repo' cannot be built .* it needs '.*Database', which is built by"):
        container.require_nowait("repo")
    assert called == []


def _repo_with_cache(cache: Annotated[str, Use("cache")], database: Database):
    return cache, database


async def test_a_function_that_gives_a_coroutine_is_called_once(log):
    """A plain function that turns out to be asynchronous is not called a second time to find that out."""

    def connect():
        log.append("called")
        return coroutine()

    container = ArtifactContainer()
    container.register("db", connect)
    container.register("repo", _db_by_key)
    await container.require("repo")
    assert log == ["called"]


def _db_by_key(db: Annotated[Database, Use("db")]):
    return Repository(db)


# -------------------------------------------------------------------------------------------------- injection
async def test_parameters_are_filled_by_annotation():
    """A class registered as a key, `Use(key)`, an optional class, and the context are all filled in."""

    def make(
        database: Database,
        repo: Annotated[Repository, Use("repo")],
        ctx: FactoryContext,
        *,
        other: Callable | None = None,
    ):
        return database, repo, ctx.key, other

    container = ArtifactContainer()
    container.register(Database, Database)
    container.register("repo", Repository)
    container.register("all", make)
    database, repo, key, other = await container.require("all")
    assert repo.database is database is container.peek(Database)
    assert key == "all"
    assert other is None


async def test_a_parameter_finds_the_one_artifact_that_provides_its_class():
    """A class that is not a key itself stands for the only artifact that provides it; two are ambiguous."""
    container = ArtifactContainer()
    container.register("database", plain, type=Database)
    container.register("repo", Repository)
    assert (await container.require("repo")).database is container.peek("database")
    container.register("second", Database)
    with pytest.raises(InvalidDefinition, match="'database' and 'second' both provide Database"):
        await container.require(Database)


async def test_string_annotations_of_local_classes_still_say_which_key():
    """`Annotated[Local, Use("db")]` works under postponed annotations even where `Local` cannot be resolved."""

    class Local:
        pass

    def make(local: Annotated[Local, Use("local")]):
        return (local,)

    container = ArtifactContainer()
    container.register("local", Local)
    container.register("pair", make)
    (found,) = await container.require("pair")
    assert isinstance(found, Local)


def test_injections_tells_what_a_function_asks_for():
    """`injections` maps parameter names to keys and classes, leaves out the rest, and calls nothing."""

    def step(state, db: Annotated[Database, Use("db")], repo: Repository, count: "Nowhere" = 1): ...  # noqa: F821, UP037 - cannot be resolved

    assert dict(injections(step)) == {"db": "db", "repo": Repository}
    assert injections(step) is injections(step)


async def test_params_reach_the_factory():
    """What is passed to `require(key, params)` arrives as `params` and as `ctx.params`; a transient takes any."""
    container = ArtifactContainer()
    container.register("echo", lambda params: ("echo", params), scope="transient")
    container.register("via context", lambda ctx: ("ctx", ctx.params), scope="transient")
    assert await container.require("echo", {"a": 1}) == ("echo", {"a": 1})
    assert await container.require("via context", 5) == ("ctx", 5)


async def test_param_key_makes_one_singleton_per_key(log):
    """With a `param_key` there is one instance per key, also under concurrent first use, and peek sees none of them."""

    async def connect(params):
        log.append(params["host"])
        return object()

    container = ArtifactContainer()
    container.register("conn", connect, param_key=lambda params: params["host"])
    a, b, c = await asyncio.gather(*(container.require("conn", {"host": host}) for host in ("x", "y", "x")))
    assert a is c is not b
    assert sorted(log) == ["x", "y"]


async def test_a_singleton_without_param_key_takes_no_params():
    """Params for an artifact of which there is only one are refused, not ignored."""
    container = ArtifactContainer()
    container.register("db", Database)
    with pytest.raises(ArtifactInvalid, match="takes no params"):
        await container.require("db", {"a": 1})


def test_use_of_something_undefined_is_refused():
    """A `Use` whose key cannot be resolved is an error and not a key of that name."""
    key = "db"

    def make(db: Annotated[object, Use(key)]):
        return db

    with pytest.raises(InvalidDefinition, match=r"Use.key. names something that is not defined"):
        ArtifactContainer().register("x", make)


# ----------------------------------------------------------------------------------------------------- errors
async def test_an_unknown_key_names_the_chain_and_near_matches():
    """ArtifactNotFound names the key, who asked for whom, and what it might have meant."""
    container = ArtifactContainer("app")
    container.register("database", Database)
    container.register("repo", lambda ctx: ctx.require_nowait("databse"))
    container.register("service", _repo_by_key)
    with pytest.raises(ArtifactNotFound) as caught:
        await container.require("service")
    assert caught.value.fields["chain"] == ["service", "repo", "databse"]
    assert "did you mean 'database'?" in str(caught.value)
    assert "container 'app'" in str(caught.value)


def _repo_by_key(repo: Annotated[Repository, Use("repo")]):
    return repo


async def test_an_unknown_key_names_containers_that_have_it():
    """A key that exists only where it cannot be reached from is reported together with that place."""
    root = ArtifactContainer("root")
    root.scope("left").register("db", Database)
    with pytest.raises(ArtifactNotFound, match=r"it exists in container 'root.left'"):
        await root.scope("right").require("db")


async def test_what_lives_longer_cannot_ask_for_what_lives_shorter():
    """A parent's artifact that asks for something only the child has is told so, with the way out."""
    workflow = ArtifactContainer("workflow")
    workflow.register("repo", lambda ctx: ctx.require_nowait("user"))
    run = ArtifactContainer("run", parents=(workflow,))
    run.register("user", lambda: "Ada")
    with pytest.raises(ScopeViolation, match="exists only in the shorter-lived container 'run'") as caught:
        await run.require("repo")
    assert caught.value.fields["chain"] == ["repo", "user"]


@pytest.mark.parametrize("kind", ["sync", "async", "in passing"])
async def test_a_factory_that_raises_gives_a_typed_error_and_is_tried_again(kind):
    """The factory's exception is the cause of an ArtifactFailed that names key and chain; it is never cached."""
    attempts = []

    def fails():
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError("refused")
        return Database()

    async def fails_later():
        return fails()

    container = ArtifactContainer("app")
    container.register("db", {"async": fails_later}.get(kind, fails))
    container.register("repo", _db_by_key)
    if kind == "sync":
        container.on("build:start", lambda event: None)
    with pytest.raises(ArtifactFailed, match="ConnectionError: refused") as caught:
        await container.require("repo")
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert caught.value.fields["chain"] == ["repo", "db"]
    assert container.peek("db") is None
    assert isinstance((await container.require("repo")).database, Database)
    assert container.statistics().failures >= 1


@pytest.mark.parametrize("value", [None, "a string"])
@pytest.mark.parametrize("later", [False, True])
async def test_none_and_the_wrong_type_are_refused(value, later):
    """A factory that gives None, or not what its key promises, is a typed error; the container stays usable."""

    async def make_later():
        return value

    container = ArtifactContainer()
    container.register(Database, make_later if later else lambda: value)
    container.register("other", Database)
    with pytest.raises(ArtifactInvalid, match=r"returned None|where Database is expected"):
        await container.require(Database)
    assert await container.require("other")


async def test_resolve_gives_the_error_as_a_value():
    """`resolve` answers with the error instead of raising it."""
    answer = await ArtifactContainer("app").resolve("nope")
    assert (answer.ok, answer.instance, answer.key, answer.scope) == (False, None, "nope", "app")
    assert isinstance(answer.error, ArtifactNotFound)


async def test_after_disposal_everything_raises():
    """Every use of a disposed container raises ContainerDisposed, `resolve` included."""
    container = ArtifactContainer("app")
    container.register("db", Database)
    await container.require("db")
    await container.dispose()
    for use in (container.require, container.resolve, container.invalidate):
        with pytest.raises(ContainerDisposed):
            await use("db")
    for use in (container.require_nowait, container.peek, container.watch, container.scope):
        with pytest.raises(ContainerDisposed):
            use("db")
    with pytest.raises(ContainerDisposed):
        container.register("more", Database)
    with pytest.raises(ContainerDisposed):
        container.put("more", 1)
    with pytest.raises(ContainerDisposed):
        await ArtifactContainer(parents=(container,)).require("db")


# ---------------------------------------------------------------------------------------------------- circles
async def test_a_circle_by_annotation_is_drawn():
    """Artifacts that need each other by annotation raise at once, with the path drawn, on every way of asking."""

    def make_a(b: Annotated[object, Use("b")]):
        return b

    def make_b(c: Annotated[object, Use("c")]):
        return c

    async def make_c(a: Annotated[object, Use("a")]):
        return a

    container = ArtifactContainer()
    for key, factory in {"a": make_a, "b": make_b, "c": make_c}.items():
        container.register(key, factory)
    with pytest.raises(ArtifactCycle, match="'a' -> 'b' -> 'c' -> 'a'") as caught:
        await container.require("a")
    assert caught.value.fields["cycle"] == ["a", "b", "c", "a"]


@pytest.mark.parametrize("scope", ["singleton", "transient"])
def test_a_circle_without_waiting_is_drawn(scope):
    """The same holds for synchronous artifacts, singletons and transients."""

    def make_a(b: Annotated[object, Use("b")]):
        return b

    def make_b(a: Annotated[object, Use("a")]):
        return a

    container = ArtifactContainer()
    container.register("a", make_a, scope=scope)
    container.register("b", make_b, scope=scope)
    with pytest.raises(ArtifactCycle, match="'a' -> 'b' -> 'a'"):
        container.require_nowait("a")


async def test_transients_that_need_each_other_are_found():
    """Transients have no slot to meet in, and still a circle of them ends in an error and not in recursion."""

    async def make_a(ctx):
        return await ctx.require("b")

    async def make_b(a: Annotated[object, Use("a")]):
        return a

    container = ArtifactContainer()
    container.register("a", make_a, scope="transient")
    container.register("b", make_b, scope="transient")
    with pytest.raises(ArtifactCycle, match="'a' -> 'b' -> 'a'"):
        await container.require("a")


def test_a_factory_that_asks_the_container_for_itself_is_found():
    """A circle through the container itself, past the context, is found too."""
    container = ArtifactContainer()
    container.register("a", lambda: container.require_nowait("b"))
    container.register("b", lambda: container.require_nowait("a"))
    with pytest.raises(ArtifactCycle, match="'a'"):
        container.require_nowait("a")


async def test_a_circle_across_parents_and_tasks_does_not_deadlock():
    """Two tasks that each hold what the other wants, one in a parent, get the error instead of waiting."""
    root, leaf = ArtifactContainer("root"), ArtifactContainer("leaf")
    started = asyncio.Barrier(2)

    async def make_a(ctx):
        await started.wait()
        return await ctx.require("b")

    async def make_b():
        await started.wait()
        return await leaf.require("a")  # past its context, and out of its scope

    root.register("b", make_b)
    leaf.extend(root)
    leaf.register("a", make_a)
    answers = await asyncio.gather(leaf.resolve("a"), root.resolve("b"))
    assert [type(answer.error) for answer in answers] == [ArtifactCycle, ArtifactCycle]
    assert "'a' -> 'b' -> 'a'" in str(answers[0].error) or "'b' -> 'a' -> 'b'" in str(answers[0].error)


@pytest.mark.parametrize("asked", ["a", "atuc", "cuta", "sus"])
@pytest.mark.parametrize("later", ["", "acs", "tu", "atucs"])
async def test_a_circle_is_drawn_with_the_transients_in_it(asked, later):
    """Each step of the path is one that an artifact asks for, transients included, wherever the circle is entered."""
    needs = {"a": "t", "t": "u", "u": "c", "c": "a", "s": "t"}

    def asking(need):
        def make(part):
            return part

        make.__annotations__ = {"part": Annotated[object, Use(need)]}
        return make

    def asking_later(need):
        async def make(ctx):
            return await ctx.require(need)

        return make

    container = ArtifactContainer()
    for key, need in needs.items():
        factory = asking_later(need) if key in later else asking(need)
        container.register(key, factory, scope="transient" if key in "tu" else "singleton")
    for answer in await asyncio.gather(*(container.resolve(key) for key in asked)):
        assert isinstance(answer.error, ArtifactCycle)
        path = answer.error.fields["cycle"]
        assert path[0] == path[-1]
        assert sorted(path[1:]) == ["a", "c", "t", "u"]
        assert all(needs[above] == below for above, below in itertools.pairwise(path))


async def test_a_circle_is_drawn_by_a_way_on_which_a_build_still_waits(settle):
    """Of two transients through which one build waits for another, the one that has given up is not in the path."""
    container, patience, gate = ArtifactContainer(), asyncio.Event(), asyncio.Event()

    async def make_a(ctx):
        given_up, other = (asyncio.ensure_future(ctx.require(key)) for key in ("impatient", "patient"))
        await patience.wait()
        given_up.cancel()
        return await other

    async def ask_c(ctx):
        return await ctx.require("c")

    async def make_c(ctx):
        await gate.wait()
        return await ctx.require("a")

    container.register("a", make_a)
    container.register("impatient", ask_c, scope="transient")
    container.register("patient", ask_c, scope="transient")
    container.register("c", make_c)
    asking = asyncio.ensure_future(container.resolve("a"))
    for event in (patience, gate):
        await settle()
        event.set()
    assert (await asking).error.fields["cycle"] == ["a", "patient", "c", "a"]


@pytest.mark.parametrize("middle", ["singleton", "transient"])
async def test_a_circle_met_without_waiting_is_drawn_with_what_was_asked_for(middle):
    """A factory that asks `require_nowait` for what needs it in turn gets the whole path, not only its own key."""

    async def make_a(ctx):
        return ctx.require_nowait("b")

    def make_b(c: Annotated[object, Use("c")]):
        return c

    def make_c(a: Annotated[object, Use("a")]):
        return a

    container = ArtifactContainer()
    container.register("a", make_a)
    container.register("b", make_b, scope=middle)
    container.register("c", make_c)
    with pytest.raises(ArtifactCycle) as caught:
        await container.require("a")
    assert caught.value.fields["cycle"] == ["a", "b", "c", "a"]


async def test_a_build_may_outlive_who_asked_first_and_then_ask_for_it(settle):
    """What a failed build had asked for, and others wait for still, can ask for that artifact: no circle, no hang."""
    container, a_fails, b_goes_on, attempts = ArtifactContainer(), asyncio.Event(), asyncio.Event(), []

    async def make_a(ctx):
        attempts.append("a")
        if len(attempts) == 1:
            needed = asyncio.ensure_future(ctx.require("b"))
            await a_fails.wait()
            needed.cancel()
            raise OSError("gives up on b")
        return await ctx.require("leaf")

    async def make_b(ctx):
        await b_goes_on.wait()
        return await ctx.require("a")

    async def make_leaf(ctx):
        return await ctx.require("missing")

    container.register("a", make_a)
    container.register("b", make_b)
    container.register("leaf", make_leaf, scope="transient")
    first = asyncio.ensure_future(container.resolve("a"))
    await settle()
    second = asyncio.ensure_future(container.resolve("b"))
    await settle()
    a_fails.set()
    assert isinstance((await first).error, ArtifactFailed)
    b_goes_on.set()
    error = (await second).error
    assert isinstance(error, ArtifactNotFound)
    assert error.fields["chain"] == ["b", "a", "leaf", "missing"]


def test_a_circle_of_containers_is_refused():
    """`extend` refuses a parent that falls back to this container already, itself included."""
    a, b, c = ArtifactContainer("a"), ArtifactContainer("b"), ArtifactContainer("c")
    b.extend(a)
    c.extend(b)
    for child, parent in ((a, c), (a, a)):
        with pytest.raises(ArtifactCycle):
            child.extend(parent)


# --------------------------------------------------------------------------------------------- timeout and retry
async def test_a_hanging_factory_is_cancelled_after_its_timeout(clock, log):
    """A build attempt that takes longer than its timeout is cancelled, cleaned up, and raises ArtifactTimeout."""

    async def hang(ctx):
        ctx.on_cleanup(lambda: log.append("cleaned up"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    container = ArtifactContainer("app", clock=clock)
    container.register("db", hang, timeout="500ms")
    waiting = asyncio.create_task(container.resolve("db"))
    await clock.run_for(0.4)
    assert not waiting.done()
    await clock.run_for(0.1)
    answer = await waiting
    assert isinstance(answer.error, ArtifactTimeout)
    assert answer.error.fields["timeout"] == 0.5
    assert log == ["cancelled", "cleaned up"]
    assert container.statistics().building == 0


async def test_builds_are_timed_by_stretches_of_time(clock):
    """A wall clock that is set back does not stretch the timeout or the back-off of a build, nor what is measured."""
    attempts = []

    async def hang():
        clock.set(clock.now() - 86_400)
        attempts.append(clock.monotonic())
        await asyncio.Event().wait()

    container = ArtifactContainer("app", clock=clock)
    container.register("db", hang, timeout=1, retry=Retry(attempts=2, backoff=3, jitter=0, on=ArtifactTimeout))
    began = clock.monotonic()
    building = asyncio.create_task(container.resolve("db"))
    await clock.run_for(5)
    assert building.done()
    assert (await building).error.code == "ARTIFACT_TIMEOUT"
    assert [when - began for when in attempts] == [0, 4]


async def test_a_factory_s_own_timeout_error_is_its_failure(clock):
    """A TimeoutError that the factory itself raises is no timeout of the build."""

    async def fail():
        raise TimeoutError("the server's")

    container = ArtifactContainer(clock=clock)
    container.register("db", fail, timeout=5)
    with pytest.raises(ArtifactFailed, match="the server's"):
        await container.require("db")


async def test_a_failing_factory_is_retried_with_growing_delays(clock, log):
    """Attempts are repeated after backoff, backoff * factor, ...; each failed one is cleaned up before the next."""

    async def flaky(ctx):
        log.append(clock.now() - 1_000)
        ctx.on_cleanup(lambda: log.append("cleaned up"))
        if len([entry for entry in log if entry != "cleaned up"]) < 4:
            raise ConnectionError
        return "connected"

    container = ArtifactContainer(clock=clock)
    container.register("db", flaky, retry=Retry(attempts=5, backoff=1.0, factor=3.0, max=5.0))
    waiting = asyncio.create_task(container.require("db"))
    await clock.run_for(60)
    assert await waiting == "connected"
    assert log == [0, "cleaned up", 1, "cleaned up", 4, "cleaned up", 9]
    await container.dispose()


async def test_retries_end_and_spare_what_they_are_told_to(clock):
    """After the last attempt the error is raised; errors outside `on` or inside `not_on` are raised at once."""
    attempts = []

    async def fail():
        attempts.append(1)
        raise KeyError("x")

    container = ArtifactContainer(clock=clock)
    container.register("tries", fail, retry=Retry(attempts=3, backoff=0.0))
    container.register("other", fail, retry=Retry(attempts=3, on=(OSError,)))
    container.register("never", fail, retry=Retry(attempts=3, not_on=(KeyError,)))
    for key, expected in (("tries", 3), ("other", 1), ("never", 1)):
        attempts.clear()
        waiting = asyncio.create_task(container.resolve(key))
        await clock.run_for(10)
        assert isinstance((await waiting).error, ArtifactFailed)
        assert len(attempts) == expected, key


async def test_jitter_spreads_the_delay():
    """Jitter changes a delay by at most its fraction, in either direction."""
    from poundlock.artifacts.retry import delay_before

    delays = [delay_before(Retry(backoff=10.0, jitter=0.1), 1) for _ in range(200)]
    assert 9.0 <= min(delays) < 9.9
    assert 10.1 < max(delays) <= 11.0


# -------------------------------------------------------------------------------------------------- hierarchy
async def test_parents_are_asked_in_the_order_they_were_added():
    """Unknown keys fall back to parents in order, depth first; late registrations in a parent are seen."""
    first, second = ArtifactContainer("first"), ArtifactContainer("second")
    child = ArtifactContainer("child", parents=(first,))
    child.extend(second)
    second.register("x", lambda: "second's")
    assert await child.require("x") == "second's"
    first.register("x", lambda: "first's")
    assert await child.require("x") == "first's"
    assert child.peek("x") == "first's"


async def test_a_parent_s_artifact_is_the_parent_s():
    """What a parent has is built in the parent, once for all its children, and resolves against the parent."""
    parent = ArtifactContainer("parent")
    parent.register("name", lambda: "parent's")
    parent.register("greeting", _greeting)
    children = [ArtifactContainer(f"child {number}", parents=(parent,)) for number in range(2)]
    for child in children:
        child.register("name", lambda: "child's")
    one, two = [await child.require("greeting") for child in children]
    assert one is two
    assert one == ["hello", "parent's"]


def _greeting(name: Annotated[str, Use("name")]):
    return ["hello", name]


async def test_a_scope_is_a_namespace_that_falls_back():
    """Keys of a scope do not collide with its creator's; unknown ones fall back; it is one per name."""
    container = ArtifactContainer("app")
    container.register("db", lambda: "app's")
    container.register("shared", lambda: "shared")
    scope = container.scope("left")
    scope.register("db", lambda: "left's")
    assert container.scope("left") is scope
    assert [await scope.require("db"), await scope.require("shared")] == ["left's", "shared"]
    assert await container.require("db") == "app's"
    await container.dispose()
    with pytest.raises(ContainerDisposed):
        await scope.require("db")


async def test_a_value_can_be_put_in():
    """`put` makes a ready value an artifact like any other; None and taken keys are refused."""
    container = ArtifactContainer()
    container.put(Database, database := Database())
    container.register("repo", Repository)
    assert (await container.require("repo")).database is container.require_nowait(Database) is database
    assert container.key_of(Database)
    with pytest.raises(DuplicateKey):
        container.put(Database, Database())
    with pytest.raises(ArtifactInvalid):
        container.put("none", None)
    child = ArtifactContainer(parents=(container,))
    assert child.peek(Database) is database


# -------------------------------------------------------------------------------------------------- event loops
def test_another_event_loop_is_refused_explicitly():
    """What was built on one loop is not handed out on another, awaited or not; the error says what to do."""
    container = ArtifactContainer("app")
    container.register("db", coroutine)
    container.register("cache", Database)

    async def build():
        await container.require("db")
        await container.require("cache")

    async def ask(use, key):
        answer = use(key)
        return await answer if asyncio.iscoroutine(answer) else answer

    asyncio.run(build())
    for use in (container.require, container.require_nowait):
        for key in ("db", "cache"):
            with pytest.raises(ArtifactInvalid, match="belongs to another event loop"):
                asyncio.run(ask(use, key))
    assert container.require_nowait("cache") is container.peek("cache")  # reading what is built needs no loop


# -------------------------------------------------------------------------------------------------- the start
async def test_eager_artifacts_are_built_at_the_start(log):
    """`lazy=False` builds at the start, in the order of registration, and nothing else does."""
    container = ArtifactContainer()
    container.register("b", lambda: log.append("b") or "b", lazy=False)
    container.register("a", lambda: log.append("a") or "a", lazy=False)
    container.register("c", lambda: log.append("c") or "c")
    async with container:
        assert log == ["b", "a"]


async def test_an_eager_artifact_that_fails_stops_the_start(log):
    """The start raises the first failure, names the key, and `async with` cleans up what was built before."""

    def first():
        yield "first"
        log.append("first cleaned up")

    def fails():
        raise OSError("no disk")

    container = ArtifactContainer("app")
    container.register("first", first, lazy=False)
    container.register("second", fails, lazy=False)
    with pytest.raises(ArtifactFailed, match="'second'") as caught:
        async with container:
            log.append("entered")
    assert "eager" in caught.value.__notes__[0]
    assert log == ["first cleaned up"]


# --------------------------------------------------------------------------------------------- odd ways to write it
async def test_positional_only_parameters_are_filled():
    """A factory may forbid passing its parameters by name."""

    def make(database: Database, ctx, /, repo: Annotated[Repository, Use("repo")]):
        return database, ctx.key, repo

    container = ArtifactContainer()
    container.register(Database, Database)
    container.register("repo", Repository)
    container.register("x", make)
    database, key, repo = await container.require("x")
    assert (database, key, repo.database) == (container.peek(Database), "x", database)


def test_compiled_callables_are_called_with_nothing():
    """A builtin that does not tell its parameters is a factory without any."""
    container = ArtifactContainer()
    container.register("dict", dict)
    assert container.require_nowait("dict") == {}


@runtime_checkable
class Opens(Protocol):
    def open(self): ...


class Closes(Protocol):
    def close(self): ...


def test_protocols_may_be_keys():
    """A runtime-checkable protocol is checked, any other is only a name."""

    class Door:
        def open(self): ...

    container = ArtifactContainer()
    container.register(Opens, Door)
    container.register(Closes, Door)
    assert container.require_nowait(Opens)
    assert container.require_nowait(Closes)
    container = ArtifactContainer()
    container.register(Opens, object)
    with pytest.raises(ArtifactInvalid, match="where Opens is expected"):
        container.require_nowait(Opens)


def test_register_without_a_factory_is_refused():
    """A key alone says nothing."""
    with pytest.raises(ArtifactInvalid, match="lacks a factory"):
        ArtifactContainer().register("x")


async def test_needs_above_are_used_in_passing_and_otherwise():
    """A plain artifact takes what its parents have built, have not built yet, or do not have and it can do without."""

    def page(repo: Repository, other: Callable | None = None):
        return ["page", repo, other]

    parent = ArtifactContainer("parent")
    parent.register(Database, Database)
    parent.register(Repository, Repository)
    templates = TemplateSet([ArtifactTemplate("page", page), ArtifactTemplate("each", page, scope="transient")])
    for _ in range(2):  # the second time the parent has built it
        child = ArtifactContainer("child", parents=(parent,), templates=templates)
        first, second = child.require_nowait("each"), child.require_nowait("each")
        assert first is not second
        assert child.require_nowait("page")[1] is first[1] is parent.peek(Repository)
        assert child.debug_info().artifacts[0].dependencies == (f"parent/{Repository.__module__}.Repository",)
        await parent.invalidate(Database)
        assert child.peek("page") is None
        await parent.require(Repository)
        await child.dispose()
