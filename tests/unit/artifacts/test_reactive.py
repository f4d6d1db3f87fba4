"""Invalidation, selections of state, streams, observers and events."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import pytest

from poundlock.artifacts import ArtifactContainer, Use
from poundlock.errors import ArtifactFailed, ArtifactInvalid, ArtifactNotFound, ScopeViolation
from poundlock.state import DELETE, StateStore


class Built:
    """Registers artifacts that write down their builds and clean-ups, and rest on others by `ctx.require`."""

    def __init__(self, container, log):
        self.container = container
        self.log = log

    def add(self, key, *below, container=None):
        async def make(ctx):
            for name in below:
                await ctx.require(name)
            self.log.append(f"+{key}")
            yield [key]
            self.log.append(f"-{key}")

        (container or self.container).register(key, make)


@pytest.fixture
async def container():
    async with ArtifactContainer("app") as container:
        yield container


@pytest.fixture
def built(container, log):
    return Built(container, log)


# ------------------------------------------------------------------------------------------------ invalidation
async def test_invalidation_takes_dependents_along_each_once(container, built, log):
    """In a diamond each artifact is dropped once, dependents before what they rest on; others stay."""
    built.add("base")
    built.add("left", "base")
    built.add("right", "base")
    built.add("top", "left", "right")
    built.add("apart")
    for key in ("top", "apart"):
        await container.require(key)
    log.clear()
    await container.invalidate("base")
    assert log[0] == "-top"
    assert sorted(log[1:3]) == ["-left", "-right"]
    assert log[3:] == ["-base"]
    assert container.peek("apart")
    assert [container.peek(key) for key in ("base", "left", "right", "top")] == [None] * 4
    assert container.statistics().invalidations == 4
    await container.dispose()


async def test_rebuild_builds_again_what_was_dropped(container, built, log):
    """With `rebuild=True` everything that was dropped is built again at once, in dependency order."""
    built.add("base")
    built.add("top", "base")
    before = await container.require("top")
    log.clear()
    await container.invalidate("base", rebuild=True)
    assert log == ["-top", "-base", "+base", "+top"]
    assert container.peek("top") == before
    assert container.peek("top") is not before
    await container.dispose()


async def test_rebuild_builds_what_was_never_built(container, built, log):
    """Rebuilding something that was not built yet builds it."""
    built.add("base")
    await container.invalidate("base", rebuild=True)
    assert log == ["+base"]
    await container.dispose()


async def test_invalidation_reaches_below(container, built, log):
    """Artifacts of children that rest on a parent's artifact are dropped with it, whatever way they asked for it."""

    def by_annotation(base: Annotated[list, Use("base")]):
        yield ["child"]
        log.append("-by annotation")

    built.add("base")
    child, other = ArtifactContainer("child", parents=(container,)), ArtifactContainer("other", parents=(container,))
    child.register("by annotation", by_annotation)
    built.add("by context", "base", container=child)
    built.add("apart", container=other)
    for each, key in ((child, "by annotation"), (child, "by context"), (other, "apart")):
        await each.require(key)
    log.clear()
    await container.invalidate("base")
    assert sorted(log[:2]) == ["-by annotation", "-by context"]
    assert log[2:] == ["-base"]
    assert other.peek("apart")
    for each in (child, other, container):
        await each.dispose()


async def test_what_a_transient_rests_on_counts_for_its_asker(container, built, log):
    """A singleton that asks for a transient is dropped with what the transient rests on."""
    built.add("base")
    container.register("between", _list_of_base, scope="transient")
    container.register("top", lambda ctx: ["top", ctx.require_nowait("between")])
    await container.require("base")
    await container.require("top")
    await container.invalidate("base")
    assert container.peek("top") is None
    await container.dispose()


def _list_of_base(base: Annotated[list, Use("base")]):
    return [base]


