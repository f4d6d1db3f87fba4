"""Concluding a stage: messages first, then the stage's patch, then its router, and the run stands somewhere new.

Everything proposed here is undone (`ActiveRun.restore`) and concluded again if the commit finds that messages came
meanwhile; so nothing in here may have an effect outside the run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from poundlock.codecs import detach, dump, pack
from poundlock.errors import NotRegistered, StateInvalid, StepFailed, WaitExpired, suggest
from poundlock.model.definitions import Advance, Delay, Fail, Instruction, Jump, Pause, Terminate
from poundlock.model.durations import seconds
from poundlock.model.events import Event
from poundlock.model.patches import clash, merge
from poundlock.model.runs import Message, RunError, WaitRow
from poundlock.pipeline.active import JUMPED, Position, Resume
from poundlock.pipeline.injection import first_fault
from poundlock.pipeline.outcome import Aborted, Completed, Delayed, Failed, Outcome, Paused
from poundlock.pipeline.steps import StageDone, StepDone, run_error
from poundlock.pipeline.waiting import first_match, leave, note, park, rearm, resume_with_event, stand_at

if TYPE_CHECKING:
    from poundlock.pipeline.active import ActiveRun
    from poundlock.pipeline.plan import StagePlan


async def conclude(run: ActiveRun, done: StageDone, before: Position) -> Outcome | None:
    """Conclude a performed stage; `before` is where the run stands. None: it stands at its next stage and goes on."""
    stage = done.stage
    absorbed: Position | None = None
    try:
        if run.inbox or run.backlog:
            absorb(run)
            if run.abort is not None:
                return aborted(run)
            before = run.position()
        if done.error is not None:
            return failed(run, done.error, stage.path_json)
        absorbed = before
        _apply_steps(run, done)
        instruction = None
        if stage.router is not None or len(done.steps) != 1 or done.steps[0].instruction is not None:
            instruction = await _route(run, done)
        if run.journal.full:
            run.journal.put(run.clock.now(), stage.success_entry)
        return follow(run, stage, instruction)
    except asyncio.CancelledError:
        if absorbed is not None:
            run.restore(absorbed, ())  # nor does one whose router was interrupted
        raise
    except Exception as error:  # noqa: BLE001 - routers and patch functions are user code; they fail the run
        if absorbed is not None:
            run.restore(absorbed, ())  # a failed stage leaves no patch behind
        return failed(run, run_error(error, stage.id, None), stage.path_json)


def may_cross(step: StepDone | RunError, run: ActiveRun) -> TypeGuard[StepDone]:
    """Whether nothing has to be decided behind a plain stage: its step gave a patch, and nobody said anything."""
    return type(step) is StepDone and step.text is not None and not (run.inbox or run.backlog or run.registered)


def cross(run: ActiveRun, stage: StagePlan, step: StepDone) -> None:
    """Conclude a plain stage the short way: what `conclude` comes to where `may_cross`."""
    plan, patch, text = step.step, step.patch or {}, step.text or "{}"
    # Flat patches are merged by a dict at once; what nests or deletes holds a second brace.
    run.state = merge(run.state, patch) if text.find("{", 1) > 0 else {**run.state, **patch}
    if run.journal.full:
        run.journal.put_patch(run.clock.now(), plan.patch_head, text, stage.success_entry)
    else:
        run.journal.put_patch(run.clock.now(), plan.patch_head, text)
    run.resume = None
    run.stage = stage.following
    if run.waits or run.plan.declared:
        rearm(run)


def absorb(run: ActiveRun) -> Mapping[str, Any] | None:
    """Take in the messages that came: signals change state, events are buffered, an abort request is noted.

    Returns:
        The answer somebody gave by hand to the wait the run stands at, if there is one.
    """
    answer = None
    if not run.inbox and not run.backlog:
        return None
    for message in run.unread():
        if message.kind == "event":
            run.buffer = (*run.buffer, message)
            _note_event(run, "wait:buffered", message)
        elif message.kind == "abort":
            run.abort = message.body
            run.consumed.append(message.seq)
        elif message.kind == "resume":
            answer = message.body
            run.consumed.append(message.seq)
        else:
            run.consumed.append(message.seq)
            if message.body is not None:
                _apply_signal(run, message.body)
    return answer


def _apply_signal(run: ActiveRun, patch: Mapping[str, Any]) -> None:
    """Merge what somebody outside sent; if it does not fit it is noted and left out, as it is not the run's fault."""
    text = dump(patch)
    try:
        _apply(run, patch, text, run.plan.path_json, "state:signal")
    except StateInvalid as error:
        payload = dump({"message": error.message, "code": error.code, "patch": patch})
        run.journal.add(run.clock.now(), "state", "state:refused", run.plan.path_json, payload)


