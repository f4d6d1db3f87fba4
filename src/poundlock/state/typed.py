"""Typed state: the only module that reads models from stored data, and writes them.

House rules:

1. Stored data is JSON-like, under the key by which a field is read: its alias, if that is also read (`stored_name`),
   otherwise its name. Patches may use either.
2. Written data must be read back equal. Otherwise it is refused with its path; nothing is dropped.
3. pydantic is imported here, when the first typed state is created. Validators, serializers and `__eq__` are user code:
   they are called through the guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import ValidationError, to_json

from poundlock.codecs import detach, pack
from poundlock.errors import NotStorable, StateInvalid, suggest
from poundlock.guard import Answer, call_now, describe, name_of
from poundlock.marks import DELETE, Overwrite
from poundlock.sensitive import conceal, masks_of, texts_at
from poundlock.state.differing import below, difference, field_names, foreign_names
from poundlock.state.shapes import FieldShape, ListShape, MappingShape, ModelShape, content, once_each, shape_of

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_ABSENT: Final = object()
_SHOWN: Final = 10
"""Faults that a message lists; there may be one per item of a long list."""


@once_each
def adapter(model: Any) -> TypeAdapter[Any]:
    """Return the validator of a model or annotation; cached, because building it costs 0.1 ms."""
    from pydantic import TypeAdapter

    return TypeAdapter(model)


# ------------------------------------------------------------------------------------------------------------ reading
def validate(model: Any, data: Any) -> Any:
    """Return an instance of `model` from data, whose keys may be names of fields or aliases.

    Raises:
        StateInvalid: the data does not match; `path` is the first field at fault, `fields["faults"]` has all.
    """
    answer = read(model, data)
    if answer.error is None:
        return answer.value
    faults = call_now(_faults_of, answer.error)
    if faults.error is not None:  # not a ValidationError, or one whose errors cannot be shown
        said = describe(answer.error)
        text = conceal(said.message, texts_at(data, masks_of(model)))
        raise StateInvalid(f"the state does not fit {name_of(model)}: {said.type}: {text}", path="") from answer.error
    secrets = texts_at(data, masks_of(model))
    found = [(path, conceal(sentence, secrets)) for path, sentence in faults.value] if secrets else faults.value
    shown = [f"{path}: {sentence}" if path else sentence for path, sentence in found[:_SHOWN]]
    if len(faults.value) > _SHOWN:
        shown.append(f"and {len(faults.value) - _SHOWN} more faults")
    listed = "; ".join(shown)
    raise StateInvalid(
        f"the state does not fit {name_of(model)}: {listed}",
        path=faults.value[0][0],
        faults=[list(fault) for fault in found],
    ) from None


def read(hint: Any, data: Any) -> Answer:
    """Return the result of reading data as a type; never raises."""
    return call_now(_read, hint, data)


def _read(hint: Any, data: Any, strict: bool | None = None) -> Any:
    validator, runs_code, rigid = _reader(hint)
    try:
        own = detach(data) if runs_code else data  # a validator may change what it is given, and this is the state's
        return validator.validate_python(own, strict=strict, by_alias=True, by_name=True)
    except ValidationError:
        if rigid or strict:
            # Data comes from JSON, where strict mode takes text for a date and a list for a set.
            text = call_now(to_json, data)
            if text.error is None and (again := call_now(_read_json, validator, text.value, strict)).error is None:
                return again.value
        raise


def _read_json(validator: TypeAdapter[Any], text: bytes, strict: bool | None) -> Any:
    return validator.validate_json(text, strict=strict, by_alias=True, by_name=True)


@once_each
def _reader(hint: Any) -> tuple[TypeAdapter[Any], bool, bool]:
    """Return the validator of a type; whether it runs code of users; whether it is strict anywhere inside."""
    validator = adapter(hint)
    found: set[str] = set()
    seen: set[int] = set()
    left: list[Any] = [validator.core_schema]
    while left:
        part = left.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, dict):
            if str(part.get("type", "")).startswith("function-") or part.get("post_init") or part.get("custom_init"):
                found.add("code")
            if part.get("strict"):
                found.add("strict")
            left += part.values()
        elif isinstance(part, list | tuple):
            left += part
    return validator, "code" in found, "strict" in found


def _faults_of(error: Any) -> list[tuple[str, str]]:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return [(".".join(str(part) for part in fault["loc"]), str(fault["msg"])) for fault in found]


# ------------------------------------------------------------------------------------------------------------ writing
def dump(model: Any, instance: Any) -> dict[str, Any]:
    """Return an instance as JSON-like data under its stored keys.

    Raises:
        NotStorable: a part of it is not read back equal; `path` names it.
        StateInvalid: it was changed since it was validated, and does not match any more.
    """
    shape = _shape(model, instance)
    if isinstance(instance, dict):
        names = [name for name in shape.fields if name in instance]
    else:
        names = [name for name in field_names(instance) or () if name not in shape.fields or shape.fields[name].init]
    written = _readable(model, instance, {}, names)
    validate(model, written)
    return written


def _shape(model: Any, instance: Any) -> ModelShape:
    shape = shape_of(model if isinstance(instance, dict) else type(instance))
    if not isinstance(shape, ModelShape) or content(instance) is not instance:
        raise StateInvalid(
            f"a state is a model with fields, a dataclass or a TypedDict, and {name_of(type(instance))} is none",
            path="",
        )
    return shape


def changes(model: Any, instance: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Return the patch from a state to a changed instance of its model; it has only the fields that differ.

    Raises:
        NotStorable: a changed field is not read back equal; `path` names it.
    """
    before = read(model, state)
    base = before.value if before.error is None else None
    names = [
        name
        for name in field_names(instance) or ()
        if base is None or difference(getattr(base, name, _ABSENT), getattr(instance, name, _ABSENT)) is not None
    ]
    shape = _shape(model, instance)
    written = _readable(model, instance, state, names)
    patch: dict[str, Any] = {}
    for name in names:
        key = _key_of(shape, name)
        old, new = getattr(base, name, None), getattr(instance, name)
        patch[key] = _overwriting(written[key], old, new, state.get(key))
    for name in set(field_names(base) or ()) - set(field_names(instance) or ()):  # an extra that was removed
        patch[name] = DELETE
    return patch


