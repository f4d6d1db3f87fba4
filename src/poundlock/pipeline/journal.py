"""The journal: timeline entries collected since the last commit, as text that is written once.

An entry is `[time, source, type, path, payload, patch]`. Patches are encoded once, when a step returns; here their text
is pasted in. With `full=False` only entries with a patch are kept: they are what state is rebuilt from.
"""

from __future__ import annotations

from poundlock.model.runs import LogRow


class Journal:
    """Entries that wait for the next commit."""

    __slots__ = ("_parts", "full")

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self._parts: list[str] = []

    def add(
        self, time: float, source: str, type: str, path: str, payload: str = "null", patch: str | None = None
    ) -> None:
        """Add an entry. `path` is plain text of ids, `payload` and `patch` are JSON texts."""
        if patch is not None:
            self._parts.append(f'[{time!r},"{source}","{type}",{path},{payload},{patch}]')
        elif self.full:
            self._parts.append(f'[{time!r},"{source}","{type}",{path},{payload},null]')

    @property
    def mark(self) -> int:
        """Where the journal ends now, for `rewind`."""
        return len(self._parts)

    def rewind(self, mark: int) -> None:
        """Forget what was added since `mark`: a boundary that was refused is concluded anew."""
        del self._parts[mark:]

    def row(self, first_seq: int) -> LogRow | None:
        """Return what was collected as a log row; None if there is nothing. It stays until `clear`."""
        parts = self._parts
        return LogRow(first_seq, len(parts), f"[{','.join(parts)}]") if parts else None

    def clear(self) -> None:
        """Forget what was committed."""
        self._parts.clear()
