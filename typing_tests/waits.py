"""What type checkers say of waits and patches: run by `make check`, never executed.

A line that must be refused carries `type: ignore`; if it is accepted after all, the unused ignore is the fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poundlock import Event, Retry, RunInfo, RunResult, Wait, Workflow, WorkflowRuntime

wf = Workflow("typed")


def by(event: Event) -> dict[str, Any]:
    return {"by": event.source}


def nothing(event: Event) -> None:
    return None


def of_payload(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    return payload


# `patch=` is a mapping, or a function that gives one.
Wait("approved", patch={"approved": True})
Wait("approved", patch=by)
Wait("approved", patch=nothing)
Wait("approved", patch=of_payload)
Wait("approved", patch=lambda event: {"by": event.payload["by"]})
wf.wait("a", on="approved", patch={"approved": True})
wf.wait("b", on=["approved", "refused"], patch=by, timeout="2h")
wf.wait("c", on="approved", patch=lambda event: {"by": event.payload["by"]})
Wait("approved", patch="approved")  # type: ignore[arg-type]
Wait("approved", patch=by(Event("x")).keys())  # type: ignore[arg-type]


def count(event: Event) -> int:
    return 1


Wait("approved", patch=count)  # type: ignore[arg-type]
wf.wait("d", on="approved", patch=count)  # type: ignore[arg-type]


# `conflict=` is one of two words, and decorators leave a function as it is.
@wf.step(stage="both", conflict="error", retry=Retry(on=(ConnectionError,)))
async def first() -> dict[str, int]:
    return {"n": 1}


@wf.step
def second(n: int) -> None:
    return None


wf.step(conflict="first")  # type: ignore[call-overload]


async def calls(rt: WorkflowRuntime, run: RunInfo, result: RunResult) -> str:
    started: WorkflowRuntime = await rt.start()
    shown: dict[str, Any] = {**run.to_dict(), **result.to_dict()}
    await first()
    second(n=1)
    await started.stop(drain="5s")
    return str(shown["status"])
