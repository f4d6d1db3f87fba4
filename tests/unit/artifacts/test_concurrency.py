"""Single flight, cancellation, clean-up, disposal: the rules that only show when things happen at once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import weakref
from typing import Annotated

import pytest

from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, TemplateSet, Use
from poundlock.errors import ArtifactFailed, ArtifactInvalid, ArtifactTimeout, ContainerDisposed
from poundlock.state import StateStore


class Gate:
    """A factory that waits until it is let through, and writes down what happens to it."""

    def __init__(self, log):
        self.log = log
        self.open = asyncio.Event()
        self.error = None

    async def __call__(self, ctx):
        self.log.append("started")
        ctx.on_cleanup(lambda: self.log.append("cleaned up"))
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.log.append("cancelled")
            raise
        if self.error is not None:
            raise self.error
        return object()


@pytest.fixture
def gate(log):
    return Gate(log)


@pytest.fixture
async def container(gate):
    container = ArtifactContainer("app")
    container.register("db", gate)
    yield container
    await container.dispose()


# ---------------------------------------------------------------------------------------------- single flight
async def test_a_hundred_first_users_share_one_build(container, gate, log, settle):
    """Concurrent first resolutions run the factory once and all get its instance."""
    waiting = [asyncio.create_task(container.require("db")) for _ in range(100)]
    await settle()
    assert container.statistics().waiters == 100
    gate.open.set()
    instances = await asyncio.gather(*waiting)
    assert len({id(instance) for instance in instances}) == 1
    assert log == ["started"]


async def test_a_failure_reaches_all_waiters_and_is_not_cached(container, gate, log, settle):
    """If the shared build fails, every waiter gets that error, and the next resolution builds again."""
    gate.error = OSError("no")
    waiting = [asyncio.create_task(container.resolve("db")) for _ in range(3)]
    await settle()
    gate.open.set()
    answers = await asyncio.gather(*waiting)
    assert [type(answer.error) for answer in answers] == [ArtifactFailed] * 3
    gate.error = None
    assert await container.require("db")
    assert log == ["started", "cleaned up", "started"]


@pytest.mark.parametrize("leaving", [0, 1, 2])
async def test_one_waiter_s_cancellation_does_not_disturb_the_others(container, gate, log, settle, leaving):
    """Whichever waiter is cancelled, the first one included, the others get the instance of the same build."""
    waiting = [asyncio.create_task(container.require("db")) for _ in range(3)]
    await settle()
    waiting[leaving].cancel()
    await settle()
    gate.open.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(results.pop(leaving), asyncio.CancelledError)
    assert results[0] is results[1] is container.peek("db")
    assert log == ["started"]


async def test_when_the_last_waiter_goes_the_build_is_cancelled(container, gate, log, settle):
    """A build nobody waits for any more is cancelled and cleaned up; nothing of it stays."""
    waiting = [asyncio.create_task(container.require("db")) for _ in range(2)]
    await settle()
    for task in waiting:
        task.cancel()
    await settle()
    assert log == ["started", "cancelled", "cleaned up"]
    assert container.peek("db") is None
    assert container.statistics().building == 0
    gate.open.set()
    assert await container.require("db")


async def test_who_asks_while_a_build_is_being_cancelled_gets_a_new_one(container, gate, log, settle):
    """Asking again before the cancelled build has ended neither fails nor hangs: it is built anew."""
    first = asyncio.create_task(container.require("db"))
    await settle()
    first.cancel()
    second = asyncio.create_task(container.require("db"))
    await settle()
    gate.open.set()
    assert await second is container.peek("db")
    assert log == ["started", "cancelled", "cleaned up", "started"]


async def test_a_factory_that_cancels_itself_fails_its_waiters(container, settle):
    """A CancelledError out of a factory that nobody cancelled is a failure of the factory, not a hang."""

    async def odd():
        raise asyncio.CancelledError

    container.register("odd", odd)
    with pytest.raises(ArtifactFailed, match="CancelledError"):
        await container.require("odd")


async def test_the_event_tells_a_build_that_nobody_waits_for_it(container, log, settle):
    """`ctx.cancelled` is set when the last waiter leaves, before the cancellation arrives."""

    async def careful(ctx):
        cancelled = ctx.cancelled
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append(cancelled.is_set())
            raise

    container.register("careful", careful)
    waiting = asyncio.create_task(container.require("careful"))
    await settle()
    waiting.cancel()
    await settle()
    assert log == [True]


async def test_a_cancelled_asker_cancels_what_only_it_has_asked_for(container, log, settle):
    """Cancelling the only waiter of an artifact also cancels the builds that it was waiting for itself."""

    async def outer(ctx):
        return await ctx.require("db")

    container.register("outer", outer)
    waiting = asyncio.create_task(container.require("outer"))
    await settle()
    waiting.cancel()
    await settle()
    assert log == ["started", "cancelled", "cleaned up"]
    assert container.statistics().building == 0


async def test_a_transient_is_built_in_the_task_that_asks(container, log):
    """A transient belongs to its requester: cancelling it cancels the build, and no other task takes part."""

    async def make():
        log.append(asyncio.current_task())
        return object()

    container.register("transient", make, scope="transient")
    await container.require("transient")
    assert log == [asyncio.current_task()]


async def test_shared_artifacts_do_not_see_the_asker_s_context_variables(container):
    """What outlives its requester is built in a clean context; a transient, which does not, sees the requester's."""
    canary = contextvars.ContextVar("canary", default="clean")
    canary.set("leaked")

    async def later():
        return canary.get()

    for key, factory, scope in (("now", canary.get, "singleton"), ("later", later, "singleton")):
        container.register(key, lambda factory=factory: factory(), scope=scope)
    container.register("mine", lambda *, seen=canary: seen.get(), scope="transient")
    assert [await container.require(key) for key in ("now", "later", "mine")] == ["clean", "clean", "leaked"]


