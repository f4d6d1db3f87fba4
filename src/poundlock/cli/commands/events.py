"""`poundlock events`: events that could not be delivered, and their replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from poundlock.cli.faults import reporting
from poundlock.cli.options import JsonOption, StoreOption, UsageFault, needed

if TYPE_CHECKING:
    from poundlock.model.outbox import DeadLetter


def dead(
    store: StoreOption = None,
    limit: Annotated[int, typer.Option(help="How many to show.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Only those behind this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List dead letters: events that steps have emitted and that could not be delivered."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump
        from poundlock.model.validation import whole_number

        letters = asyncio.run(_dead(store, whole_number("--limit", limit, 1), after))
        if as_json:
            print(dump({"dead_letters": [letter.to_dict() for letter in letters]}))
            return
        from poundlock.cli import show
        from poundlock.cli.terminal import console

        screen = console()
        if not letters:
            screen.print("No dead letters.")
            return
        screen.print(show.letters_table(letters))


def replay(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Id of a dead letter, see `poundlock events dead`.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have a dead letter delivered again, by the next runtime that opens the store. The event keeps its id."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump

        asyncio.run(_replay(needed(store), letter_id))
        if as_json:
            print(dump({"id": letter_id, "replayed": True}))
            return
        print(f"{letter_id}: it is delivered when a runtime opens the store")


async def _dead(url: str | None, limit: int, after: str | None) -> list[DeadLetter]:
    from poundlock.cli.reading import reading
    from poundlock.runtime.dead_letters import letters_of

    async with reading(url) as store:
        return await letters_of(store, limit, after)


async def _replay(url: str, letter_id: str) -> None:
    from pathlib import Path

    from poundlock.clock import SystemClock
    from poundlock.runtime.dead_letters import letter_row, revive
    from poundlock.stores import open as open_store
    from poundlock.stores.sqlite import SqliteStore

    store = open_store(url)
    if not isinstance(store, SqliteStore):
        raise UsageFault(f"'{url}' ends with its process, so it has no dead letters: give a durable store")
    if not Path(store.path).exists():  # noqa: ASYNC240 - nothing else runs in this process
        raise UsageFault(f"there is no store '{store.path}': check the path")
    await store.open("poundlock-replay")
    try:
        await revive(store.commit, await letter_row(store, letter_id), SystemClock().now())
    finally:
        await store.close()
