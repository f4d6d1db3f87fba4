"""An expense claim that needs one or two approvals: `python examples/expense_approval.py`.

It has a typed state, reminders, a way back for refused claims, and services at four levels: of the runtime, of the
workflow, of a run and of a stage. The tests replace them: `tests/acceptance/test_expense_approval.py`.
"""

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, Field

from poundlock import Event, Fail, Jump, Service, StateRef, StepContext, Terminate, Use, Workflow, WorkflowRuntime


class Claim(BaseModel):
    """The state of a run. Each change of it is checked against this model."""

    claim_id: str
    employee: str
    amount: Decimal = Field(gt=0, decimal_places=2)
    needed: int = 1
    approved_by: list[str] = []
    refused: str | None = None
    reminders: int = 0


class Mail:
    """A service of the runtime: all its workflows share it."""

    async def send(self, to: str, text: str) -> None:
        """Send a message; here it is printed."""
        print(f"  to {to}: {text}")


claims = Workflow("claims", state=Claim)
Limits = dict[str, Decimal]
Booking = Annotated[sqlite3.Connection, Use("booking")]


@claims.service
def limits() -> Limits:
    """Return a service of the workflow: made once, used by all its runs."""
    return {"one approval": Decimal(500), "ever": Decimal(5000)}


@claims.service(id="bank", scope="run")
class Bank:
    """A service of a run: here it would open a session."""

    async def pay(self, to: str, amount: Decimal, key: str) -> str:
        """Pay; a real bank pays only once per key."""
        return f"payment of {amount} to {to}" if key else ""


@claims.service(scope="stage")
def booking(ledger: Annotated[sqlite3.Connection, Use("ledger")]) -> Iterator[sqlite3.Connection]:
    """Give a service of a stage: a transaction, committed only if its stage succeeded."""
    with ledger:
        yield ledger


@claims.on("claim.filed", key="claim_id")
@claims.step
async def check(claim: Claim, limits: Annotated[Limits, Use("limits")]) -> dict[str, Any] | Fail:
    """Start, or start again with a corrected amount."""
    if claim.amount > limits["ever"]:
        return Fail(f"{claim.amount} is above the limit")
    needed = 1 if claim.amount <= limits["one approval"] else 2
    return {"needed": needed, "approved_by": [], "refused": None, "reminders": 0}


@claims.step
async def ask(claim: Claim, mail: Mail) -> None:
    """Ask for the next approval."""
    await mail.send("managers", f"{claim.employee} claims {claim.amount}: approve {claim.claim_id}?")


def decision(event: Event, state: Claim) -> dict[str, Any]:
    """Return what an answer changes. If this raises, the event is rejected, and the run goes on waiting."""
    by = event.payload["by"]
    if by in (state.employee, *state.approved_by):
        raise ValueError(f"it is {by}'s own claim, or approved by {by} already")
    if event.type == "claim.refused":
        return {"refused": event.payload["reason"]}
    return {"approved_by": [*state.approved_by, by]}


this = {"claim_id": StateRef("claim_id")}
answers = ["claim.approved", "claim.refused"]
claims.wait("approval", on=answers, correlate=this, patch=decision, timeout="2d", on_timeout="remind")


@claims.step
async def decided(ctx: StepContext, claim: Claim) -> Jump:
    """Write the audit trail, and ask for the next approval, pay, or send the claim back."""
    ctx.annotate("audit", {"approved_by": claim.approved_by, "refused": claim.refused})
    if claim.refused is not None:
        return Jump("send_back")
    return Jump("pay" if len(claim.approved_by) == claim.needed else "ask")


@claims.step
async def pay(ctx: StepContext, claim: Claim, bank: Bank, booking: Booking) -> Terminate:
    """Pay and book it: after a crash the key is the same, so it is paid once and booked once."""
    entry = (ctx.idempotency_key, claim.employee, str(claim.amount))
    booking.execute("INSERT INTO ledger VALUES (?, ?, ?) ON CONFLICT DO NOTHING", entry)
    return Terminate(await bank.pay(claim.employee, claim.amount, ctx.idempotency_key))


@claims.step
async def send_back(claim: Claim, mail: Mail) -> None:
    """Tell the employee why."""
    await mail.send(claim.employee, f"{claim.claim_id} was refused: {claim.refused}")


claims.wait("correction", on="claim.corrected", correlate=this, timeout="14d", on_timeout="abort", resume_at="check")


@claims.step
async def remind(claim: Claim, mail: Mail) -> dict[str, int]:
    """Remind the managers."""
    await mail.send("managers", f"{claim.claim_id} waits for you")
    return {"reminders": claim.reminders + 1}


@claims.route(after="remind")
def patience(claim: Claim) -> str | Fail:
    """Wait again, three times at most."""
    return "approval" if claim.reminders < 3 else Fail("no decision in time")


def new_ledger() -> sqlite3.Connection:
    """Return a database with the table of payments; a real program opens a file."""
    database = sqlite3.connect(":memory:", check_same_thread=False)
    database.execute("CREATE TABLE ledger (key TEXT PRIMARY KEY, employee TEXT, amount TEXT)")
    return database


async def main() -> None:
    """File a claim that needs two approvals, and give them."""
    with closing(new_ledger()) as ledger:
        services = [Service("mail", Mail), Service("ledger", lambda: ledger)]
        async with WorkflowRuntime(claims, services=services) as runtime:
            filed = await runtime.emit("claim.filed", claim_id="C-1", employee="Ada", amount="800.00")
            for by in ("Bob", "Cleo"):
                await filed.results()  # each is returned at its pause or end
                [line] = await runtime.emit("claim.approved", claim_id="C-1", by=by)
                print(by, line.verdict)
            result = await runtime.wait(filed.run_ids[0])
            print(result.status, "-", result.result)


if __name__ == "__main__":
    asyncio.run(main())
