"""A set of recipes: read once, shared by any number of containers.

House rule: a set knows only its own recipes. The container adds parents and overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.recipe import Kind, Need, Recipe
from poundlock.artifacts.template import ArtifactTemplate, Factory
from poundlock.errors import DuplicateKey, InvalidDefinition
from poundlock.records import NamedTuple


class Plan(NamedTuple):
    """How a recipe can be built, as far as its set alone determines it."""

    at_once: bool
    """The recipe, and all in the set that it needs by annotation, build without waiting and without a cycle."""
    outside: tuple[Need, ...]
    """What has to come from parents, for this recipe or for one it needs."""


class Plain(NamedTuple):
    """A plain artifact, prepared for the fast path (see `fast_path.py`)."""

    name: str
    factory: Factory
    needs: tuple[tuple[str, Plain | None, Key, bool], ...]
    """Parameter, its plain artifact (None: it comes from a parent), its key, and whether it has a default."""
    expected: type | None
    kept: bool
    """A singleton, which its container keeps."""
    may_await: bool
    """The factory is a function, so it is unknown before the call whether it returns an awaitable."""
    yields: bool
    """The factory is a generator function."""
    key: Key
    recipe: Recipe


_WAITS = Plan(False, ())


class TemplateSet:
    """Templates, read and indexed.

    Create one per scope of a workflow and pass it to every run's container: the factories are inspected once.

    Args:
        templates: the first templates.

    Raises:
        DuplicateKey: two templates have the same key.
    """

    __slots__ = ("_by_type", "_plans", "_recipes", "eager", "get", "plain")

    def __init__(self, templates: Iterable[ArtifactTemplate] = ()) -> None:
        self._recipes: dict[str, Recipe] = {}
        self._by_type: dict[type, list[str]] = {}
        self.get = self._recipes.get  # bound once: the hottest line of a first resolution
        self._plans: dict[str, Plan] = {}
        self.plain: dict[Key, Plain] | None = None
        """What the fast path can build, by name and by class; None until it is first needed (`index_plain`)."""
        self.eager: tuple[str, ...] = ()
        for template in templates:
            self.add(template)

    def add(self, template: ArtifactTemplate) -> Recipe:
        """Read a template into the set.

        Raises:
            DuplicateKey: its key is registered already.
            InvalidDefinition: its factory has a parameter that cannot be injected.
        """
        return self.insert(Recipe(template))

    def insert(self, recipe: Recipe) -> Recipe:
        """Add a recipe that was read before; raises the same errors as `add`."""
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
        """Return an independent set of the same recipes."""
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
        """Return whether, and with what from outside, a recipe can be built without waiting. Cached."""
        known = self._plans.get(recipe.name)
        return known if known is not None else self._plan(recipe, set())

    def _plan(self, recipe: Recipe, open_: set[str]) -> Plan:
        known = self._plans.get(recipe.name)
        if known is not None:
            return known
        # A cycle is reported by the build that meets it, with the path.
        at_once = recipe.at_once and recipe.name not in open_
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
        """Clear the caches: a recipe was added, or a factory turned out to return awaitables."""
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
        f"{listed} both provide {kind.__qualname__}: select one with Annotated[{kind.__qualname__}, Use(...)]",
        path=key_name(kind),
        candidates=list(names),
    )
