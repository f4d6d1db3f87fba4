"""Checks of single values in a definition: each yields what is wrong, with the path of the value. None raises.

Definitions are written by users, whatever the annotations say: a value may be of any type, also one that cannot be
shown, compared or hashed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from poundlock.codecs import pack_data, pack_patch
from poundlock.errors import NotStorable, suggest
from poundlock.model.conditions import Condition, StateRef
from poundlock.model.durations import seconds
from poundlock.model.quoting import shown

Fault = tuple[str, str]
"""A path, and what is wrong there."""


def name_faults(path: str, name: Any) -> Iterator[Fault]:
    """An id: printable text without "/", which separates the parts of a timeline path."""
    if not isinstance(name, str) or not name or "/" in name or not name.isprintable():
        yield path, f"{shown(name)} is not an id: use printable text without '/'"


def label_faults(path: str, label: object) -> Iterator[Fault]:
    """A label: any text; it is drawn."""
    if not isinstance(label, str):
        yield f"{path}.label" if path else "label", f"{shown(label)} is not text"


def duration_faults(path: str, value: Any) -> Iterator[Fault]:
    """A duration, or None."""
    if value is not None:
        try:
            seconds(value)
        except ValueError as error:
            yield path, str(error)


def target_faults(path: str, stage_id: object, ids: Sequence[str]) -> Iterator[Fault]:
    """The id of a stage that is there."""
    if not isinstance(stage_id, str):
        yield path, f"{shown(stage_id)} is not a stage: give a stage's id"
    elif stage_id not in ids:
        yield path, f"there is no stage '{stage_id}': {suggest(stage_id, list(dict.fromkeys(ids)))}"


def whole_faults(path: str, value: object, least: int, most: int | None = None) -> Iterator[Fault]:
    """A whole number within its limits."""
    if type(value) is not int or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"between {least} and {most}"
        yield path, f"{shown(value)} must be a whole number {limits}"


def condition_faults(path: str, conditions: Any, *, state: bool) -> Iterator[Fault]:
    """A list of conditions.

    Args:
        path: where they are.
        conditions: what is there.
        state: whether there is a state that their values may refer to.

    A value that cannot be stored equals none in a payload, and a wait with it could not be stored either.
    """
    if not isinstance(conditions, Sequence) or isinstance(conditions, str):
        yield path, f"{shown(conditions)} is not a list of conditions"
        return
    for place, condition in enumerate(conditions):
        if not isinstance(condition, Condition):
            yield f"{path}.{place}", f"{shown(condition)} is not a Condition: Condition(field, op, value)"
        elif isinstance(condition.value, StateRef) and not state:
            yield f"{path}.{place}", "a trigger cannot refer to state: there is no run yet, so it would never match"
        else:
            yield from text_faults(f"{path}.{place}.field", condition.field)
            yield from storable_faults(f"{path}.{place}", condition.value)


def storable_faults(path: str, value: Any) -> Iterator[Fault]:
    """A value that is stored as it is, or a reference to one in the state."""
    if isinstance(value, StateRef):
        if not isinstance(value.path, str) or not value.path:
            yield path, f"StateRef({shown(value.path)}) names no field of the state: give its dotted path"
        return
    try:
        pack_data(value)
    except NotStorable as error:
        yield path, error.message


def patch_faults(path: str, patch: object) -> Iterator[Fault]:
    """A patch that is given as data."""
    if not isinstance(patch, Mapping):
        yield path, f"{shown(patch)} is not a patch: give a mapping"
        return
    try:
        pack_patch(patch)
    except NotStorable as error:
        yield path, error.message


def text_faults(path: str, text: object) -> Iterator[Fault]:
    """A text that is stored as it is; a member of a text enum counts by its text."""
    if isinstance(text, str):
        yield from storable_faults(path, str.__str__(text))


def is_number(value: object) -> bool:
    """Whether it is an int or a float; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
