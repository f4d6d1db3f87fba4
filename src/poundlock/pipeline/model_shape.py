"""What of a state's model a stored state depends on: its fields and their types, in a form that stays the same.

Not the model's JSON schema: its text changes with the version of pydantic, and with descriptions and limits.
"""

from __future__ import annotations

import types
import typing
from typing import Any

from poundlock.guard import name_of, repr_of
from poundlock.pipeline.annotations import is_model


def shape_of(hint: Any, within: tuple[Any, ...] = ()) -> Any:
    """Return the shape of an annotation as data; of a model, that of its fields, by alias where there is one.

    Args:
        hint: the annotation.
        within: the models around it: one that contains itself is named there.
    """
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return shape_of(typing.get_args(hint)[0], within)
    if origin is typing.Literal:
        return ["Literal", *(repr_of(value) for value in typing.get_args(hint))]
    if origin in (typing.Union, types.UnionType):
        choices = [shape_of(choice, within) for choice in typing.get_args(hint)]
        return ["|", *sorted(choices, key=repr)]
    if origin is not None:
        return [name_of(origin), *(shape_of(argument, within) for argument in typing.get_args(hint))]
    if not isinstance(hint, type):
        return repr_of(hint)
    fields = getattr(hint, "model_fields", None) if is_model(hint) else None
    if not isinstance(fields, dict) or hint in within:
        return name_of(hint)
    inside = (*within, hint)
    return {
        (field.alias or name): [shape_of(field.annotation, inside), field.is_required()]
        for name, field in sorted(fields.items())
    }
