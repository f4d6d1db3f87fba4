"""The outbox against a model of it: what steps emit is delivered once, in order, or is a dead letter until replayed."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule
from support_machine import StoresMachine

from poundlock import Exclusive, StateRef, Trigger, Workflow
from poundlock.model.runs import RunQuery


def sender():
    """Each run emits some events to `plain`, which takes all of them, or `picky`, which takes one at a time."""
    wf = Workflow("sender")

    @wf.step
    async def send(ctx, targets: list):
        for number, target in enumerate(targets):
            ctx.emit(f"to.{target}", sent_by=ctx.run_id, number=number)

    return wf


def plain():
    wf = Workflow("plain", triggers={"t": Trigger("to.plain")})
    wf.step(lambda: None, id="take")
    return wf


def picky():
    wf = Workflow("picky", mode=Exclusive(), triggers={"t": Trigger("to.picky")})
    wf.wait("free", on="free", correlate={"sent_by": StateRef("sent_by"), "number": StateRef("number")})
    return wf


class OutboxMachine(StoresMachine):
    """Every rule lets everything come to rest, so that the model says exactly what must be found."""

    def __init__(self):
        super().__init__()
        self.taken: dict[str, list] = {"plain": [], "picky": []}
        self.active = None
        """What the run of `picky` that waits was started by."""
        self.dead: list = []

    @initialize()
    def open(self):
        self.rt = self.do(self.stores.enter(sender(), plain(), picky()))

    def deliver(self, item):
        """What becomes of an event, in the model."""
        target = item[0]
        if target == "picky" and self.active is not None:
            self.dead.append(item)
            return
        self.taken[target].append(item)
        if target == "picky":
            self.active = item

    # ------------------------------------------------------------------------------------------------------ rules
    @rule(to=st.lists(st.sampled_from(["plain", "picky"]), max_size=4))
    def send(self, to):
        run = self.do(self.rt.run("sender", targets=to))
        for number, target in enumerate(to):
            self.deliver((target, run.run_id, number))

    @precondition(lambda self: self.active is not None)
    @rule()
    def free(self):
        _, run_id, number = self.active
        [line] = self.do(self.rt.emit("free", sent_by=run_id, number=number)).lines
        assert line.verdict == "resumed"
        self.active = None

    @precondition(lambda self: self.dead)
    @rule(data=st.data())
    def replay(self, data):
        letters = self.do(self.rt.dead_letters(limit=500))
        letter = data.draw(st.sampled_from(letters))
        item = self.item_of(letter.event)
        self.do(self.rt.replay(letter.id))
        self.dead.remove(item)
        self.deliver(item)

    @rule(ending=st.sampled_from(["crash", "stop"]))
    def restart(self, ending):
        self.do(self.stores.crash(self.rt) if ending == "crash" else self.rt.stop())
        self.open()

    @rule(to=st.sampled_from(["plain", "picky"]), when=st.sampled_from(["before", "after"]))
    def crash_in_the_middle(self, to, when):
        """The process dies at the commit that starts a run for an emitted event, before or after it is written."""
        store = self.rt.store

        def starts(changes):
            return any(create.identity.workflow_id == to for create in changes.creates)

        if when == "before":
            store.hold = starts
        else:
            store.hold_after = starts
        run = self.do(self.rt.run("sender", targets=[to, "plain"]))
        for number, each in enumerate([to, "plain"]):
            self.deliver((each, run.run_id, number))
        self.restart("crash")

    # -------------------------------------------------------------------------------------------------- invariants
    @staticmethod
    def item_of(event):
        return (event.type.removeprefix("to."), event.payload["sent_by"], event.payload["number"])

    @invariant()
    def each_event_is_accounted_for_once(self):
        """Each event has started one run or is a dead letter, and those of one sender came in order."""
        for name, items in self.taken.items():
            found = []
            for record in self.do(self.rt.store.find(RunQuery(workflow=name, limit=500))).items:
                checkpoint = self.do(self.rt.store.checkpoint(record.identity.run_id))
                found.append(self.item_of(checkpoint.event))
            found.reverse()
            assert sorted(found) == sorted(items)
            for run_id in {item[1] for item in items}:
                assert [item for item in found if item[1] == run_id] == [item for item in items if item[1] == run_id]
        letters = self.do(self.rt.dead_letters(limit=500))
        assert sorted(self.item_of(letter.event) for letter in letters) == sorted(self.dead)
        assert self.rt.store.undelivered == (0, len(self.dead))


class OutboxMachineOnSqlite(OutboxMachine):
    storage = "sqlite"


TestOutboxInMemory = OutboxMachine.TestCase
TestOutboxInMemory.settings = settings(max_examples=40, stateful_step_count=20)
TestOutboxOnSqlite = OutboxMachineOnSqlite.TestCase
TestOutboxOnSqlite.settings = settings(max_examples=12, stateful_step_count=20)
