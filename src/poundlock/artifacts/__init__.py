"""A hierarchical, reactive dependency-injection container, usable on its own.

A template says how an artifact is built; a container holds what was built. Open `container.py` first.
"""

from __future__ import annotations

from poundlock.artifacts.bundle import Bundle, BundleItem
from poundlock.artifacts.container import ArtifactContainer
from poundlock.artifacts.context import Dependencies, FactoryContext, Resolved
from poundlock.artifacts.events import ArtifactEvent, Change, Observer
from poundlock.artifacts.health import Health
from poundlock.artifacts.keys import Use, key_name
from poundlock.artifacts.recipe import injections
from poundlock.artifacts.report import ArtifactInfo, DebugInfo, Statistics
from poundlock.artifacts.template import ArtifactTemplate, Codec
from poundlock.artifacts.templates import TemplateSet
from poundlock.model.definitions import Retry

__all__ = [
    "ArtifactContainer",
    "ArtifactEvent",
    "ArtifactInfo",
    "ArtifactTemplate",
    "Bundle",
    "BundleItem",
    "Change",
    "Codec",
    "DebugInfo",
    "Dependencies",
    "FactoryContext",
    "Health",
    "Observer",
    "Resolved",
    "Retry",
    "Statistics",
    "TemplateSet",
    "Use",
    "injections",
    "key_name",
]