async def test_without_waiting_a_build_under_way_is_an_error(container, gate, settle):
    """`require_nowait` does not wait for a build in another task; it says so and disturbs nothing."""
    waiting = asyncio.create_task(container.require("db"))
    await settle()
    with pytest.raises(ArtifactInvalid, match="'db' is being built"):
        container.require_nowait("db")
    gate.open.set()
    assert await waiting is container.require_nowait("db")


# --------------------------------------------------------------------------------------------------- clean-up
def chain_of(container, log, keys, *, later=False):
    """Register artifacts that each need the one before, and log their clean-ups."""

    def factory(key, below):
        async def make_later(ctx):
            if below:
                await ctx.require(below)
            yield key
            log.append(key)

        def make(ctx):
            if below:
                ctx.require_nowait(below)
            yield key
            log.append(key)

        return make_later if later else make

    for below, key in zip([None, *keys], keys, strict=False):
        container.register(key, factory(key, below))


@pytest.mark.parametrize("later", [False, True])
async def test_clean_up_runs_in_reverse_order(log, later):
    """Disposal cleans up last in, first out: nobody loses what it rests on before it is cleaned up itself."""
    container = ArtifactContainer()
    chain_of(container, log, "abcd", later=later)
    await container.require("d")
    await container.dispose()
    assert log == ["d", "c", "b", "a"]


async def test_what_is_built_in_passing_is_cleaned_up_in_reverse_order_too(log):
    """The short cut for plain generators keeps the same order."""

    def a():
        yield "a"
        log.append("a")

    def b(a: Annotated[str, Use("a")]):
        yield a + "b"
        log.append("b")

    container = ArtifactContainer(templates=TemplateSet([ArtifactTemplate("a", a), ArtifactTemplate("b", b)]))
    assert container.require_nowait("b") == "ab"
    assert container.dispose_nowait()
    assert log == ["b", "a"]


async def test_clean_ups_of_one_artifact_run_in_reverse_order(log):
    """Within one artifact the same holds, and what is only for its very end comes last."""

    def make(ctx):
        ctx.on_dispose(lambda: log.append("gone for good"))
        ctx.on_cleanup(lambda: log.append("first"))
        ctx.on_cleanup(lambda: log.append("second"))
        return "x"

    container = ArtifactContainer()
    container.register("x", make)
    await container.require("x")
    await container.dispose()
    assert log == ["second", "first", "gone for good"]


