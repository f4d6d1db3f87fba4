"""`poundlock run`: feed events to an app and show the results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import REFUSED, reporting, sentence
from poundlock.cli.options import JsonOption, StoreOption, on_command_line

if TYPE_CHECKING:
    from poundlock.cli.app_loading import App
    from poundlock.cli.feed import Feed, Line
    from poundlock.cli.feeding import Tally
    from poundlock.cli.staying import Stop
    from poundlock.errors import PoundlockError
    from poundlock.model.runs import RunInfo
    from poundlock.runtime.receipts import Receipt


def run(
    context: typer.Context,
    app: Annotated[Path, typer.Argument(metavar="APP.PY", help="Defines `runtime`, not started, or else workflows.")],
    events: Annotated[
        str | None,
        typer.Option(
            "--events",
            metavar="FILE|-",
            help="Events, one JSON object per line; - for standard input. Without it the app runs until it is stopped.",
        ),
    ] = None,
    store: StoreOption = None,
    timeout: Annotated[
        float, typer.Option(min=0, help="Seconds to wait after the last event until the runs are idle.")
    ] = 30.0,
    stay: Annotated[
        bool, typer.Option("--stay", help="After the last event, keep running until SIGINT or SIGTERM.")
    ] = False,
    receipts: Annotated[
        bool, typer.Option("--receipts", help="Print each receipt as a line of JSON as soon as it is durable.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Feed events to the app's workflows, one after another, and show the results.

    On a store that was used before it continues after the last line that has a receipt. Without --events the app runs
    until it is stopped: time triggers fire, delays end. Exit code 1: some lines have no event, or some events were
    refused; the others were handled.
    """
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.cli.app_loading import load_app
        from poundlock.cli.feed import Feed
        from poundlock.cli.staying import Stop, has_times
        from poundlock.errors import FeedInvalid

        source = None if events is None else Feed.of(events)
        loaded = load_app(app)
        if source is None and not stay and not has_times(loaded.definitions):
            raise FeedInvalid(
                f"no workflow of '{app}' has a time trigger, and there are no events: give --events, or --stay to have "
                f"paused and delayed runs go on",
                path="events",
            )
        named = on_command_line(context, "store")
        stop = Stop()
        staying = stop if stay or source is None else None
        output = _Output(receipts=receipts, as_json=as_json)
        code = asyncio.run(stop.around(_run(loaded, store, source, output, timeout, staying, named=named)))
    raise typer.Exit(code)


async def _run(
    app: App, store: str | None, feed: Feed | None, output: _Output, timeout: float, stop: Stop | None, *, named: bool
) -> int:
    from poundlock.cli.feeding import Tally, every, feed_all, wait_until_idle
    from poundlock.cli.staying import has_times, next_time
    from poundlock.model.lifecycle import RunStatus

    fresh = app.runtime is None and _is_new(store)
    tally, idle = Tally(), True
    async with app.runtime_on(store, named=named) as runtime:
        if feed is not None:
            with output.progress(feed):
                tally = await feed_all(runtime, feed, fresh=fresh, on_line=output.on_line)
                if stop is None:
                    idle = await wait_until_idle(runtime, timeout)
        if stop is not None:
            said = next_time(app.definitions, runtime.clock.now())
            _say(f"running until SIGINT or SIGTERM{said and '; '}{said}")
            await stop.until_told()
        elif has_times(app.definitions):
            _say("time triggers fire only while this runs: --stay keeps it running")
        figures = await runtime.store.stats()
        runs = {str(status): figures.get(status, 0) for status in RunStatus}
        parked = [info async for info in every(runtime, RunStatus.PAUSED)]
        held = figures.get("held", 0)
        lasting = runtime.store.durability != "memory"
    output.summary(feed, tally, runs, parked, held, idle=idle, lasting=lasting)
    return REFUSED if tally.faults else 0


def _say(text: str) -> None:
    print(f"poundlock: {text}", file=sys.stderr, flush=True)


def _is_new(store: str | None) -> bool:
    """Whether a store is certainly empty."""
    if store is None or store.startswith("memory:"):
        return True
    return store.startswith("sqlite:///") and not Path(store.removeprefix("sqlite:///")).exists()


class _Output:
    """The output: progress and faults on standard error, receipts and the summary on standard output."""

    def __init__(self, *, receipts: bool, as_json: bool) -> None:
        self._receipts = receipts
        self._as_json = as_json
        self._bar: Any = None
        self._task: Any = None

    def progress(self, feed: Feed) -> Any:
        """Return a context manager that shows a progress bar on a terminal."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        from poundlock.cli.terminal import errors

        console = errors()
        self._bar = Progress(
            TextColumn(f"feeding {feed.name}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[now]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=feed.count(), now="")
        return self._bar

    def on_line(self, line: Line, receipt: Receipt | None, fault: PoundlockError | None) -> None:
        """Show the result of a line."""
        from poundlock.codecs import dump
        from poundlock.runtime.shapes import receipt_shape

        if fault is not None:
            self._bar.console.print(f"line {line.number}: {sentence(fault)}", markup=False, soft_wrap=True)
        if receipt is not None and self._receipts:
            print(dump(receipt_shape(line.number, receipt)), flush=True)
        self._bar.update(self._task, advance=1, now="" if line.event is None else line.event.type)

    def summary(
        self,
        feed: Feed | None,
        tally: Tally,
        runs: dict[str, int],
        parked: list[RunInfo],
        held: int,
        *,
        idle: bool,
        lasting: bool,
    ) -> None:
        """Show the result of the feed, and of the time after it."""
        from poundlock.cli import show
        from poundlock.cli.shapes import feed_shape
        from poundlock.cli.terminal import console
        from poundlock.codecs import dump

        if self._as_json:
            print(dump(feed_shape(feed, tally, runs, parked, held, rested=idle)))
            return
        screen = console()
        if feed is not None:
            screen.print(show.feed_line(feed.name, tally), markup=False)
            screen.print()
            screen.print(show.heading("Receipts by verdict"))
            screen.print(show.receipts_table(tally))
            screen.print()
        if parked:
            screen.print(show.heading("Paused runs, and what each waits for"))
            screen.print(show.parked_list(parked[:_SHOWN]))
            if len(parked) > _SHOWN:
                screen.print(f"  ... and {len(parked) - _SHOWN} more: `poundlock runs ls --status paused`")
            screen.print()
        screen.print(show.runs_line(runs))
        if held:
            screen.print(show.held_line(held, lasting=lasting), markup=False)
        if not idle:
            print("poundlock: some runs were not idle when the time was up", file=sys.stderr)


_SHOWN = 20
