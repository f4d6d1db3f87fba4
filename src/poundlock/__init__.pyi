from poundlock.artifacts import (
    Use as Use,
)
from poundlock.codecs import (
    DELETE as DELETE,
)
from poundlock.errors import (
    AlreadyRegistered as AlreadyRegistered,
    ArtifactCycle as ArtifactCycle,
    ArtifactNotFound as ArtifactNotFound,
    ArtifactTimeout as ArtifactTimeout,
    ContainerDisposed as ContainerDisposed,
    Contended as Contended,
    DuplicateKey as DuplicateKey,
    IdempotencyConflict as IdempotencyConflict,
    InvalidDefinition as InvalidDefinition,
    InvalidEvent as InvalidEvent,
    LeaseLost as LeaseLost,
    NotPaused as NotPaused,
    NotRegistered as NotRegistered,
    NotStorable as NotStorable,
    PoundlockError as PoundlockError,
    ReplayDivergence as ReplayDivergence,
    RunAborted as RunAborted,
    RunExists as RunExists,
    RunFinished as RunFinished,
    RunNotFound as RunNotFound,
    ScopeViolation as ScopeViolation,
    StaleResume as StaleResume,
    StaleVersion as StaleVersion,
    StateInvalid as StateInvalid,
    StepTimeout as StepTimeout,
    StoreCorrupt as StoreCorrupt,
    StoreFull as StoreFull,
    StoreTooNew as StoreTooNew,
    StoreUnavailable as StoreUnavailable,
    UnknownCodec as UnknownCodec,
)
from poundlock.model.conditions import (
    Condition as Condition,
    StateRef as StateRef,
)
from poundlock.model.definitions import (
    Advance as Advance,
    Delay as Delay,
    Fail as Fail,
    Jump as Jump,
    Pause as Pause,
    Pipeline as Pipeline,
    Retry as Retry,
    Service as Service,
    Stage as Stage,
    Step as Step,
    Terminate as Terminate,
    Trigger as Trigger,
    Wait as Wait,
)
from poundlock.model.events import (
    Event as Event,
)
from poundlock.model.lifecycle import (
    RunStatus as RunStatus,
)
from poundlock.model.modes import (
    Exclusive as Exclusive,
    Serialized as Serialized,
    SingletonLoop as SingletonLoop,
    Transient as Transient,
)
from poundlock.model.receipts import (
    ReceiptLine as ReceiptLine,
    Verdict as Verdict,
)
from poundlock.model.runs import (
    RunInfo as RunInfo,
    RunResult as RunResult,
)
from poundlock.pipeline.builder import (
    Workflow as Workflow,
)
from poundlock.pipeline.context import (
    StepContext as StepContext,
)
from poundlock.runtime.receipts import (
    Receipt as Receipt,
)
from poundlock.runtime.runtime import (
    WorkflowRuntime as WorkflowRuntime,
)

__version__: str

__all__ = [
    "Advance",
    "AlreadyRegistered",
    "ArtifactCycle",
    "ArtifactNotFound",
    "ArtifactTimeout",
    "Condition",
    "ContainerDisposed",
    "Contended",
    "DELETE",
    "Delay",
    "DuplicateKey",
    "Event",
    "Exclusive",
    "Fail",
    "IdempotencyConflict",
    "InvalidDefinition",
    "InvalidEvent",
    "Jump",
    "LeaseLost",
    "NotPaused",
    "NotRegistered",
    "NotStorable",
    "Pause",
    "Pipeline",
    "PoundlockError",
    "Receipt",
    "ReceiptLine",
    "ReplayDivergence",
    "Retry",
    "RunAborted",
    "RunExists",
    "RunFinished",
    "RunInfo",
    "RunNotFound",
    "RunResult",
    "RunStatus",
    "ScopeViolation",
    "Serialized",
    "Service",
    "SingletonLoop",
    "Stage",
    "StaleResume",
    "StaleVersion",
    "StateInvalid",
    "StateRef",
    "Step",
    "StepContext",
    "StepTimeout",
    "StoreCorrupt",
    "StoreFull",
    "StoreTooNew",
    "StoreUnavailable",
    "Terminate",
    "Transient",
    "Trigger",
    "UnknownCodec",
    "Use",
    "Verdict",
    "Wait",
    "Workflow",
    "WorkflowRuntime",
]
