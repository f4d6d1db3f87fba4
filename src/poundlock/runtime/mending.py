"""How an attempt of a run that was mended begins: its state, judged where its workflow is known, and its waits.

Used by the commands that mend a run, and where such a run is driven. An attempt that has not begun has a row of its
waits that says so, which survives a crash: `on_prepare` is called then.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock.codecs import dump
from poundlock.errors import NotRegistered, NotStorable, StateInvalid, suggest
from poundlock.guard import name_of
from poundlock.model.calls import sums_of
from poundlock.model.deadlines import Kept, keeping
from poundlock.model.patches import merge
from poundlock.model.runs import (
    CALLS_WAIT,
    DEFINITION_WAIT,
    MENDED_WAIT,
    Checkpoint,
    RunRecord,
    WaitRow,
    own_row,
)
from poundlock.pipeline.changing import FAIL, PINNED, has_changed, migrate, other_definition
from poundlock.pipeline.inbox import apply, settled
from poundlock.pipeline.journal import Journal
from poundlock.pipeline.states import written
from poundlock.pipeline.waits import rearm
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered
from poundlock.runtime.runs import restored_run


class Beginning:
    """The position at which an attempt begins, as it is going to be stored.

    Attributes:
        stage: id of the stage.
        state: the state, before the patch of the caller.
        waits: rows that the run has then, without the declared waits.
        journal: entries in front of those that the state leads to.
    """

    def __init__(self, stage: str, state: dict[str, Any], waits: tuple[WaitRow, ...], journal: Journal) -> None:
        self.stage = stage
        self.state = state
        self.waits = waits
        self.journal = journal


def taken(patch: Any) -> Any:
    """Return a copy of a patch that its caller cannot change, as far as it is data without the state's model.

    Raises:
        StateInvalid: it is not a mapping.
    """
    if not isinstance(patch, Mapping):
        raise StateInvalid(f"a patch is a mapping, not a {name_of(type(patch))}", path="patch")
    try:
        return written(None, patch, {}, "patch").patch
    except NotStorable:
        return dict(patch)  # fields of a model may know how to encode its values; else it is refused later


def known_entry(core: Core, workflow_id: str, *, elsewhere: bool) -> Registered | None:
    """Return the workflow of a run; None if it is not registered here, and another runtime may judge the run.

    Raises:
        NotRegistered: it is not, or is being deregistered.
    """
    entry = core.entries.get(workflow_id)
    if entry is not None and not entry.closing:
        return entry
    if elsewhere:
        return None
    known = [name for name, found in core.entries.items() if not found.closing]
    raise NotRegistered(
        f"workflow '{workflow_id}' is not registered here, so its run cannot be judged: register it first "
        f"({suggest(workflow_id, known)})",
        workflow_id=workflow_id,
    )


def rows_of_attempt(record: RunRecord, now: float, definition: str | None) -> tuple[WaitRow, ...]:
    """Return the rows of a run whose new attempt begins now: its deadline starts anew, its sums of calls go on."""
    epoch = record.head.version + 1
    waits: list[WaitRow] = [mended_row(epoch)]
    if (sums := sums_of(record)) is not None:
        waits.append(own_row(CALLS_WAIT, epoch=epoch, on_timeout="resume", patch=sums))
    if definition is not None and definition != record.identity.definition_hash:
        waits.append(definition_row(epoch, definition))
    return keeping(waits, Kept(began=now), epoch)


def mended_row(epoch: int) -> WaitRow:
    """Return the row that says that an attempt has not begun."""
    return own_row(MENDED_WAIT, epoch=epoch, on_timeout="resume", patch={})


def definition_row(epoch: int, definition: str) -> WaitRow:
    """Return the row that says which definition the state was migrated for."""
    return own_row(DEFINITION_WAIT, epoch=epoch, on_timeout="resume", patch={"hash": definition})


def judged(
    core: Core, checkpoint: Checkpoint, beginning: Beginning, entry: Registered | None, given: Any
) -> tuple[WaitRow, ...]:
    """Note the state that an attempt begins with, with the caller's patch, and return the waits it begins with.

    Raises:
        StateInvalid, NotStorable: it does not fit. DefinitionChanged: the run has to stay under its own definition.
    """
    identity, head, _ = checkpoint.record
    journal = beginning.journal
    if entry is None:
        if given is not None:
            patch, text = written(None, given, {}, "patch")
            journal.add(core.clock.now(), "state", "state:patch", dump(identity.pipeline_id), "null", text)
            beginning.state = merge(beginning.state, patch)
        return beginning.waits
    as_begun = RunRecord(identity, head, beginning.waits)
    begun = checkpoint._replace(record=as_begun, state=beginning.state, inbox=())
    run = restored_run(core, entry, begun)
    run.stage = beginning.stage
    if has_changed(run):
        if run.plan.on_change in (FAIL, PINNED):
            raise other_definition(run)
        error = migrate(run)
        if error is not None:
            raise StateInvalid(f"the state of run '{identity.run_id}' cannot be migrated: {error}", path="migrate")
    path = run.plan.path_json
    if given is not None:
        apply(run, written(run.plan.state_model, given, run.state, "patch"), path)
    else:
        run.state = settled(run, run.state, path)
    rearm(run)
    journal.parts += run.journal.parts
    beginning.state = run.state
    return run.waits
