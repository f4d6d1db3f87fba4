"""Functions that tests have called in other processes, which import this file: so it imports next to nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path


class Odd(Exception):
    """An error that cannot be sent as it is: its constructor takes other arguments than those it keeps."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def double(number: int):
    return {"number": number * 2, "pid": os.getpid()}


def of_all(state, event, number: int = 0):
    return {"seen": [dict(state), event.type, event.payload, number]}


def of_context(ctx):
    return {"step": ctx.step_id}


def square(item, index):
    return [index, item * item]


def length(rows):
    return {"rows": len(rows)}


def fails(kind):
    raise {"ValueError": ValueError("no"), "Odd": Odd(1, 2), "SystemExit": SystemExit(3)}[kind]


def returns_a_lock():
    return {"lock": threading.Lock()}


def ends(how):
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.SIGKILL)


def ends_once(marker):
    if not Path(marker).exists():
        Path(marker).touch()
        os._exit(7)
    return {"done": True}


def hangs(fifo):
    """Write the process's id to a named pipe, and never return."""
    Path(fifo).write_text(str(os.getpid()))
    threading.Event().wait()


def hangs_once(fifo, marker):
    if not Path(marker).exists():
        Path(marker).touch()
        hangs(fifo)
    return {"done": os.getpid()}


def leaves_a_thread():
    threading.Thread(target=threading.Event().wait).start()
    return {"pid": os.getpid()}


def prints(text):
    sys.stdout.write(f"{text}\n")
    sys.stderr.write(f"{text}\n")


def taken_back(number, log):
    with Path(log).open("a") as file:
        file.write(f"{number} {os.getpid()}\n")


def fail_always():
    raise RuntimeError("nothing works")


copies: list[int] = []


def forks():
    """Fork: the copy returns too, as the first call of a process. The next call waits until the copy has ended."""
    if copies:
        return {"ended": os.waitpid(copies.pop(), 0)[1]}
    pid = os.fork()
    copies.append(pid)
    return {"copy": pid == 0}


def leaves_a_copy(fifo):
    """End the process, but leave a copy of it behind, until somebody opens the pipe."""
    if os.fork() == 0:
        Path(fifo).read_text()
        os._exit(0)
    os._exit(3)


def hangs_at_its_start(_pipe):
    """Instead of what a process does: it never says that it is ready."""
    hangs(os.environ["POUNDLOCK_TEST_FIFO"])
