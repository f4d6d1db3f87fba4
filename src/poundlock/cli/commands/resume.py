"""`poundlock resume`: answer the wait that a run is paused at.

The token of the open question is read first and passed to `resume`, so that the answer never reaches another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import AppOption, JsonOption, RunArgument, StoreOption, UsageFault, needed, on_command_line

if TYPE_CHECKING:
    from poundlock.cli.app_loading import App
    from poundlock.model.runs import RunRecord, RunResult
    from poundlock.runtime.runtime import WorkflowRuntime


def resume(
    context: typer.Context,
    run_id: RunArgument,
    store: StoreOption = None,
    patch: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON object that is merged into the run's state.")
    ] = None,
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

        from poundlock.cli.app_loading import load_app
        from poundlock.codecs import dump
        from poundlock.model.runs import error_shape, wait_shape

        merged = None if patch is None else json_object(patch)
        loaded = None if app is None else load_app(app)
        if loaded is None or loaded.runtime is None:
            store = needed(store)
        runtime = runtime_of(loaded, store, named=on_command_line(context, "store"))
        result = asyncio.run(_resume(runtime, run_id, merged, wait, event))
        if as_json:
            from poundlock.showing import plain_beside

            shape = {
                "run_id": result.run_id,
                "workflow_id": result.workflow_id,
                "status": str(result.status),
                "ok": result.ok,
                "result": plain_beside(result.result, result.state),
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
    from poundlock.showing import plain_beside

    screen = console()
    line = Text(f"{result.workflow_id} run {result.run_id}: ").append(show.status_text(result.status))
    if result.result is not None:
        line.append(f", {show.plain(plain_beside(result.result, result.state))}")
    if result.error is not None:
        line.append(f", {result.error}", "red")
    if result.status == "ready":
        line.append(": it continues when a runtime that has its workflow opens the store")
    screen.print(line, soft_wrap=True)
    for waiting in result.waits:
        screen.print(Text("waits for ").append(show.wait_text(waiting)))


def json_object(text: str) -> Mapping[str, Any]:
    """Return the object that --patch gives.

    Raises:
        UsageFault: it is not one.
    """
    import json

    try:
        patch = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageFault(
            f"--patch is not JSON ({error.msg} at column {error.colno}): quote it for the shell, "
            f"as in --patch '{{\"ok\": true}}'",
            path="patch",
        ) from None
    if not isinstance(patch, dict):
        raise UsageFault(
            "--patch is not a JSON object: give names and values, as in --patch '{\"ok\": true}'", path="patch"
        )
    return patch


def runtime_of(app: App | None, store: str | None, *, named: bool) -> WorkflowRuntime:
    """Return the runtime that the app brings, or a new one; not entered yet."""
    from poundlock.runtime.runtime import WorkflowRuntime

    return WorkflowRuntime(store=store) if app is None else app.runtime_on(store, named=named)


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
    from poundlock.cli.reading import reading
    from poundlock.stores.answers import not_found
    from poundlock.stores.memory import MemoryStore
    from poundlock.stores.sqlite import SqliteStore

    store = runtime.store
    if isinstance(store, SqliteStore | MemoryStore):  # one that an app brings may not allow to be opened twice
        # Read only, before a runtime claims the run: a missing store is not created, and an unknown run needs no lock.
        async with reading(Path(store.path) if isinstance(store, SqliteStore) else "memory:") as looked_at:
            record = await looked_at.load(run_id)
            if record is None:
                raise not_found(run_id)
            wait = wait or _open_question(record)
    async with runtime:
        return await runtime.resume(run_id, patch, wait=wait, event=event)
