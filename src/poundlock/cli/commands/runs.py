"""`poundlock runs`: list runs, show one in full, and compare two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import JsonOption, RunArgument, StoreOption

if TYPE_CHECKING:
    from poundlock.model.comparing import Comparison
    from poundlock.model.operator_pause import Pauses
    from poundlock.model.runs import Checkpoint, LogRow, RunQuery, RunRecord
    from poundlock.ports import Page, Store
    from poundlock.sensitive import Masks


def ls(
    store: StoreOption = None,
    workflow: Annotated[str | None, typer.Option(metavar="ID", help="Only runs of this workflow.")] = None,
    status: Annotated[
        list[str] | None, typer.Option(metavar="STATUS", help="Only runs of this status; may be given several times.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Only runs of this key.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Only runs whose id, key, event type, result or error contains this text.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many to show, 1 to 500.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Continue where an earlier list ended.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List runs, newest first."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump
        from poundlock.model.runs import run_shape
        from poundlock.runtime.reading import info_of_record, query, with_workflow

        wanted = query(workflow, status or None, key, text, None, None, limit, cursor)
        page, pauses = asyncio.run(_find(store, wanted))
        infos = [with_workflow(info_of_record(record), pauses) for record in page.items]
        if as_json:
            print(dump({"runs": [run_shape(info) for info in infos], "next_cursor": page.next_cursor}))
            return
        from poundlock.cli import show
        from poundlock.cli.terminal import console

        screen = console()
        if not infos:
            screen.print("No runs." if wanted.cursor is None else "No more runs.")
            return
        screen.print(show.runs_table(infos))
        if page.next_cursor is not None:
            screen.print(f"More with --cursor {page.next_cursor}", markup=False, soft_wrap=True)


def show(run_id: RunArgument, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Show one run: its status and stage, what it waits for, its progress, its state, its result or error."""
    with reporting(as_json=as_json):
        import asyncio
        from dataclasses import replace

        from poundlock.codecs import dump
        from poundlock.model.calls import sums_of
        from poundlock.model.hiding import hidden_data
        from poundlock.model.runs import run_shape
        from poundlock.model.timeline import last_progress
        from poundlock.runtime import shapes
        from poundlock.runtime.reading import info_of_record, outcome_of, with_workflow
        from poundlock.sensitive import concealed, texts_at

        checkpoint, rows, masks, pauses = asyncio.run(_checkpoint(store, run_id))
        info = replace(with_workflow(info_of_record(checkpoint.record), pauses), progress=last_progress(rows))
        calls = sums_of(checkpoint.record)
        result, error = outcome_of(checkpoint.record.head.outcome)
        event, state = checkpoint.event, checkpoint.state
        payload = event.payload
        if masks:
            secrets = texts_at(state, masks) | texts_at(payload, masks)
            state, result = hidden_data(state, masks, secrets), concealed(result, secrets)
            payload = hidden_data(payload, masks, secrets)
        if as_json:
            shape = run_shape(info) | {
                "event": shapes.event_shape(event) | {"payload": payload},
                "state": state,
                "result": result,
                "calls": calls,
                "traceback": error.traceback if error is not None else None,
            }
            print(dump(shape))
            return
        from poundlock.cli import show as shown
        from poundlock.cli.terminal import console

        named = f"{event.type} ({event.id}{f' from {event.source}' if event.source else ''})"
        console().print(shown.run_page(info, named, state, result, error, calls))


def compare(
    run_a: Annotated[str, typer.Argument(metavar="A", help="Id of a run.")],
    run_b: Annotated[str, typer.Argument(metavar="B", help="Id of another run, or the same one.")],
    store: StoreOption = None,
    attempt_a: Annotated[
        int | None, typer.Option("--attempt-a", metavar="N", help="An earlier attempt of A; default: the last one.")
    ] = None,
    attempt_b: Annotated[
        int | None, typer.Option("--attempt-b", metavar="N", help="An earlier attempt of B; default: the last one.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say where two runs, or two attempts of one, differ: their stages, their states, what they came to."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump

        comparison = asyncio.run(_compared(store, (run_a, attempt_a), (run_b, attempt_b)))
        print(dump(comparison.to_dict()) if as_json else comparison)


async def _compared(url: str | None, *runs: tuple[str, int | None]) -> Comparison:
    from poundlock.cli.reading import reading
    from poundlock.model.hiding import hidden_entries, noted_masks
    from poundlock.model.timeline import Timeline, read_entries
    from poundlock.runtime.reading import compare_sides, side_of
    from poundlock.stores.answers import not_found

    sides = []
    async with reading(url) as store:
        for run_id, attempt in runs:
            checkpoint = await store.checkpoint(run_id)
            if checkpoint is None:
                raise not_found(run_id)
            entries = read_entries(await store.history(run_id))
            masks = noted_masks(entries)
            timeline = Timeline(run_id, hidden_entries(entries, masks)[0])
            sides.append(side_of(checkpoint, timeline, attempt, masks))
    return compare_sides(*sides)


async def _find(url: str | None, wanted: RunQuery) -> tuple[Page[RunRecord], Pauses]:
    from poundlock.cli.reading import reading

    async with reading(url) as store:
        return await store.find(wanted), await _pauses(store)


async def _pauses(store: Store) -> Pauses:
    return {pause.workflow_id: pause for pause in await store.pauses()}


_ENOUGH = 20
"""Commits at the end of a run's log in which its latest progress is looked for."""


async def _checkpoint(url: str | None, run_id: str) -> tuple[Checkpoint, list[LogRow], Masks, Pauses]:
    from poundlock.cli.reading import reading
    from poundlock.model.hiding import noted_masks
    from poundlock.model.timeline import read_entries
    from poundlock.runtime.reading import with_children_now
    from poundlock.stores.answers import not_found

    async with reading(url) as store:
        checkpoint = await store.checkpoint(run_id)
        if checkpoint is None:
            raise not_found(run_id)
        checkpoint = checkpoint._replace(record=await with_children_now(store, checkpoint.record))
        # The first row says what is hidden.
        masks = noted_masks(read_entries(await store.history(run_id, None, 0, 1)))
        return checkpoint, await store.history(run_id, _ENOUGH), masks, await _pauses(store)
