"""What a container holds. Data only; the verbs are in the files named after them.

House rules:

1. A node that builds nothing owns nothing but a few dictionaries. Whatever only some containers need stands as a class
   attribute that means "none yet" and becomes an instance attribute on first use: a container per run costs a
   microsecond.
2. `warm` is the fast path: key -> instance of every built singleton without params, and nothing else. Whoever drops an
   instance takes it out of `warm` in the same breath.
3. A slot is the place of one artifact in one node, for as long as the node lives; instances come and go in it.
   Dependencies are edges between slots. A transient gets a slot of its own that no dictionary knows.
4. Attributes without underscore are this room's business, not the users': they go through `ArtifactContainer`.
"""

from __future__ import annotations

import asyncio
import enum
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator
from contextvars import Context
from typing import Any, NamedTuple, Protocol, TypeAlias

from poundlock.artifacts.events import Listener, Observer
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.recipe import Recipe
from poundlock.artifacts.template import ArtifactTemplate
from poundlock.artifacts.templates import TemplateSet
from poundlock.clock import Clock, SystemClock

CleanUp: TypeAlias = Callable[..., Any]
"""Called without arguments; those of `cleanup.py` also take the failure that ends what they clean up."""


class StateSource(Protocol):
    """What a container asks of a state store; `poundlock.state.StateStore` is one."""

    def get(self) -> Any:
        """Return the current state, read-only or detached."""

    def select(self, selector: Any) -> Any:
        """Return what a dotted path, or a function of the state, gives."""

    def subscribe(self, paths: Any, fn: Callable[[Any], Any]) -> Callable[[], None]:
        """Call `fn` after each commit that touches one of the paths; returns what ends that."""


class Status(enum.Enum):
    """Where an artifact stands."""

    EMPTY = "empty"
    BUILDING = "building"
    READY = "ready"


# Reading a member of an enum class costs a look-up in its metaclass each time; these are read on every build.
EMPTY, BUILDING, READY = Status.EMPTY, Status.BUILDING, Status.READY


class Slot:
    """The place of one artifact in one node."""

    __slots__ = (
        "asker",
        "awaitable",
        "builds",
        "cancelled",
        "cleanups",
        "dependencies",
        "disposals",
        "error",
        "flight",
        "held_by",
        "instance",
        "key",
        "leaving",
        "node",
        "params",
        "previous",
        "reads_all",
        "recipe",
        "seconds",
        "selections",
        "stale",
        "status",
        "streams",
    )

    def __init__(self, node: Node, recipe: Recipe, key: Hashable | None, params: Any) -> None:
        self.node = node
        self.recipe = recipe
        self.key = key
        """Where it stands in `node.slots`; None for a transient."""
        self.params = params
        self.status = EMPTY
        self.instance: Any = None
        self.asker: Slot | Node | None = None
        """While building: who asked first, an artifact or a container. These links are the chain of an error."""
        self.awaitable: Awaitable[Any] | None = None
        """While building: what the factory has given already, where that has to be awaited."""
        self.flight: Flight | None = None
        """While building in a task: that build, which others can join."""
        self.dependencies: dict[Slot, None] | None = None
        """What the factory asked for in its body; what its parameters ask for is known from the recipe."""
        self.cleanups: list[CleanUp] | None = None
        self.disposals: list[CleanUp] | None = None
        self.selections: list[Any] | None = None
        self.reads_all = False
        """The factory has looked at the whole state; kept for the bundle's hash."""
        self.streams: list[Any] | None = None
        self.leaving: asyncio.Task[None] | None = None
        """Runs the clean-ups of the instance before; the next build waits for it."""
        self.held_by: set[asyncio.Task[None]] | None = None
        """Run clean-ups of what rested on this instance; its own come after them."""
        self.stale = False
        """Something this build has read has changed since; its result will be thrown away."""
        self.cancelled: asyncio.Event | None = None
        self.previous: Any = None
        self.builds = 0
        self.seconds = 0.0
        self.error: BaseException | None = None

    @property
    def name(self) -> str:
        """The key, with the cache key of its params if it has some."""
        return f"{self.recipe.name}[{self.key[1]!r}]" if isinstance(self.key, tuple) else self.recipe.name

    @property
    def is_leaving(self) -> bool:
        """Whether the instance before is still being cleaned up."""
        return self.leaving is not None and not self.leaving.done()

    def take_over_selections(self, transient: Slot) -> None:
        """Let this artifact be invalidated by what a transient made for it has read."""
        for selection in transient.selections or ():
            selection.slot = self
        self.selections = [*(self.selections or ()), *(transient.selections or ())] or None
        self.stale = self.stale or transient.stale
        transient.selections = None

    def unwatch(self) -> None:
        """Stop watching what the instance has selected from state."""
        for selection in self.selections or ():
            selection.end()
        self.selections = None

    def __repr__(self) -> str:
        return f"<Slot {self.name!r} in {self.node.name!r}: {self.status.value}>"


