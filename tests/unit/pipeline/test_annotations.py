"""What an annotation is about counts, however it is written: within `| None`, `Annotated`, an alias, or a signature."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import textwrap
import types
from typing import Annotated, Any, Optional, Protocol
from unittest.mock import AsyncMock, MagicMock, Mock, create_autospec

import pytest
from pydantic import BaseModel
from typing_extensions import TypeAliasType, TypedDict

from poundlock import (
    Event,
    InvalidDefinition,
    Pause,
    Pipeline,
    Service,
    Stage,
    StateInvalid,
    Step,
    StepContext,
    Terminate,
    Trigger,
    Use,
    Wait,
    Workflow,
)


class Order(BaseModel):
    approved: bool = False
    kind: str = ""


class Other(BaseModel):
    n: int = 0


class Mail: ...


class Smtp(Mail): ...


Context = TypeAliasType("Context", StepContext)
Asked = TypeAliasType("Asked", Annotated[Mail, Use("mail")])


def flow(*stages, **options):
    return Workflow("wf", pipelines=[Pipeline("main", stages)], **options)


def stage(action, **options):
    return flow(Stage("one", [Step("s", action)]), **options)


async def faults(runtime, workflow, **options):
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(workflow, **options)
    return dict(caught.value.faults)


# ----------------------------------------------------------------------------------------------- what is within it
def taking(hint, default=None):
    async def step(it=default):
        return {"kind": type(it).__name__}

    step.__annotations__["it"] = hint
    return step


WITHIN = {
    "optional context": (StepContext | None, "StepContext"),
    "annotated context": (Annotated[StepContext, "of the run"], "StepContext"),
    "alias of the context": (Context, "StepContext"),
    "optional event": (Optional[Event], "Event"),  # noqa: UP045 - the old form counts as well
    "optional state": (Order | None, "Order"),
    "optional service": (Mail | None, "Mail"),
    "optional use": (Annotated[Mail, Use("mail")] | None, "Mail"),
    "use of an optional": (Annotated[Mail | None, Use("mail")], "Mail"),
    "annotated optional use": (Annotated[Annotated[Mail, Use("mail")] | None, "doc"], "Mail"),
    "alias of a use": (Asked, "Mail"),
    "optional alias": (Optional[Asked], "Mail"),  # noqa: UP045 - the alias has no `|`
}


@pytest.mark.parametrize(("hint", "kind"), WITHIN.values(), ids=WITHIN)
async def test_what_an_annotation_is_about_is_given(runtime, hint, kind):
    """A context, event, state or service within another annotation is given, and not silently None."""
    rt = await runtime(stage(taking(hint), state=Order, services=[Service("mail", Mail)]))
    assert (await rt.run("wf")).state.kind == kind


@pytest.mark.parametrize("place", ["when", "hook"])
async def test_it_counts_in_other_functions_too(runtime, place):
    """Functions of the event take an `Event | None`, and hooks a service by `Annotated[...] | None`."""
    seen = []

    def happened(it: Event | None):
        seen.append(type(it))
        return True

    def told(result, mail: Annotated[Mail, Use("mail")] | None = None):
        seen.append(type(mail))

    rt = await runtime()
    wf = flow(
        Stage("one", router=Terminate()), triggers={"t": Trigger("go", when=happened)}, services=[Service("mail", Mail)]
    )
    await rt.register(wf, on_complete=told)
    await (await rt.emit("go")).results()
    assert seen == [Event, Mail]


async def test_a_misspelt_use_within_an_optional_is_found(runtime):
    """`Annotated[T, Use("mial")] | None` names a service that is not there: that is no None."""
    found = await faults(runtime, stage(taking(Annotated[Mail, Use("mial")] | None), services=[Service("mail", Mail)]))
    assert "did you mean 'mail'?" in found["pipelines.main.one.s.it"]


async def test_annotations_for_type_checkers_within_others(runtime, request):
    """`| None`, and quotes where all annotations are text, hide neither our types nor a Use."""
    module = types.ModuleType("written_elsewhere")
    sys.modules["written_elsewhere"] = module
    request.addfinalizer(lambda: sys.modules.pop("written_elsewhere"))
    text = """
    from __future__ import annotations
    from typing import TYPE_CHECKING, Annotated
    if TYPE_CHECKING:
        from elsewhere import Mail
        from poundlock import Event, StepContext, Use

    async def step(
        a: StepContext | None = None, b: "Event" = None, c: Annotated[Mail, Use("mail")] | None = None
    ):
        return {"kind": " ".join(type(each).__name__ for each in (a, b, c))}
    """
    exec(compile(textwrap.dedent(text), "written_elsewhere", "exec", dont_inherit=True), vars(module))
    rt = await runtime(stage(module.step, services=[Service("mail", Mail)]))
    assert (await rt.run("wf")).state["kind"] == "StepContext Event Mail"


async def test_a_signature_says_more_than_the_function_behind(runtime):
    """A decorator may say by `__signature__` what its function takes, with annotations that count."""

    def of_a_library(**given):
        return {"kind": type(given["mail"]).__name__, "n": given["n"]}

    keyword = inspect.Parameter.KEYWORD_ONLY
    of_a_library.__signature__ = inspect.Signature(
        [inspect.Parameter("mail", keyword, annotation="Mail"), inspect.Parameter("n", keyword, annotation=int)]
    )
    rt = await runtime(stage(of_a_library, services=[Service("mail", Mail)]))
    result = await rt.run("wf", n="5")
    assert dict(result.state) == {"kind": "Mail", "n": 5}


@dataclasses.dataclass
class Placed:
    n: int


class Described(TypedDict):
    n: int


@pytest.mark.parametrize("model", [Other, Placed, Described])
async def test_a_model_of_any_kind_on_event_is_the_payload(runtime, model):
    """Steps and routers take the payload as functions of the event do: as a model, dataclass or TypedDict."""

    async def step(event: Any): ...

    def router(event: Any):
        return Terminate(event["n"] if model is Described else event.n)

    step.__annotations__["event"] = router.__annotations__["event"] = model
    rt = await runtime(flow(Stage("one", [Step("s", step)], router=router)))
    assert (await rt.run("wf", n="5")).result == 5


# ------------------------------------------------------------------------------------------------ what is refused
async def test_a_use_as_a_default_is_refused(runtime):
    """`mail=Use("mail")` would be given as it is: the fault says how a service is asked for, in every place."""
    asked = Use("mail")

    async def step(mail=asked): ...

    def when(event, mail=asked): ...

    def hook(result, mail=asked): ...

    wf = stage(step, triggers={"t": Trigger("go", when=when)}, services=[Service("mail", Mail)])
    found = await faults(runtime, wf, on_complete=hook)
    assert set(found) == {"pipelines.main.one.s.mail", "triggers.t.when.mail", "on_complete.mail"}
    assert all("Annotated[T, Use('mail')]" in text for text in found.values())


@pytest.mark.parametrize("state", [None, Order], ids=["none", "another"])
async def test_a_state_of_another_model_is_refused(runtime, state):
    """A parameter for the state, annotated with a model that the state is none of, would fail at its first use."""

    async def step(state: Other): ...

    def patch(event, state: Other): ...

    gate = Stage("gate", router=Pause(Wait("go", patch=patch)))
    found = await faults(runtime, flow(Stage("one", [Step("s", step)]), gate, state=state))
    assert set(found) == {"pipelines.main.one.s.state", "pipelines.main.gate.router.wait.patch.state"}
    assert all("Workflow(state=Other)" in text for text in found.values())


async def test_a_base_of_the_model_is_fine(runtime):
    """A state may be taken as a base of its model."""

    class Longer(Order):
        more: int = 0

    async def step(state: Order):
        return {"kind": type(state).__name__}

    rt = await runtime(stage(step, state=Longer))
    assert (await rt.run("wf")).state.kind == "Longer"


async def test_a_method_without_its_object_is_refused(runtime):
    """A decorated method has no object to be called with: that is told, not looked for in the state."""
    wf = Workflow("wf")

    class Works:
        @wf.step
        async def work(self, n: int = 0): ...

    assert "without its object" in (await faults(runtime, wf))["pipelines.main.work.work.self"]


class Sends(Protocol):
    def send(self): ...


async def test_a_model_that_cannot_be_read_is_named(runtime):
    """A function of the event whose model is not there at run time is told what to import, not only what to call it."""

    def when(order: Order): ...

    when.__annotations__["order"] = "Missing"
    found = await faults(runtime, stage(lambda: None, triggers={"t": Trigger("go", when=when)}))
    assert "import Missing outside" in found["triggers.t.when.order"]


async def test_a_service_known_by_a_subclass_is_named(runtime):
    """Where a service could be meant, the fault says how to make it known by the type that is asked for."""

    async def step(mail: Mail): ...

    text = (await faults(runtime, stage(step, services=[Service("smtp", Smtp)])))["pipelines.main.one.s.mail"]
    assert "service 'smtp' is known as a Smtp only" in text
    assert "type=Mail" in text
    assert "PydanticSchemaGenerationError" not in text
    rt = await runtime(stage(step, services=[Service("smtp", Smtp, type=Mail)]))
    assert (await rt.run("wf")).ok


async def test_a_value_that_cannot_be_checked_opens_no_gate(runtime):
    """A field whose parameter is annotated with what is no data is never given unchecked: "false" is true to Python."""

    def gate(approved: Mail = None):
        return Terminate("paid" if approved else "refused")

    rt = await runtime(flow(Stage("gate", router=gate)))
    assert (await rt.run("wf")).result == "refused"
    result = await rt.run("wf", approved="false")
    assert (result.status, result.error.code) == ("failed", StateInvalid.code)
    assert "'approved' does not fit its annotation" in result.error.message


# ---------------------------------------------------------------------------------------------------------- mocks
@pytest.mark.parametrize("kind", [Mock, MagicMock, AsyncMock])
async def test_mocks_are_steps_and_functions(runtime, kind):
    """A mock takes everything, as what does not tell its parameters: the context, or the event."""
    step, when = kind(return_value={"n": 1}), Mock(return_value=True)
    patch = Mock(return_value={"kind": "b"})
    wf = flow(
        Stage("one", [Step("s", step)]),
        Stage("gate", router=Pause(Wait("ok", patch=patch))),
        triggers={"t": Trigger("go", when=when)},
    )
    rt = await runtime(wf)
    (run_id,) = (await rt.emit("go")).run_ids
    await rt.emit("ok")
    result: Any = await rt.wait(run_id)
    assert dict(result.state) == {"n": 1, "kind": "b"}
    assert [type(mock.call_args.args[0]) for mock in (step, when, patch)] == [StepContext, Event, Event]


async def test_a_mock_of_a_function_is_asked_like_it(runtime):
    """A mock made from a function is given what the function takes; a router that tells nothing stays a fault."""

    def work(n: int): ...

    step = create_autospec(work, return_value={})
    rt = await runtime(stage(step))
    assert (await rt.run("wf", n="4")).ok
    step.assert_called_once_with(4)
    wf = flow(Stage("one", router=Mock(return_value=None)))
    wf = Workflow("other", pipelines=[Pipeline("main", wf.definition.pipelines["main"].stages)])
    assert "write a function around it" in (await faults(runtime, wf))["pipelines.main.one.router"]
