"""A step with `each` is called once per element of a list or a mapping in the state, so many at once."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import uuid
from typing import Annotated

import pytest
from pydantic import AfterValidator, BaseModel, Field, field_validator
from support import LAST_RESORT

from poundlock import (
    DELETE,
    Failure,
    InvalidDefinition,
    Jump,
    Overwrite,
    Pipeline,
    Retry,
    Service,
    Stage,
    Step,
    StepContext,
    Terminate,
    Trigger,
    Use,
    Workflow,
)
from poundlock.testing import run_until_idle


def over(action, *more, state=None, services=(), **options):
    """A workflow of one such step over `items`, which puts its results into `out`, and of further stages."""
    options = {"each": "items", "into": "out", **options}
    stages = [Stage("work", [Step("work", action, **options)]), *more]
    triggers, pipelines = {"begin": Trigger("begin")}, [Pipeline("main", stages)]
    return Workflow("w", state=state, services=services, triggers=triggers, pipelines=pipelines)


def add_up(item: int, index: int):
    return item + index


async def begin(rt, **payload):
    [result] = await (await rt.emit("begin", payload)).results()
    return result


async def entries(rt, result, kind):
    return [entry.payload for entry in (await rt.timeline(result.run_id)).entries if entry.type == kind]


# ------------------------------------------------------------------------------------------------------- the results
async def test_once_per_element(stores):
    """Results come in the order of the elements, whatever order they are ready in; the state survives a crash."""
    ready = {}

    async def work(item, index):
        ready[index] = asyncio.Event()
        if index:
            ready[index - 1].set()
        if index < 2:
            await ready[index].wait()
        return {"was": item, "at": index}

    rt = await stores.enter(over(work))
    result = await begin(rt, items=["a", "b", "c"])
    out = [{"was": "a", "at": 0}, {"was": "b", "at": 1}, {"was": "c", "at": 2}]
    assert (result.status, result.state["out"]) == ("completed", out)
    await stores.crash(rt)
    rt = await stores.enter(over(work))
    assert (await rt.get_run(result.run_id, state=True)).state["out"] == out


async def test_a_mapping(stores):
    """The results of a mapping are one by its keys; those of an earlier visit do not stay in it."""

    async def work(item, index, key):
        return f"{index} {key}={item}"

    def again(items):
        return Jump("work", patch={"items": Overwrite({"b": 3})}) if "a" in items else None

    rt = await stores.enter(over(work, Stage("again", [Step("again", again)])))
    result = await begin(rt, items={"a": 1, "b": 2, "$type": 4})
    assert result.state["out"] == {"b": "0 b=3"}
    changes = [
        entry.patch for entry in (await rt.timeline(result.run_id)).entries if entry.patch and "out" in entry.patch
    ]
    assert changes[0]["out"] == Overwrite({"a": "0 a=1", "b": "1 b=2", "$type": "2 $type=4"})


@pytest.mark.parametrize(("items", "out"), [([], []), ({}, {})], ids=["list", "mapping"])
async def test_nothing_to_do(stores, items, out):
    """Without elements the function is not called, and the results are empty."""
    rt = await stores.enter(over(lambda item: 1 / 0))
    result = await begin(rt, items=items)
    assert (result.status, result.state["out"]) == ("completed", out)


async def test_under_the_steps_id(runtime):
    """Without `into`, the results are under the step's id; a dotted path leads to the elements."""
    wf = Workflow("w")
    wf.step(lambda item: item * 2, id="twice", each="order.lines.0", executor="inline")
    rt = await runtime(wf)
    assert (await rt.run("w", order={"lines": [[1, 2]]})).state["twice"] == [2, 4]


@pytest.mark.parametrize("kind", ["async", "thread", "inline", "wrapper"])
async def test_kinds_of_functions(stores, kind):
    """Async functions, functions in threads and on the loop, and plain ones around async ones work alike."""
    names = set()

    async def later(item):
        return item + 1

    def plain(item):
        names.add(threading.current_thread().name)
        return item + 1

    def around(item):
        return later(item)

    action = {"async": later, "wrapper": around}.get(kind, plain)
    rt = await stores.enter(over(action, executor="inline" if kind == "inline" else None))
    assert (await begin(rt, items=list(range(30)))).state["out"] == list(range(1, 31))
    assert all(name.startswith("poundlock-step") for name in names) is (kind != "inline")


