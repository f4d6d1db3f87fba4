"""Conversion between this container and dependency-injector, in both directions.

House rules:

1. This is the only file that imports dependency-injector, and it is imported on first use.
2. It avoids that library's pitfalls: a shared future is never awaited unshielded, async mode is set and not guessed,
   ids are checked before they become attributes, and a run's container is never linked into a provider.
3. The stack of overrides of an artifact is that of its provider, so `container.override(...)` and
   `container.provider(key).override(...)` do the same.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Iterator
from typing import Any

from dependency_injector import containers, providers

from poundlock.artifacts import explain
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.node import Node
from poundlock.artifacts.override import place_override
from poundlock.artifacts.recipe import Recipe
from poundlock.artifacts.template import ArtifactTemplate, Factory
from poundlock.artifacts.templates import TemplateSet, ambiguous
from poundlock.errors import ArtifactInvalid


# ------------------------------------------------------------------------------------- our artifacts, as providers
class Artifact(providers.Provider[Any]):
    """A dependency-injector provider that returns an artifact of a container.

    It can be injected into factories, wired with `@inject`, put into declarative containers and overridden. If the
    artifact, or something it needs by annotation, is asynchronous, it always returns an awaitable.
    """

    def __init__(self, node: Node, name: str) -> None:
        super().__init__()
        self._node = node
        self.name = name
        self._pending: asyncio.Task[None] | None = None
        if _takes_waiting(node, name, set()):
            self.enable_async_mode()
        else:
            self.disable_async_mode()

    def _provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.provide(args, kwargs)

    def provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return the artifact of the container, overridden or not."""
        if args or kwargs:
            raise ArtifactInvalid(f"'{self.name}' takes no arguments here: use require(key, params=...)", key=self.name)
        if not self.is_async_mode_enabled():
            return self._node.obtain_now(self.name, None, self._node)
        instance = self._node.warm.get(self.name)
        if instance is not None:
            return instance
        return self._node.tasks().start(self._node.obtain(self.name, None, self._node), f"provide {self.name}")

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> Artifact:
        """Return itself: the artifact belongs to its container, also if that library copies its own container."""
        return self

    @property
    def related(self) -> Iterator[providers.Provider[Any]]:
        """Yield the providers of what the artifact requests by annotation."""
        yield from self.overridden
        found = self._node.find(self.name)
        for need in found[1].needs if found is not None else ():
            if self._node.find(need.key) is not None:
                yield provider_of(self._node, need.key)

    # Each of these changes the stack; `_follow` applies the change to the node.
    def override(self, provider: Any) -> Any:
        """Replace the artifact by a provider or a value."""
        context: Any = super().override(provider)
        self._follow()
        return context

    def reset_last_overriding(self) -> None:
        """Remove the last replacement."""
        super().reset_last_overriding()
        self._follow()

    def reset_override(self) -> None:
        """Remove all replacements."""
        super().reset_override()
        self._follow()

    def _follow(self) -> None:
        last = self.last_overriding
        recipe = None
        if isinstance(last, Replacement):
            recipe = last.recipe
        elif last is not None:
            recipe = Recipe(ArtifactTemplate(self.name, from_provider(last), scope="transient"))
        self._pending = place_override(self._node, self.name, recipe)

    async def settled(self) -> None:
        """Wait for the clean-ups caused by the last change of the stack."""
        if self._pending is not None:
            await asyncio.wait({self._pending})


