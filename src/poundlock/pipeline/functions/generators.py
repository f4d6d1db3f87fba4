"""The kinds of durable functions: async functions, and generators of both kinds, which yield operations."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import Any

from poundlock.callables import is_coroutine_function, is_generator_function
from poundlock.errors import StepFailed
from poundlock.guard import name_of, repr_of
from poundlock.model.definitions import Terminate
from poundlock.pipeline.durable_steps import Operation


def can_wait(function: Any) -> bool:
    """Whether a function can await or yield operations, as far as its declaration shows."""
    if not inspect.isfunction(function) or hasattr(function, "__wrapped__"):
        return callable(function)  # it is known once it is called
    return is_coroutine_function(function) or is_generator_function(function)


async def result_of(made: Any) -> Any:
    """Return the result of a durable function, given what its call returned.

    Raises:
        StepFailed: that is neither an awaitable nor a generator, or it yielded something other than an operation.
        BaseException: what the function raised.
    """
    if inspect.isasyncgen(made):
        result = await _async_generator(made)
    elif inspect.isgenerator(made):
        result = await _generator(made)
    elif inspect.isawaitable(made):
        result = await made
    else:
        raise StepFailed(
            f"the function returned a {name_of(type(made))} at once: write it as `async def`, or as a generator"
        )
    if isinstance(result, Operation) and result.kind == "again":
        return await result
    return result


async def _generator(generator: Generator[Any, Any, Any]) -> Any:
    step, given, over = generator.send, None, False
    try:
        while True:
            try:
                asked = step(given)
            except StopIteration as end:
                return end.value
            if isinstance(asked, Terminate):
                return asked.result
            try:
                step, given = generator.send, await _asked(asked)
            except BaseException as error:
                if over:
                    raise  # it took the first one and went on
                over = not isinstance(error, Exception)
                step, given = generator.throw, error
    finally:
        with suppress(RuntimeError):  # it ignores that it is closed
            generator.close()


async def _async_generator(generator: AsyncGenerator[Any, Any]) -> Any:
    step, given, over = generator.asend, None, False
    try:
        while True:
            try:
                asked = await step(given)
            except StopAsyncIteration:
                return None
            if isinstance(asked, Terminate):
                return asked.result
            try:
                step, given = generator.asend, await _asked(asked)
            except BaseException as error:
                if over:
                    raise
                over = not isinstance(error, Exception)
                step, given = generator.athrow, error
    finally:
        with suppress(RuntimeError):
            await generator.aclose()


async def _asked(asked: Any) -> Any:
    if not isinstance(asked, Operation):
        raise StepFailed(
            f"the function yielded {repr_of(asked, 60)}: yield operations, such as step.run(function), and return the "
            f"result (an async generator yields Terminate(result))"
        )
    return await asked
