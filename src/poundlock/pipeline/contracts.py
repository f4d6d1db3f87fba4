"""Contracts of steps: models of what a step takes, gives and is set to. Settings are checked when a workflow is built.

pydantic is not imported here: models bring it along.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from poundlock.codecs import detach
from poundlock.errors import StateInvalid, suggest
from poundlock.guard import call_now, describe, name_of
from poundlock.model.checks import Fault
from poundlock.model.definitions import INSTRUCTIONS, Contract, Pipeline, Stage, Step
from poundlock.model.quoting import shown
from poundlock.model.tasks import deep
from poundlock.pipeline.annotations import is_model
from poundlock.pipeline.injection import Kind, state_fields
from poundlock.pipeline.plan import ContractPlan
from poundlock.pipeline.run_view import RunView
from poundlock.pipeline.states import first_fault


# ------------------------------------------------------------------------------------------------------ at the build
def contract_faults(pipelines: Iterable[Pipeline]) -> Iterator[Fault]:
    """Yield the faults of contracts: what is no model, and settings that do not fit theirs."""
    for pipeline in pipelines:
        for stage in pipeline.stages:
            for step in stage.steps if isinstance(stage, Stage) else ():
                if isinstance(step, Step) and step.contract is not None:
                    yield from _faults(f"pipelines.{pipeline.id}.{stage.id}.{step.id}", step, step.contract)


def _faults(path: str, step: Step, contract: object) -> Iterator[Fault]:
    if not isinstance(contract, Contract):
        yield f"{path}.contract", f"{shown(contract)} is not a Contract: make the step from a Task"
        return
    for name in ("input", "output", "config"):
        model = getattr(contract, name)
        if model is not None and not is_model(model):
            yield f"{path}.{name}", f"{shown(model)} is not a pydantic model: give the class of one"
    if step.each is not None:
        yield f"{path}.each", "a step with a contract is called once: leave out each, or the models"
    if step.poll is not None:
        yield f"{path}.poll", "a step with a contract cannot poll: leave out poll, or the models"
    settings: object = contract.settings
    if not isinstance(settings, Mapping):
        yield f"{path}.config", f"{shown(settings)} is not a mapping of settings"
    elif contract.config is None:
        if settings:
            yield f"{path}.config", "the task has no model of its settings: give Task(config=), or leave this out"
    elif is_model(contract.config):
        yield from ((_at(f"{path}.config", place), text) for place, text in _config_faults(contract))
        yield from ((_at(f"{path}.config", str(key)), text) for key, text in _unknown_settings(contract))


def _unknown_settings(contract: Contract) -> Iterator[tuple[object, str]]:
    """Yield settings that the model would drop without a word, unless it says so itself (`extra`)."""
    model = contract.config
    aliases = [described.validation_alias for described in model.model_fields.values()]
    if model.model_config.get("extra") is not None or not all(isinstance(each, str | None) for each in aliases):
        return
    known = state_fields(model)
    for key in contract.settings:
        if key not in known:
            yield key, f"there is no setting {shown(key)}: {suggest(str(key), list(known))}"


def _config_faults(contract: Contract) -> list[tuple[str, str]]:
    answer = call_now(_configured, contract)
    if answer.error is None:
        return []
    every = call_now(lambda error: error.errors(include_url=False, include_context=False), answer.error)
    if every.error is not None:
        said = describe(answer.error)
        return [("", f"{said.type}: {said.message}")]
    return [(".".join(map(str, each["loc"])), str(each["msg"])) for each in every.value]


def _configured(contract: Contract) -> Any:
    """Return the settings as an instance of their model: what is given, merged into the defaults at every depth."""
    given = contract.settings
    values = dict(given)
    for name, described in contract.config.model_fields.items():
        key = next((key for key in (described.alias, name) if isinstance(key, str) and key in given), None)
        if key is None or not isinstance(given[key], Mapping) or described.is_required():
            continue
        default = described.get_default(call_default_factory=True)
        if hasattr(type(default), "model_dump"):
            default = default.model_dump(by_alias=True)
        if isinstance(default, Mapping):
            values[key] = deep(default, given[key])
    return contract.config.model_validate(values)


# ---------------------------------------------------------------------------------------------------- at registration
def of_contract(kind: Kind, step: Step, path: str) -> Kind:
    """Return the kind of functions that are given the `input` and `config` of a step's contract, if it has them."""
    contract: object = step.contract
    if not isinstance(contract, Contract):
        return kind
    offered = dict(kind.offered)
    if is_model(contract.config):
        offered["config"] = lambda _run, _at: _configured(contract)  # its own for each attempt, which may change it
    if is_model(contract.input):
        plan = contract_plan(contract, step.id, path)
        offered["input"] = lambda run, _at: taken(plan, run)
    return kind._replace(offered=offered)


def contract_plan(contract: Contract, step_id: str, path: str) -> ContractPlan:
    """Return the plan of a contract without faults."""
    return ContractPlan(contract.input, contract.output, step_id, path)


# ------------------------------------------------------------------------------------------------------------- in a run
def taken(contract: ContractPlan, run: RunView) -> Any:
    """Return what a step takes: the fields of its input model, from the state.

    Raises:
        StateInvalid: they do not fit; `path` is the field.
    """
    from poundlock.state.typed import read

    model = contract.input
    known = state_fields(model)
    takes_all = model.model_config.get("extra") == "allow"
    answer = read(model, detach({key: value for key, value in run.state.items() if takes_all or key in known}))
    if answer.error is None:
        return answer.value
    raise _refused(
        contract, "input", f"the state is no input of step '{contract.step_id}', a {name_of(model)}", answer.error
    )


def given(contract: ContractPlan, result: Any) -> Any:
    """Return what a step returned as an instance of its output model; an instruction as it is.

    Raises:
        StateInvalid: it does not fit; `path` is the field.
        NotStorable: it is an instance that cannot be written as data.
    """
    model = contract.output
    if model is None or isinstance(result, INSTRUCTIONS):
        return result
    if result is None:
        raise StateInvalid(
            f"step '{contract.step_id}' returned None, but its output is a {name_of(model)}: return one, or a mapping",
            path=f"{contract.path}.output",
        )
    from poundlock.state.typed import dump, read

    # An instance may have been changed since it was made, and is read back from data later.
    answer = read(model, dump(model, result)) if isinstance(result, model) else call_now(model.model_validate, result)
    if answer.error is None:
        return answer.value
    raise _refused(contract, "output", f"what step '{contract.step_id}' returned is no {name_of(model)}", answer.error)


def _refused(contract: ContractPlan, what: str, said: str, error: BaseException) -> StateInvalid:
    fault = first_fault(error)
    refused = StateInvalid(
        f"{said}: {fault.text}. Change the value, or the model", path=_at(f"{contract.path}.{what}", fault.path)
    )
    refused.__cause__ = fault.cause
    return refused


def _at(path: str, place: str) -> str:
    return f"{path}.{place}" if place else path
