"""Events are decided alike whether a store answers at once or has to be waited for."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from poundlock import Event, Exclusive, Serialized, SingletonLoop, Transient, Trigger, Workflow, WorkflowRuntime
from poundlock.stores import MemoryStore

MODES = (
    Transient(1, capacity=1),
    Transient(2, capacity=None, key="who"),
    Serialized(capacity=1),
    Exclusive(),
    Exclusive("queue_single"),
    SingletonLoop(),
    SingletonLoop("signal"),
)  # what "replace" does next depends on when the old run has ended


class WaitedFor(MemoryStore):
    """Writes at once, and answers after a turn of the loop: until then the commit counts as in flight."""

    async def commit(self, changes):
        committed = await super().commit(changes)
        await asyncio.sleep(0)  # noqa: TID251 - a turn of the loop is the wait
        return committed


async def receipts_of(store, mode, events):
    """Emit events one after another while no run ends; return what the receipts and the final states say."""
    gate = asyncio.Event()
    wf = Workflow(
        "w", mode=mode, triggers={"a": Trigger("go"), "b": Trigger("go", when=lambda event: "b" in event.payload)}
    )

    @wf.step
    async def work(state):
        await gate.wait()
        return {"done": True}

    said = []
    async with WorkflowRuntime(wf, store=store) as rt:
        names = {}
        receipts = []
        for number, payload in events:
            receipts.append(await rt.emit(Event("go", payload, id=str(number))))
            for line in receipts[-1].lines:
                names.setdefault(line.run_id, f"run {len(names)}")
        gate.set()
        results = [result for receipt in receipts for result in await receipt.results()]
    for line in (line for receipt in receipts for line in receipt.lines):
        reason = line.reason
        for run_id in filter(None, names):
            reason = reason.replace(run_id, names[run_id])
        said.append((line.trigger_id, line.verdict, line.run_id and names[line.run_id], reason))
    return said, [(names[result.run_id], result.status, dict(result.state)) for result in results]


payloads = st.fixed_dictionaries({"who": st.sampled_from(["x", "y"])}, optional={"b": st.just(1)})


@given(mode=st.sampled_from(MODES), events=st.lists(st.tuples(st.integers(0, 5), payloads), max_size=8))
def test_a_store_that_is_waited_for_gets_the_same_decisions(mode, events):
    """Receipts, results and states are the same; an id that comes again comes with its first payload."""
    payload_of = {}
    events = [(number, payload_of.setdefault(number, payload)) for number, payload in events]
    at_once = asyncio.run(receipts_of(MemoryStore(), mode, events))
    assert asyncio.run(receipts_of(WaitedFor(), mode, events)) == at_once
