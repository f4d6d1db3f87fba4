"""`poundlock retry`, `rerun` and `fork`: let a run go on that has ended, or start a new one where it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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
    from poundlock.model.runs import RunInfo, RunResult
    from poundlock.runtime.runtime import WorkflowRuntime

ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; for the timeline.")]
ByOption = Annotated[str, typer.Option("--by", metavar="NAME", help="Who wants it; for the timeline.")]


def retry(
    context: typer.Context,
    run_id: RunArgument,
    store: StoreOption = None,
    at: Annotated[
        str | None, typer.Option(metavar="STAGE", help="The stage to begin with; default: the one that failed.")
    ] = None,
    patch: PatchOption = None,
    reason: ReasonOption = "",
    by: ByOption = "cli",
    app: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a run that failed or was aborted, from where it failed.

    With --app the run continues to its next pause or its end. Without --app it becomes `ready`, and continues when a
    runtime that has its workflow opens the store; that one judges its state.
    """

    def command(given: Any, elsewhere: bool) -> Any:
        from poundlock.runtime.commands.mend import Retry

        return Retry(run_id, at, given, by, reason, elsewhere)

    _mend(context, run_id, store, patch, app, command, as_json=as_json)


def rerun(
    context: typer.Context,
    run_id: RunArgument,
    from_stage: Annotated[str, typer.Option("--from", metavar="STAGE", help="A stage that the run had entered.")],
    store: StoreOption = None,
    patch: PatchOption = None,
    reason: ReasonOption = "",
    by: ByOption = "cli",
    app: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat a run that has ended from one of its stages, with the state as it was there. See `retry` for --app."""

    def command(given: Any, elsewhere: bool) -> Any:
        from poundlock.runtime.commands.mend import Rerun

        return Rerun(run_id, from_stage, given, by, reason, elsewhere)

    _mend(context, run_id, store, patch, app, command, as_json=as_json)


def fork(
    context: typer.Context,
    run_id: RunArgument,
    at: Annotated[
        str,
        typer.Option(metavar="STAGE|SEQ", help="A stage that the run had entered, or the number of a timeline entry."),
    ],
    store: StoreOption = None,
    patch: PatchOption = None,
    reason: ReasonOption = "",
    by: ByOption = "cli",
    app: AppOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a new run where another one was, with the state as it was there. See `retry` for --app."""

    def command(given: Any, elsewhere: bool) -> Any:
        from poundlock.runtime.commands.fork import Fork

        return Fork(run_id, int(at) if at.isdecimal() else at, given, by, reason, elsewhere)

    _mend(context, run_id, store, patch, app, command, as_json=as_json)


def _mend(
    context: typer.Context,
    run_id: str,
    store: str | None,
    patch: str | None,
    app: Path | None,
    command: Callable[[Any, bool], Any],
    *,
    as_json: bool,
) -> None:
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.cli.app_loading import runtime_of
        from poundlock.codecs import dump
        from poundlock.model.runs import run_shape
        from poundlock.showing import plain_beside

        given = patch_of(patch)
        runtime = runtime_of(app, store, named=on_command_line(context, "store"))
        info, result = asyncio.run(_carried_out(runtime, run_id, command(given, app is None), wait=app is not None))
        if as_json:
            more = {}
            if result is not None:
                more = {"ok": result.ok, "result": plain_beside(result.result, result.state, result.masks)}
            print(dump(run_shape(info) | more))
            return
        _print(info, result)


async def _carried_out(
    runtime: WorkflowRuntime, run_id: str, command: Any, *, wait: bool
) -> tuple[RunInfo, RunResult | None]:
    from poundlock.cli.reading import look_up

    await look_up(runtime.store, run_id)  # an unknown run is refused
    async with runtime:
        info: RunInfo = await runtime.dispatch(command)
        if not wait:
            return info, None
        result = await runtime.wait(info.run_id, until="rest")
        return await runtime.get_run(info.run_id), result


def _print(info: RunInfo, result: RunResult | None) -> None:
    from rich.text import Text

    from poundlock.cli import show
    from poundlock.cli.terminal import console

    screen = console()
    forked = [f"forked from {info.lineage[-1]}"] if info.lineage and info.parent_id is None else []
    line = show.run_line(info, f"attempt {info.attempt}", *forked, result=result)
    if info.status == "ready":
        line.append(f": it begins with stage '{info.stage}' when a runtime that has its workflow opens the store")
    screen.print(line, soft_wrap=True)
    for waiting in info.waits:
        if waiting.parked:
            screen.print(Text("waits for ").append(show.wait_text(waiting)))
