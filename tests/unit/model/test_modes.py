"""What each mode answers, case by case; how they behave over time is in `properties/test_modes_machine.py`."""

from __future__ import annotations

import pytest

from poundlock.errors import InvalidDefinition
from poundlock.model.modes import (
    Drop,
    Exclusive,
    Load,
    Queue,
    Reject,
    Replace,
    Serialized,
    Signal,
    SingletonLoop,
    Start,
    Transient,
)

IDLE = Load()
ONE = Load(active=1, active_id="a")
ONE_WAITS = Load(active=1, active_id="a", queued=1, tail_id="q")
MODES = [
    Transient(),
    Serialized(),
    *(SingletonLoop(on_busy) for on_busy in ("drop", "signal", "replace")),
    *(Exclusive(on_busy) for on_busy in ("reject", "queue_single")),
]


@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_idle_means_start(mode):
    """Where nothing is active and nothing waits, every mode starts the run at once."""
    assert mode.accept(IDLE) == Start()


@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_settling_nothing_starts_nothing(mode):
    """With an empty queue a freed slot starts nobody."""
    assert IDLE.promoted(mode.slots) == (IDLE, 0, 0)
    assert ONE.promoted(mode.slots)[1:] == (0, 0)


@pytest.mark.parametrize("mode", MODES, ids=repr)
def test_a_freed_slot_goes_to_who_waits(mode):
    """With somebody waiting, a slot that becomes free is taken."""
    assert Load(1, "a", 1, "q").left("a", mode.slots, queued=False) == (Load(1, "q"), 0, 1)


@pytest.mark.parametrize(
    ("load", "decision"),
    [
        (Load(active=1), Start()),
        (Load(active=2), Queue()),
        (Load(active=1, queued=1), Queue()),
        (Load(active=2, queued=2), Queue()),
        (Load(active=2, queued=3), Drop),
        (Load(active=5, queued=0), Queue()),
    ],
)
def test_transient(load, decision):
    """Transient starts up to `concurrency`, then queues up to `capacity`, then drops; nobody overtakes the queue."""
    answer = Transient(concurrency=2, capacity=3).accept(load)
    assert answer == decision or type(answer) is decision


@pytest.mark.parametrize(
    ("load", "starts"),
    [
        (Load(active=1, queued=5), 2),
        (Load(active=0, queued=5), 3),
        (Load(active=0, queued=1), 1),
        (Load(active=3, queued=5), 0),
        (Load(active=4, queued=5), 0),
    ],
)
def test_transient_fills_all_free_slots(load, starts):
    """Settling starts as many as there are free slots; runs that came back from a pause hold new ones back."""
    after, _, count = load.promoted(Transient(concurrency=3).slots)
    assert count == starts
    assert (after.active, after.queued) == (load.active + starts, load.queued - starts)


def test_transient_without_capacity():
    """`capacity=None` queues without limit, `capacity=0` not at all; a drop says why."""
    busy = Load(active=1, queued=10**6)
    assert Transient(concurrency=1, capacity=None).accept(busy) == Queue()
    answer = Transient(concurrency=1, capacity=0).accept(Load(active=1))
    assert isinstance(answer, Drop)
    assert answer.reason == "1 running and 0 queued: capacity of 0 reached"


def test_serialized():
    """Serialized queues behind whoever is active, in order, up to its capacity if it has one."""
    assert Serialized().accept(ONE) == Queue()
    assert Serialized().accept(Load(active=1, queued=10**6)) == Queue()
    assert Serialized(capacity=1).accept(ONE) == Queue()
    answer = Serialized(capacity=1).accept(ONE_WAITS)
    assert isinstance(answer, Drop)
    assert "capacity of 1" in answer.reason


def test_singleton_loop():
    """A busy singleton drops, is told, or is replaced; the latest replacement takes the place of one that waits."""
    answer = SingletonLoop().accept(ONE)
    assert isinstance(answer, Drop)
    assert "a" in answer.reason
    assert SingletonLoop("signal").accept(ONE) == Signal("a")
    assert SingletonLoop("replace").accept(ONE) == Replace("a")
    assert SingletonLoop("replace").accept(ONE_WAITS) == Replace("a", supersedes="q")


def test_exclusive():
    """A busy exclusive mode rejects, or keeps one event waiting, of several the latest."""
    answer = Exclusive().accept(ONE)
    assert isinstance(answer, Reject)
    assert "a" in answer.reason
    assert Exclusive("queue_single").accept(ONE) == Queue()
    assert Exclusive("queue_single").accept(ONE_WAITS) == Queue(supersedes="q")


def test_who_keeps_the_slot_while_paused():
    """A paused run gives its slot back in Transient and keeps it in the other modes, unless said otherwise."""
    assert [mode.holds_slot_while_paused for mode in MODES] == [False, *[True] * 6]
    assert Transient(holds_slot_while_paused=True).holds_slot_while_paused


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (lambda: Transient(concurrency=0), "concurrency"),
        (lambda: Transient(concurrency=-1), "concurrency"),
        (lambda: Transient(concurrency=1.5), "concurrency"),
        (lambda: Transient(concurrency=True), "concurrency"),
        (lambda: Transient(concurrency=None), "concurrency"),
        (lambda: Transient(capacity=-1), "capacity"),
        (lambda: Serialized(capacity="10"), "capacity"),
        (lambda: SingletonLoop("queue"), "on_busy"),
        (lambda: SingletonLoop(on_busy=None), "on_busy"),
        (lambda: Exclusive("drop"), "on_busy"),
        (lambda: Serialized(key=""), "key"),
        (lambda: Exclusive(key=5), "key"),
    ],
    ids=range(12),
)
def test_modes_without_meaning_are_refused(make, path):
    """A limit below what works, an unknown choice or an impossible key is refused where it is written down."""
    with pytest.raises(InvalidDefinition) as caught:
        make()
    assert caught.value.path == path


def test_modes_are_values():
    """Equal modes are equal and interchangeable; they cannot be changed."""
    assert Transient(5) == Transient(concurrency=5)
    assert len({Serialized(), Serialized(), Serialized(capacity=1)}) == 2
    with pytest.raises(AttributeError):
        Transient().concurrency = 5


def test_loads_know_when_they_are_idle():
    """Only a load without active and queued runs needs no row."""
    assert IDLE.idle
    assert not ONE.idle
    assert not Load(queued=1).idle


def test_leaving_a_load():
    """Who gives its slot back makes room; who leaves the queue does not, but takes its name from the end of it."""
    busy = Load(2, "b", 3, "z")
    assert busy.left("b", 2, queued=False) == (Load(2, None, 2, "z"), 0, 1)
    assert busy.left("a", 1, queued=False) == (Load(1, "b", 3, "z"), 0, 0)
    assert busy.left("z", 2, queued=True) == (Load(2, "b", 2, None), 0, 0)
    assert Load(1, "a", 2, "z").left("a", 5, queued=False) == (Load(2, "z", 0, None), 0, 2)
    assert Load(1, "a").left("a", 1, queued=False)[0].idle