async def test_at_most_so_many_at_once(stores, make_gate):
    """No more than `limit` elements are worked on at once, ten by default, also in threads."""
    for limit, most in ((3, 3), (None, 10)):
        gate = make_gate()

        async def work(index, gate=gate):
            if index < 12:
                await run_until_idle()
            gate.inside += 1
            gate.most = max(gate.most, gate.inside)
            await run_until_idle()
            gate.inside -= 1

        rt = await stores.enter(over(work, **({} if limit is None else {"limit": limit})))
        await begin(rt, items=list(range(25)))
        assert gate.most == most
        await rt.stop()


async def test_no_task_per_element(runtime):
    """Thousands of elements need no more tasks than `limit`, and functions that never wait do not block the loop."""
    seen, turns = set(), 0

    async def count():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)  # noqa: TID251 - counts the turns of the loop

    async def work(item):
        seen.add(asyncio.current_task())
        return item

    rt = await runtime(over(work, limit=3))
    counting = asyncio.create_task(count())
    result = await begin(rt, items=list(range(10_000)))
    counting.cancel()
    assert result.state["out"] == list(range(10_000))
    assert (len(seen), turns > 100) == (3, True)


# ---------------------------------------------------------------------------------------------- what it is called with
async def test_with_what_others_are_given(stores):
    """Beside the element there are services, contexts, the event and fields of the state, as for other steps."""

    async def work(item: int, rate: int, add: Annotated[int, Use("add")], ctx: StepContext, event, *, index: int):
        return [item * rate + add, ctx.step_id, ctx.attempt, event.type, index]

    rt = await stores.enter(over(work, services=[Service("add", lambda: 100, scope="run")]))
    result = await begin(rt, items=[1, 2], rate=10)
    assert result.state["out"] == [[110, "work", 1, "begin", 0], [120, "work", 1, "begin", 1]]


async def test_an_item_is_checked(stores):
    """An element is validated to the parameter's annotation; one that does not fit fails the step and is named."""
    rt = await stores.enter(over(add_up))
    result = await begin(rt, items=["1", 2])
    assert result.state["out"] == [1, 3]
    result = await begin(rt, items=[1, "many"])
    assert (result.status, result.error.type) == ("failed", "StateInvalid")
    assert result.error.message.startswith("element 1: 'item' does not fit its annotation")


async def test_a_list_has_no_keys(stores):
    """In a list there is no `key`: the default is given, or the step fails and says what there is."""
    rt = await stores.enter(over(lambda item, key=None: key))
    assert (await begin(rt, items=[1])).state["out"] == [None]
    assert (await begin(rt, items={"a": 1})).state["out"] == {"a": "a"}
    await rt.stop()
    rt = await stores.enter(over(lambda key: key))
    assert "a list has `index`" in (await begin(rt, items=[1])).error.message


async def test_each_attempt_gets_its_own(stores):
    """What a function does to its element is seen by no other attempt, and is not in the state."""

    async def work(item, ctx: StepContext):
        item["n"] += 1
        if ctx.attempt == 1:
            raise ValueError("again")
        return item

    rt = await stores.enter(over(work, retry=Retry(2, backoff=0)))
    result = await begin(rt, items=[{"n": 1}, {"n": 2}])
    assert (result.state["out"], result.state["items"]) == ([{"n": 2}, {"n": 3}], [{"n": 1}, {"n": 2}])


async def test_what_it_returned_is_detached(stores):
    """A value is stored as it was returned: later changes of the same object do not count."""
    shared = []

    async def work(item):
        shared.append(item)
        return shared

    rt = await stores.enter(over(work, limit=1))
    assert (await begin(rt, items=[1, 2])).state["out"] == [[1], [1, 2]]


