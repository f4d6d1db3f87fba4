"""The JSON of pydantic-core, from its compiled module alone.

Importing the package `pydantic_core` takes half as long as importing asyncio: beside the compiled module it makes the
classes that describe schemas to type checkers, with the help of typing_extensions. A program without models needs none
of that. So the compiled module is loaded by itself, as the import system would do it; who imports the package later,
as pydantic does, gets the same classes.

House rule: only names that `pydantic_core` itself exports. Where its compiled module does not lie beside it, as in some
frozen programs, the package is imported.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import PydanticSerializationError, SchemaSerializer, from_json

__all__ = ["PydanticSerializationError", "SchemaSerializer", "from_json"]


def _core() -> Any:
    """Return the compiled module, or the package."""
    if "pydantic_core" not in sys.modules:
        package = PathFinder.find_spec("pydantic_core")
        places = package.submodule_search_locations if package else None
        spec = PathFinder.find_spec("pydantic_core._pydantic_core", places) if places else None
        if spec is not None and spec.loader is not None:
            core = module_from_spec(spec)
            spec.loader.exec_module(core)
            return core
    import pydantic_core

    return pydantic_core


if not TYPE_CHECKING:
    _loaded = _core()
    PydanticSerializationError = _loaded.PydanticSerializationError
    SchemaSerializer = _loaded.SchemaSerializer
    from_json = _loaded.from_json
