"""Print the error catalogue, `docs/reference/errors.md`: `error_catalogue.py > docs/reference/errors.md`.

Codes and meanings come from the classes; the advice for each is in this file. A test compares the page with the output,
and fails for a class without advice.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import poundlock.cli.options
import poundlock.errors
from poundlock.errors import PoundlockError

HEAD = """\
# Errors

Every error that Poundlock raises on purpose is a `poundlock.PoundlockError`. It has

- `code`: stable, never used for another cause; what programs match on,
- `message`: one sentence that ends with what to do next,
- `path`: the field at fault inside a definition, event, patch or state, or None,
- `fields`: the ids and names in the message,
- `to_dict()`: all four as plain data.

An operation that raises one has changed nothing: no row was written, no slot taken, no state merged. `wait` and
`results` raise the built-in `TimeoutError`, which changes nothing either.

The error of a failed run is data, not an exception: `result.error` has `type`, `message`, `code`, `stage`, `step` and
`traceback`, and its `code` is one of these or None where a step raised an exception of its own.

This page is printed by `scripts/error_catalogue.py`. Classes in bold can be imported from `poundlock` itself, the
others from `poundlock.errors`.
"""

GROUPS = {
    "Definitions": {
        "DuplicateKey": "Choose another id. `__env__` and `__pause_service__` are reserved.",
        "AlreadyRegistered": "Deregister the other first, or give this one its own id.",
        "NotRegistered": "Look at the near matches in the message; register the workflow before using it.",
        "InvalidDefinition": "Read `faults`: all of them are listed, each with its path. Nothing was registered.",
        "EnvMissing": "Set the variables named, or pass them with `env=`.",
    },
    "Runs": {
        "RunNotFound": "Check the id and the store: a run in memory ends with its process.",
        "NotPaused": "Wait until the run pauses, or send it a signal. If several resumed at once, another one won.",
        "WorkflowPaused": "Unpause the workflow, or call again once somebody has.",
        "StaleResume": "Read the run again: it now waits for something else.",
        "RunFinished": "Retry, rerun or fork it if there is more to do, or start a new one.",
        "RunNotFinished": "Wait for its end, resume or abort it; or fork it, which needs no end.",
        "NotMendable": "Read the message: it names the stages that are possible, or the run to retry instead.",
        "RunExists": 'Use another `run_id`, `conflict="use_existing"` to get that run\'s result, or '
        '`conflict="terminate_existing"` to begin anew.',
        "IdempotencyConflict": "Give the new event or request its own id or key; one key belongs to one content.",
        "RunLost": "Start it again if that does no harm, or give the workflow another `durability`.",
        "RunAborted": "Nothing: the abort was requested. The message says by whom and why.",
        "WouldDeadlock": "Do not wait there: return first, and wait in `on_complete`, or outside of the run.",
        "StepFailed": "Read the message: it names the step, stage or router and what it returned or refused.",
        "StepError": "Catch it in the durable function, or mend what it calls. `type` and `message` say what failed.",
        "ReplayDivergence": "Register a function that fits the record: new operations get new keys. Or abort the run.",
        "OutputMissing": "Read what ran in the message, and near matches. Use `ctx.optional` where it may be missing.",
        "ChildFailed": "Read the child's own error: its run id is in `fields`. Mend it, or let the stage collect.",
        "StepTimeout": "Raise the `timeout` or make the step faster. A `def` step's thread runs on until it returns.",
        "ProcessLost": "See what ended the process: standard error, the system's log. `retry=` tries a new process.",
        "RunTimeout": "Raise the workflow's `timeout`, make the run faster, or let `on_timeout=` name a stage.",
        "StepOver": "End what the step has started before it returns; look at `ctx.cancelled` in long work.",
        "NonRetryable": "Nothing: the step said that no further attempt is worth it. Its message says why.",
        "RetryAfter": "The step asked for another attempt and had none left: give its `retry=` more attempts.",
        "WaitExpired": 'Give the wait more time, or an `on_timeout` other than "fail".',
        "VisitLimit": "End the loop in its router, or raise the workflow's `visit_limit`.",
        "StageGone": "Restore the stage or pipeline that the run goes on at and register again, or abort the run.",
        "DefinitionChanged": "Register the definition that the run began under, abort the run, or change `on_change`.",
    },
    "Services": {
        "ArtifactNotFound": "Register the service; the message names near matches.",
        "ArtifactCycle": "Break the cycle that the message shows.",
        "ArtifactTimeout": "Increase the template's timeout, or find out what the factory waits for.",
        "ArtifactFailed": "See `__cause__` for the error of the factory. The next request builds it again.",
        "ArtifactInvalid": "Read the message: it names the template and the fault.",
        "ScopeViolation": "Give the requested service a longer scope, or the requester a shorter one.",
        "ContainerDisposed": "Make the request earlier, or use a container that is still open.",
        "BundleDamaged": "Export the bundle again, or open it with the version that wrote it.",
    },
    "Data and events": {
        "StateInvalid": "Correct the field that `path` names, or the state's model.",
        "NotStorable": "Convert the value at `path` to plain data, or name its type: `poundlock.codecs.register_type`.",
        "AnswerInvalid": "Correct the field that `path` names: `WaitInfo.form` says what the wait asks for.",
        "InvalidEvent": "Correct the field that `path` names.",
        "DeadLetterNotFound": "List the dead letters again: somebody has replayed it.",
        "EmitLoop": "Break the loop of publishing handlers that `chain` names.",
        "UnknownCodec": "Open the store with the Poundlock version that wrote it.",
    },
    "Stores": {
        "Contended": "Emit the event again. Nothing was decided, so nothing can happen twice.",
        "StoreFull": "Make room, then `await runtime.recover()`: runs go on from their last commit. Nothing was lost.",
        "StoreUnavailable": "Check the path and its permissions, or stop the process that has the file open.",
        "StoreCorrupt": "Restore the file from a backup, or use another path.",
        "RunDamaged": "Restore the store from a backup, or end the run with `abort`. Other runs are not concerned.",
        "StoreTooNew": "Upgrade Poundlock, or use another path.",
    },
    "Between a runtime and its store": {
        "StaleVersion": "Internal: the runtime reads again and repeats. Raised by stores.",
        "LeaseLost": "Internal: the run belongs to another owner; this one stops driving it. Raised by stores.",
        "Refused": "Internal: the root of the six below. Raised by stores.",
        "InboxAhead": "Internal: the run reads the messages and concludes the stage again. Raised by stores.",
        "LoadMoved": "Internal: the decision is made again on the new load. Raised by stores.",
        "WaitMoved": "Internal: the event is matched again. Raised by stores.",
        "HoldMoved": "Internal: the decision is made again on the new hold. Raised by stores.",
        "OutboxMoved": "Internal: the row is read again. Raised by stores.",
        "ScheduleMoved": "Internal: the row is read again. Raised by stores.",
        "KeysTaken": "Internal: becomes a `duplicate` line, or IdempotencyConflict. Raised by stores.",
    },
    "Runtime and command line": {
        "RuntimeStopped": "Call `start` or use `async with`. After a stop, a new runtime continues the runs.",
        "WrongLoop": "Call the runtime on its own loop, or use `asyncio.run_coroutine_threadsafe`.",
        "HookTimeout": "Make it faster, or increase `hook_timeout`. `on_prepare` and stage services fail their run.",
        "FeedInvalid": "Correct the app or the feed that the message names.",
        "UsageFault": "Call the command as the message says; nothing was done.",
    },
}


def classes() -> Iterator[type[PoundlockError]]:
    """Yield every error class of the package but the root, in order of definition."""
    for module in (poundlock.errors, poundlock.cli.options):
        for value in vars(module).values():
            if not inspect.isclass(value) or value.__module__ != module.__name__:
                continue
            if issubclass(value, PoundlockError) and value is not PoundlockError:
                yield value


def page() -> str:
    """Return the page.

    Raises:
        LookupError: a class has no advice here, or advice has no class.
    """
    known = {kind.__name__: kind for kind in classes()}
    advised = {name for group in GROUPS.values() for name in group}
    if known.keys() != advised:
        raise LookupError(f"classes and advice differ in {sorted(known.keys() ^ advised)}: see GROUPS")
    parts = [HEAD]
    for title, advice in GROUPS.items():
        parts.append(f"\n## {title}\n\n| code | class | meaning | what to do |\n|---|---|---|---|\n")
        for name, action in advice.items():
            shown = f"**{name}**" if name in poundlock.__all__ else name
            meaning = " ".join((inspect.getdoc(known[name]) or "").split("\n\n")[0].split())
            parts.append(f"| `{known[name].code}` | {shown} | {meaning} | {action} |\n")
    return "".join(parts)


if __name__ == "__main__":
    print(page(), end="")
