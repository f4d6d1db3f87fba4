"""An agent that a person reviews: `python examples/agent_loop.py`.

A model plans which tools to use; they run side by side; a person looks at the answer and agrees, or sends it back with
a remark, at most three times. The model here is a stand-in with fixed answers: replace the service by your own client.
What each call costs is recorded, and summed for the run.
"""

import asyncio
from typing import Annotated, Any

from pydantic import BaseModel

from poundlock import Jump, StateRef, StepContext, Terminate, Use, Workflow, WorkflowRuntime

ROUNDS = 3
"""How often the agent plans, at most."""


class Call(BaseModel):
    """A tool the model wants to use."""

    tool: str
    text: str


class Task(BaseModel):
    """The state of a run."""

    task: str
    goal: str
    remark: str = ""
    rounds: int = 0
    calls: list[Call] = []
    found: list[str] = []
    answer: str = ""


class Model:
    """Stands for a client of a language model."""

    async def plan(self, goal: str, remark: str) -> list[Call]:
        """Return the tools to use."""
        calls = [Call(tool="search", text=goal), Call(tool="count", text=goal)]
        return [*calls, Call(tool="search", text=remark)] if remark else calls

    async def write(self, goal: str, found: list[str]) -> str:
        """Return an answer from what was found."""
        return f"{goal}: {'; '.join(found)}"


TOOLS = {
    "search": lambda text: f"3 pages about {text}",
    "count": lambda text: f"{len(text.split())} words",
}

agent = Workflow("agent", state=Task, timeout="7d", on_timeout="give_up")
Client = Annotated[Model, Use("model")]


@agent.service(scope="workflow")
def model() -> Model:
    """Make the client once for all runs."""
    return Model()


@agent.on("task.asked")
@agent.step
async def plan(state: Task, ctx: StepContext, model: Client) -> dict[str, Any] | Jump:
    """Ask the model which tools to use, unless there were enough rounds. A remark came with the event."""
    if state.rounds == ROUNDS:
        return Jump("give_up")
    calls = await model.plan(state.goal, state.remark)
    ctx.record_call(model="stand-in", input_tokens=200, output_tokens=40, cost=0.002, prompt=state.goal)
    ctx.progress(state.rounds + 1, ROUNDS, "planning")
    return {"calls": calls, "rounds": state.rounds + 1}


@agent.step(each="calls", limit=4, into="found")
def use(item: Call) -> str:
    """Use one tool; all tools of a round run at the same time."""
    return TOOLS[item.tool](item.text)


@agent.step
async def write(goal: str, found: list[str], ctx: StepContext, model: Client) -> dict[str, str]:
    """Let the model write the answer."""
    answer = await model.write(goal, found)
    ctx.record_call(model="stand-in", input_tokens=500, output_tokens=100, cost=0.006)
    return {"answer": answer}


agent.wait(
    "review",
    on={"answer.agreed": "finish", "answer.returned": "plan"},
    correlate={"task": StateRef("task")},
    early=False,  # a second click on the last round's button does not answer the next round's question
)


@agent.step
def finish(answer: str) -> Terminate:
    """End with the answer that was agreed to."""
    return Terminate(answer)


@agent.aside
def give_up(answer: str) -> Terminate:
    """End without an agreement: after the last round, or when the time of the run is over."""
    return Terminate(f"not agreed: {answer}")


async def main() -> None:
    """Two tasks: one is agreed to in the second round, one is never good enough."""
    async with WorkflowRuntime(agent) as rt:
        for task, reviews in (("T1", ["shorter", None]), ("T2", ["no", "no", "no"])):
            receipt = await rt.emit("task.asked", task=task, goal="canal locks")
            run_id = receipt.run_ids[0]
            for remark in reviews:
                run = await rt.wait(run_id, until="rest")
                print(f"{task}, round {run.state.rounds}: {run.state.answer}")
                if remark is None:
                    await rt.emit("answer.agreed", task=task)
                else:
                    await rt.emit("answer.returned", task=task, remark=remark)
            run = await rt.wait(run_id)
            spent = run.metadata["calls"]
            print(f"{task} {run.result}")
            print(f"{task} took {spent['calls']} calls, {spent['input_tokens']} tokens in, cost {spent['cost']:.3f}")


if __name__ == "__main__":
    asyncio.run(main())
