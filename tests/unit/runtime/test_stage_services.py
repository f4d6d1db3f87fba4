"""Services that live as long as a visit of a stage, for transactions; and services of runs that see a failure."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import pytest
from support import GatedStore, ends, happens

from poundlock import (
    Fail,
    Jump,
    Pause,
    Pipeline,
    Retry,
    Serialized,
    Service,
    Stage,
    Step,
    StepContext,
    Terminate,
    Use,
    Wait,
    Workflow,
    WorkflowRuntime,
)
from poundlock.clock import sleep_for
from poundlock.errors import ContainerDisposed, InvalidDefinition, RuntimeStopped
from poundlock.stores import MemoryStore
from poundlock.testing import run_until_idle


class Transaction:
    """What a stage's steps write through."""

    def __init__(self, number):
        self.number = number
        self.written = []


class Database:
    """Hands out transactions and notes what became of them."""

    def __init__(self):
        self.log = []
        self.opened = 0
        self.failing_commit: BaseException | None = None
        self.hanging = False
        self.refusing = 0
        self.failures: list[BaseException] = []

    def begin(self):
        if self.refusing:
            self.refusing -= 1
            raise ConnectionError("no connection")
        self.opened += 1
        self.log.append(f"begin {self.opened}")
        return Transaction(self.opened)

    @contextmanager
    def noted(self, tx):
        try:
            yield
        except BaseException as error:
            self.failures.append(error)
            self.log.append(f"roll back {tx.number}")
            raise
        self.log.append(f"commit {tx.number} {tx.written}")

    def commit(self):
        if self.failing_commit is not None:
            raise self.failing_commit

    async def transaction(self):
        tx = self.begin()
        with self.noted(tx):
            yield tx
            if self.hanging:
                await asyncio.get_running_loop().create_future()
            self.commit()

    def plain_transaction(self):
        tx = self.begin()
        with self.noted(tx):
            yield tx
            self.commit()


@pytest.fixture
def db():
    return Database()


KINDS = {
    "async generator": lambda db: db.transaction,
    "generator": lambda db: db.plain_transaction,
    "async context manager": lambda db: asynccontextmanager(db.transaction),
    "context manager": lambda db: contextmanager(db.plain_transaction),
}
Tx = Annotated[Transaction, Use("tx")]


def writing(word, fails=None):
    async def write(tx: Tx):
        tx.written.append(word)
        if fails is not None:
            raise fails
        return {word: tx.number}

    return write


def flow(*stages, factory, scope="stage", services=()):
    return Workflow(
        "wf", pipelines=[Pipeline("main", stages)], services=[Service("tx", factory, scope=scope), *services]
    )


@pytest.mark.parametrize("kind", KINDS)
async def test_one_per_visit_shared_by_its_steps(runtime, any_store, db, kind):
    """All steps of a stage, in threads as well, and `ctx.use`, get the same one; each visit gets another."""

    def in_thread(tx: Tx):
        tx.written.append("thread")

    async def asking(ctx: StepContext):
        tx = await ctx.use(lambda deps: deps.require("tx"))
        tx.written.append("asked")

    def way(state):
        return Jump("one") if db.opened < 2 else None

    rt = await runtime(
        flow(
            Stage("one", [Step("a", writing("a")), Step("b", in_thread), Step("c", asking)], router=way),
            Stage("two", [Step("d", writing("d"))]),
            factory=KINDS[kind](db),
        ),
        store=any_store,
    )
    result = await rt.run("wf")
    assert result.ok
    assert db.log[0::2] == ["begin 1", "begin 2", "begin 3"]
    assert [line.split(" [")[0] for line in db.log[1::2]] == ["commit 1", "commit 2", "commit 3"]
    assert all(sorted(eval(line[9:])) == ["a", "asked", "thread"] for line in db.log[1:4:2])
    assert result.state == {"a": 2, "d": 3}


