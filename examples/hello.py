"""The smallest workflow: one step, called by hand. Run it with `python examples/hello.py`."""

import asyncio

from poundlock import Workflow, WorkflowRuntime

wf = Workflow("hello")


@wf.on("greet")
@wf.step
def greet(name: str) -> dict[str, str]:
    """Take `name` from the event's payload and put `text` into the state."""
    return {"text": f"Hello {name}"}


async def main() -> None:
    """Run it once and print what it made."""
    async with WorkflowRuntime(wf) as runtime:
        result = await runtime.run("hello", name="Ada")
        print(result.state["text"])


if __name__ == "__main__":
    asyncio.run(main())
