"""The builder is typed: each call returns the flow, `build` a workflow."""

from typing import assert_type

from pydantic import BaseModel

from poundlock import Condition, Stage, Step, Task, Workflow, branch, flow
from poundlock.pipeline.flows import Flow


class Order(BaseModel):
    """What a task takes and gives."""

    amount: int


def act(amount: int) -> dict[str, int]:
    return {"amount": amount}


task = Task("t", act, input=Order, output=Order)
made = flow("typed", on_failure="pause").on("a", "b").pipe(act).pipe(task, config={}).pipe(Stage("s", [Step("x", act)]))
assert_type(made, Flow)
assert_type(made.parallel(act, task, Step("y", act)).branch({Condition("n", ">", 1): "s"}).end(), Flow)
made.build().route(branch({Condition("n", ">", 1): "s", (Condition("m", "exists"),): "t"}), after="act")
assert_type(made.build(), Workflow)
assert_type(task.step("z", config={"a": 1}), Step)
assert_type(made.build().to_svg(), str)
