"""The map of the container: each public method calls the file that does the work.

| to read about | open |
|---|---|
| templates, and how factories are read | `template.py`, `recipe.py`, `templates.py` |
| what a container holds | `node.py` |
| building, single flight, cycles | `build.py` |
| what a factory may do | `context.py` |
| dependents, invalidation | `graph.py`, `invalidate.py` |
| selecting state, streams | `reactive.py` |
| events and observers | `events.py`, `announce.py` |
| clean-up and disposal | `cleanup.py`, `dispose.py` |
| dependency-injector, overriding | `interop.py` |
| the rest | `validate.py`, `bundle.py`, `report.py`, `health.py` |
"""

from __future__ import annotations

from asyncio import _get_running_loop  # the documented way to ask without an exception; costs 30 ns
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from poundlock.artifacts import build, bundle, context, dispose, explain, health, invalidate, report, validate
from poundlock.artifacts.announce import announce
from poundlock.artifacts.bundle import Bundle
from poundlock.artifacts.context import Dependencies, Resolved
from poundlock.artifacts.events import EventName, Listener, Observer, check_event
from poundlock.artifacts.health import Health
from poundlock.artifacts.keys import Key, key_name
from poundlock.artifacts.node import Node, Slot, StateSource
from poundlock.artifacts.report import DebugInfo, Statistics
from poundlock.artifacts.template import ArtifactTemplate, Factory
from poundlock.artifacts.templates import TemplateSet
from poundlock.errors import ArtifactInvalid

if TYPE_CHECKING:  # loads dependency-injector, which costs 50 ms and more
    from dependency_injector.containers import DynamicContainer

    from poundlock.artifacts.interop import Artifact, Override

T = TypeVar("T")


