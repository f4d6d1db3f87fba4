"""The only access to a run's state: data of events, patches of code and people, and the view of users.

- events (the start of a run, an event that answers a wait, a mode's signal): `begun`, `brought`, `signalled`. Keys that
  the model lacks are treated by its own `extra` setting.
- code and people (steps, patch functions, hooks, `signal`, `resume`): `written`, `returned`. Such keys are refused.

Each returns the patch as it is stored; `settle` then validates the new state. Without a model everything fits, and
this costs nothing. `poundlock.state` knows models; it is imported when there is one.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from poundlock.codecs import detach, pack, pack_data, pack_patch
from poundlock.errors import NotStorable, StateInvalid
from poundlock.guard import call_now, describe
from poundlock.model.patches import merge
from poundlock.model.paths import get_path
from poundlock.model.runs import Message
from poundlock.model.views import StateView
from poundlock.records import NamedTuple

_IMMUTABLE: Final = (str, int, float, bytes, enum.Enum, type(None))


class Written(NamedTuple):
    """A patch as it is stored, and its JSON text."""

    patch: dict[str, Any]
    text: str


# ------------------------------------------------------------------------------------------------------------ writing
def written(model: Any, patch: Mapping[str, Any], state: Mapping[str, Any], path: str = "") -> Written:
    """Return a patch of code or people, as it is stored.

    Args:
        model: of the state; None without one.
        patch: keys are names of fields or aliases.
        state: into which the patch is going to be merged.
        path: of the patch itself, for errors about values that cannot be stored.

    Raises:
        StateInvalid: the model has no such key; near matches are named.
        NotStorable: a value in it is not data, or does not read back equal.
    """
    if model is not None:
        from poundlock.state.patching import stored_patch

        patch = stored_patch(model, patch, state, strict=True)
    return Written(*pack_patch(patch, path))


def brought(model: Any, patch: Mapping[str, Any], state: Mapping[str, Any]) -> Written:
    """Return the patch of an event, as it is stored: keys that the model lacks are not refused here.

    Raises:
        NotStorable: a value in it is not data.
    """
    if model is not None:
        from poundlock.state.patching import stored_patch

        patch = stored_patch(model, patch, state, strict=False)
    return Written(*pack(patch))


def signalled(model: Any, patch: Mapping[str, Any], path: str = "") -> Written:
    """Return a mode's signal to its active run, as it is stored: a patch of the keys that the model has.

    In the run's inbox it looks like a patch of people, so keys that the model would ignore are left out here.

    Raises:
        StateInvalid: the model forbids a key.
        NotStorable: a value in it is not data.
    """
    if model is None:
        return Written(*pack_patch(patch, path))
    from poundlock.state.patching import known_keys, stored_patch

    return Written(*pack_patch(stored_patch(model, known_keys(model, patch), {}, strict=True), path))


def returned(model: Any, result: Any, state: dict[str, Any]) -> Written:
    """Return the patch for a model that a step returned.

    An instance of the state's model overwrites the fields it changed; any other model is a patch of all its fields.

    Raises:
        StateInvalid: the state's model has no such key.
        NotStorable: a changed field does not read back equal.
    """
    if model is not None and isinstance(result, model):
        from poundlock.state.typed import changes

        return Written(*pack_patch(changes(model, result, state)))
    data = pack(result)[0]
    return written(model, data, state)


def as_result(model: Any, result: Any) -> Any:
    """Return a model that a step returned as routers see it: whole, as plain data."""
    if model is None or not isinstance(result, model):
        return pack(result)[0]
    from poundlock.state.typed import as_json

    return as_json(model, result)


def begun(model: Any, state: dict[str, Any], text: str) -> Written:
    """Return a run's initial state, as it is stored, with defaults that would change; it is validated.

    Args:
        model: of the state; None without one.
        state: data, detached.
        text: its JSON text.

    Raises:
        StateInvalid: it does not fit the model.
        NotStorable: a default of the model does not read back equal.
    """
    if model is None:
        return Written(state, text)
    stored = brought(model, state, {})
    whole = settle(model, stored.patch)
    return stored if whole is stored.patch else Written(*pack(whole))


def as_data(model: Any, initial: Any) -> Any:
    """Return an initial state from code as data: an instance of the state's model, or values of its fields.

    Raises:
        NotStorable: a field of it does not read back equal.
    """
    if model is None:
        return initial
    if isinstance(initial, model):
        from poundlock.state.typed import dump

        return dump(model, initial)
    if not isinstance(initial, Mapping):
        return initial
    from poundlock.state.patching import stored_patch

    return stored_patch(model, initial, {}, strict=False)


def settle(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Validate a state after patches; return it, completed by defaults that would change with each reading.

    Raises:
        StateInvalid: it does not fit the model; `path` is the field.
        NotStorable: such a default does not read back equal.
    """
    if model is None:
        return state
    value = _checked(model, state)
    if not _changing_defaults(model):
        return state
    from poundlock.state.typed import complete

    return complete(model, state, value)  # type: ignore[no-any-return]  # a mapping in, a dict out


def _changing_defaults(model: Any) -> bool:
    from poundlock.state.shapes import has_factories

    return has_factories(model)