@pytest.mark.parametrize("container", [[1, 2], {"a": 1, "b": 2}], ids=["list", "mapping"])
async def test_an_idempotency_key_per_element(stores, container):
    """Each element has its own idempotency key, the same for all its attempts and after a crash."""
    keys, reached, through = [], asyncio.Event(), asyncio.Event()

    async def work(ctx: StepContext):
        keys.append(ctx.idempotency_key)
        if len(keys) < 3:
            raise ValueError("again")
        reached.set()
        await through.wait()

    rt = await stores.enter(over(work, limit=1, retry=Retry(3, backoff=0)))
    [line] = (await rt.emit("begin", items=container)).lines
    await reached.wait()
    await stores.crash(rt)
    through.set()
    rt = await stores.enter(over(work, limit=1, retry=Retry(3, backoff=0)))
    assert (await rt.wait(line.run_id)).status == "completed"
    first, second = keys[0], keys[-1]
    assert keys == [first] * 4 + [second]
    assert first.rpartition("/")[0] == second.rpartition("/")[0] != ""


# ------------------------------------------------------------------------------------------------------------ failures
async def test_one_failure_gives_up_the_rest(stores):
    """The first final failure cancels the others, begins none, and fails the stage; it names its element."""
    cancelled, begun = [], []

    async def work(item, index):
        begun.append(index)
        if item == "bad":
            await run_until_idle()
            raise ValueError("broken")
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(index)

    rt = await stores.enter(over(work, limit=3))
    result = await begin(rt, items=["a", "bad", "c", "d"])
    assert (result.status, str(result.error)) == ("failed", "ValueError: element 1: broken")
    assert (result.error.stage, result.error.step, "out" in result.state) == ("work", "work", False)
    assert (sorted(cancelled), begun) == ([0, 2], [0, 1, 2])
    [noted] = await entries(rt, result, "step:failure")
    assert (noted["index"], noted["type"], noted["message"]) == (1, "ValueError", "broken")


async def test_a_failure_in_a_mapping_names_its_key(stores):
    """Of a mapping, the key of the element is named, and only one failure is noted."""

    async def work(key):
        raise ValueError(f"broken {key}")

    rt = await stores.enter(over(work))
    result = await begin(rt, items={"a": 1, "b": 2})
    assert str(result.error) == "ValueError: element 'a': broken a"
    [noted] = await entries(rt, result, "step:failure")
    assert (noted["index"], noted["key"]) == (0, "a")


async def test_threads_are_left_behind(stores):
    """Threads of other elements are abandoned: they see `ctx.cancelled`, and nobody waits for them."""
    inside, told, gone = threading.Event(), threading.Event(), threading.Event()

    def work(item, ctx: StepContext):
        if item == "bad":
            inside.wait()
            raise ValueError("broken")
        inside.set()
        told.wait()
        if ctx.cancelled:
            gone.set()

    rt = await stores.enter(over(work))
    result = await begin(rt, items=["a", "bad"])
    assert str(result.error) == "ValueError: element 1: broken"
    told.set()
    assert gone.wait(LAST_RESORT)


async def test_attempts_are_the_elements_own(stores):
    """Each element has its attempts by the step's Retry; they are noted with its index, and cost the others nothing."""
    tries = {}

    async def work(item, index):
        tries[index] = tries.get(index, 0) + 1
        if tries[index] < item:
            raise ConnectionError("not now")
        return tries[index]

    rt = await stores.enter(over(work, retry=Retry(3, backoff=1)))
    result = await begin(rt, items=[1, 3, 2])
    assert result.state["out"] == [1, 3, 2]
    noted = await entries(rt, result, "step:retry")
    assert sorted((entry["index"], entry["attempt"]) for entry in noted) == [(1, 1), (1, 2), (2, 1)]
    assert await entries(rt, result, "step:start") == [{"elements": 3}]
    assert await entries(rt, result, "step:success") == [{"elements": 3}]
    result = await begin(rt, items=[1, 9])
    assert (result.error.message, result.error.attempt) == ("element 1: not now", 3)


