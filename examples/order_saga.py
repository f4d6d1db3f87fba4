"""An order as a saga: what was done is undone when a later step fails: `python examples/order_saga.py`.

Three orders: one is delivered, one cannot be shipped, and one is called off by its customer. Each `undo` is kept with
the run: after a crash the undoing goes on where it was.
"""

import asyncio

from pydantic import BaseModel

from poundlock import Retry, StateRef, StepContext, Workflow, WorkflowRuntime


class Order(BaseModel):
    """The state of a run."""

    order: str
    item: str
    price: float
    reservation: str = ""
    payment: str = ""
    parcel: str = ""


orders = Workflow("orders", state=Order, undo_on_abort=True)
SHELF = {"lamp": 2, "piano": 1}
"""What is in the shop; a lamp fits into a parcel, a piano does not."""


def release(item: str, ctx: StepContext) -> None:
    """Take back `reserve`."""
    SHELF[item] += 1
    ctx.logger.info("released one %s", item)


def refund(payment: str, price: float, ctx: StepContext) -> None:
    """Take back `charge`: with the key of the payment, so that a repetition pays back once."""
    ctx.logger.info("paid back %g for %s", price, payment)


@orders.on("order.placed")
@orders.step(undo=release)
def reserve(item: str, order: str) -> dict[str, str]:
    """Take the item from the shelf."""
    if SHELF[item] == 0:
        raise ValueError(f"no {item} left")
    SHELF[item] -= 1
    return {"reservation": f"{order}/{item}"}


@orders.step(undo=refund, retry=Retry(3, backoff=0.01))
async def charge(ctx: StepContext) -> dict[str, str]:
    """Ask the bank, which fails at first. The key is the same in each attempt, so it takes the money once."""
    if ctx.attempt == 1:
        raise ConnectionError("the bank does not answer")
    return {"payment": ctx.idempotency_key}


orders.wait("packed", on="order.packed", correlate={"order": StateRef("order")})


@orders.step
async def ship(item: str) -> dict[str, str]:
    """Hand the parcel over."""
    if item == "piano":
        raise ValueError("a piano does not fit into a parcel")
    return {"parcel": f"one {item}"}


async def main() -> None:
    """Place three orders, and show what became of them."""
    async with WorkflowRuntime(orders) as rt:
        placed = {}
        for order, item in (("A", "lamp"), ("B", "piano"), ("C", "lamp")):
            receipt = await rt.emit("order.placed", order=order, item=item, price=40)
            placed[order] = receipt.run_ids[0]
            await rt.wait(placed[order], until="rest")
        print(f"on the shelf while all are packed: {SHELF}")
        await rt.emit("order.packed", order="A")
        await rt.emit("order.packed", order="B")
        await rt.abort(placed["C"], "called off")
        for order, run_id in placed.items():
            run = await rt.wait(run_id)
            timeline = await rt.timeline(run_id)
            undone = [entry.path.split("/")[-1] for entry in timeline.entries if entry.type == "undo:success"]
            print(f"{order} {run.status}: {run.error or run.state.parcel}; undone: {', '.join(undone) or 'nothing'}")
        print(f"on the shelf at the end: {SHELF}")


if __name__ == "__main__":
    asyncio.run(main())
