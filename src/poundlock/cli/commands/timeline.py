"""`poundlock timeline`: what happened in a run, as a chart or as a list of entries, and its state at any of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import JsonOption, RunArgument, StoreOption, UsageFault

if TYPE_CHECKING:
    from poundlock.model.runs import LogRow, RunRecord
    from poundlock.model.timeline import Timeline


class DefaultGroup(typer.core.TyperGroup):
    """A group whose commands need not be named: `timeline RUN` is `timeline show RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `show` in front of arguments that do not begin with a command."""
        if args and args[0] not in self.commands and not (args[0] == "--help" and len(args) == 1):
            args = ["show", *args]
        return super().parse_args(ctx, args)


def show(
    run_id: RunArgument,
    store: StoreOption = None,
    entries: Annotated[bool, typer.Option("--entries", help="List every entry below the chart.")] = False,
    follow: Annotated[
        bool, typer.Option("--follow", help="List the entries, and then what comes, until the run has ended.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="SEQ|STAGE", help="Show the state after an entry, or where a stage began last."),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", metavar="A B", help="Show what changed in the state between two entries or stages."),
    ] = None,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Write the chart to this file, as a picture.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw the stages, steps and pauses of a run as bars."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.model.hiding import hidden_entries, noted_masks
        from poundlock.model.timeline import Timeline, read_entries

        if sum([follow, at is not None, diff is not None, svg is not None or entries]) > 1:
            raise UsageFault("--follow, --at, --diff and the chart are different answers: ask for one of them")
        if follow:
            asyncio.run(_follow(store, run_id, as_json=as_json))
            return
        record, rows = asyncio.run(_read(store, run_id))
        found = read_entries(rows)
        timeline = Timeline(run_id, hidden_entries(found, noted_masks(found))[0])
        if at is not None:
            _print_state(timeline, at, as_json=as_json)
        elif diff is not None:
            _print_diff(timeline, diff, as_json=as_json)
        else:
            _draw(record, timeline, svg, entries=entries, as_json=as_json)


def _draw(record: RunRecord, timeline: Timeline, svg: Path | None, *, entries: bool, as_json: bool) -> None:
    from poundlock.clock import SystemClock
    from poundlock.codecs import dump
    from poundlock.runtime.reading import info_of_record
    from poundlock.runtime.shapes import timeline_shape

    if as_json:
        print(dump(timeline_shape(timeline)))
        return
    info, run_id = info_of_record(record), timeline.run_id
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
    for wait in info.waits:
        if wait.parked and wait.mode != "any":
            screen.print(shown.wait_text(wait))
    if entries:
        screen.print()
        screen.print(shown.entries_table(timeline))


def _print_state(timeline: Timeline, at: str, *, as_json: bool) -> None:
    import json

    from poundlock.showing import plain

    with _places():
        seq = timeline.seq_of(_place(at))
    state = plain(timeline.state_at(seq))
    if as_json:
        print(json.dumps({"run_id": timeline.run_id, "seq": seq, "state": state}, ensure_ascii=False))
    else:
        print(json.dumps(state, ensure_ascii=False, indent=2))


def _print_diff(timeline: Timeline, places: tuple[str, str], *, as_json: bool) -> None:
    import json

    with _places():
        diff = timeline.diff(_place(places[0]), _place(places[1]))
    if as_json:
        print(json.dumps({"run_id": timeline.run_id, **diff.to_dict()}, ensure_ascii=False))
    else:
        print(diff or f"The state is the same after entries {diff.a} and {diff.b}.")


def _place(text: str) -> int | str:
    """Return a place in a timeline: digits are a sequence, all else is a stage."""
    return int(text) if text.isdecimal() else text


@contextmanager
def _places() -> Iterator[None]:
    """A place that does not exist is a wrong call."""
    try:
        yield
    except LookupError as error:
        raise UsageFault(str(error)) from None


async def _follow(url: str | None, run_id: str, *, as_json: bool) -> None:
    import json

    from poundlock.cli import show as shown
    from poundlock.cli.reading import reading
    from poundlock.cli.tailing import tail
    from poundlock.clock import SystemClock
    from poundlock.showing import plain

    began: float | None = None
    async with reading(url) as store:
        async for entry in tail(store, run_id, SystemClock()):
            began = entry.time if began is None else began
            line = json.dumps(plain(entry.to_dict()), ensure_ascii=False) if as_json else shown.entry_line(entry, began)
            print(line, flush=True)


async def _read(url: str | None, run_id: str) -> tuple[RunRecord, list[LogRow]]:
    from poundlock.cli.reading import reading
    from poundlock.stores.answers import not_found

    async with reading(url) as store:
        record = await store.load(run_id)
        if record is None:
            raise not_found(run_id)
        return record, await store.history(run_id)
