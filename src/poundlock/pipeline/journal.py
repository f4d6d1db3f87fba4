"""The journal: timeline entries collected since the last commit, as text that is written once.

An entry is `[time, source, type, path, payload, patch]`. Patches are encoded once, when a step returns; here their text
is pasted in. With `full=False` only entries with a patch are kept: they are what state is rebuilt from.
"""

from __future__ import annotations

from poundlock.codecs import dump, encode
from poundlock.model.drafts import new_tuple
from poundlock.model.events import Event
from poundlock.model.runs import LogRow


class _Lasting(str):
    """An entry that stays when a refused boundary is undone, because what it tells has happened all the same."""

    __slots__ = ()


class Journal:
    """Entries for the next commit."""

    __slots__ = ("_gone", "full", "parts")

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self.parts: list[str] = []
        """The texts of the entries."""
        self._gone = 0

    def add(
        self, time: float, source: str, type: str, path: str, payload: str = "null", patch: str | None = None
    ) -> None:
        """Add an entry. `path` is plain text of ids, `payload` and `patch` are JSON texts."""
        if patch is not None:
            self.parts.append(f'[{encode(time)},"{source}","{type}",{path},{payload},{patch}]')
        elif self.full:
            self.parts.append(f'[{encode(time)},"{source}","{type}",{path},{payload},null]')

    def add_lasting(self, time: float, source: str, type: str, path: str, payload: str) -> None:
        """Add an entry that no `rewind` drops, and that is kept without a timeline too: it has an empty patch."""
        self.parts.append(_Lasting(f'[{encode(time)},"{source}","{type}",{path},{payload},{{}}]'))

    def add_growing(self, time: float, type: str, path: str, payload: str = "null") -> None:
        """Add an entry that a log without a timeline has too: idempotency keys need a log that grows."""
        self.add(time, "pipeline", type, path, payload, None if self.full else "{}")

    def put(self, time: float, *rests: str) -> None:
        """Add entries of one moment; their texts after the time were made before, by `entry`."""
        stamp = encode(time)
        for rest in rests:
            self.parts.append(f"[{stamp},{rest}")

    def put_patch(self, time: float, head: str, text: str, *rests: str) -> None:
        """Add a patch's entry, with its text up to the patch from `patch_head`, and further ones of that moment."""
        stamp = encode(time)
        self.parts.append(f"[{stamp},{head}{text}]")
        for rest in rests:
            self.parts.append(f"[{stamp},{rest}")

    @property
    def mark(self) -> int:
        """The journal's present end, for `rewind`."""
        return self._gone + len(self.parts)

    def rewind(self, mark: int) -> None:
        """Drop what was added since `mark`, except lasting entries: a refused boundary is concluded again."""
        start = max(0, mark - self._gone)
        self.parts[start:] = [part for part in self.parts[start:] if type(part) is _Lasting]

    def row(self, first_seq: int, limit: int | None = None) -> LogRow | None:
        """Return what was collected (at most `limit` entries) as a log row; None if there is nothing.

        It stays until `forget`.
        """
        parts = self.parts if limit is None else self.parts[:limit]
        return new_tuple(LogRow, (first_seq, len(parts), f"[{','.join(parts)}]")) if parts else None

    def count(self, type: str) -> int:
        """Return how many of the collected entries are of this type."""
        head = f',"pipeline","{type}",'
        return sum([head in part for part in self.parts])

    def forget(self, count: int) -> None:
        """Drop the first entries: they are committed. Entries added meanwhile stay."""
        del self.parts[:count]
        self._gone += count


def entry(source: str, type: str, path: str, payload: str = "null") -> str:
    """Return the text of an entry without a patch, for `Journal.put`; `path` and `payload` are JSON texts."""
    return f'"{source}","{type}",{path},{payload},null]'


def patch_entry(source: str, type: str, path: str, payload: str, patch: str) -> str:
    """Return the text of an entry with a patch, for `Journal.put`; `path`, `payload` and `patch` are JSON texts."""
    return f'"{source}","{type}",{path},{payload},{patch}]'


def patch_head(path: str) -> str:
    """Return the text of a step's patch entry up to the patch, for `Journal.put_patch`."""
    return f'"state","state:patch",{path},null,'


def event_payload(event: Event) -> str:
    """Return the payload that names an event in a timeline entry."""
    return dump({"event": {"id": event.id, "type": event.type, "source": event.source}})
