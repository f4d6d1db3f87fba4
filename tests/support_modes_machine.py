"""What becomes of the runs of one workflow under a mode, step by step: the model of `test_runtime_modes_machine`.

A world says where each run is. `steps` gives what may happen in it by itself, `apply` what a call does to it, and
`outcomes` all worlds in which calls that are made at the same time may end, in whatever order they take effect. What a
commit does at once is one step, so each order of commits is an order of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

ANSWER_TIMEOUT = 100.0
NAP = 50.0
POINT = 60.0
ENDED = ("completed", "aborted")
RESTS = ("paused", "delayed")


@dataclass(frozen=True)
class Rules:
    """A mode as data: which it is, what it does when busy, and its limits."""

    kind: str
    on_busy: str
    capacity: int | None
    holds: bool
    early: bool
    """Whether the wait is armed from the start of a run."""


class Run(NamedTuple):
    """One run.

    `at`: the stage it is in or goes on with; `slot`: True, False, or "needs"; `kept`: answers that wait in its buffer.
    """

    n: int
    key: str
    kind: str
    status: str
    since: float = 0.0
    priority: int = 0
    seq: int = 0
    at: str = "one"
    slot: Any = False
    kept: int = 0
    aborting: bool = False
    due: float | None = None
    signals: frozenset[int] = frozenset()

    @property
    def ended(self):
        return self.status in ENDED


class Known(NamedTuple):
    """An event that is remembered, and the run that it led to."""

    n: int
    run: int


class World(NamedTuple):
    """All runs, and what they depend on."""

    now: float
    slots: int
    registered: str = "yes"
    runs: tuple[Run, ...] = ()
    lines: tuple[int, ...] = ()
    """Resumed runs that wait for a slot, of all keys, in order."""
    open: frozenset[tuple[int, str]] = frozenset()
    known: tuple[Known, ...] = ()
    times: tuple[float, ...] = ()
    """Earlier times at which a commit that is written now may have been made up."""

    def run(self, n):
        return next((run for run in self.runs if run.n == n), None)

    def put(self, run):
        others = tuple(run if each.n == run.n else each for each in self.runs)
        return self._replace(runs=others)

    def of(self, key, **wanted):
        return [
            run
            for run in self.runs
            if run.key == key and all(getattr(run, name) == value for name, value in wanted.items())
        ]

    def active(self, key):
        return self.of(key, slot=True)

    def queue(self, key):
        waiting = self.of(key, status="queued")
        return sorted(waiting, key=lambda run: (run.since - POINT * run.priority, -run.priority, run.seq))

    def line(self, key):
        return [run for n in self.lines for run in self.runs if run.n == n and run.key == key]

    @property
    def keys(self):
        return sorted({run.key for run in self.runs})

    @property
    def next_due(self):
        return min((run.due for run in self.runs if run.due is not None), default=None)


class Act(NamedTuple):
    """A call, as data: what is done, to which run, and the rest.

    An `emit` opens the first `number` gates of its run; for a `tick` it is seconds, for a registration slots.
    """

    what: str
    n: int = 0
    key: str = ""
    kind: str = ""
    priority: int = 0
    number: float = 0


def promoted(world, key):
    """Give free slots to those that wait: resumed runs, then queued ones.

    They are started where their workflow is registered. Where it is unknown there is one slot, as every mode has it.
    """
    slots, status = {"yes": (world.slots, "running"), "closing": (world.slots, "ready"), "no": (1, "ready")}[
        world.registered
    ]
    while len(world.active(key)) < slots and (waiting := [*world.line(key), *world.queue(key)]):
        run = waiting[0]
        lines = tuple(n for n in world.lines if n != run.n)
        world = world.put(run._replace(status=status, slot=True))._replace(lines=lines)
    return world


def ended(world, run, status):
    """End a run, and promote others in the same step. What does not matter any more is not kept apart."""
    lines = tuple(n for n in world.lines if n != run.n)
    over = Run(run.n, run.key, run.kind, status=status, signals=run.signals if status == "completed" else frozenset())
    world = world.put(over)._replace(lines=lines)
    return promoted(world, run.key) if run.slot is True or run.status == "queued" else world


def resumed(world, run):
    """Let a resting run go on, if there is a slot for it."""
    run = run._replace(at="two", due=None)
    if run.slot is True:
        return world.put(run._replace(status="running" if world.registered == "yes" else "ready"))
    free = world.registered == "yes" and len(world.active(run.key)) < world.slots and not world.line(run.key)
    if free:
        return world.put(run._replace(status="running", slot=True))
    world = world.put(run._replace(status="ready", slot="needs"))
    return world._replace(lines=tuple(sorted((*world.lines, run.n), key=lambda n: world.run(n).key)))


def aborted(world, run):
    """Abort a run: at once where nobody drives it, otherwise it ends by itself."""
    if run.status == "running":
        return world.put(run._replace(aborting=True))
    return ended(world, run, "aborted")


# --------------------------------------------------------------------------------------------- what happens by itself
def steps(rules: Rules, world: World, acts: Iterable[Act] = ()) -> list[World]:
    """Return the worlds that one step leads to.

    Keys have nothing to do with each other. So the steps of one that no call under way is about are tried before all
    others: any other order leads to the same.
    """
    if world.registered == "closing" and not any(run.status == "running" for run in world.runs):
        return [world._replace(registered="no")]
    about = {_key(world, act) for act in acts}
    found = []
    for key in world.keys:
        local, others = _steps_of(rules, world, key)
        if about.isdisjoint((key, None)) and (local or others):
            return local[:1] or others
        found += local + others
    return found


def _key(world, act):
    """Return the key that a call is about; None for all."""
    run = world.run(act.n)
    return act.key if act.what == "emit" else None if run is None else run.key


def _steps_of(rules, world, key):
    """Return the steps of a key: those that nobody else notices, and the others."""
    local, others = [], []
    if world.registered == "yes":
        after = promoted(world, key)
        if after != world:
            others.append(after)
        due = [run for run in world.of(key) if run.status in RESTS and run.due <= world.now]
        if due:
            first = min(due, key=lambda run: (run.due - POINT * run.priority, run.seq))
            others.append(resumed(world, first))
    for run in world.of(key):
        if run.status == "running" and world.registered != "no":
            for after in _driven(rules, world, run):
                moved = after.run(run.n)
                (others if moved.ended or moved.status in RESTS else local).append(after)
        elif run.status == "ready" and run.slot is True and world.registered == "yes":
            local.append(world.put(run._replace(status="running")))
    return local, others


def _driven(rules, world, run):
    if run.aborting:
        yield ended(world, run, "aborted")
    elif run.at in ("one", "two"):
        if (run.n, run.at) not in world.open:
            return
        if run.at == "two":
            yield ended(world, run, "completed")
        else:
            yield world.put(run._replace(at={"ask": "ask", "nap": "nap"}.get(run.kind, "two")))
    elif run.at == "ask" and run.kept:
        yield world.put(run._replace(at="two", kept=run.kept - 1))
    else:
        span = ANSWER_TIMEOUT if run.at == "ask" else NAP
        rests = run._replace(status="paused" if run.at == "ask" else "delayed", slot=rules.holds)
        for now in (*world.times, world.now):
            yield promoted(world.put(rests._replace(due=now + span)), run.key)


# ----------------------------------------------------------------------------------------------------- what calls do
def apply(rules: Rules, world: World, act: Act) -> tuple[World, Any] | None:
    """Return the world after a call has taken effect, and its answer; None if it cannot take effect now."""
    return globals()[f"_{act.what}"](rules, world, act)


def _open(_rules, world, act):
    return world._replace(open=world.open | {(act.n, act.kind)}), None


def _tick(_rules, world, act):
    return world._replace(now=world.now + act.number, times=(*world.times, world.now)), None


def _deregister(_rules, world, act):
    if act.kind == "abort":
        for run in world.runs:
            if run.status == "running":
                world = world.put(run._replace(aborting=True))
    return world._replace(registered="closing"), None


def _register(_rules, world, act):
    return world._replace(registered="yes", slots=int(act.number)), None


_restart = _register


def _abort(_rules, world, act):
    run = world.run(act.n)
    if run.status == "completed":
        return world, "RunFinished"
    return (world if run.ended else aborted(world, run)), None


def _resume(_rules, world, act):
    run = world.run(act.n)
    if run.ended:
        return world, "RunFinished"
    if run.status != "paused":
        return world, "NotPaused"
    return resumed(world, run), None


def _answer(rules, world, act):
    run = world.run(act.n)
    if run is None or run.ended or (not rules.early and run.at == "one"):
        return world, ("unmatched", False)
    if run.status != "paused":
        return world.put(run._replace(kept=run.kept + 1)), ("buffered", False)
    world = resumed(world, run)
    return world, ("resumed", world.run(run.n).slot == "needs")


def _emit(rules, world, act):
    world = world._replace(open=world.open | {(act.n, name) for name in ("one", "two")[: int(act.number)]})
    if world.registered != "yes":
        return world, ("unmatched", None, None)
    known = next((known for known in world.known if known.n == act.n), None)
    if known is not None:
        return world, ("duplicate", known.run, None)
    active, line, queue = world.active(act.key), world.line(act.key), world.queue(act.key)
    full = len(active) >= world.slots or line or queue
    if full and not active:
        return None  # those that wait come first
    if not full:
        return _create(rules, world, act, "running", "started")
    room = rules.capacity is None or len(queue) < rules.capacity
    tail = max(queue, key=lambda run: run.seq) if queue else None
    match rules.kind, rules.on_busy:
        case (("transient" | "serialized"), _):
            if room:
                return _create(rules, world, act, "queued", "queued")
            return world, ("dropped", None, None)
        case _, "drop":
            return world, ("dropped", None, None)
        case _, "reject":
            return world, ("rejected", None, None)
        case _, "signal":
            [run] = active
            world = world.put(run._replace(signals=run.signals | {act.n}))
            known = tuple(sorted((*world.known, Known(act.n, run.n))))
            return world._replace(known=known), ("signalled", run.n, None)
        case _, "replace":
            [run] = active
            world = world if tail is None else _superseded(world, tail)
            world, answer = _create(rules, world, act, "queued", "replaced", run.n)
            return aborted(world, run), answer
        case _, "queue_single":
            world = world if tail is None else _superseded(world, tail)
            return _create(rules, world, act, "queued", "queued", None if tail is None else tail.n)


def _superseded(world, run):
    return world.put(Run(run.n, run.key, run.kind, status="aborted"))


def _create(rules, world, act, status, verdict, about=None):
    run = Run(
        act.n,
        act.key,
        act.kind,
        status,
        world.now,
        act.priority if rules.kind == "transient" else 0,
        max((run.seq for run in world.of(act.key)), default=0) + 1,
        slot=status == "running",
        signals=frozenset([act.n]),
    )
    runs = tuple(sorted((*world.runs, run)))
    known = tuple(sorted((*world.known, Known(act.n, act.n))))
    return world._replace(runs=runs, known=known), (verdict, act.n, about)


# -------------------------------------------------------------------------------------------------------- all orders
def outcomes(rules: Rules, world: World, acts: tuple[Act, ...], answers: Mapping[int, Any]) -> set[World]:
    """Return all worlds at rest in which calls at the same time may end, given the answers that they had.

    Args:
        rules: of the mode.
        world: before the calls.
        acts: the calls. After `restart`, which comes last, those before it that had no answer have no effect any more.
        answers: by place in `acts`; a call without one was cut off by a crash.
    """
    restart = len(acts) - 1 if acts and acts[-1].what == "restart" else None
    found, seen, todo = set(), set(), [(world, frozenset(range(len(acts))))]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        now, left = at
        following = [(after, left) for after in steps(rules, now, [acts[place] for place in left])]
        if not following and not left:
            found.add(now._replace(times=()))
        for place in left:
            if place == restart:
                if any(other in answers for other in left - {place}):
                    continue
                following.append((apply(rules, now, acts[place])[0], frozenset()))
                continue
            done = apply(rules, now, acts[place])
            if done is None or (place in answers and done[1] != answers[place]):
                continue
            following.append((done[0], left - {place}))
        todo += following
    return found


def later(rules: Rules, world: World, end: float) -> set[World]:
    """Return all worlds at rest after time has passed, in which everything happens at its own time."""
    due = world.next_due if world.registered == "yes" else None
    if due is None or due > end:
        return {world._replace(now=end)}
    found = set()
    for after in outcomes(rules, world._replace(now=max(due, world.now)), (), {}):
        found |= later(rules, after, end)
    return found
