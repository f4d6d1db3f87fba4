"""A run with two waits that operators pause, by its id and with its workflow, against a model of it.

It is the machine of `test_pausing_machine` with four more rules: whatever comes while a run is paused is kept, no time
acts, and what is found afterwards is what the model says; whenever the process dies.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from support_pausing_machine import KIND, NEXT, PausingMachine

from poundlock import NotPaused, RunFinished


class OperatorMachine(PausingMachine):
    """Adds pauses by operators."""

    def __init__(self):
        super().__init__()
        self.held: set[int] = set()
        self.workflow_paused = False
        self.looking: set[int] = set()

    def frozen(self, model):
        """Whether somebody has paused this run."""
        return model.at in NEXT and (self.workflow_paused or id(model) in self.held)

    def thaw(self):
        """Let those that nobody has paused any more go on: with what came first, then because their time is over."""
        now = self.clock.now()
        for model in self.models.values():
            if self.frozen(model):
                continue
            if id(model) in self.looking:
                # It looks whether its wait takes what was kept: a boundary, at which signals come into the state.
                self.looking.discard(id(model))
                model.hear()
            before = model.at
            model.drain(now)
            if model.at == before and model.due is not None and model.due <= now:
                model.go_on("timeout", {}, now)

    # ------------------------------------------------------------------------------------- rules that are different
    @rule()
    def begin(self):
        if not self.workflow_paused:
            super().begin()

    def _emit(self, event, *, used):
        model = self.models.get(event.payload["id"])
        if model is None or not self.frozen(model):
            super()._emit(event, used=used)
            return
        receipt = self.do(self.rt.emit(event))
        [line] = receipt.lines
        assert (str(line.verdict), line.run_id) == ("duplicate" if used else "buffered", model.run_id)
        if not used:
            model.buffer.append((event.type, dict(event.payload)))
        self.sent = [item for item in self.sent if item[0] is not event] + [(event, True)]

    @precondition(lambda self: self.models)
    @rule(data=st.data())
    def resume(self, data):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        self.number += 1
        frozen = self.frozen(model)
        try:
            self.do(self.rt.resume(model.run_id, {"by": self.number}))
        except (NotPaused, RunFinished):
            assert model.at not in NEXT or frozen
            return
        assert model.at in KIND
        assert not frozen
        model.go_on("api", {"by": self.number}, self.clock.now())
        model.drain(self.clock.now())

    @rule(seconds=st.sampled_from([1, 40, 99, 100, 250]))
    def pass_time(self, seconds):
        end = self.clock.now() + seconds
        self.do(self.clock.run_for(seconds))
        for model in self.models.values():
            if model.due is not None and model.due <= end and not self.frozen(model):
                model.go_on("timeout", {}, model.due)

    @rule(ending=st.sampled_from(["crash", "stop"]), down=st.sampled_from([0, 0, 150]))
    def restart(self, ending, down):
        self.do(self.stores.crash(self.rt) if ending == "crash" else self.rt.stop())
        self.clock.advance(down)
        self.rt = self.do(self.stores.enter(self.workflow(), pause_window=self.window))
        self.thaw()

    # -------------------------------------------------------------------------------------------------- more rules
    @precondition(lambda self: self.models)
    @rule(data=st.data(), call=st.sampled_from(["pause", "unpause"]))
    def operate(self, data, call):
        model = self.models[data.draw(st.sampled_from(sorted(self.models)))]
        try:
            self.do(getattr(self.rt, call)(model.run_id))
        except RunFinished:
            assert model.at not in NEXT
            return
        assert model.at in NEXT
        if call == "pause":
            self.held.add(id(model))
        else:
            if id(model) in self.held and model.buffer:
                self.looking.add(id(model))
            self.held.discard(id(model))
            self.thaw()

    @rule(paused=st.booleans(), all_of_them=st.booleans())
    def operate_workflow(self, paused, all_of_them):
        if paused:
            self.do(self.rt.pause_all() if all_of_them else self.rt.pause_workflow("w"))
            self.workflow_paused = True
            return
        self.do(self.rt.unpause_all())
        self.do(self.rt.unpause_workflow("w"))
        self.workflow_paused = False
        self.thaw()

    # -------------------------------------------------------------------------------------------------- invariants
    @invariant()
    def everybody_sees_who_is_paused(self):
        """A run says that an operator has paused it exactly while one has; none is running without being driven."""
        for model in self.models.values():
            info = self.do(self.rt.get_run(model.run_id))
            assert bool(info.paused_by) == self.frozen(model)
            scopes = {pause.scope for pause in info.paused_by}
            assert ("run" in scopes) == (self.frozen(model) and id(model) in self.held)
        assert not self.do(self.rt.find_runs(status=["running", "ready", "queued"])).items
        assert len(self.rt._core.runs.all_driven()) == 0

    @invariant()
    def no_slot_is_held_for_ever(self):
        """A paused run of a Transient workflow holds no slot, so the load is idle."""
        [(load, _)] = self.do(self.rt.store.read_loads([("w", "")]))
        assert load.idle


class OperatorMachineOnSqlite(OperatorMachine):
    storage = "sqlite"


TestOperatorsInMemory = OperatorMachine.TestCase
TestOperatorsInMemory.settings = settings(max_examples=60, stateful_step_count=30)
TestOperatorsOnSqlite = OperatorMachineOnSqlite.TestCase
TestOperatorsOnSqlite.settings = settings(max_examples=15, stateful_step_count=30)
del PausingMachine
