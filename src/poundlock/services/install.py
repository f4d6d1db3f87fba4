"""Turning service definitions into artifacts, and runs into containers.

Containers are made when somebody first needs one: a run that asks for no service never has any. Recipes are read once
per workflow and shared by all its runs.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from poundlock.clock import Clock
from poundlock.errors import ArtifactNotFound, BundleDamaged, suggest
from poundlock.model.annotations import provided_type
from poundlock.model.definitions import Service, WorkflowDefinition
from poundlock.services.env import EnvService
from poundlock.services.pause import NoWaits, PauseService, RunWaits

if TYPE_CHECKING:  # a runtime without services never loads the container
    from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, TemplateSet

log = logging.getLogger("poundlock.services")

_RUN: Final = "run"
_STAGE: Final = "stage"


class Home(Protocol):
    """What services need to know of the runtime they live in."""

    clock: Clock
    env: Mapping[str, str]

    @property
    def container(self) -> ArtifactContainer:
        """The container of global services."""


def service_types(*groups: Iterable[Service]) -> dict[Any, tuple[str, ...]]:
    """Return type to service ids, for injection by annotation; a nearer group hides an id of a farther one."""
    found: dict[Any, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for services in groups:
        for service in services:
            if service.id in seen:
                continue
            seen.add(service.id)
            kind = service.type if service.type is not None else provided_type(service.factory)
            # A builtin (str, dict ...) says nothing: every such field of the state would be taken for the service.
            if isinstance(kind, type) and kind.__module__ != "builtins":
                found[kind].append(service.id)
    return {kind: tuple(ids) for kind, ids in found.items()}


def template_of(service: Service) -> ArtifactTemplate:
    """Return a service as an artifact template: one per container, unless its scope is transient."""
    from poundlock.artifacts import ArtifactTemplate

    scope: Literal["singleton", "transient"] = "transient" if service.scope == "transient" else "singleton"
    kind = {"type": service.type} if service.type is not None else {}
    return ArtifactTemplate(service.id, service.factory, scope=scope, **kind, **service.options)


def global_container(clock: Clock, services: Iterable[Service], parents: Iterable[Any]) -> ArtifactContainer:
    """Return the container of global services; always one instance each."""
    from poundlock.artifacts import ArtifactContainer, ArtifactTemplate

    container = ArtifactContainer("global", parents=tuple(parents), clock=clock, allow_select=False)
    for service in services:
        kind = {"type": service.type} if service.type is not None else {}
        container.register(ArtifactTemplate(service.id, service.factory, **kind, **service.options))
    return container


class WorkflowServices:
    """The services of one registered workflow: its container, and the recipes of its runs' containers."""

    def __init__(self, home: Home, definition: WorkflowDefinition) -> None:
        self._home = home
        self._definition = definition
        self._container: ArtifactContainer | None = None
        self._templates: dict[str, TemplateSet] = {}
        """Recipes of the containers of runs and of stages, by scope; read when the first of them is made."""
        self._exports = any(service.options.get("serializable") for service in self._services_of(_RUN))
        self.env = EnvService(definition.env, home.env)

    @property
    def container(self) -> ArtifactContainer:
        """The workflow's container; falls back to the global one and cannot read any run's state."""
        if self._container is None:
            from poundlock.artifacts import ArtifactContainer

            name = f"workflow {self._definition.id}"
            container = ArtifactContainer(
                name, parents=(self._home.container,), clock=self._home.clock, allow_select=False
            )
            container.register("__env__", lambda: self.env)
            for service in self._definition.services:
                if service.scope == "workflow":
                    container.register(template_of(service))
            self._container = container
        return self._container

    def run_container(
        self, run_id: str, state: Callable[[], Any], waits: RunWaits, exported: str | None = None
    ) -> ArtifactContainer:
        """Return a new container for a run; it falls back to the workflow's.

        Args:
            run_id: names the container.
            state: gives the store that the run's services select from, when the first of them does.
            waits: what the run's pause service works on.
            exported: what `export` gave when the run was parked. What still fits the state is restored from it, the
                rest is built anew; so is everything if the text is damaged, which is logged.
        """
        from poundlock.artifacts import ArtifactContainer

        container = ArtifactContainer(
            f"run {run_id}",
            parents=(self.container,),
            state=state,
            clock=self._home.clock,
            templates=self._templates_of(_RUN),
        )
        container.put("__pause_service__", PauseService(waits))
        if exported is not None:
            try:
                container.restore(exported)
            except BundleDamaged as error:
                log.warning("services of run '%s' are built anew: %s", run_id, error)
        return container

    @property
    def has_stages(self) -> bool:
        """Whether any service lives as long as a visit of a stage."""
        return bool(self._services_of(_STAGE))

    def stage_container(self, name: str, of_run: ArtifactContainer, cleanup_timeout: float | None) -> ArtifactContainer:
        """Return a new container for a visit of a stage; it falls back to the run's, whose state it reads.

        Args:
            name: of the visit, for errors.
            of_run: the run's container.
            cleanup_timeout: seconds that one clean-up may take.
        """
        from poundlock.artifacts import ArtifactContainer

        container = ArtifactContainer(
            name,
            parents=(of_run,),
            state=of_run.store,
            clock=self._home.clock,
            templates=self._templates_of(_STAGE),
            cleanup_timeout=cleanup_timeout,
        )
        container.together = True
        return container

    def export(self, container: ArtifactContainer) -> str | None:
        """Return a run's serialisable services as text that goes with its checkpoint; None where there are none."""
        if not self._exports:
            return None
        bundle = container.export()
        return bundle.to_json() if bundle.items else None

    @property
    def exports(self) -> bool:
        """Whether any service of a run is serialisable at all."""
        return self._exports

    @contextmanager
    def override(self, id: str, replacement: Any) -> Iterator[None]:
        """Put a replacement in a service's place: at once in the workflow's container, for runs from their next use on.

        Raises:
            ArtifactNotFound: the workflow has no such service; the message names near matches.
        """
        service = next((each for each in self._definition.services if each.id == id), None)
        if service is None and self.container.key_of(id) is None:
            known = [each.id for each in self._definition.services]
            raise ArtifactNotFound(
                f"workflow '{self._definition.id}' has no service '{id}': {suggest(id, known)}", key=id, known=known
            )
        if service is None or service.scope == "workflow":
            with self.container.override(id, replacement):
                yield
            return
        scope = _STAGE if service.scope == _STAGE else _RUN
        before = self._templates_of(scope)
        self._templates[scope] = self._with_replacement(scope, service, replacement)
        try:
            yield
        finally:
            self._templates[scope] = before

    def _templates_of(self, scope: str) -> TemplateSet:
        from poundlock.artifacts import TemplateSet

        found = self._templates.get(scope)
        if found is None:
            found = TemplateSet(template_of(service) for service in self._services_of(scope))
            self._templates[scope] = found
        return found

    def _with_replacement(self, scope: str, replaced: Service, replacement: Any) -> TemplateSet:
        from poundlock.artifacts import TemplateSet

        factory = replacement if inspect.isroutine(replacement) or inspect.isclass(replacement) else lambda: replacement
        twin = replace(replaced, factory=factory, options={})
        services = self._services_of(scope)
        return TemplateSet(template_of(twin if service is replaced else service) for service in services)

    def _services_of(self, scope: str) -> list[Service]:
        """Return the services that a run's container holds, transients included, or those of a stage's."""
        held = (_STAGE,) if scope == _STAGE else (_RUN, "transient")
        return [service for service in self._definition.services if service.scope in held]

    def validate(self) -> None:
        """Check the graph of services as far as it can be known, all faults at once (`InvalidDefinition`).

        A stage's container sees all of it: its own services, the run's, the workflow's, and the global ones.
        """
        if not self._definition.services:
            return
        container = self.run_container("of any run", dict, NoWaits())
        (self.stage_container("stage", container, None) if self.has_stages else container).validate()

    async def close(self) -> None:
        """Dispose the workflow's services."""
        container, self._container = self._container, None
        if container is not None:
            await container.dispose()
