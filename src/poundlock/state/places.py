"""Places in typed state: a dotted path is followed in an instance of the model and in the stored data at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock.model.paths import MISSING, get_path
from poundlock.state.differing import field_names
from poundlock.state.shapes import ModelShape, content, shape_of


def find(instance: Any, data: Any, path: str) -> tuple[Any, Any]:
    """Return the value at a dotted path, as the model reads it and as it is stored; MISSING where there is none.

    Args:
        instance: of a model, or a part of one.
        data: the same as it is stored.
        path: names of fields, or their aliases; keys of mappings and indexes of lists.
    """
    value = instance
    for part in path.split("."):
        value = content(value)
        names = field_names(value)
        if names is None:
            value, data = _under(value, part), _under(data, part)
            continue
        shape = shape_of(type(value))
        own = shape.keys.get(part) if isinstance(shape, ModelShape) else None
        if own is not None:
            value = getattr(value, own.name, MISSING)
            data = next(
                (data[key] for key in (own.stored, own.name) if isinstance(data, dict) and key in data), MISSING
            )
        elif part in names or (isinstance(shape, ModelShape) and part in shape.computed):
            value, data = getattr(value, part, MISSING), _under(data, part)
        else:
            return MISSING, MISSING
    return content(value), data


def _under(data: Any, part: str) -> Any:
    if isinstance(data, Mapping):
        return data.get(part, MISSING)
    return get_path(list(data), part) if isinstance(data, list | tuple) else MISSING
