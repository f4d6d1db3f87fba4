"""The map of the command line: the commands, and the file of each."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command line; the entry point of `poundlock`."""
    try:
        import typer  # noqa: F401 - only to check whether it is installed
    except ModuleNotFoundError:
        sys.exit("The command line needs two more packages: install them with `pip install 'poundlock[cli]'`.")
    commands()(prog_name="poundlock")


def commands() -> typer.Typer:
    """Return the commands as a typer application."""
    import typer

    from poundlock.cli.commands.check import check, doctor
    from poundlock.cli.commands.events import dead, replay
    from poundlock.cli.commands.graph import graph
    from poundlock.cli.commands.mend import fork, rerun, retry
    from poundlock.cli.commands.pause import pause, unpause
    from poundlock.cli.commands.resume import resume
    from poundlock.cli.commands.run import run
    from poundlock.cli.commands.runs import compare, ls
    from poundlock.cli.commands.runs import show as show_run
    from poundlock.cli.commands.timeline import DefaultGroup
    from poundlock.cli.commands.timeline import show as show_timeline
    from poundlock.cli.commands.vacuum import vacuum
    from poundlock.cli.commands.version import version

    top = typer.Typer(
        name="poundlock",
        help="Run workflows on events, and inspect, resume and list their runs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich would take a quarter of the time limit of --help
        add_completion=True,
    )
    top.command("run")(run)
    top.command("resume")(resume)
    top.command("retry")(retry)
    top.command("rerun")(rerun)
    top.command("fork")(fork)
    top.command("pause")(pause)
    top.command("unpause")(unpause)
    top.command("graph")(graph)
    top.command("check")(check)
    top.command("doctor")(doctor)
    top.command("vacuum")(vacuum)
    top.command("version")(version)

    listing = typer.Typer(name="runs", help="List, show and compare runs.", no_args_is_help=True, rich_markup_mode=None)
    listing.command("ls")(ls)
    listing.command("show")(show_run)
    listing.command("compare")(compare)
    top.add_typer(listing)

    events = typer.Typer(name="events", help="Events that went wrong.", no_args_is_help=True, rich_markup_mode=None)
    events.command("dead")(dead)
    events.command("replay")(replay)
    top.add_typer(events)

    history = typer.Typer(
        name="timeline", help="Show what happened.", cls=DefaultGroup, no_args_is_help=True, rich_markup_mode=None
    )
    history.command("show")(show_timeline)
    top.add_typer(history)
    return top
