"""Patches: the only way state changes.

RFC 7396 (JSON merge patch) with two differences: None is a value, and `DELETE` removes a key; `Overwrite(value)` puts a
value in place of what is there, also where it is a mapping.
Nothing here mutates what it is given: a merge shares the unchanged parts, so an old state stays valid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from poundlock.marks import DELETE, Overwrite

__all__ = ["DELETE", "Overwrite", "changed_paths", "clash", "delta", "merge"]


def merge(state: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return `state` with `patch` merged in: mappings merge, everything else and Overwrite replace, DELETE removes."""
    merged = dict(state)
    for key, value in patch.items():
        if type(value) is dict:
            below = merged.get(key)
            merged[key] = merge(below if type(below) is dict else {}, value)
        elif value is DELETE:
            merged.pop(key, None)
        elif type(value) is Overwrite:
            merged[key] = value.value
        else:
            merged[key] = value
    return merged


def changed_paths(patch: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    """Yield the dotted paths a patch writes: its leaves (an empty mapping is a leaf)."""
    for key, value in patch.items():
        path = f"{prefix}.{key}" if prefix else key
        if type(value) is dict and value:
            yield from changed_paths(value, path)
        else:
            yield path


def delta(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return a patch that leads from one state to another."""
    patch: dict[str, Any] = {key: DELETE for key in before if key not in after}
    for key, value in after.items():
        old = before.get(key, DELETE)
        if old is value:
            continue
        if type(old) is dict and type(value) is dict:
            below = delta(old, value)
            if below:
                patch[key] = below
        elif type(old) is not type(value) or old != value:
            patch[key] = value
    return patch


def clash(first: Mapping[str, Any], second: Mapping[str, Any]) -> str | None:
    """Return a path that both patches write, or None. Writing `a` clashes with writing `a.b`."""
    for key, value in second.items():
        if key not in first:
            continue
        other = first[key]
        if type(value) is dict and type(other) is dict and value and other:
            below = clash(other, value)
            if below is not None:
                return f"{key}.{below}"
        else:
            return key
    return None
