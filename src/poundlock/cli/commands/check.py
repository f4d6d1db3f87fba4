"""`poundlock check` and `poundlock doctor`: look at the runs of a store before a deployment, and after one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from poundlock.cli.faults import REFUSED, reporting
from poundlock.cli.options import JsonOption, StoreOption
from poundlock.records import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from poundlock.model.operator_pause import WorkflowPause
    from poundlock.model.retention import Retention, Vacuumed
    from poundlock.model.workflow_definition import WorkflowDefinition
    from poundlock.runtime.checking import Misfit
    from poundlock.runtime.diagnosing import Diagnosis


_NEXT: Final = 3
"""Times of a trigger that are told."""


def check(
    app: Annotated[Path, typer.Argument(metavar="APP.PY", help="The app that is going to be deployed.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which stored runs could not go on with the workflows of an app; exit code 1 if there are any.

    Of its time triggers it tells when they fire next.
    """
    with reporting(as_json=as_json):
        import asyncio

        from poundlock.codecs import dump

        definitions, where, _ = _app(app, store)
        found = asyncio.run(_diagnosed(where, definitions))[0]
        times = list(_times(definitions))
        if as_json:
            shape = {"runs": found.active, "misfits": [_shape(each) for each in found.misfits]}
            print(dump({**shape, "times": [_shape_of_times(each) for each in times]}))
        else:
            _print([("Runs that could not go on", found.misfits)])
            _print_times(times)
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
    """Tell what needs attention in a store: its size, paused workflows, runs paused with an error, stuck runs."""
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
            paused = {each.workflow_id or "*": each.shown().to_dict() for each in found.pauses}
            print(dump({"store": figures, "runs": found.active, **shape, "paused_workflows": paused, **gone}))
        else:
            print(_size(figures))
            for pause in found.pauses:
                print(_pause(pause))
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


class _Upcoming(NamedTuple):
    """When a time trigger fires next."""

    workflow_id: str
    trigger_id: str
    rule: str
    missed: str
    times: tuple[float, ...]


def _times(definitions: Mapping[str, WorkflowDefinition]) -> Iterator[_Upcoming]:
    from poundlock.clock import SystemClock
    from poundlock.model.cron import schedule_of

    now = SystemClock().now()
    for definition in definitions.values():
        for trigger_id, trigger in definition.triggers.items():
            schedule = schedule_of(trigger)
            if schedule is None:
                continue
            times: list[float] = []
            while len(times) < _NEXT and (following := schedule.after(times[-1] if times else now)) is not None:
                times.append(following)
            yield _Upcoming(definition.id, trigger_id, schedule.rule, trigger.missed, tuple(times))


def _print_times(upcoming: list[_Upcoming]) -> None:
    if not upcoming:
        return
    from rich.text import Text

    from poundlock.cli import show
    from poundlock.cli.terminal import console

    screen = console()
    screen.print(show.heading("Next times of triggers, in UTC"))
    for each in upcoming:
        line = Text("  ").append(f"{each.workflow_id} ", "bold").append(f"{each.trigger_id} ({each.rule}): ")
        line.append(", ".join(map(show.moment, each.times)) or "none")
        screen.print(line, soft_wrap=True)
    screen.print()


def _shape_of_times(upcoming: _Upcoming) -> dict[str, Any]:
    from poundlock.model.moments import utc_text

    return {
        "workflow_id": upcoming.workflow_id,
        "trigger_id": upcoming.trigger_id,
        "rule": upcoming.rule,
        "missed": upcoming.missed,
        "next": [utc_text(time) for time in upcoming.times],
    }


def _size(figures: Mapping[str, Any]) -> str:
    from poundlock.cli import show

    said = f"The store has {figures['bytes'] / 1e6:.1f} MB"
    if figures["opened_at"] is not None:
        grown = (figures["bytes"] - figures["bytes_then"]) / 1e6
        said += f", {grown:+.1f} MB since it was opened at {show.moment(figures['opened_at'])}"
    return f"{said}."


def _pause(pause: WorkflowPause) -> str:
    from poundlock.cli import show

    what, command = f"Workflow '{pause.workflow_id}' is", f"poundlock unpause --workflow {pause.workflow_id}"
    if not pause.workflow_id:
        what, command = "All workflows are", "poundlock unpause --all"
    why = f" ({pause.reason})" if pause.reason else ""
    return f"{what} paused by {pause.by} since {show.moment(pause.since)}{why}: `{command}` has them go on."


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
