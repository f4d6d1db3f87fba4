"""Disposing after a failure: generators and context managers see it, so that they can roll back."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

import pytest

from poundlock.artifacts import ArtifactContainer, ArtifactTemplate
from poundlock.testing import VirtualClock


class Log(list):
    """What factories noted."""

    def generator(self, name="tx", after=None):
        def make():
            try:
                yield name
            except BaseException as error:
                self.append(f"roll back {name}: {error!r}")
                if after is not None:
                    raise after from error
                raise
            else:
                if after is not None:
                    raise after
                self.append(f"commit {name}")

        return make

    def async_generator(self, name="tx", after=None):
        inner = self.generator(name, after)

        async def make():
            with contextmanager(inner)() as value:
                await asyncio.sleep(0)  # noqa: TID251 - to be one that has to be awaited
                yield value

        return make


def kinds(log):
    plain, awaited = log.generator, log.async_generator
    return {
        "generator": plain(),
        "async generator": awaited(),
        "context manager": contextmanager(plain()),
        "async context manager": asynccontextmanager(awaited()),
    }


@pytest.mark.parametrize(
    "failure",
    [ValueError("no"), SystemExit(3), StopIteration("end"), StopAsyncIteration("end"), asyncio.CancelledError()],
    ids=repr,
)
@pytest.mark.parametrize("kind", kinds(Log()))
async def test_a_failure_is_raised_at_the_yield(kind, failure):
    """Each kind of factory sees the failure itself; that it comes out again is no error of the clean-up."""
    log = Log()
    container = ArtifactContainer("c")
    container.register("tx", kinds(log)[kind])
    assert await container.require("tx") == "tx"
    await container.dispose(failure)
    assert [line.split(":")[0] for line in log] == ["roll back tx"]
    assert type(failure).__name__ in log[0]
    assert failure.__traceback__ is None


@pytest.mark.parametrize("kind", kinds(Log()))
async def test_without_a_failure_the_end_is_normal(kind):
    """A generator goes on behind its yield."""
    log = Log()
    container = ArtifactContainer("c")
    container.register("tx", kinds(log)[kind])
    await container.require("tx")
    await container.dispose()
    assert log == ["commit tx"]


async def test_a_failure_that_is_swallowed_stays_one():
    """A generator that catches it and ends, one that catches nothing, and a plain clean-up: none is an error."""
    log = []

    def swallows():
        try:
            yield 1
        except ValueError:
            log.append("swallowed")

    def unaware(ctx):
        ctx.on_cleanup(lambda: log.append("plain"))
        return 2

    def careless():
        yield 3
        log.append("never")

    container = ArtifactContainer("c")
    for key, factory in {"a": swallows, "b": unaware, "c": careless}.items():
        container.register(key, factory)
        await container.require(key)
    await container.dispose(ValueError("no"))
    assert log == ["plain", "swallowed"]


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
async def test_what_a_roll_back_raises_is_its_own_error(kind):
    """Another error than the one thrown in is reported, also where it was raised from that one."""
    log = Log()
    container = ArtifactContainer("c")
    container.register("tx", getattr(log, kind)(after=RuntimeError("connection lost")))
    await container.require("tx")
    with pytest.raises(ExceptionGroup) as raised:
        await container.dispose(ValueError("no"))
    assert [str(error) for error in raised.value.exceptions] == ["connection lost"]


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_second_yield_is_an_error(asynchronous):
    """A factory that yields again when the failure is thrown in is told so."""

    def twice():
        while True:
            with suppress(ValueError):
                yield 1

    async def twice_async():
        while True:
            with suppress(ValueError):
                yield 1

    container = ArtifactContainer("c")
    container.register("a", twice_async if asynchronous else twice)
    await container.require("a")
    with pytest.raises(ExceptionGroup) as raised:
        await container.dispose(ValueError("no"))
    assert "yielded again" in str(raised.value.exceptions[0])


@pytest.mark.parametrize("kind", ["generator", "async_generator"])
@pytest.mark.parametrize("together", [False, True])
async def test_a_clean_up_that_fails_is_a_failure_for_those_after_it_only_where_they_are_one(kind, together):
    """In a container whose artifacts are one unit, the first commit that fails makes the others roll back."""
    log = Log()
    container = ArtifactContainer("c")
    container.together = together
    make = getattr(log, kind)
    container.register("first", make("first"))
    container.register("second", make("second", after=ValueError("not unique")))
    await container.require("first")
    await container.require("second")
    with pytest.raises(ExceptionGroup) as raised:
        await container.dispose()
    assert [str(error) for error in raised.value.exceptions] == ["not unique"]
    assert log == (["roll back first: ValueError('not unique')"] if together else ["commit first"])


async def test_scopes_and_transients_see_it_too():
    """What was made in a scope, or for somebody who asked once, belongs to what ends."""
    log = Log()
    container = ArtifactContainer("c")
    container.register(ArtifactTemplate("each", log.generator("each"), scope="transient"))
    await container.require("each")
    scope = container.scope("inner")
    scope.register("tx", log.async_generator("inner"))
    await scope.require("tx")
    await container.dispose(ValueError("no"))
    assert log == ["roll back inner: ValueError('no')", "roll back each: ValueError('no')"]


async def test_a_roll_back_that_hangs_is_given_up():
    """The time limit of clean-ups holds for roll-backs as well."""

    async def hangs():
        try:
            yield 1
        except ValueError:
            await asyncio.get_running_loop().create_future()

    async with VirtualClock() as clock:
        container = ArtifactContainer("c", clock=clock, cleanup_timeout=5)
        container.register("a", hangs)
        await container.require("a")
        with pytest.raises(ExceptionGroup) as raised:
            await container.dispose(ValueError("no"))
        assert raised.value.exceptions[0].code == "ARTIFACT_TIMEOUT"


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that refuses every attribute: the traceback and notes that others get, too."""

    number: int


# Python's own context managers made of generators assign the traceback, so they cannot pass such an error.
@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_failure_that_refuses_attributes(kind):
    """A frozen dataclass as the failure is thrown in and comes out again as any other."""
    log = Log()

    async def tx():
        try:
            yield "tx"
        except Frozen as error:
            log.append(f"roll back tx: {error!r}")
            raise

    container = ArtifactContainer("c")
    container.register("tx", tx if kind == "async generator" else log.generator())
    await container.require("tx")
    await container.dispose(Frozen(1))
    assert log == ["roll back tx: Frozen(number=1)"]


@pytest.mark.parametrize("kind", ["generator", "async generator"])
async def test_a_clean_up_that_raises_what_refuses_attributes(kind):
    """Such an error of a clean-up is told as it is, and the other clean-ups run."""
    log = Log()
    container = ArtifactContainer("c")
    container.register("first", log.generator("first"))
    container.register(
        "tx", {"generator": log.generator, "async generator": log.async_generator}[kind](after=Frozen(2))
    )
    await container.require("first")
    await container.require("tx")
    with pytest.raises(ExceptionGroup) as raised:
        await container.dispose()
    assert [repr(error) for error in raised.value.exceptions] == ["Frozen(number=2)"]
    assert log == ["commit first"]
