"""Random pipelines come to what a plain interpreter of the same definition comes to, wherever their processes die.

Each kind of stage is a class that says twice what it means: `add` gives it to a workflow, and `do` does it in a few
lines of plain Python. Both have to come to the same state, in the same order of stages, with the same undos.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support import Stores

from poundlock import (
    Advance,
    Condition,
    Delay,
    Event,
    Fail,
    Jump,
    NotPaused,
    Pending,
    Retry,
    RetryAfter,
    StaleResume,
    StateRef,
    StepContext,
    Terminate,
    Workflow,
    branch,
)
from poundlock.testing import VirtualClock, run_until_idle

KEYS = ("a", "b", "c")
ITEMS = [1, 2, 3]
HOUR = 3600.0
FOLLOWING, END = "the next stage", "the end"


class StageFails(Exception):
    """Said by the interpreter: the stage fails, after this patch."""

    def __init__(self, patch=None):
        super().__init__()
        self.patch = patch or {}


class RunEnds(Exception):
    """Said by the interpreter: the run ends with this result."""


@dataclass
class World:
    """What the interpreter knows besides the state: how many events were used, and what is to be undone."""

    events: Counter = field(default_factory=Counter)
    undos: list = field(default_factory=list)

    def event(self, kind):
        self.events[kind] += 1
        return {kind: self.events[kind]}


# ------------------------------------------------------------------------------------------------ kinds of stages
@dataclass(frozen=True)
class Steps:
    """Steps beside each other that add to keys, some in threads, some with retries, some with an undo; and a router."""

    id: str
    steps: tuple
    route: tuple | None
    aside: bool = False
    then: str | None = None

    def add(self, wf, keys):
        for place, (key, amount, sync, undo, tries, delay) in enumerate(self.steps):
            self._add(wf, keys, place, key, amount, sync, tries, delay, undo)
        if self.route is not None:
            key, least, above, below, function = self.route
            if function:
                wf.route(after=self.id)(lambda state: (above if state.get(key, 0) > least else below) or Advance())
            else:
                wf.route(branch({Condition(key, ">", least): above}, otherwise=below), after=self.id)

    def _add(self, wf, keys, place, key, amount, sync, tries, delay, undo):
        def add(state, ctx):
            keys[self.id, place].add(ctx.idempotency_key)
            if ctx.attempt <= tries:
                raise RetryAfter(delay)
            return {key: state.get(key, 0) + amount}

        async def beside(state, ctx: StepContext):
            return add(state, ctx)

        def threaded(state, ctx: StepContext):
            return add(state, ctx)

        async def take_back(): ...

        options = {"retry": Retry(4) if tries else None, "undo": take_back if undo else None, "stage": self.id}
        if self.aside:
            options["then"] = self.then
        (wf.aside if self.aside else wf.step)(threaded if sync else beside, id=f"{self.id}_{place}", **options)

    def do(self, world, state):
        patch = {}
        for place, (key, amount, _, undo, _, _) in enumerate(self.steps):
            patch[key] = state.get(key, 0) + amount
            if undo:
                world.undos.append(f"{self.id}_{place}")
        if self.route is None:
            return patch, FOLLOWING
        key, least, above, below, _ = self.route
        return patch, (above if {**state, **patch}.get(key, 0) > least else below) or FOLLOWING


@dataclass(frozen=True)
class Loop:
    """Back to an earlier stage, so many times, counted in the state."""

    id: str
    back: str
    times: int

    aside = False

    def add(self, wf, keys):
        @wf.step(id=self.id)
        async def loop(state, ctx: StepContext):
            keys[self.id, 0].add(ctx.idempotency_key)
            rounds = state.get(self.id, 0) + 1
            return Jump(self.back, patch={self.id: rounds}) if rounds <= self.times else {self.id: rounds}

    def do(self, world, state):
        rounds = state.get(self.id, 0) + 1
        return {self.id: rounds}, self.back if rounds <= self.times else FOLLOWING


@dataclass(frozen=True)
class Leap:
    """To another stage, perhaps an aside one, perhaps after a delay; or the end of the run."""

    id: str
    target: str | None
    delay: float
    ends: bool

    aside = False

    def add(self, wf, keys):
        @wf.step(id=self.id)
        async def leap(state, ctx: StepContext):
            keys[self.id, 0].add(ctx.idempotency_key)
            if self.ends and state.get("a", 0) > 2:
                return Terminate({"a": state["a"]}, patch={"ended": True})
            if self.delay:
                return Delay(self.delay, then=self.target, patch={self.id: 1})
            return Jump(self.target, patch={self.id: 1}) if self.target else {self.id: 1}

    def do(self, world, state):
        if self.ends and state.get("a", 0) > 2:
            state["ended"] = True
            raise RunEnds({"a": state["a"]})
        return {self.id: 1}, self.target or FOLLOWING


@dataclass(frozen=True)
class Each:
    """Once per element; the second one fails so many times."""

    id: str
    tries: int
    delay: float

    aside = False

    def add(self, wf, keys):
        @wf.step(id=self.id, each="items", limit=2, retry=Retry(4) if self.tries else None)
        async def double(item, state, ctx: StepContext):
            if item == 2 and ctx.attempt <= self.tries:
                raise RetryAfter(self.delay)
            return item * 2 + state.get("a", 0)

    def do(self, world, state):
        return {self.id: [item * 2 + state.get("a", 0) for item in state["items"]]}, FOLLOWING


@dataclass(frozen=True)
class Poll:
    """Something slow, asked for again and again."""

    id: str
    every: float
    times: int

    aside = False

    def add(self, wf, keys):
        async def check(job, ctx: StepContext):
            over = ctx.now() - job["since"] >= self.every * self.times
            return {self.id: job["n"] + 1} if over else Pending()

        @wf.step(id=self.id, poll=check, every=self.every)
        async def submit(state, ctx: StepContext):
            return {"n": state.get(self.id, 0), "since": ctx.now()}

    def do(self, world, state):
        return {self.id: state.get(self.id, 0) + 1}, FOLLOWING


@dataclass(frozen=True)
class Waits:
    """A wait for an event, sent early or in time, that may lead elsewhere; or a wait whose time runs out."""

    id: str
    late: bool
    target: str | None
    mapped: bool

    aside = False

    def add(self, wf, keys):
        correlate = {"id": StateRef("id")}
        if self.late:
            wf.wait(self.id, on=f"never.{self.id}", timeout=600, on_timeout=self.target or "resume")
        elif self.mapped and self.target:
            wf.wait(self.id, on={self.id: self.target}, correlate=correlate)
        else:
            wf.wait(self.id, on=self.id, correlate=correlate, resume_at=self.target)

    def do(self, world, state):
        return ({} if self.late else world.event(self.id)), self.target or FOLLOWING


@dataclass(frozen=True)
class Fails:
    """A stage that fails until it is mended: by its failure's stage, or by hand; or that fails the run."""

    id: str
    way: str
    by_patch: bool

    aside = False

    @property
    def mended(self):
        return f"{self.id}_mended"

    def add(self, wf, keys):
        @wf.step(id=self.id, on_failure=self.way)
        async def fails(state, ctx: StepContext):
            keys[self.id, 0].add(ctx.idempotency_key)
            if not state.get(self.mended):
                if self.by_patch:
                    return Fail("not yet", patch={self.id: "said"})
                raise ValueError("not yet")
            return {self.id: "done"}

    def do(self, world, state):
        if not state.get(self.mended):
            raise StageFails({self.id: "said"} if self.by_patch else {})
        return {self.id: "done"}, FOLLOWING


