"""Callables of any kind work as steps and factories, and annotations say what they mean wherever they can be read."""

from __future__ import annotations

import contextlib
import functools
import sys
import textwrap
import types
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from typing import Annotated, Any, Self

import pytest

from poundlock import InvalidDefinition, Pipeline, Service, Stage, Step, StepContext, Use, Workflow


class Pool:
    def __init__(self, log=None):
        self.log = log

    @classmethod
    def create(cls) -> Self:
        return cls()


def flow(action, executor=None, **options):
    return Workflow(
        "wf", pipelines=[Pipeline("main", [Stage("one", [Step("s", action, executor=executor)])])], **options
    )


async def faults(runtime, workflow):
    rt = await runtime()
    with pytest.raises(InvalidDefinition) as caught:
        await rt.register(workflow)
    return dict(caught.value.faults)


# ----------------------------------------------------------------------------------------------------------- steps
def double(n: int, factor: int = 2):
    return {"doubled": n * factor}


async def async_double(n: int):
    return double(n)


def by_keyword(factor, *, n: int):
    return double(n, factor)


class Doubler:
    def method(self, n: int):
        return double(n)

    @classmethod
    def of_class(cls, n: int):
        return double(n)

    @staticmethod
    def static(n: int):
        return double(n)

    def __call__(self, n: int):
        return double(n)


class AsyncDoubler:
    async def __call__(self, n: int):
        return double(n)