async def test_an_invalidated_artifact_knows_what_it_replaces(container):
    """`ctx.previous` is the instance before, `on_cleanup` runs at each change, `on_dispose` once at the end."""
    seen, log = [], []

    def make(ctx):
        seen.append(ctx.previous)
        ctx.on_cleanup(lambda: log.append("clean-up"))
        ctx.on_dispose(finish)
        return f"version {len(seen)}"

    def finish():
        log.append("the end")

    container.register("x", make)
    await container.require("x")
    await container.invalidate("x", rebuild=True)
    assert seen == [None, "version 1"]
    assert log == ["clean-up"]
    await container.invalidate("x")
    await container.dispose()
    assert log == ["clean-up", "clean-up", "the end"]


async def test_failing_clean_ups_of_an_invalidation_are_grouped(container):
    """Invalidation drops everything and runs all clean-ups, then raises their errors together."""

    def bad(ctx):
        ctx.on_cleanup(lambda: 1 / 0)
        return "bad"

    container.register("bad", bad)
    container.register("worse", lambda ctx: ctx.on_cleanup(lambda: {}[0]) or [ctx.require_nowait("bad")])
    await container.require("worse")
    with pytest.raises(ExceptionGroup) as caught:
        await container.invalidate("bad")
    assert [type(error) for error in caught.value.exceptions] == [KeyError, ZeroDivisionError]
    assert container.peek("bad") is None
    assert await container.require("bad")
    with pytest.raises(ExceptionGroup):
        await container.dispose()


async def test_the_next_build_waits_for_the_clean_up_before(container, log, settle):
    """An artifact is not built again while its predecessor is still being cleaned up."""
    finish = asyncio.Event()

    async def port():
        log.append("open")
        yield object()
        await finish.wait()
        log.append("close")

    container.register("port", port)
    await container.require("port")
    invalidating = asyncio.create_task(container.invalidate("port"))
    asking = asyncio.create_task(container.require("port"))
    await settle()
    with pytest.raises(ArtifactInvalid, match="is being built"):
        container.require_nowait("port")
    finish.set()
    await asyncio.gather(invalidating, asking)
    assert log == ["open", "close", "open"]
    await container.dispose()


async def test_a_dependency_invalidated_during_a_build_makes_it_start_again(container, log, settle):
    """What is built from an instance that was dropped meanwhile is thrown away and built from the new one."""
    gate = asyncio.Event()
    numbers = iter("123")

    async def top(ctx):
        base = await ctx.require("base")
        ctx.on_cleanup(lambda: log.append(f"-{base}"))
        await gate.wait()
        return [base]

    container.register("base", lambda: next(numbers))
    container.register("top", top)
    asking = asyncio.create_task(container.require("top"))
    await settle()
    await container.invalidate("base")
    gate.set()
    assert await asking == ["2"]
    assert log == ["-1"]
    await container.dispose()


async def test_invalidating_what_nobody_has(container):
    """An unknown key is an error; a known one that is not built is not."""
    container.register("x", object)
    await container.invalidate("x")
    with pytest.raises(ArtifactNotFound):
        await container.invalidate("y")


# --------------------------------------------------------------------------------------------------- selections
@pytest.fixture
def store():
    return StateStore({"user": {"id": 1, "name": "Ada"}, "items": [1, 2]})


@pytest.fixture
async def run(store):
    async with ArtifactContainer("run", state=store) as run:
        yield run


SELECTORS = {
    "path": "user.id",
    "attributes": lambda s: s.user.id,
    "keys": lambda s: s["user"]["id"],
    "get": lambda s: s.user.get("id"),
}


@pytest.mark.parametrize("name", SELECTORS)
async def test_a_selection_invalidates_when_its_value_really_changes(run, store, name):
    """A commit to the path that was read drops the artifact if the value differs, and only then."""
    run.register("greeting", lambda ctx: ["user", ctx.select(SELECTORS[name])])
    before = await run.require("greeting")
    store.patch({"user": {"name": "Grace"}})
    store.patch({"items": []})
    store.patch({"user": {"id": 1}})
    assert run.peek("greeting") is before
    store.patch({"user": {"id": 2}})
    assert run.peek("greeting") is None
    assert await run.require("greeting") == ["user", 2]
    store.patch({"user": {"id": DELETE}})
    assert run.peek("greeting") is None
    await run.dispose()
    assert store.subscribers == 0


