"""`examples/expense_approval.py`, tested as its user would: services replaced, and days that pass in a moment."""

from __future__ import annotations

import sys
from decimal import Decimal
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from poundlock import Service, WorkflowRuntime
from poundlock.testing import VirtualClock, run_until_idle

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "expense_approval.py"


@pytest.fixture(scope="module")
def example():
    """Load the example as a module; annotations are looked up in it."""
    spec = spec_from_file_location("expense_approval", EXAMPLE)
    module = sys.modules["expense_approval"] = module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["expense_approval"]


class FakeMail:
    """Keeps what would be sent."""

    def __init__(self):
        self.sent = []

    async def send(self, to, text):
        self.sent.append(f"{to}: {text}")


class FakeBank:
    """Keeps what would be paid; refuses if it is told to."""

    def __init__(self):
        self.paid = []
        self.closed = False

    async def pay(self, to, amount, key):
        if self.closed:
            raise ConnectionError("the bank is closed")
        self.paid.append((to, amount))
        return "paid"


class Office:
    """A runtime on a clock that stands still, its services, and a claim."""

    def __init__(self, rt, ledger):
        self.rt, self.ledger, self.run_id = rt, ledger, None
        self.mail, self.bank = FakeMail(), FakeBank()

    async def file(self, amount):
        receipt = await self.rt.emit("claim.filed", claim_id="C-1", employee="Ada", amount=amount)
        [result] = await receipt.results()
        self.run_id = result.run_id
        return result

    async def answer(self, kind, **fields):
        """Emit an answer, and return its line and the run when nothing more happens by itself."""
        [line] = await self.rt.emit(f"claim.{kind}", claim_id="C-1", **fields)
        await run_until_idle(self.rt)
        return line, await self.rt.get_run(self.run_id)

    async def state(self):
        return (await self.rt.timeline(self.run_id)).state_at()

    def booked(self):
        return self.ledger.execute("SELECT employee, amount FROM ledger").fetchall()


@pytest.fixture
async def office(runtime, vclock, example):
    """An office whose services are the test's: those of the runtime, and the one of a run."""
    vclock.autojump = False
    ledger = example.new_ledger()
    rt = await runtime(example.claims, services=[Service("mail", example.Mail), Service("ledger", lambda: ledger)])
    office = Office(rt, ledger)
    with rt.override("mail", office.mail), rt.override("bank", office.bank, workflow="claims"):
        yield office
    ledger.close()


async def test_one_approval(office):
    """A small claim is paid and booked once one person has approved it."""
    paused = await office.file("120.50")
    assert (paused.status, paused.waits[0].id) == ("paused", "approval")
    line, run = await office.answer("approved", by="Bob")
    assert (line.verdict, run.status) == ("resumed", "completed")
    assert office.bank.paid == [("Ada", Decimal("120.50"))]
    assert office.booked() == [("Ada", "120.50")]
    notes = [entry.payload for entry in (await office.rt.timeline(run.run_id)).entries if entry.type == "annotation"]
    assert notes == [{"key": "audit", "value": {"approved_by": ["Bob"], "refused": None}}]


async def test_two_people_approve_a_large_claim(office):
    """Neither the employee nor somebody who has approved it already counts, and the run goes on waiting."""
    await office.file("800")
    for by, verdict, status in [
        ("Ada", "rejected", "paused"),
        ("Bob", "resumed", "paused"),
        ("Bob", "rejected", "paused"),
        ("Cleo", "resumed", "completed"),
    ]:
        line, run = await office.answer("approved", by=by)
        assert (line.verdict, run.status) == (verdict, status), by
    assert (await office.state())["approved_by"] == ["Bob", "Cleo"]


async def test_a_refused_claim_comes_back_corrected(office):
    """A refusal has a reason, and a corrected amount begins anew; one that the model refuses does not."""
    await office.file("800")
    line, run = await office.answer("refused", by="Bob", reason="no receipt")
    assert run.waits[0].id == "correction"
    assert office.mail.sent[-1] == "Ada: C-1 was refused: no receipt"
    line, run = await office.answer("corrected", amount="-3")
    assert (line.verdict, run.waits[0].id) == ("rejected", "correction")
    line, run = await office.answer("corrected", amount="80.00")
    assert (line.verdict, run.waits[0].id) == ("resumed", "approval")
    line, run = await office.answer("approved", by="Bob")
    assert (run.status, office.booked()) == ("completed", [("Ada", "80.00")])


async def test_reminders_and_an_end(office):
    """Managers are reminded every two days; after the third time the claim fails."""
    await office.file("20")
    await office.rt.clock.run_for(days=5.9)
    assert (await office.rt.get_run(office.run_id)).status == "paused"
    assert office.mail.sent[1:] == ["managers: C-1 waits for you"] * 2
    await office.rt.clock.run_for(days=0.2)
    result = await office.rt.wait(office.run_id)
    assert (result.status, result.error.message) == ("failed", "no decision in time")


async def test_nobody_corrects(office):
    """A refused claim that nobody corrects is aborted after two weeks."""
    await office.file("20")
    await office.answer("refused", by="Bob", reason="no receipt")
    await office.rt.clock.run_for(days=15)
    assert (await office.rt.get_run(office.run_id)).status == "aborted"


async def test_limits_of_another_company(office):
    """A service of the workflow is replaced while a claim is checked."""
    with office.rt.override("limits", {"one approval": Decimal(1), "ever": Decimal(2)}, workflow="claims"):
        result = await office.file("3")
    assert (result.status, result.error.message) == ("failed", "3 is above the limit")


async def test_nothing_is_booked_that_was_not_paid(office):
    """The transaction of the stage is rolled back when the bank refuses."""
    office.bank.closed = True
    await office.file("20")
    await office.answer("approved", by="Bob")
    result = await office.rt.wait(office.run_id)
    assert (result.status, result.error.type, office.booked()) == ("failed", "ConnectionError", [])


async def test_approved_after_a_restart(example, tmp_path):
    """A claim waits in its file while no process is there; the next one goes on with it."""
    ledger = example.new_ledger()
    services = [Service("mail", example.Mail), Service("ledger", lambda: ledger)]
    store = f"sqlite:///{tmp_path / 'runs.db'}"
    clock = VirtualClock(autojump=False)
    async with WorkflowRuntime(example.claims, services=services, store=store, clock=clock) as rt:
        office = Office(rt, ledger)
        assert (await office.file("20")).status == "paused"
    async with WorkflowRuntime(example.claims, services=services, store=store, clock=clock) as office.rt:
        [line] = await office.rt.emit("claim.approved", claim_id="C-1", by="Bob")
        assert line.verdict == "resumed"
        assert (await office.rt.wait(office.run_id)).result == "payment of 20 to Ada"
    assert office.booked() == [("Ada", "20")]
    ledger.close()