async def test_a_timeout_is_the_elements_own(stores):
    """The step's timeout is that of each attempt of each element."""

    async def work(item):
        if item == "slow":
            await asyncio.Event().wait()

    rt = await stores.enter(over(work, timeout=5))
    result = await begin(rt, items=["a", "slow"])
    assert str(result.error).startswith("StepTimeout: element 1: step 'work' took longer than 5 s")
    assert await entries(rt, result, "step:timeout") == [{"attempt": 1, "index": 1}]


@pytest.mark.parametrize("items", [None, 7, "text"], ids=["missing", "number", "text"])
async def test_nothing_to_run_over(stores, items):
    """A path that leads to no list or mapping fails the step and says so."""
    rt = await stores.enter(over(lambda item: item))
    result = await begin(rt, **({} if items is None else {"items": items}))
    assert (result.status, result.error.type, result.error.step) == ("failed", "StateInvalid", "work")
    assert ("the state has no 'items'" if items is None else "it has to be a list or a mapping") in result.error.message


@pytest.mark.parametrize(
    "value",
    [Jump("work"), Terminate(1), object(), DELETE, float("nan")],
    ids=["jump", "terminate", "object", "delete", "nan"],
)
async def test_what_an_element_may_not_return(stores, value):
    """An instruction, a mark, and what is no data, are failures of the element."""

    async def work():
        return value

    rt = await stores.enter(over(work))
    result = await begin(rt, items=[1])
    assert (result.status, result.error.type) == (
        "failed",
        "StepFailed" if isinstance(value, Jump | Terminate) else "NotStorable",
    )
    assert result.error.message.startswith("element 0: ")


@pytest.mark.parametrize(
    "raised", [SystemExit, asyncio.CancelledError, GeneratorExit, StopIteration, StopAsyncIteration]
)
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_whatever_it_raises(stores, raised, kind):
    """Anything that a function raises is the failure of its element; the run ends, and the next one goes on."""

    async def later(item):
        await run_until_idle()
        if item:
            raise raised

    def plain(item):
        if item:
            raise raised

    rt = await stores.enter(over(later if kind == "async" else plain))
    result = await begin(rt, items=[False, True])
    assert (result.status, result.error.type) == ("failed", raised.__name__)
    assert (await begin(rt, items=[False])).status == "completed"


async def test_it_cancels_itself(stores):
    """A function that cancels its own task fails its element, whether it notices or not."""

    async def work(item):
        asyncio.current_task().cancel()
        if item == "waits":
            await asyncio.Event().wait()

    rt = await stores.enter(over(work))
    for item in ("waits", "returns"):
        assert (await begin(rt, items=[item])).error.type == "CancelledError"


async def test_one_that_does_not_end(stores, caplog):
    """An element that ignores its cancellation is left behind after `abort_grace`; the stage fails all the same."""
    free = asyncio.Event()

    async def work(item):
        if item == "bad":
            await run_until_idle()
            raise ValueError("broken")
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    rt = await stores.enter(over(work))
    result = await begin(rt, items=["deaf", "bad"])
    assert str(result.error) == "ValueError: element 1: broken"
    assert "left behind" in caplog.text
    free.set()


# ----------------------------------------------------------------------------------------------------- beside the rest
async def test_beside_other_steps(stores):
    """Such a step runs beside others of its stage; a failing sibling cancels its elements."""
    wf = Workflow("w")
    ended = []

    @wf.on("begin")
    @wf.step(stage="both", each="items")
    async def many(item, fail):
        if fail:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(item)
        return item

    @wf.step(stage="both")
    async def one(fail):
        if fail:
            await run_until_idle()
            raise ValueError("the sibling's")
        return {"one": 1}

    rt = await stores.enter(wf)
    result = await begin(rt, items=[1, 2], fail=False)
    assert (result.state["many"], result.state["one"]) == ([1, 2], 1)
    result = await begin(rt, items=[1, 2], fail=True)
    assert (str(result.error), sorted(ended)) == ("ValueError: the sibling's", [1, 2])


