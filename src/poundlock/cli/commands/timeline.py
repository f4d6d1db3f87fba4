"""`poundlock timeline`: what happened in a run, as a chart or as a list of entries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import JsonOption, RunArgument, StoreOption

if TYPE_CHECKING:
    from poundlock.model.runs import LogRow, RunRecord


def show(
    run_id: RunArgument,
    store: StoreOption = None,
    entries: Annotated[bool, typer.Option("--entries", help="List every entry below the chart.")] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the chart to this file, as a picture.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the stages, steps and pauses of a run as bars."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.clock import SystemClock
        from poundlock.codecs import dump
        from poundlock.model.timeline import Timeline, read_entries
        from poundlock.runtime.reading import info_of_record
        from poundlock.runtime.shapes import timeline_shape

        record, rows = asyncio.run(_read(store, run_id))
        timeline = Timeline(run_id, read_entries(rows))
        if as_json:
            print(dump(timeline_shape(timeline)))
            return
        info = info_of_record(record)
        if svg is not None:
            from poundlock.cli.commands.graph import put

            put(timeline.to_svg(title=f"{info.workflow_id} run {run_id}, {info.status}", now=SystemClock().now()), svg)
            return
        from poundlock.cli import show as shown
        from poundlock.cli.gantt import gantt
        from poundlock.cli.terminal import chart_width, console, plain_only

        screen = console()
        screen.print(f"{info.workflow_id} run {run_id}, ", end="", markup=False)
        screen.print(shown.status_text(info.status))
        lines = gantt(timeline, chart_width(screen), SystemClock().now(), ascii_only=plain_only())
        shown.print_chart(screen, lines)
        if entries:
            screen.print()
            screen.print(shown.entries_table(timeline))


async def _read(url: str | None, run_id: str) -> tuple[RunRecord, list[LogRow]]:
    from poundlock.cli.reading import reading
    from poundlock.stores.answers import not_found

    async with reading(url) as store:
        record = await store.load(run_id)
        if record is None:
            raise not_found(run_id)
        return record, await store.history(run_id)
