"""A set of recipes: read once, shared by any number of containers.

House rule: a set knows only itself. What parents and overrides add is found by the container that asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.recipe import Kind, Need, Recipe
from poundlock.artifacts.template import ArtifactTemplate, Factory
from poundlock.errors import DuplicateKey, InvalidDefinition


class Plan(NamedTuple):
    """What can be known of building a recipe from its set alone."""

    at_once: bool
    """The recipe, and all in the set that it needs by annotation, build without waiting and in no circle."""
    outside: tuple[Need, ...]
    """What has to come from parents, directly or through others of the set."""


class Plain(NamedTuple):
    """An artifact with nothing special about it, ready to be built in passing (see `passing.py`)."""

    name: str
    factory: Factory
    needs: tuple[tuple[str, Plain | None, Key, bool], ...]
    """Parameter, what it takes (None: something from above), under which key, and whether it has a default."""
    expected: type | None
    kept: bool
    """A singleton, which stays in its container."""
    may_await: bool
    """The factory is a function, so nobody knows before whether it gives an awaitable."""
    yields: bool
    """The factory is a generator function."""
    key: Key
    recipe: Recipe


_WAITS = Plan(False, ())


class TemplateSet:
    """Templates, read and indexed.

    Make one per scope of a workflow and pass it to every run's container: the factories are inspected once.

    Args:
        templates: what to begin with.

    Raises:
        DuplicateKey: two templates have the same key.
    """

    __slots__ = ("_by_type", "_plans", "_recipes", "eager", "get", "plain")

    def __init__(self, templates: Iterable[ArtifactTemplate] = ()) -> None:
        self._recipes: dict[str, Recipe] = {}
        self._by_type: dict[type, list[str]] = {}
        self.get = self._recipes.get  # bound once: the hottest line of a cold resolution
        self._plans: dict[str, Plan] = {}
        self.plain: dict[Key, Plain] | None = None
        """What can be built in passing, by name and by class; None until somebody asks (`index_plain`)."""
        self.eager: tuple[str, ...] = ()
        for template in templates:
            self.add(template)

    def add(self, template: ArtifactTemplate) -> Recipe:
        """Read a template into the set.

        Raises:
            DuplicateKey: its key is taken.
            InvalidDefinition: its factory has a parameter that nothing can fill.
        """
        return self.insert(Recipe(template))

    def insert(self, recipe: Recipe) -> Recipe:
        """Add a recipe that was read before; raises like `add`."""
        if recipe.name in self._recipes:
            raise DuplicateKey(
                f"the key '{recipe.name}' is registered already: choose another key, or use override() in a test",
                key=recipe.name,
            )
        self._recipes[recipe.name] = recipe
        if recipe.provided_type is not None:
            self._by_type.setdefault(recipe.provided_type, []).append(recipe.name)
        if not recipe.template.lazy:
            self.eager += (recipe.name,)
        self.replan()
        return recipe

    def copy(self) -> TemplateSet:
        """Return a set of the same recipes that can grow on its own."""
        twin = TemplateSet()
        for recipe in self:
            twin.insert(recipe)
        return twin

    def find(self, key: Key) -> Recipe | None:
        """Return the recipe of a key, or of the one artifact that provides this class.

        Raises:
            InvalidDefinition: several artifacts provide the class.
        """
        recipe = self.get(key_name(key))
        if recipe is not None or isinstance(key, str):
            return recipe
        names = self._by_type.get(key, ())
        if len(names) > 1:
            raise ambiguous(key, names)
        return self.get(names[0]) if names else None

    def names(self) -> list[str]:
        """Return all keys, in the order they were added."""
        return list(self._recipes)

    def plan(self, recipe: Recipe) -> Plan:
        """Return how far a recipe of this set can be built without waiting; computed once."""
        known = self._plans.get(recipe.name)
        return known if known is not None else self._plan(recipe, set())

    def _plan(self, recipe: Recipe, open_: set[str]) -> Plan:
        known = self._plans.get(recipe.name)
        if known is not None:
            return known
        at_once = (
            recipe.at_once and recipe.name not in open_
        )  # a circle is reported by who walks into it, with the path
        open_.add(recipe.name)
        outside: dict[Need, None] = {}
        for need in recipe.needs if at_once else ():
            inner = self.find(need.key)
            if inner is None:
                outside[need] = None
                continue
            plan = self._plan(inner, open_)
            at_once = at_once and plan.at_once
            outside.update(dict.fromkeys(plan.outside))
        self._plans[recipe.name] = plan = Plan(True, tuple(outside)) if at_once else _WAITS
        return plan

    def replan(self) -> None:
        """Forget what was computed from the recipes: one was added, or has turned out to be other than it looked."""
        self._plans.clear()
        self.plain = None

    def index_plain(self) -> dict[Key, Plain]:
        """Compute and return `plain`."""
        known: dict[Key, Plain] = {}
        for recipe in self:
            self._add_plain(recipe, known)
        self.plain = known
        return known

    def _add_plain(self, recipe: Recipe, known: dict[Key, Plain]) -> Plain | None:
        if recipe.name in known:
            return known[recipe.name]
        yields = recipe.kind is Kind.GENERATOR
        if not self.plan(recipe).at_once or not recipe.plain or (recipe.transient and yields):
            return None
        needs = []
        for need in recipe.needs:
            found = self.find(need.key)
            inner = self._add_plain(found, known) if found is not None else None
            if found is not None and inner is None:
                return None
            needs.append((need.param, inner, need.key, need.optional))
        factory, key = recipe.factory, recipe.template.key
        may_await = not yields and (not isinstance(factory, type) or hasattr(factory, "__await__"))
        expected = None if recipe.expected is factory else recipe.expected
        kept = not recipe.transient
        plain = Plain(recipe.name, factory, tuple(needs), expected, kept, may_await, yields, key, recipe)
        known[recipe.name] = known[key] = plain
        return plain

    def __iter__(self) -> Iterator[Recipe]:
        return iter(self._recipes.values())

    def __len__(self) -> int:
        return len(self._recipes)

    def __contains__(self, key: Key) -> bool:
        return key_name(key) in self._recipes


def ambiguous(kind: type, names: Sequence[str]) -> InvalidDefinition:
    """Return the error for a class that several artifacts provide."""
    listed = " and ".join(f"'{name}'" for name in names)
    return InvalidDefinition(
        f"{listed} both provide {kind.__qualname__}: say which with Annotated[{kind.__qualname__}, Use(...)]",
        path=key_name(kind),
        candidates=list(names),
    )
