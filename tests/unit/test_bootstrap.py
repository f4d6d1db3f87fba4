"""The set-up of a fresh clone, without network: what it trusts, and what it says when it cannot go on."""

from __future__ import annotations

from pathlib import Path

import pytest

import bootstrap

PROJECT = """
[build-system]
requires = ["hatchling"]
[project]
name = "boat"
[tool.ruff]
line-length = 120
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "constraints.txt").write_text("rope==1.0\n")
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """Every command is remembered and succeeds, unless it is one of `commands.failing`; a venv gets an interpreter."""

    class Commands(list):
        failing = ()

        def run(self, root, command, **environment):
            self.append(command)
            if "venv" in command:
                python = bootstrap.python_of(Path(command[-1]))
                python.parent.mkdir(parents=True)
                python.touch()
            return not any(word in command for word in self.failing)

    recorded = Commands()
    monkeypatch.setattr(bootstrap, "run", recorded.run)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    return recorded


def test_second_call_does_nothing(root, commands):
    """An environment that is ready is left alone."""
    bootstrap.main(root)
    done = len(commands)
    bootstrap.main(root)
    assert done == len(commands) == 2


def test_new_constraints_build_a_new_environment(root, commands):
    """What is installed follows the files: a changed pin builds anew, and leaves nothing of the old environment."""
    bootstrap.main(root)
    (root / ".venv/leftover").touch()
    (root / "constraints.txt").write_text("rope==1.1\n")
    bootstrap.main(root)
    assert len(commands) == 4
    assert not (root / ".venv/leftover").exists()


def test_settings_of_tools_build_nothing(root, commands):
    """Changing a lint rule costs nobody a set-up."""
    bootstrap.main(root)
    (root / "pyproject.toml").write_text(PROJECT.replace("120", "100"))
    bootstrap.main(root)
    assert len(commands) == 2


def test_moved_tree_builds_its_own_environment(root, commands, tmp_path_factory):
    """A copied tree does not use the environment it brought along, which points at the original."""
    bootstrap.main(root)
    copy = tmp_path_factory.mktemp("copy") / "tree"
    bootstrap.shutil.copytree(root, copy)
    bootstrap.main(copy)
    assert len(commands) == 4


def test_killed_half_way_is_not_trusted(root, commands, monkeypatch):
    """A set-up that was killed while it installed is done again from nothing, though a good one stood there before."""

    def killed(root, venv):
        raise KeyboardInterrupt

    bootstrap.main(root)
    (root / "constraints.txt").write_text("rope==1.1\n")
    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "with_pip", killed)
        with pytest.raises(KeyboardInterrupt):
            bootstrap.main(root)
    (root / "constraints.txt").write_text("rope==1.0\n")
    bootstrap.main(root)
    assert len(commands) == 4


def test_pip_takes_over_where_uv_fails(root, commands, monkeypatch, capsys):
    """What uv, which reads another configuration, cannot install is left to pip, and the reader is told."""
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "uv")
    commands.failing = ("uv",)
    bootstrap.main(root)
    assert [command[0] == "uv" for command in commands] == [True, False, False]
    assert "pip" in capsys.readouterr().err


def test_old_python_gets_a_sentence():
    """A Python that is too old is told so, with the one that is needed and how to name it."""
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer, but .* is 3\.9\. Next: .* PYTHON=python3\.11"):
        bootstrap.require_python((3, 9))


def test_python_without_venv_gets_a_sentence(root, commands, monkeypatch):
    """Where Debian left out ensurepip, the package that brings it is named, and nothing is half made."""
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        bootstrap.main(root)
    assert commands == []


def test_failing_pip_gets_a_sentence(root, commands):
    """When pip fails, for want of a network perhaps, the next action is named and the next call starts anew."""
    commands.failing = ("pip",)
    with pytest.raises(SystemExit, match="see that the network"):
        bootstrap.main(root)
    commands.failing = ()
    bootstrap.main(root)
    assert len(commands) == 4


def test_another_python_has_an_environment_of_its_own(root, commands, monkeypatch):
    """An environment of another name is made beside the usual one, which stays as it is."""
    bootstrap.main(root)
    bootstrap.main(root, ".venv-3.13")
    assert [Path(command[-1]).name for command in commands if "venv" in command] == [".venv", ".venv-3.13"]
    done = len(commands)
    bootstrap.main(root)
    bootstrap.main(root, ".venv-3.13")
    assert done == len(commands) == 4