@dataclass(frozen=True)
class Mends:
    """The stage of a failure."""

    id: str
    of: str
    then: str | None

    aside = True

    def add(self, wf, keys):
        @wf.aside(id=self.id, then=self.then)
        async def mends(failure, state):
            return {f"{self.of}_mended": True, self.id: failure.stage}

    def do(self, world, state):
        return {f"{self.of}_mended": True, self.id: self.of}, self.then or END


@dataclass(frozen=True)
class Fork:
    """Children beside each other, that add, sleep, wait, end early or fail until that is mended."""

    id: str
    children: tuple
    way: str
    collect: bool

    aside = False

    @property
    def mended(self):
        return f"{self.id}_mended"

    def add(self, wf, keys):
        for place, (amount, nap, waits, ends, fails) in enumerate(self.children):
            self._add(wf.pipeline(f"{self.id}_{place}"), f"{self.id}_{place}", amount, nap, waits, ends, fails)
        wf.fork(
            *[f"{self.id}_{place}" for place in range(len(self.children))],
            id=self.id,
            input=lambda state: {"id": state["id"], "n": state.get("a", 0), "mended": state.get(self.mended, False)},
            on_child_failure="collect" if self.collect else "fail_fast",
            on_failure=self.way,
        )

    def _add(self, pipeline, name, amount, nap, waits, ends, fails):
        @pipeline.step
        async def first(state):
            if fails and not state["mended"]:
                raise ValueError(name)
            return Delay(nap, patch={"n": state["n"] + amount}) if nap else {"n": state["n"] + amount}

        if waits:
            pipeline.wait("asks", on=name, correlate={"id": StateRef("id")})

        @pipeline.step
        async def last(state):
            return Terminate(state["n"] * 10) if ends else {"last": state["n"]}

    def do(self, world, state):
        mended, failed = state.get(self.mended, False), False
        results = {}
        for place, (_, _, _, _, fails) in enumerate(self.children):
            if fails and not mended:
                failed = True
                error = {"type": "ValueError", "message": f"{self.id}_{place}"}
                results[f"{self.id}_{place}"] = {"error": error}
        if failed and not self.collect:
            raise StageFails
        for place, (amount, _, waits, ends, _) in enumerate(self.children):
            name = f"{self.id}_{place}"
            if name in results:
                continue
            n = state.get("a", 0) + amount
            whole = {"id": state["id"], "n": n, "mended": mended, **(world.event(name) if waits else {}), "last": n}
            results[name] = n * 10 if ends else whole
        return {self.id: results}, FOLLOWING