@pytest.mark.parametrize("patch", [{"user": {"name": "Grace"}}, {"user": DELETE}, {"user": "nobody"}], ids=str)
async def test_a_change_above_or_below_the_selected_path_counts(run, store, patch):
    """Paths touch if one is a prefix of the other."""
    run.register("user", lambda ctx: [ctx.select("user")])
    await run.require("user")
    store.patch(patch)
    assert run.peek("user") is None


async def test_a_selector_that_reads_elsewhere_later_is_followed(run, store):
    """Which paths count is decided anew whenever the selector runs again."""
    store.patch({"which": "a", "a": 1, "b": 1})
    run.register("x", lambda ctx: [ctx.select(lambda s: s[s.which])])
    await run.require("x")
    store.patch({"which": "b"})  # another path, the same value
    assert run.peek("x")
    store.patch({"b": 2})
    assert run.peek("x") is None


async def test_dependents_of_a_selecting_artifact_go_with_it(run, store, log):
    """A state change cascades: whoever rests on what has selected is dropped too, once."""

    def user(ctx):
        name = ctx.select("user.name")
        yield [name]
        log.append("-user")

    def page(ctx):
        yield [ctx.require_nowait("user"), ctx.select("user.name")]
        log.append("-page")

    run.register("user", user)
    run.register("page", page)
    run.require_nowait("page")
    store.patch({"user": {"name": "Grace"}})
    assert log == ["-page", "-user"]
    assert run.require_nowait("page") == [["Grace"], "Grace"]
    assert run.dispose_nowait()


async def test_use_tracks_what_it_touches(run, store):
    """`ctx.use(fn)` gives what `fn(deps)` gives, and tracks resolve, require and select; `use_nowait` does too."""

    async def make(ctx):
        number = await ctx.use(lambda deps: deps.require("number"))
        answer = await ctx.use(lambda deps: deps.resolve("nope"))
        return [number, answer.ok, await ctx.use(lambda deps: deps.select("user.id"))]

    run.register("number", lambda: 7)
    run.register("all", make)
    run.register("now", lambda ctx: [ctx.use_nowait(lambda deps: deps.require_nowait("number"))])
    assert await run.require("all") == [7, False, 1]
    assert run.require_nowait("now") == [7]
    await run.invalidate("number")
    assert run.peek("all") is run.peek("now") is None
    assert await run.use(lambda deps: deps.require("number")) == 7
    assert await run.use(lambda deps: deps.select("user.id")) == 1


async def test_use_nowait_refuses_awaitables(run):
    """A synchronous factory that uses something asynchronous is told so."""
    run.register("number", lambda: 7)
    run.register("x", lambda ctx: ctx.use_nowait(lambda deps: deps.require("number")))
    with pytest.raises(ArtifactInvalid, match="has to be awaited"):
        await run.require("x")


async def test_a_state_change_during_a_build_makes_the_result_stale(run, store, log, settle):
    """The newest state wins: one more build for any number of changes during the first, and one instance in the end."""
    gates = [asyncio.Event() for _ in range(3)]

    async def make(ctx):
        name = ctx.select("user.name")
        log.append(name)
        ctx.on_cleanup(lambda: log.append(f"-{name}"))
        await gates[log.count(name) and len([entry for entry in log if not entry.startswith("-")]) - 1].wait()
        return [name]

    run.register("page", make)
    asking = [asyncio.create_task(run.require("page")) for _ in range(2)]
    await settle()
    for name in ("B", "C", "D"):
        store.patch({"user": {"name": name}})
        await settle()
    assert log == ["Ada"]
    gates[0].set()
    await settle()
    assert log == ["Ada", "-Ada", "D"]
    gates[1].set()
    assert await asking[0] == await asking[1] == ["D"]
    assert run.statistics().builds == 1
    await run.dispose()


