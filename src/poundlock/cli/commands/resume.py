"""`poundlock resume`: answer the wait that a run is paused at.

The token of the open question is read first and passed to `resume`, so that the answer never reaches another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import (
    AppOption,
    JsonOption,
    PatchOption,
    RunArgument,
    StoreOption,
    on_command_line,
    patch_of,
)

if TYPE_CHECKING:
    from poundlock.model.runs import RunRecord, RunResult
    from poundlock.runtime.runtime import WorkflowRuntime


def resume(
    context: typer.Context,
    run_id: RunArgument,
    store: StoreOption = None,
    patch: PatchOption = None,
    wait: Annotated[
        str | None,
        typer.Option(
            metavar="ID|TOKEN",
            help="The wait to answer, or the token of its question; default: the question that is open now.",
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="The event the answer stands for, where the wait's events lead apart."),
    ] = None,
    app: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume a paused run.

    With --app the run continues to its next pause or its end, in the store of the app's runtime if it has one. Without
    --app the run becomes `ready`, and continues when a runtime that has its workflow opens the store.
    """
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.cli.app_loading import runtime_of
        from poundlock.codecs import dump
        from poundlock.model.runs import error_shape, wait_shape

        merged = patch_of(patch)
        runtime = runtime_of(app, store, named=on_command_line(context, "store"))
        result = asyncio.run(_resume(runtime, run_id, merged, wait, event))
        if as_json:
            from poundlock.showing import plain_beside

            shape = {
                "run_id": result.run_id,
                "workflow_id": result.workflow_id,
                "status": str(result.status),
                "ok": result.ok,
                "result": plain_beside(result.result, result.state, result.masks),
                "error": error_shape(result.error),
                "waits": [wait_shape(waiting) for waiting in result.waits],
            }
            print(dump(shape))
            return
        _print_result(result)


def _print_result(result: RunResult) -> None:
    from rich.text import Text

    from poundlock.cli import show
    from poundlock.cli.terminal import console

    screen = console()
    line = show.run_line(result, result=result)
    if result.status == "ready":
        line.append(": it continues when a runtime that has its workflow opens the store")
    screen.print(line, soft_wrap=True)
    for waiting in result.waits:
        screen.print(Text("waits for ").append(show.wait_text(waiting)))


def _open_question(record: RunRecord) -> str | None:
    """Return what names the question that the run asks now; one of its children's has to be named by the user."""
    from poundlock.model.runs import CHILDREN_WAIT

    rows = [row for row in record.waits if row.parked]
    if not rows:
        return None
    return rows[0].wait_id if rows[0].wait_id == CHILDREN_WAIT else rows[0].token(record.identity.run_id)


async def _resume(
    runtime: WorkflowRuntime, run_id: str, patch: Mapping[str, Any] | None, wait: str | None, event: str | None
) -> RunResult:
    from poundlock.cli.reading import look_up

    record = await look_up(runtime.store, run_id)
    if record is not None:
        wait = wait or _open_question(record)
    async with runtime:
        return await runtime.resume(run_id, patch, wait=wait, event=event)