@dataclass(frozen=True)
class Map:
    """A child per element."""

    id: str
    limit: int
    nap: float

    aside = False

    def add(self, wf, keys):
        pipeline = wf.pipeline(f"{self.id}_one")

        @pipeline.step
        async def first(item, index):
            return Delay(self.nap * index, patch={"item": item + 1}) if self.nap and index else {"item": item + 1}

        @pipeline.step
        async def last(item):
            return Terminate(item * 2)

        wf.map(pipeline, over="items", limit=self.limit, id=self.id)

    def do(self, world, state):
        return {self.id: [(item + 1) * 2 for item in state["items"]]}, FOLLOWING


# ------------------------------------------------------------------------------------------------ the interpreter
def interpret(stages):
    """Return what a run of these stages comes to: status, result, state, path and undos."""
    by_id = {stage.id: stage for stage in stages}
    course = [stage.id for stage in stages if not stage.aside]
    world, path, handler = World(), [], None
    state: dict[str, Any] = {"id": 1, "items": ITEMS}
    at = course[0]
    while at != END:
        stage = by_id[at]
        path.append(at)
        if handler not in (None, at) and not stage.aside:
            handler = None
        try:
            patch, to = stage.do(world, state)
        except RunEnds as ends:
            return "completed", ends.args[0], state, path, []
        except StageFails as failure:
            state |= failure.patch
            if stage.way == "fail" or handler is not None:
                return "failed", None, state, path, world.undos[::-1]
            if stage.way == "pause":
                state[stage.mended] = True
            else:
                at = handler = stage.way
            continue
        state = {**state, **{key: _merged(state.get(key), value) for key, value in patch.items()}}
        if to == FOLLOWING and stage.aside:
            to = stage.then or END
        elif to == FOLLOWING:
            to = (*course, END)[course.index(at) + 1]
        at = to
    return "completed", None, state, path, []


def _merged(old, new):
    """Merge as a patch is merged: mappings key by key."""
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


