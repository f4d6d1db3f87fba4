"""The objects through which factories and `use` functions request artifacts and state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

from poundlock.artifacts import explain, reactive
from poundlock.artifacts.cleanup import add_cleanup
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.node import BUILDING, READY, Node, Slot
from poundlock.artifacts.recipe import ContextMark
from poundlock.errors import ArtifactInvalid, ContainerDisposed, PoundlockError
from poundlock.records import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resolved:
    """The result of `resolve`.

    Attributes:
        ok: whether there is an instance.
        instance: the instance, or None.
        error: why there is none, or None.
        key: the requested key.
        scope: name of the container.
    """

    ok: bool
    instance: Any
    error: PoundlockError | None
    key: str
    scope: str


async def resolve(node: Node, key: Key, params: Any, requester: Slot | Node) -> Resolved:
    """Obtain a key and return the instance or the error as a value; only a closed container raises."""
    try:
        return Resolved(True, await node.obtain(key, params, requester), None, key_name(key), node.name)
    except ContainerDisposed:
        raise
    except PoundlockError as error:
        return Resolved(False, None, error, key_name(key), node.name)


class Dependencies:
    """What a function passed to `use` gets.

    Args:
        node: the container.
        slot: the artifact that makes the requests; each one becomes its tracked dependency. None tracks nothing.
    """

    __slots__ = ("_node", "_slot")

    def __init__(self, node: Node, slot: Slot | None = None) -> None:
        self._node = node
        self._slot = slot

    @overload
    async def require(self, key: type[T], params: Any = None) -> T: ...
    @overload
    async def require(self, key: str, params: Any = None) -> Any: ...
    async def require(self, key: Key, params: Any = None) -> Any:
        """Return the instance of a key; like `ArtifactContainer.require`."""
        return await self._node.obtain(key, params, self._slot or self._node)

    @overload
    def require_nowait(self, key: type[T], params: Any = None) -> T: ...
    @overload
    def require_nowait(self, key: str, params: Any = None) -> Any: ...
    def require_nowait(self, key: Key, params: Any = None) -> Any:
        """Return the instance of a key without waiting; like `ArtifactContainer.require_nowait`."""
        return self._node.obtain_now(key, params, self._slot or self._node)

    async def resolve(self, key: Key, params: Any = None) -> Resolved:
        """Return the instance or the error as a value; like `ArtifactContainer.resolve`."""
        return await resolve(self._node, key, params, self._slot or self._node)

    def select(self, selector: str | Callable[[Any], T]) -> Any:
        """Read the state of the container's scope.

        Args:
            selector: a dotted path, or a function of the state whose reads are recorded.

        Returns:
            The current value. When a commit touches a path that was read and the value differs, the artifact is
            invalidated.

        Raises:
            ScopeViolation: the container has no state, or outlives single runs and so cannot read a run's state.
        """
        if self._slot is not None:
            return reactive.select(self._slot, selector)
        return reactive.read(None, self._node, selector)[0]


class FactoryContext(Dependencies, ContextMark):
    """The argument of a factory that needs more than injected services."""

    __slots__ = ("_builds",)
    _slot: Slot

    def __init__(self, slot: Slot) -> None:
        super().__init__(slot.node, slot)
        self._builds = slot.builds

    @property
    def key(self) -> str:
        """The key of the artifact being built."""
        return self._slot.recipe.name

    @property
    def scope(self) -> str:
        """The name of the container that builds it."""
        return self._node.name

    @property
    def params(self) -> Any:
        """What was passed to `resolve(key, params=...)`."""
        return self._slot.params

    @property
    def previous(self) -> Any:
        """The instance that this one will replace, or None. Its clean-ups have run, or are about to."""
        return self._slot.previous

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the build is no longer needed: it has no waiters left, or what it has read has changed."""
        if self._slot.cancelled is None:
            self._slot.cancelled = asyncio.Event()
        return self._slot.cancelled

    async def use(self, fn: Callable[[Dependencies], Awaitable[T] | T]) -> T:
        """Run `fn(deps)` and return its result, awaited if it is awaitable; its requests are tracked."""
        given: Any = fn(self)
        return await given if hasattr(given, "__await__") else given  # type: ignore[no-any-return]

    def use_nowait(self, fn: Callable[[Dependencies], T]) -> T:
        """Run `fn(deps)` and return its result, for a factory that is a plain function.

        Raises:
            ArtifactInvalid: it returned an awaitable.
        """
        given = fn(self)
        if asyncio.iscoroutine(given):
            given.close()
            raise explain.must_await(self.key, self.key, "requests something in use_nowait that has to be awaited")
        return given

    def state(self) -> Any:
        """Return the current state of the scope's store, read-only or detached; not tracked.

        Raises:
            ScopeViolation: the container has no state, or outlives single runs and so cannot read a run's state.
        """
        self._slot.reads_all = True
        return reactive.read(self._slot, self._node, "")[0]

    def on_cleanup(self, fn: Callable[[], Any]) -> None:
        """Call `fn`, sync or async, when this instance is invalidated or disposed; last in, first out."""
        self._check_current("on_cleanup")
        add_cleanup(self._slot, fn)
        if self._slot.status is READY and self._slot.key is not None:
            self._node.add_pending(self._slot)

    def on_dispose(self, fn: Callable[[], Any]) -> None:
        """Call `fn`, sync or async, when the container is disposed; not at an invalidation.

        Registering an equal function again, in a later build, changes nothing.
        """
        self._check_current("on_dispose")
        if self._slot.disposals is None:
            self._slot.disposals = []
        if fn not in self._slot.disposals:
            self._slot.disposals.append(fn)
        self._node.waits_to_close = True

    def stream(self, producer: Callable[..., Any]) -> None:
        """Start a long-lived producer of new values after this build; it is stopped before the clean-ups run.

        Args:
            producer: an async generator function, each of whose values replaces the instance; or a coroutine function
                that is given `emit(value)`. If it raises, the artifact is invalidated.
        """
        self._check_current("stream")
        if self._slot.key is None:
            raise ArtifactInvalid(
                f"'{self.key}' is a transient, so nothing could receive its stream: make it a singleton"
            )
        if self._slot.streams is None:
            self._slot.streams = []
        self._slot.streams.append(producer)

    def _check_current(self, what: str) -> None:
        slot = self._slot
        current = slot.builds == self._builds + (slot.status is READY)
        if not current or (slot.status is not BUILDING and slot.status is not READY):
            raise ArtifactInvalid(
                f"{what} was called for an instance of '{self.key}' that no longer exists: call it in the factory",
                key=self.key,
            )
