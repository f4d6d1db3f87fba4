"""Pages that promise something name the tests that hold it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAD = "| tested promise | by |\n|---|---|\n"
_GROUP = re.compile(r"((?:`test_\w+`(?:, )?)+) in \[([\w.]+)\]\(([^)]+)\)")


def sections(page):
    """Return the sections of a page by their heading, without code blocks."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    return {part.partition("\n")[0]: part for part in re.split(r"(?m)^## ", text)[1:]}


def functions(path):
    """Return the names of the functions that a file defines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def faults_of(page):
    """Return what is wrong with the tables of tests of a page."""
    faults = []
    for heading, text in sections(page).items():
        _, head, table = text.partition(HEAD)
        rows = [line for line in table.splitlines() if line.startswith("|")]
        if not head or not rows:
            faults.append(f"{heading}: names no test")
        for row in rows:
            promise, _, tests = row.strip("| ").partition(" | ")
            groups = _GROUP.findall(tests)
            if not promise or ", ".join(f"{names} in [{name}]({link})" for names, name, link in groups) != tests:
                faults.append(f"{heading}: cannot be read: {row}")
            for names, name, link in groups:
                file = (page.parent / link).resolve()
                known = functions(file) if file.is_file() and file.name == name else set()
                missing = [test for test in re.findall(r"`(\w+)`", names) if test not in known]
                faults += [f"{heading}: no {test} in {link}" for test in missing]
    return faults


@pytest.mark.parametrize("name", ["delivery", "concurrency"])
def test_each_section_names_tests_that_exist(name):
    """Each section ends with a table of its promises, and each test in it is a function of the linked file."""
    page = ROOT / "docs" / "explanation" / f"{name}.md"
    assert len(sections(page)) >= 7
    assert faults_of(page) == []


def test_what_is_wrong_is_found(tmp_path):
    """A section without a table, a function that is gone, a file that is gone and a row without a link are told."""
    (tmp_path / "test_a.py").write_text("def test_there(): ...\n", encoding="utf-8")
    rows = (
        "| fine | `test_there` in [test_a.py](test_a.py) |\n"
        "| gone | `test_there`, `test_gone` in [test_a.py](test_a.py) |\n"
        "| no file | `test_there` in [test_b.py](test_b.py) |\n"
        "| no link | `test_there` |\n"
    )
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n## One\n\nText.\n\n{HEAD}{rows}\n## Two\n\nIt is so.\n", encoding="utf-8")
    assert faults_of(page) == [
        "One: no test_gone in test_a.py",
        "One: no test_there in test_b.py",
        "One: cannot be read: | no link | `test_there` |",
        "Two: names no test",
    ]
