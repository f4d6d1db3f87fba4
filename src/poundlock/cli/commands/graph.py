"""`poundlock graph`: a workflow as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import StoreOption, UsageFault, needed, on_command_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from poundlock.model.runs import RunInfo
    from poundlock.model.timeline import Timeline
    from poundlock.pipeline.builder import Workflow

FORMATS = ("mermaid", "svg")
_ACTIVE = ("queued", "ready", "running", "paused", "delayed", "failed")
_PAGE = 500


def graph(
    context: typer.Context,
    app: Annotated[Path, typer.Argument(metavar="APP.PY", help="The app that defines the workflow.")],
    workflow: Annotated[
        str | None, typer.Argument(metavar="WORKFLOW", help="Id of the workflow, if the app has several.")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="FORMAT", help="mermaid or svg; default: by the name of --output, or mermaid."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(metavar="RUN", help="Mark where this run is. Needs --store.")] = None,
    store: StoreOption = None,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to this file, not to the screen.")] = None,
) -> None:
    """Draw a workflow: its triggers and stages, and where each stage leads.

    With --store the runs there are counted at their stages; with --run only that run is marked.
    """
    with reporting(as_json=False):
        import asyncio

        from poundlock.cli.app_loading import load_app

        written = _format(format_, output)
        loaded = load_app(app)
        drawn = _chosen(loaded.runtime.workflows if loaded.runtime is not None else loaded.workflows, workflow, app)
        marks: dict[str, Any] = {}
        if run is not None:
            info, timeline = asyncio.run(_run(needed(store), run))
            if info.workflow_id != drawn.id:
                raise UsageFault(
                    f"run '{run}' is one of workflow '{info.workflow_id}', not of '{drawn.id}': name that one",
                    path="run",
                )
            marks = {"run": info, "timeline": timeline}
        elif on_command_line(context, "store"):
            marks = {"runs": asyncio.run(_runs(needed(store), drawn.id))}
        text = drawn.to_svg(**marks) if written == "svg" else drawn.to_mermaid(**marks)
        put(text, output)


def put(text: str, output: Path | None) -> None:
    """Write a text to a file, or to standard output.

    Raises:
        UsageFault: the file cannot be written.
    """
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageFault(
            f"'{output}' cannot be written, {error.strerror}: name a file in a folder of yours", path="output"
        ) from error


def _format(named: str | None, output: Path | None) -> str:
    if named is None:
        return "svg" if output is not None and output.suffix.lower() == ".svg" else "mermaid"
    if named not in FORMATS:
        raise UsageFault(f"'{named}' is not a format: use {' or '.join(FORMATS)}", path="format")
    return named


def _chosen(workflows: Sequence[Workflow], named: str | None, app: Path) -> Workflow:
    from poundlock.errors import suggest

    ids = [each.id for each in workflows]
    if not workflows:
        raise UsageFault(f"the runtime of '{app}' is given no workflows: give them to WorkflowRuntime(...)", path="app")
    if named is None and len(workflows) > 1:
        raise UsageFault(f"'{app}' has several workflows: name one, {', '.join(ids)}", path="workflow")
    found = [each for each in workflows if named in (None, each.id)]
    if not found:
        raise UsageFault(f"'{app}' has no workflow '{named}': {suggest(str(named), ids)}", path="workflow")
    return found[0]


async def _run(url: str, run_id: str) -> tuple[RunInfo, Timeline]:
    from poundlock.cli.reading import reading
    from poundlock.model.hiding import hidden_entries, noted_masks
    from poundlock.model.timeline import Timeline, read_entries
    from poundlock.runtime.reading import info_of_record
    from poundlock.stores.answers import not_found

    async with reading(url) as store:
        record = await store.load(run_id)
        if record is None:
            raise not_found(run_id)
        entries = read_entries(await store.history(run_id))
        return info_of_record(record), Timeline(run_id, hidden_entries(entries, noted_masks(entries))[0])


async def _runs(url: str, workflow_id: str) -> list[RunInfo]:
    from poundlock.cli.reading import reading
    from poundlock.runtime.reading import info_of_record, query

    found: list[RunInfo] = []
    cursor = None
    async with reading(url) as store:
        while True:
            page = await store.find(query(workflow_id, list(_ACTIVE), None, None, None, None, _PAGE, cursor))
            found += [info_of_record(record) for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found
