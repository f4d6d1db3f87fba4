"""The state of one run, and its subscribers.

House rules:

1. State is replaced, never changed: a commit creates a new dictionary that shares the unchanged parts. So an old state,
   or a view of it, stays consistent.
2. A commit is complete before subscribers are notified. They get commits in order, one at a time; their errors are
   logged; a commit by a subscriber is announced after all have got the current one.
3. Without subscribers a commit costs only its merge.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from poundlock.codecs import pack_data, pack_patch
from poundlock.errors import StateInvalid
from poundlock.guard import for_the_process, log_text
from poundlock.model.patches import changed_paths, merge
from poundlock.model.paths import get_path, touches
from poundlock.records import dataclass
from poundlock.state.views import plain, view

logger = logging.getLogger("poundlock.state")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit, as subscribers get it.

    Attributes:
        version: version of the state after the commit.
        paths: the dotted paths that were written; the empty path is the whole state.
    """

    version: int
    paths: tuple[str, ...]


class _Subscriber:
    __slots__ = ("active", "fn", "paths")

    def __init__(self, paths: tuple[str, ...], fn: Callable[[Commit], Any]) -> None:
        self.paths = paths
        self.fn = fn
        self.active = True

    def wants(self, commit: Commit) -> bool:
        return self.active and any(touches(changed, read) for changed in commit.paths for read in self.paths)


