"""Turning service definitions into artifacts, and runs into containers.

Containers are made when somebody first needs one: a run that asks for no service never has any. Recipes are read once
per workflow and shared by all its runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from poundlock.model.annotations import provided_type
from poundlock.model.definitions import Service, WorkflowDefinition
from poundlock.services.env import EnvService
from poundlock.services.pause import PauseService, RunWaits

if TYPE_CHECKING:
    from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, TemplateSet
    from poundlock.clock import Clock


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
        self._run_templates: TemplateSet | None = None
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

    def run_container(self, run_id: str, state: Callable[[], Any], waits: RunWaits) -> ArtifactContainer:
        """Return a new container for a run; it falls back to the workflow's.

        Args:
            run_id: names the container.
            state: gives the store that the run's services select from, when the first of them does.
            waits: what the run's pause service works on.
        """
        from poundlock.artifacts import ArtifactContainer, TemplateSet

        if self._run_templates is None:
            self._run_templates = TemplateSet(
                template_of(service) for service in self._definition.services if service.scope != "workflow"
            )
        container = ArtifactContainer(
            f"run {run_id}",
            parents=(self.container,),
            state=state,
            clock=self._home.clock,
            templates=self._run_templates,
        )
        container.put("__pause_service__", PauseService(waits))
        return container

    def validate(self) -> None:
        """Check the graph of services as far as it can be known (`InvalidDefinition` with all faults)."""
        if self._definition.services:
            from poundlock.artifacts import ArtifactContainer, TemplateSet

            self.container.validate()
            run_services = [service for service in self._definition.services if service.scope != "workflow"]
            probe = ArtifactContainer(
                "run",
                parents=(self.container,),
                clock=self._home.clock,
                templates=TemplateSet(template_of(service) for service in run_services),
            )
            probe.validate()

    async def close(self) -> None:
        """Dispose the workflow's services."""
        container, self._container = self._container, None
        if container is not None:
            await container.dispose()