def element_result(model: Any, into: str, place: int | str, value: Any) -> Any:
    """Return what a step returned for one element, as it is stored in the field that gets the results.

    Args:
        model: of the state; None without one.
        into: the field.
        place: index or key of the element.
        value: what was returned.

    Raises:
        StateInvalid: the model has no such key; near matches are named.
        NotStorable: a value in it is not data, or does not read back equal.
    """
    if model is not None:
        from poundlock.state.patching import stored_item

        value = stored_item(model, into, place, value)
    return pack_data(value, f"{into}.{place}")[0]


# ------------------------------------------------------------------------------------------------------------ reading
def held_at(model: Any, state: dict[str, Any], path: str) -> tuple[Any, Any]:
    """Return the value at a dotted path, as the model reads it and as it is stored; MISSING where there is none.

    Raises:
        StateInvalid: the state does not fit the model.
    """
    if model is None:
        value = get_path(state, path)
        return value, value
    from poundlock.state.places import find

    return find(shown(model, state), state, path)


def keys_of(value: Mapping[Any, Any], stored: Any) -> list[str]:
    """Return the keys of a mapping as text; `stored` is the same mapping as it is stored."""
    if all(type(key) is str for key in value):
        return list(value)
    from poundlock.state.typed import as_json

    texts = [str(key) for key in as_json(Any, dict.fromkeys(value)) or value]
    if not isinstance(stored, Mapping) or len(stored) != len(value) or set(texts) == set(stored):
        return texts  # in the order of the model, which may sort them; else they are a default of it
    return list(stored)


def reads_as(stored: Any, value: Any) -> bool:
    """Whether data, read alone as the type of a value that a model has read, is that value."""
    if isinstance(value, list | tuple) and isinstance(stored, list):
        return len(stored) == len(value) and all(map(reads_as, stored, value))
    if isinstance(value, Mapping) and isinstance(stored, Mapping):
        keys = keys_of(value, stored)
        return set(keys) == set(stored) and all(map(reads_as, [stored[key] for key in keys], value.values()))
    from poundlock.state.typed import read

    answer = read(type(value), stored)
    return answer.error is None and call_now(_equal, answer.value, value).value is True


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other)


def detached_field(instance: Any, name: str, again: Callable[[], Any]) -> Any:
    """Return a field of a state that several functions are given: its value if it cannot be changed, else a copy.

    Args:
        instance: of the state's model.
        name: the field.
        again: returns another instance, where the value cannot be copied.
    """
    value = getattr(instance, name)
    if isinstance(value, _IMMUTABLE):
        return value
    copied = call_now(copy.deepcopy, value)
    return copied.value if copied.error is None else getattr(again(), name)


def shown(model: Any, state: dict[str, Any]) -> Any:
    """Return a state as users see it: a detached instance of the state model, or a read-only mapping without one.

    Raises:
        StateInvalid: it does not fit the model.
    """
    return StateView(state) if model is None else _checked(model, detach(state))


def validate(model: Any, state: dict[str, Any]) -> None:
    """Check a state against the workflow's model; without one, everything fits.

    Raises:
        StateInvalid: `path` is the field that does not fit.
    """
    if model is not None:
        _checked(model, state)


def _checked(model: Any, state: dict[str, Any]) -> Any:
    from poundlock.state.typed import validate as read

    return read(model, state)


def with_signal(model: Any, state: dict[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with a signal merged in; the state itself if the signal does not fit."""
    if model is None:
        return merge(state, patch)
    try:
        merged = merge(state, written(model, patch, state).patch)
        validate(model, merged)
    except (StateInvalid, NotStorable):
        return state
    return merged


def with_signals(model: Any, state: dict[str, Any], messages: Iterable[Message]) -> dict[str, Any]:
    """Return a state as it is once the signals among messages are taken in; those that do not fit are left out."""
    for message in messages:
        if message.kind == "signal" and message.body is not None:
            state = with_signal(model, state, message.body)
    return state


def check_signal(model: Any, state: dict[str, Any], patch: Mapping[str, Any]) -> None:
    """Check whether a state fits its model with a signal, before anything is written.

    Args:
        model: of the state.
        state: as it is now.
        patch: the signal, as it is stored.

    Raises:
        StateInvalid: it does not; `path` is the field. What does not fit already is no fault of a signal to other keys.
    """
    try:
        validate(model, merge(state, patch))
    except StateInvalid as error:
        if (error.path or "").partition(".")[0] in patch or fits(model, state):
            raise


def fits(model: Any, state: dict[str, Any]) -> bool:
    """Whether a state fits the workflow's model."""
    try:
        validate(model, state)
    except StateInvalid:
        return False
    return True


class Fault(NamedTuple):
    """A fault that validation found: path, text (with the path), and the error to name as its cause, if it has more."""

    path: str
    text: str
    cause: BaseException | None


def first_fault(error: BaseException) -> Fault:
    """Return the first fault of a validation, for any error of a validator."""
    answer = call_now(_first_of, error)
    if answer.error is not None:  # not a ValidationError, or one with an error that cannot be shown
        said = describe(error)
        return Fault("", f"{said.type}: {said.message}", error)
    path, message = answer.value
    return Fault(path, f"{path}: {message}" if path else message, None)


def _first_of(error: Any) -> tuple[str, str]:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ".".join(str(part) for part in fault["loc"]), str(fault["msg"])