async def test_a_factory_that_changes_what_it_selects_ends_in_an_error(run, store):
    """An artifact that can never settle is not built for ever, asynchronously or not."""

    async def restless(ctx):
        store.patch({"n": (ctx.select("n") or 0) + 1})
        return "x"

    def restless_now(ctx):
        store.patch({"n": (ctx.select("n") or 0) + 1})
        return "x"

    run.register("restless", restless)
    run.register("restless now", restless_now)
    for key in ("restless", "restless now"):
        with pytest.raises(ArtifactInvalid, match="changed during each of 10 builds"):
            await run.require(key)
    assert store.subscribers == 0


async def test_where_state_cannot_be_selected_the_error_explains():
    """A container that outlives runs, and one without a state, raise ScopeViolation with the way out."""
    workflow = ArtifactContainer("workflow", state=StateStore({}), allow_select=False)
    workflow.register("x", lambda ctx: ctx.select("user.id"))
    run = ArtifactContainer("run", parents=(workflow,), state=StateStore({"user": {"id": 1}}))
    with pytest.raises(ScopeViolation, match="it outlives single runs"):
        await run.require("x")
    bare = ArtifactContainer("bare")
    bare.register("x", lambda ctx: ctx.state())
    with pytest.raises(ScopeViolation, match="there is no state store"):
        await bare.require("x")


async def test_a_parent_s_artifact_reads_the_parent_s_state():
    """Artifacts of a parent resolve against the parent's own state, never the child's."""
    parent = ArtifactContainer("parent", state=StateStore({"name": "parent"}))
    child = ArtifactContainer("child", parents=(parent,), state=StateStore({"name": "child"}))
    parent.register("x", lambda ctx: [ctx.select("name"), ctx.state()["name"]])
    assert await child.require("x") == ["parent", "parent"]


async def test_a_state_store_is_made_when_somebody_first_selects():
    """A maker given as `state` is called once, by the first who selects; scopes share what it made."""
    made = []

    def make():
        made.append(StateStore({"n": 1}))
        return made[-1]

    run = ArtifactContainer("run", state=make)
    run.register("plain", object)
    await run.require("plain")
    assert made == []
    run.register("x", lambda ctx: [ctx.select("n")])
    scope = run.scope("inner")
    scope.register("y", lambda ctx: [ctx.select("n")])
    assert await run.require("x") == await scope.require("y") == [1]
    assert len(made) == 1


async def test_a_store_that_cannot_trace_still_works():
    """Anything with get, select and subscribe is a state; functions are then asked again after every commit."""

    class Foreign:
        def __init__(self):
            self.data, self.fns = {"a": 1, "b": 1}, []

        def get(self):
            return self.data

        def select(self, selector):
            return self.data.get(selector) if isinstance(selector, str) else selector(self.data)

        def subscribe(self, paths, fn):
            self.fns.append(fn)
            return lambda: self.fns.remove(fn)

        def set(self, **values):
            self.data = self.data | values
            for fn in tuple(self.fns):
                fn(None)

    store = Foreign()
    run = ArtifactContainer(state=store)
    run.register("x", lambda ctx: [ctx.select(lambda s: s["a"])])
    await run.require("x")
    store.set(b=2)
    assert run.peek("x")
    store.set(a=2)
    assert run.peek("x") is None


async def test_clean_ups_caused_by_a_commit_are_awaited_at_disposal(run, store, log):
    """A commit may drop an artifact whose clean-up takes waiting; disposal waits for it."""

    async def make(ctx):
        ctx.select("user.id")
        yield ["x"]
        log.append("cleaned up")

    run.register("x", make)
    await run.require("x")
    store.patch({"user": {"id": 2}})
    await run.dispose()
    assert log == ["cleaned up"]


# ------------------------------------------------------------------------------------------------------ streams
async def test_a_stream_replaces_the_instance(container, log, settle):
    """Each value a producer emits is the new instance; watchers hear of it; what rests on the old one is dropped."""
    feed = asyncio.Queue()

    def price(ctx):
        async def producer():
            while True:
                yield await feed.get()

        ctx.stream(producer)
        return "first"

    container.register("price", price)
    container.register("page", lambda ctx: [ctx.require_nowait("price")])
    container.on("stream:emit", lambda event: log.append(event.key))
    assert await container.require("page") == ["first"]
    container.watch("price").subscribe(lambda change: log.append((change.kind, change.instance)))
    feed.put_nowait("second")
    await settle()
    assert container.peek("price") == "second"
    assert container.peek("page") is None
    assert await container.require("page") == ["second"]
    assert log == ["price", ("replaced", "second")]
    await container.dispose()
    assert container.statistics().disposed


