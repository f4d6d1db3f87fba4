"""The guard: how user code is called, whose a cancellation is, and how errors are described."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import traceback

import pytest
from support_nasty import FAILS, RAISES, Bad, Nameless, Own, caused, throw

from poundlock import guard
from poundlock.errors import HookTimeout, StepTimeout


def made(name):
    return RAISES[name]()


# -- describing
@pytest.mark.parametrize("name", RAISES)
def test_every_error_can_be_described(name):
    """Type, message and traceback are plain text that can be encoded, whatever the error's own methods do."""
    error = guard.call_now(throw, name).error
    said, trace, logged = guard.describe(error), guard.traceback_text(error), guard.log_text(error)
    for text in (said.type, said.message, trace, logged):
        assert type(text) is str
        assert text.encode().decode() == text
    assert said.type
    assert trace
    assert said.code is None


def test_an_error_of_ours_keeps_its_code():
    """Errors of this package are described with their code."""
    assert guard.describe(StepTimeout("late")) == ("StepTimeout", "late", "STEP_TIMEOUT")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (asyncio.CancelledError(), "not by Poundlock"),
        (SystemExit(3), "tried to end the process (3)"),
        (GeneratorExit(), "only ends generators"),
        (KeyboardInterrupt(), "outside the main thread"),
        (Own("mine"), "mine"),
    ],
)
def test_base_exceptions_say_what_happened(error, says):
    """A BaseException mostly has no text of its own, so it gets one."""
    assert says in guard.describe(error).message


def test_a_text_that_cannot_be_encoded_is_shown_escaped():
    """A lone surrogate in an error's text does not keep it from being stored."""
    assert guard.describe(ValueError("\udc80")).message == "\\udc80"


@pytest.mark.parametrize("broken", [SystemError("depth mismatch"), RecursionError(), KeyError("x")])
def test_a_traceback_that_cannot_be_formatted(broken, monkeypatch):
    """Formatting a traceback runs code of others and of CPython that may raise: then there is none."""

    def fail(*_args, **_options):
        raise broken

    monkeypatch.setattr(traceback, "format_exception", fail)
    text = guard.traceback_text(ValueError("x"))
    monkeypatch.undo()
    assert text == "(the traceback cannot be shown)\n"


def test_a_value_without_a_repr_is_shown_by_its_class():
    """`repr_of` cuts what is long, and says of which class it is where the value cannot be shown."""
    assert guard.repr_of("x" * 9, 5) == "'xxxx"
    assert guard.repr_of(Bad()) == "(a Bad that cannot be shown)"
    assert guard.name_of(Nameless) == "a class without a name"
    assert guard.repr_of(Nameless())


def test_a_chain_of_odd_errors_is_described():
    """Causes that cannot be shown do not hide the error itself."""
    error = caused(ValueError("outer"), caused(Bad(), Nameless()))
    assert guard.describe(error).message == "outer"
    assert guard.traceback_text(error)


# -- whose it is
def test_only_the_main_thread_is_interrupted_by_the_keyboard():
    """KeyboardInterrupt is for the process on the main thread, and a failure anywhere else."""
    told = []
    thread = threading.Thread(target=lambda: told.append(guard.for_the_process(KeyboardInterrupt())))
    thread.start()
    thread.join()
    assert (guard.for_the_process(KeyboardInterrupt()), told) == (True, [False])
    assert not guard.for_the_process(SystemExit())


async def test_generator_exit_passes_only_where_its_task_does_not_run():
    """Raised by user code it is a failure; where the coroutine is closed from outside, it has to go on."""
    assert not guard.passes(GeneratorExit(), asyncio.current_task())
    other = asyncio.ensure_future(asyncio.Event().wait())
    assert guard.passes(GeneratorExit(), other)
    other.cancel()
    await asyncio.wait([other])


def test_generator_exit_passes_without_a_loop():
    """With no loop there is nothing left to await."""
    assert guard.passes(GeneratorExit(), None)