def standing(run: ActiveRun, row: WaitRow) -> Outcome | None:
    """Decide for a run that stands at a wait: go on by hand, with what was buffered or because time is up, or stand."""
    try:
        answer = absorb(run)
        if run.abort is not None:
            return aborted(run)
        if answer is not None and _fits(run, row, answer["patch"]):
            note(run, "pipeline:resume", row, {"reason": "api"})
            leave(run, row)
            run.resume = Resume("api", row.wait_id)
            return _go_on(run, answer["patch"])
        message = first_match(run, row)
        if message is not None:
            return _go_on(run, resume_with_event(run, row, message))
        if row.expires_at is not None and run.clock.now() >= row.expires_at:
            return _expired(run, row)
        return Paused(row)
    except Exception as error:  # noqa: BLE001 - patch functions are user code; they fail the run
        return failed(run, run_error(error, None, None), run.plan.path_json)


def check_answer(run: ActiveRun, patch: Mapping[str, Any] | None) -> None:
    """Check the patch of an answer before it is given.

    Raises:
        StateInvalid: it does not fit the state's model; nothing was changed.
    """
    if patch:
        validate(run, merge(run.state, patch))


def _fits(run: ActiveRun, row: WaitRow, patch: Mapping[str, Any] | None) -> bool:
    """Whether an answer fits the state. One given where the workflow was unknown was not checked when it came."""
    try:
        check_answer(run, patch)
    except StateInvalid as error:
        note(run, "wait:refused", row, {"path": error.path, "message": error.message})
        return False
    return True


def follow(run: ActiveRun, stage: StagePlan, instruction: Instruction | None) -> Outcome | None:
    """Stand where an instruction says. None: at another stage, going on."""
    run.resume = None
    if instruction is None or type(instruction) is Advance:
        run.stage = stage.following
        # At the end it only matters whether what was announced could be armed.
        if run.stage is not None or run.registered:
            rearm(run)
        return None if run.stage is not None else complete(run, None)
    if type(instruction) is Jump:
        run.stage = target(run, instruction.stage)
        run.walk = JUMPED
        rearm(run)
        return None
    if type(instruction) is Terminate:
        return complete(run, instruction.result)
    if type(instruction) is Fail:
        error = RunError("Fail", instruction.reason, StepFailed.code, stage.id)
        return failed(run, error, stage.path_json)
    if type(instruction) is Delay:
        return _delay(run, stage, instruction)
    assert isinstance(instruction, Pause)  # noqa: S101 - the union is closed
    return _pause(run, stage, instruction)


def complete(run: ActiveRun, result: Any) -> Outcome:
    """End the run as completed."""
    decoded = None if result is None else pack(result)[0]
    run.stage = None
    if run.buffer or run.backlog or run.inbox:
        _expire_buffer(run)
    if run.journal.full:
        run.journal.put(run.clock.now(), run.plan.success_entry)
    return Completed(decoded)


def failed(run: ActiveRun, error: RunError, path_json: str) -> Outcome:
    """End the run as failed."""
    _expire_buffer(run)
    payload = dump({"type": error.type, "message": error.message, "code": error.code})
    run.journal.add(run.clock.now(), "pipeline", "stage:failure", path_json, payload)
    run.journal.add(run.clock.now(), "pipeline", "pipeline:failure", run.plan.path_json, payload)
    return Failed(error)


def aborted(run: ActiveRun) -> Outcome:
    """End the run because somebody asked for it."""
    request = run.abort or {}
    _expire_buffer(run)
    run.journal.add(run.clock.now(), "pipeline", "pipeline:abort", run.plan.path_json, dump(dict(request)))
    return Aborted(str(request.get("reason", "")), str(request.get("by", "")))


def target(run: ActiveRun, stage_id: str) -> str:
    """Return a stage id that exists.

    Raises:
        NotRegistered: the pipeline has no such stage; the message names near matches.
    """
    if stage_id not in run.plan.by_id:
        raise NotRegistered(
            f"pipeline '{run.plan.id}' has no stage '{stage_id}': {suggest(stage_id, list(run.plan.by_id))}",
            path=run.plan.id,
            stage=stage_id,
        )
    return stage_id


def validate(run: ActiveRun, state: dict[str, Any]) -> None:
    """Check a state against the workflow's model.

    Raises:
        StateInvalid: `path` is the field that does not fit.
    """
    model = run.plan.state_model
    if model is None:
        return
    from pydantic import ValidationError

    try:
        model.model_validate(state)
    except ValidationError as error:
        path = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise StateInvalid(f"the state does not fit {model.__name__}: {first_fault(error)}", path=path) from None


def _apply(run: ActiveRun, patch: Mapping[str, Any], text: str, path_json: str, kind: str = "state:patch") -> None:
    state = merge(run.state, patch)
    if run.plan.state_model is not None:
        validate(run, state)
    run.state = state
    run.journal.add(run.clock.now(), "state", kind, path_json, "null", text)


