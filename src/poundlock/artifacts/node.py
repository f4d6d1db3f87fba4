"""The data of a container; the operations are in the files named after them.

House rules:

1. A node that builds nothing owns only a few dictionaries. What only some containers need is a class attribute that
   means "none yet", and becomes an instance attribute on first use: a container per run costs a microsecond.
2. `warm` is a cache: key -> instance of every built singleton without params, and nothing else. Code that drops an
   instance removes it from `warm` in the same step, without an await between.
3. A slot is the place of one artifact in one node, as long as the node exists; its instances change. Dependencies are
   edges between slots. A transient gets a slot of its own that is in no dictionary.
4. Attributes without underscore are internal to this package; users go through `ArtifactContainer`.
"""

from __future__ import annotations

import asyncio
import enum
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Iterator
from contextvars import Context
from typing import Any, Protocol, TypeAlias

from poundlock.artifacts.events import Listener, Observer
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.recipe import Recipe
from poundlock.artifacts.template import ArtifactTemplate
from poundlock.artifacts.templates import TemplateSet
from poundlock.clock import Clock, SystemClock
from poundlock.records import NamedTuple

CleanUp: TypeAlias = Callable[..., Any]
"""Called without arguments; those of `cleanup.py` also take the failure of the work that used the artifact."""


class StateSource(Protocol):
    """What a container needs from a state store; `poundlock.state.StateStore` is one."""

    def get(self) -> Any:
        """Return the current state, read-only or detached."""

    def select(self, selector: Any) -> Any:
        """Return the value at a dotted path, or of a function of the state."""

    def subscribe(self, paths: Any, fn: Callable[[Any], Any]) -> Callable[[], None]:
        """Call `fn` after each commit that touches one of the paths; returns a function that ends this."""


class Status(enum.Enum):
    """The status of a slot."""

    EMPTY = "empty"
    BUILDING = "building"
    READY = "ready"


# Reading an enum member costs a look-up in the metaclass; these are read on every build.
EMPTY, BUILDING, READY = Status.EMPTY, Status.BUILDING, Status.READY