async def test_a_stream_may_be_given_emit(container, settle):
    """A producer may be a coroutine function that is given `emit`."""

    async def price(ctx):
        async def producer(emit):
            emit("second")
            emit("third")

        ctx.stream(producer)
        return "first"

    container.register("price", price)
    await container.require("price")
    await settle()
    assert container.peek("price") == "third"
    await container.dispose()


async def test_a_stream_that_fails_invalidates_its_artifact(container, caplog, settle):
    """When a producer raises, watchers get the error and the next resolution starts a new one."""
    starts = []

    def price(ctx):
        async def producer(emit):
            raise ConnectionError("lost")

        starts.append(1)
        if len(starts) == 1:
            ctx.stream(producer)
        return "first"

    changes = []
    container.register("price", price)
    await container.require("price")
    container.watch("price").subscribe(changes.append)
    with caplog.at_level(logging.CRITICAL, "poundlock.artifacts"):
        await settle()
    assert [change.kind for change in changes] == ["error", "invalidated"]
    assert isinstance(changes[0].error, ConnectionError)
    assert await container.require("price") == "first"
    assert len(starts) == 2
    await container.dispose()


async def test_a_stream_ends_with_its_instance(container, settle):
    """Invalidation and disposal stop the producer; what it emits too late is ignored; transients have none."""
    stopped, late = [], []

    def price(ctx):
        async def producer(emit):
            late.append(emit)
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(1)

        ctx.stream(producer)
        return "first"

    container.register("price", price)
    await container.require("price")
    await settle()
    await container.invalidate("price")
    assert len(stopped) == 1
    late[0]("too late")
    assert container.peek("price") is None
    await container.require("price")
    late[0]("too late")
    assert container.peek("price") == "first"
    await settle()
    await container.dispose()
    assert len(stopped) == 2
    other = ArtifactContainer()
    other.register("price", price, scope="transient")
    with pytest.raises(ArtifactInvalid, match="is a transient"):
        await other.require("price")


# ---------------------------------------------------------------------------------------------------- observers
async def test_an_observer_sees_build_error_replacement_and_invalidation(container):
    """Subscribers hear of everything that happens to their artifact, in order, until they end it."""
    outcomes = iter(["ok", OSError(), "again"])

    def make():
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    container.register("x", make)
    observer = container.watch("x")
    changes = []
    end = observer.subscribe(changes.append)
    assert (observer.get(), observer.count) == (None, 1)
    await container.require("x")
    await container.invalidate("x")
    await container.resolve("x")
    await container.require("x")
    assert [(change.kind, change.instance) for change in changes] == [
        ("built", "ok"),
        ("invalidated", None),
        ("error", None),
        ("replaced", "again"),
    ]
    assert isinstance(changes[2].error, ArtifactFailed)
    assert observer.get() == "again"
    end()
    end()
    assert observer.count == 0
    assert container.watch("x") is observer


async def test_iterating_an_observer_skips_to_the_newest(container, settle):
    """`async for` gives each new instance, the newest only if the reader is slow, and ends with the container."""
    numbers = iter(range(10))
    container.register("x", lambda: ["x", next(numbers)])
    observer = container.watch("x")
    seen = []

    async def read():
        async for value in observer:
            seen.append(value)  # noqa: PERF401 - a comprehension would hide what is seen until the end

    reading = asyncio.create_task(read())
    await settle()
    assert observer.count == 1
    for _ in range(3):
        await container.invalidate("x", rebuild=True)
    await settle()
    assert seen == [["x", 2]]
    await container.invalidate("x", rebuild=True)
    await settle()
    assert seen[-1] == ["x", 3]
    await container.dispose()
    await reading
    assert [value async for value in observer] == []


