"""Which Pythons the tests run on: those that are there, run, and are supported."""

from __future__ import annotations

import pytest

import pythons

PROJECT = """
classifiers = [
    "Programming Language :: Python :: 3",
    "Programming Language :: Python :: 3.9",
    "Programming Language :: Python :: 3.10",
    "Programming Language :: Python :: 3.11",
]
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine: `(folder, **programs)` adds a folder to its PATH; a program is what it prints, None for failing."""
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    folders = []

    def add(folder, **programs):
        place = tmp_path / folder
        place.mkdir(parents=True)
        for name, printed in programs.items():
            path = place / name.replace("_", ".")
            path.write_text("#!/bin/sh\n" + ("echo no >&2; exit 127\n" if printed is None else f"echo '{printed}'\n"))
            path.chmod(0o755)
        folders.append(str(place))
        monkeypatch.setattr(pythons.os, "get_exec_path", lambda: folders)
        return place

    add.root = tmp_path
    monkeypatch.setattr(pythons.os, "get_exec_path", list)
    monkeypatch.setattr(pythons.shutil, "which", lambda name: None)
    return add


def test_the_oldest_and_the_newest_are_printed(machine, capsys):
    """Of three that are there the oldest gets the usual environment, the newest one of its own."""
    machine("bin", python3_9="3.9 /a", python3_10="3.10 /b", python3_11="3.11 /c")
    assert pythons.main(machine.root) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [".venv /a", ".venv-3.11 /c"]
    assert said.err.splitlines() == ["Python 3.9: /a", "Python 3.10: /b", "Python 3.11: /c"]


def test_those_that_are_missing_are_named(machine, capsys):
    """One that is not installed is named, and the only one there is used alone; `python3` counts as what it is."""
    machine("bin", python3="3.10 /b")
    assert pythons.main(machine.root) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [".venv /b"]
    assert [line for line in said.err.splitlines() if "not found" in line] == [
        "Python 3.9: not found, so nothing is tested on it",
        "Python 3.11: not found, so nothing is tested on it",
    ]


def test_none_at_all_is_a_failure(machine, capsys):
    """Without any supported Python the next action is named."""
    assert pythons.main(machine.root) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("Next: install Python 3.9 or newer, so that python3.9 is on the PATH.\n")


def test_what_does_not_run_is_passed_over(machine):
    """A shim that fails, or that runs another version, is no interpreter: the next one on the PATH is looked at."""
    machine("shims", python3_9=None, python3_10="3.11 /other")
    machine("bin", python3_9="3.9 /a")
    assert (pythons.find("3.9"), pythons.find("3.10")) == ("/a", None)


def test_pyenv_is_asked_where_it_keeps_them(machine, monkeypatch):
    """Versions that pyenv has, but did not activate, are found, the newest patch first."""
    for patch in ("3.9.8", "3.9.18", "3.9.x"):
        place = machine(f"versions/{patch}/bin", python=f"3.9 {patch}")
        assert place.exists()
    monkeypatch.setattr(pythons.os, "get_exec_path", list)
    monkeypatch.setattr(pythons.shutil, "which", lambda name: name if name == "pyenv" else None)
    really = pythons.answer
    root = str(machine.root)
    monkeypatch.setattr(pythons, "answer", lambda command: root if command[0] == "pyenv" else really(command))
    assert pythons.find("3.9") == "3.9.18"


def test_the_project_says_what_it_supports():
    """The oldest version of the classifiers is the one the set-up asks for."""
    import bootstrap

    assert pythons.supported(pythons.ROOT)[0] == ".".join(map(str, bootstrap.OLDEST))
