"""Factories, clean-ups, listeners and pings are user code: whatever they raise is their failure, and stops nobody."""

from __future__ import annotations

import asyncio

import pytest
from support_nasty import RAISES, throw

from poundlock.artifacts import ArtifactContainer
from poundlock.errors import ArtifactFailed


@pytest.mark.parametrize("name", RAISES)
@pytest.mark.parametrize("later", [False, True], ids=["now", "later"])
async def test_whatever_a_factory_raises_is_its_failure(name, later):
    """The error says which artifact failed and why as far as that can be told; the next resolution tries again."""
    calls = []

    def make():
        calls.append(1)
        return throw(name) if len(calls) == 1 else "made"

    async def make_later():
        await asyncio.sleep(0)  # noqa: TID251 - by now it is built in a task of its own
        return make()

    container = ArtifactContainer()
    container.register("it", make_later if later else make)
    with pytest.raises(ArtifactFailed) as caught:
        await container.require("it")
    assert "'it'" in caught.value.message
    assert await container.require("it") == "made"
    await container.dispose()


@pytest.mark.parametrize("name", RAISES)
@pytest.mark.parametrize("later", [False, True], ids=["now", "later"])
async def test_whatever_a_clean_up_raises_the_others_run(name, later, log):
    """All clean-ups have run when `dispose` tells of those that failed, as ordinary errors."""

    async def fail_later():
        await asyncio.sleep(0)  # noqa: TID251 - it really waits
        throw(name)

    def make(ctx):
        ctx.on_cleanup(lambda: log.append("first"))
        ctx.on_cleanup(fail_later if later else lambda: throw(name))
        ctx.on_cleanup(lambda: log.append("last"))
        return "made"

    container = ArtifactContainer()
    container.register("it", make)
    await container.require("it")
    with pytest.raises(ExceptionGroup) as caught:
        await container.dispose()
    assert log == ["last", "first"]
    assert len(caught.value.exceptions) == 1


@pytest.mark.parametrize("name", RAISES)
async def test_whatever_a_listener_raises_the_build_goes_on(name, caplog):
    """An artifact is not to blame for who watches it."""
    container = ArtifactContainer()
    container.register("it", lambda: "made")
    container.watch("it").subscribe(lambda _change: throw(name))
    assert await container.require("it") == "made"
    assert "a listener of 'it' failed" in caplog.text
    await container.dispose()
