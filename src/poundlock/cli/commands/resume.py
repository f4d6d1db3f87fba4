"""`poundlock resume`: answer the wait that a run is paused at.

The wait's id is read first and passed to `resume`, so that the answer never reaches another wait.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import AppOption, JsonOption, RunArgument, StoreOption, UsageFault, needed

if TYPE_CHECKING:
    from poundlock.model.runs import RunResult


def resume(
    run_id: RunArgument,
    store: StoreOption = None,
    patch: Annotated[
        str | None, typer.Option(metavar="JSON", help="A JSON object that is merged into the run's state.")
    ] = None,
    wait: Annotated[
        str | None, typer.Option(metavar="ID", help="The wait to answer; default: the one the run is paused at.")
    ] = None,
    app: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Resume a paused run.

    With --app the run continues to its next pause or its end. Without --app the run becomes `ready`, and continues when
    a runtime that has its workflow opens the store.
    """
    with reporting(as_json=as_json):
        from poundlock.codecs import dump
        from poundlock.model.runs import error_shape, wait_shape

        merged = None if patch is None else _patch(patch)
        result = asyncio.run(_resume(run_id, needed(store), merged, wait, app))
        if as_json:
            shape = {
                "run_id": result.run_id,
                "workflow_id": result.workflow_id,
                "status": str(result.status),
                "ok": result.ok,
                "result": result.result,
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
    line = Text(f"{result.workflow_id} run {result.run_id}: ").append(show.status_text(result.status))
    if result.result is not None:
        line.append(f", {show.plain(result.result)}")
    if result.error is not None:
        line.append(f", {result.error}", "red")
    if result.status == "ready":
        line.append(": it continues when a runtime that has its workflow opens the store")
    screen.print(line, soft_wrap=True)
    for waiting in result.waits:
        screen.print(Text("waits for ").append(show.wait_text(waiting)))


def _patch(text: str) -> Mapping[str, Any]:
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


async def _resume(
    run_id: str, url: str, patch: Mapping[str, Any] | None, wait: str | None, app: Path | None
) -> RunResult:
    from poundlock.cli.app_loading import load_app
    from poundlock.cli.reading import reading
    from poundlock.runtime.runtime import WorkflowRuntime
    from poundlock.stores.answers import not_found

    loaded = None if app is None else load_app(app)
    # Read only, before a runtime claims the run: a missing store is not created, and an unknown run needs no lock.
    async with reading(url) as store:
        record = await store.load(run_id)
        if record is None:
            raise not_found(run_id)
        current = next((row.wait_id for row in record.waits if row.parked), None)
    workflows = () if loaded is None else loaded.workflows
    async with WorkflowRuntime(*workflows, store=url) as runtime:
        return await runtime.resume(run_id, patch, wait=wait or current)