class StateStore:
    """Holds one run's state, and notifies subscribers when a commit touches their paths.

    Args:
        initial: JSON-like data, or an instance of a model, which then is the state's type.
        model: a pydantic model, dataclass or TypedDict that every state must fit; reads then give instances of it.

    Raises:
        StateInvalid: the initial state does not fit the model.
        NotStorable: a value in it is no data.
    """

    __slots__ = ("_data", "_model", "_notifying", "_pending", "_subscribers", "_version")

    def __init__(self, initial: Any = None, *, model: Any = None) -> None:
        if model is None and initial is not None and not isinstance(initial, Mapping):
            model = type(initial)
        self._model = model
        self._version = 0
        self._subscribers: list[_Subscriber] = []
        self._pending: deque[Commit] = deque()
        self._notifying = False
        self._data: dict[str, Any] = self._checked(_as_data({} if initial is None else initial, model))

    # ------------------------------------------------------------------------------------------------- reading
    @property
    def version(self) -> int:
        """The number of commits of this store."""
        return self._version

    @property
    def model(self) -> Any:
        """The type of the state, or None."""
        return self._model

    def get(self) -> Any:
        """Return the state: a detached instance of its model, or a read-only view that never changes."""
        return view(self._data) if self._model is None else self._instance()

    def select(self, selector: str | Callable[[Any], Any]) -> Any:
        """Return part of the state, detached or read-only.

        Args:
            selector: a dotted path ("order.lines.0.sku"; "" is everything), or a function of the state, which may
                read by attribute or by key.

        Returns:
            The value; None for a path that does not exist.
        """
        if isinstance(selector, str):
            return self.get() if not selector else view(get_path(self._data, selector, None))
        return self.trace(selector)[0]

    def trace(self, selector: Callable[[Any], Any]) -> tuple[Any, tuple[str, ...]]:
        """Return the result of a function of the state, and the dotted paths it has read."""
        from poundlock.state.trace import trace

        return trace(self._data if self._model is None else self._instance(), selector)

    def _instance(self) -> Any:
        from poundlock.state.typed import validate

        return validate(self._model, self._data)

    # ------------------------------------------------------------------------------------------------- writing
    def patch(self, patch: Mapping[str, Any]) -> int:
        """Merge a patch in: mappings merge, lists and scalars replace, DELETE removes, None is a value.

        Overwrite(value) replaces a mapping. Of a model, keys are the names of fields or their aliases.

        Returns:
            The version it has made.

        Raises:
            StateInvalid: the model has no such key, or the result does not fit it; nothing was changed.
            NotStorable: a value in it is no data, or does not read back equal; nothing was changed.
        """
        return self._commit([_as_patch(patch, self._model, self._data)])

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Collect several patches into one commit: `with store.transaction() as tx: tx.patch(...)`.

        Nothing of it is visible before the block ends; if the block raises, nothing has changed. The patches are merged
        into the state as it is when the block ends.

        Raises:
            StateInvalid: the result does not fit the model; nothing was changed.
        """
        transaction = Transaction(self._data, self._model)
        yield transaction
        if transaction.patches:
            self._commit(transaction.patches)

    def adopt(self, state: dict[str, Any], patch: Mapping[str, Any] | None = None) -> None:
        """Take over a state that was merged, validated and detached already.

        Args:
            state: the new state; it must not be changed from now on.
            patch: the patch that led to it: only subscribers to its paths are notified; None notifies all.
        """
        self._data = state
        self._version += 1
        if self._subscribers:
            self._notify(("",) if patch is None else tuple(changed_paths(patch)))

    def _commit(self, patches: list[dict[str, Any]]) -> int:
        merged = self._data
        for patch in patches:
            merged = merge(merged, patch)
        self._data = self._checked(merged)
        self._version += 1
        if self._subscribers:
            # A model may have changed more than the patches say: by defaults, conversions and validators.
            written = [path for patch in patches for path in changed_paths(patch)]
            self._notify(tuple(written) if self._data == merged else ("",))
        return self._version

    def _checked(self, data: dict[str, Any]) -> dict[str, Any]:
        if self._model is None:
            return data
        from poundlock.state.typed import dump, validate

        return dump(self._model, validate(self._model, data))

    # ----------------------------------------------------------------------------------------------- subscribing
    def subscribe(self, paths: str | Iterable[str], fn: Callable[[Commit], Any]) -> Callable[[], None]:
        """Call `fn(commit)` after each commit that touches one of these paths.

        Args:
            paths: dotted paths; one touches another if one is a prefix of the other. "" is the whole state.
            fn: a plain function; what it raises is logged.

        Returns:
            A function that ends the subscription immediately; a second call does nothing.
        """
        subscriber = _Subscriber((paths,) if isinstance(paths, str) else tuple(paths), fn)
        self._subscribers.append(subscriber)

        def end() -> None:
            if subscriber.active:
                subscriber.active = False
                self._subscribers.remove(subscriber)

        return end

    @property
    def subscribers(self) -> int:
        """The number of subscriptions."""
        return len(self._subscribers)

    def _notify(self, paths: tuple[str, ...]) -> None:
        self._pending.append(Commit(self._version, paths))
        if self._notifying:
            return  # a subscriber has committed: the loop below, which is running, handles it next
        self._notifying = True
        try:
            while self._pending:
                commit = self._pending.popleft()
                for subscriber in [each for each in self._subscribers if each.wants(commit)]:
                    if subscriber.active:
                        _call(subscriber, commit)
        finally:
            self._notifying = False

    def __repr__(self) -> str:
        return f"<StateStore version {self._version}, {len(self._data)} keys>"


class Transaction:
    """Collects patches for one commit.

    Attributes:
        patches: the patches so far, in order.
    """

    __slots__ = ("_data", "_model", "patches")

    def __init__(self, data: dict[str, Any], model: Any = None) -> None:
        self._data = data
        self._model = model
        self.patches: list[dict[str, Any]] = []

    def patch(self, patch: Mapping[str, Any]) -> None:
        """Add a patch.

        Raises:
            NotStorable: a value in it is no data; it was not added.
            StateInvalid: the state's model has no such key; it was not added.
        """
        data = _as_patch(patch, self._model, self._data)
        self._data = merge(self._data, data)
        self.patches.append(data)

    def get(self) -> Any:
        """Return the state as this transaction would leave it, read-only and not validated yet."""
        return view(self._data)

    def select(self, path: str) -> Any:
        """Return the value at a dotted path in `get()`, or None."""
        return view(get_path(self._data, path, None))


def _as_data(initial: Any, model: Any) -> dict[str, Any]:
    if isinstance(initial, Mapping):
        given = plain(initial)
        if model is not None:
            from poundlock.state.patching import stored_patch

            given = stored_patch(model, given, {}, strict=False)
        return pack_data(given)[0]  # type: ignore[no-any-return]  # a mapping in, a dict out
    from poundlock.state.shapes import ModelShape, shape_of
    from poundlock.state.typed import dump

    if not isinstance(shape_of(type(initial)), ModelShape):
        raise StateInvalid(f"a state is a mapping, and this is a {type(initial).__qualname__}: wrap it in one", path="")
    return dump(model, initial)


def _as_patch(patch: Mapping[str, Any], model: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(patch, Mapping):
        raise StateInvalid(f"a patch is a mapping, and this is a {type(patch).__qualname__}: {{'key': value}}", path="")
    data = plain(patch)
    if model is not None:
        from poundlock.state.patching import stored_patch

        data = stored_patch(model, data, state, strict=True)
    return pack_patch(data)[0]  # type: ignore[no-any-return]  # a mapping in, a dict out


def _call(subscriber: _Subscriber, commit: Commit) -> None:
    try:
        subscriber.fn(commit)
    except BaseException as error:
        if for_the_process(error):
            raise
        logger.error("a subscriber to %s failed\n%s", subscriber.paths, log_text(error))
