"""The sentences of this room: every error that a container raises is made here.

House rule: an error names the key, who asked for whom, the container, and what the reader can do now.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.node import Node, Slot
from poundlock.errors import (
    ArtifactCycle,
    ArtifactFailed,
    ArtifactInvalid,
    ArtifactNotFound,
    ArtifactTimeout,
    ContainerDisposed,
    DuplicateKey,
    PoundlockError,
    ScopeViolation,
    suggest,
)
from poundlock.guard import describe


def askers(asker: Slot | Node | None) -> Iterator[Slot]:
    """Yield who asked for whom, the last asker first.

    A build can outlive the one that asked for it first, and then ask for the next build of that very artifact. So the
    links may lead round in a ring, without anybody waiting in a circle: each slot comes once.
    """
    seen: set[Slot] = set()
    while isinstance(asker, Slot) and asker not in seen:
        yield asker
        seen.add(asker)
        asker = asker.asker


def chain(asker: Slot | Node | None) -> list[str]:
    """Return who asked for whom, the first asker first; empty if a container was asked directly."""
    return [each.name for each in askers(asker)][::-1]


def drawn(names: Iterable[str]) -> str:
    """Draw a chain: `'a' -> 'b' -> 'c'`."""
    return " -> ".join(f"'{name}'" for name in names)


def _called(node: Node) -> str:
    return f"container '{node.name}'" if node.name else "the container"


def _asked_by(asker: Slot | Node | None) -> str:
    names = chain(asker)
    return f" (asked for by {drawn(names)})" if names else ""


def origin(asker: Slot | Node | None) -> Node | None:
    """Return the container that the whole chain started from."""
    found = asker if isinstance(asker, Node) else None
    for each in askers(asker):
        found = each.asker if isinstance(each.asker, Node) else each.node
    return found


def unknown(node: Node, key: Key, asker: Slot | Node | None) -> PoundlockError:
    """Nobody has the key: not this container, not its parents."""
    name = key_name(key)
    below = _holders(key, origin(asker), node)
    if isinstance(asker, Slot) and below:
        return ScopeViolation(
            f"'{asker.name}' of {_called(asker.node)} asks for '{name}', which exists only in the shorter-lived "
            f"{_called(below[0])} ({drawn([*chain(asker), name])}): what lives longer cannot hold it; "
            f"move '{asker.name}' to the shorter scope, or '{name}' to the longer one",
            key=name,
            chain=[*chain(asker), name],
            container=asker.node.name,
            found_in=[each.name for each in below],
        )
    known = sorted({each for place in (node, *node.above()) for each in place.known()})
    near = suggest(name, known)
    elsewhere = f"; it exists in {', '.join(_called(each) for each in below)}, which is not a parent" if below else ""
    return ArtifactNotFound(
        f"no artifact '{name}' in {_called(node)} or its parents{_asked_by(asker)}{elsewhere}: {near}",
        key=name,
        chain=[*chain(asker), name],
        container=node.name,
        near=near,
        found_in=[each.name for each in below],
    )


def _holders(key: Key, start: Node | None, node: Node) -> list[Node]:
    """Return containers that have the key but cannot be reached from `node`: below it, or beside it."""
    reachable = {id(each) for each in (node, *node.above())}
    beside = [start, *start.above()] if start is not None else []
    for place in (node, *node.above(), *beside):
        beside += (place.scopes or {}).values() if place is not None else ()
    found: dict[int, Node] = {}
    for place in beside:
        if place is not None and id(place) not in reachable and place.own(key) is not None:
            found[id(place)] = place
    return list(found.values())


def cycle(path: Sequence[str]) -> ArtifactCycle:
    """Artifacts need each other in a circle; `path` ends where it began."""
    return ArtifactCycle(
        f"artifacts need each other in a circle: {drawn(path)}; let one of them ask later, when it is used, or move "
        f"what they share into a third",
        path=".".join(path),
        cycle=list(path),
    )


def disposed(node: Node) -> ContainerDisposed:
    """The container is gone."""
    return ContainerDisposed(
        f"{_called(node)} is closed and builds no artifacts: make a new container, or ask before it is closed",
        container=node.name,
    )


def wrong_loop(node: Node) -> ArtifactInvalid:
    """Asked from another event loop, or from outside the one it lives on."""
    return ArtifactInvalid(
        f"{_called(node)} lives on another event loop, and what it built is bound to it: make a container per loop",
        container=node.name,
    )


def must_await(name: str, blocker: str, reason: str) -> ArtifactInvalid:
    """Something was asked for at once that has to be waited for."""
    because = f"'{blocker}' {reason}" if blocker == name else f"it needs '{blocker}', which {reason}"
    return ArtifactInvalid(
        f"'{name}' cannot be had without waiting, because {because}: use `await require(...)`, or build it beforehand",
        key=name,
        blocker=blocker,
    )


def no_params(name: str) -> ArtifactInvalid:
    """Params were given to a singleton that knows no key for them."""
    return ArtifactInvalid(
        f"'{name}' is one singleton and takes no params: give its template a param_key, or make it a transient",
        key=name,
    )


def failed(slot: Slot, error: BaseException) -> ArtifactFailed:
    """The factory raised."""
    said = describe(error)
    return ArtifactFailed(
        f"building '{slot.name}' in {_called(slot.node)} failed{_asked_by(slot.asker)}: "
        f"{said.type}: {said.message}; nothing was kept, the next resolution tries again",
        key=slot.name,
        chain=[*chain(slot.asker), slot.name],
        container=slot.node.name,
        cause=said.type,
    )


def timed_out(slot: Slot, limit: float) -> ArtifactTimeout:
    """An attempt took longer than it may."""
    return ArtifactTimeout(
        f"building '{slot.name}' in {_called(slot.node)} took longer than {limit:g} s{_asked_by(slot.asker)}: "
        f"raise its timeout, or find out what it waits for",
        key=slot.name,
        chain=[*chain(slot.asker), slot.name],
        container=slot.node.name,
        timeout=limit,
    )


def wrong_product(slot: Slot, instance: object) -> ArtifactInvalid:
    """The factory gave None, or something of another class."""
    what = "None: did it forget to return?" if instance is None else f"a {type(instance).__qualname__}"
    wanted = slot.recipe.expected.__qualname__ if slot.recipe.expected is not None else "an instance"
    return ArtifactInvalid(
        f"the factory of '{slot.name}' gave {what}{'' if instance is None else f' where {wanted} was promised'}"
        f"{_asked_by(slot.asker)}: correct the factory, or the template's type",
        key=slot.name,
        chain=[*chain(slot.asker), slot.name],
        container=slot.node.name,
    )


def never_settles(slot: Slot, times: int) -> ArtifactInvalid:
    """What the build reads changed under it again and again."""
    return ArtifactInvalid(
        f"what '{slot.name}' reads changed during each of {times} builds{_asked_by(slot.asker)}: "
        f"does its factory change the state that it selects?",
        key=slot.name,
        container=slot.node.name,
    )


def no_select(slot: Slot | None, node: Node) -> ScopeViolation:
    """A factory selects state where there is none to select from."""
    who = _called(node) if slot is None else f"'{slot.name}' of {_called(node)}"
    if node.allow_select:
        why = f"there is no state store: pass state= to {_called(node)}"
    else:
        why = (
            "it outlives single runs, so it cannot read a run's state: give what reads it the scope 'run' or "
            "'transient', or pass the value in when it is used"
        )
    return ScopeViolation(
        f"{who} selects state, but {why}", key=None if slot is None else slot.name, container=node.name
    )


def taken(name: str) -> DuplicateKey:
    """The key is registered, or has a value, in this very container."""
    return DuplicateKey(
        f"the key '{name}' is registered already: choose another key, or use override() in a test", key=name
    )


def no_value(name: str) -> ArtifactInvalid:
    """None cannot be an artifact: it is what `peek` gives where there is none."""
    return ArtifactInvalid(f"None cannot be put in as '{name}': leave it out, or wrap it", key=name)
