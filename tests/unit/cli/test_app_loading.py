"""Loading apps."""

from __future__ import annotations

import sys

import pytest

from poundlock.cli.app_loading import load_app
from poundlock.errors import FeedInvalid


@pytest.fixture
def load(tmp_path):
    def write(text, name="app.py"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return load_app(path)

    return write


@pytest.fixture(autouse=True)
def own_imports(monkeypatch):
    """Forget the apps and where they lie, and nothing else: a module of ours imported twice has each class twice."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("poundlock_app_") or name == "desk_parts"]:
        del sys.modules[name]


def test_workflows_come_in_the_order_they_are_defined(load):
    """Without a runtime an app is its workflows, each once, in the order of their definition."""
    app = load("from poundlock import Workflow\nb = Workflow('b')\na = Workflow('a')\nagain = b\n")
    assert app.runtime is None
    assert [workflow.id for workflow in app.workflows] == ["b", "a"]


def test_runtime_comes_first(load):
    """A runtime named `runtime` is used as it is, with its own store."""
    app = load("from poundlock import *\nwf = Workflow('w')\nruntime = WorkflowRuntime(wf)\n")
    assert app.runtime is not None
    assert app.runtime_on("sqlite:///ignored.db") is app.runtime
    with pytest.raises(FeedInvalid, match="has its own runtime and store"):
        app.runtime_on("sqlite:///meant.db", named=True)


def test_app_finds_its_neighbours(load, tmp_path):
    """An app may import what lies next to it, as if it had been started by itself."""
    (tmp_path / "desk_parts.py").write_text("name = 'neighbour'\n", encoding="utf-8")
    app = load("import desk_parts\nfrom poundlock import Workflow\nwf = Workflow(desk_parts.name)\n")
    assert [workflow.id for workflow in app.workflows] == ["neighbour"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\n", "defines no workflow"),
        ("x = \n", "SyntaxError: invalid syntax in line 1"),
        ("import nothing_of_that_name\n", "ModuleNotFoundError: .* in line 1"),
        ("x = 1\nraise SystemExit('no')\n", "SystemExit: no in line 2"),
        ("runtime = 3\n", "`runtime` in .* is a int"),
    ],
)
def test_app_that_cannot_be_used(load, text, told):
    """An app that is broken, or holds nothing to run, is refused in one sentence that names the place."""
    with pytest.raises(FeedInvalid, match=told):
        load(text)


def test_file_that_is_no_app(tmp_path):
    """A path without a file, and a file that is no Python, are refused."""
    with pytest.raises(FeedInvalid, match="there is no app"):
        load_app(tmp_path / "nowhere.py")
    other = tmp_path / "notes.txt"
    other.write_text("hello", encoding="utf-8")
    with pytest.raises(FeedInvalid, match=r"ends in \.py"):
        load_app(other)
