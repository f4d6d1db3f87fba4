"""Reading pages and running what they print; one runner for README.md and everything under docs/.

What a page may contain:

- A `python` block is run as it stands, in order, in one namespace per page and in an empty folder. It may use a bare
  `await`, as in `python -m asyncio`. A `text` block right behind it is what it prints.
- A `python` block whose first line is a comment with a file name (`# orders.py`) is written to that file instead; a
  later `console` block, or such a file that one uses, has to use it. So is an `ini` block, for settings.
- In a `console` block each `$ command` is run, and the lines behind it are what it prints.
- In both kinds of output `...` stands for anything within a line, and alone on a line for any number of lines.
- Other blocks (`sh`, `text` elsewhere, `mermaid`, `json`, `toml`) are only shown.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import LAST_RESORT

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<kind>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_NAMED = {"python": re.compile(r"# ([\w-]+\.py)\n"), "ini": re.compile(r"# ([\w-]+\.ini)\n")}


@dataclass(frozen=True)
class Block:
    """A fenced block: its kind, its text, the line it begins at, and the `text` block right behind it."""

    kind: str
    text: str
    line: int
    output: str | None

    @property
    def file(self) -> str | None:
        """The name of the file this block is, if it is one."""
        named = _NAMED[self.kind].match(self.text) if self.kind in _NAMED else None
        return named[1] if named else None


def read_blocks(text: str) -> list[Block]:
    found = list(_FENCE.finditer(text))
    blocks = []
    for place, match in enumerate(found):
        behind = found[place + 1] if place + 1 < len(found) else None
        close = behind is not None and behind["kind"] == "text" and not text[match.end() : behind.start()].strip()
        dedented = re.sub(f"^{match['indent']}", "", match["text"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("text")) + 1
        blocks.append(Block(match["kind"], dedented, line, behind["text"] if behind is not None and close else None))
    return blocks


def printed_as_shown(printed: str, shown: str) -> bool:
    pattern = ""
    for line in _lines(shown):
        if line == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*?".join(re.escape(part) for part in line.split("...")) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(printed))) is not None


def _lines(text: str) -> list[str]:
    """Return the lines with each run of blanks as one: columns are as wide as what stands in them."""
    return [re.sub(r"[ \t]+", " ", line).strip() for line in text.strip().splitlines()]


class PageRunner:
    """Runs the blocks of one page, one after another."""

    def __init__(self, path: Path, loop: asyncio.Runner) -> None:
        self._path = path
        self._loop = loop
        self._namespace: dict[str, Any] = {"__name__": "__main__"}
        self._unused: set[str] = set()
        self.ran = 0

    def run(self) -> None:
        for block in read_blocks(self._path.read_text(encoding="utf-8")):
            where = f"{self._path.name}:{block.line}"
            if block.file is not None:
                Path(block.file).write_text(block.text, encoding="utf-8")
                self._unused |= {block.file} if block.kind == "python" else set()
            elif block.kind == "python":
                self._check(where, self._python(block), block.output)
            elif block.kind == "console":
                for command, shown in _commands(block.text):
                    self._check(f"{where}: {command}", self._command(command), shown)
        assert not self._unused, f"{self._path.name} never uses {self._unused}"

    def _python(self, block: Block) -> str:
        self.ran += 1
        # Line breaks in front, so that a traceback names the line of the page.
        source = "\n" * (block.line - 1) + block.text
        code = compile(source, str(self._path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            if code.co_flags & inspect.CO_COROUTINE:
                self._loop.run(eval(code, self._namespace))
            else:
                exec(code, self._namespace)
        return out.getvalue()

    def _command(self, command: str) -> str:
        self.ran += 1
        used = set(re.findall(r"[\w-]+\.py", command))
        sources = "".join(Path(name).read_text(encoding="utf-8") for name in used if Path(name).exists())
        self._unused -= used | {f"{name}.py" for name in re.findall(r"^from (\w+) import", sources, re.MULTILINE)}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "COLUMNS": "120"}
        done = subprocess.run(
            command,
            shell=True,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=LAST_RESORT,
            check=False,
        )
        return done.stdout

    def _check(self, where: str, printed: str, shown: str | None) -> None:
        assert shown is None or printed_as_shown(printed, shown), f"{where} prints\n{printed}\ninstead of\n{shown}"


def _commands(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield each command with what is shown behind it; None where nothing is, which leaves it open."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown if shown.strip() else None


@pytest.fixture
def run_page(tmp_path, monkeypatch):
    """Run a page in an empty folder; returns how many blocks and commands it ran."""

    def run(path: Path) -> int:
        monkeypatch.chdir(tmp_path)
        with asyncio.Runner() as loop:
            page = PageRunner(path, loop)
            page.run()
        return page.ran

    return run


@pytest.fixture
def blocks():
    """Return the blocks of a page."""
    return lambda path: read_blocks(path.read_text(encoding="utf-8"))


@pytest.fixture
def compare():
    """Return the comparison of what was printed with what a page shows."""
    return printed_as_shown
