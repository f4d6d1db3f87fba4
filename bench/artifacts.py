"""`python -m bench.artifacts`: the container beside its peers and beside plain Python, in one run.

Each library does the same work in the way its documentation shows; whichever is not installed is left out. All rounds
of all libraries are taken in turn, so that a drifting machine drifts for everybody; figures are the best of the rounds,
because every disturbance only adds.

| workload | what is done |
|---|---|
| warm | a built singleton is asked for, synchronously |
| awaited | the same, awaited |
| three levels | a scope is opened in which a transient is built from a scoped service and a singleton, and closed |
| scope of five | a scope is opened, five services of its own are asked for, and it is closed |
| scope of five, cleaned up | the same with generators, whose clean-ups run at the end |
| invalidations | one of 1,000 artifacts in ten layers is invalidated and built again, with all that rests on it |
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import platform
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

ROUNDS = 7
Once = Callable[[], Any]
Subject = dict[str, Once | Callable[[], Awaitable[Any]]]


class A:
    """A service of its own; so are B to E."""


class B(A):
    """Like A."""


class C(A):
    """Like A."""


class D(A):
    """Like A."""


class E(A):
    """Like A."""


class Scoped:
    """One per scope; needs a singleton."""

    def __init__(self, a: A) -> None:
        self.a = a


class Transient:
    """A new one each time; needs both."""

    def __init__(self, a: A, scoped: Scoped) -> None:
        self.a = a
        self.scoped = scoped


FIVE = (A, B, C, D, E)


def generator(kind: type) -> Callable[[], Iterator[Any]]:
    """Return a generator factory whose clean-up does nothing."""

    def make() -> Iterator[Any]:
        yield kind()

    make.__annotations__["return"] = Iterator[kind]  # type: ignore[valid-type] - for those who read annotations
    return make


# ---------------------------------------------------------------------------------------------------- subjects
def by_hand() -> Subject:
    """What the work itself costs: dictionaries and constructors."""
    built = {A: A()}

    async def awaited() -> A:
        return built[A]

    def five() -> None:
        scope: dict[type, Any] = {}
        for kind in FIVE:
            scope[kind] = kind()
        scope.clear()

    def cleaned_up() -> None:
        makers = [generator(kind)() for kind in FIVE]
        for maker in makers:
            next(maker)
        for maker in reversed(makers):
            next(maker, None)

    def three() -> None:
        a = built[A]
        Transient(a, Scoped(a))

    return {
        "warm": lambda: built[A],
        "awaited": awaited,
        "three levels": three,
        "scope of five": five,
        "scope of five, cleaned up": cleaned_up,
    }


def poundlock() -> Subject:
    """This container: plain containers over shared template sets."""
    from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, TemplateSet

    app = ArtifactContainer("app")
    app.register(A, A)
    app.require_nowait(A)
    plain = TemplateSet(ArtifactTemplate(kind, kind) for kind in FIVE)
    yielding = TemplateSet(ArtifactTemplate(kind, generator(kind)) for kind in FIVE)
    levels = TemplateSet([ArtifactTemplate(Scoped, Scoped), ArtifactTemplate(Transient, Transient, scope="transient")])
    parents = (app,)
    loop_bound = ArtifactContainer("loop")
    loop_bound.register(A, A)

    def five(templates: TemplateSet) -> None:
        scope = ArtifactContainer("scope", parents=parents, templates=templates)
        for kind in FIVE:
            scope.require_nowait(kind)
        scope.dispose_nowait()

    def three() -> None:
        scope = ArtifactContainer("scope", parents=parents, templates=levels)
        scope.require_nowait(Transient)
        scope.dispose_nowait()

    return {
        "warm": lambda: app.require_nowait(A),
        "awaited": lambda: loop_bound.require(A),
        "three levels": three,
        "scope of five": lambda: five(plain),
        "scope of five, cleaned up": lambda: five(yielding),
    }


def dishka() -> Subject:
    """dishka: sync container with a request scope, async container for the awaited row."""
    from dishka import Provider, Scope, make_async_container, make_container

    def provider(*, yielding: bool) -> Provider:
        made = Provider(scope=Scope.REQUEST)
        for kind in FIVE:
            made.provide(generator(kind) if yielding else kind)
        return made

    def levels() -> Provider:
        made = Provider()
        made.provide(A, scope=Scope.APP)
        made.provide(Scoped, scope=Scope.REQUEST)
        made.provide(Transient, scope=Scope.REQUEST, cache=False)
        return made

    plain, cleaned = make_container(provider(yielding=False)), make_container(provider(yielding=True))
    app = make_container(levels())
    awaited = make_async_container(levels())

    def five(container: Any) -> None:
        with container() as scope:
            for kind in FIVE:
                scope.get(kind)

    def three() -> None:
        with app() as scope:
            scope.get(Transient)

    return {
        "warm": lambda: app.get(A),
        "awaited": lambda: awaited.get(A),
        "three levels": three,
        "scope of five": lambda: five(plain),
        "scope of five, cleaned up": lambda: five(cleaned),
    }


def svcs() -> Subject:
    """svcs: a registry, and a container per scope."""
    import svcs as library

    plain, cleaned, levels = library.Registry(), library.Registry(), library.Registry()
    for kind in FIVE:
        plain.register_factory(kind, kind)
        cleaned.register_factory(kind, generator(kind))
    levels.register_value(A, A())
    levels.register_factory(Scoped, lambda svcs_container: Scoped(svcs_container.get(A)))
    levels.register_factory(Transient, lambda svcs_container: Transient(*svcs_container.get(A, Scoped)))
    app = library.Container(levels)

    def five(registry: Any) -> None:
        with library.Container(registry) as scope:
            for kind in FIVE:
                scope.get(kind)

    def three() -> None:
        with library.Container(levels) as scope:
            scope.get(Transient)

    return {
        "warm": lambda: app.get(A),
        "awaited": lambda: app.aget(A),
        "three levels": three,
        "scope of five": lambda: five(plain),
        "scope of five, cleaned up": lambda: five(cleaned),
    }


def dependency_injector() -> Subject:
    """dependency-injector: a dynamic container per scope, as it has no scopes of its own."""
    from dependency_injector import containers, providers

    single = providers.Singleton(A)
    waited = providers.Singleton(A)
    waited.enable_async_mode()

    def five() -> None:
        scope = containers.DynamicContainer()
        for kind in FIVE:
            scope.set_provider(kind.__name__.lower(), providers.Singleton(kind))
        for provider in scope.providers.values():
            provider()

    def cleaned_up() -> None:
        scope = containers.DynamicContainer()
        for kind in FIVE:
            scope.set_provider(kind.__name__.lower(), providers.Resource(generator(kind)))
        for provider in scope.providers.values():
            provider()
        scope.shutdown_resources()

    def three() -> None:
        scoped = providers.Singleton(Scoped, a=single)
        providers.Factory(Transient, a=single, scoped=scoped)()

    return {
        "warm": single,
        "awaited": waited,
        "three levels": three,
        "scope of five": five,
        "scope of five, cleaned up": cleaned_up,
    }


def that_depends() -> Subject:
    """that-depends: a class of providers with context resources."""
    from that_depends import BaseContainer, ContextScopes, container_context, providers

    class Services(BaseContainer):
        default_scope = ContextScopes.REQUEST
        a = providers.Singleton(A)
        r1 = providers.ContextResource(generator(A))
        r2 = providers.ContextResource(generator(B))
        r3 = providers.ContextResource(generator(C))
        r4 = providers.ContextResource(generator(D))
        r5 = providers.ContextResource(generator(E))

    resources = (Services.r1, Services.r2, Services.r3, Services.r4, Services.r5)

    def five() -> None:
        with container_context(Services, scope=ContextScopes.REQUEST):
            for resource in resources:
                resource.resolve_sync()

    return {"warm": Services.a.resolve_sync, "awaited": Services.a.resolve, "scope of five, cleaned up": five}


def wireup() -> Subject:
    """wireup: annotated injectables and scopes."""
    import wireup as library

    def injectables(lifetime: str, *, yielding: bool) -> list[Any]:
        return [library.injectable(generator(kind) if yielding else _copy(kind), lifetime=lifetime) for kind in FIVE]

    plain_kinds = injectables("scoped", yielding=False)
    plain = library.create_sync_container(injectables=plain_kinds)
    cleaned = library.create_sync_container(injectables=injectables("scoped", yielding=True))
    app = library.create_sync_container(injectables=injectables("singleton", yielding=True))
    awaited = library.create_async_container(injectables=injectables("singleton", yielding=True))

    def five(container: Any, kinds: Any) -> None:
        with container.enter_scope() as scope:
            for kind in kinds:
                scope.get(kind)

    return {
        "warm": lambda: app.get(A),
        "awaited": lambda: awaited.get(A),
        "scope of five": lambda: five(plain, plain_kinds),
        "scope of five, cleaned up": lambda: five(cleaned, FIVE),
    }


def _copy(kind: type) -> type:
    return type(kind.__name__, (kind,), {})


SUBJECTS: dict[str, tuple[str | None, Callable[[], Subject]]] = {
    "by hand": (None, by_hand),
    "poundlock": ("poundlock", poundlock),
    "dishka": ("dishka", dishka),
    "svcs": ("svcs", svcs),
    "dependency-injector": ("dependency_injector", dependency_injector),
    "that-depends": ("that_depends", that_depends),
    "wireup": ("wireup", wireup),
}
WORKLOADS = {
    "warm": 200_000,
    "awaited": 100_000,
    "three levels": 20_000,
    "scope of five": 10_000,
    "scope of five, cleaned up": 5_000,
}


# --------------------------------------------------------------------------------------------------- measuring
def per_second(once: Once, times: int) -> float:
    """Return how often per second `once` runs."""
    gc.collect()
    started = time.perf_counter()
    for _ in range(times):
        once()
    return times / (time.perf_counter() - started)


async def awaited_per_second(once: Callable[[], Awaitable[Any]], times: int) -> float:
    """Return how often per second `once` can be awaited."""
    gc.collect()
    started = time.perf_counter()
    for _ in range(times):
        await once()
    return times / (time.perf_counter() - started)


async def measure(subjects: dict[str, Subject]) -> dict[str, dict[str, float]]:
    """Return the best rate of each subject in each workload."""
    best: dict[str, dict[str, float]] = {workload: {} for workload in WORKLOADS}
    for workload, times in WORKLOADS.items():
        for round_ in range(ROUNDS):
            for name, subject in subjects.items():
                once = subject.get(workload)
                if once is None:
                    continue
                warm_up = times // 10 if round_ == 0 else 0
                if workload == "awaited":
                    await awaited_per_second(once, warm_up or 1)
                    rate = await awaited_per_second(once, times)
                else:
                    per_second(once, warm_up or 1)
                    rate = per_second(once, times)
                best[workload][name] = max(rate, best[workload].get(name, 0.0))
    return best


async def invalidations() -> tuple[float, float]:
    """Return invalidations per second of random artifacts of a graph of 1,000, and how many were dropped by each."""
    from poundlock.artifacts import ArtifactContainer, Use

    container = ArtifactContainer("graph")
    names = [[f"{layer}.{place}" for place in range(100)] for layer in range(10)]
    chance = random.Random(7)  # noqa: S311 - the same graph every time, nothing secret
    for layer, row in enumerate(names):
        for name in row:
            below = chance.sample(names[layer - 1], 2) if layer else []
            container.register(name, _joined(below, Use))
    for row in names:
        for name in row:
            await container.require(name)
    chosen = [chance.choice(chance.choice(names)) for _ in range(10_000)]
    await container.invalidate(chosen[0], rebuild=True)  # builds the index
    dropped = container.statistics().invalidations
    started = time.perf_counter()
    for name in chosen:
        await container.invalidate(name, rebuild=True)
    seconds = time.perf_counter() - started
    return len(chosen) / seconds, (container.statistics().invalidations - dropped) / len(chosen)


def _joined(below: list[str], use: Any) -> Callable[..., list[Any]]:
    def make(x: Any = None, y: Any = None) -> list[Any]:
        return [x, y]

    make.__annotations__ = {name: Annotated[list, use(key)] for name, key in zip("xy", below, strict=False)}
    return make


def shown(rate: float) -> str:
    """Return a rate in a unit that fits."""
    return (
        f"{rate / 1e6:.2f} M/s" if rate >= 1e6 else f"{rate / 1e3:.0f} k/s" if rate >= 1e4 else f"{rate / 1e3:.1f} k/s"
    )


async def main() -> None:
    """Measure everything that is installed and print a table."""
    subjects: dict[str, Subject] = {}
    for name, (module, make) in SUBJECTS.items():
        try:
            if module is not None:
                importlib.import_module(module)
        except ImportError:
            print(f"{name}: not installed")
            continue
        subjects[name] = make()
    best = await measure(subjects)
    print(f"CPython {platform.python_version()}, {os.cpu_count()} cores, best of {ROUNDS} rounds\n")
    print(f"| workload | {' | '.join(subjects)} |")
    print(f"|---|{'---|' * len(subjects)}")
    for workload, rates in best.items():
        print(f"| {workload} | {' | '.join(shown(rates[name]) if name in rates else '-' for name in subjects)} |")
    rate, dropped = await invalidations()
    print(f"\ninvalidations with rebuild: {shown(rate)}, {dropped:.1f} artifacts dropped and rebuilt by each")


if __name__ == "__main__":
    asyncio.run(main())
