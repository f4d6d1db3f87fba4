"""A run that pauses until an approval comes; meanwhile it is only a row in the store. `python examples/approval.py`."""

import asyncio

from poundlock import StateRef, Workflow, WorkflowRuntime

orders = Workflow("orders")


@orders.on("order.placed")
@orders.step
def reserve(order: str) -> dict[str, str]:
    """Set the goods aside."""
    return {"reserved": f"one place for {order}"}


orders.wait("approval", on="order.approved", correlate={"order": StateRef("order")}, timeout="3d")


@orders.step
def ship(order: str, by: str) -> dict[str, str]:
    """Send it; `by` came with the approval."""
    return {"shipped": f"{order}, approved by {by}"}


async def main() -> None:
    """Place an order, approve it, and print the result."""
    async with WorkflowRuntime(orders) as runtime:
        receipt = await runtime.emit("order.placed", order="A-7")
        [paused] = await receipt.results()
        print(paused.status, "at", paused.waits[0].id)
        await runtime.emit("order.approved", order="A-7", by="Ada")
        result = await runtime.wait(paused.run_id)
        print(result.status, "-", result.state["shipped"])


if __name__ == "__main__":
    asyncio.run(main())
