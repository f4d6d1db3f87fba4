"""The test kit: for tests of Poundlock itself, of workflows, and of custom stores and buses.

House rules: the rest of the package imports nothing from here. Each name is imported on first use, so that a test of a
pipeline does not load every contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from poundlock.testing.clock import VirtualClock, run_until_idle
    from poundlock.testing.recording import RecordingBus
    from poundlock.testing.sequencer import Sequencer
    from poundlock.testing.timelines import MemoryTimeline, memory_timeline

__all__ = [
    "MemoryTimeline",
    "RecordingBus",
    "Sequencer",
    "VirtualClock",
    "bus_contract",
    "memory_timeline",
    "run_until_idle",
    "store_contract",
]

_HOMES: Final = {
    "MemoryTimeline": "poundlock.testing.timelines",
    "RecordingBus": "poundlock.testing.recording",
    "Sequencer": "poundlock.testing.sequencer",
    "VirtualClock": "poundlock.testing.clock",
    "memory_timeline": "poundlock.testing.timelines",
    "run_until_idle": "poundlock.testing.clock",
}
_MODULES: Final = frozenset({"bus_contract", "store_contract"})


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"poundlock.testing.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'poundlock.testing' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
