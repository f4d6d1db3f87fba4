"""Checking waits: those of a definition, and those that a router or a step makes at run time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from poundlock.codecs import pack_patch
from poundlock.errors import NotStorable
from poundlock.model.buffers import LARGEST_BUFFER, OVERFLOWS
from poundlock.model.checks import (
    Fault,
    condition_faults,
    duration_faults,
    name_faults,
    storable_faults,
    target_faults,
    text_faults,
)
from poundlock.model.definitions import Pause, Stage, Wait
from poundlock.model.quoting import differ, shown


def wait_faults(path: str, wait: object, ids: list[str]) -> Iterator[Fault]:
    """Yield the faults of a wait, also of one a router makes at run time."""
    if not isinstance(wait, Wait):
        meant = f": Pause(Wait({shown(wait)}))" if isinstance(wait, str) else ""
        yield path, f"{shown(wait)} is not a Wait{meant}"
        return
    yield from _wait_id(f"{path}.id", wait.id)
    if isinstance(wait.events, Mapping):
        yield from _wait_ways(f"{path}.events", wait.events, ids)
        if wait.on_timeout == "resume":
            yield (
                f"{path}.on_timeout",
                "'resume' does not say which of the stages comes next: name a stage, or use fail",
            )
    else:
        yield from _wait_events(f"{path}.events", wait.events)
    early: object = wait.early
    if not isinstance(early, bool):
        yield f"{path}.early", f"{shown(early)} is not True or False"
    yield from condition_faults(f"{path}.where", wait.where, state=True)
    correlate: object = {} if wait.correlate is None else wait.correlate
    if not isinstance(correlate, Mapping) or not all(isinstance(field, str) and field for field in correlate):
        yield f"{path}.correlate", "must be a mapping of payload paths to values or StateRefs"
    else:
        for field, value in correlate.items():
            yield from text_faults(f"{path}.correlate", field)
            yield from storable_faults(f"{path}.correlate.{field}", value)
    yield from duration_faults(f"{path}.timeout", wait.timeout)
    if not ends_wait(wait.on_timeout):
        yield from target_faults(f"{path}.on_timeout", wait.on_timeout, ids)
    patch: object = wait.patch
    if isinstance(patch, Mapping):
        try:
            pack_patch(patch)
        except NotStorable as error:
            yield f"{path}.patch", f"{error.message}. A function of the event may return it"
    elif patch is not None and not callable(patch):
        yield f"{path}.patch", "must be a mapping or a function of the event"
    yield from _buffer_faults(path, wait)
    yield from _counting_faults(path, wait)


def _buffer_faults(path: str, wait: Wait) -> Iterator[Fault]:
    limit: Any = wait.limit
    if not _is_count(limit) or limit > LARGEST_BUFFER:
        yield f"{path}.limit", f"{shown(limit)} is not a number of events from 1 to {LARGEST_BUFFER:,}"
    yield from duration_faults(f"{path}.ttl", wait.ttl)
    if wait.overflow not in OVERFLOWS:
        yield f"{path}.overflow", f"{shown(wait.overflow)} is not one of {', '.join(OVERFLOWS)}"


def _counting_faults(path: str, wait: Wait) -> Iterator[Fault]:
    mode: Any = wait.mode
    number = _is_count(mode)
    if not number and mode not in ("any", "all"):
        yield f"{path}.mode", f"{shown(mode)} is not 'any', 'all' or a number of events"
        return
    if mode != "any" and isinstance(wait.events, Mapping):
        yield f"{path}.mode", "several events cannot lead to different stages: give on= as a list, or use mode='any'"
    elif _is_count(wait.limit):
        listed: Any = wait.events
        types = {listed} if isinstance(listed, str) else set(listed) if _is_texts(listed) else set()
        need = mode if number else len(types) if mode == "all" else 1
        if need > wait.limit:
            yield f"{path}.mode", f"it takes {need} events, and the buffer has room for {wait.limit}: raise limit="
    distinct: object = wait.distinct
    if distinct is not None and (not isinstance(distinct, str) or not distinct):
        yield f"{path}.distinct", f"{shown(distinct)} is not a path into the payload"
    elif distinct is not None and not number:
        yield f"{path}.distinct", "only a number of events has values that must differ: give mode= as a number"
    collect: object = wait.collect
    if collect is None:
        return
    if not isinstance(collect, str) or not collect or "." in collect:
        yield f"{path}.collect", f"{shown(collect)} is not a key of the state"
    elif wait.patch is not None:
        yield f"{path}.collect", "it keeps the payloads as they are, so a patch has no use: leave one of them out"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_texts(listed: object) -> bool:
    return isinstance(listed, Collection) and all(isinstance(each, str) for each in listed)


def ends_wait(on_timeout: object) -> bool:
    """Whether it is a rule for the end of a wait's time, and no stage."""
    return isinstance(on_timeout, str) and on_timeout in ("fail", "abort", "resume")


def _wait_id(path: str, name: Any) -> Iterator[Fault]:
    if name is not None:
        yield from name_faults(path, name)
        if isinstance(name, str) and name.startswith("__"):
            yield path, f"'{name}' is reserved: choose an id that does not begin with two underscores"


def _wait_events(path: str, events: object) -> Iterator[Fault]:
    listed: object = (events,) if isinstance(events, str) else events
    if not isinstance(listed, Collection):  # a generator is empty the second time
        yield path, f"{shown(events)} is not an event type: give one event type or pattern, or a list of them"
    elif not listed or not all(isinstance(event, str) and event for event in listed):
        yield path, "name at least one event type or pattern"
    else:
        for event in listed:
            yield from text_faults(path, event)


def _wait_ways(path: str, ways: Mapping[Any, Any], ids: list[str]) -> Iterator[Fault]:
    if not ways or not all(isinstance(event, str) and event for event in ways):
        yield path, "map at least one event type or pattern to a stage"
    for event, stage in ways.items():
        yield from target_faults(f"{path}.{event if isinstance(event, str) else shown(event)}", stage, ids)


def same_waits(path: str, stages: Iterable[Stage]) -> Iterator[Fault]:
    """Find different waits under one id with patch functions: the id is all that tells which one to call."""
    seen: dict[str, Wait] = {}
    for stage in stages:
        wait = stage.router.wait if isinstance(stage.router, Pause) else None
        if not isinstance(wait, Wait):
            continue
        name: object = stage.id if wait.id is None else wait.id
        if not isinstance(name, str):
            continue
        first = seen.setdefault(name, wait)
        if differ(first, wait) and (callable(first.patch) or callable(wait.patch)):
            yield (
                f"{path}.{stage.id}.router.wait.id",
                f"there is another wait '{name}', and a patch function belongs to an id: give this one its own",
            )