async def test_leaving_the_loop_ends_the_listening(container):
    """An `async for` that is left with `break` no longer counts as a listener."""
    container.register("x", lambda: ["x"])
    observer = container.watch("x")

    async def first():
        async for value in observer:
            return value
        return None

    reading = asyncio.create_task(first())
    await asyncio.sleep(0)  # noqa: TID251 - lets the reader begin
    await container.require("x")
    assert await reading == ["x"]
    assert observer.count == 0


async def test_watching_a_parent_s_artifact(container):
    """The observer belongs to the container that has the artifact; an unknown key is an error."""
    container.register("x", lambda: ["x"])
    child = ArtifactContainer(parents=(container,))
    assert child.watch("x") is container.watch("x")
    with pytest.raises(ArtifactNotFound):
        child.watch("y")


# ------------------------------------------------------------------------------------------------------- events
async def test_every_event_is_told(clock):
    """Listeners get each event of their container with key, scope, duration and error, sync and async builds alike."""
    container = ArtifactContainer("app", clock=clock)
    told = []
    names = ("registered", "invalidated", "disposed")
    for event in [f"artifact:{name}" for name in names] + ["build:start", "build:complete", "build:error"]:
        container.on(event, lambda event: told.append((event.event, event.key)))
    container.on("container:dispose")(lambda event: told.append((event.event, event.scope)))

    async def later():
        yield "later"

    def fails():
        raise OSError

    durations = []
    container.on("build:complete", lambda event: durations.append(event.duration))
    container.register("now", lambda: "now")
    container.register("later", later)
    container.register("fails", fails)
    for key in ("now", "later", "fails"):
        await container.resolve(key)
    await container.invalidate("now")
    await container.dispose()
    assert told == [
        *[("artifact:registered", key) for key in ("now", "later", "fails")],
        ("build:start", "now"),
        ("build:complete", "now"),
        ("build:start", "later"),
        ("build:complete", "later"),
        ("build:start", "fails"),
        ("build:error", "fails"),
        ("artifact:invalidated", "now"),
        ("artifact:disposed", "later"),
        ("container:dispose", "app"),
    ]
    assert durations == [0.0, 0.0]


async def test_a_listener_that_raises_harms_nobody(container, caplog):
    """A failing listener or subscriber is logged; the build succeeds and the others are told."""
    told = []
    container.register("x", lambda: "x")
    container.on("build:complete", lambda event: 1 / 0)
    end = container.on("build:complete", told.append)
    container.watch("x").subscribe(lambda change: 1 / 0)
    with caplog.at_level(logging.CRITICAL, "poundlock.artifacts"):
        assert await container.require("x") == "x"
    assert len(told) == 1
    end()
    end()
    await container.invalidate("x", rebuild=True)
    assert len(told) == 1


def test_an_unknown_event_is_refused(container):
    """A misspelt event name is an error that names near matches."""
    with pytest.raises(ArtifactInvalid, match="did you mean 'build:start'"):
        container.on("build:strat", print)


# --------------------------------------------------------------------------------------------------- the context
async def test_the_context_says_where_and_for_what(run):
    """`ctx.key` and `ctx.scope` name the artifact and its container."""
    run.register("x", lambda ctx: [ctx.key, ctx.scope])
    assert await run.require("x") == ["x", "run"]


async def test_a_context_kept_for_later_still_tracks_and_cleans_up(container, log):
    """An instance may ask its context later: its reads are tracked and its clean-ups run; not after it was dropped."""
    contexts = []
    container.register("base", lambda: ["base"])
    container.register("x", lambda ctx: contexts.append(ctx) or ["x"])
    await container.require("x")
    contexts[0].on_cleanup(lambda: log.append("late"))
    await contexts[0].require("base")
    await container.invalidate("base")
    assert container.peek("x") is None
    assert log == ["late"]
    with pytest.raises(ArtifactInvalid, match="no longer exists"):
        contexts[0].on_cleanup(print)
