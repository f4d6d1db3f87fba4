"""The names users rely on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import poundlock
import poundlock.stores
import poundlock.testing

STUB = ast.parse(Path(poundlock.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))

PROMISED = [
    "PauseService",
    "EnvService",
    "Timeline",
    "Page",
    "WouldDeadlock",
    "Event",
    "Condition",
    "StateRef",
    "Workflow",
    "Trigger",
    "Pipeline",
    "Stage",
    "Step",
    "Retention",
    "Sensitive",
    "Retry",
    "Service",
    "Advance",
    "Jump",
    "JumpTo",
    "Terminate",
    "Fail",
    "Delay",
    "Pause",
    "Pending",
    "Wait",
    "Failure",
    "branch",
    "switch",
    "flow",
    "Task",
    "DELETE",
    "Overwrite",
    "Transient",
    "Serialized",
    "SingletonLoop",
    "Exclusive",
    "WorkflowRuntime",
    "Use",
    "Verdict",
    "RunStatus",
    "Receipt",
    "ReceiptLine",
    "RunResult",
    "RunInfo",
    "StepContext",
    "PoundlockError",
    "DuplicateKey",
    "AlreadyRegistered",
    "NotRegistered",
    "InvalidDefinition",
    "RunNotFinished",
    "NotMendable",
    "RunNotFound",
    "NotPaused",
    "StaleResume",
    "RunFinished",
    "RunExists",
    "IdempotencyConflict",
    "ArtifactNotFound",
    "ArtifactCycle",
    "ArtifactTimeout",
    "ScopeViolation",
    "ContainerDisposed",
    "StateInvalid",
    "StaleVersion",
    "LeaseLost",
    "Contended",
    "NotStorable",
    "OutputMissing",
    "InvalidEvent",
    "AnswerInvalid",
    "StoreFull",
    "StoreUnavailable",
    "StoreCorrupt",
    "StoreTooNew",
    "UnknownCodec",
    "WorkflowPaused",
    "StepTimeout",
    "RunTimeout",
    "RunAborted",
]


def stub_all():
    for node in STUB.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError("the stub has no __all__")


def test_the_stub_lists_what_the_package_offers():
    """`__all__` of the package, `__all__` of its stub and the names the stub imports are the same."""
    imported = {alias.asname for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(poundlock.__all__) == sorted(stub_all()) == sorted(imported)
    assert len(set(poundlock.__all__)) == len(poundlock.__all__)


@pytest.mark.parametrize("name", poundlock.__all__)
def test_each_name_can_be_imported_from_where_the_stub_says(name):
    """Every public name is there, and is the object the stub's module holds."""
    homes = [n.module for n in STUB.body if isinstance(n, ast.ImportFrom) if name in {a.asname for a in n.names}]
    assert len(homes) == 1
    __import__(homes[0])
    assert getattr(poundlock, name) is getattr(sys.modules[homes[0]], name)


def test_everything_promised_is_offered():
    """The fixed names of the public interface are all there."""
    assert sorted(set(PROMISED) - set(poundlock.__all__)) == []


def test_every_error_that_is_offered_is_raised():
    """A name stands for something that works: each error class is raised somewhere, or is the root of one that is.

    Two are for users to raise.
    """
    from poundlock import errors

    source = Path(poundlock.__file__).parent
    text = "".join(file.read_text(encoding="utf-8") for file in source.rglob("*.py") if file.name != "errors.py")
    kinds = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)]
    by_users = ("NonRetryable", "RetryAfter")
    idle = [kind.__name__ for kind in kinds if not kind.__subclasses__() and f"{kind.__name__}(" not in text]
    idle = [name for name in idle if name not in by_users]
    assert idle == []


def test_each_store_can_be_named():
    """The stores are offered by their package, and what is none is an AttributeError."""
    assert {name for name in poundlock.stores.__all__ if isinstance(getattr(poundlock.stores, name), type)} == {
        "MemoryStore",
        "SqliteStore",
    }
    assert "SqliteStore" in dir(poundlock.stores)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = poundlock.stores.Nothing


def test_an_unknown_name_is_an_attribute_error():
    """A name that is none says so like any module."""
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = poundlock.Nothing
    with pytest.raises(AttributeError):
        _ = poundlock.testing.Nothing


def test_every_error_has_a_code_of_its_own():
    """Codes are stable identifiers: no two errors share one."""
    from poundlock import errors

    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PoundlockError)
    ]
    codes = [kind.code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert all(code == code.upper() for code in codes)


@pytest.mark.parametrize(
    "code",
    [
        "import poundlock",
        "import poundlock; poundlock.Event('x')",
        "import poundlock; wf = poundlock.Workflow('w'); poundlock.Wait('x')",
    ],
)
def test_definitions_load_nothing_heavy(code):
    """Importing the package, and writing definitions, loads no heavy library."""
    heavy = ["blinker", "dependency_injector", "pydantic", "pydantic_core", "rich", "sqlite_utils", "tenacity", "typer"]
    program = f"import sys\n{code}\nprint(*(name for name in {heavy!r} if name in sys.modules))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == []
