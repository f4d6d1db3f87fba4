"""Load a user's app: a Python file that defines `runtime`, or else workflows."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from poundlock.cli.options import needed
from poundlock.errors import FeedInvalid
from poundlock.records import dataclass

if TYPE_CHECKING:
    from poundlock.model.workflow_definition import WorkflowDefinition
    from poundlock.pipeline.builder import Workflow
    from poundlock.runtime.runtime import WorkflowRuntime


@dataclass(frozen=True, slots=True)
class App:
    """The content of an app's file. `runtime` is not started yet; without one, `workflows` need a new runtime."""

    path: Path
    runtime: WorkflowRuntime | None
    workflows: tuple[Workflow, ...]

    @property
    def definitions(self) -> tuple[WorkflowDefinition, ...]:
        """The definitions of its workflows, or of those its runtime is made with.

        Raises:
            DuplicateKey, InvalidDefinition: one has faults; all are listed.
        """
        workflows = self.workflows if self.runtime is None else self.runtime.workflows
        return tuple(workflow.definition for workflow in workflows)

    def runtime_on(self, store: str | None, *, named: bool = False) -> WorkflowRuntime:
        """Return the app's own runtime, or a new one with its workflows on this store.

        Args:
            store: URL of the store; None keeps everything in memory.
            named: the store was given explicitly, so it must not be ignored.

        Raises:
            FeedInvalid: the app has its own runtime, and so its own store.
        """
        from poundlock.runtime.runtime import WorkflowRuntime

        if self.runtime is None:
            return WorkflowRuntime(*self.workflows, store=store)
        if named:
            raise FeedInvalid(
                f"'{self.path}' has its own runtime and store: leave out --store, or define workflows instead of a "
                f"runtime",
                path="store",
            )
        return self.runtime


def load_app(path: Path) -> App:
    """Run an app's file and return its content.

    Raises:
        FeedInvalid: there is no such file, it raises, or it defines neither a runtime nor workflows.
    """
    from poundlock.pipeline.builder import Workflow
    from poundlock.runtime.runtime import WorkflowRuntime

    found = vars(_module(path))
    runtime = found.get("runtime")
    if runtime is not None and not isinstance(runtime, WorkflowRuntime):
        raise FeedInvalid(
            f"`runtime` in '{path}' is a {type(runtime).__qualname__}: make it a WorkflowRuntime, or rename it",
            path="app",
        )
    workflows = dict.fromkeys(value for value in found.values() if isinstance(value, Workflow))
    if runtime is None and not workflows:
        raise FeedInvalid(
            f"'{path}' defines no workflow: define one at module level, or a WorkflowRuntime named `runtime`",
            path="app",
        )
    return App(path, runtime, tuple(workflows))


def runtime_of(app: Path | None, store: str | None, *, named: bool) -> WorkflowRuntime:
    """Return the runtime that carries out a command on a run, not entered yet: the app's, or one without workflows.

    Args:
        app: the app's file, if one was given.
        store: URL of the store; the app's own runtime needs none.
        named: see `App.runtime_on`.

    Raises:
        UsageFault: no store was given, and the app has none.
        FeedInvalid: as `load_app` and `App.runtime_on`.
    """
    from poundlock.runtime.runtime import WorkflowRuntime

    if app is None:
        return WorkflowRuntime(store=needed(store))
    loaded = load_app(app)
    return loaded.runtime_on(needed(store) if loaded.runtime is None else store, named=named)


def _module(path: Path) -> ModuleType:
    if not path.is_file():
        raise FeedInvalid(f"there is no app '{path}': give the path of a Python file", path="app")
    name = f"poundlock_app_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FeedInvalid(f"'{path}' is not a Python file: give a path that ends in .py", path="app")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # type annotations of the app are resolved through it
    sys.path.insert(0, str(path.resolve().parent))  # as `python app.py` does, so that it can import its neighbours
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is user code, which may raise anything
        raise FeedInvalid(
            f"'{path}' cannot be loaded, {_error_text(error)} in {_where(error, path)}: fix it and try again",
            path="app",
        ) from error
    return module


def _error_text(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _where(error: BaseException, path: Path) -> str:
    """Return the last place inside the app's own file that led to the error."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"line {frames[-1].lineno}" if frames else "a file it imports"
