"""JSON from people and files, read strictly: what would be lost without a word is refused."""

from __future__ import annotations

import json
from typing import Any


class NotStrict(ValueError):
    """The text is no such JSON; as text it says why."""


def parsed(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        NotStrict: it is not JSON, it has a key twice in one object, a number that JSON does not have or Python does not
            read, or it nests too deep.
    """
    try:
        return json.loads(text, parse_constant=_no_number, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise NotStrict(f"{error.msg} at column {error.colno}") from None
    except RecursionError:
        raise NotStrict("it nests too deep") from None
    except ValueError as error:
        raise NotStrict(str(error)) from None


def _no_number(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key!r:.60} is there twice")
            seen.add(key)
    return found
