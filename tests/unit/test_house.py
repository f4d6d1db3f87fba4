"""What the project promises about itself."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import check_text
import poundlock

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RUFF_FILES = {"pyproject.toml": PYPROJECT["tool"]["ruff"]["lint"]}
for _folder in ("tests", "typing_tests"):
    _text = (ROOT / _folder / "ruff.toml").read_text(encoding="utf-8")
    RUFF_FILES[f"{_folder}/ruff.toml"] = tomllib.loads(_text)["lint"]


def locked() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def test_constraints_pin_and_nothing_else():
    """`constraints.txt` holds only `name==version` lines: no index, hash, address or path can slip in with it."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)] == []
    assert len(locked()) == len(lines)


def test_everything_the_project_brings_in_is_pinned_and_runs_in_that_version():
    """The tests run in the pinned versions of every dependency, and of what those bring in themselves."""
    pins, seen, todo = locked(), set(), [Requirement("poundlock[cli,dev]")]
    while todo:
        wanted = todo.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        # pip comes with the interpreter
        if key in seen or key[0] == "pip":
            continue
        seen.add(key)
        installed = distribution(wanted.name)
        if key[0] != "poundlock":
            assert pins.get(key[0]) == installed.version, wanted.name
        requirements = [Requirement(text) for text in installed.requires or ()]
        extras = wanted.extras or {""}
        todo += [r for r in requirements if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)]
    assert len(seen) > len(PYPROJECT["project"]["dependencies"])


@pytest.mark.parametrize("name", RUFF_FILES)
def test_each_lint_exception_carries_its_reason(name):
    """A rule is switched off, everywhere or for some files, only with a sentence behind it."""
    lint = RUFF_FILES[name]
    codes = [*lint.get("ignore", []), *lint.get("extend-ignore", [])]
    codes += [code for per_file in lint.get("per-file-ignores", {}).values() for code in per_file]
    text = (ROOT / name).read_text(encoding="utf-8")
    assert re.findall(r'^    "([A-Z]+[0-9]*)", +# \w.{15,}$', text, re.MULTILINE) == codes


def test_each_excuse_on_a_line_carries_its_reason():
    """A rule is excused on a line only by name and with a reason behind a dash."""
    mark = "# no" + "qa"
    folders = ("src", "tests", "scripts", "examples", "bench")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lines = [f"{path}: {line}" for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    excuses = [line for line in lines if mark in line]
    assert [line for line in excuses if not re.search(mark + r": [A-Z]+\d+(, ?[A-Z]+\d+)* - \w", line)] == []


def test_version_is_the_same_everywhere():
    """`poundlock.__version__`, the installed package and `pyproject.toml` name one version."""
    assert poundlock.__version__ == distribution("poundlock").version == PYPROJECT["project"]["version"]


def test_import_poundlock_is_light():
    """`import poundlock` loads no library, neither a required nor an optional one."""
    heavy = {"blinker", "dependency_injector", "pydantic", "rich", "sqlite_utils", "tenacity", "typer"}
    code = f"import sys, poundlock; print(*({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []


def test_fragments_are_named_by_the_convention():
    """What stands in `changes/` goes into the release notes: named `<slug>.<kind>.md`, and never empty."""
    fragments = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    assert [p.name for p in fragments if not re.fullmatch(r"[a-z0-9-]+\.(added|changed|fixed)\.md", p.name)] == []
    assert [p.name for p in fragments if not p.read_text(encoding="utf-8").strip()] == []


@pytest.fixture
def repository(tmp_path):
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    return tmp_path


@pytest.mark.parametrize(
    "planted",
    [
        f"pip install --index-url https://{check_text.INDEXES[0]}/simple",
        f"image from {check_text.INDEXES[3]}",
        f'open("/{check_text.PLACES[1]}/jo/data.json")',
        f"sqlite:////{check_text.PLACES[3]}/runs.db",
    ],
)
def test_text_check_finds_machine_and_index(repository, capsys, planted):
    """A new file that names a package index or somebody's path fails the check, which says where it stands."""
    (repository / "notes.md").write_text(f"fine\n{planted}\n", encoding="utf-8")
    assert check_text.main(repository) == 1
    assert f"notes.md:2: {planted}" in capsys.readouterr().out


def test_text_check_lets_the_rest_pass(repository):
    """Relative paths, addresses of pages, binary files and what git ignores are no findings."""
    (repository / "notes.md").write_text(f"src/{check_text.PLACES[3]}/x https://example.org/{check_text.PLACES[1]}/\n")
    (repository / "picture.png").write_bytes(b"\x89PNG\xff" + check_text.INDEXES[0].encode())
    (repository / ".gitignore").write_text("ignored\n")
    (repository / "ignored").write_text(check_text.INDEXES[0])
    assert check_text.main(repository) == 0