async def test_every_clean_up_runs_and_errors_are_grouped(log):
    """A failing clean-up stops none of the others, sync or async; all errors come together, each with its artifact."""

    def bad(ctx):
        ctx.on_cleanup(lambda: 1 / 0)
        return "bad"

    async def worse():
        yield "worse"
        raise OSError("socket")

    def good():
        yield "good"
        log.append("good")

    container = ArtifactContainer("app")
    for factory in (good, bad, worse):
        container.register(factory.__name__, factory)
        await container.require(factory.__name__)
    with pytest.raises(ExceptionGroup, match="2 clean-ups failed; all have run") as caught:
        await container.dispose()
    assert [type(error) for error in caught.value.exceptions] == [OSError, ZeroDivisionError]
    assert "clean-up of 'worse' in container 'app'" in caught.value.exceptions[0].__notes__[0]
    assert log == ["good"]
    await container.dispose()  # idempotent: the errors were told once


async def test_a_clean_up_that_hangs_is_given_up(clock, log):
    """A clean-up that never ends is given up after `cleanup_timeout`, named, and the others still run."""

    async def hangs():
        yield "hangs"
        await asyncio.Event().wait()

    def good():
        yield "good"
        log.append("good")

    container = ArtifactContainer("app", clock=clock, cleanup_timeout=5)
    for factory in (good, hangs):
        container.register(factory.__name__, factory)
        await container.require(factory.__name__)
    disposing = asyncio.create_task(container.dispose())
    await clock.run_for(5)
    with pytest.raises(ExceptionGroup) as caught:
        await disposing
    assert isinstance(caught.value.exceptions[0], ArtifactTimeout)
    assert log == ["good"]


async def test_cancelling_the_disposer_does_not_stop_the_disposal(log, settle):
    """Whoever is cancelled while disposing is cancelled only after every clean-up has run."""
    finish = asyncio.Event()

    async def slow():
        yield "slow"
        await finish.wait()
        log.append("slow")

    def good():
        yield "good"
        log.append("good")

    container = ArtifactContainer()
    for factory in (good, slow):
        container.register(factory.__name__, factory)
        await container.require(factory.__name__)
    disposing = asyncio.create_task(container.dispose())
    await settle()
    disposing.cancel()
    await settle()
    assert not disposing.done()
    finish.set()
    with pytest.raises(asyncio.CancelledError):
        await disposing
    assert log == ["slow", "good"]


async def test_two_disposers_wait_for_the_same_end(log, settle):
    """Disposing twice at once runs each clean-up once, and both return when it is over."""
    finish = asyncio.Event()

    async def slow():
        yield "slow"
        await finish.wait()
        log.append("slow")

    container = ArtifactContainer()
    container.register("slow", slow)
    await container.require("slow")
    disposing = [asyncio.create_task(container.dispose()) for _ in range(2)]
    await settle()
    assert not any(task.done() for task in disposing)
    finish.set()
    await asyncio.gather(*disposing)
    assert log == ["slow"]


async def test_disposal_during_a_build_cancels_it_and_tells_the_waiters(gate, log, settle):
    """Waiters of a build that disposal cuts off get ContainerDisposed; what it had opened is cleaned up."""
    container = ArtifactContainer("app")
    container.register("db", gate)
    waiting = asyncio.create_task(container.require("db"))
    await settle()
    await container.dispose()
    with pytest.raises(ContainerDisposed):
        await waiting
    assert log == ["started", "cancelled", "cleaned up"]


async def test_a_build_that_ignores_its_cancellation_leaves_nothing_behind(log, settle):
    """A factory that finishes although its container is being disposed has its instance cleaned up at once."""

    async def stubborn(ctx):
        ctx.on_cleanup(lambda: log.append("cleaned up"))
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.append("ignored")
        return "built"

    container = ArtifactContainer()
    container.register("x", stubborn)
    waiting = asyncio.create_task(container.require("x"))
    await settle()
    await container.dispose()
    with pytest.raises(ContainerDisposed):
        await waiting
    assert log == ["ignored", "cleaned up"]


