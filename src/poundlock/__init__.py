"""Poundlock: an event-bus driven pipeline runtime with dependency-injection containers.

How the package is layered, from the bottom: `errors`, `ids`, `clock`; `codecs`; `guard` (calls user code); `model`
(frozen data, pure functions); `ports`; the packages `artifacts`, `bus`, `state`; then `pipeline`, `services`, `stores`;
then `runtime`; on top `cli` and `testing`. Imports go down only, and a linter checks it.

The names below are loaded when first used (PEP 562), so that `import poundlock` costs almost nothing; type checkers
read `__init__.pyi`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "poundlock.marks": ("DELETE", "Overwrite"),
    "poundlock.artifacts": ("Use",),
    "poundlock.model.conditions": ("Condition", "StateRef"),
    "poundlock.model.definitions": (
        "Advance",
        "Batch",
        "Children",
        "Debounce",
        "Delay",
        "Fail",
        "Jump",
        "JumpTo",
        "Pause",
        "Pending",
        "Pipeline",
        "Retry",
        "Service",
        "Stage",
        "Step",
        "Terminate",
        "Throttle",
        "Trigger",
        "Wait",
        "branch",
        "switch",
    ),
    "poundlock.model.events": ("Event",),
    "poundlock.model.lifecycle": ("RunStatus",),
    "poundlock.model.modes": ("Exclusive", "Serialized", "SingletonLoop", "Transient"),
    "poundlock.model.receipts": ("ReceiptLine", "Verdict"),
    "poundlock.model.retention": ("Retention",),
    "poundlock.model.runs": ("Failure", "RunInfo", "RunResult"),
    "poundlock.model.tasks": ("Task",),
    "poundlock.model.timeline": ("Timeline",),
    "poundlock.pipeline.builder": ("Workflow",),
    "poundlock.pipeline.flows": ("flow",),
    "poundlock.pipeline.context": ("StepContext",),
    "poundlock.pipeline.durable_steps": ("Operation", "Steps"),
    "poundlock.pipeline.functions.workflow": ("FunctionWorkflow", "workflow"),
    "poundlock.runtime.receipts": ("Receipt",),
    "poundlock.ports": ("Page",),
    "poundlock.sensitive": ("Sensitive",),
    "poundlock.services.env": ("EnvService",),
    "poundlock.services.pause": ("PauseService",),
    "poundlock.runtime.runtime": ("WorkflowRuntime",),
    "poundlock.errors": (
        "AlreadyRegistered",
        "AnswerInvalid",
        "ArtifactCycle",
        "ArtifactNotFound",
        "ArtifactTimeout",
        "ChildFailed",
        "ContainerDisposed",
        "Contended",
        "DefinitionChanged",
        "DuplicateKey",
        "EmitLoop",
        "IdempotencyConflict",
        "InvalidDefinition",
        "InvalidEvent",
        "LeaseLost",
        "NonRetryable",
        "NotMendable",
        "NotPaused",
        "NotRegistered",
        "NotStorable",
        "OutputMissing",
        "PoundlockError",
        "ProcessLost",
        "ReplayDivergence",
        "RetryAfter",
        "RunAborted",
        "RunExists",
        "RunFinished",
        "RunNotFinished",
        "RunNotFound",
        "RunTimeout",
        "ScopeViolation",
        "StageGone",
        "StaleResume",
        "StaleVersion",
        "StateInvalid",
        "StepError",
        "StepTimeout",
        "StoreCorrupt",
        "StoreFull",
        "StoreTooNew",
        "StoreUnavailable",
        "UnknownCodec",
        "WorkflowPaused",
        "WouldDeadlock",
    ),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_WHERE)  # noqa: PLE0605 - the stub lists the names for checkers, and a test compares the two


def __getattr__(name: str) -> Any:
    home = _WHERE.get(name)
    if home is None:
        raise AttributeError(f"module 'poundlock' has no attribute '{name}'")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
