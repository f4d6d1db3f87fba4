"""The map of the command line: which commands there are, and in which file each one lives."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def main() -> None:
    """Run the command line; the entry point of `poundlock`."""
    try:
        import typer  # noqa: F401 - only to see whether it is there
    except ModuleNotFoundError:
        sys.exit("The command line needs two more packages: install them with `pip install 'poundlock[cli]'`.")
    commands()(prog_name="poundlock")


def commands() -> typer.Typer:
    """Return the commands as typer knows them."""
    import typer

    from poundlock.cli.commands.resume import resume
    from poundlock.cli.commands.run import run
    from poundlock.cli.commands.runs import ls
    from poundlock.cli.commands.runs import show as show_run
    from poundlock.cli.commands.timeline import show as show_timeline
    from poundlock.cli.commands.version import version

    top = typer.Typer(
        name="poundlock",
        help="Events in, pipelines run, pause and resume: run workflows and look at what they did.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich costs a quarter of the time that --help may take
        add_completion=True,
    )
    top.command("run")(run)
    top.command("resume")(resume)
    top.command("version")(version)

    listing = typer.Typer(name="runs", help="Look at runs.", no_args_is_help=True, rich_markup_mode=None)
    listing.command("ls")(ls)
    listing.command("show")(show_run)
    top.add_typer(listing)

    history = typer.Typer(name="timeline", help="Look at what happened.", no_args_is_help=True, rich_markup_mode=None)
    history.command("show")(show_timeline)
    top.add_typer(history)
    return top
