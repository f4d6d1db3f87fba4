"""Worker processes for steps with `executor="process"`, as the runtime's process sees them.

Not `concurrent.futures.ProcessPoolExecutor`: it cannot end the one process that runs a given call, and if one of its
processes dies, all calls of the pool fail. Libraries that can (pebble) do it with what is used here: `multiprocessing`
starts a process with a pipe, and each process has a thread here that starts it, talks to it and notices its end. So
arguments and results are converted in these threads, and the event loop waits for nothing.

Pickle is used between this process and those it has started itself, through a pipe that no other process can open. What
is stored or received from elsewhere never passes through it.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import pickle
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from poundlock.callables import function_behind
from poundlock.clock import Clock
from poundlock.errors import NotStorable, ProcessLost, RuntimeStopped
from poundlock.guard import add_note, call_now, describe
from poundlock.pipeline.process_worker import READY, VALUE, error_from, file_of, serve
from poundlock.pipeline.threads import deliver

if TYPE_CHECKING:  # takes longer to import than the rest of the runtime: only for workflows with such steps
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

_EXIT_GRACE: Final = 2.0
"""Seconds for a process to end by itself, after its pipe was closed."""
_LOOK: Final = 1.0
"""Seconds between two looks whether a process that is silent is still there."""


class _Job:
    """A call for a process.

    Attributes:
        place: which does it now; guarded by the pool's lock, as is `left`.
        left: its caller does not wait for it any more.
    """

    __slots__ = ("answer", "args", "function", "kwargs", "left", "loop", "place")

    def __init__(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], answer: asyncio.Future[Any]
    ) -> None:
        self.function = function
        self.args = args
        self.kwargs = kwargs
        self.answer = answer
        self.loop = answer.get_loop()
        self.place: _Place | None = None
        self.left = False


class StepProcesses:
    """A pool of processes that grows on demand and shrinks only when closed. It costs nothing before its first call.

    A process whose call is abandoned is killed; the others go on, and the next call that needs it starts a new one.

    Args:
        clock: notified while processes work, so that a virtual clock does not jump meanwhile.
        limit: processes at most; further calls wait in a queue. None: one per CPU.

    Attributes:
        guard: the lock of the pool; its places change under it.
        jobs: the calls that wait; None ends a thread.
        closed: no process is started any more.
    """

    def __init__(self, clock: Clock, limit: int | None = None) -> None:
        self.guard = threading.Lock()
        self.jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._clock = clock
        self._limit = limit
        self._places: list[_Place] = []
        self._pending = 0
        self.closed = False
        self._watched = False

    async def call(self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Call a function in a process and return its result. Cancelling the caller kills the process.

        Raises:
            ProcessLost: the process ended during the call, or could not be started.
            NotStorable: an argument or the result cannot be sent.
            BaseException: what the function raised.
        """
        if self.closed:
            raise RuntimeStopped("the runtime has stopped: no process is started any more")
        job = _Job(function, args, kwargs, asyncio.get_running_loop().create_future())
        self._pending += 1
        self._clock.busy(1)
        try:
            if self._pending > len(self._places) and len(self._places) < self._most():
                self._grow()
            self.jobs.put(job)
            return await job.answer
        finally:
            self._pending -= 1
            self._leave(job)
            self._clock.busy(-1)

    def _leave(self, job: _Job) -> None:
        """Nobody waits for a call any more: its process is killed. A thread cannot be, so another one replaces it."""
        with self.guard:
            job.left = True
            place = job.place
            if place is None:
                return
            place.kill()
            if not place.converting:
                return  # it notices the end of its process
            place.replaced = True
        if place in self._places:
            self._places.remove(place)
            if self._pending > len(self._places):
                call_now(self._grow)  # if the system refuses a thread now, the next call asks for it

    async def close(self, grace: float) -> None:
        """End all processes: idle ones end by themselves, busy ones are killed.

        Args:
            grace: seconds after which a thread that does not end, because it converts an argument, is left behind.
        """
        self.closed = True
        if not self._places:
            return
        atexit.unregister(self._kill)
        places, self._places = self._places, []
        ended = asyncio.get_running_loop().create_future()
        left = len(places)

        def over() -> None:
            if not ended.done():
                ended.set_result(None)

        def end() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                over()

        for place in places:
            place.ended = (ended.get_loop(), end)
        for _ in places:
            self.jobs.put(None)
        with self.guard:
            for place in places:
                if place.busy:
                    place.kill()
        late = self._clock.call_later(grace, over)
        self._clock.busy(1)
        try:
            await ended
        finally:
            late.cancel()
            self._clock.busy(-1)

    def _most(self) -> int:
        if self._limit is None:
            affinity = getattr(os, "sched_getaffinity", None)  # not on all systems
            self._limit = max(1, len(affinity(0)) if affinity is not None else os.cpu_count() or 1)
        return self._limit

    def _grow(self) -> None:
        place = _Place(self)
        name = f"poundlock-process-{len(self._places) + 1}"
        threading.Thread(target=place.work, name=name, daemon=True).start()  # the system may refuse it
        self._places.append(place)

    def watch_exit(self) -> None:
        """Have the processes killed when the interpreter exits without `close`; called before the first one starts."""
        # Later than this import, so that it runs before multiprocessing's own: that asks the processes to end, which
        # they do not hear, and waits for them.
        import multiprocessing.util  # noqa: F401 - see above

        with self.guard:
            if not self._watched:
                self._watched = True
                atexit.register(self._kill)

    def _kill(self) -> None:
        with self.guard:
            for place in self._places:
                place.kill()