class Slot:
    """The place of one artifact in one node."""

    __slots__ = (
        "awaitable",
        "builds",
        "cancelled",
        "cleaning",
        "cleanups",
        "dependencies",
        "disposals",
        "error",
        "flight",
        "held_by",
        "instance",
        "key",
        "node",
        "params",
        "previous",
        "reads_all",
        "recipe",
        "requester",
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
        """Its key in `node.slots`; None for a transient."""
        self.params = params
        self.status = EMPTY
        self.instance: Any = None
        self.requester: Slot | Node | None = None
        """While building: the first requester, an artifact or a container. These links form the chain of an error."""
        self.awaitable: Awaitable[Any] | None = None
        """While building: the awaitable that the factory returned, if it has been called already."""
        self.flight: Flight | None = None
        """While building in a task: that build, which other callers can join."""
        self.dependencies: dict[Slot, None] | None = None
        """What the factory requested in its body; what its parameters request is known from the recipe."""
        self.cleanups: list[CleanUp] | None = None
        self.disposals: list[CleanUp] | None = None
        self.selections: list[Any] | None = None
        self.reads_all = False
        """The factory has read the whole state; needed for the bundle's hash."""
        self.streams: list[Any] | None = None
        self.cleaning: asyncio.Task[None] | None = None
        """Runs the clean-ups of the previous instance; the next build waits for it."""
        self.held_by: set[asyncio.Task[None]] | None = None
        """Tasks that run clean-ups of former dependents of this instance; its own clean-ups run after them."""
        self.stale = False
        """What this build has read has changed since; its result will be discarded."""
        self.cancelled: asyncio.Event | None = None
        self.previous: Any = None
        self.builds = 0
        self.seconds = 0.0
        self.error: BaseException | None = None

    @property
    def name(self) -> str:
        """The key, with the cache key of its params if it has any."""
        return f"{self.recipe.name}[{self.key[1]!r}]" if isinstance(self.key, tuple) else self.recipe.name

    @property
    def is_being_cleaned(self) -> bool:
        """Whether clean-ups of the previous instance still run."""
        return self.cleaning is not None and not self.cleaning.done()

    def take_over_selections(self, transient: Slot) -> None:
        """Take over the selections of a transient that was made for this artifact."""
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
    """A value that was added ready-made."""

    key: Key
    instance: Any

    def recipe(self) -> Recipe:
        """Return a recipe that returns it; rarely needed."""
        return Recipe(ArtifactTemplate(self.key, lambda: self.instance, type=type(self.instance)))


class Flight:
    """A build that runs in its own task, so that the cancellation of one waiter does not end it."""

    __slots__ = ("abandoned", "error", "slot", "task", "waiters", "waits")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.task: asyncio.Task[None]
        self.waiters: set[asyncio.Future[None]] = set()
        self.waits: dict[Flight, list[tuple[Slot, ...]]] = {}
        """Other builds that this one waits for; a path back to itself would be a cycle.

        For each wait, the transients between the two builds: they have no flight of their own, but belong to the path
        of a cycle. Recorded here because a transient loses its requester when it ends.
        """
        self.error: BaseException | None = None
        self.abandoned = False
        """It was cancelled because no waiter was left."""


class Tasks:
    """The tasks of a node: strong references, and one place to wait for them."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` in a task, in a clean context, because what it builds outlives the requester."""
        task = asyncio.get_running_loop().create_task(work, name=name, context=Context())
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task


_NO_TEMPLATES = TemplateSet()


class Node:
    """The data of a container; see the rules at the top of this file."""

    clock: Clock = SystemClock()
    closed = False
    calm = True
    """No listeners, overrides, invalidations or waiters here, so the fast path may build plain singletons."""
    loop: asyncio.AbstractEventLoop | None = None
    """The event loop of the first use; calls from another one are refused."""
    allow_select = True
    cleanup_timeout: float | None = 30.0
    owns_templates = False
    together = False
    """Its artifacts succeed or fail together: a clean-up that fails at the end is a failure for those after it."""
    pending_cleanups: dict[Slot, None] | None = None
    """Slots with clean-ups to run, in order of completion."""
    selects = False
    """An artifact here has selected state, so that disposal has to unsubscribe it."""
    waits_to_close = False
    """A clean-up may have to be awaited."""
    flights: dict[Slot, Flight] | None = None
    index: dict[Slot, dict[Slot, None]] | None = None
    """The dependents of a slot in this node; maintained from the first invalidation on."""
    borrowers: set[weakref.ref[Node]] | None = None
    """Nodes below with artifacts that depend on artifacts here."""
    lenders: dict[Node, weakref.ref[Node]] | None = None
    """Nodes above whose `borrowers` this node is among."""
    overrides: dict[str, Recipe] | None = None
    shelf: dict[str, dict[Hashable, Slot]] | None = None
    """The original slots that overrides have set aside."""
    providers: dict[str, Any] | None = None
    """dependency-injector providers of artifacts here, created on request."""
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
        """None means an artifact built on the fast path; `slot` and `all_slots` create its slot."""
        if clock is not None:
            self.clock = clock
        if not allow_select:
            self.allow_select = False
        if cleanup_timeout != 30.0:
            self.cleanup_timeout = cleanup_timeout

    # ------------------------------------------------------------------------------------------------ look-ups
    def own(self, key: Key) -> Recipe | None:
        """Return this node's own recipe for a key: of an override, of an added value, or of a template."""
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
        """Return the node that has a key, and its recipe: this node, else the parents in their order."""
        recipe = self.own(key)
        if recipe is not None:
            return self, recipe
        for parent in self.parents:
            found = parent.find(key)
            if found is not None:
                return found
        return None

    def slot(self, recipe: Recipe) -> Slot:
        """Return the slot of a singleton without params, created on first use."""
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
            slot.status = BUILDING  # on the fast path, further up on this call stack
        return slot

    def slots_of(self, recipe: Recipe) -> list[Slot]:
        """Return the slots of a recipe here: one, or with `param_key` one per key."""
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
        """Return the keys of this node itself."""
        return [*self.templates.names(), *(self.values or ())]

    def above(self) -> Iterator[Node]:
        """Yield all parents, direct and indirect, in the order of look-up; one reachable twice comes twice."""
        for parent in self.parents:
            yield parent
            yield from parent.above()

    def store(self) -> Any:
        """Return the state store; if a function was given, it is called on first use. None if there is none."""
        if callable(self.source):
            self.source = self.source()
        return self.source

    # ------------------------------------------------------------------------------------------------ ownership
    def tasks(self) -> Tasks:
        """Return the owner of this node's tasks."""
        if self.background is None:
            self.background = Tasks()
        return self.background

    def add_pending(self, slot: Slot) -> None:
        """Record that `slot` has clean-ups, as the newest."""
        if self.pending_cleanups is None:
            self.pending_cleanups = {}
        self.pending_cleanups[slot] = None

    def borrow(self, lender: Node) -> None:
        """Record in a parent that artifacts here depend on its artifacts."""
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
        """Return a parent as a node; dependency-injector is imported only for a container of that library."""
        raise NotImplementedError

    async def obtain(self, key: Key, params: Any, requester: Slot | Node) -> Any:
        """Return an instance, built if need be, on behalf of `requester`."""
        raise NotImplementedError

    def obtain_now(self, key: Key, params: Any, requester: Slot | Node) -> Any:
        """Return an instance without waiting, on behalf of `requester`."""
        raise NotImplementedError

    def __del__(self) -> None:
        if self.pending_cleanups and not self.closed:
            warnings.warn(
                f"container '{self.name}' was collected without dispose() with clean-ups still to run: "
                f"use `async with`, or await dispose()",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
