"""Small workflows, one per primitive of pipelines, each with what happens to it and what it comes to.

A further primitive is one more entry: a function that makes the workflows, below `@scenario(...)`. Its functions note
each of their calls. What happens is a list of operations that may be done again after a crash: events have ids, and
times are counted from the beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from poundlock import (
    Condition,
    Delay,
    Event,
    Fail,
    Failure,
    Jump,
    NotPaused,
    Pause,
    Pending,
    Retry,
    RetryAfter,
    RunFinished,
    StaleResume,
    StateRef,
    StepContext,
    StepError,
    Terminate,
    Wait,
    Workflow,
    branch,
    switch,
    workflow,
)
from poundlock.testing import run_until_idle

SCENARIOS: dict[str, Scenario] = {}
BEGIN = "begin"
ID = "one"


# ------------------------------------------------------------------------------------------------ what is called
@dataclass(frozen=True)
class Call:
    """One call of a user's function.

    Attributes:
        run_id: for which run.
        place: the pipeline, the stage and the step; or the key in the record of a durable function.
        visit: what tells visits of the stage apart; empty for a durable function, whose keys come once.
        which: the attempt, and what else tells calls of one visit apart.
    """

    run_id: str
    place: str
    visit: str
    which: tuple[Any, ...]


class Calls:
    """Notes calls; `listen` hears of each. Functions that are given no context ask it for the time."""

    def __init__(self, clock, listen: Callable[[Call], None] | None = None):
        self.made: list[Call] = []
        self.clock = clock
        self._listen = listen

    def step(self, ctx, *which):
        """Note a call of a step, by its context; `which` tells calls of one attempt apart."""
        place = f"{ctx.workflow_id}/{ctx.pipeline_id}/{ctx.stage_id}/{ctx.step_id}"
        visit = ctx.idempotency_key.split("/")[3]
        self._note(Call(ctx.run_id, place, visit, (ctx.attempt, *which)))

    def keyed(self, run_id, key, *which):
        """Note a call made by a durable function under a key."""
        self._note(Call(run_id, key, "", which))

    def _note(self, call):
        self.made.append(call)
        if self._listen is not None:
            self._listen(call)


# ------------------------------------------------------------------------------------------------ what happens
@dataclass(frozen=True)
class Emit:
    """An event comes; again after a crash in between."""

    type: str
    payload: Any
    id: str

    async def __call__(self, rt, clock, start):
        await rt.emit(Event(self.type, self.payload, id=self.id))


@dataclass(frozen=True)
class Until:
    """Time passes, until so many seconds after the beginning."""

    seconds: float

    async def __call__(self, rt, clock, start):
        if clock.now() < start + self.seconds:
            await clock.run_until(start + self.seconds)


@dataclass(frozen=True)
class Answer:
    """Somebody answers the wait by hand."""

    wait: str
    patch: Any

    async def __call__(self, rt, clock, start):
        [run_id] = [run.run_id for run in (await rt.find_runs(limit=500)).items if run.parent_id is None]
        try:
            await rt.resume(run_id, self.patch, wait=self.wait, until="accepted")
        except (NotPaused, StaleResume, RunFinished):
            return  # it had happened before the crash


@dataclass(frozen=True)
class Scenario:
    """One primitive.

    Attributes:
        make: makes the workflows; the first one begins with the event `begin`.
        script: what happens after that.
        status, expected: of the first run in the end: what it terminated with, else what its state has among others.
        calls: how many calls there are.
        payload: of the event that begins.
        exact: whether only what was in flight may run again; False for durabilities that promise less.
        quick: whether it is played a hundred times; False if it starts processes.
    """

    name: str
    make: Callable[[Calls], Any]
    script: tuple[Any, ...]
    status: str
    expected: Any
    calls: int
    payload: Any = field(default_factory=dict)
    exact: bool = True
    quick: bool = True

    @property
    def operations(self):
        return Emit(BEGIN, {"id": ID, **self.payload}, "begin"), *self.script


def scenario(*script, expected, calls, status="completed", payload=None, exact=True, quick=True):
    """Add a scenario: the function below makes its workflows, and has its name."""

    def add(make):
        name = make.__name__.replace("_", " ")
        SCENARIOS[name] = Scenario(name, make, script, status, expected, calls, payload or {}, exact, quick)
        return make

    return add


async def play(made, rt, clock, start, done):
    """Let happen what is not done yet, with everything coming to rest in between. `done` has the number of each."""
    await run_until_idle(clock)
    for number, operation in enumerate(made.operations):
        if number not in done:
            await operation(rt, clock, start)
            await run_until_idle(clock)
            done.add(number)


# ------------------------------------------------------------------------------------------------ what it came to
async def all_runs(rt):
    return (await rt.find_runs(limit=500)).items


async def outcome(rt):
    """Return what all runs came to, and which they are: nothing is left of waits, slots and tasks."""
    found = []
    runs = await all_runs(rt)
    for run in runs:
        assert run.status.terminal, f"{run.workflow_id}/{run.pipeline_id} is {run.status} at {run.stage}"
        result = await rt.wait(run.run_id)
        checkpoint = await rt.store.load(run.run_id)
        assert checkpoint.waits == (), checkpoint.waits
        line = {
            "run": f"{run.workflow_id}/{run.pipeline_id}",
            "depth": len(run.lineage),
            "status": str(result.status),
            "result": result.result,
            "state": dict(result.state),
            "error": result.error and (result.error.code, str(result.error), result.error.stage, result.error.step),
            "path": (await rt.timeline(run.run_id)).path(),
            "stage": run.stage,
        }
        found.append(line)
    assert rt.list_all_runs() == []
    return sorted(found, key=repr), {run.run_id for run in runs}


def counted(calls, run_ids):
    """Return how many different calls each function had, in these runs."""
    different = {call for call in calls if call.run_id in run_ids}
    return Counter((call.place, *call.which) for call in different)


async def finished(rt, calls):
    """Return which of these calls may not be made again, as the store has it: what they came to is durable.

    These are calls of stages that are concluded, steps whose result was kept, undos that have ended, operations on the
    record of a durable function, and everything in a run that is at rest, or only waits for a time.
    """
    over = set()
    for run in await all_runs(rt):
        mine = [call for call in calls if call.run_id == run.run_id]
        if run.status not in ("running", "ready", "queued"):
            over |= set(mine)
            continue
        concluded, kept, undone = Counter(), set(), Counter()
        for entry in (await rt.timeline(run.run_id)).entries:
            place = f"{run.workflow_id}/{entry.path}"
            if entry.type in ("stage:success", "stage:failure"):
                concluded[place] += 1
            elif entry.type == "step:kept" and isinstance(entry.payload[1], dict):
                if {"result", "error"} & set(entry.payload[1]):
                    kept.add(entry.payload[0])
            elif entry.type in ("undo:success", "undo:failure"):
                undone[place] += 1
        visits = {}
        for call in mine:
            if call.visit.startswith("-"):
                known, ended = visits.setdefault(("undo", call.place), []), undone[call.place]
            elif call.visit:
                stage = call.place.rpartition("/")[0]
                known, ended = visits.setdefault(stage, []), concluded[stage]
            else:
                if call.place in kept:
                    over.add(call)
                continue
            if call.visit not in known:
                known.append(call.visit)
            if known.index(call.visit) < ended:
                over.add(call)
    return over


# ================================================================================================ the scenarios
def begun(name="w", **options):
    wf = Workflow(name, **options)
    wf.on(BEGIN)
    return wf


def noting(wf, calls, name, value=1, **options):
    """Add an async step that notes its call and returns {name: value}."""

    async def step(ctx: StepContext):
        calls.step(ctx)
        return {name: value}

    wf.step(step, id=name, **options)


# ------------------------------------------------------------------------------------------------ steps and routes
@scenario(expected={"a": 1}, calls=1)
def single_step(calls):
    wf = begun()
    noting(wf, calls, "a")
    return wf


@scenario(expected={"a": 1, "b": 2, "c": 3}, calls=3)
def three_stages(calls):
    wf = begun()

    @wf.step
    def a(ctx: StepContext):
        calls.step(ctx)
        return {"a": 1}

    noting(wf, calls, "b", 2)
    noting(wf, calls, "c", 3)
    return wf


@scenario(expected={"a": 1, "b": 2, "c": 3, "z": 1}, calls=4)
def concurrent_steps(calls):
    wf = begun()
    for value, name in enumerate("abc", 1):
        noting(wf, calls, name, value, stage="abc")
    noting(wf, calls, "z")
    return wf


def cubed(n: int):
    """Run in a process of its own."""
    return {"cube": n**3}


@scenario(expected={"cube": 27, "z": 1}, calls=1, payload={"n": 3}, quick=False)
def step_in_a_process(calls):
    wf = begun()
    wf.step(cubed, executor="process")
    noting(wf, calls, "z")
    return wf


@scenario(expected={"a": 1, "b": 2, "z": 1}, calls=3)
def concurrent_steps_each_durable(calls):
    wf = begun(durability="step")
    noting(wf, calls, "a", 1, stage="ab")
    noting(wf, calls, "b", 2, stage="ab")
    noting(wf, calls, "z")
    return wf


@scenario(expected={"a": 1, "b": 2, "n": 3}, calls=5, exact=False)
def durability_async(calls):
    return _loop(begun(durability="async"), calls)


@scenario(expected={"a": 1, "b": 2, "n": 3}, calls=5, exact=False)
def durability_exit(calls):
    return _loop(begun(durability="exit"), calls)


@scenario(expected={"a": 1, "b": 2, "n": 3}, calls=5)
def jump_loop(calls):
    return _loop(begun(), calls)


def _loop(wf, calls):
    noting(wf, calls, "a")

    @wf.step
    async def count(ctx: StepContext):
        calls.step(ctx)
        n = ctx.state.get("n", 0) + 1
        return Jump("count", patch={"n": n}) if n < 3 else {"n": n}

    noting(wf, calls, "b", 2)
    return wf


@scenario(expected={"a": 7, "big": 1, "kind": "x", "last": 1}, calls=4)
def branch_and_switch(calls):
    wf = begun()
    noting(wf, calls, "a", 7)
    wf.route(branch({Condition("a", ">", 5): "big"}, otherwise="small"), after="a")
    noting(wf, calls, "small")
    noting(wf, calls, "big")
    noting(wf, calls, "kind", "x")
    wf.route(switch("kind", {"x": "last"}, otherwise="small"), after="kind")
    noting(wf, calls, "unused")
    noting(wf, calls, "last")
    return wf


@scenario(expected="told", calls=2)
def function_router_and_aside(calls):
    wf = begun()
    noting(wf, calls, "a")

    @wf.route(after="a")
    def next_one(a: int):
        return "elsewhere" if a else "b"

    noting(wf, calls, "b")

    @wf.aside
    async def elsewhere(ctx: StepContext):
        calls.step(ctx)
        return Terminate("told")

    return wf


# ------------------------------------------------------------------------------------------------ many at once
@scenario(expected={"doubled": [2, 4, 6, 8], "z": 1}, calls=5, payload={"items": [1, 2, 3, 4]})
def each(calls):
    return _each(begun(), calls)


@scenario(expected={"doubled": [2, 4, 6, 8], "z": 1}, calls=5, payload={"items": [1, 2, 3, 4]})
def each_element_durable(calls):
    return _each(begun(durability="step"), calls)


def _each(wf, calls, retry=None):
    @wf.step(each="items", limit=2, into="doubled", retry=retry)
    async def double(item, index, ctx: StepContext):
        calls.step(ctx, index)
        if retry is not None and item == 2 and ctx.attempt == 1:
            raise RetryAfter(600)
        return item * 2

    noting(wf, calls, "z")
    return wf


@scenario(Until(1000), expected={"doubled": [2, 4, 6, 8], "z": 1}, calls=6, payload={"items": [1, 2, 3, 4]})
def each_with_long_retry(calls):
    return _each(begun(), calls, Retry(2))


@scenario(
    Emit("answered", {"id": ID, "by": "Ada"}, "answer"),
    expected={"first": 1, "checks": {"review": "Ada", "stock": {"id": ID, "reserved": 1}}, "end": 1},
    calls=5,
)
def fork(calls):
    wf = begun()
    noting(wf, calls, "first")
    review, stock = wf.pipeline("review"), wf.pipeline("stock")
    noting(review, calls, "look")
    review.wait("answer", on="answered", correlate={"id": StateRef("id")})

    @review.step
    async def decide(ctx: StepContext, by):
        calls.step(ctx)
        return Terminate(by)

    noting(stock, calls, "reserved")
    wf.fork(review, stock, input=lambda state: {"id": state["id"]}, into="checks")
    noting(wf, calls, "end")
    return wf


@scenario(expected="child 'bad' failed: ValueError: no stock", status="failed", calls=3)
def fork_that_fails_fast(calls):
    wf = begun()
    noting(wf, calls, "first")
    bad, slow = wf.pipeline("bad"), wf.pipeline("slow")

    @bad.step
    async def breaks(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("no stock")

    noting(slow, calls, "begin")
    slow.wait("never", on="never")
    wf.fork(bad, slow, id="both")
    return wf


@scenario(expected="child 'bad' failed: ValueError: no stock", status="failed", calls=3)
def fork_whose_last_one_fails(calls):
    wf = begun()
    noting(wf, calls, "first")
    slow, bad = wf.pipeline("slow"), wf.pipeline("bad")
    noting(slow, calls, "begin")
    slow.wait("never", on="never")

    @bad.step
    async def breaks(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("no stock")

    wf.fork(slow, bad, id="both")
    return wf


@scenario(
    expected={"both": {"bad": {"error": {"type": "ValueError", "message": "no stock"}}, "good": 7}, "z": 1}, calls=3
)
def fork_that_collects(calls):
    wf = begun()
    bad, good = wf.pipeline("bad"), wf.pipeline("good")

    @bad.step
    async def breaks(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("no stock")

    @good.step
    async def works(ctx: StepContext):
        calls.step(ctx)
        return Terminate(7)

    wf.fork(bad, good, into="both", on_child_failure="collect")
    noting(wf, calls, "z")
    return wf


@scenario(expected={"doubled": [2, 4, 6], "z": 1}, calls=7, payload={"numbers": [1, 2, 3]})
def map_over_a_list(calls):
    wf = begun()
    double = wf.pipeline("double")
    noting(double, calls, "begin")

    @double.step
    async def twice(item, ctx: StepContext):
        calls.step(ctx, item)
        return Terminate(item * 2)

    wf.map(double, over="numbers", limit=2, into="doubled")
    noting(wf, calls, "z")
    return wf


@scenario(
    Emit("signed", {"id": ID, "by": "Ada"}, "sign"),
    expected={"a": 1, "letter": {"id": ID, "written": 1, "by": "Ada", "sent": 1}, "z": 1},
    calls=4,
)
def call_of_another_workflow(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.call("letter", input=lambda state: {"id": state["id"]})
    noting(wf, calls, "z")
    letter = Workflow("letter")
    noting(letter, calls, "written")
    letter.wait("signature", on="signed", correlate={"id": StateRef("id")})
    noting(letter, calls, "sent")
    return wf, letter


@scenario(expected={"started": 1, "z": 1}, calls=3)
def start_of_another_run(calls):
    wf = begun()

    @wf.step
    async def post(ctx: StepContext):
        calls.step(ctx)
        await ctx.start("letter", {"to": "Ada"})
        return {"started": 1}

    noting(wf, calls, "z")
    letter = Workflow("letter")
    noting(letter, calls, "sent")
    return wf, letter


# ------------------------------------------------------------------------------------------------ time and waits
@scenario(Until(7200), expected={"a": 1, "n": 2, "z": 1}, calls=4)
def delay(calls):
    wf = begun()
    noting(wf, calls, "a")

    @wf.step
    async def again(ctx: StepContext):
        calls.step(ctx)
        n = ctx.state.get("n", 0) + 1
        return Delay("30m", then="again" if n < 2 else "z", patch={"n": n})

    noting(wf, calls, "z")
    return wf


@scenario(Emit("approved", {"id": ID, "by": "Ada"}, "approve"), expected={"a": 1, "by": "Ada", "z": 1}, calls=2)
def wait_answered_by_an_event(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.wait("approval", on="approved", correlate={"id": StateRef("id")}, timeout="1d")
    noting(wf, calls, "z")
    return wf


@scenario(
    Emit("approved", {"id": ID, "by": "Ada"}, "approve"),
    Emit("checked", {"id": ID, "ok": True}, "check"),
    expected={"a": 1, "ok": True, "by": "Ada", "z": 1},
    calls=2,
)
def wait_answered_early(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.wait("check", on="checked", correlate={"id": StateRef("id")})
    wf.wait("approval", on="approved", correlate={"id": StateRef("id")})
    noting(wf, calls, "z")
    return wf


@scenario(
    Answer("approval", {"by": "Ada"}),
    expected={"a": 1, "by": "Ada", "told": "api", "z": 1},
    calls=3,
)
def wait_answered_by_hand(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.route(Pause(Wait("approved", id="approval"), resume_at="told"), after="a")
    noting(wf, calls, "passed over")

    @wf.step
    async def told(ctx: StepContext):
        calls.step(ctx)
        return {"told": ctx.resume and ctx.resume.reason}

    noting(wf, calls, "z")
    return wf


@scenario(
    Emit("asked", {"id": ID}, "ask"),
    Emit("rejected", {"id": ID}, "reject"),
    expected="refused",
    calls=3,
)
def wait_that_routes(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.wait(
        "approval",
        on={"approved": "pay", "rejected": "refuse", "asked": "tell"},
        correlate={"id": StateRef("id")},
        early=False,
    )
    noting(wf, calls, "pay")

    @wf.aside(then="approval")
    async def tell(ctx: StepContext):
        calls.step(ctx)
        return {"told": 1}

    @wf.aside
    async def refuse(ctx: StepContext):
        calls.step(ctx)
        return Terminate("refused")

    return wf


@scenario(
    Until(2.5 * 86400),
    Emit("approved", {"id": ID}, "approve"),
    expected={"reminders": 2, "z": 1},
    calls=3,
)
def wait_that_times_out(calls):
    wf = begun()
    wf.wait("approval", on="approved", correlate={"id": StateRef("id")}, timeout="1d", on_timeout="remind")
    noting(wf, calls, "z")

    @wf.aside(then="approval")
    async def remind(ctx: StepContext):
        calls.step(ctx)
        return {"reminders": ctx.state.get("reminders", 0) + 1}

    return wf


@scenario(Until(2 * 86400), status="failed", expected="approval", calls=1)
def wait_that_fails_late(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.wait("approval", on="approved", timeout="1d")
    noting(wf, calls, "z")
    return wf


@scenario(Until(7200), expected={"a": 1, "b": 3, "z": 1}, calls=5)
def retry_with_long_delay(calls):
    wf = begun()
    noting(wf, calls, "a", stage="ab")

    @wf.step(stage="ab", retry=Retry(3, backoff="10m", max="1h"))
    async def b(ctx: StepContext):
        calls.step(ctx)
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return {"b": ctx.attempt}

    noting(wf, calls, "z")
    return wf


@scenario(Until(60), expected={"b": 3, "z": 1}, calls=4)
def retry_with_short_delay(calls):
    wf = begun()

    @wf.step(retry=Retry(3, backoff="1s"))
    async def b(ctx: StepContext):
        calls.step(ctx)
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return {"b": ctx.attempt}

    noting(wf, calls, "z")
    return wf


@scenario(Until(7200), expected={"a": 1, "submit": {"done": 3}, "z": 1}, calls=6)
def polling_step(calls):
    wf = begun()
    noting(wf, calls, "a", stage="ab")

    async def check(job, ctx: StepContext):
        passed = round(ctx.now() - job["since"])
        calls.step(ctx, "check", passed)
        return {"submit": {"done": passed // 600}} if passed >= 1800 else Pending()

    @wf.step(stage="ab", poll=check, every="10m", max_wait="24h")
    async def submit(ctx: StepContext):
        calls.step(ctx, "submit")
        return {"since": ctx.now()}

    noting(wf, calls, "z")
    return wf


@scenario(Until(9000), status="failed", expected="STEP_TIMEOUT", calls=3)
def polling_step_given_up(calls):
    wf = begun()

    async def check(job, ctx: StepContext):
        calls.step(ctx, "check", round(ctx.now() - job["since"]))
        return Pending()

    @wf.step(poll=check, every="30m", max_wait="70m")
    async def submit(ctx: StepContext):
        calls.step(ctx, "submit")
        return {"since": ctx.now()}

    noting(wf, calls, "z")
    return wf


@scenario(
    Emit("signed", {"id": ID}, "sign"),
    expected={"a": 1, "letters": 2, "z": 1},
    calls=5,
)
def wait_before_starts_of_other_runs(calls):
    wf = begun()
    noting(wf, calls, "a")
    wf.wait("signature", on="signed", correlate={"id": StateRef("id")})

    @wf.step
    async def post(ctx: StepContext):
        calls.step(ctx)
        await ctx.start("letter", {"to": "Ada"})
        await ctx.start("letter", {"to": "Bob"}, key="second")
        return {"letters": 2}

    noting(wf, calls, "z")
    letter = Workflow("letter")
    noting(letter, calls, "sent")
    return wf, letter


@scenario(
    *(Emit("counted", {"id": ID, "n": n}, f"count {n}") for n in (1, 2, 3)),
    expected={"sum": 6, "rounds": 3, "z": 1},
    calls=4,
)
def wait_in_a_loop(calls):
    wf = begun()
    wf.wait("next", on="counted", correlate={"id": StateRef("id")})

    @wf.step
    async def add(ctx: StepContext, n: int):
        calls.step(ctx)
        rounds = ctx.state.get("rounds", 0) + 1
        patch = {"sum": ctx.state.get("sum", 0) + n, "rounds": rounds}
        return patch if rounds == 3 else Jump("next", patch=patch)

    noting(wf, calls, "z")
    return wf


# ------------------------------------------------------------------------------------------------ failures
def _undoing(calls, wf):
    def undo(name):
        async def take_back(ctx: StepContext):
            calls.step(ctx, f"undo {name}")

        return take_back

    for name in ("seat", "room"):
        noting(wf, calls, name, undo=undo(name))
    return wf


@scenario(status="failed", expected="ValueError: refused", calls=5)
def undo_on_failure(calls):
    wf = _undoing(calls, begun())

    @wf.step
    async def pay(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("refused")

    return wf


@scenario(Until(7200), status="failed", expected="ValueError: refused", calls=7)
def undo_with_long_retry(calls):
    wf = begun()

    async def free(ctx: StepContext):
        calls.step(ctx, "undo")
        if ctx.attempt < 2:
            raise ValueError("not yet")

    for name in ("seat", "room"):
        noting(wf, calls, name, undo=free, retry=Retry(3, backoff="20m", max="1h"))

    @wf.step
    async def pay(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("refused")

    return wf


@scenario(status="failed", expected="no money", calls=5)
def undo_after_fail_with_patch(calls):
    wf = _undoing(calls, begun())

    @wf.step
    async def pay(ctx: StepContext):
        calls.step(ctx)
        return Fail("no money", patch={"left": 0})

    return wf


@scenario(expected={"a": 1, "told": "b: broken", "z": 1}, calls=4)
def failure_route(calls):
    wf = begun()
    noting(wf, calls, "a")

    @wf.step(on_failure="tidy")
    async def b(ctx: StepContext):
        calls.step(ctx)
        raise RuntimeError("broken")

    noting(wf, calls, "z")

    @wf.aside(then="z")
    async def tidy(failure: Failure, ctx: StepContext):
        calls.step(ctx)
        return {"told": f"{failure.step}: {failure.message}"}

    return wf


@scenario(Answer("__failure__", {"mended": True}), expected={"a": 1, "b": 1, "z": 1, "mended": True}, calls=4)
def pause_on_failure(calls):
    wf = begun(on_failure="pause")
    noting(wf, calls, "a")

    @wf.step
    async def b(ctx: StepContext):
        calls.step(ctx)
        if "mended" not in ctx.state:
            raise ValueError("no header")
        return {"b": 1}

    noting(wf, calls, "z")
    return wf


@scenario(Until(7200), status="failed", expected="RUN_TIMEOUT", calls=1)
def deadline_that_fails(calls):
    wf = begun(timeout="1h")
    noting(wf, calls, "a")
    wf.wait("approval", on="approved")
    noting(wf, calls, "z")
    return wf


@scenario(Until(7200), expected={"a": 1, "late": 1}, calls=2)
def deadline_that_leads_to_a_stage(calls):
    wf = begun(timeout="1h", on_timeout="late")
    noting(wf, calls, "a")
    wf.wait("approval", on="approved")

    @wf.aside
    async def late(ctx: StepContext):
        calls.step(ctx)
        return {"late": 1}

    return wf


# ------------------------------------------------------------------------------------------------ several at once
@scenario(expected={"pair": {"left": 2, "right": {"n": 2, "right": 1}}, "rounds": 2, "z": 1}, calls=7)
def fork_in_a_loop(calls):
    wf = begun()
    left, right = wf.pipeline("left"), wf.pipeline("right")

    @left.step
    async def only(ctx: StepContext, n):
        calls.step(ctx)
        return Terminate(n)

    noting(right, calls, "right")
    wf.fork(left, right, id="pair", input=lambda state: {"n": state.get("rounds", 0) + 1})

    @wf.step
    async def again(ctx: StepContext):
        calls.step(ctx)
        rounds = ctx.state.get("rounds", 0) + 1
        return Jump("pair", patch={"rounds": rounds}) if rounds < 2 else {"rounds": rounds}

    noting(wf, calls, "z")
    return wf


@scenario(
    Emit("said", {"id": ID, "n": 1}, "said"),
    expected={"outer": {"middle": {"id": ID, "m": 1, "inner": {"low": 1}}}, "z": 1},
    calls=3,
)
def fork_in_a_fork(calls):
    wf = begun()
    middle, low = wf.pipeline("middle"), wf.pipeline("low")
    noting(middle, calls, "m")
    middle.fork(low, into="inner")
    low.wait("asks", on="said", correlate={"id": StateRef("id")})

    @low.step
    async def end(ctx: StepContext, n):
        calls.step(ctx)
        return Terminate(n)

    wf.fork(middle, into="outer", input=lambda state: {"id": state["id"]})
    noting(wf, calls, "z")
    return wf


@scenario(expected={"all": {"quick": 1}, "z": 1}, calls=3)
def join_of_the_first(calls):
    wf = begun()
    quick, slow = wf.pipeline("quick"), wf.pipeline("slow")

    @quick.step
    async def first(ctx: StepContext):
        calls.step(ctx)
        return Terminate(1)

    noting(slow, calls, "begin")
    slow.wait("never", on="never")
    wf.fork(slow, quick, into="all", join="any")
    noting(wf, calls, "z")
    return wf


@scenario(Until(7200), status="failed", expected="RUN_TIMEOUT", calls=3)
def deadline_of_a_fork(calls):
    wf = begun(timeout="1h")
    child = wf.pipeline("child")
    noting(child, calls, "begin")
    child.wait("never", on="never")

    async def take_back(ctx: StepContext):
        calls.step(ctx, "undo")

    noting(wf, calls, "a", undo=take_back)
    wf.fork(child, id="one")
    return wf


@scenario(Until(7200), expected={"late": 1}, calls=4)
def deadline_between_attempts(calls):
    wf = begun(timeout="50m", on_timeout="late")

    @wf.step(retry=Retry(9, backoff="20m", factor=1, max="1h"))
    async def tries(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("not yet")

    @wf.aside
    async def late(ctx: StepContext):
        calls.step(ctx)
        return {"late": 1}

    return wf


@scenario(status="failed", expected="child 'bad' failed: ValueError: no stock", calls=4)
def undo_after_a_fork(calls):
    wf = begun()
    good, bad = wf.pipeline("good"), wf.pipeline("bad")

    async def take_back(ctx: StepContext):
        calls.step(ctx, "undo")

    noting(wf, calls, "seat", undo=take_back)
    noting(good, calls, "g")

    @bad.step
    async def breaks(ctx: StepContext):
        calls.step(ctx)
        raise ValueError("no stock")

    wf.fork(good, into="first")
    wf.fork(bad, into="second")
    return wf


@scenario(Until(5000), expected={"told": "StepTimeout", "z": 1}, calls=4, payload={"items": [1, 2]})
def map_that_takes_too_long(calls):
    wf = begun()
    one = wf.pipeline("one")
    noting(one, calls, "begin")
    one.wait("never", on="never")
    wf.map(one, over="items", into="done", timeout="1h", on_failure="tidy")
    noting(wf, calls, "z")

    @wf.aside(then="z")
    async def tidy(failure: Failure, ctx: StepContext):
        calls.step(ctx)
        return {"told": failure.type}

    return wf


# ------------------------------------------------------------------------------------------------ durable functions
@scenario(
    Emit("said", {"to": "letter"}, "said"),
    Until(4000),
    expected=["again", 2],
    calls=3,
)
def durable_function_with_generations(calls):
    async def work(run_id, name):
        calls.keyed(run_id, name)
        return name

    @workflow("w", on=BEGIN)
    def generations(step, event):
        n = event.payload.get("n", 0)
        name = yield step.run(work, step.run_id, f"work {n}", key=f"work {n}")
        if n < 2:
            yield step.sleep("10m")
            return step.continue_as_new({"n": n + 1})
        return ["again", n] if name == "work 2" else None

    return generations


@scenario(
    Emit("signed", {"id": ID, "by": "Ada"}, "sign"),
    expected=["before", "after"],
    calls=4,
)
def durable_function_that_starts_a_run(calls):
    async def work(run_id, name):
        calls.keyed(run_id, name)
        return name

    @workflow("w", on=BEGIN)
    async def starts(step):
        before = await step.run(work, step.run_id, "before", key="before")
        await step.start("letter", {"id": ID})
        await step.wait_for("signed", correlate={"id": ID})
        return [before, await step.run(work, step.run_id, "after", key="after")]

    letter = Workflow("letter")
    noting(letter, calls, "written")
    letter.wait("signature", on="signed", correlate={"id": StateRef("id")})
    noting(letter, calls, "sent")
    return starts, letter


@scenario(
    Emit("early", {"n": 1}, "early"),
    Until(60),
    Emit("answered", {"n": 2}, "answer"),
    Until(7200),
    expected=[1, [2, "told"], "slept", "beside", "last", "caught"],
    calls=6,
)
def durable_function(calls):
    async def work(run_id, name):
        calls.keyed(run_id, name)
        if name == "failing":
            raise ValueError("caught")
        return name

    @workflow("w", on=BEGIN, waits=[Wait("early")])
    async def busy(step):
        def run(name):
            return step.run(work, step.run_id, name, key=name)

        await run("first")
        early = await step.wait_for("early")

        async def waits():
            answer = await step.wait_for("answered")
            return [answer.payload["n"], await run("told")]

        async def sleeps():
            await step.sleep("1h")
            return await run("slept")

        found = await step.gather(waits(), sleeps(), run("beside"))
        try:
            await run("failing")
        except StepError as error:
            text = error.message
        return [early.payload["n"], *found, await run("last"), text]

    return busy


@scenario(Until(9000), expected=["polled", None, 3], calls=6)
def durable_function_that_polls_and_retries(calls):
    async def check(run_id, since):
        passed = round(calls.clock.now() - since)
        calls.keyed(run_id, "check", passed)
        return "polled" if passed >= 1200 else Pending()

    async def try_again(run_id, since):
        passed = round(calls.clock.now() - since)
        calls.keyed(run_id, "try", passed)
        if passed < 1800:
            raise ValueError("not yet")
        return 3

    @workflow("w", on=BEGIN)
    async def polls(step):
        polled = await step.poll(check, step.run_id, step.now(), every="10m", key="check")
        late = await step.wait_for("never", timeout="1h")
        retry = Retry(5, backoff="15m", factor=1, max="1h")
        return [polled, late, await step.run(try_again, step.run_id, step.now(), key="try", retry=retry)]

    return polls
