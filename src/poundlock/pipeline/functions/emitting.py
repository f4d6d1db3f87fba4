"""The context of a durable function: what it emits is on record, so that it is emitted once however often it is called.

House rules: an event is known by what it says and by its number among those that say the same, because parts that run
side by side emit in another order the next time. Functions may emit in threads, so events are collected first; they
are recorded, and leave, with the next commit of the record.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any, Final

from poundlock.codecs import dump
from poundlock.model.events import Event
from poundlock.model.outbox import Outgoing
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.memo import memo_of
from poundlock.pipeline.outgoing import collect, send
from poundlock.pipeline.run_view import Place, RunView

RESERVED: Final = "__"
"""Begins the keys of what no operation has recorded."""
_EMITTED: Final = f"{RESERVED}emitted__ "


class FunctionContext(StepContext):
    """The context of one pass.

    Args:
        run: the run, as the function sees it.
        of: the run.
        step: where the function is.
        over: whether the pass is over: what the function does then does not count.
        replaying: whether the function repeats what an earlier pass has done: then its notes are there already.
    """

    __slots__ = ("_counts", "_guard", "_made", "_of", "_over", "_replaying")

    def __init__(
        self, run: RunView, of: ActiveRun, step: Place, over: Callable[[], bool], replaying: Callable[[], bool]
    ) -> None:
        super().__init__(run, step, 1)
        self._replaying = replaying
        self._of = of
        self._over = over
        self._guard = threading.Lock()
        self._counts: dict[str, int] = {}
        self._made: list[tuple[str, Outgoing]] = []

    def emit(self, event: Event | str, payload: Any = None, /, **fields: Any) -> str:
        """Emit an event; see `StepContext.emit`. It leaves with the next commit of the record, and only once."""
        self.check_emitting()
        made: list[Outgoing] = []
        collect(made, self._run, self._place(), event, payload, fields)
        said, text = made.pop()
        # Not its id and its time: they are new where the function makes an Event anew.
        told = dump([said.type, said.source, said.key, dict(said.headers), text])
        digest = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
        with self._guard:
            number = self._counts[digest] = self._counts.get(digest, 0) + 1
            key = f"{_EMITTED}{digest}/{number}"
            record = memo_of(self._of).kept.get(key)
            if record is not None:
                return str(record["id"])
            id = collect(made, self._run, f"{self._place()}/{digest}/{number}", event, payload, fields)
            if not self._over():
                self._made.append((key, made[0]))
        return id

    def annotate(self, key: str, value: Any) -> None:
        """Put a note into the timeline, once: not again in a later pass."""
        if not self._replaying():
            super().annotate(key, value)

    def progress(self, done: float, of: float | None = None, message: str = "") -> None:
        """Say how far the function is; see `StepContext.progress`."""
        if not self._replaying():
            super().progress(done, of, message)

    def record_call(self, *args: Any, **details: Any) -> None:
        """Record a call of a model, once: it was paid for once. See `StepContext.record_call`."""
        if not self._replaying():
            super().record_call(*args, **details)

    def record(self) -> None:
        """Record what was emitted, and have it leave with the next commit, like notes; called on the event loop."""
        self.flush()
        if not self._made:
            return
        with self._guard:
            made, self._made = self._made, []
        path = self._step.path_json
        for key, outgoing in made:
            event = outgoing.event
            memo_of(self._of).note(path, key, {"op": "emit", "name": event.type, "id": event.id})
            send(self._of, path, [outgoing])