def _overwriting(data: Any, old: Any, new: Any, held: Any) -> Any:
    """Return what to write for a changed value; for a nested model, again only what has changed in it."""
    if type(data) is not dict:
        return data
    names = field_names(new)
    shape = shape_of(type(new))
    if names is None or type(old) is not type(new) or type(held) is not dict or not isinstance(shape, ModelShape):
        return Overwrite(data)
    if content(new) is not new or field_names(old) != names:
        return Overwrite(data)
    patch = {}
    for name in names:
        key = _key_of(shape, name)
        if key in data and difference(getattr(old, name), getattr(new, name)) is not None:
            patch[key] = _overwriting(data[key], getattr(old, name), getattr(new, name), held.get(key))
    return patch


def _readable(model: Any, instance: Any, state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return the data of these fields, as JSON or in the codec's form, so that it is read back equal."""
    shape = _shape(model, instance)
    data = _json_of_fields(model, instance, names)
    written = {}
    for name in names:
        key = _key_of(shape, name)
        written[key] = data[key] if key in data else _coded(_get(instance, name), name)
    back = read(model, {**state, **written})
    _check_foreign(shape, instance, back.value)
    for name in names:
        key = _key_of(shape, name)
        value = _get(instance, name)
        if back.error is None and difference(value, _get(back.value, name)) is None:
            continue
        coded = call_now(_coded, value, name)
        if coded.error is None and coded.value != written[key]:
            again = read(model, {**state, **written, key: coded.value})
            if again.error is None and difference(value, _get(again.value, name)) is None:
                written[key], back = coded.value, again
                continue
        if back.error is None:
            where = difference(value, _get(back.value, name), name) or name
            raise _lossy(where, coded.error)
    return written


def _check_foreign(shape: ModelShape, instance: Any, back: Any) -> None:
    """Refuse what stands on an instance and is not a field of it: `model_copy(update=...)` takes any name."""
    for name in foreign_names(instance):
        if difference(getattr(instance, name), getattr(back, name, _ABSENT)) is not None:
            field = shape.keys.get(name)
            hint = suggest(name, list(shape.fields)) if field is None else f"on an instance it is '{field.name}'"
            raise StateInvalid(f"{name_of(shape.kinds[0])} has no field '{name}': {hint}", path=name)


def _lossy(path: str, cause: BaseException | None) -> NotStorable:
    if isinstance(cause, NotStorable):
        return NotStorable(cause.message, path=cause.path)
    return NotStorable(
        f"'{path}' would not be read back unchanged: declare the field with the class of its value (a subclass loses "
        f"what the declared class does not have), write it as its validators leave it, or use plain data",
        path=path,
    )


def _get(instance: Any, name: str) -> Any:
    return instance.get(name) if isinstance(instance, dict) else getattr(instance, name, None)


def _key_of(shape: ModelShape, name: str) -> str:
    own = shape.fields.get(name)
    return name if own is None else own.stored


def _coded(value: Any, path: str) -> Any:
    return pack(value, path)[0]


def as_json(model: Any, instance: Any) -> Any:
    """Return an instance as JSON-like data under its stored keys; other values are left out, or become text."""
    written = _json(model, instance)
    return written.value if written.error is None else {}


def _json_of_fields(model: Any, instance: Any, names: list[str]) -> dict[str, Any]:
    """Return the fields that pydantic can write as JSON: all together, or else one by one."""
    whole = _json(model, instance)
    if whole.error is None and type(whole.value) is dict:
        return whole.value
    found: dict[str, Any] = {}
    for name in names:
        alone = call_now(_dumped, model, instance, {name})
        if alone.error is None:
            found.update(alone.value)
    return found


def _json(hint: Any, value: Any) -> Answer:
    """Return a value in pydantic's JSON form, under its stored keys."""
    return call_now(_dumped, hint, value)


def _dumped(hint: Any, value: Any, only: set[str] | None = None) -> Any:
    data = adapter(hint).dump_python(
        value,
        mode="json",
        include=only,
        by_alias=False,
        exclude_computed_fields=True,
        round_trip=True,  # a field of the type Json is read from text
        warnings="none",
    )
    return _renamed(data, hint, value)


def _renamed(data: Any, hint: Any, value: Any) -> Any:
    """Return dumped data with stored keys instead of names; the type of the value selects one of several models."""
    value = content(value)
    shape = shape_of(type(value)) if field_names(value) is not None else shape_of(hint)
    if isinstance(shape, ModelShape) and type(data) is dict:
        renamed = {}
        for key, item in data.items():
            own = shape.fields.get(key)
            if own is None:
                renamed[key] = item
            elif own.init:
                renamed[own.stored] = _renamed(item, own.hint, _get(value, key))
        return renamed
    if isinstance(shape, MappingShape) and type(data) is dict and isinstance(value, Mapping):
        return {
            key: _renamed(item, shape.value, held)
            for (key, item), held in zip(data.items(), value.values(), strict=True)
        }
    if isinstance(shape, ListShape) and type(data) is list and hasattr(value, "__iter__"):
        return [_renamed(item, shape.item, held) for item, held in zip(data, value, strict=True)]
    return data


def leaf(value: Any, hint: Any, *, rigid: bool = False) -> Any:
    """Return a value as JSON if its annotation reads it back equal, otherwise unchanged: then the codec decides.

    Args:
        value: a value that is not JSON.
        hint: its annotation.
        rigid: whether it is read in strict mode.
    """
    written = _json(hint, value)
    if written.error is not None:
        return value
    back = call_now(_read, hint, written.value, rigid or None)
    return written.value if back.error is None and difference(value, back.value) is None else value


def check_readable(value: Any, hint: Any, path: str) -> None:
    """Refuse a model that its field would read back as another, such as its base class.

    Raises:
        NotStorable: it would be read back as another, or cannot be written.
    """
    back = read(hint, _coded(value, path))
    if back.error is None and (where := difference(value, back.value, path)) is not None:
        raise _lossy(where, None)


# --------------------------------------------------------------------------------------------------- changing defaults
def complete(hint: Any, data: Any, value: Any, path: str = "") -> Any:
    """Return data with the defaults that a factory made for `value`: a second read would make others.

    Args:
        hint: the annotation of the data.
        data: JSON-like, as stored; it is not changed.
        value: the result of reading the data.
        path: its path.

    Raises:
        NotStorable: such a default is not read back equal.
    """
    value = content(value)
    shape = shape_of(type(value)) if field_names(value) is not None else shape_of(hint)
    if isinstance(shape, ModelShape) and type(data) is dict:
        filled = {}
        for own in shape.fields.values():
            held = _get(value, own.name)
            key = next((key for key in (own.stored, *_others(shape, own)) if key in data), None)
            if key is not None:
                item = complete(own.hint, data[key], held, below(path, own.name))
                if item is not data[key]:
                    filled[key] = item
            elif own.factory is not None and own.init:
                filled[own.stored] = _coded(leaf(held, own.hint, rigid=shape.rigid), below(path, own.name))
        return {**data, **filled} if filled else data
    if type(data) not in (dict, list) or not hasattr(value, "__len__") or len(value) != len(data):
        return data
    if isinstance(shape, MappingShape) and isinstance(data, dict) and isinstance(value, Mapping):
        pairs = zip(data.items(), value.values(), strict=True)
        mapping = {key: complete(shape.value, item, held, below(path, key)) for (key, item), held in pairs}
        return mapping if any(mapping[key] is not data[key] for key in data) else data
    if isinstance(shape, ListShape) and isinstance(data, list) and isinstance(value, list | tuple):
        both = enumerate(zip(data, value, strict=True))
        items = [complete(shape.item, item, held, below(path, index)) for index, (item, held) in both]
        return items if any(one is not other for one, other in zip(items, data, strict=True)) else data
    return data


def _others(shape: ModelShape, own: FieldShape) -> list[str]:
    return [key for key, of_key in shape.keys.items() if of_key is own and key != own.stored]