async def test_the_stages_timeout(stores):
    """The timeout of a stage ends all its elements."""
    work = Step("work", lambda: asyncio.Event().wait(), each="items", executor="inline")
    pipelines = [Pipeline("main", [Stage("work", [work], timeout=3)])]
    rt = await stores.enter(Workflow("w", triggers={"begin": Trigger("begin")}, pipelines=pipelines))
    result = await begin(rt, items=[1, 2])
    assert str(result.error).startswith("StepTimeout: stage 'work' took longer than 3 s")


async def test_where_it_leads(stores):
    """`then=` and `on_failure=` say what comes after; routers see the results as they were returned."""
    wf, seen = Workflow("w"), []

    @wf.on("begin")
    @wf.step(each="items", then="last", on_failure="tidy", retry=Retry(2, backoff=0))
    async def work(item):
        if not item:
            raise ValueError("broken")
        return item

    @wf.step
    async def never(): ...

    @wf.step(each="work", into="once_more")
    async def last(key, item):
        return item

    @wf.route(after="last")
    def leads(results):
        seen.append(results)

    @wf.aside
    async def tidy(failure: Failure):
        seen.append(failure)

    rt = await stores.enter(wf)
    result = await begin(rt, items={"a": 1})
    assert (await rt.timeline(result.run_id)).path() == ["work", "last"]
    assert seen.pop() == {"last": {"a": 1}}
    result = await begin(rt, items=[1, 0])
    assert (result.status, seen) == ("completed", [Failure("ValueError", "element 1: broken", "work", "work", 2)])


async def test_an_aside_stage_and_one_that_failed(stores):
    """An aside step may run over elements, also in the route of a failure."""
    wf = Workflow("w", on_failure="undo")

    @wf.on("begin")
    @wf.step
    async def work():
        raise ValueError("broken")

    @wf.aside(each="items", limit=2, into="undone")
    async def undo(item, failure: Failure, ctx: StepContext):
        return f"{item} {failure.message} {ctx.failure.step}"

    rt = await stores.enter(wf)
    assert (await begin(rt, items=[1])).state["undone"] == ["1 broken work"]


async def test_an_abort(stores):
    """An abort from outside ends all elements; the outcome is the abort's, whatever they raise."""
    reached, ended = asyncio.Event(), []

    async def work(index):
        if index == 1:
            reached.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(index)
            raise ValueError("at the end")

    rt = await stores.enter(over(work))
    [line] = (await rt.emit("begin", items=[1, 2])).lines
    await reached.wait()
    await rt.abort(line.run_id)
    assert ((await rt.wait(line.run_id)).status, sorted(ended)) == ("aborted", [0, 1])


async def test_an_abort_from_an_element(stores):
    """An element that aborts its own run goes on to its end; the others are cancelled, and the run is aborted."""
    went_on, cancelled = [], []

    async def work(item, ctx: StepContext):
        if item == "abort":
            await run_until_idle()
            await rt.abort(ctx.run_id)
            went_on.append(item)
            return
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(item)

    rt = await stores.enter(over(work))
    [line] = (await rt.emit("begin", items=["a", "abort", "b"])).lines
    assert (await rt.wait(line.run_id)).status == "aborted"
    assert (went_on, sorted(cancelled)) == (["abort"], ["a", "b"])


async def test_a_crash_in_the_middle(stores):
    """After a crash the stage begins again, with all its elements; live and recovered results are equal."""
    reached, through, calls = asyncio.Event(), asyncio.Event(), []

    async def work(item):
        calls.append(item)
        if item == 2 and not through.is_set():
            reached.set()
            await through.wait()
        return (item, dt.date(2026, 1, item))

    rt = await stores.enter(over(work, limit=1))
    [line] = (await rt.emit("begin", items=[1, 2])).lines
    await reached.wait()
    await stores.crash(rt)
    through.set()
    rt = await stores.enter(over(work, limit=1))
    result = await rt.wait(line.run_id)
    assert calls == [1, 2, 1, 2]
    assert result.state["out"] == [[1, dt.date(2026, 1, 1)], [2, dt.date(2026, 1, 2)]]
    live = await begin(rt, items=[1, 2])
    assert live.state["out"] == result.state["out"]