class Value(NamedTuple):
    """Something put in ready-made."""

    key: Key
    instance: Any

    def recipe(self) -> Recipe:
        """Return the recipe that gives it, for the rare case that somebody asks."""
        return Recipe(ArtifactTemplate(self.key, lambda: self.instance, type=type(self.instance)))


class Flight:
    """A build that runs in a task of its own, so that no single waiter's cancellation ends it."""

    __slots__ = ("abandoned", "error", "slot", "task", "waiters", "waits")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.task: asyncio.Task[None]
        self.waiters: set[asyncio.Future[None]] = set()
        self.waits: dict[Flight, list[tuple[Slot, ...]]] = {}
        """Other builds that this one waits for; a path back to itself would be a circle.

        For each wait, the transients through which this one asks: they have no build of their own, and belong into the
        path of a circle all the same. Noted here because a transient forgets who asked for it when it ends.
        """
        self.error: BaseException | None = None
        self.abandoned = False
        """The last waiter left, so it was cancelled."""


class Tasks:
    """The tasks a node has started: strong references, and one place to wait for them."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` in a task, in a clean context: what it builds outlives whoever asked for it."""
        task = asyncio.get_running_loop().create_task(work, name=name, context=Context())
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


_NO_TEMPLATES = TemplateSet()


class Node:
    """What a container holds; see the rules at the top of this file."""

    clock: Clock = SystemClock()
    closed = False
    calm = True
    """Nobody listens, overrides, invalidates or waits here, so plain singletons may be built in passing."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop it was first used on; another one is refused."""
    allow_select = True
    cleanup_timeout: float | None = 30.0
    owns_templates = False
    together = False
    """Its artifacts succeed or fail as one: a clean-up that fails at the end is a failure for those after it."""
    owing: dict[Slot, None] | None = None
    """Slots with clean-ups to run, in order of completion."""
    selects = False
    """An artifact here has selected state, so that something has to be unsubscribed at the end."""
    waits_to_close = False
    """A clean-up may have to be awaited."""
    flights: dict[Slot, Flight] | None = None
    index: dict[Slot, dict[Slot, None]] | None = None
    """Who in this node depends on a slot; kept from the first invalidation on."""
    borrowers: set[weakref.ref[Node]] | None = None
    """Nodes below with artifacts that depend on artifacts here."""
    lenders: dict[Node, weakref.ref[Node]] | None = None
    """Nodes above whose `borrowers` this node is among."""
    overrides: dict[str, Recipe] | None = None
    shelf: dict[str, dict[Hashable, Slot]] | None = None
    """What overrides have set aside."""
    providers: dict[str, Any] | None = None
    """dependency-injector providers of artifacts here, as far as somebody asked for one."""
    values: dict[str, Value | Recipe] | None = None
    listeners: dict[str, list[Listener]] | None = None
    observers: dict[Hashable, Observer] | None = None
    scopes: dict[str, Node] | None = None
    background: Tasks | None = None
    deferred: list[Coroutine[Any, Any, Any]] | None = None
    closing: asyncio.Task[None] | None = None
    builds = failures = invalidations = cleanups_run = 0

    def __init__(
        self,
        name: str = "",
        *,
        parents: Iterable[Any] = (),
        state: StateSource | Callable[[], StateSource] | None = None,
        clock: Clock | None = None,
        templates: TemplateSet | None = None,
        allow_select: bool = True,
        cleanup_timeout: float | None = 30.0,
    ) -> None:
        for parent in parents:
            if not isinstance(parent, Node):
                parents = [self.as_parent(each) for each in parents]
                break
        self.name = name
        self.parents: tuple[Node, ...] = parents if type(parents) is tuple else tuple(parents)
        self.templates = _NO_TEMPLATES if templates is None else templates
        self.source = state
        self.warm: dict[Any, Any] = {}
        self.slots: dict[Hashable, Slot | None] = {}
        """None stands for an artifact built in passing; `slot` and `all_slots` give it a slot."""
        if clock is not None:
            self.clock = clock
        if not allow_select:
            self.allow_select = False
        if cleanup_timeout != 30.0:
            self.cleanup_timeout = cleanup_timeout

    # ------------------------------------------------------------------------------------------------ look-ups
    def own(self, key: Key) -> Recipe | None:
        """Return the recipe this node itself has for a key: an override, a value put in, or a template."""
        if self.overrides is None and self.values is None:
            return self.templates.get(key) if type(key) is str else self.templates.find(key)
        name = key_name(key)
        if self.overrides is not None and name in self.overrides:
            return self.overrides[name]
        if self.values is not None and name in self.values:
            value = self.values[name]
            if isinstance(value, Value):
                value = self.values[name] = value.recipe()
            return value
        recipe = self.templates.find(key)
        return recipe if recipe is None or self.overrides is None else self.overrides.get(recipe.name, recipe)

    def find(self, key: Key) -> tuple[Node, Recipe] | None:
        """Return who has the recipe of a key, and the recipe: this node, else its parents in their order."""
        recipe = self.own(key)
        if recipe is not None:
            return self, recipe
        for parent in self.parents:
            found = parent.find(key)
            if found is not None:
                return found
        return None

    def slot(self, recipe: Recipe) -> Slot:
        """Return the slot of a singleton without params, made on first use."""
        name = recipe.name
        slot = self.slots.get(name)
        if slot is not None:
            return slot
        slot = Slot(self, recipe, name, None)
        if name not in self.slots:
            self.slots[name] = slot
        elif name in self.warm:
            self.slots[name] = slot
            slot.instance = self.warm[name]
            slot.status = READY
            slot.builds = 1
            self.builds += 1
        else:
            slot.status = BUILDING  # in passing, further up on this very stack
        return slot

    def slots_of(self, recipe: Recipe) -> list[Slot]:
        """Return the slots that a recipe has here: one, or with `param_key` one per key."""
        if recipe.param_key is None:
            return [self.slot(recipe)] if recipe.name in self.slots else []
        return [slot for slot in self.all_slots() if slot.recipe is recipe]

    def all_slots(self) -> list[Slot]:
        """Return all slots, in order of first use."""
        slots = []
        for key, slot in tuple(self.slots.items()):
            recipe = self.own(key) if isinstance(key, str) else None
            if slot is not None:
                slots.append(slot)
            elif recipe is not None:
                slots.append(self.slot(recipe))
        return slots

    def known(self) -> list[str]:
        """Return the keys of this very node."""
        return [*self.templates.names(), *(self.values or ())]

    def above(self) -> Iterator[Node]:
        """Yield the nodes that keys fall back to, in the order they are asked; one reachable twice comes twice."""
        for parent in self.parents:
            yield parent
            yield from parent.above()

    def store(self) -> Any:
        """Return the state store, made on first use if a maker was given; None if there is none."""
        if callable(self.source):
            self.source = self.source()
        return self.source

    # ------------------------------------------------------------------------------------------------ ownership
    def tasks(self) -> Tasks:
        """Return the owner of this node's tasks."""
        if self.background is None:
            self.background = Tasks()
        return self.background

    def owe(self, slot: Slot) -> None:
        """Remember that `slot` has clean-ups, as the newest."""
        if self.owing is None:
            self.owing = {}
        self.owing[slot] = None

    def borrow(self, lender: Node) -> None:
        """Let a node above know that artifacts here depend on its artifacts."""
        if self.lenders is None:
            self.lenders = {}
        if lender not in self.lenders:
            if lender.borrowers is None:
                lender.borrowers = set()
            reference = weakref.ref(self, lender.borrowers.discard)
            lender.borrowers.add(reference)
            self.lenders[lender] = reference

    # ------------------------------------------------------------------------------- what the container adds
    def as_parent(self, parent: Any) -> Node:
        """Return a parent as a node; dependency-injector is imported only for what is none of ours."""
        raise NotImplementedError

    async def obtain(self, key: Key, params: Any, asker: Slot | Node) -> Any:
        """Return an instance, built if need be, on behalf of `asker`."""
        raise NotImplementedError

    def obtain_now(self, key: Key, params: Any, asker: Slot | Node) -> Any:
        """Return an instance without waiting, on behalf of `asker`."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self.owing and not self.closed:
            warnings.warn(
                f"container '{self.name}' was collected without dispose() while it owed clean-ups: "
                f"use `async with`, or await dispose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