# ------------------------------------------------------------------------------------------------ what is drawn
DELAYS = st.sampled_from([0, 0.5, 5, 7200])
OFTEN, SELDOM = st.sampled_from([True, True, False]), st.sampled_from([False, False, False, True])
STEP = st.tuples(st.sampled_from(KEYS), st.integers(1, 3), st.booleans(), OFTEN, st.sampled_from([0, 0, 1, 2]), DELAYS)
CHILD = st.tuples(
    st.integers(1, 3),
    st.sampled_from([0, 0, 5, 7200]),
    st.booleans(),
    st.booleans(),
    SELDOM,
)
KINDS = (Steps, Steps, Steps, Loop, Leap, Each, Poll, Waits, Fails, Fails, Fork, Map)


@st.composite
def pipelines(draw):
    """Stages: only a Loop leads back, and each only so many times; asides stand behind the others."""
    names = [f"s{place}" for place in range(draw(st.integers(2, 7)))]
    stages, asides = [], []
    for place, name in enumerate(names):
        further = names[place + 1 :]

        def target(further=further):
            return draw(st.sampled_from([None, *further]))

        def way(name=name, place=place, target=target):
            said = draw(st.sampled_from(["stage", "stage", "fail", "fail", "pause"]))
            if said == "stage":
                said = f"{name}_mend"
                then = draw(st.sampled_from([None, *names[place:]]))
                asides.append(Mends(said, name, then))
            return said

        kind = draw(st.sampled_from(KINDS))
        if kind is Steps:
            routes = (
                st.tuples(
                    st.sampled_from(KEYS), st.integers(0, 4), st.sampled_from(further), st.just(target()), st.booleans()
                )
                if further
                else st.none()
            )
            steps = tuple(draw(st.lists(STEP, min_size=1, max_size=3)))
            stages.append(Steps(name, steps, draw(st.one_of(st.none(), routes))))
        elif kind is Loop:
            stages.append(Loop(name, draw(st.sampled_from(names[: place + 1])), draw(st.integers(1, 2))))
        elif kind is Leap:
            to = target()
            if draw(st.booleans()):
                aside = Steps(f"{name}_aside", tuple(draw(st.lists(STEP, min_size=1, max_size=2))), None, True, to)
                asides.append(aside)
                to = aside.id
            stages.append(Leap(name, to, draw(DELAYS), draw(st.booleans())))
        elif kind is Each:
            stages.append(Each(name, draw(st.integers(0, 2)), draw(DELAYS)))
        elif kind is Poll:
            stages.append(Poll(name, draw(st.sampled_from([1, 600])), draw(st.integers(1, 3))))
        elif kind is Waits:
            stages.append(Waits(name, draw(st.booleans()), target(), draw(st.booleans())))
        elif kind is Fails:
            stages.append(Fails(name, way(), draw(st.booleans())))
        elif kind is Fork:
            children = tuple(draw(st.lists(CHILD, min_size=1, max_size=3)))
            stages.append(Fork(name, children, way(), draw(st.booleans())))
        else:
            stages.append(Map(name, draw(st.integers(1, 3)), draw(st.sampled_from([0, 5, 7200]))))
    return reachable([*stages, *asides])


def reachable(stages):
    """Return the stages without those that nothing leads to, which a definition must not have."""
    while True:
        faults = workflow_of(stages, "stage", {}).draft()[1]
        gone = {path.rpartition(".")[2] for path, said in faults if "leads here" in said}
        assert len(gone) == len(faults), faults
        if not gone:
            return tuple(stages)
        stages = [stage for stage in stages if stage.id not in gone]


LIVES = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 15), st.sampled_from(["before", "after"])),
        st.tuples(st.integers(0, 6), st.just("stop")),
    ),
    max_size=4,
)


def workflow_of(stages, level, keys):
    wf = Workflow("w", durability=level)
    wf.on("begin")
    for stage in stages:
        stage.add(wf, keys)
    return wf