async def test_a_stop(stores):
    """A runtime that stops leaves the run as it was; another one begins the stage again."""
    reached, through = asyncio.Event(), asyncio.Event()

    async def work(item):
        reached.set()
        await through.wait()
        return item

    rt = await stores.enter(over(work))
    [line] = (await rt.emit("begin", items=[1, 2])).lines
    await reached.wait()
    await rt.stop(drain=0)
    through.set()
    rt = await stores.enter(over(work))
    assert (await rt.wait(line.run_id)).state["out"] == [1, 2]


async def test_services_of_the_stage(runtime):
    """Services that live as long as the stage are shared by its elements, and see the failure of one."""
    seen = []

    def transaction():
        seen.append("open")
        try:
            yield "tx"
        except ValueError:
            seen.append("roll back")
            raise

    async def work(item, tx: Annotated[str, Use("tx")]):
        if not item:
            raise ValueError("broken")
        return tx

    rt = await runtime(over(work, services=[Service("tx", transaction, scope="stage")]))
    assert (await begin(rt, items=[1, 2])).state["out"] == ["tx", "tx"]
    assert (await begin(rt, items=[0])).status == "failed"
    assert seen == ["open", "open", "roll back"]


# --------------------------------------------------------------------------------------------------------- with a model
class Line(BaseModel):
    sku: str = Field(alias="SKU")
    day: dt.date
    qty: int = 1


class Priced(BaseModel):
    line: str
    day: dt.date


class Order(BaseModel):
    lines: list[Line] = Field(default_factory=list, alias="Lines")
    by_id: dict[uuid.UUID, Line] = {}
    numbers: list[int] = [1, 2]
    tags: set[str] = set()
    rate: int = 2
    notes: list[str] = ["a"]
    out: list[Priced] = []
    found: dict[uuid.UUID, Priced] = Field(default={}, alias="Found")
    plain: list[int] = []


LINES = [{"SKU": "a", "day": "2026-01-02", "qty": "3"}, {"SKU": "b", "day": "2026-01-03"}]


@pytest.mark.parametrize("path", ["lines", "Lines"])
async def test_elements_of_a_model(stores, path):
    """With a state model elements are as it reads them, by a field's name or alias; results are stored as it says."""

    async def work(item, rate, notes):
        notes.append("mine")
        assert notes == ["a", "mine"]
        item.qty *= rate
        return Priced(line=f"{item.sku} {item.qty}", day=item.day)

    rt = await stores.enter(over(work, state=Order, each=path))
    result = await begin(rt, Lines=LINES)
    assert result.status == "completed", result.error
    assert [(one.line, one.day.day) for one in result.state.out] == [("a 6", 2), ("b 2", 3)]
    assert result.state.lines[0].qty == 3
    await stores.crash(rt)
    rt = await stores.enter(over(work, state=Order, each=path))
    assert (await rt.get_run(result.run_id, state=True)).state == result.state


async def test_a_mapping_of_a_model(stores):
    """Keys of a mapping are text as they are stored, or as their annotation wants them."""
    ids = [str(uuid.UUID(int=number)) for number in (7, 3)]

    async def work(item: Line, key: uuid.UUID):
        return {"line": f"{item.sku} {key.int}", "day": item.day}

    rt = await stores.enter(over(work, state=Order, each="by_id", into="found"))
    result = await begin(rt, by_id=dict(zip(ids, LINES, strict=True)))
    assert result.status == "completed", result.error
    assert [(key.int, one.line) for key, one in result.state.found.items()] == [(7, "a 7"), (3, "b 3")]


