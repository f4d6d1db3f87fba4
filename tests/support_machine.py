"""What state machines over a runtime have in common: a loop, a clock, and a durable place."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis.stateful import RuleBasedStateMachine
from support import Stores

from poundlock.testing import VirtualClock


class StoresMachine(RuleBasedStateMachine):
    """Every rule lets everything come to rest, so that the model says exactly what must be found."""

    storage = "memory"

    def __init__(self):
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = VirtualClock(autojump=False)
        self.stores = Stores(self.storage, Path(self.folder.name), self.clock)

    def do(self, work):
        """Run a coroutine, and what follows from it."""

        async def through():
            answer = await work
            await self.clock.run_until_idle()
            return answer

        return self.runner.run(through())

    def teardown(self):
        try:
            self.runner.run(self.stores.close())
        finally:
            self.clock.close()
            self.runner.close()
            self.folder.cleanup()