async def test_it_is_closed_after_the_router_and_before_the_commit(runtime, db):
    """The router still sees an open transaction; when the boundary is committed it is closed."""
    store = GatedStore(MemoryStore())
    seen = []

    def way(state):
        seen.append(("router", list(db.log)))

    def failing(number, changes):
        seen.append(("commit", list(db.log)))

    store.failing = failing
    rt = await runtime(flow(Stage("one", [Step("a", writing("a"))], router=way), factory=db.transaction), store=store)
    assert (await rt.run("wf")).ok
    assert seen == [("router", ["begin 1"]), ("commit", ["begin 1", "commit 1 ['a']"])]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failing_step_rolls_back(runtime, any_store, db, kind):
    """The generator sees the very error that the step raised; the run fails with it, and with nothing else."""
    error = ValueError("not unique")
    rt = await runtime(flow(Stage("one", [Step("a", writing("a", error))]), factory=KINDS[kind](db)), store=any_store)
    result = await rt.run("wf")
    assert db.log == ["begin 1", "roll back 1"]
    assert db.failures == [error]
    assert (result.status, result.error.message, result.error.step) == ("failed", "not unique", "a")


def raising(error):
    def way(state):
        raise error

    return way


async def hangs(tx: Tx):
    await asyncio.get_running_loop().create_future()


async def unstorable(tx: Tx):
    return {"a": object()}


ROUTED = [Step("a", writing("a"))]
FAILING = {
    "router raises": (Stage("one", ROUTED, router=raising(LookupError("no way"))), "LookupError"),
    "router fails": (Stage("one", ROUTED, router=Fail("sold out")), "StepFailed"),
    "router leads nowhere": (Stage("one", ROUTED, router=lambda state: "nowhere"), "NotRegistered"),
    "step is late": (Stage("one", [Step("a", hangs, timeout=1)]), "StepTimeout"),
    "stage is late": (Stage("one", [Step("a", hangs)], timeout=1), "StepTimeout"),
    "step exits": (Stage("one", [Step("a", writing("a", SystemExit(1)))]), "SystemExit"),
    "step cancels itself": (Stage("one", [Step("a", writing("a", asyncio.CancelledError()))]), "CancelledError"),
    "sibling fails": (Stage("one", [Step("a", hangs), Step("b", writing("b", OSError("gone")))]), "OSError"),
    "no data": (Stage("one", [Step("a", unstorable)]), "NotStorable"),
}


@pytest.mark.parametrize("way", FAILING)
async def test_whatever_fails_the_stage_rolls_back(runtime, db, way):
    """A router that raises or says Fail, a time-out, an odd error, a failing sibling: nothing is committed."""
    stage, kind = FAILING[way]
    rt = await runtime(flow(stage, factory=db.transaction))
    result = await rt.run("wf")
    assert result.status == "failed"
    assert db.log == ["begin 1", "roll back 1"]
    assert [type(error).__name__ for error in db.failures] == [kind]


@pytest.mark.parametrize(("router", "status"), [(Terminate("done"), "completed"), (Pause(Wait("never")), "paused")])
async def test_other_ways_out_commit(runtime, db, router, status):
    """An end by Terminate and a pause are normal exits."""
    rt = await runtime(flow(Stage("one", ROUTED, router=router), factory=db.transaction))
    assert (await rt.run("wf")).status == status
    assert db.log == ["begin 1", "commit 1 ['a']"]


@pytest.mark.parametrize("kind", ["async generator", "generator"])
async def test_failing_to_close_fails_the_stage(runtime, any_store, db, kind, caplog):
    """A commit that is refused is the stage's failure: its patch does not count, and no later stage begins."""
    db.failing_commit = ValueError("serialization failure")
    rt = await runtime(
        flow(Stage("one", [Step("a", writing("a"))]), Stage("two", [Step("b", writing("b"))]), factory=KINDS[kind](db)),
        store=any_store,
    )
    result = await rt.run("wf", x=1)
    assert (result.status, str(result.error)) == ("failed", "ValueError: serialization failure")
    assert (result.error.stage, dict(result.state)) == ("one", {"x": 1})
    assert db.log == ["begin 1", "roll back 1"]
    assert len([each for each in caplog.records if each.levelno >= logging.ERROR]) == 1


