"""The order of a pipeline's stages: which one begins, and which one comes after each."""

from __future__ import annotations

from collections.abc import Sequence

from poundlock.model.definitions import Stage


def course(stages: Sequence[Stage]) -> list[str]:
    """Return the ids of the stages that a run goes through if nothing leads elsewhere: those that are not aside."""
    return [stage.id for stage in stages if not stage.aside]


def next_stages(stages: Sequence[Stage]) -> dict[str, str | None]:
    """Return the stage after each one, where no router and no step says otherwise; None: the end."""
    straight = course(stages)
    after: dict[str, str | None] = dict(zip(straight, [*straight[1:], None], strict=False))
    return {stage.id: stage.then if stage.then is not None else after.get(stage.id) for stage in stages}
