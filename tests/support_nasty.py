"""What user code may do to the task it runs in: shared by the tests of who cancelled, and of how errors are told."""

from __future__ import annotations

import asyncio


def raising(make):
    async def act():
        raise make()

    return act


async def _awaits():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)  # noqa: TID251 - its own cancellation is delivered here


async def _returns():
    asyncio.current_task().cancel()


async def _often():
    for _ in range(3):
        asyncio.current_task().cancel()
    await asyncio.sleep(0)  # noqa: TID251 - its own cancellation is delivered here


class Own(BaseException):
    """A BaseException of an application."""


class Bad(Exception):
    """Its text cannot be had."""

    def __str__(self):
        return "%d" % self.status  # noqa: UP031 - as it was found: `status` is missing

    __repr__ = __str__


class _Nameless(type):
    def __getattribute__(cls, name):
        if name in ("__name__", "__qualname__", "__module__"):
            raise SystemExit("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=_Nameless):
    """Not even its class can be named."""

    def __str__(self):
        raise SystemExit("no text")


class _Text(str):
    __slots__ = ()

    def __str__(self):
        raise asyncio.CancelledError

    def encode(self, *_):
        raise GeneratorExit


class OddText(Exception):
    """Its text is a str of another class."""

    def __str__(self):
        return _Text("odd")


def caused(error, cause):
    error.__cause__ = cause
    return error


RAISES = {
    "CancelledError": lambda: asyncio.CancelledError("mine"),
    "GeneratorExit": GeneratorExit,
    "SystemExit": lambda: SystemExit(3),
    "BaseException": lambda: Own("mine"),
    "a group of them": lambda: BaseExceptionGroup("several", [asyncio.CancelledError(), SystemExit(1)]),
    "StopIteration": StopIteration,
    "StopAsyncIteration": StopAsyncIteration,
    "no text": Bad,
    "no name": Nameless,
    "odd text": OddText,
    "a cause without text": lambda: caused(ValueError("outer"), Nameless()),
    "a group without text": lambda: ExceptionGroup("several", [Bad(), Nameless()]),
}
"""What it may raise, made anew each time."""


def throw(name):
    """Raise one of those."""
    raise RAISES[name]()  # noqa: RSE102 - the call makes the error


CANCELS = {"cancels itself, awaits": _awaits, "cancels itself, returns": _returns, "cancels itself often": _often}
"""How it may cancel the task it runs in."""

FAILS = {**{name: raising(make) for name, make in RAISES.items()}, **CANCELS}
"""Async functions that fail by themselves, though nobody asked for it."""