async def test_a_factory_that_disposes_its_own_container_does_not_hang():
    """Disposing from inside a factory is no deadlock: the build fails, the container is gone."""
    container = ArtifactContainer()

    async def suicide():
        await container.dispose()
        return "x"

    container.register("x", suicide)
    with pytest.raises(ContainerDisposed):
        await container.require("x")


async def test_what_a_failed_build_had_opened_is_cleaned_up(log):
    """Clean-ups registered before the failure run, in reverse, also those of transients made for it."""

    def part():
        yield "part"
        log.append("part")

    async def fails(ctx):
        ctx.on_cleanup(lambda: log.append("own"))
        await ctx.require("part")
        raise OSError

    container = ArtifactContainer()
    container.register("part", part, scope="transient")
    container.register("x", fails)
    with pytest.raises(ArtifactFailed):
        await container.require("x")
    assert log == ["part", "own"]


async def test_a_transient_is_cleaned_up_with_whom_it_was_made_for(log):
    """A transient of a parent goes with the asking container; one inside a singleton goes with the singleton."""

    def part():
        yield "part"
        log.append("part")

    parent = ArtifactContainer("parent")
    parent.register("part", part, scope="transient")
    child = ArtifactContainer("child", parents=(parent,))
    child.register("whole", lambda ctx: ["whole", ctx.require_nowait("part")])
    await child.require("part")
    await child.require("whole")
    await child.invalidate("whole")
    assert log == ["part"]
    await child.dispose()
    assert log == ["part", "part"]
    await parent.dispose()
    assert log == ["part", "part"]


async def test_scopes_are_disposed_before_their_creator(log):
    """A scope may rest on its creator's artifacts, so it goes first."""
    container = ArtifactContainer()
    chain_of(container, log, "a")
    scope = container.scope("inner")
    scope.register("b", _log_after(log, "b"))
    await scope.require("b")
    await container.dispose()
    assert log == ["b", "a"]


def _log_after(log, key):
    def make(a: Annotated[str, Use("a")]):
        yield key
        log.append(key)

    return make


def test_disposing_without_waiting_tells_when_it_cannot(log):
    """`dispose_nowait` disposes what is synchronous; where something may have to be awaited it changes nothing."""
    easy, hard = ArtifactContainer(), ArtifactContainer()
    chain_of(easy, log, "ab")
    easy.require_nowait("b")
    assert easy.dispose_nowait()
    assert log == ["b", "a"]
    hard.register("x", lambda ctx: ctx.on_cleanup(lambda: log.append("x")) or "x")
    hard.require_nowait("x")
    assert not hard.dispose_nowait()
    assert hard.peek("x") == "x"
    asyncio.run(hard.dispose())
    assert log == ["b", "a", "x"]


def test_a_generator_that_yields_twice_is_told_so():
    """A factory yields once; a second yield is an error of its clean-up."""

    def twice():
        yield 1
        yield 2

    container = ArtifactContainer()
    container.register("x", twice)
    container.require_nowait("x")
    with pytest.raises(ExceptionGroup) as caught:
        container.dispose_nowait()
    assert "yielded again" in str(caught.value.exceptions[0])


# ------------------------------------------------------------------------------------------------------ leaks
def test_a_container_collected_with_pending_clean_ups_warns(log):
    """Forgetting to dispose is a ResourceWarning that names the container, if clean-ups are pending; else nothing."""
    container = ArtifactContainer("forgotten")
    chain_of(container, log, "a")
    container.require_nowait("a")
    silent = ArtifactContainer("silent")
    silent.register("x", lambda: "x")
    silent.require_nowait("x")
    del silent
    gc.collect()
    kept = [container]
    del container
    with pytest.warns(ResourceWarning, match="container 'forgotten' was collected without dispose"):
        _collect(kept)


def _collect(kept):
    kept.clear()
    gc.collect()


