"""Conditions: seven comparisons that are data, so they can be stored, shown and indexed.

They never raise for any payload: a missing field, or a value of another kind, does not match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from poundlock.errors import InvalidDefinition
from poundlock.model.paths import MISSING, get_path
from poundlock.records import dataclass

OPERATORS: Final = ("==", "!=", ">", ">=", "<", "<=", "exists")


@dataclass(frozen=True, slots=True)
class StateRef:
    """A value read from the run's state when a wait is armed.

    Args:
        path: dotted path into the state, e.g. "order.id".
    """

    path: str


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison on an event's payload; several of them are joined by AND.

    Args:
        field: dotted path into the payload, e.g. "order.lines.0.sku".
        op: one of == != > >= < <= exists.
        value: the value to compare with, or a StateRef. For `exists`: None or True means present, False means absent.

    Raises:
        InvalidDefinition: unknown operator, or an empty field.
    """

    field: str
    op: str
    value: Any = None

    def __post_init__(self) -> None:
        if self.op not in OPERATORS:
            raise InvalidDefinition(
                f"'{self.op}' is not an operator: use one of {' '.join(OPERATORS)}", path="op", field=self.field
            )
        if not isinstance(self.field, str) or not self.field:
            raise InvalidDefinition("a condition needs the path of a payload field", path="field")

    def matches(self, payload: Any) -> bool:
        """Whether the payload meets this condition. Different kinds never match, and nothing raises."""
        found = get_path(payload, self.field)
        if self.op == "exists":
            return (found is not MISSING) is (self.value is not False)
        return found is not MISSING and _compare(found, self.op, self.value)


def has(payload: Any, path: str, value: Any) -> bool:
    """Whether the payload has this value at a path: the condition `==`, without making one."""
    found = get_path(payload, path)
    return found is not MISSING and _compare(found, "==", value)


def _kind(value: Any) -> type:
    """Return the kind of a value. Numbers of all types are one kind; a bool is not a number.

    Values that are stored in the same form are one kind (a tuple and a list, a text enum and its text), so that a
    condition means the same before and after it was stored. Every other type is its own kind.
    """
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float | Decimal):
        return float  # Python compares them exactly: no Decimal is rounded to a float's digits, nor the other way
    if isinstance(value, str):
        return str
    if isinstance(value, list | tuple):
        return list
    return dict if isinstance(value, Mapping) else type(value)


def equal(left: Any, right: Any) -> bool:
    """Equality of data: same kind and equal, at every depth; for Python alone [1] and [True] are equal."""
    kind = _kind(left)
    if kind is not _kind(right):
        return False
    if kind is list:
        return len(left) == len(right) and all(map(equal, left, right))
    if kind is dict:
        return left.keys() == right.keys() and all(equal(value, right[key]) for key, value in left.items())
    return bool(left == right)


_ALIKE: Final = frozenset({str, int, bool})
"""Types whose values are equal as Python has it, if both are of that type."""
_ORDER: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
}


def _compare(left: Any, op: str, right: Any) -> bool:
    if op == "==" and type(left) is type(right) and type(left) in _ALIKE:  # nearly always
        return bool(left == right)
    if left is None or right is None:
        # null is not "another kind" for equality: `!= None` means "any value"
        return (left is right) if op == "==" else (left is not right) if op == "!=" else False
    if _kind(left) is not _kind(right):
        return False
    try:
        if left != left or right != right:  # noqa: PLR0124 - NaN matches nothing
            return False
        if op == "==":
            return equal(left, right)
        if op == "!=":
            return not equal(left, right)
        if isinstance(left, list | tuple):
            left, right = list(left), list(right)
        return bool(_ORDER[op](left, right))
    except Exception:  # noqa: BLE001 - no order, as of mappings; signalling NaN; the `__eq__` of a registered type
        return False


def all_match(conditions: Iterable[Condition], payload: Any) -> bool:
    """Whether the payload meets every condition; no conditions match everything."""
    return all(condition.matches(payload) for condition in conditions)


def resolve(conditions: Iterable[Condition], state: Mapping[str, Any]) -> tuple[Condition, ...] | None:
    """Return the conditions with every StateRef replaced by the state's value; None while one is missing."""
    resolved = []
    for condition in conditions:
        value = condition.value
        if isinstance(value, StateRef):
            value = get_path(state, value.path)
            if value is MISSING:
                return None
            resolved.append(Condition(condition.field, condition.op, value))
        else:
            resolved.append(condition)
    return tuple(resolved)
