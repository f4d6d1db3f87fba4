"""The process that runs steps, from the inside: one call after another, and no call outlives the runtime's process.

The main thread calls the functions, as in an ordinary program. Another one reads the pipe: when that is closed, the
runtime has let this process go, or is dead, and a function that still runs is ended with the process.

An interrupt from the terminal, or a signal to the whole group, has no effect here: the runtime decides what it means.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import signal
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from poundlock.errors import NotStorable, StepFailed
from poundlock.guard import call_now, describe, traceback_text

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

READY: Final = b"ready"
VALUE: Final = "value"
ERROR: Final = "error"
_LAST_ACT: Final = 2.0
"""Seconds for the end of a process whose pipe was closed while it was idle."""


class _Calls:
    """The calls that came through the pipe, and how many of them were answered."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self.received = 0
        self.answered = 0

    def listen(self) -> None:
        """Read calls until the pipe is closed; then end, also in the middle of a call."""
        try:
            while True:
                call = self.pipe.recv_bytes()
                self.received += 1
                self.waiting.put(call)
        except (EOFError, OSError):
            if self.received != self.answered:
                os._exit(1)  # the function would go on without anybody to take its result
            self.waiting.put(None)
            threading.Event().wait(_LAST_ACT)
            os._exit(0)  # a thread that a function has left behind would keep the process alive


def serve(pipe: Connection) -> None:
    """Answer calls until the pipe is closed; the body of the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignored)  # not SIG_IGN, which the programs that a step starts would inherit
    calls = _Calls(pipe)
    threading.Thread(target=calls.listen, name="poundlock-pipe", daemon=True).start()
    pipe.send_bytes(READY)
    own = os.getpid()
    while (call := calls.waiting.get()) is not None:
        answer = _answer(call)
        if os.getpid() != own:
            os._exit(0)  # a copy that the function has made: a second answer would be taken for that of the next call
        for stream in (sys.stdout, sys.stderr):
            call_now(stream.flush)  # a later call may be killed, and would take this one's output with it
        try:
            pipe.send_bytes(answer)
        except OSError:
            return
        calls.answered += 1


def _ignored(_number: int, _frame: object) -> None:
    pass


def _answer(call: bytes) -> bytes:
    """Return what a call comes to, as it is sent."""
    try:
        module, file, packed = pickle.loads(call)  # noqa: S301 - from the process that started this one
        _make_known(module, file)
        function, args, kwargs = pickle.loads(packed)  # noqa: S301 - as above
        result = function(*args, **kwargs)
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is its result
        return _packed_error(error)
    packed_result = call_now(pickle.dumps, (VALUE, result, None), pickle.HIGHEST_PROTOCOL)
    if packed_result.error is None:
        return bytes(packed_result.value)
    said = describe(packed_result.error)
    return _packed_error(
        NotStorable(
            f"what it returned cannot be sent from its process ({said.type}: {said.message}): return plain data",
        )
    )


def _packed_error(error: BaseException) -> bytes:
    """Return an error as it is sent: itself, else its class and text, else only a text."""
    trace = traceback_text(error)
    said = describe(error)
    for value in (error, (type(error), said.message)):
        packed = call_now(_sendable, value, trace)
        if packed.error is None:
            return bytes(packed.value)
    return pickle.dumps((ERROR, f"{said.type}: {said.message}", trace))


def _sendable(value: Any, trace: str) -> bytes:
    """Return an error packed, having made sure that it can be read: many cannot, because of their own constructors."""
    packed = pickle.dumps((ERROR, value, trace))
    str(error_from(pickle.loads(packed)[1]))  # noqa: S301 - packed in the line above
    return packed


def error_from(value: Any) -> BaseException:
    """Return the error that was sent: by its class, so that `Retry(on=)` knows it, if that could be sent."""
    if isinstance(value, BaseException):
        return value
    if isinstance(value, str):
        return StepFailed(value)
    kind, text = value
    error: BaseException = kind.__new__(kind, text)
    error.args = (text,)
    return error


# ------------------------------------------------------------------------------------------- modules without a name
def file_of(module: Any) -> str | None:
    """Return the file of a module, by which another process finds it if it cannot be imported by its name."""
    file = getattr(sys.modules.get(module), "__file__", None) if isinstance(module, str) else None
    return file if isinstance(file, str) and module != "__main__" else None


def _make_known(module: Any, file: str | None) -> None:
    """Load the module of a function from its file if its name is not importable: an app that was given as a file."""
    if file is None or module in sys.modules:
        return
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{module}.".startswith(f"{missing.name}."):
            raise  # it was found, and lacks something itself
        spec = importlib.util.spec_from_file_location(module, file)
        if spec is None or spec.loader is None:
            raise
        loaded = importlib.util.module_from_spec(spec)
        sys.modules[module] = loaded
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[module]
            raise