async def test_a_model_read_as_the_annotation_wants(stores):
    """An element of a model may be asked for as a mapping, and attempts get elements of their own."""

    async def work(item: dict, index: int, ctx: StepContext):
        item["qty"] += 1
        if ctx.attempt < 3:
            raise ValueError("again")
        return item["qty"]

    rt = await stores.enter(over(work, state=Order, each="lines", into="plain", retry=Retry(3, backoff=0)))
    payload = [{"SKU": "a", "day": "2026-01-02", "qty": 3}]
    assert (await begin(rt, Lines=payload)).state.plain == [4]


async def test_elements_that_the_model_selects(stores):
    """What a validator leaves of a list is what counts, and nothing that is stored is taken in its place."""

    class Selected(BaseModel):
        lines: list[Line]
        plain: list[int] = []

        @field_validator("lines")
        @classmethod
        def select(cls, lines):
            return [line for line in lines if line.qty > 1]

    lines = [{"SKU": "a", "day": "2026-01-02"}, {"SKU": "b", "day": "2026-01-03", "qty": 3}]
    rt = await stores.enter(over(lambda item: item.qty, state=Selected, each="lines", into="plain"))
    assert (await begin(rt, lines=lines)).state.plain == [3]
    await rt.stop()

    def work(item: dict):
        return 0

    rt = await stores.enter(over(work, state=Selected, each="lines", into="plain"))
    assert (await begin(rt, lines=lines)).error.message.startswith("element 0: 'item' does not fit its annotation")


async def test_elements_that_the_model_sorts(stores):
    """A mapping that the model sorts keeps its keys with its elements; no element is taken for another one."""

    class Sorted(BaseModel):
        items: Annotated[dict[int, str], AfterValidator(lambda held: dict(sorted(held.items())))] = {}
        lines: Annotated[list[Line], AfterValidator(lambda held: sorted(held, key=lambda line: line.sku))] = []
        named: dict[int, str] = {}
        plain: list[str] = []

    rt = await stores.enter(over(lambda item, key: f"{key} {item}", state=Sorted, each="items", into="named"))
    assert (await begin(rt, items={"2": "b", "1": "a"})).state.named == {1: "1 a", 2: "2 b"}
    await rt.stop()

    def work(item: dict):
        return item["SKU"]

    rt = await stores.enter(over(work, state=Sorted, each="lines", into="plain"))
    assert (await begin(rt, lines=LINES)).state.plain == ["a", "b"]
    failed = await begin(rt, lines=LINES[::-1])
    assert failed.error.message.startswith("element 0: 'item' does not fit its annotation")


async def test_names_and_types(runtime):
    """The names of an element are not services, unless `Use` says so."""

    class Mail: ...

    async def work(item: Annotated[Mail, Use("mail")], index: Mail | int):
        return [type(item).__name__, index]

    rt = await runtime(over(work, services=[Service("mail", Mail)]))
    assert (await begin(rt, items=[1])).state["out"] == [["Mail", 0]]


async def test_without_a_timeline(stores):
    """Without a timeline nothing of the elements is kept but the results."""
    rt = await stores.enter(over(lambda item: item), timeline=False)
    result = await begin(rt, items=[1, 2])
    entries = (await rt.timeline(result.run_id)).entries
    assert [entry.patch["out"] for entry in entries if entry.patch and "out" in entry.patch] == [[1, 2]]
    assert [entry.type for entry in entries if entry.type.startswith("step:")] == []


async def test_defaults_of_a_model(stores):
    """Elements that are a default of the model count; a set counts as it is stored."""

    async def work(item):
        return int(item) * 2

    rt = await stores.enter(over(work, state=Order, each="numbers", into="plain"))
    assert (await begin(rt)).state.plain == [2, 4]
    await rt.stop()
    rt = await stores.enter(over(work, state=Order, each="tags", into="plain"))
    assert (await begin(rt, tags=["4"])).state.plain == [8]


