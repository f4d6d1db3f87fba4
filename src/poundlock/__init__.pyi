from poundlock.artifacts import (
    Use as Use,
)
from poundlock.errors import (
    AlreadyRegistered as AlreadyRegistered,
)
from poundlock.errors import (
    AnswerInvalid as AnswerInvalid,
)
from poundlock.errors import (
    ArtifactCycle as ArtifactCycle,
)
from poundlock.errors import (
    ArtifactNotFound as ArtifactNotFound,
)
from poundlock.errors import (
    ArtifactTimeout as ArtifactTimeout,
)
from poundlock.errors import (
    ChildFailed as ChildFailed,
)
from poundlock.errors import (
    ContainerDisposed as ContainerDisposed,
)
from poundlock.errors import (
    Contended as Contended,
)
from poundlock.errors import (
    DefinitionChanged as DefinitionChanged,
)
from poundlock.errors import (
    DuplicateKey as DuplicateKey,
)
from poundlock.errors import (
    EmitLoop as EmitLoop,
)
from poundlock.errors import (
    IdempotencyConflict as IdempotencyConflict,
)
from poundlock.errors import (
    InvalidDefinition as InvalidDefinition,
)
from poundlock.errors import (
    InvalidEvent as InvalidEvent,
)
from poundlock.errors import (
    LeaseLost as LeaseLost,
)
from poundlock.errors import (
    NonRetryable as NonRetryable,
)
from poundlock.errors import (
    NotMendable as NotMendable,
)
from poundlock.errors import (
    NotPaused as NotPaused,
)
from poundlock.errors import (
    NotRegistered as NotRegistered,
)
from poundlock.errors import (
    NotStorable as NotStorable,
)
from poundlock.errors import (
    OutputMissing as OutputMissing,
)
from poundlock.errors import (
    PoundlockError as PoundlockError,
)
from poundlock.errors import (
    ProcessLost as ProcessLost,
)
from poundlock.errors import (
    ReplayDivergence as ReplayDivergence,
)
from poundlock.errors import (
    RetryAfter as RetryAfter,
)
from poundlock.errors import (
    RunAborted as RunAborted,
)
from poundlock.errors import (
    RunExists as RunExists,
)
from poundlock.errors import (
    RunFinished as RunFinished,
)
from poundlock.errors import (
    RunNotFinished as RunNotFinished,
)
from poundlock.errors import (
    RunNotFound as RunNotFound,
)
from poundlock.errors import (
    RunTimeout as RunTimeout,
)
from poundlock.errors import (
    ScopeViolation as ScopeViolation,
)
from poundlock.errors import (
    StageGone as StageGone,
)
from poundlock.errors import (
    StaleResume as StaleResume,
)
from poundlock.errors import (
    StaleVersion as StaleVersion,
)
from poundlock.errors import (
    StateInvalid as StateInvalid,
)
from poundlock.errors import (
    StepError as StepError,
)
from poundlock.errors import (
    StepTimeout as StepTimeout,
)
from poundlock.errors import (
    StoreCorrupt as StoreCorrupt,
)
from poundlock.errors import (
    StoreFull as StoreFull,
)
from poundlock.errors import (
    StoreTooNew as StoreTooNew,
)
from poundlock.errors import (
    StoreUnavailable as StoreUnavailable,
)
from poundlock.errors import (
    UnknownCodec as UnknownCodec,
)
from poundlock.errors import (
    WorkflowPaused as WorkflowPaused,
)
from poundlock.errors import (
    WouldDeadlock as WouldDeadlock,
)
from poundlock.marks import (
    DELETE as DELETE,
)
from poundlock.marks import (
    Overwrite as Overwrite,
)
from poundlock.model.conditions import (
    Condition as Condition,
)
from poundlock.model.conditions import (
    StateRef as StateRef,
)
from poundlock.model.definitions import (
    Advance as Advance,
)
from poundlock.model.definitions import (
    Batch as Batch,
)
from poundlock.model.definitions import (
    Children as Children,
)
from poundlock.model.definitions import (
    Debounce as Debounce,
)
from poundlock.model.definitions import (
    Delay as Delay,
)
from poundlock.model.definitions import (
    Fail as Fail,
)
from poundlock.model.definitions import (
    Jump as Jump,
)
from poundlock.model.definitions import (
    JumpTo as JumpTo,
)
from poundlock.model.definitions import (
    Pause as Pause,
)
from poundlock.model.definitions import (
    Pending as Pending,
)
from poundlock.model.definitions import (
    Pipeline as Pipeline,
)
from poundlock.model.definitions import (
    Retry as Retry,
)
from poundlock.model.definitions import (
    Service as Service,
)
from poundlock.model.definitions import (
    Stage as Stage,
)
from poundlock.model.definitions import (
    Step as Step,
)
from poundlock.model.definitions import (
    Terminate as Terminate,
)
from poundlock.model.definitions import (
    Throttle as Throttle,
)
from poundlock.model.definitions import (
    Trigger as Trigger,
)
from poundlock.model.definitions import (
    Wait as Wait,
)
from poundlock.model.definitions import (
    branch as branch,
)
from poundlock.model.definitions import (
    switch as switch,
)
from poundlock.model.events import (
    Event as Event,
)
from poundlock.model.lifecycle import (
    RunStatus as RunStatus,
)
from poundlock.model.modes import (
    Exclusive as Exclusive,
)
from poundlock.model.modes import (
    Serialized as Serialized,
)
from poundlock.model.modes import (
    SingletonLoop as SingletonLoop,
)
from poundlock.model.modes import (
    Transient as Transient,
)
from poundlock.model.receipts import (
    ReceiptLine as ReceiptLine,
)
from poundlock.model.receipts import (
    Verdict as Verdict,
)
from poundlock.model.retention import (
    Retention as Retention,
)
from poundlock.model.runs import (
    Failure as Failure,
)
from poundlock.model.runs import (
    RunInfo as RunInfo,
)
from poundlock.model.runs import (
    RunResult as RunResult,
)
from poundlock.model.tasks import (
    Task as Task,
)
from poundlock.model.timeline import (
    Timeline as Timeline,
)
from poundlock.pipeline.builder import (
    Workflow as Workflow,
)
from poundlock.pipeline.context import (
    StepContext as StepContext,
)
from poundlock.pipeline.durable_steps import (
    Operation as Operation,
)
from poundlock.pipeline.durable_steps import (
    Steps as Steps,
)
from poundlock.pipeline.flows import (
    flow as flow,
)
from poundlock.pipeline.functions.workflow import (
    FunctionWorkflow as FunctionWorkflow,
)
from poundlock.pipeline.functions.workflow import (
    workflow as workflow,
)
from poundlock.ports import (
    Page as Page,
)
from poundlock.runtime.receipts import (
    Receipt as Receipt,
)
from poundlock.runtime.runtime import (
    WorkflowRuntime as WorkflowRuntime,
)
from poundlock.sensitive import (
    Sensitive as Sensitive,
)
from poundlock.services.env import (
    EnvService as EnvService,
)
from poundlock.services.pause import (
    PauseService as PauseService,
)