async def test_several_services_of_a_stage_are_one(runtime, db):
    """When the commit of one is refused, those closed after it see that and roll back."""
    other = Database()
    other.failing_commit = ValueError("refused")

    async def both(a: Tx, b: Annotated[Transaction, Use("other")]):
        return {"a": 1}

    services = [Service("other", other.transaction, scope="stage")]
    rt = await runtime(flow(Stage("one", [Step("s", both)]), factory=db.transaction, services=services))
    assert str((await rt.run("wf")).error) == "ValueError: refused"
    assert db.log == ["begin 1", "roll back 1"]
    assert db.failures == [other.failing_commit]


async def test_a_roll_back_that_fails_is_logged_and_changes_nothing(runtime, caplog):
    """The run's error stays what the stage failed with."""

    async def fragile():
        try:
            yield Transaction(1)
        except ValueError:
            raise ConnectionError("connection lost") from None

    rt = await runtime(flow(Stage("one", [Step("a", writing("a", ValueError("no")))]), factory=fragile))
    result = await rt.run("wf")
    assert str(result.error) == "ValueError: no"
    assert "connection lost" in caplog.text


async def test_a_retry_gets_the_same_one(runtime, db):
    """A step that is repeated works on in the stage's transaction."""
    seen = []

    async def flaky(tx: Tx):
        seen.append(tx.number)
        if len(seen) < 3:
            raise ConnectionError
        tx.written.append("third")

    rt = await runtime(flow(Stage("one", [Step("a", flaky, retry=Retry(3))]), factory=db.transaction))
    assert (await rt.run("wf")).ok
    assert (seen, db.log) == ([1, 1, 1], ["begin 1", "commit 1 ['third']"])


async def test_one_that_cannot_be_opened_fails_its_step(runtime, db):
    """A failing factory is a failing step: it is repeated as the step is, and what else was opened rolls back."""
    other = Database()
    other.refusing = 5

    async def both(a: Tx, b: Annotated[Transaction, Use("other")]):
        return {"a": 1}

    services = [Service("other", other.transaction, scope="stage")]
    rt = await runtime(flow(Stage("one", [Step("s", both, retry=Retry(2))]), factory=db.transaction, services=services))
    result = await rt.run("wf")
    assert (result.status, result.error.code) == ("failed", "ARTIFACT_FAILED")
    assert (other.refusing, db.log) == (3, ["begin 1", "roll back 1"])


async def test_one_that_hangs_while_it_closes_is_given_up(runtime, db, vclock):
    """`hook_timeout` bounds the closing: the stage fails, and its slot is free."""
    db.hanging = True
    rt = await runtime(flow(Stage("one", [Step("a", writing("a"))]), factory=db.transaction), hook_timeout=5)
    began = vclock.now()
    result = await rt.run("wf")
    assert (result.status, result.error.code, result.error.stage) == ("failed", "HOOK_TIMEOUT", "one")
    assert vclock.now() - began == 5
    db.hanging = False
    assert (await rt.run("wf")).ok


async def test_several_that_are_slow_are_given_up_together(runtime, vclock):
    """`hook_timeout` is for all of them: when the stage has failed for it, none commits any more."""
    log = []

    def slow(name):
        async def factory():
            try:
                yield name
                await sleep_for(vclock, 4)
            except BaseException as error:
                await sleep_for(vclock, 4)  # rolling back has time of its own
                log.append(f"roll back {name}: {type(error).__name__}")
                raise
            log.append(f"commit {name}")

        return factory

    async def step(a: Annotated[str, Use("a")], b: Annotated[str, Use("b")], tx: Tx):
        return {"a": 1}

    services = [Service(name, slow(name), scope="stage") for name in "ab"]
    rt = await runtime(flow(Stage("one", [Step("s", step)]), factory=slow("tx"), services=services), hook_timeout=5)
    result = await rt.run("wf")
    assert (result.status, result.error.code, dict(result.state)) == ("failed", "HOOK_TIMEOUT", {})
    await sleep_for(vclock, 60)
    assert log == ["commit tx", "roll back b: CancelledError", "roll back a: ArtifactTimeout"]


