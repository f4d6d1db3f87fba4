"""A durable function as part of a definition: the action of the only step of its workflow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poundlock.model.definitions import Wait
from poundlock.model.waits import wait_events
from poundlock.records import dataclass


@dataclass(frozen=True, slots=True)
class DurableFunction:
    """The action of a step that is a durable function.

    Attributes:
        function: the user's: an async function, or a generator function of either kind.
        waits: those armed from the start of a run.
    """

    function: Callable[..., Any]
    waits: tuple[Wait, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function, as a test may do."""
        return self.function(*args, **kwargs)


def early_id(wait: Wait) -> str:
    """Return the id of a wait that is armed from the start: no operation has it by default."""
    return wait.id or f"early: {', '.join(wait_events(wait))}"
