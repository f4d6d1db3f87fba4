"""Ids and keys that come again, against a model of what is remembered, whenever the process dies."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule
from support import ends
from support_machine import StoresMachine

from poundlock import Event, Exclusive, IdempotencyConflict, RunExists, Trigger, Workflow
from poundlock.model.runs import RunQuery

WINDOW = 100.0
IDS, NUMBERS = st.sampled_from(["e1", "e2", "e3"]), st.sampled_from([1, 2])


def workflows():
    """`short` remembers for a while, `forgetful` not at all, and `busy` rejects while its run waits."""
    made = []
    for name, window in (("short", WINDOW), ("forgetful", None)):
        wf = Workflow(name, triggers={"t": Trigger("go", dedupe=window)})
        wf.step(lambda n: {"seen": n}, id="take")
        made.append(wf)
    busy = Workflow("busy", mode=Exclusive(), triggers={"t": Trigger("go", dedupe=WINDOW)})
    busy.wait("free", on="free", early=False)
    return [*made, busy]


class IdempotencyMachine(StoresMachine):
    """Every rule lets everything come to rest, so that the model says exactly what must be answered."""

    def __init__(self):
        super().__init__()
        self.known: dict[tuple[str, str], tuple[int, float]] = {}
        """(event id, workflow): what it carried, and until when that is remembered."""
        self.runs = {"short": 0, "forgetful": 0, "busy": 0}
        self.active = False
        self.named: dict[str, int] = {}
        self.keyed: dict[str, tuple[int, str]] = {}

    @initialize()
    def open(self):
        self.rt = self.do(self.stores.enter(*workflows()))

    def remembered(self, id, workflow):
        found = self.known.get((id, workflow))
        return found if found is not None and found[1] > self.clock.now() else None

    # ------------------------------------------------------------------------------------------------------ rules
    @rule(id=IDS, n=NUMBERS)
    def emit(self, id, n):
        event = Event("go", {"n": n}, id=id, source="/test")
        found = {name: self.remembered(id, name) for name in self.runs}
        if any(known is not None and known[0] != n for known in found.values()):
            with pytest.raises(IdempotencyConflict):
                self.do(self.rt.emit(event))
            return
        lines = self.do(self.rt.emit(event)).lines
        said = {line.workflow_id: str(line.verdict) for line in lines}
        for name, known in found.items():
            if known is not None:
                assert said[name] == "duplicate"
            elif name == "busy" and self.active:
                assert said[name] == "rejected"
            else:
                assert said[name] == "started"
                self.runs[name] += 1
                if name != "forgetful":
                    self.known[id, name] = (n, self.clock.now() + WINDOW)
                self.active = self.active or name == "busy"

    @rule()
    def free(self):
        lines = self.do(self.rt.emit("free")).lines
        assert (lines[0].verdict == "resumed") is self.active
        self.active = False

    @rule(name=st.sampled_from(["a", "b"]), n=NUMBERS)
    def invoke_by_id(self, name, n):
        call = self.rt.invoke("short", event=Event("go", {"n": n}), run_id=name)
        if name in self.named:
            with pytest.raises(RunExists):
                self.do(call)
            return
        assert self.do(call).state["seen"] == n
        self.named[name] = n
        self.runs["short"] += 1

    @rule(key=st.sampled_from(["k", "l"]), n=NUMBERS, crash=st.booleans())
    def invoke_by_key(self, key, n, crash):
        store = self.rt.store
        if crash and key not in self.keyed:  # the caller gets no answer, and asks again after the restart
            store.hold_after = ends
            first = self.rt.invoke("short", event=Event("go", {"n": n}), idempotency_key=key)
            task = self.runner.get_loop().create_task(first)
            self.do(self.rt.store.until_held())
            self.restart("crash")
            task.cancel()
        call = self.rt.invoke("short", event=Event("go", {"n": n}), idempotency_key=key)
        if key in self.keyed and self.keyed[key][0] != n:
            with pytest.raises(IdempotencyConflict):
                self.do(call)
            return
        result = self.do(call)
        assert result.state["seen"] == n
        if key in self.keyed:
            assert result.run_id == self.keyed[key][1]
        else:
            self.keyed[key] = (n, result.run_id)
            self.runs["short"] += 1

    @rule(seconds=st.sampled_from([1.0, 50.0, 99.0, 100.0, 250.0]))
    def pass_time(self, seconds):
        self.do(self.clock.run_for(seconds))

    @rule(ending=st.sampled_from(["crash", "stop"]))
    def restart(self, ending):
        self.do(self.stores.crash(self.rt) if ending == "crash" else self.rt.stop())
        self.open()

    # -------------------------------------------------------------------------------------------------- invariants
    @invariant()
    def each_run_was_started_once(self):
        """There are as many runs of each workflow as the model has started."""
        for name, count in self.runs.items():
            records = self.do(self.rt.store.find(RunQuery(workflow=name, limit=500))).items
            assert len(records) == count


class IdempotencyMachineOnSqlite(IdempotencyMachine):
    storage = "sqlite"


TestIdempotencyInMemory = IdempotencyMachine.TestCase
TestIdempotencyInMemory.settings = settings(max_examples=40, stateful_step_count=25)
TestIdempotencyOnSqlite = IdempotencyMachineOnSqlite.TestCase
TestIdempotencyOnSqlite.settings = settings(max_examples=12, stateful_step_count=25)
