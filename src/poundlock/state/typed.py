"""State of a type: validated on every commit, handed out as instances.

pydantic is imported here, when the first typed state is made.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from poundlock.errors import StateInvalid

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError


@functools.cache
def adapter(model: Any) -> TypeAdapter[Any]:
    """Return the validator of a model: a pydantic model, dataclass or TypedDict; built once, as that costs 0.1 ms."""
    from pydantic import TypeAdapter

    return TypeAdapter(model)


def validate(model: Any, data: Mapping[str, Any]) -> Any:
    """Return an instance of `model` made from data.

    Raises:
        StateInvalid: the data does not fit; `path` is the first field at fault, `fields["faults"]` has all.
    """
    from pydantic import ValidationError

    try:
        return adapter(model).validate_python(data, by_alias=True, by_name=True)
    except ValidationError as error:
        raise _invalid(model, error) from error


def dump(model: Any, instance: Any) -> dict[str, Any]:
    """Return an instance as JSON-like data, keyed by field name."""
    data: dict[str, Any] = adapter(model).dump_python(instance, mode="json")
    return data


def _invalid(model: Any, error: ValidationError) -> StateInvalid:
    faults = [(".".join(str(part) for part in fault["loc"]), fault["msg"]) for fault in error.errors()]
    listed = "; ".join(f"'{path}': {sentence}" if path else sentence for path, sentence in faults)
    return StateInvalid(
        f"the state does not fit {getattr(model, '__qualname__', model)}: {listed}; nothing was changed",
        path=faults[0][0],
        faults=[list(fault) for fault in faults],
    )
