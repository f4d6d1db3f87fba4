"""`poundlock vacuum`: delete ended runs, and what has expired, from a store that no runtime has open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import JsonOption, StoreOption, UsageFault, needed

if TYPE_CHECKING:
    from poundlock.model.retention import Retention, Vacuumed


def vacuum(
    store: StoreOption = None,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="TIME", help="Delete the runs that ended so long ago, such as 30d."),
    ] = None,
    dead_letters: Annotated[
        str | None,
        typer.Option(
            "--dead-letters",
            metavar="TIME|same",
            help="Delete the dead letters that were given up so long ago, or with `same` those of deleted runs. "
            "Default: keep them.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    compact: Annotated[
        bool, typer.Option("--compact", help="Then write the file anew, so that it takes no more space than it needs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete old ended runs and what has expired; stop the runtime first, or let it do that itself (`retention=`)."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump
        from poundlock.model.retention import SAME, Retention
        from poundlock.model.validation import duration

        age = None if older_than is None else duration("--older-than", older_than)
        # The command line knows no app, and so not what it says of them: they are events that nobody has taken yet.
        letters = dead_letters if dead_letters in (None, SAME) else duration("--dead-letters", dead_letters)
        if dry_run and compact:
            raise UsageFault("--dry-run changes nothing, so there is nothing to compact: leave one of them out")
        kept = Retention(dead_letters=letters)
        done, sizes = asyncio.run(_vacuum(needed(store), age, kept, dry_run=dry_run, compact=compact))
        if as_json:
            print(dump({"dry_run": dry_run, **done.to_dict(), "bytes_before": sizes[0], "bytes": sizes[1]}))
            return
        for line in told(done, dry_run=dry_run):
            print(line)
        print(f"The store has {sizes[1] / 1e6:.1f} MB; it had {sizes[0] / 1e6:.1f} MB.")


def told(done: Vacuumed, *, dry_run: bool) -> list[str]:
    """Return what was deleted, or would be, as lines for people."""
    would = "Would delete" if dry_run else "Deleted"
    lines = [f"{would} {done.runs} ended runs, {done.children} of them children."]
    lines += [f"  {workflow}: {count}" for workflow, count in sorted((done.by_workflow or {}).items())]
    if done.dead_letters:
        lines.append(f"{would} {done.dead_letters} dead letters.")
    if not dry_run:
        lines.append(f"{would} {done.receipts} receipts and {done.remembered} ids of events, which had expired.")
    return lines


async def _vacuum(
    url: str, age: float | None, kept: Retention, *, dry_run: bool, compact: bool
) -> tuple[Vacuumed, tuple[int, int]]:
    from poundlock.cli.reading import reading
    from poundlock.clock import SystemClock
    from poundlock.model.retention import Retention, Sweep
    from poundlock.runtime.vacuuming import vacuum_store
    from poundlock.stores import open as open_store
    from poundlock.stores.sqlite import SqliteStore
    from poundlock.stores.sqlite.opening import compact as write_anew

    sweep = Sweep(SystemClock().now(), {}, None if age is None else Retention(ended_runs=age))
    if dry_run:
        async with reading(url) as read:
            return await vacuum_store(read, sweep, kept, read.commit, dry_run=True), (read.size, read.size)
    store = open_store(url)
    if not isinstance(store, SqliteStore):
        raise UsageFault(f"'{url}' ends with its process, so there is nothing to delete: give a durable store")
    if not Path(store.path).exists():  # noqa: ASYNC240 - nothing else runs in this process
        raise UsageFault(f"there is no store '{store.path}': check the path")
    await store.open("poundlock-vacuum")
    before = store.size
    try:
        done = await vacuum_store(store, sweep, kept, store.commit, receipts=True)
    finally:
        await store.close()
    if compact:
        write_anew(store.path)
    return done, (before, store.size)