# ------------------------------------------------------------------------------------------------ what happens
class Course:
    """The outside of a run: it answers waits and lets time pass, until nothing is left to do."""

    def __init__(self, clock, early):
        self.clock = clock
        self.early = list(early)
        self.begun = False
        self.sent = Counter(early)

    async def move(self, rt):
        """Do the next thing, and again if the process died meanwhile; False once all runs have ended."""
        await run_until_idle(self.clock)
        if not self.begun:
            await rt.emit(Event("begin", {"id": 1, "items": ITEMS}, id="begin"))
            for kind in self.early:
                await rt.emit(Event(kind, {"id": 1, kind: 1}, id=f"{kind} 1"))
            self.begun = True
            return True
        left = [run for run in (await rt.find_runs(limit=500)).items if not run.status.terminal]
        for run in left:
            for wait in run.waits:
                if not wait.parked or "/" in wait.id:
                    continue
                if wait.id == "__failure__":
                    with contextlib.suppress(NotPaused, StaleResume):  # it had happened before the process died
                        await rt.resume(run.run_id, {f"{run.stage}_mended": True}, until="accepted")
                    return True
                kind = wait.events[0] if wait.events else "never"
                if not kind.startswith("never"):
                    number = self.sent[kind] + 1
                    await rt.emit(Event(kind, {"id": 1, kind: number}, id=f"{kind} {number}"))
                    self.sent[kind] = number
                    return True
        if left:
            await self.clock.run_for(HOUR)
        return bool(left)


async def live(rt, course, store, moves):
    """Let things happen until everything has ended, the process dies, or so many moves were made; whether it ended."""

    async def on():
        count = 0
        while moves is None or count < moves:
            if not await course.move(rt):
                return True
            count += 1
            assert count < 400, [str(run) for run in (await rt.find_runs()).items]
        return False

    living = asyncio.create_task(on())
    crashed = asyncio.create_task(store.crashed.wait())
    await asyncio.wait([living, crashed], return_when=asyncio.FIRST_COMPLETED)
    crashed.cancel()
    if store.dead:
        living.cancel()
        await asyncio.wait([living])
        return False
    return await living


async def check(stages, level, kind, lives, early, window, timeline):
    keys = defaultdict(set)
    clock = VirtualClock(autojump=False)
    with tempfile.TemporaryDirectory() as folder:
        place = Stores(kind, Path(folder), clock)
        course = Course(clock, early)
        try:
            ended = False
            for number, how in (*lives, (None, "stop")):
                store = place.store()
                if how != "stop":
                    store.crash = (number, how)
                made = workflow_of(stages, level, keys)
                rt = await place.enter(made, store=store, pause_window=window, timeline=timeline)
                ended = await live(rt, course, store, number if how == "stop" else None)
                if ended:
                    break
                await (place.crash(rt) if store.dead else rt.stop(drain=0))
            [run] = [run for run in (await rt.find_runs(limit=500)).items if run.parent_id is None]
            result = await rt.wait(run.run_id)
            log = await rt.timeline(run.run_id)
            undone = [entry.path.rpartition("/")[2] for entry in log.entries if entry.type == "undo:success"]
            assert (await rt.store.load(run.run_id)).waits == ()
            found = str(result.status), result.result, log.state_at(), log.path(), undone
        finally:
            await place.close()
            clock.close()
    status, value, state, path, undos = interpret(stages)
    assert found == (status, value, state, path if timeline else [], undos)
    visits = Counter(path)
    for (stage, _), different in keys.items():
        assert len(different) >= visits[stage], stage
        if level in ("stage", "step"):  # with the others a crash takes back what came, and so the place in the log
            assert len(different) == visits[stage], stage


@settings(max_examples=80)
@given(
    stages=pipelines(),
    level=st.sampled_from(["stage", "stage", "step", "async", "exit"]),
    kind=st.sampled_from(["memory", "sqlite"]),
    lives=LIVES,
    data=st.data(),
    window=st.sampled_from([0, 60]),
    timeline=OFTEN,
)
def test_a_pipeline_does_what_it_says(stages, level, kind, lives, data, window, timeline):
    """Status, result, state, order of stages and undos are those of the interpreter, whatever dies when.

    Each visit of a stage has one idempotency key.
    """
    waits = [stage.id for stage in stages if isinstance(stage, Waits) and not stage.late]
    early = data.draw(st.lists(st.sampled_from(waits), unique=True)) if waits else []
    asyncio.run(check(stages, level, kind, lives, early, window, timeline))
