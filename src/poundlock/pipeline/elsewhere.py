"""Functions of steps that are called neither on the event loop nor in a thread of the runtime.

`executor="process"` is the runtime's own pool (`processes`); any other name is a service, a
`concurrent.futures.Executor` such as a pool of threads, or one that sends the call to other machines.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from functools import partial
from typing import Any, Final

from poundlock.callables import called_name, function_behind
from poundlock.errors import ProcessLost, StepFailed
from poundlock.guard import call_now, describe, name_of, repr_of
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.plan import Elsewhere
from poundlock.pipeline.threads import deliver

PROCESS: Final = "process"
BUILT_IN: Final = ("thread", "inline", PROCESS)
"""Executors that are not services."""


def elsewhere(executor: str | None) -> Elsewhere | None:
    """Return how a step's function is called by its executor; None on the loop and in a thread."""
    if executor == PROCESS:
        return _in_process
    return None if executor is None or executor in BUILT_IN else partial(_by_service, executor)


def unsendable(function: Any) -> str | None:
    """Return why a function cannot be called in another process; None if it can."""
    if getattr(function_behind(function), "__module__", None) == "__main__":
        main = sys.modules.get("__main__")
        if getattr(main, "__file__", None) is None and getattr(main, "__spec__", None) is None:
            return "another process cannot import what is typed into an interactive session: put it into a file"
    import pickle  # only for functions that are sent

    packed = call_now(pickle.dumps, function)
    if packed.error is None:
        return None
    said = describe(packed.error)
    name = called_name(function) or repr_of(function, 60)
    return (
        f"'{name}' cannot be sent to another process ({said.type}: {said.message:.200}): it has to be a function at "
        f"the top level of a module, no lambda and no function inside another one"
    )


async def _in_process(
    run: ActiveRun, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    assert run.supervision.processes is not None  # noqa: S101 - the run of a runtime
    return await run.supervision.processes().call(function, args, kwargs)


async def _by_service(
    service: str, run: ActiveRun, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Submit a call to an executor, and wait for its result.

    Raises:
        StepFailed: the service is not an executor.
        ProcessLost: the executor is broken, or has cancelled the call.
    """
    executor = await run.services().require(service)
    if not isinstance(executor, Executor):
        raise StepFailed(
            f"service '{service}' is a {name_of(type(executor))}, and a step's executor has to be a "
            f"concurrent.futures.Executor: give another service, or leave out executor",
            path=service,
        )
    call = _Submitted(asyncio.get_running_loop().create_future())
    run.clock.busy(1)
    try:
        # In a thread: an executor may start processes or connect to other machines as it takes a call.
        await run.threads.call(call.submit, (partial(executor.submit, function, *args, **kwargs),), {})
        return await call.answer
    except BrokenExecutor as error:
        said = describe(error)
        raise ProcessLost(
            f"executor '{service}' is broken ({said.type}: {said.message}): override or restart the service, and check "
            f"what ended its workers"
        ) from error
    finally:
        call.leave()
        run.clock.busy(-1)


class _Submitted:
    """A call at an executor. The caller may leave at any moment, also while the call is being submitted."""

    def __init__(self, answer: asyncio.Future[Any]) -> None:
        self.answer = answer
        self._guard = threading.Lock()
        self._future: Future[Any] | None = None
        self._left = False

    def submit(self, submit: Callable[[], Future[Any]]) -> None:
        """Submit it; called in a thread."""
        future = submit()
        with self._guard:
            self._future = future
            left = self._left
        if left:
            future.cancel()
        else:
            future.add_done_callback(self._done)

    def leave(self) -> None:
        """Cancel it if it has not ended, as far as the executor can."""
        with self._guard:
            self._left = True
            future = self._future
        if future is not None and not future.done():
            call_now(future.cancel)

    def _done(self, future: Future[Any]) -> None:
        error: BaseException | None
        if future.cancelled():
            error = ProcessLost("its executor has cancelled it: has the executor been shut down?")
        else:
            error = future.exception()
        result = None if error is not None else future.result()
        call_now(self.answer.get_loop().call_soon_threadsafe, deliver, self.answer, result, error)
