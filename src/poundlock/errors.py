"""Every error Poundlock raises on purpose.

House rules of this file:

1. One root, one class per cause. `code` is stable and never reused; programs match on it.
2. An error has fields (ids, paths, near matches) and builds its message from them. The message ends with the next
   action: what the reader can do now.
3. An operation that raises one of these has changed nothing: no row written, no slot taken, no state merged.

This file imports only the standard library, so that every package may raise these errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class PoundlockError(Exception):
    """Root of all errors raised on purpose.

    Attributes:
        code: stable identifier of the cause, in capitals.
        fields: the values in the message (ids, names, near matches), JSON-like.
        path: dotted path of the field at fault inside a definition, event, patch or state; None where there is none.
    """

    code: ClassVar[str] = "POUNDLOCK"

    def __init__(self, message: str, *, path: str | None = None, **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.fields = fields

    def to_dict(self) -> dict[str, Any]:
        """Return code, message, path and fields as plain data, for the CLI, the API and the timeline."""
        return {"code": self.code, "message": self.message, "path": self.path, "fields": self.fields}

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), self.message, self.path, self.fields)


def _rebuild(kind: type[PoundlockError], message: str, path: str | None, fields: dict[str, Any]) -> PoundlockError:
    return kind(message, path=path, **fields)


# ----------------------------------------------------------------------------------------------- definitions
class DuplicateKey(PoundlockError):
    """An id is used already, or is reserved for Poundlock itself."""

    code = "DUPLICATE_KEY"


class AlreadyRegistered(PoundlockError):
    """A workflow of this id is registered in this runtime."""

    code = "ALREADY_REGISTERED"


class NotRegistered(PoundlockError):
    """No workflow, trigger, pipeline or stage of this id is registered here."""

    code = "NOT_REGISTERED"


class InvalidDefinition(PoundlockError):
    """A workflow definition has faults; `faults` lists all of them, each with its path."""

    code = "INVALID_DEFINITION"

    def __init__(
        self, message: str, *, path: str | None = None, faults: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> None:
        super().__init__(message, path=path, **fields)
        self.faults = tuple(faults)
        if self.faults:
            self.fields["faults"] = [list(fault) for fault in self.faults]

    def __reduce__(self) -> Any:
        fields = {**self.fields, "faults": self.faults}
        return _rebuild, (type(self), self.message, self.path, fields)


# ------------------------------------------------------------------------------------------------------ runs
class RunNotFound(PoundlockError):
    """No run of this id is in the store."""

    code = "RUN_NOT_FOUND"


class DeadLetterNotFound(PoundlockError):
    """No dead letter of this id is in the store: it was replayed already, or never existed."""

    code = "DEAD_LETTER_NOT_FOUND"


class NotPaused(PoundlockError):
    """The run is not waiting for anything, so it cannot be resumed."""

    code = "NOT_PAUSED"


class WorkflowPaused(PoundlockError):
    """The workflow is paused by an operator and rejects what would start a run of it; nothing was created."""

    code = "WORKFLOW_PAUSED"


class StaleResume(PoundlockError):
    """The wait that this resume names is already over."""

    code = "STALE_RESUME"


class RunFinished(PoundlockError):
    """The run has ended; nothing can be sent to it any more."""

    code = "RUN_FINISHED"


class RunNotFinished(PoundlockError):
    """The run has not ended yet, so there is nothing to retry or to rerun."""

    code = "RUN_NOT_FINISHED"


class NotMendable(PoundlockError):
    """The run cannot be retried, rerun or forked in this way; the message says which way there is."""

    code = "NOT_MENDABLE"


class RunExists(PoundlockError):
    """A run of this id exists already."""

    code = "RUN_EXISTS"


class IdempotencyConflict(PoundlockError):
    """The same key was used before with other content."""

    code = "IDEMPOTENCY_CONFLICT"


class RunLost(PoundlockError):
    """The process ended while the run was under way, and its workflow's durability is "none"."""

    code = "RUN_LOST"


class RunAborted(PoundlockError):
    """The run was aborted; the message says by whom and why."""

    code = "RUN_ABORTED"


class StepFailed(PoundlockError):
    """A step, stage or router of a run failed without raising an error of its own."""

    code = "STEP_FAILED"


