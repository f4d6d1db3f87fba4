"""What hooks are given: their one argument by place, and services by annotation after it."""

from __future__ import annotations

import functools
from typing import Annotated, Any
from unittest.mock import Mock

import pytest

from poundlock import InvalidDefinition, Service, StepContext, Use, Workflow

HOOKS = ["on_prepare", "on_complete", "on_resume", "on_cleanup", "on_dispatch"]
WITH_ARGUMENT = [name for name in HOOKS if name != "on_cleanup"]


class Mail:
    def __init__(self):
        self.sent = []


class Session:
    made = 0

    def __init__(self):
        type(self).made += 1


def workflow(**options):
    wf = Workflow("wf", **options)
    wf.on("begin")

    @wf.step
    async def work():
        return {"worked": True}

    wf.wait("gate", on="go")
    return wf


async def through(rt):
    """One run from its event to its end, with a pause."""
    receipt = await rt.emit("begin")
    await receipt.results(60)
    await rt.emit("go")
    return await rt.wait(receipt.run_ids[0], 60)


async def faults(runtime, **hooks):
    rt = await runtime(services=[Service("mail", Mail)])
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(workflow(services=[Service("session", Session, scope="run")]), **hooks)
    return caught.value.faults


async def test_services_come_after_the_argument(stores, runtime):
    """Each hook takes its argument by place, whatever its name, and services by `Use` or by type after it."""
    seen = {}

    def on_prepare(c, mail: Annotated[Any, Use("mail")], session: Session):
        seen["prepare"] = (type(c), type(mail), type(session))
        return {"prepared": True}

    async def on_complete(outcome, by_type: Mail, *, session: Annotated[Any, Use("session")], note: str = "none"):
        seen["complete"] = (outcome.status, type(by_type), type(session), note)

    def on_resume(anything, mail: Mail):
        seen["resume"] = (type(anything), type(mail))

    def on_cleanup(mail: Mail):
        seen["cleanup"] = type(mail)

    async def on_dispatch(what, mail: Mail):
        seen.setdefault("dispatch", []).append((str(what.verdict), type(mail)))

    rt = await runtime(services=[Service("mail", Mail)])
    await rt.register(
        workflow(services=[Service("session", Session, scope="run")]),
        on_prepare=on_prepare,
        on_complete=on_complete,
        on_resume=on_resume,
        on_cleanup=on_cleanup,
        on_dispatch=on_dispatch,
    )
    result = await through(rt)
    assert result.state == {"prepared": True, "worked": True}
    await rt.stop()
    assert seen == {
        "prepare": (StepContext, Mail, Session),
        "complete": ("completed", Mail, Session, "none"),
        "resume": (StepContext, Mail),
        "cleanup": Mail,
        "dispatch": [("started", Mail), ("resumed", Mail)],
    }


async def test_services_of_a_run_that_nobody_drives(runtime):
    """A run that is aborted while it is only a row has its services made for `on_complete`, and closed behind it."""
    log = []

    def session():
        log.append("made")
        yield Session()
        log.append("closed")

    def on_complete(result, session: Annotated[Any, Use("session")]):
        log.append(f"{result.status} {type(session).__name__}")

    rt = await runtime(pause_window=0)
    wf = workflow(services=[Service("session", session, scope="run")])
    await rt.register(wf, on_complete=on_complete, on_cleanup=lambda: log.append("cleanup"))
    receipt = await rt.emit("begin")
    await receipt.results(60)
    await rt.clock.run_for(seconds=1)
    await rt.abort(receipt.run_ids[0])
    await rt.wait(receipt.run_ids[0], 60)
    assert log == ["made", "aborted Session", "closed", "cleanup"]


class Owner:
    def __init__(self):
        self.told = []

    def method(self, *what):
        self.told.append(what)

    def __call__(self, *what):
        self.told.append(what)