__version__: str

__all__ = [
    "DELETE",
    "Advance",
    "AlreadyRegistered",
    "AnswerInvalid",
    "ArtifactCycle",
    "ArtifactNotFound",
    "ArtifactTimeout",
    "Batch",
    "ChildFailed",
    "Children",
    "Condition",
    "ContainerDisposed",
    "Contended",
    "Debounce",
    "DefinitionChanged",
    "Delay",
    "DuplicateKey",
    "EmitLoop",
    "EnvService",
    "Event",
    "Exclusive",
    "Fail",
    "Failure",
    "FunctionWorkflow",
    "IdempotencyConflict",
    "InvalidDefinition",
    "InvalidEvent",
    "Jump",
    "JumpTo",
    "LeaseLost",
    "NonRetryable",
    "NotMendable",
    "NotPaused",
    "NotRegistered",
    "NotStorable",
    "Operation",
    "OutputMissing",
    "Overwrite",
    "Page",
    "Pause",
    "PauseService",
    "Pending",
    "Pipeline",
    "PoundlockError",
    "ProcessLost",
    "Receipt",
    "ReceiptLine",
    "ReplayDivergence",
    "Retention",
    "Retry",
    "RetryAfter",
    "RunAborted",
    "RunExists",
    "RunFinished",
    "RunInfo",
    "RunNotFinished",
    "RunNotFound",
    "RunResult",
    "RunStatus",
    "RunTimeout",
    "ScopeViolation",
    "Sensitive",
    "Serialized",
    "Service",
    "SingletonLoop",
    "Stage",
    "StageGone",
    "StaleResume",
    "StaleVersion",
    "StateInvalid",
    "StateRef",
    "Step",
    "StepContext",
    "StepError",
    "StepTimeout",
    "Steps",
    "StoreCorrupt",
    "StoreFull",
    "StoreTooNew",
    "StoreUnavailable",
    "Task",
    "Terminate",
    "Throttle",
    "Timeline",
    "Transient",
    "Trigger",
    "UnknownCodec",
    "Use",
    "Verdict",
    "Wait",
    "Workflow",
    "WorkflowPaused",
    "WorkflowRuntime",
    "WouldDeadlock",
    "branch",
    "flow",
    "switch",
    "workflow",
]
