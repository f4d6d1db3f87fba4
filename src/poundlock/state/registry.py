"""How the state of a workflow's runs is created."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from poundlock.errors import ArtifactInvalid, DuplicateKey
from poundlock.state.store import StateStore

StateFactory: TypeAlias = Callable[[Mapping[str, Any], Any], StateStore]
"""Called with a run's initial state and the workflow's model (or None)."""


class StateRegistry:
    """Creates state stores; users may register their own factory per workflow.

    Args:
        default: creates the stores of workflows without their own factory; default `StateStore`.
    """

    def __init__(self, default: StateFactory | None = None) -> None:
        self._default: StateFactory = default or (lambda initial, model: StateStore(initial, model=model))
        self._factories: dict[str, StateFactory] = {}

    def register(self, workflow_id: str, factory: StateFactory) -> None:
        """Use `factory(initial, model)` for the runs of a workflow.

        Raises:
            DuplicateKey: the workflow has one; `unregister` it first.
        """
        if workflow_id in self._factories:
            raise DuplicateKey(
                f"the workflow '{workflow_id}' has a state factory already: unregister('{workflow_id}') first",
                key=workflow_id,
            )
        self._factories[workflow_id] = factory

    def unregister(self, workflow_id: str) -> None:
        """Remove a workflow's factory; a second call does nothing."""
        self._factories.pop(workflow_id, None)

    def has(self, workflow_id: str) -> bool:
        """Return whether a workflow has its own factory."""
        return workflow_id in self._factories

    def make(self, workflow_id: str, initial: Mapping[str, Any], model: Any = None) -> StateStore:
        """Return a new store for a run.

        Raises:
            ArtifactInvalid: the user's factory returned something that is not a state store.
            StateInvalid: the initial state does not match the model.
        """
        store = self._factories.get(workflow_id, self._default)(initial, model)
        missing = [name for name in ("get", "select", "subscribe") if not callable(getattr(store, name, None))]
        if missing:
            raise ArtifactInvalid(
                f"the state factory of '{workflow_id}' returned a {type(store).__qualname__}, which lacks "
                f"{', '.join(missing)}: return a StateStore, or an object with the same methods",
                workflow=workflow_id,
            )
        return store
