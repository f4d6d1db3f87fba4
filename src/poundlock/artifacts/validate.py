"""Check a whole graph before anything is built.

House rule: one check finds all faults, and calls no user code. What a factory requests in its body is known only if its
template declares it (`needs=`).
"""

from __future__ import annotations

from collections.abc import Iterator

from poundlock.artifacts.explain import drawn
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.node import Node
from poundlock.artifacts.recipe import Recipe
from poundlock.errors import InvalidDefinition, suggest

Fault = tuple[str, str]
"""Path (the artifact's key) and message."""


def validate(node: Node) -> None:
    """Raise InvalidDefinition with all faults of a node and of its parents, if there are any."""
    found = faults(node)
    if found:
        listed = "; ".join(f"{path}: {sentence}" for path, sentence in found)
        raise InvalidDefinition(
            f"the artifacts of container '{node.name}' do not fit together: {listed}", path=found[0][0], faults=found
        )


def faults(node: Node) -> tuple[Fault, ...]:
    """Return all faults of a node and of its parents: missing keys, cycles, and dependencies of a shorter scope."""
    found: dict[Fault, None] = {}
    for place in dict.fromkeys((node, *node.above())):
        for recipe in place.templates:
            for fault in (*_faults_of_needs(node, place, recipe), *_cycles(place, recipe)):
                found[fault] = None
    return tuple(found)


def _requested(recipe: Recipe) -> Iterator[tuple[Key, bool]]:
    """Yield each declared dependency of a recipe, and whether it is optional."""
    yield from ((need.key, need.optional) for need in recipe.needs)
    yield from ((key, False) for key in recipe.template.needs)


def _faults_of_needs(node: Node, place: Node, recipe: Recipe) -> Iterator[Fault]:
    for key, optional in _requested(recipe):
        try:
            if place.find(key) is not None:
                continue
            below = node.find(key)
        except InvalidDefinition as error:
            yield recipe.name, error.message
            continue
        if below is not None:
            sentence = (
                f"lives in '{place.name}' and needs '{below[1].name}', which lives only in the shorter-lived "
                f"'{below[0].name}': move one of them, or ask for it when it is used"
            )
            yield recipe.name, sentence
        elif not optional:
            known = sorted({name for each in (place, *place.above()) for name in each.known()})
            yield recipe.name, f"needs '{key_name(key)}', which is not registered: {suggest(key_name(key), known)}"


def _cycles(place: Node, recipe: Recipe) -> Iterator[Fault]:
    """Yield the cycle that begins with this recipe. Each cycle is reported once, at its alphabetically first member."""
    way: list[tuple[Node, Recipe]] = []
    done: set[tuple[Node, Recipe]] = set()

    def walk(at: tuple[Node, Recipe]) -> list[str] | None:
        way.append(at)
        done.add(at)
        for key, _ in _requested(at[1]):
            try:
                below = at[0].find(key)
            except InvalidDefinition:
                continue  # reported by the check of needs
            if below == (place, recipe):
                return [each.name for _, each in way]
            if below is not None and below not in done:
                cycle = walk(below)
                if cycle is not None:
                    return cycle
        way.pop()
        return None

    cycle = walk((place, recipe))
    if cycle is not None and recipe.name == min(cycle):
        yield recipe.name, f"needs itself: {drawn([*cycle, recipe.name])}"
