"""Arguments of steps and routers, resolved once when their workflow is registered.

The first match (users rely on the order): `Annotated[T, Use(id)]`; StepContext or the name `ctx`; Event or the name
`event` (a model on a parameter named `event` is the payload's); the workflow's state model or the name `state`;
`Failure`, and the name `failure` in stages that a failure leads to; for routers the names `results` and `resume`; for
steps with `each` the names `item`, `index` and `key`; for poll functions the name `job`; a type registered as a
service; the state field of that name, validated to the annotation. A lone parameter is not an exception. One without a
match is a fault of the definition.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from poundlock.callables import (
    Unresolved,
    annotations_of,
    bare,
    is_unresolved,
    parameters_of,
    runs_later,
    tells_nothing,
)
from poundlock.errors import suggest
from poundlock.guard import call_now, name_of, repr_of
from poundlock.model.checks import Fault
from poundlock.model.events import Event
from poundlock.model.paths import MISSING
from poundlock.model.runs import Failure
from poundlock.pipeline.annotations import cannot_be_read, is_about, is_model, is_payload_model, used_service
from poundlock.pipeline.context import StepContext
from poundlock.pipeline.fields import Field, Validator, exactly, instance_of, of_element, payload_as, validator_of
from poundlock.pipeline.plan import Binding, Getter
from poundlock.pipeline.run_view import RunView
from poundlock.records import NamedTuple

RESERVED: Final = ("ctx", "state", "event", "results", "resume", "job")
"""Reserved names: their meaning does not depend on the state, so no field of it may have one."""
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Deciding(NamedTuple):
    """What a router is called with besides its run."""

    context: StepContext | None
    results: dict[str, Any]


class Calling(NamedTuple):
    """What a durable function is called with besides its run."""

    step: Any
    """Its `Steps`."""
    context: StepContext


class Kind(NamedTuple):
    """A kind of function, and the arguments that only this kind gets.

    Attributes:
        what: its name in a fault.
        offered: names that only this kind knows.
        context: returns its context.
        unnamed: the argument if no parameter has a usable name: for callables that do not show their
            parameters, and for positional-only ones; None: that is a fault.
        each: whether it is called once per element: `item`, `index` and `key` are those of the element.
        job: whether it checks a job, which is what the name `job` gives.
        durable: whether it is a durable function: it may be a generator, and is given `step`.
        sent: whether its arguments are sent to another process, which services and the context cannot be.
    """

    what: str
    offered: Mapping[str, Getter]
    context: Getter
    unnamed: Getter | None
    each: bool = False
    job: bool = False
    durable: bool = False
    sent: bool = False


def _own(_run: RunView, at: Any) -> Any:
    return at


STEP: Final = Kind("step", {}, _own, _own)
AFTER_FAILURE: Final = Kind("step", {"failure": lambda run, _: run.handled}, _own, _own)
"""A step of a stage that a failure leads to."""
UNDO: Final = Kind("undo", {}, _own, _own)
ELEMENT: Final = ("item", "index", "key")
"""What a step with `each` is given of its element; reserved names in workflows with such a step."""


def of_elements(kind: Kind) -> Kind:
    """Return the kind of steps that are called once per element."""
    return kind._replace(each=True, offered={**kind.offered, **dict.fromkeys(ELEMENT, _own)})


def polling(kind: Kind) -> Kind:
    """Return the kind of functions that check what a step of this kind has begun."""
    return kind._replace(what="poll function", unnamed=lambda _, at: at.job, job=True)


def _step(_run: RunView, at: Any) -> Any:
    return at.step


FUNCTION: Final = Kind("function", {"step": _step}, lambda _, at: at.context, _step, durable=True)


def sent(kind: Kind) -> Kind:
    """Return the kind of functions that are called in another process."""
    return kind._replace(sent=True, unnamed=None)


ROUTER: Final = Kind(
    "router",
    {"results": lambda _, at: at.results, "resume": lambda run, _: run.resume},
    lambda _, at: at.context,
    None,
)


class Injector:
    """Binds the functions of one workflow, and collects the parameters that cannot be filled.

    Args:
        state_model: the workflow's state model, if any.
        service_types: type to the ids of the services that provide it.
        service_fault: returns why the service of an id cannot be requested; None if it can.

    Attributes:
        faults: those found so far.
    """

    def __init__(
        self,
        state_model: type | None,
        service_types: Mapping[Any, tuple[str, ...]],
        service_fault: Callable[[str], str | None],
    ) -> None:
        self.state_model = state_model
        self.service_types = service_types
        self.service_fault = service_fault
        self.faults: list[Fault] = []
        self._fields = state_fields(state_model)
        self._open = state_model is None or getattr(state_model, "model_config", {}).get("extra") == "allow"

    def of_state(self, state_model: type | None) -> Injector:
        """Return one for functions of another state; it notes its faults here."""
        other = Injector(state_model, self.service_types, self.service_fault)
        other.faults = self.faults
        return other

    def fault(self, path: str, text: str) -> None:
        """Note a fault."""
        self.faults.append((path, text))

    def unknown_state(self, path: str) -> str | None:
        """Return near matches for a path into the state whose first field does not exist; None if it may exist."""
        if self._open or not path or path in self._fields or path.partition(".")[0] in self._fields:
            return None
        return suggest(path, list(self._fields))

    def bind(self, function: Any, path: str, kind: Kind) -> Binding:
        """Resolve how to call a step or router; a parameter that cannot be filled is noted as a fault."""
        if runs_later(function) and not kind.durable:
            self.fault(
                path,
                f"is a generator function or context manager, so nothing of it would run: let the {kind.what} return",
            )
        parameters = parameters_of(function)
        if parameters is None:
            return self._unreadable(function, path, kind)
        if tells_nothing(parameters):
            self.fault(path, takes_everything(function))
        hints = annotations_of(function)
        binding = _Collected()
        for parameter in parameters:
            if parameter.kind not in _VARIADIC:
                self._give(parameter, hints.get(parameter.name, MISSING), f"{path}.{parameter.name}", kind, binding)
        return binding.done()

    def _unreadable(self, function: Any, path: str, kind: Kind) -> Binding:
        if kind.unnamed is None:
            self.fault(
                path,
                f"the parameters of {repr_of(function, 60)} cannot be read, so it is not known what to give it: "
                f"write a function around it",
            )
            return _Collected().done()
        return Binding((kind.unnamed,), (), (), wants_context=True)

    def _give(self, parameter: inspect.Parameter, hint: Any, path: str, kind: Kind, into: _Collected) -> None:
        name = parameter.name
        self.misplaced(parameter, path)
        service = self.service_of(name, hint, path, kind.offered)
        if kind.sent and (service is not None or is_about(hint, StepContext) or name == "ctx"):
            what = "the context" if service is None else f"service '{service}'"
            self.fault(path, f"{what} cannot be sent to another process: use executor='thread', or leave it out")
        if service is not None:
            into.service(parameter, service)
        elif is_about(hint, StepContext) or name == "ctx":
            into.add(parameter, kind.context, wants_context=True)
        elif (getter := self._getter(parameter, hint, path, kind)) is not None:
            into.add(parameter, getter, wants_context=getter is kind.unnamed)

    def _getter(self, parameter: inspect.Parameter, hint: Any, path: str, kind: Kind) -> Getter | None:
        name = parameter.name
        about = bare(hint)
        if kind.each and name in ELEMENT:
            return of_element(name, self._check(hint), exactly(hint), parameter.default)
        if kind.job and name == "job":
            return of_element(name, self._check(hint), exactly(hint), parameter.default)
        if kind.durable:
            from poundlock.pipeline.durable_steps import Steps  # most workflows need none

            if is_about(about, Steps):
                return _step
        if is_about(about, Event) or (name == "event" and not is_payload_model(about)):
            return _event
        if name == "event":
            return payload_as(about)
        if (self.state_model is not None and about is self.state_model) or name == "state":
            self.other_model(about, path)
            return _state
        if about is Failure:
            return lambda run, _: run.handled
        if name in kind.offered:
            return kind.offered[name]
        if parameter.kind is parameter.POSITIONAL_ONLY:
            return self._positional_only(parameter, path, kind)
        return self._field(parameter, hint, path, kind)

    @staticmethod
    def _check(hint: Any) -> Validator | None:
        check = validator_of(hint)
        return instance_of(hint) if isinstance(check, str) else check

    def _positional_only(self, parameter: inspect.Parameter, path: str, kind: Kind) -> Getter | None:
        if kind.unnamed is not None:
            return kind.unnamed
        if parameter.default is parameter.empty:
            self.fault(path, f"a {kind.what} is given its parameters by name: take the '/' out of the signature")
            return None
        return _default(parameter.default)

    def _field(self, parameter: inspect.Parameter, hint: Any, path: str, kind: Kind) -> Getter | None:
        """Return the state field of that name: a model has to have it; without a model only the run knows."""
        name, empty = parameter.name, parameter.default is parameter.empty
        field = self._fields.get(name)
        if field is None and not self._open:
            if empty:
                known = list(dict.fromkeys((*self._fields, *RESERVED[:3])))
                said = cannot_be_read(hint) or suggest(name, known)
                self.fault(path, f"nothing can give '{name}': it is not a state field, service or default: {said}")
            return None if empty else _default(parameter.default)
        if field is None and empty and name in ("self", "cls"):
            self.fault(path, "is a method without its object: give that of an object, such as Works().method")
            return None
        if is_unresolved(bare(hint)):
            self._looks_like_a_service(bare(hint), path)
        if field is not None and hint == self._annotation(field):
            hint = MISSING  # the model checks it
        check = validator_of(hint)
        if isinstance(check, str):
            if empty:
                self.fault(path, f"nothing can give '{name}': {self._no_service(bare(hint))}, and {check}")
                return None
            check = instance_of(hint)
        because = cannot_be_read(hint)
        found = Field(field or name, name, check, exactly(hint), parameter.default, because)
        return found.getter(typed=field is not None, each=kind.each)

    def _no_service(self, kind: Any) -> str:
        """Return that no service has a type; a service of a subclass has to declare it."""
        for other, ids in self.service_types.items() if isinstance(kind, type) else ():
            if call_now(issubclass, other, kind).value is True:
                return (
                    f"service '{ids[0]}' is known as a {name_of(other)} only (say type={name_of(kind)} where it is "
                    f"defined, or ask with Use('{ids[0]}'))"
                )
        return "no service is of its type"

    def _annotation(self, field: str) -> Any:
        described = getattr(self.state_model, "model_fields", {}).get(field)
        return MISSING if described is None else described.annotation

    def _looks_like_a_service(self, hint: type[Unresolved], path: str) -> None:
        """Refuse an annotation that is missing at run time and would have named a service, or the state."""
        name = hint.text.rpartition(".")[2]
        if any(name == getattr(kind, "__name__", None) for kind in self.service_types):
            self.fault(path, f"{cannot_be_read(hint)}, or name the service: Annotated[{hint.text}, Use(id)]")
        elif name == getattr(self.state_model, "__name__", None):
            self.fault(path, f"{cannot_be_read(hint)}, or call the parameter state")

    def other_model(self, hint: Any, path: str) -> None:
        """Refuse a parameter for the state that is annotated with another model than the state's."""
        own = self.state_model
        if not is_model(hint) or (own is not None and call_now(issubclass, own, hint).value is not False):
            return
        given = "a mapping, because the workflow has no state model" if own is None else f"a {name_of(own)}"
        self.fault(path, f"the state is {given}: give Workflow(state={name_of(hint)}), or change the annotation")

    def misplaced(self, parameter: inspect.Parameter, path: str) -> None:
        """Refuse `Use` as a default: it would be passed as it is, in place of a service."""
        if type(parameter.default).__name__ == "Use":
            from poundlock.artifacts import Use

            if isinstance(parameter.default, Use):
                asked = repr_of(parameter.default.key, 60)
                self.fault(path, f"a service is asked for by annotation: {parameter.name}: Annotated[T, Use({asked})]")

    # -------------------------------------------------------------------------------------------------- services
    def service_of(self, name: str, hint: Any, path: str, offered: Mapping[str, Any] = {}) -> str | None:
        """Return the id of the service that a parameter requests, by `Use` or by its type; None if it requests none.

        Args:
            name: of the parameter.
            hint: annotation of the parameter.
            path: where it is, for faults.
            offered: names that have a meaning of any type.
        """
        used = used_service(hint)
        if isinstance(used, Unresolved):
            self.fault(path, cannot_be_read(type(used)))
            return None
        if used is not None:
            fault = self.service_fault(used)
            if fault is not None:
                self.fault(path, fault)
            return used
        if name in RESERVED[:3] or name in offered or any(is_about(hint, kind) for kind in (StepContext, Event)):
            return None
        kind = bare(hint)
        ids = () if kind is self.state_model else self._providing(kind)
        if len(ids) > 1:
            named = getattr(kind, "__qualname__", str(kind))
            self.fault(
                path,
                f"asks for {named}, which {', '.join(ids)} provide: say which with Annotated[{named}, Use('{ids[0]}')]",
            )
        for id in ids[:1]:
            fault = self.service_fault(id)
            if fault is not None:
                self.fault(path, fault)
        return ids[0] if ids else None

    def _providing(self, kind: Any) -> tuple[str, ...]:
        try:
            return self.service_types.get(kind, ())
        except TypeError:  # an unhashable annotation names no service
            return ()


