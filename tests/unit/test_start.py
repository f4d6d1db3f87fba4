"""A program pays for what it uses: what is not loaded, and that what is loaded late is the real thing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pydantic_core
import pytest
from support import unmeasured

from poundlock import json_core

README = Path(__file__).resolve().parents[2] / "README.md"
HELLO = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)[1]
UNUSED = {
    "cronsim",
    "dependency_injector",
    "poundlock.artifacts",
    "poundlock.cli",
    "poundlock.model.cron",
    "poundlock.state",
    "poundlock.stores.sqlite",
    "poundlock.testing",
    "pydantic",
    "pydantic_core",
    "rich",
    "sqlite3",
    "sqlite_utils",
    "tenacity",
    "typer",
    "typing_extensions",
    "zoneinfo",
}


def run(code):
    """What a program of its own prints."""
    environment = unmeasured()  # coverage would load sqlite3
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_hello_loads_only_what_it_uses():
    """The first program of the README, whose store is memory and which has no services and no models."""
    said, loaded = run(f"{HELLO}\nimport json, sys\nprint(json.dumps(list(sys.modules)))")
    assert said == "Hello Ada"
    assert "poundlock.runtime.runtime" in json.loads(loaded)
    assert set(json.loads(loaded)) & UNUSED == set()


AFTERWARDS = """
from poundlock import codecs, json_core
assert codecs.pack({"a": 1}) == ({"a": 1}, '{"a":1}')

import pydantic, pydantic_core
assert json_core.SchemaSerializer is pydantic_core.SchemaSerializer
assert json_core.PydanticSerializationError is pydantic_core.PydanticSerializationError

class Model(pydantic.BaseModel):
    a: int

assert codecs.pack(Model(a=2)) == ({"a": 2}, '{"a":2}')
try:
    Model(a="x")
except pydantic_core._pydantic_core.ValidationError as error:
    print(type(error) is pydantic_core.ValidationError)
"""


def test_pydantic_comes_later():
    """A program that uses pydantic afterwards has one pydantic_core, whole, with the classes that Poundlock uses."""
    assert run(AFTERWARDS) == ["True"]


def test_pydantic_comes_first():
    """Where the package is loaded already, it is the one that is used."""
    assert json_core._core() is pydantic_core


HIDDEN = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = {hide} == name
        return None if found else PathFinder.find_spec(name, path, target)

import importlib.machinery
importlib.machinery.PathFinder = Hiding
from poundlock import codecs
print("pydantic_core" in sys.modules, codecs.pack([1])[1])
"""


@pytest.mark.parametrize("hide", ["pydantic_core", "pydantic_core._pydantic_core"])
def test_no_compiled_module_to_be_found(hide):
    """Where it cannot be found in the usual way, as in a program in one file, the package is imported."""
    assert run(HIDDEN.format(hide=repr(hide))) == ["True [1]"]
