"""Store adapters. They do not know each other; `open` finds the one a URL names."""

from __future__ import annotations

from poundlock.clock import Clock
from poundlock.errors import StoreUnavailable
from poundlock.ports import Store
from poundlock.stores.memory import MemoryStore

__all__ = ["MemoryStore", "open"]


def open(url: str | None, *, clock: Clock | None = None) -> Store:
    """Return the store a URL names, not yet connected.

    Args:
        url: None or "memory:", or "sqlite:///relative.db" / "sqlite:////absolute.db" (SQLAlchemy's slashes).
        clock: told while the store works outside the event loop; default: nobody is.

    Raises:
        StoreUnavailable: no adapter for this URL.
    """
    if url is None or url in ("memory:", "memory://"):
        return MemoryStore()
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite" and rest.startswith("/") and len(rest) > 1:
        from poundlock.stores.sqlite import SqliteStore

        return SqliteStore(rest[1:], clock=clock)
    raise StoreUnavailable(f"no store for '{url}': use memory: or sqlite:///path/to/file.db", path="store")