async def test_each_attempt_of_a_model_gets_its_own(stores):
    """What an attempt did to an instance is not seen by the next one."""

    async def work(item, ctx: StepContext):
        item.qty += 1
        if ctx.attempt == 1:
            raise ValueError("again")
        return item.qty

    rt = await stores.enter(over(work, state=Order, each="lines", into="plain", retry=Retry(2, backoff=0)))
    assert (await begin(rt, Lines=LINES)).state.plain == [4, 2]


async def test_a_result_that_does_not_fit(stores):
    """Results that do not fit the model fail the stage and name the place."""
    rt = await stores.enter(over(lambda item: "many", state=Order, each="numbers", into="plain"))
    result = await begin(rt)
    assert (result.status, result.error.type) == ("failed", "StateInvalid")
    assert "plain.0" in result.error.message
    await rt.stop()
    wrong = {"line": "a", "dya": 1}
    # One at a time: of several threads any may be the first to fail.
    rt = await stores.enter(over(lambda item: wrong, state=Order, each="numbers", into="out", limit=1))
    result = await begin(rt)
    assert result.error.message.startswith("element 0: ")
    assert "'out.0.dya'" in result.error.message


# -------------------------------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": 1.5}, "limit"),
        ({"each": 3}, "each"),
        ({"each": ""}, "each"),
        ({"into": 3}, "into"),
        ({"into": "a.b"}, "into"),
        ({"each": None}, "into"),
        ({"each": None, "into": None, "limit": 3}, "limit"),
        ({"executor": "inline", "limit": 3}, "limit"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_faults_are_found(options, path):
    """What such a step says of itself has to make sense, and so it is told by the definition."""
    with pytest.raises(InvalidDefinition) as raised:
        _ = over(lambda: None, **options).definition
    assert [place for place, _ in raised.value.faults] == [f"pipelines.main.work.work.{path}"]


async def test_faults_of_registration(runtime):
    """Paths that a model lacks, its reserved fields, and an executor for an async function, are faults."""

    class State(BaseModel):
        items: list[int]
        item: int = 0
        key: str = ""

    async def work(item: int): ...

    wf = over(work, state=State, each="itms", executor="thread")
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as raised:
        await rt.register(wf)
    at = "pipelines.main.work.work"
    expected = {"state.item", "state.key", f"{at}.each", f"{at}.into", f"{at}.executor"}
    assert {place for place, _ in raised.value.faults} == expected
    free = Workflow("free", state=State)
    free.step(lambda item, key: None, id="a")
    await rt.register(free)


# -------------------------------------------------------------------------------------------------------- the cookbook
async def test_the_first_part_of_fanout(stores):
    """Prices are made two at once, and the next step adds them up."""
    shop = Workflow("shop")
    shop.on("order.placed")

    @shop.step(each="items", limit=2, into="prices")
    async def price(item: dict):
        return item["qty"] * 2.5

    @shop.step
    def add(prices: list):
        return {"total": sum(prices)}

    rt = await stores.enter(shop)
    run = await rt.run("shop", items=[{"qty": 1}, {"qty": 4}])
    assert (run.state["prices"], run.state["total"]) == ([2.5, 10.0], 12.5)


async def test_the_calls_of_agent(stores):
    """Calls of a plan run side by side, again in each round, until somebody agrees."""

    class Task(BaseModel):
        goal: str
        calls: list[str] = []
        answers: list[str] = []
        rounds: int = 0

    agent = Workflow("agent", state=Task)
    agent.on("asked")

    @agent.step
    async def plan(goal: str, rounds: int):
        return {"calls": ["search", "add"][rounds:], "rounds": rounds + 1}

    @agent.step(each="calls", limit=4, into="answers")
    async def call(item: str):
        return f"{item} done"

    agent.wait("review", on={"agreed": "answer", "again": "plan"}, early=False)

    @agent.step
    def answer(state: Task):
        return Terminate(", ".join(state.answers))

    rt = await stores.enter(agent)
    run = await rt.run("agent", goal="sum")
    assert run.state.answers == ["search done", "add done"]
    await rt.emit("again")
    await rt.wait(run.run_id, until="rest")
    await rt.emit("agreed")
    assert (await rt.wait(run.run_id)).result == "add done"
