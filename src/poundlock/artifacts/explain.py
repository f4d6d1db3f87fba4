"""The errors of this package: every error that a container raises is created here.

House rule: an error names the key, the chain of requesters, the container, and what the reader can do next.
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


def requesters(requester: Slot | Node | None) -> Iterator[Slot]:
    """Yield the chain of requesters, the last one first.

    A build can outlive its first requester, and then request the next build of that same artifact. So the links may
    form a ring although no builds wait for each other: each slot comes once.
    """
    seen: set[Slot] = set()
    while isinstance(requester, Slot) and requester not in seen:
        yield requester
        seen.add(requester)
        requester = requester.requester


def chain(requester: Slot | Node | None) -> list[str]:
    """Return the names in the chain of requesters, the first one first; empty if a container was called directly."""
    return [each.name for each in requesters(requester)][::-1]


def drawn(names: Iterable[str]) -> str:
    """Format a chain: `'a' -> 'b' -> 'c'`."""
    return " -> ".join(f"'{name}'" for name in names)


def _called(node: Node) -> str:
    return f"container '{node.name}'" if node.name else "the container"


def _requested_by(requester: Slot | Node | None) -> str:
    names = chain(requester)
    return f" (requested by {drawn(names)})" if names else ""


def origin(requester: Slot | Node | None) -> Node | None:
    """Return the container where the chain started."""
    found = requester if isinstance(requester, Node) else None
    for each in requesters(requester):
        found = each.requester if isinstance(each.requester, Node) else each.node
    return found


def unknown(node: Node, key: Key, requester: Slot | Node | None) -> PoundlockError:
    """Neither this container nor its parents have the key."""
    name = key_name(key)
    below = _holders(key, origin(requester), node)
    if isinstance(requester, Slot) and below:
        return ScopeViolation(
            f"'{requester.name}' of {_called(requester.node)} needs '{name}', which exists only in the shorter-lived "
            f"{_called(below[0])} ({drawn([*chain(requester), name])}): a longer-lived artifact cannot hold it; "
            f"move '{requester.name}' to the shorter scope, or '{name}' to the longer one",
            key=name,
            chain=[*chain(requester), name],
            container=requester.node.name,
            found_in=[each.name for each in below],
        )
    known = sorted({each for place in (node, *node.above()) for each in place.known()})
    near = suggest(name, known)
    elsewhere = f"; it exists in {', '.join(_called(each) for each in below)}, which is not a parent" if below else ""
    return ArtifactNotFound(
        f"no artifact '{name}' in {_called(node)} or its parents{_requested_by(requester)}{elsewhere}: {near}",
        key=name,
        chain=[*chain(requester), name],
        container=node.name,
        near=near,
        found_in=[each.name for each in below],
    )


def _holders(key: Key, start: Node | None, node: Node) -> list[Node]:
    """Return containers that have the key but are not parents of `node`: below it, or beside it."""
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
    """Artifacts need each other in a cycle; `path` ends with its first element."""
    return ArtifactCycle(
        f"artifacts need each other in a cycle: {drawn(path)}; let one of them request the other when it is used, or "
        f"move what they share into a third",
        path=".".join(path),
        cycle=list(path),
    )


def disposed(node: Node) -> ContainerDisposed:
    """The container is closed."""
    return ContainerDisposed(
        f"{_called(node)} is closed and builds no artifacts: create a new container, or use it before it is closed",
        container=node.name,
    )


def wrong_loop(node: Node) -> ArtifactInvalid:
    """The container was called from another event loop than its own, or from outside of it."""
    return ArtifactInvalid(
        f"{_called(node)} belongs to another event loop, and so do its artifacts: create one container per loop",
        container=node.name,
    )


def must_await(name: str, blocker: str, reason: str) -> ArtifactInvalid:
    """An artifact was requested without waiting, but has to be awaited."""
    because = f"'{blocker}' {reason}" if blocker == name else f"it needs '{blocker}', which {reason}"
    return ArtifactInvalid(
        f"'{name}' cannot be built without waiting, because {because}: use `await require(...)`, or build it earlier",
        key=name,
        blocker=blocker,
    )


def no_params(name: str) -> ArtifactInvalid:
    """Params were passed to a singleton without a param_key."""
    return ArtifactInvalid(
        f"'{name}' is one singleton and takes no params: set param_key on its template, or make it a transient",
        key=name,
    )


def failed(slot: Slot, error: BaseException) -> ArtifactFailed:
    """The factory raised."""
    said = describe(error)
    return ArtifactFailed(
        f"building '{slot.name}' in {_called(slot.node)} failed{_requested_by(slot.requester)}: "
        f"{said.type}: {said.message}; nothing was kept, the next request tries again",
        key=slot.name,
        chain=[*chain(slot.requester), slot.name],
        container=slot.node.name,
        cause=said.type,
    )


def timed_out(slot: Slot, limit: float) -> ArtifactTimeout:
    """An attempt took longer than its timeout."""
    return ArtifactTimeout(
        f"building '{slot.name}' in {_called(slot.node)} took longer than {limit:g} s{_requested_by(slot.requester)}: "
        f"increase its timeout, or find out what it waits for",
        key=slot.name,
        chain=[*chain(slot.requester), slot.name],
        container=slot.node.name,
        timeout=limit,
    )


def wrong_product(slot: Slot, instance: object) -> ArtifactInvalid:
    """The factory returned None, or an instance of another class."""
    what = "None: did it forget to return?" if instance is None else f"a {type(instance).__qualname__}"
    wanted = slot.recipe.expected.__qualname__ if slot.recipe.expected is not None else "an instance"
    return ArtifactInvalid(
        f"the factory of '{slot.name}' returned {what}{'' if instance is None else f' where {wanted} is expected'}"
        f"{_requested_by(slot.requester)}: correct the factory, or the template's type",
        key=slot.name,
        chain=[*chain(slot.requester), slot.name],
        container=slot.node.name,
    )


def never_settles(slot: Slot, times: int) -> ArtifactInvalid:
    """The state that the build reads changed during every build."""
    return ArtifactInvalid(
        f"what '{slot.name}' reads changed during each of {times} builds{_requested_by(slot.requester)}: "
        f"does its factory change the state that it selects?",
        key=slot.name,
        container=slot.node.name,
    )


def no_select(slot: Slot | None, node: Node) -> ScopeViolation:
    """A factory selects state, but its container has none."""
    who = _called(node) if slot is None else f"'{slot.name}' of {_called(node)}"
    if node.allow_select:
        why = f"there is no state store: pass state= to {_called(node)}"
    else:
        why = (
            "it outlives single runs, so it cannot read a run's state: use the scope 'run' or 'transient' for what "
            "reads it, or pass the value in when it is used"
        )
    return ScopeViolation(
        f"{who} selects state, but {why}", key=None if slot is None else slot.name, container=node.name
    )


def taken(name: str) -> DuplicateKey:
    """The key is registered, or has a value, in this container itself."""
    return DuplicateKey(
        f"the key '{name}' is registered already: choose another key, or use override() in a test", key=name
    )


def no_value(name: str) -> ArtifactInvalid:
    """None cannot be an artifact: `peek` returns it where there is none."""
    return ArtifactInvalid(f"None cannot be the value of '{name}': leave it out, or wrap it", key=name)