KINDS = {
    "method": lambda owner: owner.method,
    "object": lambda owner: owner,
    "partial": lambda owner: functools.partial(owner.method, "bound"),
    "wrapper": lambda owner: lambda *args, **kwargs: owner.told.append(args),
    "mock": lambda owner: Mock(side_effect=owner),
    "positional": lambda owner: eval("lambda it, /: told.append((it,))", {"told": owner.told}),
    "builtin": lambda owner: owner.told.append,
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
async def test_callables_of_any_kind_are_hooks(runtime, kind):
    """Methods, objects, partials, wrappers, mocks and builtins get the argument by place."""
    owner = Owner()
    rt = await runtime()
    await rt.register(workflow(), on_complete=kind(owner))
    result = await through(rt)
    [told] = owner.told
    assert (told[-1] if isinstance(told, tuple) else told).run_id == result.run_id


@pytest.mark.parametrize("hook", WITH_ARGUMENT)
async def test_a_hook_without_a_parameter_is_refused(runtime, hook):
    """A hook that cannot take what it is called with is found when it is registered."""
    [(path, text)] = await faults(runtime, **{hook: lambda: None})
    assert path == hook
    assert "give it a parameter" in text


@pytest.mark.parametrize("hook", HOOKS)
async def test_what_nothing_can_give_is_refused(runtime, hook):
    """Further parameters are services, or have a default."""
    function = (lambda weather: None) if hook == "on_cleanup" else (lambda it, weather: None)
    [(path, text)] = await faults(runtime, **{hook: function})
    assert path == f"{hook}.weather"
    assert "nothing can give 'weather'" in text


async def test_services_that_are_not_there_are_refused(runtime):
    """An unknown service, one in the argument's place, and one of a run where no run is open, are all told at once."""

    def misspelt(result, mail: Annotated[Any, Use("mial")]): ...

    def first(mail: Annotated[Any, Use("mail")]): ...

    def too_short(line, session: Annotated[Any, Use("session")]): ...

    def also_short(session: Session): ...

    found = await faults(runtime, on_complete=misspelt, on_prepare=first, on_dispatch=too_short, on_cleanup=also_short)
    texts = dict(found)
    assert "did you mean 'mail'?" in texts["on_complete.mail"]
    assert "its first parameter is the ctx" in texts["on_prepare.mail"]
    assert "only as long as a run" in texts["on_dispatch.session"]
    assert "only as long as a run" in texts["on_cleanup.session"]


async def test_generators_and_what_is_no_function_are_refused(runtime):
    """A hook whose body would never run is no hook."""

    def generated(result):
        yield

    found = dict(await faults(runtime, on_complete=generated, on_prepare=7))
    assert "generator function" in found["on_complete"]
    assert "not a function" in found["on_prepare"]


async def test_a_service_that_hangs_holds_a_hook_no_longer_than_it_may(runtime, caplog):
    """Building a hook's services counts as part of the hook: after `hook_timeout` the run goes on without it."""
    import asyncio

    async def never() -> Mail:
        await asyncio.Event().wait()
        return Mail()

    called = []
    rt = await runtime(services=[Service("mail", never)], hook_timeout=5)
    await rt.register(workflow(), on_complete=lambda result, mail=None: called.append(mail), on_dispatch=None)
    hooked = workflow()
    hooked.id = "second"

    def on_complete(result, mail: Annotated[Any, Use("mail")]):
        called.append("second")

    await rt.register(hooked, on_complete=on_complete)
    assert (await rt.run("second")).status == "paused"
    await rt.emit("go")
    [run] = (await rt.find_runs("second")).items
    assert (await rt.wait(run.run_id, 60)).ok
    assert called == []
    assert "on_complete of workflow 'second'" in caplog.text


async def test_a_default_between_places_stays_a_default(runtime):
    """A service by place behind a parameter with a default comes at its own place."""
    seen = []

    def told(result, limit=5, mail: Annotated[Any, Use("mail")] = None, /):
        seen.append((limit, mail))

    rt = await runtime()
    wf = Workflow("wf", services=[Service("mail", lambda: "mail")])
    wf.step(id="one")(lambda: None)
    await rt.register(wf, on_complete=told)
    await rt.run("wf")
    assert seen == [(5, "mail")]
