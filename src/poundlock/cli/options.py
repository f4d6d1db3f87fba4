"""Options that several commands share, and the error for a wrong call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from poundlock.errors import FeedInvalid

StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", envvar="POUNDLOCK_STORE", help="The store, e.g. sqlite:///runs.db."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]
AppOption = Annotated[
    Path | None,
    typer.Option("--app", metavar="APP.PY", help="The app that has the run's workflow: it continues the run."),
]
PatchOption = Annotated[
    str | None, typer.Option("--patch", metavar="JSON", help="A JSON object that is merged into the run's state.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id of a run, see `poundlock runs ls`.")]


class UsageFault(FeedInvalid):
    """The arguments of the command are wrong; nothing was done."""

    code = "USAGE"


def needed(store: str | None) -> str:
    """Return the store's URL.

    Raises:
        UsageFault: no store was given.
    """
    if store is None:
        raise UsageFault("no store is given: add --store sqlite:///path/to/file.db, or set POUNDLOCK_STORE")
    return store


def on_command_line(context: typer.Context, name: str) -> bool:
    """Whether an option was typed, and is not a default or from the environment."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def patch_of(text: str | None) -> Mapping[str, Any] | None:
    """Return the object that --patch gives; None if it was not given.

    Raises:
        UsageFault: it is no JSON object.
    """
    if text is None:
        return None
    from poundlock.cli.strict_json import NotStrict, parsed

    try:
        patch = parsed(text)
    except NotStrict as error:
        raise UsageFault(
            f"--patch is not JSON ({error}): quote it for the shell, as in --patch '{{\"ok\": true}}'",
            path="patch",
        ) from None
    if not isinstance(patch, dict):
        raise UsageFault(
            "--patch is not a JSON object: give names and values, as in --patch '{\"ok\": true}'", path="patch"
        )
    return patch