class StepError(StepFailed):
    """What a durable function called has failed. The same error is raised each time the function is called again.

    Attributes:
        type: name of the class of the error that was raised.
        message: what it said.
        error_code: its code, if it was a PoundlockError; else None.
        path: key of the operation.
    """

    code = "STEP_ERROR"

    def __init__(
        self,
        message: str,
        *,
        type: str = "Exception",
        error_code: str | None = None,
        path: str | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(message, path=path, type=type, error_code=error_code, **fields)
        self.type = type
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class ReplayDivergence(PoundlockError):
    """A durable function asks for another operation than it has on record under that key. Its run is paused."""

    code = "REPLAY_DIVERGENCE"


class OutputMissing(PoundlockError):
    """A step asks for the output of a stage that has none: it has not run yet, or its pipeline has no such stage."""

    code = "OUTPUT_MISSING"


class StepTimeout(PoundlockError):
    """A step attempt or a stage took longer than its timeout."""

    code = "STEP_TIMEOUT"


class ProcessLost(PoundlockError):
    """The process that ran a step ended before the step did; the message has its exit code or signal."""

    code = "PROCESS_LOST"


class RunTimeout(PoundlockError):
    """A run took longer than the timeout of its workflow."""

    code = "RUN_TIMEOUT"


class StepOver(PoundlockError):
    """The step's attempt has ended, so its context takes nothing more."""

    code = "STEP_OVER"


class NonRetryable(PoundlockError):
    """Raised by a step: no further attempt is made, whatever its `retry=` says."""

    code = "NON_RETRYABLE"

    def __init__(
        self, message: str = "it is not worth another attempt", *, path: str | None = None, **fields: Any
    ) -> None:
        super().__init__(message, path=path, **fields)


class RetryAfter(PoundlockError):
    """Raised by a step with `retry=`: the next attempt is made after this delay, instead of the one of its Retry.

    It counts as one of the attempts, and is worth another one whatever `on` and `not_on` say.

    Args:
        delay: a duration: seconds, a timedelta, or text such as "2m".
        message: why, for people; it is the failure's if no attempt is left.
        attempts: in durable functions: all attempts together, the first included, in place of the Retry's.
    """

    code = "RETRY_AFTER"

    def __init__(self, delay: Any, message: str = "", *, path: str | None = None, **fields: Any) -> None:
        self.delay = delay
        super().__init__(message or f"another attempt was asked for, after {delay}", path=path, **fields)

    def __reduce__(self) -> Any:
        return _rebuild_delayed, (type(self), self.delay, self.message, self.path, self.fields)


def _rebuild_delayed(
    kind: type[RetryAfter], delay: Any, message: str, path: str | None, fields: dict[str, Any]
) -> RetryAfter:
    return kind(delay, message, path=path, **fields)


class WaitExpired(PoundlockError):
    """A wait's timeout passed before a matching event came."""

    code = "WAIT_EXPIRED"


class VisitLimit(PoundlockError):
    """A stage was entered more often than the visit limit allows, without a pause or delay: likely an endless loop."""

    code = "VISIT_LIMIT"


class ChildFailed(PoundlockError):
    """A run that a stage waited for, a child, failed or was aborted; or too few of them were completed."""

    code = "CHILD_FAILED"


class StageGone(PoundlockError):
    """A run is at a stage that its workflow no longer has."""

    code = "STAGE_GONE"


class DefinitionChanged(PoundlockError):
    """A run belongs to another definition of its workflow, which lets it go on under its own only."""

    code = "DEFINITION_CHANGED"


# ------------------------------------------------------------------------------------------------- artifacts
class ArtifactNotFound(PoundlockError):
    """No artifact of this key is registered in the container or its parents."""

    code = "ARTIFACT_NOT_FOUND"


class ArtifactCycle(PoundlockError):
    """Artifacts need each other in a cycle; the message shows the path."""

    code = "ARTIFACT_CYCLE"


class ArtifactTimeout(PoundlockError):
    """Building an artifact took longer than its timeout."""

    code = "ARTIFACT_TIMEOUT"


class ArtifactFailed(PoundlockError):
    """A factory raised an error, which is the `__cause__`."""

    code = "ARTIFACT_FAILED"


class ArtifactInvalid(PoundlockError):
    """A factory built something its template does not allow, or an artifact cannot be used in the requested way."""

    code = "ARTIFACT_INVALID"


class ScopeViolation(PoundlockError):
    """An artifact requested one of a shorter scope."""

    code = "SCOPE_VIOLATION"


class ContainerDisposed(PoundlockError):
    """The container is disposed and builds no more artifacts."""

    code = "CONTAINER_DISPOSED"


class BundleDamaged(PoundlockError):
    """An exported bundle of artifacts is damaged or of a version this code cannot read."""

    code = "BUNDLE_DAMAGED"


# ------------------------------------------------------------------------------------------- data and events
class StateInvalid(PoundlockError):
    """A patch or state does not match the state's model, or has a key that the model lacks; `path` is the field."""

    code = "STATE_INVALID"


class NotStorable(PoundlockError):
    """A value cannot be written as data, or would not be read back equal; `path` is its place."""

    code = "NOT_STORABLE"


class AnswerInvalid(PoundlockError):
    """An answer by hand does not fit the form of the wait; `path` is the field."""

    code = "ANSWER_INVALID"


class InvalidEvent(PoundlockError):
    """A value is not a valid event; `path` is the field."""

    code = "INVALID_EVENT"


class EmitLoop(PoundlockError):
    """Handlers publish events whose handlers publish events ... deeper than allowed; `chain` names the types."""

    code = "EMIT_LOOP"


class UnknownCodec(PoundlockError):
    """A record was written by a codec this process does not know."""

    code = "UNKNOWN_CODEC"


# ---------------------------------------------------------------------------------------------------- stores
class StaleVersion(PoundlockError):
    """The record has changed since it was read."""

    code = "STALE_VERSION"


class LeaseLost(PoundlockError):
    """The run has another owner now; changes of the previous owner are refused."""

    code = "LEASE_LOST"


class Refused(PoundlockError):
    """A condition of a commit does not hold any more. Internal: the caller reads again and decides again.

    A store answers the runtime with its subclasses, so their fields are typed; users of the runtime do not see them.
    """

    code = "REFUSED"


class InboxAhead(Refused):
    """The run's inbox holds messages that its owner has not read, so the run may not stop yet."""

    code = "INBOX_AHEAD"

    def __init__(self, message: str, *, run_id: str, inbox_seq: int, path: str | None = None) -> None:
        super().__init__(message, path=path, run_id=run_id, inbox_seq=inbox_seq)
        self.run_id = run_id
        self.inbox_seq = inbox_seq


class LoadMoved(Refused):
    """The load on which a decision was based has changed."""

    code = "LOAD_MOVED"

    def __init__(self, message: str, *, workflow_id: str, path: str | None = None) -> None:
        super().__init__(message, path=path, workflow_id=workflow_id)
        self.workflow_id = workflow_id


class WaitMoved(Refused):
    """A wait that an event was matched against has been armed again since."""

    code = "WAIT_MOVED"

    def __init__(self, message: str, *, run_id: str, path: str | None = None) -> None:
        super().__init__(message, path=path, run_id=run_id)
        self.run_id = run_id


class KeysTaken(Refused):
    """Keys that had to be absent are present; `taken` maps each to the value stored under it."""

    code = "KEYS_TAKEN"

    def __init__(self, message: str, *, taken: Mapping[str, Any], path: str | None = None) -> None:
        super().__init__(message, path=path, taken=dict(taken))
        self.taken: Mapping[str, Any] = self.fields["taken"]


class HoldMoved(Refused):
    """What a trigger holds has changed since a decision was based on it."""

    code = "HOLD_MOVED"

    def __init__(self, message: str, *, workflow_id: str, path: str | None = None) -> None:
        super().__init__(message, path=path, workflow_id=workflow_id)
        self.workflow_id = workflow_id


class OutboxMoved(Refused):
    """A row of the outbox has changed since it was read, or is gone: another delivery was quicker."""

    code = "OUTBOX_MOVED"


class ScheduleMoved(Refused):
    """The row of a time trigger has changed since it was read: another process was quicker."""

    code = "SCHEDULE_MOVED"


class WouldDeadlock(PoundlockError):
    """A step or hook waits for a run that cannot continue before the step's own run has ended."""

    code = "WOULD_DEADLOCK"


class Contended(PoundlockError):
    """Too many concurrent decisions on the same workflow and key; nothing was decided."""

    code = "CONTENDED"


class StoreFull(PoundlockError):
    """The disk or the quota behind the store is full; nothing was written."""

    code = "STORE_FULL"


class StoreUnavailable(PoundlockError):
    """The store cannot be opened or reached, or is in use by another process."""

    code = "STORE_UNAVAILABLE"


class StoreCorrupt(PoundlockError):
    """The store's file is damaged or is not a Poundlock store."""

    code = "STORE_CORRUPT"


class RunDamaged(PoundlockError):
    """What is stored of a run is damaged; `seq` is the first entry of its log that cannot be read, if it is the log."""

    code = "RUN_DAMAGED"

    def __init__(self, message: str, *, run_id: str, seq: int | None = None, path: str | None = None) -> None:
        super().__init__(message, path=path, run_id=run_id, seq=seq)
        self.run_id = run_id
        self.seq = seq


class StoreTooNew(PoundlockError):
    """The store was written by a newer Poundlock than this one."""

    code = "STORE_TOO_NEW"


# --------------------------------------------------------------------------------------------------- runtime
class RuntimeStopped(PoundlockError):
    """The runtime is not started, or was stopped."""

    code = "RUNTIME_STOPPED"


class WrongLoop(PoundlockError):
    """A runtime was called from another event loop or thread than the one it was started on."""

    code = "WRONG_LOOP"


class HookTimeout(PoundlockError):
    """A hook or clean-up took longer than its limit, and was cancelled."""

    code = "HOOK_TIMEOUT"


class EnvMissing(PoundlockError):
    """A workflow requires environment variables that are not set; all of them are named."""

    code = "ENV_MISSING"


class FeedInvalid(PoundlockError):
    """A feed of events, or the app that should handle it, cannot be read."""

    code = "FEED_INVALID"


def suggest(unknown: object, known: list[str] | tuple[str, ...]) -> str:
    """Return a clause that names near matches of `unknown` in `known`, or lists what exists.

    Only text has near matches.
    Similarity is difflib's ratio (Ratcliff/Obershelp) with its default cutoff of 0.6.
    """
    if not known:
        return "nothing is registered yet"
    import difflib

    near = difflib.get_close_matches(unknown, known, n=3) if isinstance(unknown, str) else []
    if near:
        return "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    shown = ", ".join(f"'{name}'" for name in sorted(known)[:10])
    return f"known: {shown}" + (" ..." if len(known) > 10 else "")