def _apply_steps(run: ActiveRun, done: StageDone) -> None:
    """Merge the steps' patches in definition order: all of them, or none if the result is not valid."""
    steps = done.steps
    if len(steps) > 1:
        _note_clashes(run, done)
    state = run.state
    for step in steps:
        if step.patch is not None and step.text is not None:
            state = merge(state, step.patch)
            run.journal.put_patch(run.clock.now(), step.step.patch_head, step.text)
    # Only what all of them come to has to be valid: a rule over two fields may need two steps to be met.
    if state is not run.state and run.plan.state_model is not None:
        validate(run, state)
    run.state = state


def _note_clashes(run: ActiveRun, done: StageDone) -> None:
    written: dict[str, Any] = {}
    for step in done.steps:
        if not step.patch:
            continue
        path = clash(written, step.patch)
        if path is not None:
            if done.stage.conflict_is_error:
                raise StepFailed(
                    f"two steps of stage '{done.stage.id}' wrote '{path}': let one write it, or use conflict='last'",
                    path=path,
                )
            payload = dump({"path": path, "winner": step.step.id})
            run.journal.add(run.clock.now(), "state", "state:conflict", done.stage.path_json, payload)
        written = merge(written, step.patch)


async def _route(run: ActiveRun, done: StageDone) -> Instruction | None:
    routed = [step.instruction for step in done.steps if step.instruction is not None]
    if len(routed) > 1:
        raise StepFailed(
            f"two steps of stage '{done.stage.id}' route the run: let one of them, or a router, decide",
            path=done.stage.path,
        )
    if routed:
        return routed[0]
    router = done.stage.router
    if router is None:
        return None
    instruction = await router(run, {step.step.id: detach(step.patch) for step in done.steps})
    if run.journal.full and not isinstance(instruction, Pause):
        payload = dump({"instruction": "Advance" if instruction is None else repr(instruction)[:200]})
        run.journal.add(run.clock.now(), "pipeline", "router:evaluated", done.stage.path_json, payload)
    return instruction


def _delay(run: ActiveRun, stage: StagePlan, delay: Delay) -> Outcome | None:
    if (delay.seconds is None) is (delay.until is None):
        raise StepFailed("a delay needs either seconds or until", path=stage.path)
    now = run.clock.now()
    until = now + seconds(delay.seconds) if delay.seconds is not None else float(delay.until or 0.0)
    run.stage = stage.following
    rearm(run)
    if run.stage is None:
        return complete(run, None)  # nothing comes after the delay, so there is nothing to wait for
    run.count_anew()
    run.journal.add(now, "pipeline", "pipeline:delay", stage.path_json, dump({"until": until}))
    return Delayed(until)


def _pause(run: ActiveRun, stage: StagePlan, pause: Pause) -> Outcome | None:
    if pause.resume_at is not None:
        target(run, pause.resume_at)
    row = park(run, stage, pause)
    rearm(run, pausing=True)
    note(run, "wait:registered", row, {"events": list(row.events), "correlate": dict(row.correlate)})
    stand_at(run, row)
    if first_match(run, row) is not None:
        return None  # committed as standing here, so that after a crash it goes on for the same reason
    note(run, "pipeline:pause", row, {"expires_at": row.expires_at})
    return Paused(row)


def _fold(run: ActiveRun, patch: Mapping[str, Any] | None) -> None:
    if patch:
        _apply(run, patch, dump(patch), run.plan.path_json)
    rearm(run)


def _go_on(run: ActiveRun, patch: Mapping[str, Any] | None) -> Outcome | None:
    run.count_anew()
    _fold(run, patch)
    if run.stage is not None:  # else there is nothing behind the wait: the runner completes the run
        target(run, run.stage)
    return None


def _expired(run: ActiveRun, row: WaitRow) -> Outcome | None:
    note(run, "wait:expired", row, {"on_timeout": row.on_timeout})
    if row.on_timeout == "fail":
        error = WaitExpired(f"nothing that matches the wait '{row.wait_id}' came in time", path=row.wait_id)
        return failed(run, run_error(error, None, None), run.plan.path_json)
    if row.on_timeout == "abort":
        run.abort = {"reason": f"wait '{row.wait_id}' expired", "by": "timeout"}
        return aborted(run)
    note(run, "pipeline:resume", row, {"reason": "timeout"})
    leave(run, row)
    run.resume = Resume("timeout", row.wait_id)
    if row.on_timeout != "resume":
        run.stage = row.on_timeout
    return _go_on(run, None)


def _expire_buffer(run: ActiveRun) -> None:
    """Record what was buffered and never used: it ends with the run."""
    # An abort does not wait for the next boundary: what came since the last one ends here as well.
    left = {message.seq: message for message in (*run.buffer, *run.backlog, *run.inbox)}
    for message in left.values():
        _note_event(run, "wait:expired", message)


def event_payload(event: Event) -> str:
    """Return how a timeline entry names an event."""
    return dump({"event": {"id": event.id, "type": event.type, "source": event.source}})


def _note_event(run: ActiveRun, kind: str, message: Message) -> None:
    if run.journal.full and message.event is not None:
        run.journal.add(run.clock.now(), "pipeline", kind, run.plan.path_json, event_payload(message.event.event))
