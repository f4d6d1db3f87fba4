"""`poundlock check` and `poundlock doctor`: look at the runs of a store before a deployment, and after one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poundlock.cli.faults import REFUSED, reporting
from poundlock.cli.options import JsonOption, StoreOption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poundlock.model.retention import Retention, Vacuumed
    from poundlock.model.workflow_definition import WorkflowDefinition
    from poundlock.runtime.checking import Misfit
    from poundlock.runtime.diagnosing import Diagnosis


def check(
    app: Annotated[Path, typer.Argument(metavar="APP.PY", help="The app that is going to be deployed.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which stored runs could not go on with the workflows of an app; exit code 1 if there are any."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump

        definitions, where, _ = _app(app, store)
        found = asyncio.run(_diagnosed(where, definitions))[0]
        if as_json:
            print(dump({"runs": found.active, "misfits": [_shape(each) for each in found.misfits]}))
        else:
            _print([("Runs that could not go on", found.misfits)])
            unfit = len({each.run_id for each in found.misfits})
            said = f"{unfit} cannot go on." if unfit else "All of them can go on."
            print(f"Active runs checked: {found.active}. {said}")
        if found.misfits:
            raise typer.Exit(REFUSED)


def doctor(
    app: Annotated[
        Path | None, typer.Argument(metavar="APP.PY", help="Its workflows are checked too, as `poundlock check` does.")
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell what needs attention in a store: size and growth, runs paused with an error, stuck runs."""
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump

        definitions, where, general = (None, store, None) if app is None else _app(app, store)
        found, figures = asyncio.run(_diagnosed(where, definitions))
        kept = None if definitions is None else asyncio.run(_would_go(where, definitions, general))
        parts = [
            ("Paused with an error", found.errors),
            ("Stuck, unless no runtime is at work", found.stuck),
            ("Could not go on with this app", found.misfits),
        ]
        if as_json:
            lists = zip(("errors", "stuck", "misfits"), (each for _, each in parts), strict=True)
            shape = {name: [_shape(each) for each in listed] for name, listed in lists}
            gone = {} if kept is None else {"retention": kept.to_dict()}
            print(dump({"store": figures, "runs": found.active, **shape, **gone}))
        else:
            print(_size(figures))
            _print(parts)
            print(f"{found.active} active runs.")
            if kept is not None and (kept.runs or kept.dead_letters):
                from poundlock.cli.commands.vacuum import told

                print("By the app's retention, the next vacuum:")
                for line in told(kept, dry_run=True):
                    print(line)
        if any(listed for _, listed in parts):
            raise typer.Exit(REFUSED)


def _app(path: Path, store: str | None) -> tuple[Mapping[str, WorkflowDefinition], str | Path | None, Retention | None]:
    """Return the definitions of an app, its store (the one that was named, else its runtime's), and its retention."""
    from poundlock.cli.app_loading import load_app
    from poundlock.pipeline.builder import Workflow
    from poundlock.stores.sqlite import SqliteStore

    app = load_app(path)
    workflows: Any = app.workflows if app.runtime is None else app.runtime.workflows
    definitions = [each.definition if isinstance(each, Workflow) else each for each in workflows]
    where: str | Path | None = store
    if store is None and app.runtime is not None and isinstance(app.runtime.store, SqliteStore):
        where = Path(app.runtime.store.path)
    return {each.id: each for each in definitions}, where, app.runtime.retention if app.runtime else None


async def _would_go(
    where: str | Path | None, definitions: Mapping[str, WorkflowDefinition], general: Retention | None
) -> Vacuumed:
    """Return what the retention of an app would delete now."""
    from poundlock.cli.reading import reading
    from poundlock.clock import SystemClock
    from poundlock.model.retention import KEEP, Sweep
    from poundlock.runtime.vacuuming import vacuum_store

    general = general or KEEP
    rules = {each.id: each.retention or general for each in definitions.values()}
    async with reading(where) as store:
        return await vacuum_store(store, Sweep(SystemClock().now(), rules), general, store.commit, dry_run=True)


async def _diagnosed(
    where: str | Path | None, definitions: Mapping[str, WorkflowDefinition] | None
) -> tuple[Diagnosis, dict[str, Any]]:
    from poundlock.cli.reading import reading
    from poundlock.clock import SystemClock
    from poundlock.runtime.diagnosing import diagnose

    async with reading(where) as store:
        found = await diagnose(store, SystemClock().now(), definitions)
        opened = getattr(store, "opened_before", None)
        at, size = (None, None) if opened is None else opened
        return found, {"bytes": store.size, "opened_at": at, "bytes_then": size}


def _size(figures: Mapping[str, Any]) -> str:
    from poundlock.cli import show

    said = f"The store has {figures['bytes'] / 1e6:.1f} MB"
    if figures["opened_at"] is not None:
        grown = (figures["bytes"] - figures["bytes_then"]) / 1e6
        said += f", {grown:+.1f} MB since it was opened at {show.moment(figures['opened_at'])}"
    return f"{said}."


def _print(parts: list[tuple[str, list[Misfit]]]) -> None:
    from poundlock.cli import show
    from poundlock.cli.terminal import console

    screen = console()
    for title, listed in parts:
        if listed:
            screen.print(show.heading(title))
            screen.print(show.misfits_list(listed))
            screen.print()


def _shape(misfit: Misfit) -> dict[str, Any]:
    return {
        "run_id": misfit.run_id,
        "workflow_id": misfit.workflow_id,
        "status": str(misfit.status),
        "stage": misfit.stage,
        "code": misfit.code,
        "message": misfit.text,
    }
