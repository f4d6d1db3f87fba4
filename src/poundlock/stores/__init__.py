"""Store adapters. They are independent of each other; `open` selects one."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Final

from poundlock.clock import Clock
from poundlock.errors import InvalidDefinition, StoreUnavailable
from poundlock.guard import repr_of
from poundlock.ports import Store
from poundlock.stores.memory import MemoryStore

if TYPE_CHECKING:
    from poundlock.stores.sqlite import SqliteStore

__all__ = ["MemoryStore", "SqliteStore", "open"]

_ACCEPTED: Final = "a URL (sqlite:///runs.db, memory:), a path (pathlib.Path('runs.db')), None, or a Store object"
_IN_MEMORY: Final = ("sqlite://", "sqlite:///:memory:", ":memory:")
"""Names of in-memory databases in SQLAlchemy and sqlite3: one per connection, so they cannot be shared."""


def open(what: str | os.PathLike[str] | Store | None, *, clock: Clock | None = None) -> Store:
    """Return a store, not yet connected.

    Args:
        what: None or "memory:"; a URL, "sqlite:///relative.db" or "sqlite:////absolute.db" (SQLAlchemy's slashes); the
            path of a SQLite file as a path-like object; or a Store, which is returned unchanged.
        clock: its `busy` is called while the store works outside the event loop; default: the clock of the
            runtime that opens it. A Store object keeps its own.

    Raises:
        StoreUnavailable: there is no adapter for this URL.
        InvalidDefinition: `what` is none of these.
    """
    if what is None or (isinstance(what, str) and what in ("memory:", "memory://")):
        return MemoryStore()
    if isinstance(what, str):
        return _by_url(what, clock)
    if isinstance(what, os.PathLike):
        path = os.fspath(what)
        if isinstance(path, str):
            return _by_path(path, clock)
    elif _is_store(what):
        return what
    raise InvalidDefinition(f"{repr_of(what, 60)} is not a store: give {_ACCEPTED}", path="store")


def _by_url(url: str, clock: Clock | None) -> Store:
    scheme, _, rest = url.partition("://")
    if url in _IN_MEMORY:
        return _in_memory(url)
    if scheme == "sqlite" and "?" in rest:
        raise StoreUnavailable(f"'{url}' has options behind its '?', and none are known: leave them out", path="store")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        return _by_path(rest[1:], clock)
    raise StoreUnavailable(f"there is no store for '{url}': give {_ACCEPTED}", path="store")


def _by_path(path: str, clock: Clock | None) -> Store:
    if path in _IN_MEMORY:
        return _in_memory(path)
    if "\0" in path:
        raise StoreUnavailable(f"{repr_of(path, 60)} is not a path of a file: it has a null character", path="store")
    from poundlock.stores.sqlite import SqliteStore

    return SqliteStore(path, clock=clock)


def _in_memory(name: str) -> Store:
    warnings.warn(
        f"'{name}' is not a file, so the memory store is used: data ends with this process. Use store=None to say so",
        stacklevel=4,
    )
    return MemoryStore()


def _is_store(what: Any) -> bool:
    """Whether it has the methods of a Store; only the contract tests can check the port's promises."""
    return not isinstance(what, type) and all(
        callable(getattr(what, name, None)) for name in ("open", "close", "commit", "claim")
    )


def __getattr__(name: str) -> Any:
    if name != "SqliteStore":  # loaded when it is used: a program without it needs none of its modules
        raise AttributeError(f"module 'poundlock.stores' has no attribute '{name}'")
    from poundlock.stores.sqlite import SqliteStore

    return SqliteStore


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
