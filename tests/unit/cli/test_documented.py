"""The page about the command line leaves nothing out."""

from __future__ import annotations

from pathlib import Path

import typer.main

from poundlock.cli.main import commands

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "command-line.md"


def leaves(command, words=()):
    """Yield (words, command) of each command that does something."""
    for name, part in getattr(command, "commands", {}).items():
        yield from leaves(part, (*words, name))
    if not hasattr(command, "commands"):
        yield words, command


def test_every_command_and_option_is_documented():
    """Each command stands in the page by its whole name, and each of its options too."""
    page = PAGE.read_text(encoding="utf-8")
    missing = []
    for words, command in leaves(typer.main.get_command(commands())):
        name = " ".join(("poundlock", *words))
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        missing += [part for part in (name, *options) if part not in page and part != "--help"]
        assert command.help, name
    assert missing == []
