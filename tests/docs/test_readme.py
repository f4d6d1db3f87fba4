"""What the README promises about itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
FIRST_SCREEN = 72
"""Lines."""


def workflow_lines(block):
    """Return the lines of a program that are not the frame every program has: imports, `main` and its call."""
    frame = re.compile(r"(import|from) |async def main\(\):|asyncio\.run\(")
    return [line for line in block.text.splitlines() if line.strip() and not frame.match(line)]


@pytest.fixture
def programs(blocks):
    return [block for block in blocks(README) if block.kind == "python"]


def test_hello_has_at_most_six_lines(programs):
    """Hello takes six lines of workflow code at most, and says hello."""
    hello = programs[0]
    assert len(workflow_lines(hello)) <= 6
    assert hello.output == "Hello Ada\n"


def test_the_approval_has_at_most_twelve_lines(programs):
    """A durable run that waits for a person takes twelve lines at most, pauses, and is resumed."""
    approval = programs[1]
    assert len(workflow_lines(approval)) <= 12
    assert {"wait", "emit"} <= {
        node.attr for node in ast.walk(ast.parse(approval.text)) if isinstance(node, ast.Attribute)
    }
    assert "sqlite:///" in approval.text
    assert approval.output is not None
    assert approval.output.startswith("paused")


def test_each_program_is_complete(programs):
    """Each program of the README can be copied into a file and run: it imports what it uses and starts itself."""
    for program in programs[:2]:
        compile(program.text, "README.md", "exec")
        names = {
            alias.name
            for node in ast.walk(ast.parse(program.text))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert {"Workflow", "WorkflowRuntime"} <= names
        assert program.text.rstrip().endswith("asyncio.run(main())")


def test_the_first_screen_says_what_and_how(blocks):
    """What it is, hello, the approval and the two commands stand on the first screen."""
    first = "\n".join(README.read_text(encoding="utf-8").splitlines()[:FIRST_SCREEN])
    assert all(wanted in first for wanted in ("Hello Ada", "paused at approval", "make demo", "make test"))
    [commands] = [block for block in blocks(README) if block.kind == "sh" and "make demo" in block.text]
    targets = re.findall(r"^make (\w+)$", commands.text, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_each_guarantee_names_a_test_that_exists():
    """Behind every guarantee stands a test, and it is there."""
    text = README.read_text(encoding="utf-8")
    section = text.partition("## What it guarantees\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!guarantee|-)(.+) \|$", section, re.MULTILINE)
    assert len(rows) >= 8
    for row in rows:
        places = re.findall(r"\]\(([\w/]+\.py)\)", row)
        names = re.findall(r"`(test_\w+)`", row)
        assert places, row
        assert names, row
        sources = "".join((ROOT / place).read_text(encoding="utf-8") for place in places)
        assert [name for name in names if not re.search(rf"def {name}\(", sources)] == []
