"""Hooks at the end of a run are pending from the commit of that end until they were called, also across a crash.

House rules: the end notes them in its own commit (`Changes.hooks`), so no crash leaves an end without its hooks. That
they were called is noted after the last one, without a commit to wait for: a crash in between has them called again,
and `on_complete` is told so by `metadata["replayed"]`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

from poundlock.errors import PoundlockError
from poundlock.model.changes import Changes, RunCreate, RunMove
from poundlock.model.runs import RunIdentity
from poundlock.runtime.core import Core
from poundlock.runtime.entries import Registered
from poundlock.runtime.healing import patiently
from poundlock.runtime.hooks import BoundHooks


def at_end(hooks: BoundHooks) -> bool:
    """Whether a workflow has hooks that are called when a run has ended."""
    return hooks.on_complete is not None or hooks.on_cleanup is not None


def has_pending(core: Core, workflow_id: str) -> bool:
    """Whether hooks are pending from the end of a run of this workflow on; one that is not known here may have some."""
    entry = core.entries.get(workflow_id)
    return entry is None or at_end(entry.hooks)


def pending_of(core: Core, identity: RunIdentity) -> tuple[str, ...]:
    """Return what `Changes.hooks` of the end of this run says."""
    return (identity.run_id,) if has_pending(core, identity.workflow_id) else ()


def with_pending(work: RunMove | RunCreate, pending: tuple[str, ...]) -> RunMove | RunCreate | Changes:
    """Return the end of a run as the unit of work that also notes its pending hooks, if it has any."""
    if not pending:
        return work
    if isinstance(work, RunCreate):
        return Changes(creates=(work,), hooks=pending, now=work.start.updated_at)
    return Changes(moves=(work,), hooks=pending, now=work.updated_at)


@contextmanager
def ending(core: Core, pending: tuple[str, ...]) -> Iterator[None]:
    """Commit the end of runs inside of this: their hooks are called here then, whoever reads what is pending."""
    core.hooks_running.update(pending)
    try:
        yield
    except BaseException:
        core.hooks_running.difference_update(pending)  # if they ended nevertheless, `begin` notes it again
        raise


def begin(core: Core, hooks: BoundHooks, run_id: str) -> bool:
    """Note that the hooks of a run that has ended are being called here; False if it has none."""
    if not at_end(hooks):
        core.hooks_running.discard(run_id)
        return False
    core.hooks_running.add(run_id)
    return True


async def end(core: Core, run_id: str, *, called: bool) -> None:
    """Note that all hooks of a run were called.

    If not `called`, because the runtime stops, they stay pending, and the next runtime calls them.
    """
    try:
        if called:
            with suppress(PoundlockError):  # then they are called once more, later
                await core.store.hooks_called([run_id])
    finally:
        core.hooks_running.discard(run_id)
        for seen in core.hooks_seen:
            seen.add(run_id)


async def uncalled(core: Core, entry: Registered) -> list[str]:
    """Return the ended runs of a workflow whose hooks are pending and not being called, in the order of the ends."""

    async def left() -> list[str]:
        # What is read may be older than what happens meanwhile: a run can end, and have its hooks called, during it.
        seen = set(core.hooks_running)
        core.hooks_seen.append(seen)
        try:
            found = await core.store.pending_hooks(entry.id)
        finally:
            core.hooks_seen[:] = [other for other in core.hooks_seen if other is not seen]
        # The others have just ended, and are being called: that may be over when it would be their turn here.
        return [run_id for run_id in found if run_id not in seen and run_id not in core.hooks_running]

    return await patiently(core, left, f"reading pending hooks of workflow '{entry.id}'")


async def call_all(core: Core, entry: Registered, call: Callable[[Core, Registered, str], Awaitable[None]]) -> None:
    """Call the pending hooks of a workflow's runs, one run after another, in the order of their ends.

    Args:
        core: of the runtime.
        entry: the workflow, just registered.
        call: calls the hooks of a run.
    """
    for run_id in await uncalled(core, entry):
        if entry.closing or core.ending:
            return  # they stay pending
        if run_id not in core.hooks_running:
            await call(core, entry, run_id)
