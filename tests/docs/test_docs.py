"""The documentation: it runs, its links lead somewhere, its names exist, and what code prints is up to date."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import api_reference
import error_catalogue
from poundlock.errors import PoundlockError
from poundlock.model.lifecycle import RunStatus, draw
from poundlock.model.schedules import TIME_EVENT

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "poundlock"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]

_FENCED = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_MODULE_FILE = re.compile(r"`((?:[\w-]+/)+(?:[\w-]+\.py)?|[\w-]+\.py)`")


def prose(path):
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def anchors(path):
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_each_page_runs_as_printed(run_page, name):
    """Every `python` block and every `console` command of every page runs, and prints what the page shows."""
    run_page(ROOT / name)


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    """Every relative link leads to a file that is there, and to a heading in it if it names one."""
    page = ROOT / name
    broken = []
    for link in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("name", NAMES)
def test_dotted_names_exist(name):
    """Whatever a page calls `poundlock.something` can be imported under that name."""
    text = (ROOT / name).read_text(encoding="utf-8")
    unknown = [
        dotted for dotted in sorted(set(re.findall(r"(?<![\w/.])poundlock(?:\.\w+)+", text))) if not found(dotted)
    ]
    assert set(unknown) <= {TIME_EVENT}  # a type of events looks the same


def found(dotted):
    parts = dotted.split(".")
    for place in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:place]))
        except ModuleNotFoundError:
            continue
        for part in parts[place:]:
            if not hasattr(value, part):
                return False
            value = getattr(value, part)
        return True
    return False


def test_files_named_in_explanations_exist():
    """Whatever file or folder an explanation names in code style is there, in the package or in the repository."""
    pages = (DOCS / "explanation").glob("*.md")
    named = [(page.name, name) for page in pages for name in _MODULE_FILE.findall(prose(page))]
    assert [each for each in named if not any((base / each[1]).exists() for base in (SOURCE, ROOT))] == []


def test_the_table_of_files_names_each_file_once():
    """The table of the architecture names each file of each package once, by itself or with its folder."""
    page = (DOCS / "explanation/architecture.md").read_text(encoding="utf-8")
    table = page.partition("\n## Where to find what\n")[2].partition("\n## ")[0]
    named = _MODULE_FILE.findall(table)
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    folders = [name for name in named if name.endswith("/") and name.strip("/") not in packages - {"artifacts"}]
    files = [str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py") if path.name != "__init__.py"]
    of_packages = [name for name in files if "/" in name]
    assert [name for name in of_packages if name not in named and not name.startswith(tuple(folders))] == []
    assert [name for name in named if name.endswith(".py") and named.count(name) > 1] == []


def test_files_of_the_walk_exist():
    """The figure of an event's walk names files that are there."""
    page = (DOCS / "explanation/architecture.md").read_text(encoding="utf-8")
    [walk] = re.findall(r"^```text\n(  emit.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names = re.findall(r"[\w/]+\.py", walk)
    assert len(names) > 10
    assert [name for name in names if not (SOURCE / name).exists()] == []


def test_every_page_is_in_the_index():
    """Each page can be found from the index."""
    listed = {(DOCS / link).resolve() for link in _LINK.findall(prose(DOCS / "index.md"))}
    assert [str(page) for page in PAGES if page not in listed and page.name != "index.md"] == []


def test_the_diagram_is_printed_from_the_table():
    """The figure of a run's life is what `draw()` prints, and its table explains every status."""
    text = (DOCS / "explanation/lifecycle.md").read_text(encoding="utf-8")
    assert re.findall(r"^```mermaid\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) == [draw()]
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(RunStatus)


def test_the_error_catalogue_is_printed_from_the_classes():
    """The catalogue holds every error class with its code, its meaning and what to do, as the classes have them."""
    page = (DOCS / "reference/errors.md").read_text(encoding="utf-8")
    assert page == error_catalogue.page(), "run scripts/error_catalogue.py > docs/reference/errors.md"


def test_the_reference_is_printed_from_the_code():
    """The page of classes and methods holds every public name, with its arguments and texts as the code has them."""
    page = (DOCS / "reference/api.md").read_text(encoding="utf-8")
    assert page == api_reference.page(), "run scripts/api_reference.py > docs/reference/api.md"


def test_error_codes_are_unique():
    """No two error classes share a code, and each has a sentence of explanation."""
    kinds: list[type[PoundlockError]] = [PoundlockError, *error_catalogue.classes()]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert [kind.__name__ for kind in kinds if not vars(kind).get("__doc__")] == []


def test_dependencies_and_bounds_are_those_of_the_project():
    """The table of dependencies lists what the project requires, in the same bounds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *project["optional-dependencies"]["cli"],
        *project["optional-dependencies"]["forms"],
    ]
    shown = re.findall(r"^\| ([\w-]+) \| `([^`]+)` \|", prose(DOCS / "explanation/dependencies.md"), re.MULTILINE)
    assert {(r.name, str(r.specifier)) for r in map(Requirement, wanted)} == {
        (name, str(Requirement(f"{name}{bounds}").specifier)) for name, bounds in shown
    }


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a\nb\n", "a\nb\n", True),
        ("a\nb\n", "a\n", False),
        ("id 17 done\n", "id ... done\n", True),
        ("a\nx\ny\nz\n", "a\n...\nz\n", True),
        ("a\nz\n", "a\n...\nz\n", True),
        ("a.b\n", "axb\n", False),
        ("", "", True),
        ("a\n", "", False),
    ],
)
def test_output_is_compared(compare, printed, shown, same):
    """Output is compared as a whole; `...` stands for the rest of a line, or alone for any number of lines."""
    assert compare(printed, shown) is same
