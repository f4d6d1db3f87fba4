"""Checking a whole graph before anything is built.

House rule: all faults are found in one go, and nothing is called to find them. What a factory asks for in its body is
seen only as far as its template declares it (`needs=`).
"""

from __future__ import annotations

from collections.abc import Iterator

from poundlock.artifacts.explain import drawn
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.node import Node
from poundlock.artifacts.recipe import Recipe
from poundlock.errors import InvalidDefinition, suggest

Fault = tuple[str, str]
"""Path (the artifact's key) and sentence."""


def validate(node: Node) -> None:
    """Raise InvalidDefinition with all faults of a node and those above it, if there are any."""
    found = faults(node)
    if found:
        listed = "; ".join(f"{path}: {sentence}" for path, sentence in found)
        raise InvalidDefinition(
            f"the artifacts of container '{node.name}' do not fit together: {listed}", path=found[0][0], faults=found
        )


def faults(node: Node) -> tuple[Fault, ...]:
    """Return all faults of a node and those above it: missing keys, circles, and needs that live too short."""
    found: dict[Fault, None] = {}
    for place in dict.fromkeys((node, *node.above())):
        for recipe in place.templates:
            for fault in (*_faults_of_needs(node, place, recipe), *_circles(place, recipe)):
                found[fault] = None
    return tuple(found)


def _asked(recipe: Recipe) -> Iterator[tuple[Key, bool]]:
    """Yield what a recipe is known to ask for, and whether it can do without."""
    yield from ((need.key, need.optional) for need in recipe.needs)
    yield from ((key, False) for key in recipe.template.needs)


def _faults_of_needs(node: Node, place: Node, recipe: Recipe) -> Iterator[Fault]:
    for key, optional in _asked(recipe):
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


def _circles(place: Node, recipe: Recipe) -> Iterator[Fault]:
    """Yield the circle that begins with this recipe, once per circle: at its alphabetically first member."""
    way: list[tuple[Node, Recipe]] = []
    done: set[tuple[Node, Recipe]] = set()

    def walk(at: tuple[Node, Recipe]) -> list[str] | None:
        way.append(at)
        done.add(at)
        for key, _ in _asked(at[1]):
            try:
                below = at[0].find(key)
            except InvalidDefinition:
                continue  # reported by the check of needs
            if below == (place, recipe):
                return [each.name for _, each in way]
            if below is not None and below not in done:
                circle = walk(below)
                if circle is not None:
                    return circle
        way.pop()
        return None

    circle = walk((place, recipe))
    if circle is not None and recipe.name == min(circle):
        yield recipe.name, f"needs itself: {drawn([*circle, recipe.name])}"