async def test_a_hundred_thousand_run_containers_leave_nothing_behind():
    """Run containers, with services of their own and of the workflow, are gone when disposed, without a collection."""
    workflow = ArtifactContainer("workflow")
    workflow.register("db", object)
    await workflow.require("db")
    templates = TemplateSet(
        [
            ArtifactTemplate("idle", object),
            ArtifactTemplate("plain", object),
            ArtifactTemplate("repo", lambda ctx: [ctx.require_nowait("db")]),
            ArtifactTemplate("session", _session),
        ]
    )
    census = weakref.WeakSet()
    gc.collect()
    gc.disable()
    try:
        for number in range(100_000):
            run = ArtifactContainer("run", parents=(workflow,), templates=templates)
            if number % 100 == 0:
                census.add(run)
            if number % 2:
                run.require_nowait("plain")
            if number % 10 == 1:
                run.require_nowait("repo")
                run.require_nowait("session")
            assert run.dispose_nowait()
    finally:
        gc.enable()
    del run
    assert len(census) == 0
    assert not workflow.borrowers
    await workflow.dispose()


def _session():
    yield ["session"]


async def test_undisposed_children_do_not_pile_up_in_their_parent():
    """A child that is dropped without disposal is forgotten by the parent whose artifacts it used."""
    parent = ArtifactContainer("parent")
    parent.register("db", object)
    for _ in range(10):
        child = ArtifactContainer("child", parents=(parent,))
        child.register("repo", lambda ctx: [ctx.require_nowait("db")])
        child.require_nowait("repo")
    del child
    gc.collect()
    assert not parent.borrowers


# ---------------------------------------------------------------------------- what random graphs have brought to light
async def test_a_clean_up_under_way_holds_up_those_beneath_it(log, settle):
    """An artifact is not cleaned up while one that rested on it still is, also if both went for different reasons."""
    finish = asyncio.Event()
    store = StateStore({"left": 0, "right": 0})
    run = ArtifactContainer("run", state=store)

    def base(side):
        def make(ctx):
            ctx.on_cleanup(lambda: log.append(side))
            return [ctx.select(side)]

        return make

    async def top(left: Annotated[list, Use("left")], right: Annotated[list, Use("right")]):
        yield [left, right]
        await finish.wait()
        log.append("top")

    for side in ("left", "right"):
        run.register(side, base(side))
    run.register("top", top)
    await run.require("top")
    store.patch({"left": 1})  # takes top along, whose clean-up takes a while
    store.patch({"right": 1})
    await settle()
    assert log == []
    finish.set()
    await settle()
    assert log == ["top", "left", "right"]
    await run.dispose()


async def test_a_child_s_clean_up_under_way_holds_up_its_parent_s_disposal(log, settle):
    """A parent's artifact outlives the clean-up of what rested on it in a child, even if the parent is disposed of."""
    finish = asyncio.Event()
    parent = ArtifactContainer("parent")
    chain_of(parent, log, "a")
    store = StateStore({"n": 0})
    child = ArtifactContainer("child", parents=(parent,), state=store)

    async def top(ctx):
        yield [await ctx.require("a"), ctx.select("n")]
        await finish.wait()
        log.append("top")

    child.register("top", top)
    await child.require("top")
    store.patch({"n": 1})
    assert not parent.dispose_nowait()
    disposing = asyncio.create_task(parent.dispose())
    await settle()
    assert log == []
    finish.set()
    await disposing
    assert log == ["top", "a"]
    await child.dispose()


async def test_a_build_that_fails_on_something_gone_starts_again(log, settle):
    """If what a build has read goes away meanwhile, its failure is not the answer: it is built from what is now."""
    gate = asyncio.Event()
    container = ArtifactContainer("app")

    def base():
        yield (resource := {"open": True})
        resource["open"] = False

    async def top(ctx):
        resource = await ctx.require("base")
        await gate.wait()
        if not resource["open"]:
            log.append("found it closed")
            raise OSError("closed")
        return ["top"]

    container.register("base", base)
    container.register("top", top)
    asking = asyncio.create_task(container.require("top"))
    await settle()
    await container.invalidate("base")
    gate.set()
    assert await asking == ["top"]
    assert log == ["found it closed"]
    await container.dispose()


