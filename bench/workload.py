"""What is measured, the same everywhere: a payload of about 150 bytes and three trivial async steps in three stages."""

from __future__ import annotations

from typing import Any

from poundlock import Condition, StateRef, Workflow

PAYLOAD: dict[str, Any] = {
    "id": 12345,
    "amount": 99.5,
    "items": [{"sku": "a-1", "qty": 1}, {"sku": "b-2", "qty": 2}, {"sku": "c-3", "qty": 3}],
}


def three_steps(name: str = "three") -> Workflow:
    """Three stages of one async step, each merging a small dict into the state."""
    wf = Workflow(name)

    @wf.step
    async def reserve(id: int) -> dict[str, Any]:
        return {"reserved": id}

    @wf.step
    async def price(amount: float) -> dict[str, Any]:
        return {"total": amount * 2}

    @wf.step
    async def ship(id: int) -> dict[str, Any]:
        return {"shipped": f"parcel-{id}"}

    return wf


def pausing() -> Workflow:
    """One step, a pause, one step."""
    wf = Workflow("pausing")

    @wf.step
    async def reserve(id: int) -> dict[str, Any]:
        return {"reserved": id}

    wf.wait("approved", on="approved", correlate={"id": StateRef("id")}, where=[Condition("by", "exists")])

    @wf.step
    async def ship(id: int) -> dict[str, Any]:
        return {"shipped": f"parcel-{id}"}

    return wf


def payload(number: int) -> dict[str, Any]:
    """A payload that differs from the next one: SQLite skips writing an identical row."""
    return {**PAYLOAD, "id": number}
