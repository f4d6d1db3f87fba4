"""What type checkers say of durable functions: run by `make check`, never executed.

A line that must be refused carries `type: ignore`; if it is accepted after all, the unused ignore is the fault.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Generator
from typing import Any

from poundlock import Event, FunctionWorkflow, Operation, Retry, Steps, Wait, WorkflowRuntime, workflow


async def weigh(order: str) -> float:
    return len(order) / 2


def post(order: str) -> str:
    return order


@workflow("typed", on=["a", "b"], waits=["c", Wait("d", correlate={"id": 1})], label="Typed")
async def typed(step: Steps, event: Event) -> str:
    kilos: float = await step.run(weigh, "A", retry=Retry(3), timeout="5s")
    place: str = await step.run(post, order="A", key="post")
    wrong: str = await step.run(weigh, "A")  # type: ignore[arg-type]
    operation: Operation[float] = step.run(weigh, "B")
    answer: Event | None = await step.wait_for("approved", correlate={"order": place}, timeout=dt.timedelta(days=3))
    await step.sleep("2h")
    run_id: str = await step.start("other", {"n": 1})
    values: list[Any] = await step.gather(operation, weigh("C"))
    if answer is None:
        await step.continue_as_new({"kilos": kilos, "wrong": wrong, "values": values})
    return run_id + step.uuid()


@workflow("plain")
def plain(step: Steps) -> Generator[Operation[Any], Any, int]:
    found: int = yield step.run(len, "abc")
    return found


workflow("x", on="a", dedupe="soon", priority="high")  # type: ignore[arg-type]
made: FunctionWorkflow = typed
WorkflowRuntime(typed, plain)
