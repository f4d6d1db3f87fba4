"""`poundlock pause` and `poundlock unpause`: a run, a workflow, or all of them, while no runtime has the store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import JsonOption, StoreOption, UsageFault, needed

if TYPE_CHECKING:
    from poundlock.model.runs import RunInfo
    from poundlock.runtime.runtime import WorkflowRuntime

_RunArgument = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Id of a run, see `poundlock runs ls`.", show_default=False)
]
_WorkflowOption = Annotated[str | None, typer.Option(metavar="ID", help="A workflow, in place of a run.")]
_AllOption = Annotated[bool, typer.Option("--all", help="All workflows, in place of a run.")]
_BY = "cli"


def pause(
    run_id: _RunArgument = None,
    store: StoreOption = None,
    workflow: _WorkflowOption = None,
    everything: _AllOption = False,
    incoming: Annotated[
        str, typer.Option(metavar="queue|reject", help="What becomes of events that would start a run.")
    ] = "queue",
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Pause a run, a workflow or all of them, until it is unpaused.

    A run is paused at its present position, with its children. A paused workflow starts no run, and none of its runs
    goes on, until it is unpaused. Needs the store for itself, as `resume` does.
    """
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.runtime.commands import Pause, PauseWorkflow

        _one_of(run_id, workflow, everything=everything)
        of_run = None if run_id is None else Pause(run_id, reason, _BY)
        command: Any = of_run or PauseWorkflow(workflow, incoming, reason, _BY)  # type: ignore[arg-type]  # checked there
        said = asyncio.run(_carry_out(store, run_id, command))
        _print(said, run_id, workflow, as_json=as_json)


def unpause(
    run_id: _RunArgument = None,
    store: StoreOption = None,
    workflow: _WorkflowOption = None,
    everything: _AllOption = False,
    as_json: JsonOption = False,
) -> None:
    """Unpause a run, a workflow or all of them; what is not paused is left as it is.

    What goes on then does so when a runtime that has its workflow opens the store. Workflows that were paused by their
    own ids stay paused with --all.
    """
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.runtime.commands import Unpause, UnpauseWorkflow

        _one_of(run_id, workflow, everything=everything)
        command: Any = Unpause(run_id, _BY) if run_id is not None else UnpauseWorkflow(workflow)
        said = asyncio.run(_carry_out(store, run_id, command))
        _print(said, run_id, workflow, as_json=as_json)


def _one_of(run_id: str | None, workflow: str | None, *, everything: bool) -> None:
    if (run_id is not None) + (workflow is not None) + everything != 1:
        raise UsageFault("say what is meant: give the id of a run, or --workflow ID, or --all")


async def _carry_out(url: str | None, run_id: str | None, command: Any) -> RunInfo | dict[str, Any]:
    """Return the run as it is then, or the paused workflows."""
    from poundlock.cli.reading import reading
    from poundlock.runtime.runtime import WorkflowRuntime
    from poundlock.stores import open as open_store
    from poundlock.stores.answers import not_found
    from poundlock.stores.sqlite import SqliteStore

    store = open_store(needed(url))
    # Read only first: a missing store is not created, and an unknown run needs no lock.
    async with reading(Path(store.path) if isinstance(store, SqliteStore) else url) as looked_at:
        if run_id is not None and await looked_at.load(run_id) is None:
            raise not_found(run_id)
    runtime: WorkflowRuntime = WorkflowRuntime(store=store)
    async with runtime:
        await runtime.dispatch(command)
        if run_id is not None:
            return await runtime.get_run(run_id)
        return {name: pause.to_dict() for name, pause in runtime.paused_workflows().items()}


def _print(said: RunInfo | dict[str, Any], run_id: str | None, workflow: str | None, *, as_json: bool) -> None:
    from poundlock.codecs import dump

    if as_json:
        print(dump({"paused_workflows": said} if isinstance(said, dict) else said.to_dict()))
        return
    from rich.text import Text

    from poundlock.cli import show
    from poundlock.cli.terminal import console

    screen = console()
    if isinstance(said, dict):
        what = "All workflows" if workflow is None else f"Workflow {workflow}"
        paused = said.get(workflow or "*")
        line = Text(f"{what}: ").append("paused" if paused else "not paused", "yellow" if paused else "green")
        if not paused and "*" in said:
            line.append(", but all workflows are")
        screen.print(line, soft_wrap=True)
        return
    line = Text(f"{said.workflow_id} run {run_id}: ").append(show.status_text(said.status))
    for pause in said.paused_by:
        line.append(", ").append(show.pause_text(pause))
    screen.print(line, soft_wrap=True)
