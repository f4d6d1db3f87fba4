"""Turning service definitions into artifacts, and runs into containers.

Containers are created at their first use: a run that requests no service never has any. Recipes are read once
per workflow and shared by all its runs.
"""

from __future__ import annotations

import inspect
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from poundlock.callables import provided_type
from poundlock.clock import Clock
from poundlock.errors import ArtifactNotFound, BundleDamaged, DuplicateKey, InvalidDefinition, suggest
from poundlock.model.checks import Fault
from poundlock.model.definitions import Service
from poundlock.model.validation import service_faults
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.services.env import EnvService
from poundlock.services.pause import NoWaits, PauseService, RunWaits

if TYPE_CHECKING:  # a runtime without services never loads the container
    from poundlock.artifacts import ArtifactContainer, ArtifactTemplate, TemplateSet

log = logging.getLogger("poundlock.services")

_RUN: Final = "run"
_STAGE: Final = "stage"


class Home(Protocol):
    """What services need to know of their runtime."""

    clock: Clock
    env: Mapping[str, str]

    @property
    def has_services(self) -> bool:
        """Whether there are global services."""

    @property
    def container(self) -> ArtifactContainer:
        """The container of global services."""


def service_types(*groups: Iterable[Service]) -> dict[Any, tuple[str, ...]]:
    """Return type to service ids, for injection by annotation; a nearer group hides an id of an outer one."""
    found: dict[Any, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for services in groups:
        for service in services:
            if service.id in seen:
                continue
            seen.add(service.id)
            kind = service.type if service.type is not None else provided_type(service.factory)
            # A builtin (str, dict ...) does not name a service: every such field of the state would get the service.
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


def not_global(container: ArtifactContainer, id: str, owners: Sequence[str]) -> ArtifactNotFound:
    """Return the error for a service that the global container lacks; `owners` are workflows that define it."""
    if owners:
        return ArtifactNotFound(
            f"there is no global service '{id}', but one of workflow '{owners[0]}': "
            f"override('{id}', ..., workflow='{owners[0]}')",
            key=id,
            workflows=list(owners),
        )
    known = list(dict.fromkeys(name for node in (container, *container.above()) for name in node.known()))
    return ArtifactNotFound(f"there is no global service '{id}': {suggest(id, known)}", key=id, known=known)


def _faults_of(service: Service) -> list[Fault]:
    """Return the faults of a service by itself: its options, or a factory that cannot be called."""
    from poundlock.artifacts import TemplateSet

    path = f"services.{service.id}"
    try:
        TemplateSet([template_of(service)])
    except InvalidDefinition as error:
        if error.faults:
            return [(f"services.{where}", text) for where, text in error.faults]
        inside = (error.path or "").startswith(f"{service.id}.")
        return [(f"services.{error.path}" if inside else path, error.message)]
    return []


def _replaced(service: Service, replacement: Any) -> Service:
    """Return a service with a replacement: a factory, or an instance."""
    factory = replacement if inspect.isroutine(replacement) or inspect.isclass(replacement) else lambda: replacement
    return replace(service, factory=factory, options={})


class WorkflowServices:
    """The services of one registered workflow: its container, and the recipes of its runs' containers."""

    def __init__(self, home: Home, definition: WorkflowDefinition) -> None:
        self._home = home
        self._definition = definition
        self._container: ArtifactContainer | None = None
        self._templates: dict[str, TemplateSet] = {}
        """Recipes of the containers of runs and of stages, by scope; read when the first of them is made."""
        self._overrides: dict[str, list[Service]] = {}
        """By id: current replacements of services of runs and stages, the last one counts."""
        self._sound = True
        """Whether the services can be checked together; set by `faults`."""
        self._probes: tuple[ArtifactContainer, ArtifactContainer] | None = None
        """Containers like those of a stage and its run, for checks at registration."""
        self._exports = any(service.options.get("serializable") for service in self._services_of(_RUN))
        self.env = EnvService(definition.env, home.env)

    @property
    def own(self) -> tuple[Service, ...]:
        """The services of the workflow itself."""
        return self._definition.services

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
            run_id: names the container; "" for one that is only used for checks.
            state: returns the state store of the run's services, at its first use.
            waits: those of the run's pause service.
            exported: the text of `export` when the run was parked. Services that still fit the state are restored, the
                others are built again; so are all if the text is damaged, which is logged.
        """
        from poundlock.artifacts import ArtifactContainer

        container = ArtifactContainer(
            f"run {run_id}" if run_id else "run",
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
                log.warning("services of run '%s' are built again: %s", run_id, error)
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
        """Return a run's serialisable services as text for its checkpoint; None if there are none."""
        if not self._exports:
            return None
        bundle = container.export()
        return bundle.to_json() if bundle.items else None

    @property
    def exports(self) -> bool:
        """Whether any service of a run is serialisable."""
        return self._exports

    @contextmanager
    def override(self, id: str, replacement: Any) -> Iterator[None]:
        """Replace a service: at once in the workflow's container, for runs from their next use on.

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
        twin = _replaced(service, replacement)
        self._overrides.setdefault(id, []).append(twin)
        try:
            self._templates[scope] = self._read(scope)
            yield
        finally:
            standing = self._overrides[id]
            standing[:] = [each for each in standing if each is not twin]
            self._templates[scope] = self._read(scope)

    def _templates_of(self, scope: str) -> TemplateSet:
        found = self._templates.get(scope)
        if found is None:
            found = self._templates[scope] = self._read(scope)
        return found

    def _read(self, scope: str) -> TemplateSet:
        """Return the recipes of a scope, with current replacements of its services."""
        from poundlock.artifacts import TemplateSet

        return TemplateSet(
            template_of(standing[-1] if (standing := self._overrides.get(service.id)) else service)
            for service in self._services_of(scope)
        )

    def _services_of(self, scope: str) -> list[Service]:
        """Return the services that a run's container holds, transients included, or those of a stage's."""
        held = (_STAGE,) if scope == _STAGE else (_RUN, "transient")
        return [service for service in self._definition.services if service.scope in held]

    def faults(self) -> list[Fault]:
        """Return the faults of the graph of services, as far as they can be known.

        A stage's container sees all of it: its own services, the run's, the workflow's, and the global ones.
        """
        if not self._definition.services and not self._home.has_services:
            return []
        faults: list[Fault] = []
        for service in self._definition.services:
            if any(service_faults("", service)):
                self._sound = False  # reported with the definition's own faults
            else:
                faults += _faults_of(service)
        self._sound = self._sound and not faults
        if not self._sound:
            return faults
        try:
            return [(f"services.{key}", text) for key, text in self._probed()[0].faults()]
        except DuplicateKey:
            self._sound = False  # reported with the definition's own faults
            return []
        except InvalidDefinition as error:  # of a global service
            self._sound = False
            return [(f"services.{path}", text) for path, text in error.faults] or [("services", error.message)]

    def fault_of(self, key: str, *, asked_in: Literal["stage", "run", "workflow"] = "stage") -> str | None:
        """Return why a service cannot be requested; None if it can.

        Args:
            key: which service.
            asked_in: where. A stage sees its own services, the run's, the workflow's and the global ones; the hooks
                of a run those from the run's on; functions outside of runs those from the workflow's on.
        """
        if not self._sound:
            return None  # the faults of the services have to be mended first
        try:
            stage, run = self._probed()
            if {"stage": stage, "run": run, "workflow": self.container}[asked_in].find(key) is not None:
                return None
            if asked_in == "workflow" and run.find(key) is not None:
                return f"service '{key}' lives only as long as a run: ask for one of the workflow or a global one"
            if stage.find(key) is not None:
                return f"service '{key}' lives only as long as a stage: ask for one that is there outside of stages"
        except InvalidDefinition as error:  # several provide the class
            return error.message
        known = [name for each in (stage, *stage.above()) for name in each.known()]
        return f"there is no service '{key}': {suggest(key, list(dict.fromkeys(known)))}"

    def _probed(self) -> tuple[ArtifactContainer, ArtifactContainer]:
        """Return the containers of a stage and its run, for checks; the same if no service lives as long as a stage."""
        if self._probes is None:
            run = self.run_container("", dict, NoWaits())
            self._probes = (self.stage_container("stage", run, None) if self.has_stages else run, run)
        return self._probes

    async def close(self) -> None:
        """Dispose the workflow's services."""
        container, self._container = self._container, None
        if container is not None:
            await container.dispose()
