"""What runs must not show, also of their children in other workflows, in any order of registration."""

from __future__ import annotations

from collections.abc import Mapping

from poundlock.model.modes import Mode
from poundlock.model.workflow_definition import WorkflowDefinition
from poundlock.pipeline.plan import PipelinePlan
from poundlock.pipeline.secrets import Secrets, masks_in, masks_of_children, masks_of_mapped
from poundlock.runtime.core import Core
from poundlock.runtime.equipment import invoked_by_default
from poundlock.sensitive import Masks
from poundlock.services.install import WorkflowServices

_Plans = Mapping[str, PipelinePlan]
_Place = tuple[str, str]
"""A workflow and one of its pipelines."""


def give_secrets(
    core: Core, definition: WorkflowDefinition, mode: Mode, plans: _Plans, services: WorkflowServices
) -> None:
    """Tell the plans of a workflow that is about to be registered what they have to hide."""
    for plan in plans.values():
        waits = [declared.wait for declared in plan.declared]
        pipeline = definition.pipelines[plan.id]
        own, mapped = masks_in(definition, pipeline, mode, waits), masks_of_mapped(definition, pipeline)
        plan.secrets = Secrets(own, mapped, services.env.secrets, plan.path_json)
        plan.secrets.redact = core.redaction.of_type
    _look_below(core, definition, plans)
    core.hides = core.hides or any(plan.secrets is not None and plan.secrets.masks for plan in plans.values())


def tell_parents(core: Core, workflow_id: str) -> None:
    """Have the workflows whose children are runs of this one hide what it hides: they were registered before it."""
    if any(plan.secrets is not None and plan.secrets.masks for plan in core.entries[workflow_id].plans.values()):
        for entry in core.entries.values():
            if entry.id != workflow_id:
                _look_below(core, entry.definition, entry.plans)


def _look_below(core: Core, definition: WorkflowDefinition, plans: _Plans) -> None:
    families = _Families(core, definition, plans)
    for plan in plans.values():
        if plan.secrets is not None:
            place = (definition.id, plan.id)
            plan.secrets.learn(families.below(place, (place,)))


class _Families:
    """Who starts whom, among the registered workflows and one that is about to be registered."""

    def __init__(self, core: Core, definition: WorkflowDefinition, plans: _Plans) -> None:
        self._core = core
        self._definition = definition
        self._plans = plans

    def below(self, place: _Place, above: tuple[_Place, ...]) -> Masks:
        """Return where sensitive values of children are in the state of their parent.

        Args:
            place: the parent.
            above: what has started it, itself included.
        """
        workflow_id, pipeline_id = place
        definition, _ = self._known(workflow_id) or (None, {})
        if definition is None:
            return ()
        return masks_of_children(
            definition.pipelines[pipeline_id], lambda other, child: self._of_run(other or workflow_id, child, above)
        )

    def _of_run(self, workflow_id: str, pipeline_id: str | None, above: tuple[_Place, ...]) -> Masks:
        """Return the masks of a child; one that is among those above it has its own only."""
        definition, plans = self._known(workflow_id) or (None, {})
        if definition is None:
            return ()
        if pipeline_id is None:
            invoked = invoked_by_default(definition)
            pipeline_id = None if invoked is None else invoked[1]
        plan = None if pipeline_id is None else plans.get(pipeline_id)
        if plan is None or plan.secrets is None:
            return ()
        place = (workflow_id, plan.id)
        return plan.secrets.own if place in above else (*plan.secrets.own, *self.below(place, (*above, place)))

    def _known(self, workflow_id: str) -> tuple[WorkflowDefinition, _Plans] | None:
        if workflow_id == self._definition.id:
            return self._definition, self._plans
        entry = self._core.entries.get(workflow_id)
        return None if entry is None else (entry.definition, entry.plans)
