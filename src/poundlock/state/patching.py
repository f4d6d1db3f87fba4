"""Patches of typed state: the keys they write, and the keys they must not have.

A patch is walked along the shape of the state's model. Its keys become the stored ones; a value that is not JSON is
written by its field's annotation; a key that the model lacks is refused where code or people wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from poundlock.errors import StateInvalid, suggest
from poundlock.guard import call_now, name_of
from poundlock.marks import DELETE, Overwrite
from poundlock.model.patches import merge
from poundlock.state.differing import below, difference, field_names
from poundlock.state.shapes import FieldShape, ListShape, MappingShape, ModelShape, shape_of
from poundlock.state.typed import adapter, check_readable, leaf, read

_PLAIN: Final = frozenset({str, int, float, bool, type(None)})


def stored_patch(model: Any, patch: Mapping[str, Any], state: Mapping[str, Any], *, strict: bool) -> dict[str, Any]:
    """Return a patch in its stored form. It is not validated; the resulting state is.

    Args:
        model: the model of the state.
        patch: its keys are names of fields or aliases; it is not changed.
        state: the state it will be merged into.
        strict: refuse keys that the model lacks; otherwise the model's own `extra` setting decides.

    Raises:
        StateInvalid: a key is unknown, given twice, or cannot be set; `path` names it.
    """
    shape = shape_of(model)
    if not isinstance(shape, ModelShape):
        return dict(patch)
    return _Walk(strict).model(shape, patch, state, "")


def stored_item(model: Any, field: str, place: int | str, value: Any) -> Any:
    """Return an item of a field's list or mapping in its stored form.

    Args:
        model: the model of the state.
        field: the field's name or alias.
        place: index or key of the item.
        value: the item.

    Raises:
        StateInvalid: a key in it is unknown, given twice, or cannot be set; `path` names it.
    """
    shape = shape_of(model)
    own = shape.keys.get(field) if isinstance(shape, ModelShape) else None
    inner = None if own is None else own.shape
    hint = inner.item if isinstance(inner, ListShape) else inner.value if isinstance(inner, MappingShape) else Any
    return _Walk(strict=True).value(value, hint, None, below(field, place), spine=False)


def known_keys(model: Any, patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patch without the keys that a model ignores, at any depth; a model that forbids them keeps them."""
    shape = shape_of(model)
    return _known(shape, patch) if isinstance(shape, ModelShape) else dict(patch)


def _known(shape: ModelShape, patch: Mapping[str, Any]) -> dict[str, Any]:
    tops = {place.path[0] for own in shape.fields.values() for place in own.paths}
    known = {}
    for key, value in patch.items():
        own = shape.keys.get(key)
        if own is None:
            if shape.extras or shape.forbids or key in tops:
                known[key] = value
            continue
        inner = shape_of(own.hint)
        known[key] = _known(inner, value) if isinstance(inner, ModelShape) and isinstance(value, Mapping) else value
    return known