@pytest.mark.parametrize("error", [StopIteration(1), SystemExit(1), GeneratorExit(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("scope", ["stage", "run"])
async def test_the_error_that_a_thread_raised_is_seen_as_it_is(runtime, db, error, scope):
    """Not what carries it out of the thread."""

    def step(tx: Tx):
        raise error

    rt = await runtime(flow(Stage("one", [Step("a", step)]), factory=db.transaction, scope=scope))
    assert (await rt.run("wf")).status == "failed"
    assert db.failures == [error]


async def test_the_end_of_an_iterator_is_seen_as_it_is(runtime, db):
    """A coroutine makes a RuntimeError of a StopIteration; the service sees what the step raised."""
    error = StopIteration(1)
    rt = await runtime(flow(Stage("one", [Step("a", writing("a", error))]), factory=db.transaction))
    assert (await rt.run("wf")).status == "failed"
    assert db.failures == [error]


async def test_an_abort_rolls_back(runtime, any_store, db):
    """A run that is aborted in the middle of a stage does not commit what it wrote."""
    came = asyncio.Event()

    async def stuck(tx: Tx):
        came.set()
        await asyncio.get_running_loop().create_future()

    rt = await runtime(flow(Stage("one", [Step("a", stuck)]), factory=db.transaction), store=any_store)
    running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
    await came.wait()
    await rt.abort("r1", "enough")
    assert (await running).status == "aborted"
    assert db.log == ["begin 1", "roll back 1"]
    assert [type(error).__name__ for error in db.failures] == ["RunAborted"]


async def test_an_abort_while_it_closes_does_not_tear_the_commit(runtime, db):
    """What is being committed is committed to its end; the run is aborted after it, without the stage's patch."""
    committing, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        yield Transaction(1)
        committing.set()
        await go_on.wait()
        db.log.append("committed")

    rt = await runtime(
        flow(Stage("one", [Step("a", writing("a"))]), Stage("two", [Step("b", writing("b"))]), factory=slow)
    )
    running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
    await committing.wait()
    aborting = asyncio.ensure_future(rt.abort("r1"))
    assert not await happens(asyncio.shield(running))
    go_on.set()
    await aborting
    result = await running
    assert (result.status, dict(result.state), db.log) == ("aborted", {}, ["committed"])


@pytest.mark.parametrize("drain", [0, 30])
async def test_a_stop_in_the_middle_of_a_stage_rolls_back(vclock, any_store, db, drain):
    """The stage runs again when the runtime is started again, in a transaction of its own."""
    came = asyncio.Event()
    hold = [True]

    async def stuck(tx: Tx):
        came.set()
        if hold[0]:
            await asyncio.get_running_loop().create_future()
        tx.written.append("again")
        return {"a": tx.number}

    wf = flow(Stage("one", [Step("a", stuck)]), factory=db.transaction)
    async with WorkflowRuntime(wf, store=any_store, clock=vclock) as rt:
        running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
        await came.wait()
        await rt.stop(drain=drain)
    with pytest.raises(RuntimeStopped):
        await running
    assert db.log == ["begin 1", "roll back 1"]
    assert [type(error).__name__ for error in db.failures] == ["RuntimeStopped"]
    hold[0] = False
    async with WorkflowRuntime(wf, store=any_store, clock=vclock) as rt:
        assert (await rt.wait("r1")).state == {"a": 2}
    assert db.log[2:] == ["begin 2", "commit 2 ['again']"]


async def test_messages_in_the_last_moment_do_not_undo_a_failure(runtime, db):
    """The end of a stage that was rolled back is refused because a signal came: it fails again, with the same error."""
    store = GatedStore(MemoryStore())
    store.hold = ends
    calls = []

    def way(state):
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("only the first time")

    rt = await runtime(flow(Stage("one", [Step("a", writing("a"))], router=way), factory=db.transaction), store=store)
    running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
    [held] = await store.until_held()
    await rt.signal("r1", {"told": True})
    store.hold = None
    held.release()
    result = await running
    assert (result.status, str(result.error)) == ("failed", "ValueError: only the first time")
    assert db.log == ["begin 1", "roll back 1"]


async def test_a_router_that_is_asked_again_gets_a_new_one(runtime, db):
    """A signal came before the end was committed: the router decides again, after the steps' transaction is closed."""
    store = GatedStore(MemoryStore())
    store.hold = ends
    decided = []

    def way(state):
        decided.append(state.get("told"))

    rt = await runtime(flow(Stage("one", [Step("a", writing("a"))], router=way), factory=db.transaction), store=store)
    running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
    [held] = await store.until_held()
    await rt.signal("r1", {"told": True})
    store.hold = None
    held.release()
    result = await running
    assert (result.status, decided) == ("completed", [None, True])
    assert db.log == ["begin 1", "commit 1 ['a']"]


async def test_a_refused_commit_does_not_bring_it_back(runtime, db):
    """A signal in the last moment of a stage whose closing failed: the run still fails with that."""
    store = GatedStore(MemoryStore())
    store.hold = ends
    db.failing_commit = ValueError("refused")
    rt = await runtime(flow(Stage("one", [Step("a", writing("a"))]), factory=db.transaction), store=store)
    running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
    [held] = await store.until_held()
    await rt.signal("r1", {"told": True})
    store.hold = None
    held.release()
    result = await running
    assert (str(result.error), dict(result.state)) == ("ValueError: refused", {"told": True})
    assert db.log == ["begin 1", "roll back 1"]


async def test_nothing_is_opened_that_nobody_asks_for(runtime, db):
    """A stage whose steps ask for no such service opens none, whether its step is plain or not."""

    async def plain():
        return {"a": 1}

    rt = await runtime(flow(Stage("one", [Step("a", plain)]), factory=db.transaction))
    assert (await rt.run("wf")).ok
    assert db.log == []


async def test_it_may_use_what_lives_longer_and_not_the_other_way_round(runtime, db):
    """A stage's service is built from services of the run and the workflow; the other direction is found at once."""

    def pool() -> str:
        return "pool"

    def session(pool: Annotated[str, Use("pool")], env: Annotated[object, Use("__env__")]):
        yield Transaction(pool)

    rt = await runtime(
        flow(Stage("one", [Step("a", writing("a"))]), factory=session, services=[Service("pool", pool, scope="run")])
    )
    assert (await rt.run("wf")).state == {"a": "pool"}

    def captive(tx: Tx):
        return 1

    bad = flow(
        Stage("one", [Step("a", writing("a"))]), factory=session, services=[Service("pool", captive, scope="run")]
    )
    bad.id = "bad"
    with pytest.raises(
        InvalidDefinition, match="lives in 'run' and needs 'tx', which lives only in the shorter-lived 'stage'"
    ):
        await rt.register(bad)


async def test_it_can_be_overridden(runtime, db):
    """`rt.override` puts a replacement in its place, from the next visit on."""
    rt = await runtime(flow(Stage("one", [Step("a", writing("a"))]), factory=db.transaction))
    fake = Transaction("fake")
    with rt.override("tx", fake, workflow="wf"):
        assert (await rt.run("wf")).state == {"a": "fake"}
    assert (await rt.run("wf")).state == {"a": 1}
    assert fake.written == ["a"]


async def test_a_serialisable_one_is_refused(runtime, db):
    """It ends with its stage, so there is nothing to be kept over a pause."""
    wf = Workflow(
        "wf",
        pipelines=[Pipeline("main", [Stage("one", [Step("a", writing("a"))])])],
        services=[Service("tx", db.transaction, scope="stage", options={"serializable": True})],
    )
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as refused:
        await rt.register(wf)
    assert refused.value.faults[0][0] == "services.tx.serializable"


# -------------------------------------------------------------------------------------------------- services of runs
@pytest.mark.parametrize("kind", KINDS)
async def test_a_runs_service_sees_the_failure_of_its_run(runtime, any_store, db, kind):
    """It is closed after the commit: it sees the step's error, and changes nothing of what the run came to."""
    error = ValueError("no")
    rt = await runtime(
        flow(Stage("one", [Step("a", writing("a", error))]), factory=KINDS[kind](db), scope="run"), store=any_store
    )
    assert str((await rt.run("wf")).error) == "ValueError: no"
    assert (db.log, db.failures) == (["begin 1", "roll back 1"], [error])


async def test_a_runs_service_sees_a_pause_and_an_end_as_normal_exits(runtime, db):
    """Each time the run is resumed it is built anew; both times it is closed in the normal way."""
    rt = await runtime(
        flow(
            Stage("one", [Step("a", writing("a"))], router=Pause(Wait("answered"))),
            Stage("two", [Step("b", writing("b"))]),
            factory=db.transaction,
            scope="run",
        )
    )
    paused = await rt.run("wf")
    assert db.log == ["begin 1", "commit 1 ['a']"]
    assert (await rt.resume(paused.run_id)).ok
    assert db.log[2:] == ["begin 2", "commit 2 ['b']"]


@pytest.mark.parametrize("how", ["abort", "stop", "fail", "loop"])
async def test_a_runs_service_sees_other_ends(vclock, db, how):
    """An abort, a stop in the middle of a step and an instruction to fail are failures, each with its own error."""
    came = asyncio.Event()

    async def step(tx: Tx):
        came.set()
        if how in ("abort", "stop"):
            await asyncio.get_running_loop().create_future()

    router = Fail("sold out") if how == "fail" else "one" if how == "loop" else None
    wf = flow(Stage("one", [Step("a", step)], router=router), factory=db.transaction, scope="run")
    wf.visit_limit = 3
    async with WorkflowRuntime(wf, clock=vclock) as rt:
        running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
        await came.wait()
        if how == "abort":
            await rt.abort("r1")
        if how == "stop":
            await rt.stop(drain=0)
        await asyncio.wait([running])
        running.exception()
    assert db.log == ["begin 1", "roll back 1"]
    kinds = {"abort": "RunAborted", "stop": "RuntimeStopped", "fail": "StepFailed", "loop": "StepFailed"}
    assert [type(error).__name__ for error in db.failures] == [kinds[how]]


async def test_a_stop_at_a_boundary_is_a_normal_exit(vclock, any_store, db):
    """A run that is given back between two stages has not failed."""
    came = asyncio.Event()

    async def step(tx: Tx):
        came.set()
        await sleep_for(vclock, 1)  # passes when the stop waits for the run

    wf = flow(
        Stage("one", [Step("a", step)]), Stage("two", [Step("b", writing("b"))]), factory=db.transaction, scope="run"
    )
    async with WorkflowRuntime(wf, store=any_store, clock=vclock) as rt:
        running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
        await came.wait()
        await rt.stop()
        await asyncio.wait([running])
        running.exception()
    assert db.log == ["begin 1", "commit 1 []"]
    await run_until_idle(vclock)


# ------------------------------------------------------------------------------------------------ nobody waits for ever
def clinging(log):
    """A transaction whose roll-back does not end."""

    async def tx():
        try:
            yield Transaction(1)
        except BaseException:  # noqa: BLE001 - it hangs whatever was the matter
            log.append("rolling back")
            await asyncio.get_running_loop().create_future()

    return tx


async def test_an_abort_whose_roll_back_hangs_frees_the_slot(runtime, any_store, vclock):
    """After `abort_grace` the run is aborted and the next in line starts, whatever its clean-up does."""
    log, ids = [], []

    async def stuck(ctx: StepContext, tx: Tx):
        ids.append(ctx.run_id)
        came.set()
        if len(ids) == 1:
            await asyncio.get_running_loop().create_future()
        log.append("next")

    async def end(tx: Tx):
        return None

    came = asyncio.Event()
    wf = flow(Stage("one", [Step("a", stuck)]), factory=clinging(log))
    wf.mode = Serialized()
    wf.on("go")
    rt = await runtime(wf, store=any_store, abort_grace=5, hook_timeout=100)
    first, second = [(await rt.emit("go")).run_ids[0] for _ in range(2)]
    await came.wait()
    began = vclock.now()
    await rt.abort(first)
    assert (await rt.wait(first)).status == "aborted"
    assert (await rt.wait(second)).status == "completed"
    assert vclock.now() - began <= 5
    assert log == ["rolling back", "next"]
    await vclock.run_for(200)


async def test_a_stop_whose_roll_back_hangs_ends(vclock, any_store):
    """Stopping takes as long as `abort_grace` allows, not for ever; the run goes on at the next start."""
    log, came = [], asyncio.Event()

    async def stuck(tx: Tx):
        came.set()
        if not log:
            await asyncio.get_running_loop().create_future()

    wf = flow(Stage("one", [Step("a", stuck)]), factory=clinging(log))
    async with WorkflowRuntime(wf, store=any_store, clock=vclock, abort_grace=5, hook_timeout=8) as rt:
        running = asyncio.ensure_future(rt.invoke("wf", run_id="r1"))
        await came.wait()
        began = vclock.now()
        await rt.stop(drain=0)
        assert vclock.now() - began <= 30
        await asyncio.wait([running])
        running.exception()
    await vclock.run_for(60)
    async with WorkflowRuntime(wf, store=any_store, clock=vclock) as rt:
        assert (await rt.wait("r1")).status == "completed"


async def test_a_factory_that_hangs_is_given_up_with_its_step(runtime, db, vclock):
    """The time-out of the step that asked bounds the opening too; the next visit opens another one."""
    hanging = [True]

    async def slow():
        if hanging.pop() if hanging else False:
            await asyncio.get_running_loop().create_future()
        yield db.begin()

    rt = await runtime(flow(Stage("one", [Step("a", writing("a"), timeout=3)]), factory=slow))
    assert (await rt.run("wf")).error.code == "STEP_TIMEOUT"
    assert (await rt.run("wf")).state == {"a": 1}


# ------------------------------------------------------------------------------------------- what a step leaves behind
@pytest.mark.parametrize("scope", ["stage", "run"])
@pytest.mark.parametrize("when", ["while it closes", "in the next stage", "after the end"])
@pytest.mark.parametrize("place", ["step", "step with a retry", "router"])
async def test_what_a_step_started_gets_no_services_after_it(runtime, db, scope, when, place):
    """A task that outlives its step, or its router, is refused: it would open what nobody closes, or another's."""
    go, answered = asyncio.Event(), asyncio.Event()
    got, tasks = [], []

    async def late(ctx):
        await go.wait()
        try:
            got.append(await ctx.use(lambda deps: deps.require("tx")))
        except ContainerDisposed as error:
            got.append(type(error))
        answered.set()

    async def starts(ctx, tx: Tx):
        tasks.append(asyncio.create_task(late(ctx)))

    async def closing():
        db.begin()
        yield 1
        if when == "while it closes" and not go.is_set():
            go.set()
            await answered.wait()

    async def second():
        if when == "in the next stage":
            go.set()
            await answered.wait()

    if place == "router":
        first = Stage("one", [Step("a", lambda: None)], router=starts)
    else:
        first = Stage("one", [Step("a", starts, retry=Retry(2) if place == "step with a retry" else None)])
    rt = await runtime(flow(first, Stage("two", [Step("b", second)]), factory=closing, scope=scope))
    assert (await rt.run("wf")).ok
    go.set()
    await asyncio.gather(*tasks)
    assert (got, db.opened) == ([ContainerDisposed], 1)


@pytest.mark.parametrize("hook", ["on_prepare", "on_resume"])
async def test_what_a_hook_started_gets_no_services_after_it(runtime, db, hook):
    """The same for the context of a hook."""
    kept = []

    async def keeps(ctx):
        kept.append(ctx)

    rt = await runtime()
    wf = flow(Stage("wait", router=Pause(Wait("never"))), Stage("one", ROUTED), factory=db.transaction, scope="run")
    await rt.register(wf, **{hook: keeps})
    paused = await rt.run("wf")
    assert (await rt.resume(paused.run_id)).ok
    opened = db.opened
    with pytest.raises(ContainerDisposed):
        await kept[0].use(lambda deps: deps.require("tx"))
    assert db.opened == opened