class ArtifactContainer(Node):
    """A hierarchical, reactive container: it keeps what factories have built, and asks its parents for unknown keys.

    Creating one costs about a microsecond, so there can be one per run.

    Args:
        name: shown in errors and events.
        parents: containers that unknown keys fall back to, in this order; a dependency-injector container may be one.
        state: where factories select from: a store with get, select and subscribe, or a function that creates one at
            the first selection.
        clock: the source of time; default the system clock.
        templates: recipes read before, shared with other containers; registering here does not change that set.
        allow_select: False for a container that outlives the states it could read.
        cleanup_timeout: seconds after which a clean-up that hangs is abandoned; None means no limit.
    """

    # ---------------------------------------------------------------------------------------------- recipes
    @overload
    def register(self, key: ArtifactTemplate, /) -> ArtifactTemplate: ...
    @overload
    def register(self, key: Key, factory: Factory, /, **options: Any) -> ArtifactTemplate: ...
    def register(
        self, key: ArtifactTemplate | Key, factory: Factory | None = None, /, **options: Any
    ) -> ArtifactTemplate:
        """Add a template: `register(ArtifactTemplate(...))`, or `register(key, factory, **options)`.

        Returns:
            The template.

        Raises:
            DuplicateKey: the key is registered here already.
            InvalidDefinition: the template, or a parameter of its factory, is invalid.
            ContainerDisposed: the container is closed.
        """
        if self.closed:
            raise explain.disposed(self)
        if isinstance(key, ArtifactTemplate):
            template = key
        elif factory is None:
            raise ArtifactInvalid(f"register('{key_name(key)}') lacks a factory: pass one, or an ArtifactTemplate")
        else:
            template = ArtifactTemplate(key, factory, **options)
        if not self.owns_templates:
            self.templates = self.templates.copy()
            self.owns_templates = True
        name = self.templates.add(template).name
        announce(self, "artifact:registered", name)
        return template

    def put(self, key: Key, instance: Any) -> None:
        """Add a value as a built artifact; it has no factory and no clean-up.

        Raises:
            DuplicateKey: the key is registered here already.
            ArtifactInvalid: the value is None.
            ContainerDisposed: the container is closed.
        """
        build.put(self, key, instance)

    def key_of(self, key: Key) -> str | None:
        """Return the key under which a string or class is registered, here or above; None if it is not.

        Raises:
            InvalidDefinition: several artifacts provide the class.
        """
        found = self.find(key)
        return None if found is None else found[1].name

    # ------------------------------------------------------------------------------------------------ asking
    @overload
    async def require(self, key: type[T], params: Any = None) -> T: ...
    @overload
    async def require(self, key: str, params: Any = None) -> Any: ...
    async def require(self, key: Key, params: Any = None) -> Any:
        """Return the instance of a key, built on first use.

        Args:
            key: a string or a class.
            params: passed on to the factory; a singleton needs a `param_key` to take any.

        Raises:
            ArtifactNotFound: no container has the key.
            ArtifactFailed, ArtifactTimeout, ArtifactInvalid: it could not be built; the next call tries again.
            ArtifactCycle: it needs itself.
            ScopeViolation: it, or something it needs, requests an artifact of a shorter scope.
            ContainerDisposed: the container is closed.
        """
        if params is None:
            instance = self.warm.get(key)
            if instance is not None and self.loop is _get_running_loop():
                return instance
        return await build.obtain(self, key, params, self)

    @overload
    def require_nowait(self, key: type[T], params: Any = None) -> T: ...
    @overload
    def require_nowait(self, key: str, params: Any = None) -> Any: ...
    def require_nowait(self, key: Key, params: Any = None) -> Any:
        """Return the instance of a key without waiting: built already, or synchronous with all that it needs.

        Raises:
            ArtifactInvalid: it, or something it needs, has to be awaited; the error names it.
            PoundlockError: everything that `require` raises.
        """
        if params is None:
            instance = self.warm.get(key)
            if instance is not None:
                loop = _get_running_loop()
                if loop is self.loop or loop is None:
                    return instance
            if self.calm:
                instance = build.fast_path(self, key)
                if instance is not None:
                    return instance
        return build.obtain_now(self, key, params, self)

    async def resolve(self, key: Key, params: Any = None) -> Resolved:
        """Return the instance or the error as a value.

        Raises:
            ContainerDisposed: the container is closed.
        """
        return await context.resolve(self, key, params, self)

    def peek(self, key: Key) -> Any:
        """Return the instance of a key if it is built already, here or above, else None. Never builds, never waits.

        Raises:
            ContainerDisposed: the container is closed.
        """
        instance = self.warm.get(key)
        return instance if instance is not None else build.peek(self, key)

    async def use(self, fn: Callable[[Dependencies], Awaitable[T] | T]) -> T:
        """Run `fn(deps)`, where deps has require, resolve and select; return its result, awaited if it is awaitable."""
        given: Any = fn(Dependencies(self))
        return await given if hasattr(given, "__await__") else given  # type: ignore[no-any-return]

    def as_parent(self, parent: Any) -> Node:
        if isinstance(parent, Node):
            return parent
        from poundlock.artifacts.interop import provider_set

        name = parent.__name__ if isinstance(parent, type) else type(parent).__name__
        return ArtifactContainer(name, templates=provider_set(parent))

    async def obtain(self, key: Key, params: Any, requester: Slot | Node) -> Any:
        return await build.obtain(self, key, params, requester)

    def obtain_now(self, key: Key, params: Any, requester: Slot | Node) -> Any:
        return build.obtain_now(self, key, params, requester)

    # ------------------------------------------------------------------------------------------- life cycle
    @property
    def idle(self) -> bool:
        """Whether nothing was built or started here, so that there is nothing to dispose."""
        return not (self.slots or self.pending_cleanups or self.scopes or self.background)

    async def start(self) -> None:
        """Build the eager artifacts (`lazy=False`), one after another in registration order.

        Raises:
            PoundlockError: the first failure; it names the key. What was built stays until `dispose`.
        """
        await build.start(self)

    async def invalidate(self, key: Key, rebuild: bool = False) -> None:
        """Drop the instance of a key, with everything that depends on it, and run their clean-ups.

        Dependents are dropped first, each once; all are dropped before the first await.

        Args:
            key: a string or a class; with params, all its instances.
            rebuild: build what was dropped again immediately, dependencies first.

        Raises:
            ArtifactNotFound: no container has the key.
            ExceptionGroup: clean-ups failed; all have run, and nothing was rebuilt.
            PoundlockError: a rebuild failed.
        """
        await invalidate.invalidate(self, key, rebuild)

    def extend(self, parent: Any) -> None:
        """Add a parent that unknown keys fall back to, after the existing ones.

        Args:
            parent: a container, or a dependency-injector container.

        Raises:
            ArtifactCycle: this container is a parent of that one already.
        """
        container = self.as_parent(parent)
        if container is self or any(each is self for each in container.above()):
            raise explain.cycle([self.name, container.name, self.name])
        self.parents = (*self.parents, container)

    def scope(self, name: str) -> ArtifactContainer:
        """Return the scope of a name, created on first use: a child whose keys do not collide with those here.

        Unknown keys fall back to this container. The scope shares its state, and is disposed with it.

        Raises:
            ContainerDisposed: the container is closed.
        """
        if self.closed:
            raise explain.disposed(self)
        scopes = self.scopes = self.scopes if self.scopes is not None else {}
        made = scopes.get(name)
        if not isinstance(made, ArtifactContainer) or made.closed:
            full = f"{self.name}.{name}" if self.name else name
            made = scopes[name] = ArtifactContainer(full, parents=(self,), clock=self.clock, state=self.store)
            made.allow_select = self.allow_select
            made.cleanup_timeout = self.cleanup_timeout
        return made

    async def dispose(self, failure: BaseException | None = None) -> None:
        """Close the container and run every clean-up, last in, first out. A second call does nothing.

        Args:
            failure: why the work that used the artifacts failed. It is raised at the yield of generator factories and
                passed to the exit of context managers, so that they can roll back. They cannot suppress it.

        Raises:
            ExceptionGroup: clean-ups failed; all have run.
        """
        await dispose.dispose(self, failure)

    def dispose_nowait(self, failure: BaseException | None = None) -> bool:
        """Dispose now if nothing has to be awaited for it.

        Args:
            failure: see `dispose`.

        Returns:
            Whether it is disposed. False means that nothing has changed: await `dispose()` then.

        Raises:
            ExceptionGroup: clean-ups failed; all have run.
        """
        return dispose.dispose_now(self, failure)

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.dispose()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.dispose()

    # ------------------------------------------------------------------------------- replacing, and other libraries
    def override(self, key: Key, replacement: Any) -> Override:
        """Replace an artifact for a while: `with container.override("db", fake): ...`.

        This container and those below see the replacement; what depends on the artifact is dropped on entry and on
        exit. The original instance is kept. `async with` also waits for the clean-ups. To let other artifacts of a
        parent see the replacement, override in that parent.

        Args:
            key: what to replace.
            replacement: a factory (function, method, class, partial or dependency-injector provider), or any other
                object, which is used as the instance.

        Raises:
            ArtifactNotFound: no container has the key.
        """
        from poundlock.artifacts.interop import Override

        return Override(self, key, replacement)

    def provider(self, key: Key) -> Artifact:
        """Return an artifact as a dependency-injector provider that can be injected, wired and overridden.

        Raises:
            ArtifactNotFound: no container has the key.
        """
        from poundlock.artifacts.interop import provider_of

        return provider_of(self, key)

    def as_dependency_injector(self) -> DynamicContainer:
        """Return a dependency-injector container of this container's artifacts, for example to `wire` modules.

        Keys that cannot be an attribute of such a container are left out; `provider(key)` returns them.
        """
        from poundlock.artifacts.interop import as_dynamic_container

        return as_dynamic_container(self)

    # ---------------------------------------------------------------------------------------------- watching
    def watch(self, key: Key) -> Observer:
        """Return the observer of an artifact: its current instance, and all later ones.

        Raises:
            ArtifactNotFound: no container has the key.
            ContainerDisposed: the container is closed.
        """
        return build.observer(self, key)

    @overload
    def on(self, event: EventName, fn: Listener) -> Callable[[], None]: ...
    @overload
    def on(self, event: EventName) -> Callable[[Listener], Listener]: ...
    def on(self, event: EventName, fn: Listener | None = None) -> Any:
        """Call `fn(event)` on each event of this container: `on(name, fn)`, or as a decorator `@on(name)`.

        Returns:
            A function that removes the listener (may be called again); as a decorator, the function itself.

        Raises:
            ArtifactInvalid: there is no event of this name.
        """
        check_event(event)
        self.calm = False
        listeners = self.listeners = self.listeners if self.listeners is not None else {}
        listening = listeners.setdefault(event, [])
        if fn is None:

            def decorate(function: Listener) -> Listener:
                listening.append(function)
                return function

            return decorate
        listening.append(fn)

        def end() -> None:
            if fn in listening:
                listening.remove(fn)

        return end

    # --------------------------------------------------------------------------------------------- reporting
    def validate(self) -> None:
        """Check all that is known before anything is built, here and in the parents.

        Raises:
            InvalidDefinition: keys are missing, artifacts need each other in a cycle, or an artifact needs one of a
                shorter scope; `faults` lists all faults.
        """
        validate.validate(self)

    def faults(self) -> tuple[tuple[str, str], ...]:
        """Return what `validate` would raise, as (key, message) pairs."""
        return validate.faults(self)

    def debug_info(self) -> DebugInfo:
        """Return a snapshot of the artifacts here and in the parents; `render()` draws it as a tree or as Mermaid."""
        return report.debug_info(self)

    def statistics(self) -> Statistics:
        """Return this container's counters, as of now."""
        return report.statistics(self)

    async def health(self, timeout: float = 5.0) -> dict[str, Health]:
        """Ping all built artifacts that have a ping, concurrently. Never builds.

        Args:
            timeout: seconds for each ping.

        Raises:
            ContainerDisposed: the container is closed.
        """
        return await health.health(self, timeout)

    # ----------------------------------------------------------------------------------------------- bundles
    def export(self) -> Bundle:
        """Return the built artifacts that opted in (`serializable=True`) as data.

        Raises:
            NotStorable: a codec returned something that is not JSON-like.
            ContainerDisposed: the container is closed.
        """
        return bundle.export(self)

    def restore(self, exported: Bundle | str | bytes) -> list[str]:
        """Restore the artifacts of a bundle whose input state is unchanged.

        Args:
            exported: a bundle, or its JSON.

        Returns:
            The restored keys; the others are built when requested.

        Raises:
            BundleDamaged: the bundle cannot be used; nothing was restored.
            ContainerDisposed: the container is closed.
        """
        return bundle.restore(self, exported if isinstance(exported, Bundle) else Bundle.from_json(exported))

    @classmethod
    def from_bundle(
        cls,
        store: StateSource | Callable[[], StateSource] | None,
        exported: Bundle | str | bytes,
        templates: TemplateSet | Iterable[ArtifactTemplate],
        **options: Any,
    ) -> Self:
        """Return a new container over `store` with the artifacts of a bundle restored.

        Args:
            store: the state it selects from; artifacts built from another state are left out.
            exported: a bundle, or its JSON.
            templates: the templates of the new container.
            **options: further arguments of `ArtifactContainer`.

        Raises:
            BundleDamaged: the bundle cannot be used.
        """
        recipes = templates if isinstance(templates, TemplateSet) else TemplateSet(templates)
        container = cls(state=store, templates=recipes, **options)
        container.restore(exported)
        return container

    def __repr__(self) -> str:
        return f"<ArtifactContainer {self.name!r}: {len(self.templates)} templates, {len(self.slots)} slots>"