class _Walk:
    """The walk of one patch through its model."""

    __slots__ = ("_rigid", "_strict")

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._rigid = False

    def model(self, shape: ModelShape, patch: Mapping[str, Any], held: Any, path: str) -> dict[str, Any]:
        """Return a patch of a model, or a whole one."""
        outside, self._rigid = self._rigid, shape.rigid
        try:
            return self._model(shape, patch, held, path)
        finally:
            self._rigid = outside

    def _model(self, shape: ModelShape, patch: Mapping[str, Any], held: Any, path: str) -> dict[str, Any]:
        held = held if isinstance(held, Mapping) else {}
        out: dict[str, Any] = {}
        said: dict[str, str] = {}
        taken = self._by_path(shape, patch, held, path, out)
        for key, value in patch.items():
            own = shape.keys.get(key) if isinstance(key, str) else None
            where = below(path, key)
            if own is None:
                if key in shape.computed and self._strict and not shape.extras:
                    _check_computed(shape, key, patch, held, where)
                elif key not in taken:
                    self._check_known(shape, key, value, held, where)
                    out[key] = value
                continue
            if value is DELETE and key != own.stored and own.stored in patch:
                out[key] = DELETE  # a patch that was walked before: the key from before the field got its alias
                continue
            if not own.init and self._strict:
                _check_init(shape, own, patch, held, where)
                continue
            if own.stored in said:
                if self._strict and difference(patch[said[own.stored]], value) is not None:
                    raise StateInvalid(
                        f"'{where}' and '{below(path, said[own.stored])}' are one field: give it once", path=where
                    )
                if key == own.name:
                    continue  # as in pydantic, the alias counts
            said[own.stored] = key
            out[own.stored] = self.value(value, own.hint, held.get(own.stored), where, spine=True)
            for other in (own.name, *(name for name, of_name in shape.keys.items() if of_name is own)):
                if other != own.stored and other in held:
                    out[other] = DELETE  # stored before the field got its alias
        return out

    def _by_path(
        self, shape: ModelShape, patch: Mapping[str, Any], held: Any, path: str, out: dict[str, Any]
    ) -> set[Any]:
        """Take the values that fields read from inside of other keys (`AliasPath`); return those keys."""
        taken: set[Any] = set()
        for own in shape.fields.values():
            for place in own.paths:
                found = place.search_dict_for_path(patch)
                if type(found) is not type(_undefined()):
                    out[own.stored] = self.value(
                        found, own.hint, held.get(own.stored), below(path, own.name), spine=True
                    )
                    taken.add(place.path[0])
                    break
        return taken

    def _check_known(self, shape: ModelShape, key: Any, value: Any, held: Any, where: str) -> None:
        if not self._strict or shape.extras or not isinstance(key, str):
            return  # the codec refuses a key that is not a string
        if value is DELETE and key in held:
            return  # from an earlier deployment
        names = " or ".join(name_of(kind) for kind in shape.kinds)
        raise StateInvalid(f"{names} has no field '{where}': {suggest(key, list(shape.keys))}", path=where)

    def value(self, value: Any, hint: Any, held: Any, path: str, *, spine: bool) -> Any:
        """Return a value in its stored form.

        Args:
            value: the value of the patch.
            hint: its annotation.
            held: the currently stored value.
            path: its path.
            spine: whether a mapping is merged here; otherwise it replaces the value.
        """
        kind = type(value)
        if kind in _PLAIN or value is DELETE:
            return value
        if kind is Overwrite:
            return Overwrite(self.value(value.value, hint, None, path, spine=False))
        if field_names(value) is not None:
            data = leaf(value, hint, rigid=self._rigid)
            if data is value and isinstance(shape_of(hint), ModelShape):
                check_readable(value, hint, path)
            return Overwrite(data) if spine and type(data) is dict else data
        shape = shape_of(hint)
        if isinstance(value, Mapping):
            held = held if spine and isinstance(held, Mapping) else {}
            if isinstance(shape, ModelShape):
                return self.model(shape, value, held, path)
            if isinstance(shape, MappingShape):
                items = ((_key(key, shape.key), key, item) for key, item in value.items())
                return {
                    name: self.value(item, shape.value, held.get(name), below(path, key), spine=spine)
                    for name, key, item in items
                }
        elif isinstance(value, list | tuple) and isinstance(shape, ListShape):
            return [
                self.value(item, shape.item, None, below(path, index), spine=False) for index, item in enumerate(value)
            ]
        if hint is Any and isinstance(value, Mapping | list | tuple):
            return value  # which the codec judges, item by item
        return leaf(value, hint, rigid=self._rigid)


def _key(key: Any, hint: Any) -> Any:
    """Return a mapping's key as text, if it is read back equal; otherwise unchanged, which the codec refuses."""
    if type(key) is str:
        return key
    mapping = dict[hint, Any]
    data = leaf({key: None}, mapping)
    return next(iter(data))


def _undefined() -> Any:
    from pydantic_core import PydanticUndefined

    return PydanticUndefined


def _check_computed(shape: ModelShape, key: str, patch: Mapping[str, Any], held: Any, where: str) -> None:
    """Accept a computed field that equals what the model computes: `{**state.model_dump(), ...}` has all of them."""
    rest = {name: value for name, value in patch.items() if name not in shape.computed}
    for data in (held, merge(held, rest)):
        back = read(shape.kinds[0], data)
        for mode in ("json", "python") if back.error is None else ():
            said = call_now(_computed, shape.kinds[0], back.value, mode)
            if said.error is None and key in said.value and difference(said.value[key], patch[key]) is None:
                return
    raise StateInvalid(
        f"'{where}' is computed by {name_of(shape.kinds[0])}: write the fields it follows from", path=where
    )


def _computed(kind: Any, instance: Any, mode: Any) -> dict[str, Any]:
    """Return a model as data, under its names and aliases."""
    dump = adapter(kind).dump_python
    names = dump(instance, mode=mode, by_alias=False, warnings="none")
    return {**names, **dump(instance, mode=mode, by_alias=True, warnings="none")}


def _check_init(shape: ModelShape, own: FieldShape, patch: Mapping[str, Any], held: Any, where: str) -> None:
    """Accept a field with `init=False` only if the value is the one it has anyway: its default, or a derived value."""
    value = patch[own.name]
    rest = {name: given for name, given in patch.items() if shape.keys.get(name) is None or shape.keys[name].init}
    follows = (read(shape.kinds[0], data) for data in (held, merge(held, rest)))
    if difference(own.default, value) is not None and not any(
        back.error is None and difference(value, getattr(back.value, own.name, None)) is None for back in follows
    ):
        raise StateInvalid(
            f"'{where}' cannot be set: {name_of(shape.kinds[0])} declares it with init=False", path=where
        )
