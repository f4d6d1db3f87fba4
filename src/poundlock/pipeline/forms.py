"""Whether an answer has what its form asks for, see `Wait.form`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from poundlock.guard import call_now, describe, repr_of, shortened
from poundlock.model.checks import Fault, storable_faults
from poundlock.model.counting import Fits
from poundlock.model.forms import EXTRA, is_model_form, schema_of
from poundlock.model.runs import Message, WaitRow
from poundlock.pipeline.plan import DeclaredWait
from poundlock.pipeline.states import first_fault
from poundlock.records import NamedTuple
from poundlock.showing import plain


def form_faults(path: str, form: Any) -> Iterator[Fault]:
    """Yield what is wrong with a form."""
    if form is None:
        return
    if not is_model_form(form) and not isinstance(form, Mapping):
        yield path, f"{repr_of(form, 60)} is neither a pydantic model nor a JSON schema"
        return
    schema = call_now(schema_of, form)
    if schema.error is not None:
        yield path, f"it has no JSON schema: {describe(schema.error).message}"
        return
    yield from storable_faults(path, dict(schema.value))
    if is_model_form(form):
        return
    if find_spec("jsonschema") is None:
        yield path, f"to check a JSON schema takes the package jsonschema: install {EXTRA}, or give a pydantic model"
        return
    from jsonschema.validators import validator_for

    checked = call_now(lambda: validator_for(form).check_schema(form))
    if checked.error is not None:
        said = getattr(checked.error, "message", None) or describe(checked.error).message
        yield path, f"it is no JSON schema: {shortened(str(said), 200)}"


def form_as_data_faults(path: str, form: Any) -> list[Fault]:
    """Return what is wrong with the form of a wait that no stage declares: only a schema is stored with the run."""
    if is_model_form(form):
        return [(path, "a wait that no stage declares needs its form as a JSON schema: Model.model_json_schema()")]
    return list(form_faults(path, form))


class Misfit(NamedTuple):
    """Why an answer does not fit the form.

    Attributes:
        path: of the field; "" for the whole.
        text: field and reason.
    """

    path: str
    text: str


def misfit_of_event(row: WaitRow, declared: DeclaredWait | None, payload: Any) -> Misfit | None:
    """Return why an event does not fit the form of a wait; None if it does, or there is no form.

    Its correlated fields are left out, as they are about the run and not the answer; unless the form names them.
    """
    if row.rules is None or row.rules.form is None:
        return None
    return _misfit_beside([path for path, _ in row.correlate], row.rules.form, declared, payload)


def misfit_of_declared(declared: DeclaredWait, payload: Any) -> Misfit | None:
    """Return the same of a wait that need not be armed."""
    if declared.wait.form is None:
        return None
    return _misfit_beside(declared.wait.correlate or {}, schema_of(declared.wait.form), declared, payload)


def fits_with(declared: Mapping[str, DeclaredWait]) -> Fits:
    """Return what says whether a message fits the form of a wait.

    Args:
        declared: the waits of the run's definition by id; empty if that is not known here: then their schemas say it.
    """

    def fits(row: WaitRow, message: Message) -> bool:
        if row.rules is None or row.rules.form is None or message.event is None:
            return True
        return misfit_of_event(row, declared.get(row.wait_id), message.event.event.payload) is None

    return fits


def misfit_of_answer(row: WaitRow, declared: DeclaredWait | None, patch: Mapping[str, Any] | None) -> Misfit | None:
    """Return why an answer by hand does not fit the form of a wait.

    Where the payloads are collected it answers for all of them: then each element that it puts there is checked.
    """
    rules = row.rules
    if rules is None or rules.form is None:
        return None
    if rules.collect is None:
        return _misfit(rules.form, declared, {} if patch is None else patch)
    elements = (patch or {}).get(rules.collect)
    if not isinstance(elements, list | tuple):
        return None  # it leaves there what came, or something that only the state's model can judge
    for place, element in enumerate(elements):
        found = _misfit(rules.form, declared, element)
        if found is not None:
            at = f"{rules.collect}.{place}"
            return Misfit(f"{at}.{found.path}" if found.path else at, f"{at}.{found.text}")
    return None


def _misfit_beside(
    correlated: Iterable[str], schema: Mapping[str, Any], declared: DeclaredWait | None, payload: Any
) -> Misfit | None:
    named = schema.get("properties")
    named = named if isinstance(named, Mapping) else {}
    paths = [path for path in correlated if path.partition(".")[0] not in named]
    return _misfit(schema, declared, _without(payload, paths))


def _misfit(schema: Mapping[str, Any], declared: DeclaredWait | None, data: Any) -> Misfit | None:
    form: Any = None if declared is None else declared.wait.form
    if is_model_form(form):
        answer = call_now(lambda: form.model_validate(data, by_alias=True, by_name=True))
        if answer.error is None:
            return None
        fault = first_fault(answer.error)
        return Misfit(fault.path, shortened(fault.text))
    return _misfit_of_schema(schema, plain(data))


def _misfit_of_schema(schema: Mapping[str, Any], data: Any) -> Misfit | None:
    if find_spec("jsonschema") is None:
        return None  # the process that has the workflow also has the package, or it would not be registered
    from jsonschema.exceptions import best_match
    from jsonschema.validators import validator_for

    found = call_now(lambda: best_match(validator_for(schema)(schema).iter_errors(data)))
    if found.error is not None:
        return Misfit("", shortened(describe(found.error).message))
    if found.value is None:
        return None
    path = ".".join(str(part) for part in found.value.absolute_path)
    return Misfit(path, shortened(f"{path}: {found.value.message}" if path else found.value.message))


def _without(payload: Any, paths: Iterable[str]) -> Any:
    """Return a payload without these dotted paths; it shares what stays."""
    for path in paths:
        payload = _left_out(payload, path.split("."))
    return payload


def _left_out(data: Any, parts: list[str]) -> Any:
    first, *rest = parts
    if not isinstance(data, Mapping) or first not in data:
        return data
    if not rest:
        return {key: value for key, value in data.items() if key != first}
    return {**data, first: _left_out(data[first], rest)}
