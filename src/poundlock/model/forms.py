"""The form of an answer: a pydantic model, or a JSON schema, of what it has to contain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

EXTRA = "poundlock[forms]"
"""What has to be installed to check JSON schemas."""


def is_model_form(form: object) -> bool:
    """Whether a form is a pydantic model."""
    return isinstance(form, type) and hasattr(form, "model_json_schema")


@lru_cache(maxsize=256)
def _schema_of_model(form: Any) -> Mapping[str, Any]:
    schema: Mapping[str, Any] = form.model_json_schema()
    return schema


def schema_of(form: Any) -> Mapping[str, Any]:
    """Return a form as JSON schema; it must not be changed. Raises what a model raises that has none."""
    return _schema_of_model(form) if is_model_form(form) else dict(form)