def traced(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


STEPS = {
    "function": double,
    "async": async_double,
    "method": Doubler().method,
    "class method": Doubler.of_class,
    "static method": Doubler.static,
    "object": Doubler(),
    "async object": AsyncDoubler(),
    "partial": functools.partial(by_keyword, 2),
    "partial by name": functools.partial(double, factor=2),
    "partial of a method": functools.partial(Doubler().method),
    "partial of an object": functools.partial(Doubler()),
    "partial of async": functools.partial(async_double),
    "wrapped": traced(double),
    "wrapped async": traced(async_double),
    "wrapped twice": traced(traced(double)),
    "lambda": lambda n: double(int(n)),
}


@pytest.mark.parametrize("action", STEPS.values(), ids=STEPS)
async def test_callables_of_any_kind_are_steps(runtime, action):
    """A step of any kind gets its fields, validated to the annotations of the function behind it."""
    rt = await runtime(flow(action))
    result = await rt.run("wf", n="4", factor=100 if action is STEPS["partial by name"] else 2)
    assert result.ok, result.error
    assert result.state["doubled"] == 8, "what a partial has filled is not given again"


@pytest.mark.parametrize("executor", [None, "inline"])
async def test_positional_only_parameters_get_the_context(runtime, executor):
    """A positional-only parameter is given the context, unless it has a name or annotation that counts."""
    seen = []

    def step(anything, state, event, /):
        seen.append((type(anything), dict(state), event.type))

    rt = await runtime(flow(step, executor))
    assert (await rt.run("wf", n=1)).ok
    assert seen == [(StepContext, {"n": 1}, "wf")]


class Unreadable:
    seen: list[Any]

    def __init__(self):
        self.seen = []

    @property
    def __signature__(self):
        raise RuntimeError("no signature for you")

    def __call__(self, *what):
        self.seen.append(*what)


async def test_what_does_not_tell_its_parameters_gets_the_context(runtime):
    """A callable whose signature cannot be read is called with the context, whatever reading it raises."""
    odd, listed = Unreadable(), []
    rt = await runtime(
        Workflow("wf", pipelines=[Pipeline("main", [Stage("one", [Step("a", odd), Step("b", listed.append)])])])
    )
    result = await rt.run("wf")
    assert result.ok, result.error
    assert [type(each) for each in odd.seen] == [StepContext]
    assert len(listed) == 1


def hiding(*args, **kwargs):
    return double(*args, **kwargs)


@pytest.mark.parametrize(
    "action",
    [
        hiding,
        lambda *args: None,
        lambda **kwargs: None,
        functools.partial(hiding, 4),
    ],
    ids=["both", "args", "kwargs", "partial"],
)
async def test_a_wrapper_that_hides_its_parameters_is_refused(runtime, action):
    """A step with only `*args` and `**kwargs` is a fault at registration that names functools.wraps."""
    assert "functools.wraps" in (await faults(runtime, flow(action)))["pipelines.main.one.s"]


# -------------------------------------------------------------------------------------------------------------- ids
NAMES = {
    "function": (double, "double"),
    "method": (Doubler().method, "method"),
    "partial": (functools.partial(double, factor=3), "double"),
    "partial of a partial": (functools.partial(functools.partial(double), factor=3), "double"),
    "wrapped": (traced(double), "double"),
}


@pytest.mark.parametrize(("action", "name"), NAMES.values(), ids=NAMES)
def test_the_id_is_the_name(action, name):
    """A step or service without an id is called like its function, also that behind a partial."""
    wf = Workflow("wf")
    assert wf.step(action) is action
    assert wf.service(action) is action
    assert [step.id for step in wf.definition.pipelines["main"].stages[0].steps] == [name]
    assert [service.id for service in wf.services] == [name]


@pytest.mark.parametrize("action", [Doubler(), functools.partial(Doubler())], ids=["object", "partial"])
@pytest.mark.parametrize("what", ["step", "service"])
def test_what_has_no_name_needs_an_id(action, what):
    """A callable without a name is refused where it is written, and the error says how to give it an id."""
    wf = Workflow("wf")
    with pytest.raises(InvalidDefinition) as caught:
        getattr(wf, what)(action)
    assert f"workflow.{what}(id='...')" in caught.value.message
    getattr(wf, what)(id="named")(action)


# -------------------------------------------------------------------------------------------------------- factories
def iterator() -> Iterator[Pool]:
    yield Pool()


def generator() -> Generator[Pool, None, None]:
    yield Pool()


async def async_iterator() -> AsyncIterator[Pool]:
    yield Pool()


async def async_generator() -> AsyncGenerator[Pool, None]:
    yield Pool()


@contextlib.contextmanager
def manager() -> Iterator[Pool]:
    yield Pool()


@contextlib.asynccontextmanager
async def async_manager() -> AsyncIterator[Pool]:
    yield Pool()


def quoted() -> Iterator["Pool"]:  # noqa: UP037 - the text inside is what is tested
    yield Pool()


def plain() -> Pool:
    return Pool()


async def coroutine() -> Pool:
    return Pool()


def given(value) -> Pool:
    return Pool(value)


def perhaps() -> Pool | None:
    return Pool()


def with_more() -> Iterator[Annotated[Pool, "of connections"]]:
    yield Pool()


class Makes:
    def method(self) -> Iterator[Pool]:
        yield Pool()

    def __call__(self) -> Pool:
        return Pool()


FACTORIES = {
    "iterator": iterator,
    "generator": generator,
    "async iterator": async_iterator,
    "async generator": async_generator,
    "context manager": manager,
    "async context manager": async_manager,
    "quoted": quoted,
    "function": plain,
    "coroutine": coroutine,
    "class": Pool,
    "partial": functools.partial(given, 5),
    "partial of a class": functools.partial(Pool, 5),
    "method": Makes().method,
    "object": Makes(),
    "partial of a generator": functools.partial(iterator),
    "partial of a manager": functools.partial(manager),
    "class method": Pool.create,
    "optional": perhaps,
    "annotated": with_more,
}


@pytest.mark.parametrize("scope", ["workflow", "run"])
@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
async def test_what_a_factory_gives_is_found_by_its_type(runtime, factory, scope):
    """A parameter annotated with the type gets the service: what a generator or context manager yields counts."""
    seen = []

    async def uses(pool: Pool):
        seen.append(type(pool))

    rt = await runtime(flow(uses, services=[Service("any", factory, scope=scope)]))
    result = await rt.run("wf")
    assert result.ok, result.error
    assert seen == [Pool]


async def test_builtin_types_are_factories(runtime):
    """A factory whose parameters go by place, with defaults, is called without them."""
    seen = []

    async def uses(a: Annotated[Any, Use("a")], b: Annotated[Any, Use("b")]):
        seen.extend((a, b))

    rt = await runtime(flow(uses, services=[Service("a", list), Service("b", dict)]))
    result = await rt.run("wf")
    assert result.ok, result.error
    assert seen == [[], {}]


async def test_the_bare_decorator_makes_a_service(runtime):
    """`@workflow.service` without brackets is a service of the workflow, named and typed by its function."""
    wf = Workflow("wf")
    seen = []

    @wf.service
    def pool() -> Iterator[Pool]:
        yield Pool()

    @wf.step
    async def uses(by_type: Pool, by_name: Annotated[Any, Use("pool")]):
        seen.append(by_type is by_name)

    rt = await runtime(wf)
    assert (await rt.run("wf")).ok
    assert seen == [True]


async def test_a_factory_that_cannot_be_read_is_called_with_nothing(runtime):
    """A factory whose `__signature__` raises builds its service; reading it raises nothing."""

    class Factory(Unreadable):
        def __call__(self, *what):
            assert what == ()
            return Pool()

    async def uses(pool: Annotated[Any, Use("pool")]):
        assert isinstance(pool, Pool)

    rt = await runtime(flow(uses, services=[Service("pool", Factory(), scope="run")]))
    result = await rt.run("wf")
    assert result.ok, result.error


# ------------------------------------------------------------------------- annotations for type checkers alone
@pytest.fixture
def module(monkeypatch):
    """Make a module from its text, as if it had been imported."""

    def make(text):
        made = types.ModuleType("typed_only")
        monkeypatch.setitem(sys.modules, made.__name__, made)
        head = "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
        exec(compile(head + textwrap.dedent(text), "typed_only.py", "exec"), vars(made))
        return made

    return make


USES = {
    "the type": "from typing import Annotated, Any\nfrom poundlock import Use",
    "the type and Use": "from typing import Annotated, Any\nif TYPE_CHECKING:\n    from poundlock import Use",
    "all of it": "if TYPE_CHECKING:\n    from typing import Annotated, Any\n    from poundlock import Use",
}


@pytest.mark.parametrize("where", ["step", "router", "factory", "hook"])
@pytest.mark.parametrize("imports", USES.values(), ids=USES)
async def test_use_is_found_by_its_text(runtime, module, imports, where):
    """`Annotated[Mail, Use("mail")]` counts, also where Mail, Use or Annotated are there for type checkers only."""
    made = module(
        f"""
{imports}
if TYPE_CHECKING:
    from mail_library import Mail

seen = []
async def step(mail: Annotated[Mail, Use("mail")]): seen.append(mail)
def router(mail: Annotated[Mail, Use('mail')]): seen.append(mail)
def factory(mail: Annotated[Mail, Use("mail")]): return seen.append(mail) or seen
def hook(ctx, mail: Annotated[Mail | None, Use("mail")]): seen.append(mail)
async def asks(made: Annotated[Any, Use("made")] = None): ...
async def nothing(): ...
"""
    )
    stage = Stage(
        "one",
        [Step("s", {"step": made.step, "factory": made.asks}.get(where, made.nothing))],
        router=made.router if where == "router" else None,
    )
    services = [Service("made", made.factory)] if where == "factory" else []
    rt = await runtime(services=[Service("mail", lambda: "the mail")])
    await rt.register(
        Workflow("wf", pipelines=[Pipeline("main", [stage])], services=services),
        on_prepare=made.hook if where == "hook" else None,
    )
    result = await rt.run("wf")
    assert result.ok, result.error
    assert "the mail" in made.seen


async def test_a_use_that_cannot_be_read_names_what_to_import(runtime, module):
    """Where the text does not show the id, the error names the annotation and what to import."""
    made = module(
        """
        from typing import Annotated
        if TYPE_CHECKING:
            from mail_library import MAIL, Mail
            from poundlock import Use

        async def step(mail: Annotated[Mail, Use(MAIL)]): ...
        def factory(mail: Annotated[Mail, Use(MAIL)]): ...
        """
    )
    found = await faults(runtime, flow(made.step, services=[Service("made", made.factory)]))
    for text in (found["pipelines.main.one.s.mail"], found["services.made"]):
        assert "Annotated[Mail, Use(MAIL)]" in text
        assert "import Mail, Use, MAIL outside `if TYPE_CHECKING:`" in text


async def test_our_own_types_are_known_by_name(runtime, module):
    """StepContext and Event count also where they are imported for type checkers only."""
    made = module(
        """
        if TYPE_CHECKING:
            import poundlock
            from poundlock import Event, StepContext

        seen = []
        async def step(here: StepContext, what: Event, there: poundlock.StepContext): seen.append((here, what, there))
        def when(happened: Event): return happened.payload["n"] > 1
        """
    )
    wf = flow(made.step)
    wf.on("go", when=made.when)
    rt = await runtime(wf)
    assert (await rt.emit("go", n=1)).verdicts == ["filtered"]
    [result] = await (await rt.emit("go", n=2)).results()
    assert result.ok, result.error
    [(here, what, there)] = made.seen
    assert (type(here), what.type, there is here) == (StepContext, "go", True)


async def test_a_service_type_that_is_not_there_is_named(runtime, module):
    """A type that would name a service, but is imported for type checkers only, is a fault that says what to import."""
    made = module(
        """
        if TYPE_CHECKING:
            from tests import Pool

        async def step(pool: Pool): ...
        """
    )
    text = (await faults(runtime, flow(made.step, services=[Service("any", plain)])))["pipelines.main.one.s.pool"]
    assert "annotation 'Pool' cannot be read at run time: import Pool outside `if TYPE_CHECKING:`" in text


async def test_a_state_model_that_is_not_there_is_named(runtime, module):
    """The state's model, imported for type checkers only, is a fault as well: the parameter would get a field."""
    from pydantic import BaseModel

    made = module(
        """
        if TYPE_CHECKING:
            from tests import Order

        async def step(order: Order): ...
        """
    )
    model = type("Order", (BaseModel,), {"__annotations__": {"order": dict}, "order": {}})
    text = (await faults(runtime, flow(made.step, state=model)))["pipelines.main.one.s.order"]
    assert "import Order outside `if TYPE_CHECKING:`" in text
    assert "call the parameter state" in text


async def test_other_types_that_are_not_there_fall_back_to_the_name(runtime, module):
    """A field whose annotation cannot be read is given as it is; where it is missing the error names the annotation."""
    made = module(
        """
        if TYPE_CHECKING:
            from somewhere import Amount

        async def step(amount: Amount): return {"seen": amount}
        """
    )
    rt = await runtime(flow(made.step))
    assert (await rt.run("wf", amount=5)).state["seen"] == 5
    failed = await rt.run("wf")
    assert failed.error.code == "STATE_INVALID"
    assert "import Amount outside `if TYPE_CHECKING:`" in failed.error.message


def test_the_helpers_know_their_kinds():
    """What is asked about callables never raises, whatever they are."""
    from poundlock import callables

    class Hostile:
        def __getattr__(self, name):
            raise RuntimeError(name)

        def __call__(self): ...

    for odd in (Hostile(), Unreadable(), print, len, type, 5, None, functools.partial(Hostile())):
        function: Callable[..., Any] = odd
        callables.called_name(function)
        callables.parameters_of(function)
        callables.annotations_of(function)
        callables.provided_type(function)
        callables.is_coroutine_function(function)
        callables.is_generator_function(function)
