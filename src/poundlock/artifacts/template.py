"""The definition of an artifact: frozen, plain data, checked when it is created."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Literal, Protocol, TypeAlias

from poundlock.artifacts.keys import Key, key_name
from poundlock.errors import InvalidDefinition
from poundlock.model.definitions import Retry
from poundlock.model.durations import Duration, optional_seconds
from poundlock.records import dataclass, field

Factory: TypeAlias = Callable[..., Any]
Scope: TypeAlias = Literal["singleton", "transient"]


class Codec(Protocol):
    """Turns an instance into JSON-like data and back, for `export` and `from_bundle`."""

    def encode(self, instance: Any) -> Any:
        """Return JSON-like data."""

    def decode(self, data: Any) -> Any:
        """Return an instance equal to the one that `encode` was given."""


@dataclass(frozen=True, slots=True)
class ArtifactTemplate:
    """How an artifact is built.

    Args:
        key: a string, or a class, which means its qualified name. Unique in one container.
        factory: builds the artifact: a function, coroutine function, (async) generator function, function decorated
            with `@contextmanager` or `@asynccontextmanager`, class, or dependency-injector provider. What follows a
            yield is the clean-up. A `def` runs on the event loop and should not block it.
        scope: "singleton", one per container, or "transient", new on every resolution. A transient belongs to its
            requester: it is cleaned up with the artifact, or the container, that it was made for.
        lazy: False builds it when the container starts.
        timeout: limit of one attempt of the factory, as seconds, timedelta or text ("500ms"); None means no limit. A
            factory that never awaits cannot be interrupted.
        retry: how often and when a failed attempt is repeated; None means never.
        param_key: maps the params of a resolution to a cache key: one singleton per key.
        serializable: whether `export` includes it.
        codec: how an instance becomes data; None if it is JSON-like data already.
        health: a ping, sync or async, called with the instance; raising or returning False means unhealthy.
        type: the class the instance must belong to, and by which parameters may request it. Default: a class given as
            key; for parameters, also the factory's class or return annotation.
        needs: keys that the factory requests in its body, declared so that `validate` can see them.

    Raises:
        InvalidDefinition: an option is invalid; the error names all faults.
    """

    key: Key
    factory: Factory
    scope: Scope = field(default="singleton", kw_only=True)
    lazy: bool = field(default=True, kw_only=True)
    timeout: Duration | None = field(default=None, kw_only=True)
    retry: Retry | None = field(default=None, kw_only=True)
    param_key: Callable[[Any], Hashable] | None = field(default=None, kw_only=True)
    serializable: bool = field(default=False, kw_only=True)
    codec: Codec | None = field(default=None, kw_only=True)
    health: Callable[[Any], Awaitable[Any] | Any] | None = field(default=None, kw_only=True)
    type: type[Any] | None = field(default=None, kw_only=True)
    needs: tuple[Key, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        name = key_name(self.key)
        faults = tuple((f"{name}.{option}", sentence) for option, sentence in self._faults())
        if faults:
            listed = "; ".join(f"{path}: {sentence}" for path, sentence in faults)
            raise InvalidDefinition(f"the template of '{name}' cannot be used: {listed}", path=name, faults=faults)

    def _faults(self) -> list[tuple[str, str]]:
        faults = []
        factory: object = self.factory
        if not callable(factory):
            faults.append(("factory", f"{self.factory!r} cannot be called; wrap a value as `lambda: value`"))
        if self.scope not in {"singleton", "transient"}:
            faults.append(("scope", f"'{self.scope}' is neither 'singleton' nor 'transient'"))
        if self.scope == "transient":
            singular = {
                "lazy": not self.lazy,
                "param_key": self.param_key is not None,
                "serializable": self.serializable,
            }
            faults += [
                (name, "a transient is never kept; use scope='singleton'") for name, on in singular.items() if on
            ]
        if not self.lazy and self.param_key is not None:
            faults.append(("lazy", "it cannot be built at the start: a param_key needs params, and there are none yet"))
        try:
            optional_seconds(self.timeout)
        except ValueError as error:
            faults.append(("timeout", str(error)))
        return faults