class Replacement(providers.Provider[Any]):
    """A factory or value of the user, as an entry in an artifact's stack of overrides."""

    def __init__(self, artifact: Artifact, recipe: Recipe) -> None:
        super().__init__()
        self._artifact = artifact
        self.recipe = recipe

    def _provide(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._artifact.provide(args, kwargs)

    def __deepcopy__(self, memo: dict[Any, Any] | None) -> Replacement:
        return self


def provider_of(node: Node, key: Key) -> Artifact:
    """Return the provider of a key for this node; always the same object.

    Raises:
        ArtifactNotFound: no container has the key.
    """
    found = node.find(key)
    if found is None:
        raise explain.unknown(node, key, node)
    name = found[1].name
    if node.providers is None:
        node.providers = {}
    made = node.providers.get(name)
    if made is None:
        made = node.providers[name] = Artifact(node, name)
    return made


def as_dynamic_container(node: Node) -> containers.DynamicContainer:
    """Return a dependency-injector container with one provider per key, here and above, that is a valid attribute."""
    made = containers.DynamicContainer()
    taken = set(dir(made))
    for place in (node, *node.above()):
        for name in place.known():
            if name.isidentifier() and name not in taken:
                taken.add(name)
                made.set_provider(name, provider_of(node, name))
    return made


class Override:
    """`with container.override(key, replacement):`, or `async with`, which also waits for the clean-ups it causes."""

    def __init__(self, node: Node, key: Key, replacement: Any) -> None:
        self._artifact = provider_of(node, key)
        self._provider = _as_provider(self._artifact, node, replacement)

    def __enter__(self) -> None:
        self._artifact.override(self._provider)

    def __exit__(self, *exc: object) -> None:
        self._artifact.reset_last_overriding()

    async def __aenter__(self) -> None:
        self._artifact.override(self._provider)
        await self._artifact.settled()

    async def __aexit__(self, *exc: object) -> None:
        self._artifact.reset_last_overriding()
        await self._artifact.settled()


def _as_provider(artifact: Artifact, node: Node, replacement: Any) -> providers.Provider[Any]:
    if isinstance(replacement, providers.Provider):
        return replacement
    name = artifact.name
    found = node.find(name)
    original = found[1].template if found is not None else None
    scope, param_key = (original.scope, original.param_key) if original is not None else ("singleton", None)
    if is_factory(replacement):
        template = ArtifactTemplate(name, replacement, scope=scope, param_key=param_key)
    elif replacement is None:
        raise explain.no_value(name)
    else:
        template = ArtifactTemplate(name, lambda: replacement, scope=scope, param_key=param_key)
    return Replacement(artifact, Recipe(template))


def is_factory(replacement: Any) -> bool:
    """Whether a replacement is a factory: a function, method, class or partial. A mock is callable, but a value."""
    return inspect.isroutine(replacement) or isinstance(replacement, type | functools.partial)


def _takes_waiting(node: Node, key: Key, seen: set[Recipe]) -> bool:
    found = node.find(key)
    if found is None or found[1] in seen:
        return False
    seen.add(found[1])
    return not found[1].at_once or any(_takes_waiting(found[0], need.key, seen) for need in found[1].needs)


# ------------------------------------------------------------------------------------- their providers, as artifacts
class ProviderSet(TemplateSet):
    """The providers of a dependency-injector container as recipes, looked up on every request.

    The providers manage their own lifetimes, so each is a transient here: it is called on every resolution. The
    providers of a nested container have a dotted key ("gateways.database").
    """

    __slots__ = ("_container", "_known")

    def __init__(self, container: Any) -> None:
        super().__init__()
        self._container = container
        self._known: dict[str, tuple[Any, Recipe]] = {}
        self.get = self._live

    def _live(self, name: str, default: Any = None) -> Any:
        provider = self._container
        for part in name.split("."):
            inner = getattr(provider, "providers", None) or getattr(
                getattr(provider, "container", None), "providers", {}
            )
            provider = inner.get(part)
            if provider is None:
                return default
        known = self._known.get(name)
        if known is None or known[0] is not provider:
            recipe = Recipe(ArtifactTemplate(name, from_provider(provider), scope="transient"))
            known = self._known[name] = (provider, recipe)
        return known[1]

    def find(self, key: Key) -> Recipe | None:
        """Return the recipe of a name, or of the one provider that provides this class."""
        recipe: Recipe | None = self._live(key_name(key))
        if recipe is not None or isinstance(key, str):
            return recipe
        names = [name for name, each in self._container.providers.items() if getattr(each, "provides", None) is key]
        if len(names) > 1:
            raise ambiguous(key, names)
        return self.get(names[0]) if names else None

    def names(self) -> list[str]:
        """Return the names of all providers."""
        return list(self._container.providers)

    def __iter__(self) -> Iterator[Recipe]:
        return (recipe for name in self.names() if (recipe := self._live(name)) is not None)

    def __len__(self) -> int:
        return len(self._container.providers)


def provider_set(container: Any) -> ProviderSet:
    """Return a dependency-injector container, or its class, as a set of recipes.

    Raises:
        ArtifactInvalid: it is not such a container.
    """
    is_class = isinstance(container, type) and issubclass(container, containers.DeclarativeContainer)
    if not is_class and not isinstance(container, containers.Container | containers.DynamicContainer):
        raise ArtifactInvalid(
            f"{container!r} cannot be a parent: pass an ArtifactContainer or a dependency-injector container"
        )
    return ProviderSet(container)


def from_provider(provider: providers.Provider[Any]) -> Factory:
    """Return a factory that calls a provider.

    An asynchronous Singleton returns the same future to all callers. It is shielded, because one cancelled caller would
    cancel it for all.
    """

    def ask() -> Any:
        given = provider()
        return asyncio.shield(given) if asyncio.isfuture(given) else given

    return ask