# ------------------------------------------------------------------------ functions that give awaitables
async def _later(value):
    return value


@pytest.mark.parametrize("scope", ["singleton", "transient"])
@pytest.mark.parametrize("calm", [True, False])
async def test_what_turns_out_to_take_waiting_is_waited_for(scope, calm):
    """A plain function that gives an awaitable is found out wherever it stands."""
    container = ArtifactContainer("app")
    container.register("base", lambda: _later(["base"]), scope=scope)
    container.register("top", _with_base)
    container.register("more", _with_base, scope=scope)
    if not calm:
        container.on("build:complete", lambda event: None)
    assert await container.require("top") == [["base"]]
    assert await container.require("more") == [["base"]]
    assert await container.require("base") == ["base"]


def _with_base(base: Annotated[list, Use("base")]):
    return [base]


@pytest.mark.parametrize("calm", [True, False])
def test_without_waiting_such_a_function_is_an_error_each_time(calm):
    """`require_nowait` names the function that gives an awaitable, drops the awaitable, and can be asked again."""
    container = ArtifactContainer("app")
    container.register("base", lambda: _later(["base"]))
    container.register("top", _with_base)
    if not calm:
        container.on("build:complete", lambda event: None)
    for _ in range(2):
        with pytest.raises(ArtifactInvalid, match="cannot be built without waiting"):
            container.require_nowait("top")
    assert container.peek("base") is None


# ------------------------------------------------------------------------------------------- without an event loop
def test_clean_ups_that_take_waiting_wait_for_a_loop(log):
    """Invalidated by a commit where no loop runs, an artifact's asynchronous clean-up is run by the disposal."""
    store = StateStore({"n": 0})
    container = ArtifactContainer("app", state=store)

    def make(ctx):
        ctx.on_cleanup(lambda: _noted(log))
        return [ctx.select("n")]

    container.register("x", make)
    container.require_nowait("x")
    store.patch({"n": 1})
    assert container.peek("x") is None
    assert log == []
    asyncio.run(container.dispose())
    assert log == ["cleaned up"]


async def _noted(log):
    log.append("cleaned up")


async def test_errors_of_scopes_come_with_those_of_their_creator():
    """Disposing reports what failed in scopes too, with and without waiting."""
    for later in (False, True):
        container = ArtifactContainer("app")
        scope = container.scope("inner")
        for each in (container, scope):
            each.register("bad", _bad_later if later else _bad)
            await each.require("bad")
        with pytest.raises(ExceptionGroup) as caught:
            container.dispose_nowait() or await container.dispose()
        assert len(caught.value.exceptions) == 2


def _bad():
    yield ["bad"]
    raise OSError


async def _bad_later():
    yield ["bad"]
    raise OSError


async def test_a_factory_that_cannot_be_stopped_is_left_behind(clock):
    """A factory that outlasts its cancellation does not hold up disposal for ever; it is named."""
    release = asyncio.Event()

    async def stubborn():
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return ["x"]

    container = ArtifactContainer("app", clock=clock, cleanup_timeout=5)
    container.register("x", stubborn)
    asking = asyncio.create_task(container.resolve("x"))
    await clock.run_for(0)
    disposing = asyncio.create_task(container.dispose())
    await clock.run_for(20)
    with pytest.raises(ExceptionGroup) as caught:
        await disposing
    assert "'x' did not end when it was cancelled" in str(caught.value.exceptions[0])
    release.set()
    with pytest.raises(ContainerDisposed):
        await asking


async def test_a_container_disposed_from_inside_logs_its_errors(caplog, settle):
    """Nobody waits for a disposal begun by a factory of the container itself, so its errors are logged."""
    container = ArtifactContainer("app")
    container.register("bad", _bad_later)

    async def ends_it():
        await container.dispose()
        return "x"

    container.register("x", ends_it)
    await container.require("bad")
    with caplog.at_level("ERROR", "poundlock.artifacts"), pytest.raises(ContainerDisposed):
        await container.require("x")
    await settle()
    assert "1 clean-ups failed" in caplog.text
