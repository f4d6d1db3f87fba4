"""The container against a simple model: random graphs, scopes, invalidations, cancellations and failures.

The model knows what is built, what each instance was built from, and which clean-ups are pending. The rules act on
both; the invariants compare them after every step.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from typing import Annotated

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle as Drawn
from hypothesis.stateful import RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule

from poundlock.artifacts import ArtifactContainer, Use
from poundlock.errors import ArtifactCycle, ArtifactFailed, ArtifactInvalid
from poundlock.state import StateStore
from poundlock.testing import run_until_idle

KEYS = [f"k{number}" for number in range(7)]
LEVELS = ("global", "workflow", "run")


class Instance:
    """What a factory of the machine builds: it remembers what it was built from."""

    def __init__(self, key, parts, selected):
        self.key = key
        self.parts = parts
        self.selected = selected
        self.alive = True


class Machine(RuleBasedStateMachine):
    """One chain of containers; every artifact may rest on artifacts of its own level or above."""

    waiters = Drawn("waiters")

    @initialize(data=st.data())
    def build_graph(self, data):
        self.loop = asyncio.new_event_loop()
        self.store = StateStore({"a": 0, "b": 0})
        self.level, self.needs, self.kind, self.selects = {}, {}, {}, {}
        for position, key in enumerate(KEYS):
            self.level[key] = data.draw(st.integers(0, 2), label=f"level of {key}")
            reachable = [other for other in KEYS[:position] if self.level[other] <= self.level[key]]
            self.needs[key] = (
                data.draw(st.lists(st.sampled_from(reachable), unique=True, max_size=3)) if reachable else []
            )
            self.kind[key] = data.draw(st.sampled_from(["generator", "async", "context"]))
            self.selects[key] = data.draw(st.sampled_from([None, "a", "b"])) if self.kind[key] == "context" else None
        self.failing, self.alive, self.cleaned, self.gates = set(), [], [], {}
        self.containers = {}
        self.open_from(0)

    def open_from(self, start):
        """Make new containers from a level downwards."""
        for number, name in enumerate(LEVELS):
            if number >= start:
                parents = (self.containers[LEVELS[number - 1]],) if number else ()
                container = self.containers[name] = ArtifactContainer(name, parents=parents, state=self.store)
                for key in KEYS:
                    if self.level[key] == number:
                        container.register(key, self.factory(key))

    def factory(self, key):
        def make(parts):
            if key in self.failing:
                raise OSError(key)
            if not all(part.alive for part in parts.values()):
                raise OSError(f"{key} rests on something that has gone meanwhile")  # it has to be built again then
            instance = Instance(key, parts, None)
            self.alive.append(instance)
            return instance

        def end(instance):
            assert instance.alive, f"{key} was cleaned up twice"
            for other in self.alive:
                assert instance not in other.parts.values(), (
                    f"{key} was cleaned up before {other.key}, which rests on it"
                )
            instance.alive = False
            self.alive.remove(instance)

        def generator(**parts):
            instance = make(parts)
            yield instance
            end(instance)

        async def later(**parts):
            gate = self.gates.get(key)
            if gate is not None:
                await gate.wait()
            instance = make(parts)
            yield instance
            end(instance)

        async def context(ctx):
            selected = ctx.select(self.selects[key]) if self.selects[key] else None
            parts = {name: await ctx.require(name) for name in self.needs[key]}
            instance = make(parts)
            instance.selected = selected
            ctx.on_cleanup(lambda: end(instance))
            return instance

        if self.kind[key] == "context":
            return context
        function = generator if self.kind[key] == "generator" else later
        return with_parameters(function, self.needs[key])

    def run(self, work):
        async def within():
            result = await work
            await run_until_idle()
            return result

        return self.loop.run_until_complete(within())

    def container_of(self, key):
        return self.containers[LEVELS[self.level[key]]]

    def everything_below(self, key):
        """Return the keys that an artifact rests on, itself included."""
        found, todo = set(), [key]
        while todo:
            at = todo.pop()
            if at not in found:
                found.add(at)
                todo += self.needs[at]
        return found

    # ---------------------------------------------------------------------------------------------------- rules
    @rule(key=st.sampled_from(KEYS))
    @precondition(lambda self: not self.gates)
    def require(self, key):
        answer = self.run(self.containers["run"].resolve(key))
        blocked = {
            other for other in self.everything_below(key) if other in self.failing and not self.built_before(other)
        }
        if not blocked:
            assert answer.ok, answer.error
            assert answer.instance.alive
            assert answer.instance is self.containers["run"].peek(key)
        elif not answer.ok:
            assert isinstance(answer.error, ArtifactFailed)

    def built_before(self, key):
        return self.containers["run"].peek(key) is not None

    @rule(key=st.sampled_from(KEYS))
    @precondition(lambda self: not self.gates)
    def require_many_at_once(self, key):
        async def together():
            return await asyncio.gather(*(self.containers["run"].resolve(key) for _ in range(3)))

        answers = self.run(together())
        assert len({id(answer.instance) for answer in answers}) == 1

    @rule(key=st.sampled_from(KEYS))
    def require_without_waiting(self, key):
        async def now():
            try:
                return self.containers["run"].require_nowait(key)
            except (ArtifactInvalid, ArtifactFailed):
                return None

        instance = self.run(now())
        assert instance is self.containers["run"].peek(key)

    @rule(key=st.sampled_from(KEYS), rebuild=st.booleans())
    def invalidate(self, key, rebuild):
        async def change():
            try:
                await self.containers["run"].invalidate(key, rebuild)
            except ArtifactFailed:
                assert rebuild

        rebuild = rebuild and not self.gates
        before = [instance for instance in self.alive if key in self.everything_below(instance.key)]
        self.run(change())
        assert not any(instance.alive for instance in before)

    @rule(path=st.sampled_from(["a", "b"]), value=st.integers(0, 2))
    def change_state(self, path, value):
        async def commit():
            self.store.patch({path: value})

        self.run(commit())

    @rule(key=st.sampled_from(KEYS))
    def let_fail(self, key):
        self.failing ^= {key}

    @rule(target=waiters, key=st.sampled_from(KEYS))
    def begin_to_wait(self, key):
        """Ask in a task of its own, with every asynchronous factory held up, and leave it waiting."""

        async def begin():
            for held in KEYS:
                self.gates.setdefault(held, asyncio.Event())
            task = asyncio.get_running_loop().create_task(self.containers["run"].resolve(key))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # a disposal may end it
            await run_until_idle()
            return task

        return self.run(begin())

    @rule(task=consumes(waiters))
    def cancel_a_waiter(self, task):
        async def cancel():
            task.cancel()
            await asyncio.wait({task})

        self.run(cancel())

    @rule()
    def let_through(self):
        async def open_gates():
            for gate in self.gates.values():
                gate.set()
            self.gates = {}

        self.run(open_gates())

    @rule(key=st.sampled_from(KEYS))
    @precondition(lambda self: not self.gates)
    def override(self, key):
        async def replaced():
            container = self.container_of(key)
            original = container.peek(key)
            fake = Instance(key, {}, None)
            async with container.override(key, fake):
                assert container.peek(key) is None
                assert self.containers["run"].require_nowait(key) is fake
                for other in KEYS:
                    await self.containers["run"].resolve(other)
                for instance in self.alive:
                    if key in self.needs[instance.key]:
                        assert instance.parts[key] is fake
            assert container.peek(key) is original

        self.run(replaced())

    @rule(start=st.integers(0, 2))
    def dispose_from(self, start):
        """Dispose of a level and those below it, the lowest first, and open new ones."""

        async def end():
            for name in reversed(LEVELS[start:]):
                await self.containers[name].dispose()

        for gate in self.gates.values():
            gate.set()
        self.gates = {}
        self.run(end())
        assert not [instance for instance in self.alive if self.level[instance.key] >= start]
        self.open_from(start)

    # ----------------------------------------------------------------------------------------------- invariants
    @invariant()
    def instances_rest_on_what_is_current(self):
        """What is built was built from what is built now, and from the state that is now."""
        for key in KEYS if hasattr(self, "containers") else ():
            instance = self.containers["run"].peek(key)
            if instance is None:
                continue
            assert instance.alive
            for name, part in instance.parts.items():
                assert part is self.containers["run"].peek(name)
            if self.selects[key]:
                assert instance.selected == self.store.select(self.selects[key])

    @invariant()
    def nothing_is_kept_that_is_not_reachable(self):
        """Every instance that is alive is the one its container holds."""
        for instance in getattr(self, "alive", ()):
            held = self.container_of(instance.key).peek(instance.key)
            assert held is instance

    @invariant()
    def counters_agree(self):
        for name in getattr(self, "containers", ()):
            statistics = self.containers[name].statistics()
            level = LEVELS.index(name)
            assert statistics.live == sum(self.level[instance.key] == level for instance in self.alive)
            assert statistics.building == 0 or self.gates

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        try:
            if "run" in getattr(self, "containers", ()):  # drawing the graph may have been given up half-way
                self.dispose_from(0)
                self.run(self.containers["run"].dispose())
                pending = asyncio.all_tasks(self.loop)
                assert not pending, pending
        finally:
            self.loop.close()


def with_parameters(function, needs):
    """Return a factory of the same kind that asks for `needs` by annotation."""
    names = ", ".join(needs)
    passed = ", ".join(f"{name}={name}" for name in needs)
    if inspect.isasyncgenfunction(function):
        text = f"async def factory({names}):\n    async for each in function({passed}):\n        yield each\n"
    else:
        text = f"def factory({names}):\n    yield from function({passed})\n"
    space = {"function": function}
    exec(text, space)
    factory = space["factory"]
    factory.__annotations__ = {name: Annotated[object, Use(name)] for name in needs}
    return factory


TestContainer = Machine.TestCase
TestContainer.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_random_graphs_with_circles_never_hang():
    """Whatever needs whatever, each resolution ends: with an instance, or with the circle it is in."""
    edges = st.dictionaries(st.sampled_from(KEYS), st.sets(st.sampled_from(KEYS), max_size=3), max_size=7)

    @given(edges=edges, later=st.sets(st.sampled_from(KEYS)), transient=st.sets(st.sampled_from(KEYS)))
    def check(edges, later, transient):
        container = ArtifactContainer()
        for key in KEYS:
            scope = "transient" if key in transient else "singleton"
            container.register(key, _asking(sorted(edges.get(key, ())), key in later), scope=scope)

        async def all_at_once():
            return await asyncio.gather(*(container.resolve(key) for key in KEYS))

        answers = dict(zip(KEYS, asyncio.run(all_at_once()), strict=True))
        for key, answer in answers.items():
            if _reaches_a_circle(key, edges):
                assert isinstance(answer.error, ArtifactCycle)
                path = answer.error.fields["cycle"]
                assert path[0] == path[-1]
                assert all(below in edges[above] for above, below in itertools.pairwise(path))
            else:
                assert answer.ok, answer.error

    check()


def _asking(needs, later):
    async def make_later(ctx):
        return [await ctx.require(need) for need in needs] or "leaf"

    def make(ctx, **parts):
        return list(parts.values()) or "leaf"

    if later:
        return make_later
    space = {}
    exec(f"def factory({', '.join(needs)}):\n    return [{', '.join(needs)}] or 'leaf'\n", space)
    space["factory"].__annotations__ = {name: Annotated[object, Use(name)] for name in needs}
    return space["factory"]


def _reaches_a_circle(key, edges, way=()):
    return key in way or any(_reaches_a_circle(below, edges, (*way, key)) for below in edges.get(key, ()))
