"""The events of a container, its listeners and its observers.

House rules: an error of a listener is logged and has no other effect; nothing is created before the first listener;
listeners are plain lists, in registration order.
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Literal, TypeAlias, get_args

from poundlock.errors import ArtifactInvalid, suggest
from poundlock.guard import for_the_process, log_text
from poundlock.records import NamedTuple, dataclass

logger = logging.getLogger("poundlock.artifacts")

EventName: TypeAlias = Literal[
    "build:start",
    "build:complete",
    "build:error",
    "artifact:invalidated",
    "artifact:disposed",
    "artifact:registered",
    "stream:emit",
    "container:dispose",
]
EVENT_NAMES: Final[tuple[str, ...]] = get_args(EventName)


@dataclass(frozen=True, slots=True)
class ArtifactEvent:
    """Something that happened in a container.

    Attributes:
        event: its name, one of `EVENT_NAMES`.
        key: the artifact; empty for `container:dispose`.
        scope: the container's name.
        duration: seconds the build or clean-up took; None for other events.
        error: the error, if there was one.
    """

    event: str
    key: str
    scope: str
    duration: float | None = None
    error: BaseException | None = None


Listener: TypeAlias = Callable[[ArtifactEvent], Any]


class Change(NamedTuple):
    """A change of one artifact, as its observer gets it."""

    kind: Literal["built", "replaced", "error", "invalidated"]
    key: str
    instance: Any = None
    error: BaseException | None = None


def check_event(name: str) -> None:
    """Raise ArtifactInvalid unless there is an event of this name."""
    if name not in EVENT_NAMES:
        raise ArtifactInvalid(f"there is no event '{name}': {suggest(name, EVENT_NAMES)}", event=name)


def call_safely(listener: Callable[[Any], Any], value: Any) -> None:
    """Call a listener; its errors are logged, because they must not fail the artifact."""
    try:
        listener(value)
    except BaseException as error:
        if for_the_process(error):
            raise
        logger.error("a listener of '%s' failed\n%s", getattr(value, "key", value), log_text(error))


class Observer:
    """Watches one artifact: `container.watch(key)`.

    `async for value in observer` gives each new instance; a slow reader skips to the newest. It ends when the
    container is disposed.
    """

    __slots__ = ("__weakref__", "_listeners", "_over", "_peek", "_readers", "key")

    def __init__(self, key: str, peek: Callable[[], Any]) -> None:
        self.key = key
        self._peek = peek
        self._listeners: list[Callable[[Change], Any]] = []
        # Weak, so that leaving the `async for` stops listening at once.
        self._readers: weakref.WeakSet[_Reader] = weakref.WeakSet()
        self._over = False

    @property
    def count(self) -> int:
        """The number of listeners: subscribers and running `async for` loops."""
        return len(self._listeners) + len(self._readers)

    def get(self) -> Any:
        """Return the current instance, or None; never builds."""
        return self._peek()

    def subscribe(self, fn: Callable[[Change], Any]) -> Callable[[], None]:
        """Call `fn(change)` on build, replacement, error and invalidation.

        Returns:
            A function that ends the subscription; calling it again does nothing.
        """
        self._listeners.append(fn)

        def end() -> None:
            if fn in self._listeners:
                self._listeners.remove(fn)

        return end

    def __aiter__(self) -> AsyncIterator[Any]:
        reader = _Reader(self)
        self._readers.add(reader)
        if self._over:
            reader.end()
        return reader

    def notify(self, change: Change) -> None:
        """Notify all listeners; the container calls this."""
        for listener in tuple(self._listeners):
            call_safely(listener, change)
        if change.kind in {"built", "replaced"}:
            for reader in tuple(self._readers):
                reader.offer(change.instance)

    def close(self) -> None:
        """End all loops; the container calls this when it is disposed."""
        self._over = True
        self._listeners.clear()
        for reader in tuple(self._readers):
            reader.end()


class _Reader:
    """One `async for` loop: holds the newest value only."""

    __slots__ = ("__weakref__", "_fresh", "_observer", "_over", "_value")

    def __init__(self, observer: Observer) -> None:
        self._observer = observer  # keeps the observer alive while the loop runs
        self._fresh = asyncio.Event()
        self._value: Any = None
        self._over = False

    def offer(self, value: Any) -> None:
        self._value = value
        self._fresh.set()

    def end(self) -> None:
        self._over = True
        self._fresh.set()

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> Any:
        await self._fresh.wait()
        if self._value is None:
            raise StopAsyncIteration
        value, self._value = self._value, None
        if not self._over:
            self._fresh.clear()
        return value
