"""A store at which one of two callers is stopped at any of its accesses, while the other one goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextvars import ContextVar, copy_context

from support import GatedStore

_WHO: ContextVar[str] = ContextVar("who", default="")


def begin(who, work):
    """Run a coroutine in a task of its own; all that it starts counts as its own as well."""
    context = copy_context()
    context.run(_WHO.set, who)
    return asyncio.get_running_loop().create_task(work, context=context)


class SteppedStore(GatedStore):
    """Stops one access, before the real store sees it or before its answer is heard, until it is let on.

    What is committed is written in the order of submission, as the port says: while a commit is stopped before it is
    written, later ones wait behind it, and so does who asks whether everything is written. Reads do not wait.

    Args:
        inner: the real store.
        clock: of the real store.
        stop: (who, number of the access, "before" or "after").
        claimer: who the claims of due runs belong to.
    """

    WRITES = ("commit", "claim")

    def __init__(self, inner, clock, stop, claimer=""):
        super().__init__(inner, clock)
        self.stop = stop
        self.claimer = claimer
        self.asked = Counter()
        self.stopped_at = None
        self._on = asyncio.Event()
        self._line = asyncio.Lock()

    def let_on(self):
        """Let what is stopped go on, and stop nothing any more."""
        self.stop = None
        self._on.set()

    async def commit(self, work):
        return await self._access("commit", lambda: GatedStore.commit(self, work))

    async def claim(self, *asked):
        if self.claimer:
            _WHO.set(self.claimer)
        return await self._access("claim", lambda: GatedStore.claim(self, *asked))

    def __getattr__(self, name):
        method = super().__getattr__(name)

        async def call(*args, **options):
            return await self._access(name, lambda: method(*args, **options))

        return call

    async def _access(self, what, access):
        stops = self._stops(what)
        if what in self.WRITES or what == "written_behind":
            async with self._line:
                if stops == "before":
                    await self._on.wait()
                answer = await access()
        else:
            if stops == "before":
                await self._on.wait()
            answer = await access()
        if stops == "after":
            await self._on.wait()
        return answer

    def _stops(self, what):
        if self.stop is None or _WHO.get() != self.stop[0]:
            return None
        who, number, when = self.stop
        self.asked[who] += 1
        if self.asked[who] != number:
            return None
        self.stopped_at = what
        return when