class _Place:
    """A place in the pool: a thread, and the process it keeps, which is started when it is first needed.

    Attributes:
        busy: a call is in the process, or it is being started for one.
        converting: the thread runs code of arguments or of a result, which may take any time; guarded by the pool's
            lock.
        replaced: its caller left it meanwhile, and it is no place of the pool any more; guarded likewise.
        ended: what to call, on which loop, when the thread ends.
    """

    def __init__(self, pool: StepProcesses) -> None:
        self.converting = False
        self.replaced = False
        self._pool = pool
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None
        self._killed = False
        self.busy = False
        self.ended: tuple[asyncio.AbstractEventLoop, Callable[[], None]] | None = None

    def kill(self) -> None:
        """Kill the process, if there is one; call it under the pool's lock."""
        if self._process is not None:
            self._process.kill()
            self._killed = True  # it may seem to be alive for a moment

    def work(self) -> None:
        """Do one job after another; the body of the thread."""
        while not self.replaced and (job := self._pool.jobs.get()) is not None:
            if not job.left:
                self._do(job)
            del job  # an idle thread must not keep a run's objects alive
        self._end()
        if self.ended is not None:
            loop, end = self.ended
            call_now(loop.call_soon_threadsafe, end)  # the loop may be closed: then nobody waits

    def _do(self, job: _Job) -> None:
        self.busy = True
        try:
            result, error = self._result(job), None
        except BaseException as raised:  # noqa: BLE001 - it belongs to the caller
            result, error = None, raised
        self.busy = False
        call_now(job.loop.call_soon_threadsafe, deliver, job.answer, result, error)
        del result, error

    def _result(self, job: _Job) -> Any:
        with self._pool.guard:
            if job.left:
                return None
            # From here on a caller that leaves ends whatever this thread is at, also the start of a process.
            job.place = self
            self.converting = True
        try:
            payload = _packed(job)
            if self._left(job, converting=False):
                return None
            answer = self._answer(job, payload)
            return None if self._left(job, converting=True) else _unpacked(answer)
        finally:
            with self._pool.guard:
                job.place = None
                self.converting = False

    def _left(self, job: _Job, *, converting: bool) -> bool:
        """Begin the next part of a call, unless its caller has left."""
        with self._pool.guard:
            self.converting = converting
            return job.left

    def _answer(self, job: _Job, payload: bytes) -> bytes:
        try:
            if self._pipe is not None and (self._killed or call_now(self._pipe.poll).value is not False):
                self._end()  # nothing is sent unasked, so this is its end: somebody has killed it while it was idle
            pipe = self._pipe if self._pipe is not None else self._start(job)
            pipe.send_bytes(payload)
            return self._received(pipe)
        except (EOFError, OSError):
            raise ProcessLost(
                f"the process that ran it ended before it did ({self._end()}): what it wrote to standard error may say "
                f"why; retry= gives it another attempt in a new process"
            ) from None

    def _start(self, job: _Job) -> Connection:
        """Start a process for a call and wait until it is ready."""
        from multiprocessing import get_context

        self._pool.watch_exit()
        context = get_context("spawn")  # a fork would copy the locks that other threads hold at the moment
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), name="poundlock-step", daemon=True)
        try:
            process.start()
        except BaseException as error:
            ours.close()
            said = describe(error)
            raise ProcessLost(f"no process can be started for it: {said.type}: {said.message}") from error
        finally:
            theirs.close()
        with self._pool.guard:
            self._process = process
            if self._pool.closed or job.left:
                self.kill()
        self._pipe = ours
        try:
            if self._received(ours) == READY:
                return ours
        except (EOFError, OSError):
            pass
        raise ProcessLost(
            f"a process for it could not be started ({self._end()}): standard error says why. A program that starts "
            f"its runtime when it is imported has to do so below `if __name__ == '__main__':`"
        )

    def _received(self, pipe: Connection) -> bytes:
        """Return the next message of the process.

        Raises:
            EOFError, OSError: it has ended.
        """
        while not pipe.poll(_LOOK):
            # Its end closes the pipe, unless a copy that the function has made of it, by a fork, keeps it open.
            with self._pool.guard:
                ended = self._process is None or self._process.exitcode is not None
            if ended and not pipe.poll():
                raise EOFError
        return pipe.recv_bytes()

    def _end(self) -> str:
        """End the process, if there is one, and return how it ended."""
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            pipe.close()
        with self._pool.guard:  # from here on nobody kills it: its number may belong to another process soon
            process, self._process, self._killed = self._process, None, False
        if process is None:
            return "not started"
        process.join(_EXIT_GRACE)
        if process.exitcode is None:
            process.kill()
            process.join()
        code = process.exitcode
        process.close()
        return _named(code)


def _named(code: int | None) -> str:
    """Return an exit code for people: negative ones are signals."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _packed(job: _Job) -> bytes:
    """Return a call as it is sent: how its module is found, then function and arguments."""
    module = call_now(getattr, function_behind(job.function), "__module__", None).value
    packed = call_now(pickle.dumps, (job.function, tuple(job.args), dict(job.kwargs)), pickle.HIGHEST_PROTOCOL)
    if packed.error is not None:
        said = describe(packed.error)
        raise NotStorable(
            f"its arguments cannot be sent to another process ({said.type}: {said.message}): use executor='thread', or "
            f"give it plain data"
        ) from packed.error
    return pickle.dumps((module, file_of(module), packed.value))


def _unpacked(answer: bytes) -> Any:
    """Return what a function returned; raises what it raised."""
    read = call_now(pickle.loads, answer)
    if read.error is not None:
        said = describe(read.error)
        raise NotStorable(
            f"what it returned cannot be read outside of its process ({said.type}: {said.message}): return plain data"
        ) from read.error
    kind, value, trace = read.value
    if kind == VALUE:
        return value
    error = error_from(value)
    add_note(error, f"in the process that ran the step:\n{trace}")
    raise error
