"""What a step returned, or why it failed: a value of the user becomes what is stored and what the stage is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from poundlock.codecs import dump, pack
from poundlock.errors import StepFailed
from poundlock.guard import describe, name_of, repr_of
from poundlock.model.definitions import INSTRUCTIONS, Instruction
from poundlock.model.outbox import Outgoing
from poundlock.model.runs import RunError, WaitRow
from poundlock.pipeline.active import ActiveRun
from poundlock.pipeline.outcome import Outcome, run_error
from poundlock.pipeline.plan import StepPlan
from poundlock.pipeline.states import Written, as_result, returned, written
from poundlock.records import dataclass


@dataclass(slots=True)
class StepDone:
    """Result of one step: the patch as it is stored, its text, and its instruction."""

    step: StepPlan
    patch: dict[str, Any] | None = None
    text: str | None = None
    instruction: Instruction | None = None
    outgoing: Sequence[Outgoing] | None = None
    """The events that the step has emitted."""

    @property
    def result(self) -> Any:
        """The result as routers see it."""
        return self.patch


@dataclass(slots=True)
class ModelDone(StepDone):
    """A step that returned a model; the patch holds only what it changed."""

    whole: Any = None

    @property
    def result(self) -> Any:
        """The whole model."""
        return self.whole


@dataclass(slots=True)
class MappedDone(StepDone):
    """A step that was called per element, or a stage's children."""

    results: Any = None

    @property
    def result(self) -> Any:
        """What came of the elements or children: a list, or a mapping by key."""
        return self.results


@dataclass(slots=True)
class Suspended:
    """A stage is in the middle of a visit, and its run needs no task until something happens.

    Attributes:
        until: when it continues by itself, in seconds since 1970 UTC; None: the wait says it.
        wait: what the run is paused at until then; None: it is delayed.
        released: the runtime stops, or an operator pauses the run; it continues elsewhere or later.
        quiet: whether a delay is not told in the timeline: it is one of many.
        leave: leaves the stage in its own way, in place of the others; it may be called again after messages came.
    """

    until: float | None = None
    wait: WaitRow | None = None
    released: bool = False
    quiet: bool = False
    leave: Callable[[ActiveRun], Outcome | None] | None = None


@dataclass(frozen=True, slots=True)
class Element:
    """One element that a step with `each` is called for.

    Attributes:
        index: its place, from 0.
        key: its key in a mapping; None in a list.
    """

    index: int
    key: str | None = None

    @property
    def place(self) -> int | str:
        """Its key, or its index in a list."""
        return self.index if self.key is None else self.key

    @property
    def detail(self) -> dict[str, Any]:
        """What names it in the timeline."""
        return {"index": self.index} if self.key is None else {"index": self.index, "key": self.key}

    def __str__(self) -> str:
        return f"element {self.index}" if self.key is None else f"element {repr_of(self.key, 60)}"


def digest(run: ActiveRun, step: StepPlan, result: Any) -> StepDone:
    """Turn a step's return value into a patch or an instruction; from now on its decoded copy is used."""
    if type(result) is dict and run.plan.state_model is None:  # nearly always; a check for Mapping costs more
        patch, text = pack(result, "", "patch")
        return StepDone(step, patch, text)
    if result is None:
        return StepDone(step)
    model = run.plan.state_model
    if isinstance(result, INSTRUCTIONS):
        carried = carried_patch(run, result, step.path)
        if carried is None:
            return StepDone(step, instruction=result)
        return StepDone(step, *carried, instruction=result)
    if not isinstance(result, Mapping):
        if not hasattr(type(result), "model_dump"):
            # A router may name the next stage by text. For a step, text is more likely a wrong patch.
            jump = f" (to go to a stage: Jump({repr_of(result, 60)}))" if isinstance(result, str) else ""
            raise StepFailed(
                f"step '{step.id}' returned a {name_of(type(result))}: return a mapping, a model, "
                f"an instruction or None{jump}",
                path=step.path,
            )
        patch, text = returned(model, result, run.state)
        return ModelDone(step, patch, text, whole=as_result(model, result))
    patch, text = written(model, result, run.state)
    return StepDone(step, patch, text)


def carried_patch(run: ActiveRun, instruction: Instruction, path: str) -> Written | None:
    """Return the patch an instruction carries, as it is stored; None if it carries none.

    Raises:
        StepFailed: it is not a mapping.
        StateInvalid, NotStorable: it does not fit the state's model, or is not data.
    """
    patch: object = instruction.patch
    if patch is None:
        return None
    if not isinstance(patch, Mapping):
        raise StepFailed(
            f"the patch of {name_of(type(instruction))} is a {name_of(type(patch))}: give a mapping", path=path
        )
    return written(run.plan.state_model, patch, run.state, "patch")


def failure_of(
    run: ActiveRun, step: StepPlan, error: BaseException, attempt: int = 1, element: Element | None = None
) -> RunError:
    """Note that a step failed for good, in one of its elements if it has some, and return why its stage does."""
    detail = describe(error)._asdict()
    if run.failure is None:  # the first of several counts
        run.failure = error
    said = run_error(error, step.stage_id, step.id, attempt)
    if element is not None:
        detail |= element.detail
        said = replace(said, message=f"{element}: {said.message}")
    if step.kind == "step":
        run.journal.add(run.clock.now(), "pipeline", "step:failure", step.path_json, dump(detail))
    return said