class _Collected:
    """The parameters of one function, bound one after another."""

    def __init__(self) -> None:
        self._positional: list[Getter] = []
        self._keyword: list[tuple[str, Getter]] = []
        self._services: list[tuple[int | str, str]] = []
        self._wants_context = False

    def add(self, parameter: inspect.Parameter, getter: Getter, *, wants_context: bool = False) -> None:
        self._wants_context = self._wants_context or wants_context
        if parameter.kind is parameter.KEYWORD_ONLY:
            self._keyword.append((parameter.name, getter))
        else:
            self._positional.append(getter)

    def service(self, parameter: inspect.Parameter, service: str) -> None:
        by_name = parameter.kind is parameter.KEYWORD_ONLY
        self._services.append((parameter.name if by_name else len(self._positional), service))
        self.add(parameter, _nothing)

    def done(self) -> Binding:
        return Binding(tuple(self._positional), tuple(self._keyword), tuple(self._services), self._wants_context)


async def arguments(run: RunView, binding: Binding, at: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments of a bound function.

    Raises:
        StateInvalid: a state field is missing or does not fit its annotation; `path` names it.
        PoundlockError: a service cannot be built.
    """
    args = [getter(run, at) for getter in binding.positional]
    kwargs = {name: getter(run, at) for name, getter in binding.keyword}
    if binding.services:
        services = run.services()
        for place, key in binding.services:
            if isinstance(place, int):
                args[place] = await services.require(key)
            else:
                kwargs[place] = await services.require(key)
    return args, kwargs


def state_fields(model: type | None) -> dict[str, str]:
    """Return the names of fields of a state model, aliases too, with the field of each."""
    names: dict[str, str] = {}
    fields = getattr(model, "model_fields", {})
    for name, field in fields.items():
        for alias in (field.alias, field.validation_alias):
            if isinstance(alias, str):
                names[alias] = name
    computed = getattr(model, "model_computed_fields", {})
    return names | {name: name for name in (*fields, *computed)}


def takes_everything(function: Any) -> str:
    """Return what to do about a function whose parameters are hidden by a wrapper."""
    return (
        f"{repr_of(function, 60)} takes only *args and **kwargs, so it is not known what to give it: "
        f"use functools.wraps in the decorator that made it, or name its parameters"
    )


def _default(value: Any) -> Getter:
    return lambda _run, _at: value


def _nothing(_run: RunView, _at: Any) -> Any:
    return None


def _event(run: RunView, _at: Any) -> Any:
    return run.event.detached()


def _state(run: RunView, _at: Any) -> Any:
    return run.view()
