"""What a retry and a failed run make of odd errors: ends of iterators, and groups of errors."""

from __future__ import annotations

import pytest

from poundlock import Pipeline, Retry, Stage, Step, Workflow


async def nothing():
    """Yield nothing at all."""
    return
    yield


async def empty_anext():
    return {"first": await anext(nothing())}


async def raises_stop_async():
    raise StopAsyncIteration("no more")


async def empty_next():
    return {"first": next(iter([]))}


def plain_next():
    return {"first": next(iter([]))}


def plain_anext():
    raise StopAsyncIteration


def plain_exit():
    raise SystemExit(3)


def flow(action, retry=None, **options):
    return Workflow("wf", pipelines=[Pipeline("main", [Stage("one", [Step("s", action, retry=retry, **options)])])])


async def attempts(rt, result):
    entries = (await rt.timeline(result.run_id)).entries
    return [entry.type for entry in entries].count("step:start")


@pytest.mark.parametrize("retry", [None, Retry(2, backoff=0)], ids=["no retry", "retry"])
@pytest.mark.parametrize(
    ("action", "options", "kind"),
    [
        (empty_anext, {}, "StopAsyncIteration"),
        (empty_anext, {"timeout": 5}, "StopAsyncIteration"),
        (raises_stop_async, {}, "StopAsyncIteration"),
        (empty_next, {}, "StopIteration"),
        (empty_next, {"timeout": 5}, "StopIteration"),
        (plain_next, {}, "StopIteration"),
        (plain_next, {"executor": "inline"}, "StopIteration"),
        (plain_next, {"executor": "inline", "timeout": 5}, "StopIteration"),
        (plain_anext, {}, "StopAsyncIteration"),
        (plain_anext, {"executor": "inline"}, "StopAsyncIteration"),
    ],
)
async def test_the_end_of_an_iterator_is_reported_as_what_it_is(runtime, action, options, kind, retry):
    """The run fails with the error that the step raised, not with what coroutines and futures make of it."""
    rt = await runtime(flow(action, retry, **options))
    result = await rt.run("wf")
    assert (result.status, result.error.type) == ("failed", kind)
    assert await attempts(rt, result) == (1 if retry is None else 2)
    failures = [entry.payload for entry in (await rt.timeline(result.run_id)).entries if "failure" in entry.type]
    assert {failure["type"] for failure in failures} == {kind}


@pytest.mark.parametrize("action", [empty_next, plain_next, empty_anext])
async def test_retry_knows_the_end_of_an_iterator_by_its_type(runtime, action):
    """`on=` and `not_on=` name the type that the step raised."""
    ends = (StopIteration, StopAsyncIteration)
    rt = await runtime(flow(action, Retry(3, backoff=0, on=ends)))
    assert await attempts(rt, await rt.run("wf")) == 3
    other = await runtime(flow(action, Retry(3, backoff=0, not_on=ends)))
    assert await attempts(other, await other.run("wf")) == 1


async def test_a_router_that_runs_out_is_reported_as_what_it_is(runtime):
    """Routers are called from coroutines as well."""

    async def fine():
        return {"a": 1}

    def way(state):
        return next(iter([]))

    rt = await runtime(Workflow("wf", pipelines=[Pipeline("main", [Stage("one", [Step("s", fine)], router=way)])]))
    assert (await rt.run("wf")).error.type == "StopIteration"


async def test_a_plain_step_that_ends_the_process_is_reported_like_an_async_one(runtime):
    """`sys.exit()` in a thread is told as SystemExit, and no retry by default repeats it."""
    rt = await runtime(flow(plain_exit, Retry(3, backoff=0)))
    result = await rt.run("wf")
    assert (result.error.type, await attempts(rt, result)) == ("SystemExit", 1)
    assert "tried to end the process" in result.error.message


def group(*errors):
    return ExceptionGroup("several", errors)


DEEP = group(group(group(ConnectionError("reset"))))


@pytest.mark.parametrize(
    ("error", "retry", "expected"),
    [
        (group(ConnectionError()), {"on": (ConnectionError,)}, 3),
        (group(ConnectionError()), {"on": ConnectionError}, 3),
        (DEEP, {"on": (ConnectionError,)}, 3),
        (group(ConnectionError(), TimeoutError()), {"on": (ConnectionError, TimeoutError)}, 3),
        (group(ConnectionError(), ValueError()), {"on": (ConnectionError,)}, 1),
        (group(ValueError()), {"on": (ConnectionError,)}, 1),
        (group(ValueError()), {}, 3),
        (group(ValueError()), {"on": (ExceptionGroup,)}, 3),
        (group(group(ValueError()), KeyError()), {"not_on": (ValueError,)}, 1),
        (group(KeyError()), {"not_on": (ValueError,)}, 3),
        (group(KeyError()), {"not_on": (ExceptionGroup,)}, 1),
        (BaseExceptionGroup("odd", [GeneratorExit()]), {}, 1),
        (BaseExceptionGroup("odd", [ValueError()]), {}, 3),
    ],
)
async def test_retry_looks_into_groups(runtime, error, retry, expected):
    """A group is repeated if each error in it would be, or its own type is listed; never, if one of them never is."""

    async def action():
        raise error

    rt = await runtime(flow(action, Retry(3, backoff=0, **retry)))
    result = await rt.run("wf")
    assert (result.status, await attempts(rt, result)) == ("failed", expected)


async def test_retry_looks_into_very_deep_groups(runtime):
    """Groups in groups are walked without recursion."""
    error = ConnectionError("reset")
    for _ in range(3000):
        error = group(error)

    async def action():
        raise error

    rt = await runtime(flow(action, Retry(2, backoff=0, on=(ConnectionError,))))
    assert await attempts(rt, await rt.run("wf")) == 2
