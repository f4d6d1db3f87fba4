"""The reactive state of one run, and the registry of its factories. Open `store.py` first."""

from __future__ import annotations

from poundlock.marks import DELETE, Overwrite
from poundlock.state.registry import StateFactory, StateRegistry
from poundlock.state.store import Commit, StateStore, Transaction
from poundlock.state.views import ListView, MappingView, plain, view

__all__ = [
    "DELETE",
    "Commit",
    "ListView",
    "MappingView",
    "Overwrite",
    "StateFactory",
    "StateRegistry",
    "StateStore",
    "Transaction",
    "plain",
    "view",
]
