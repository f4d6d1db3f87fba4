"""The modes on a real runtime, against a model of it: whatever happens at the same time, whenever the process dies.

Calls are made one after another or at the same time; commits are held, and let go in between; the process dies with
commits before, in and after the store. What is found at rest must be one of the worlds that the model allows.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from support import OrderedStore
from support_machine import StoresMachine
from support_modes_machine import ANSWER_TIMEOUT, ENDED, NAP, RESTS, Act, Rules, World, later, outcomes

from poundlock import (
    Delay,
    Event,
    Exclusive,
    Jump,
    NotPaused,
    Pause,
    Pipeline,
    RunFinished,
    Serialized,
    SingletonLoop,
    Stage,
    StateRef,
    Step,
    Transient,
    Trigger,
    Wait,
    Workflow,
)
from poundlock.model.receipts import ReceiptLine
from poundlock.model.runs import NEEDS_SLOT, RunQuery

KEYS = ("", "b")
MOVES = ["start", "start", "write", "answer", "write", "answer", "both", "both"]
WHAT = [*["emit"] * 3, "again", *["open"] * 4, "answer", "answer", "resume", "abort", "abort", "tick"]
plans = st.builds(
    Act,
    st.sampled_from(WHAT),
    st.integers(0, 11),
    st.sampled_from(KEYS),
    st.sampled_from(["ask", "ask", "nap", "go"]),
    st.sampled_from([0, 0, 1, 3]),
    st.sampled_from([1.0, NAP, ANSWER_TIMEOUT]),
)
MANY = 7
"""Runs at the same time: the orders in which they may go on are tried one by one."""
capacities = st.sampled_from([None, None, 0, 1, 2])
rules_of_modes = st.one_of(
    st.builds(Rules, st.just("transient"), st.just(""), capacities, st.booleans(), st.booleans()),
    st.builds(Rules, st.just("serialized"), st.just(""), capacities, st.booleans(), st.booleans()),
    st.builds(
        Rules,
        st.just("singleton"),
        st.sampled_from(["drop", "signal", "replace", "replace"]),
        st.none(),
        st.booleans(),
        st.just(False),
    ),
    st.builds(
        Rules,
        st.just("exclusive"),
        st.sampled_from(["reject", "queue_single"]),
        st.none(),
        st.booleans(),
        st.booleans(),
    ),
)


class ModesMachine(StoresMachine):
    """One workflow with a mode; its runs pass two gates, and rest in between if they are to."""

    def __init__(self):
        super().__init__()
        self.stores.wrapper = OrderedStore
        self.number = 0
        self.gates: dict[tuple[int, str], asyncio.Event] = {}
        self.inside: dict[str, set[int]] = {}
        self.life = 0
        self.began: Counter = Counter()
        self.wrong: list[str] = []
        self.failed = False
        self.history: list[str] = []
        self.ids: dict[str, int] = {}
        self.states: dict[str, dict] = {}
        self.events: dict[int, Act] = {}
        self.worlds: set[World] = set()
        self.leaving: asyncio.Task | None = None

    def do(self, work):
        """Run a coroutine, and what follows from it; whoever waits for ever is found."""

        async def begun():
            task = asyncio.create_task(work)
            await self.clock.run_until_idle()
            return task

        task = self.runner.run(begun())
        if not task.done():
            self.failed = True
            raise AssertionError(f"{work} waits for ever")
        return task.result()

    # ---------------------------------------------------------------------------------------------------- the runtime
    def mode(self, slots):
        rules, shared = self.rules, {"key": "key" if self.keyed else None, "holds_slot_while_paused": self.rules.holds}
        match rules.kind:
            case "transient":
                return Transient(slots, capacity=rules.capacity, **shared)
            case "serialized":
                return Serialized(capacity=rules.capacity, **shared)
            case "singleton":
                return SingletonLoop(rules.on_busy, **shared)
            case "exclusive":
                return Exclusive(rules.on_busy, **shared)

    def workflow(self, slots):
        def step(name):
            async def run(event, state):
                return await self.passes(name, event.payload["n"], event.payload["key"], state)

            return Step(name, run)

        def initial(event):
            n = event.payload["n"]
            return {f"s{n}": True, "me": n} if self.rules.early else {f"s{n}": True}

        def route(event):
            return Jump({"ask": "ask", "nap": "nap"}.get(event.payload["kind"], "two"))

        ask = Wait("answer", correlate={"n": StateRef("me")}, timeout=ANSWER_TIMEOUT, on_timeout="resume")
        stages = [
            Stage("one", [step("one")], router=route),
            Stage("nap", router=Delay(NAP, then="two")),
            Stage("ask", router=Pause(ask)),
            Stage("two", [step("two")]),
        ]
        triggers = {f"p{p}": Trigger(f"go.{p}", priority=p, map=initial) for p in (0, 1, 3)}
        return Workflow("w", triggers=triggers, pipelines=[Pipeline("main", stages)], mode=self.mode(slots))

    async def passes(self, name, n, key, state):
        """Be one of the two steps of a run."""
        trail = state.get("trail", [])
        self.began[self.life, n, name] += 1
        if name in trail or self.began[self.life, n, name] > 1:
            self.wrong.append(f"step {name} of run {n} runs again")
        inside = self.inside.setdefault(key if self.keyed else "", set())
        inside.add(n)
        if len(inside) > self.most:
            self.wrong.append(f"{sorted(inside)} are active, of {self.most} at most")
        try:
            await self.gate(n, name).wait()
        finally:
            inside.discard(n)
        return {"trail": [*trail, name], "me": n}

    def gate(self, n, name):
        return self.gates.setdefault((n, name), asyncio.Event())

    @initialize(rules=rules_of_modes, slots=st.integers(1, 2), keyed=st.booleans(), window=st.sampled_from([0, 60, 60]))
    def begin(self, rules, slots, keyed, window):
        self.rules, self.keyed, self.window = rules, keyed, window
        self.most = slots = slots if rules.kind == "transient" else 1
        self.rt = self.do(self.stores.enter(self.workflow(slots), pause_window=window))
        self.worlds = {World(self.clock.now(), slots)}

    # ---------------------------------------------------------------------------------------------------------- calls
    @property
    def registered(self):
        return next(iter(self.worlds)).registered

    @property
    def slots(self):
        return next(iter(self.worlds)).slots

    def living(self):
        return sorted({run.n for world in self.worlds for run in world.runs if not run.ended})

    def act_of(self, plan, *, ticks=False):
        """Return the call that a plan stands for as things are; None if there is none.

        What is drawn does not depend on what was found, which may depend on threads.
        """
        living = self.living()
        what = plan.what
        if what == "tick":
            return Act("tick", number=plan.number) if ticks else None
        if what == "again" and self.events:
            return self.events[sorted(self.events)[plan.n % len(self.events)]]
        if what == "emit" or (what != "again" and not living):
            if len(living) >= MANY:
                return None
            self.number += 1
            opens = (0, 0, 1, 2)[plan.n % 4]
            act = Act("emit", self.number, plan.key if self.keyed else "", plan.kind, plan.priority, opens)
            self.events[act.n] = act
            return act
        if what == "again":
            return None
        n = living[plan.n % len(living)]
        if what == "open":
            closed = [name for name in ("one", "two") if not self.gate(n, name).is_set()]
            return Act("open", n, kind=closed[plan.priority % len(closed)] if closed else "two")
        return Act(what, n)

    def run_id(self, n):
        return next((run_id for run_id, of in self.ids.items() if of == n), None)

    async def perform(self, act):
        """Make a call, and return its answer."""
        match act.what:
            case "open":
                self.gate(act.n, act.kind).set()
            case "tick":
                self.clock.advance(act.number)
            case "emit":
                for name in ("one", "two")[: int(act.number)]:
                    self.gate(act.n, name).set()
                payload = {"n": act.n, "key": act.key, "kind": act.kind}
                receipt = await self.rt.emit(Event(f"go.{act.priority}", payload, id=f"e{act.n}"))
                [line] = receipt.lines
                return line
            case "answer":
                [line] = (await self.rt.emit("answer", n=act.n)).lines
                gone = line.reason == "the run has continued meanwhile"
                return "unmatched" if gone else str(line.verdict), line.reason == "waits for a slot"
            case "resume" | "abort":
                run_id = self.run_id(act.n)
                try:
                    if act.what == "abort":
                        await self.rt.abort(run_id)
                    else:
                        await self.rt.resume(run_id, {}, until="accepted")
                except (NotPaused, RunFinished) as error:
                    return type(error).__name__
        return None

    def idle(self):
        self.runner.run(self.clock.run_until_idle())

    def told(self, answer):
        """Return an answer as the model gives it: a line of a receipt names runs by their ids."""
        if not isinstance(answer, ReceiptLine):
            return answer
        about = next((n for run_id, n in self.ids.items() if answer.reason.endswith(run_id)), None)
        verdict = str(answer.verdict)
        return verdict, self.ids.get(answer.run_id), about if verdict in ("queued", "replaced") else None

    def expect(self, acts, answers):
        """Follow all worlds through calls, and keep those that are as what is found."""
        self.learn()
        answers = {place: self.told(answer) for place, answer in answers.items()}
        before = self.worlds
        possible = {after for world in before for after in outcomes(self.rules, world, tuple(acts), answers)}
        self.keep(possible, f"{acts}\n  answered {answers}")

    def keep(self, possible, what):
        if self.leaving is not None and self.leaving.done():
            self.runner.run(self.finished(self.leaving))
            self.leaving = None
        self.history.append(what)
        self.worlds = {world for world in possible if not self.differs(world)}
        self.failed = not self.worlds or bool(self.wrong)
        if not self.worlds:
            what = "\n".join([*self.history, what])
            told = "".join(f"\n  {self.differs(world)}: {world}" for world in possible)
            raise AssertionError(f"after {what}\n  none of {len(possible)} worlds fits:{told}")
        assert not self.wrong, self.wrong

    async def finished(self, task):
        await task

    # ---------------------------------------------------------------------------------------------------------- rules
    @rule(plan=plans)
    def one(self, plan):
        """Make one call."""
        act = self.act_of(plan)
        if act is not None:
            self.expect([act], {0: self.do(self.perform(act))})

    @rule(plans=st.lists(plans, min_size=2, max_size=4), moves=st.lists(st.sampled_from(MOVES), max_size=14))
    def at_once(self, plans, moves):
        """Make calls at the same time, with their commits on the way."""
        self.race(plans, moves, crash=False)

    @rule(plans=st.lists(plans, min_size=2, max_size=4), moves=st.lists(st.sampled_from(MOVES), max_size=14))
    def at_once_again(self, plans, moves):
        """The same, so that it is done more often."""
        self.race(plans, moves, crash=False)

    @rule(plans=st.lists(plans, min_size=1, max_size=4), moves=st.lists(st.sampled_from(MOVES), max_size=14))
    def crash(self, plans, moves):
        """The same, and then the process dies."""
        self.race(plans, moves, crash=True)

    def race(self, plans, moves, *, crash):
        store = self.rt.store
        store.hold = store.hold_after = lambda _: True
        acts = [act for plan in plans if (act := self.act_of(plan, ticks=True)) is not None]
        tasks = []
        for move in moves:
            self.move(move, acts, tasks)
        if crash:
            store.die()
        while not crash and len(tasks) < len(acts):
            self.move("start", acts, tasks)
        while store.held:
            store.held[0].release()
            self.idle()
        store.hold = store.hold_after = None
        acts = acts[: len(tasks)]
        answers = {place: task.result() for place, task in enumerate(tasks) if task.done()}
        if crash:
            self.crashed(acts, answers, tasks)
            return
        self.failed = len(answers) < len(acts)
        assert not self.failed, f"{acts} are not all answered: {answers}"
        self.expect(acts, answers)

    def move(self, move, acts, tasks):
        """Start the next call, or let the oldest commit be written, or the oldest written one be answered, or both."""
        if move == "start":
            if len(tasks) < len(acts):
                tasks.append(self.runner.run(self.spawn(acts[len(tasks)])))
            self.idle()
            return
        for after, names in ((False, ("write", "both")), (True, ("answer", "both"))):
            held = [each for each in self.rt.store.held if each.after == after]
            if move in names and held:
                held[0].release()
                self.idle()

    async def spawn(self, act):
        return asyncio.create_task(self.perform(act))

    def crashed(self, acts, answers, tasks):
        async def gone():
            await self.stores.crash(self.rt)
            for task in [*tasks, *([] if self.leaving is None else [self.leaving])]:
                task.cancel()
                await asyncio.wait([task])

        self.runner.run(gone())
        self.leaving = None
        self.enter([*acts, Act("restart", number=self.slots)], answers)

    def enter(self, acts, answers):
        self.life += 1
        self.rt = self.do(self.stores.enter(self.workflow(int(acts[-1].number)), pause_window=self.window))
        self.expect(acts, answers)

    async def over(self, task):
        task.cancel()
        await asyncio.wait([task])

    @rule(seconds=st.sampled_from([1.0, 30.0, NAP, 99.0, ANSWER_TIMEOUT, 250.0]))
    def pass_time(self, seconds):
        end = self.clock.now() + seconds
        self.runner.run(self.clock.run_for(seconds))
        possible = {after for world in self.worlds for after in later(self.rules, world, end)}
        self.learn()
        self.keep(possible, f"{seconds} s")

    @rule(
        what=st.sampled_from(["finish", "finish", "abort", "crash", "stop"]),
        down=st.sampled_from([0, 0, 150]),
        slots=st.integers(1, 3),
    )
    def come_and_go(self, what, down, slots):
        """The workflow leaves or comes back, or the runtime does."""
        slots = slots if self.rules.kind == "transient" else 1
        if what in ("crash", "stop") or self.registered == "closing":
            self.most = max(self.most, slots)
            self.restart(what, down, slots)
        elif self.registered == "yes":
            self.deregister(what)
        else:
            self.most = max(self.most, slots)
            self.register(slots)

    def restart(self, ending, down, slots):
        self.do(self.stores.crash(self.rt) if ending != "stop" else self.rt.stop(drain=0))
        if self.leaving is not None:
            self.runner.run(self.over(self.leaving))
            self.leaving = None
        self.clock.advance(down)
        self.worlds = {world._replace(now=self.clock.now()) for world in self.worlds}
        self.enter([Act("restart", number=slots)], {})

    def deregister(self, active):
        async def leave():
            self.leaving = asyncio.create_task(self.rt.deregister("w", active))

        self.do(leave())
        self.expect([Act("deregister", kind=active)], {0: None})

    def register(self, slots):
        self.life += 1
        self.do(self.rt.register(self.workflow(slots)))
        self.expect([Act("register", number=slots)], {0: None})

    # ---------------------------------------------------------------------------------------------------- what is found
    def learn(self):
        """Read what there is, and which run an event has led to where its receipt was lost."""
        store = self.rt.store
        page = self.runner.run(self.read(store.find(RunQuery(workflow="w", limit=500))))
        self.records = {}
        for record in page.items:
            run_id = record.identity.run_id
            if run_id not in self.ids:
                checkpoint = self.runner.run(self.read(store.checkpoint(run_id)))
                self.ids[run_id] = checkpoint.event.payload["n"]
            assert self.ids[run_id] not in self.records, "two runs of one event"
            self.records[self.ids[run_id]] = record
            if record.head.status == "completed" and run_id not in self.states:
                checkpoint = self.runner.run(self.read(store.checkpoint(run_id)))
                self.states[run_id] = checkpoint.state
        keys = KEYS if self.keyed else ("",)
        loads = self.runner.run(self.read(store.read_loads([("w", key) for key in keys])))
        self.loads = dict(zip(keys, [load for load, _ in loads], strict=True))
        self.driven = {self.ids[live.run.run_id] for live in self.rt._core.runs.all_driven()}

    async def read(self, reading):
        return await reading

    def differs(self, world):
        """Return what of a world is not what was found; "" if all is."""
        if sorted(self.records) != [run.n for run in world.runs]:
            return f"runs {sorted(self.records)}"
        if (world.registered == "closing") != (self.leaving is not None):
            return "deregistered or not"
        for run in world.runs:
            head = self.records[run.n].head
            if str(head.status) != run.status:
                return f"run {run.n} is {head.status}"
            if run.status == "completed":
                state = self.states[self.records[run.n].identity.run_id]
                signals = {int(name[1:]) for name in state if name[0] == "s"}
                if signals != run.signals or state["trail"] != ["one", "two"]:
                    return f"run {run.n} ended with {state}"
            if not run.ended:
                slot = "needs" if head.slot == NEEDS_SLOT else head.slot
                if slot != run.slot:
                    return f"run {run.n} has slot {head.slot}"
                if head.wake_at != run.due and run.status in RESTS:
                    return f"run {run.n} is due at {head.wake_at}"
        driving = {run.n for run in world.runs if run.status == "running"}
        inside = set().union(*self.inside.values())
        for found in (self.driven, inside):
            if found != driving:
                return f"{sorted(found)} are driven"
        for key, load in self.loads.items():
            active, queue = world.active(key), world.queue(key)
            if load[0] != len(active) or load[2] != len(queue) or load[4] != len(world.line(key)):
                return f"the load of '{key}' is {load}"
            if self.rules.kind in ("singleton", "exclusive") and active and self.ids.get(load.active_id) != active[0].n:
                return f"run {self.ids.get(load.active_id)} counts as the active one"
        return ""

    # ------------------------------------------------------------------------------------------------------ the end
    @invariant()
    def no_slot_is_free_while_runs_wait(self):
        """Nobody waits while a slot is free, and no more are active than there are slots."""
        for world in self.worlds:
            for key in world.keys:
                active = len(world.active(key))
                assert active <= self.most
                if world.registered == "yes" and (world.queue(key) or world.line(key)):
                    assert active >= world.slots

    def teardown(self):
        try:
            if self.worlds and not self.failed:
                self.end_all()
        finally:
            super().teardown()

    def end_all(self):
        """Once all gates are open and all waits are answered, every run ends, and nothing is left."""
        if self.registered == "no":
            self.register(self.slots)
        opens = [Act("open", n, kind=name) for n in self.living() for name in ("one", "two")]
        for act in opens:
            self.do(self.perform(act))
            self.expect([act], {0: None})
        if self.registered != "yes":
            self.register(self.slots)
        for _ in range(len(self.living()) + 1):
            self.pass_time(ANSWER_TIMEOUT)
        self.learn()
        for n, record in self.records.items():
            assert str(record.head.status) in ENDED, n
        assert all(load.idle for load in self.loads.values())
        for act in self.events.values():
            self.expect([act], {0: self.do(self.perform(act))})


class ModesMachineOnSqlite(ModesMachine):
    storage = "sqlite"


TestModesInMemory = ModesMachine.TestCase
TestModesInMemory.settings = settings(max_examples=20, stateful_step_count=12)
TestModesOnSqlite = ModesMachineOnSqlite.TestCase
TestModesOnSqlite.settings = settings(max_examples=6, stateful_step_count=12)