@pytest.mark.parametrize("cancels", [1, 3])
@pytest.mark.parametrize("uncancel", [False, True])
async def test_cancellations_left_behind_are_cleared(cancels, uncancel):
    """Delivered or not, counted or taken back: afterwards the task can await without being hit."""
    task = asyncio.current_task()
    for _ in range(cancels):
        task.cancel()
    if uncancel:
        for _ in range(cancels):
            task.uncancel()
    await guard.clear_cancellation(task)
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # noqa: TID251 - would raise


async def test_cancellations_from_before_stay():
    """What was asked for before user code was called is not taken back."""

    async def work():
        task = asyncio.current_task()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            task.cancel()
            await guard.clear_cancellation(task, 1)
            return task.cancelling()

    task = asyncio.ensure_future(work())
    await asyncio.sleep(0)  # noqa: TID251 - lets it begin
    task.cancel()
    assert await task == 1


# -- the loop
def test_a_loop_that_ends_is_noticed():
    """`asyncio.run` cancels what is left: the watch tells so to whoever is cancelled then, and not before."""
    told = []

    async def main():
        watch = guard.LoopWatch()
        assert not watch.ending
        watch.start()

        async def left():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                told.append(watch.ending)
                raise

        tasks.append(asyncio.ensure_future(left()))
        await asyncio.sleep(0)  # noqa: TID251 - lets it begin
        assert not watch.ending

    tasks = []
    asyncio.run(main())
    assert told == [True]


async def test_a_watch_that_was_closed_sees_nothing():
    """A runtime that has stopped does not care for the loop's end."""
    watch = guard.LoopWatch()
    watch.start()
    watch.close()
    await asyncio.sleep(0)  # noqa: TID251 - the watch's task ends
    assert not watch.ending


# -- calling
@pytest.mark.parametrize("name", RAISES)
def test_a_plain_call_never_raises(name):
    """`call_now` gives the error as a value."""

    def act():
        raise made(name)

    answer = guard.call_now(act)
    assert answer.value is None
    assert type(answer.error) is type(made(name))


def test_a_plain_call_gives_the_value():
    """`call_now` gives what the function returned."""
    assert guard.call_now(lambda a: a + 1, 1) == (2, None)


@pytest.mark.parametrize("name", FAILS)
async def test_a_call_within_a_time_never_raises(name, vclock):
    """Whatever a hook raises, and however it cancels itself, is its answer; the caller's task is not touched."""
    kept = []
    answer = await guard.call_within(60, FAILS[name], clock=vclock, keep=kept.append)
    assert answer.error is not None
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)  # noqa: TID251 - would raise if a cancellation were left


async def test_a_hook_that_takes_too_long_is_cancelled(vclock):
    """The answer is a HookTimeout, after the time allowed."""
    began = vclock.now()
    answer = await guard.call_within(5, asyncio.Event().wait, clock=vclock, keep=lambda _task: None)
    assert isinstance(answer.error, HookTimeout)
    assert vclock.now() - began == 5


async def test_a_hook_that_swallows_its_cancellation_is_left_behind(vclock):
    """After the grace the caller goes on; the task is in somebody's keeping."""
    let_go, kept = asyncio.Event(), []

    async def deaf():
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    began = vclock.now()
    answer = await guard.call_within(5, deaf, clock=vclock, keep=kept.append, grace=2)
    assert isinstance(answer.error, HookTimeout)
    assert vclock.now() - began == 7
    let_go.set()
    await asyncio.wait(kept)


async def test_a_caller_that_is_cancelled_takes_its_hook_along(vclock):
    """The cancellation goes on to the hook and is raised to the caller's own."""
    inside, ended = asyncio.Event(), asyncio.Event()

    async def hook():
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.ensure_future(guard.call_within(None, hook, clock=vclock, keep=lambda _task: None))
    await inside.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await ended.wait()
