"""What LocalBus promises beyond the contract: backpressure, loops, cancelling, blinker, threads, being looked at."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import gc
import logging
import threading

import pytest
from support import LAST_RESORT
from support_nasty import RAISES, throw

from poundlock.bus import LocalBus
from poundlock.bus.local import _current
from poundlock.errors import EmitLoop, InvalidDefinition, InvalidEvent
from poundlock.model.events import Event
from poundlock.testing import Sequencer, run_until_idle

pytestmark = pytest.mark.filterwarnings("error")


class Gate:
    """A handler that stays until it is let go."""

    def __init__(self):
        self.entered = []
        self.left = []
        self._open = asyncio.Event()

    async def __call__(self, event):
        self.entered.append(event.type)
        await self._open.wait()
        self.left.append(event.type)

    def open(self):
        self._open.set()


# -- backpressure
async def test_publishers_wait_when_the_bus_is_full():
    """With `capacity` publications in flight the next publishers wait, and go on in the order of asking."""
    bus, gate = LocalBus(capacity=2), Gate()
    bus.subscribe("*", gate)
    async with asyncio.TaskGroup() as group:
        for name in "abcd":
            group.create_task(bus.publish(Event(name)))
        await run_until_idle()
        assert gate.entered == ["a", "b"]
        assert (bus.statistics().in_flight, bus.statistics().waiting) == (2, 2)
        gate.open()
    assert gate.left == ["a", "b", "c", "d"]
    assert (bus.statistics().in_flight, bus.statistics().waiting) == (0, 0)


async def test_nobody_slips_in_before_those_who_wait():
    """A place that is freed goes to the publisher that has waited longest, not to one that comes just then."""
    bus, order = LocalBus(capacity=1), []
    gates = {"a": asyncio.Event(), "b": asyncio.Event(), "c": asyncio.Event()}

    async def handler(event):
        order.append(event.type)
        await gates[event.type].wait()
        if event.type == "a":
            # in a context of its own, as a stranger: the task of a handler would count as the handler
            late.append(asyncio.create_task(bus.publish(Event("c")), context=contextvars.Context()))

    late = []
    bus.subscribe("*", handler)
    first, second = (asyncio.create_task(bus.publish(Event(name))) for name in "ab")
    await run_until_idle()
    for gate in gates.values():
        gate.set()
    await asyncio.gather(first, second)
    await asyncio.gather(*late)
    assert order == ["a", "b", "c"]


async def test_cancelled_while_waiting_for_room_nobody_hears():
    """A publisher cancelled before its turn delivers to nobody, and those behind it move up."""
    bus, gate = LocalBus(capacity=1), Gate()
    bus.subscribe("*", gate)
    tasks = [asyncio.create_task(bus.publish(Event(name))) for name in "abc"]
    await run_until_idle()
    tasks[1].cancel()
    await run_until_idle()
    assert bus.statistics().waiting == 1
    gate.open()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert gate.left == ["a", "c"]
    assert bus.statistics().in_flight == 0


async def test_cancelled_as_its_turn_comes_the_place_goes_on():
    """A publisher cancelled in the very moment it was given a place passes it on; none is lost."""
    bus, gate = LocalBus(capacity=1), Gate()
    subscription = bus.subscribe("*", gate)
    tasks = [asyncio.create_task(bus.publish(Event(name))) for name in "abc"]
    await run_until_idle()

    def cancel_second(_):
        # the place is handed on in the callback of the same task, just before this one
        tasks[1].cancel()

    (running,) = bus._tasks
    running.add_done_callback(cancel_second)
    gate.open()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert tasks[1].cancelled()
    assert gate.left == ["a", "c"]
    assert bus.statistics().in_flight == 0
    subscription.cancel()


async def test_publishing_inside_a_handler_gives_nobody_elses_place_away():
    """A nested publication may go beyond the capacity; when it ends, those in line still wait for a free place."""
    bus, gate, entered = LocalBus(capacity=1), Gate(), []

    async def outer(event):
        entered.append(event.payload)
        await bus.publish(Event("inner"))
        await gate(event)

    bus.subscribe("outer", outer)
    bus.subscribe("inner", gate.entered.append)
    first, second = (asyncio.create_task(bus.publish(Event("outer", number))) for number in (1, 2))
    await run_until_idle()
    assert (entered, bus.statistics().waiting) == ([1], 1)
    gate.open()
    await asyncio.gather(first, second)
    assert entered == [1, 2]


# -- cancelling a publisher
async def test_cancelling_the_publisher_tears_no_handler():
    """Once delivery began, cancelling the publisher ends only its waiting: every handler runs to its end."""
    bus, first, second = LocalBus(), Gate(), Gate()
    bus.subscribe("*", first)
    bus.subscribe("*", second)
    publisher = asyncio.create_task(bus.publish(Event("a")))
    await run_until_idle()
    publisher.cancel()
    with pytest.raises(asyncio.CancelledError):
        await publisher
    assert (first.left, second.left) == ([], [])
    assert bus.statistics().in_flight == 1
    first.open()
    second.open()
    await bus.join()
    assert (first.left, second.left) == (["a"], ["a"])
    assert bus.statistics().delivered == 2


async def test_join_waits_for_everything_in_flight():
    """`join` returns when nothing is in flight and nobody waits for room, and at once on an idle bus."""
    bus, gate = LocalBus(capacity=1), Gate()
    await bus.join()
    bus.subscribe("*", gate)
    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(bus.publish(Event(name)))
        joining = group.create_task(bus.join())
        await run_until_idle()
        assert not joining.done()
        gate.open()
    assert gate.left == ["a", "b"]


async def test_joining_may_be_given_up():
    """Cancelling a `join` disturbs neither the bus nor others that join."""
    bus, gate = LocalBus(), Gate()
    bus.subscribe("*", gate)
    publisher = asyncio.create_task(bus.publish(Event("a")))
    joining = [asyncio.create_task(bus.join()) for _ in range(2)]
    await run_until_idle()
    joining[0].cancel()
    gate.open()
    await joining[1]
    assert joining[0].cancelled()
    await publisher


async def test_shutting_down_the_loop_ends_handlers_without_noise(caplog):
    """A handler that is cancelled itself, as at the end of `asyncio.run`, is not reported as failed."""
    bus, gate = LocalBus(), Gate()
    bus.subscribe("*", gate)
    publisher = asyncio.create_task(bus.publish(Event("a")))
    await run_until_idle()
    (handler,) = bus._tasks
    handler.cancel()
    await publisher
    assert bus.statistics().failed == 0
    assert caplog.records == []


# -- handlers that misbehave
async def test_failures_are_logged_with_their_traceback(caplog):
    """Without `on_error` a failure is in the log, naming handler and event, with the traceback."""
    bus = LocalBus()

    def bookkeeping(_):
        raise ValueError("no such account")

    bus.subscribe("order.*", bookkeeping)
    await bus.publish(Event("order.placed"))
    (record,) = caplog.records
    assert record.name == "poundlock.bus"
    assert record.levelno == logging.ERROR
    assert "bookkeeping" in record.message
    assert "order.placed" in record.message
    assert "Traceback" in record.message
    assert "no such account" in record.message
    assert (bus.statistics().failed, bus.statistics().delivered) == (1, 0)


async def test_a_failing_on_error_stops_nobody(caplog):
    """When `on_error` itself raises, that is logged too, and delivery goes on."""

    def broken(*_):
        raise RuntimeError("broken reporter")

    bus, heard = LocalBus(on_error=broken), []
    bus.subscribe("*", lambda _: 1 / 0)
    bus.subscribe("*", heard.append)
    await bus.publish(Event("a"))
    assert len(heard) == 1
    assert caplog.records[-1].message.startswith("on_error of the bus failed")


@pytest.mark.parametrize("later", [False, True])
async def test_a_handler_that_raises_cancelled_has_failed(later, caplog):
    """CancelledError out of a handler is that handler's failure; it cancels neither publisher nor others."""
    errors = []
    bus, heard = LocalBus(on_error=lambda publication, handler, error: errors.append(type(error))), []

    def at_once(_):
        raise asyncio.CancelledError

    async def in_time(_):
        raise asyncio.CancelledError

    bus.subscribe("*", in_time if later else at_once)
    bus.subscribe("*", heard.append)
    await bus.publish(Event("a"))
    assert errors == [asyncio.CancelledError]
    assert len(heard) == 1


async def test_callables_that_return_awaitables_are_awaited():
    """What counts is what a handler returns: objects with an async `__call__` and futures are waited for too."""
    bus, future = LocalBus(), asyncio.get_running_loop().create_future()
    bus.subscribe("*", lambda _: future)
    publisher = asyncio.create_task(bus.publish(Event("a")))
    await run_until_idle()
    assert not publisher.done()
    future.set_result(None)
    await publisher


async def test_a_handler_that_never_returns_holds_up_only_its_publisher():
    """Other events, and other handlers of the same event, pass a handler that hangs."""
    bus, gate, heard = LocalBus(), Gate(), []
    bus.subscribe("slow", gate)
    bus.subscribe("*", heard.append)
    hanging = asyncio.create_task(bus.publish(Event("slow")))
    await run_until_idle()
    await bus.publish(Event("quick"))
    assert [event.type for event in heard] == ["slow", "quick"]
    gate.open()
    await hanging


async def test_cancelling_a_subscription_during_delivery():
    """A handler cancelled by an earlier handler of the same event is not started any more, sync or async."""
    bus, heard = LocalBus(), []
    later = []

    async def never(event):
        heard.append(event)

    async def cancels_later(_):
        later[1].cancel()

    bus.subscribe("*", lambda _: later[0].cancel())
    later.append(bus.subscribe("*", heard.append))
    bus.subscribe("*", cancels_later)
    later.append(bus.subscribe("*", never))
    await bus.publish(Event("a"))
    assert heard == []


async def test_what_a_handler_sets_in_its_context_stays_there():
    """Context variables set by a handler reach neither the publisher nor later publications."""
    bus, variable = LocalBus(), contextvars.ContextVar("variable", default="mine")

    async def sets_later(_):
        variable.set("theirs")

    bus.subscribe("*", lambda _: variable.set("theirs"))
    bus.subscribe("*", sets_later)
    await bus.publish(Event("a"))
    assert variable.get() == "mine"


# -- loops
async def test_endless_publishing_is_stopped_and_named(caplog):
    """Handlers that publish in a loop get EmitLoop with the chain; handlers outside the loop get their events."""
    errors, heard = [], []
    bus = LocalBus(max_depth=5, on_error=lambda publication, handler, error: errors.append(error))

    async def ping(_):
        await bus.publish(Event("pong"))

    async def pong(_):
        await bus.publish(Event("ping"))

    bus.subscribe("ping", ping)
    bus.subscribe("pong", pong)
    bus.subscribe("*", heard.append)
    await bus.publish(Event("ping"))
    (error,) = errors
    assert isinstance(error, EmitLoop)
    assert error.code == "EMIT_LOOP"
    assert error.fields["chain"] == ["ping", "pong", "ping", "pong", "ping", "pong"]
    assert "ping -> pong" in str(error)
    assert [event.type for event in heard] == ["ping", "pong", "ping", "pong", "ping"]
    assert bus.statistics().in_flight == 0


async def test_the_depth_limit_is_64():
    """By default 64 publications may be inside each other; the next one is refused."""
    bus, depth = LocalBus(), []

    async def deeper(_):
        depth.append(1)
        await bus.publish(Event("deeper"))

    bus.subscribe("deeper", deeper)
    logging.disable(logging.ERROR)
    try:
        await bus.publish(Event("deeper"))
    finally:
        logging.disable(logging.NOTSET)
    assert len(depth) == 64


async def test_a_handlers_own_task_starts_no_chain():
    """A task that a handler leaves behind may publish for ever: what is not inside a delivery is no recursion."""
    bus, seen, tasks, done = LocalBus(max_depth=2), [], set(), asyncio.Event()

    async def later():
        await bus.publish(Event("tick"))

    def tick(_):
        seen.append(1)
        if len(seen) == 20:
            done.set()
            return
        task = asyncio.create_task(later())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    bus.subscribe("tick", tick)
    await bus.publish(Event("tick"))
    await done.wait()
    assert len(seen) == 20


async def test_a_kept_context_keeps_no_event_alive():
    """A task started by a handler may live for days; the event it was started by is not held by it."""
    bus, tasks, payloads = LocalBus(), [], []
    stay = asyncio.Event()

    class Payload(dict):
        def __del__(self):
            payloads.append("gone")

    bus.subscribe("*", lambda _: tasks.append(asyncio.create_task(stay.wait())))
    await bus.publish(Event("a", Payload()))
    gc.collect()
    assert payloads == ["gone"]
    stay.set()
    await tasks[0]


async def test_a_kept_context_keeps_no_chain():
    """What is kept of a publication that has ended does not lead to those that it was published in."""
    bus, flights = LocalBus(), []

    async def outer(_):
        await bus.publish(Event("inner"))

    bus.subscribe("outer", outer)
    bus.subscribe("inner", lambda _: flights.append(_current.get()))
    await bus.publish(Event("outer"))
    assert flights[0].chain() == ["inner"]


# -- blinker
async def test_any_blinker_receiver_can_connect():
    """`bus.signal(type)` is a blinker NamedSignal: receivers connect, hear `event=`, and disconnect."""
    bus, heard = LocalBus(), []

    def receiver(sender, event):
        heard.append((sender, event))

    async def async_receiver(sender, event):
        heard.append(("async", event))

    signal = bus.signal("order.placed")
    assert signal.name == "order.placed"
    signal.connect(receiver)
    signal.connect(async_receiver)
    event = Event("order.placed")
    assert bus.has_subscribers("order.placed")
    await bus.publish(event)
    assert heard == [(bus, event), ("async", event)]
    signal.disconnect(receiver)
    with signal.connected_to(receiver, sender=bus):
        await bus.publish(Event("order.placed"))
    assert len(heard) == 4


async def test_signals_of_patterns_hear_what_fits():
    """A signal named by a pattern hears every type that fits, whenever it was asked for."""
    bus, heard = LocalBus(), []
    await bus.publish(Event("order.placed"))

    def receiver(_, event):
        heard.append(event.type)

    bus.signal("order.placed")  # nobody connects to this one
    bus.signal("order.*").connect(receiver)
    await bus.publish(Event("order.placed"))
    await bus.publish(Event("invoice.paid"))
    assert heard == ["order.placed"]


async def test_blinker_receivers_hear_in_the_order_of_connecting():
    """Where blinker itself promises no order, receivers are called in the order in which they were connected."""
    bus, order = LocalBus(), []
    for number in range(50):
        bus.signal("a").connect(lambda _, event, number=number: order.append(number), weak=False)
    await bus.publish(Event("a"))
    assert order == list(range(50))


async def test_blinker_receivers_are_weak_as_blinker_has_them():
    """A receiver connected the usual blinker way goes with its object; own subscriptions come before it."""
    bus, order = LocalBus(), []

    class Observer:
        def hear(self, _, event):
            order.append("observer")

    observer = Observer()
    bus.signal("a").connect(observer.hear)
    bus.subscribe("a", lambda _: order.append("subscriber"))
    await bus.publish(Event("a"))
    assert order == ["subscriber", "observer"]
    del observer
    gc.collect()
    await bus.publish(Event("a"))
    assert order == ["subscriber", "observer", "subscriber"]


async def test_muted_signals_are_silent():
    """Muting a signal in blinker silences it, subscribers included, for a while."""
    bus, heard = LocalBus(), []
    bus.subscribe("a", heard.append)
    with bus.signal("a").muted():
        assert not bus.has_subscribers("a")
        await bus.publish(Event("a"))
    assert heard == []
    await bus.publish(Event("a"))
    assert len(heard) == 1


async def test_sending_past_the_bus_is_refused():
    """`signal.send` would lose isolation and order, so a subscriber reached by it says what to use instead."""
    bus = LocalBus()
    bus.subscribe("a", print)
    with pytest.raises(TypeError, match=r"bus\.publish"):
        bus.signal("a").send(bus, event=Event("a"))


# -- who listens
async def test_has_subscribers_ignoring():
    """`has_subscribers` leaves out exactly the subscriptions named, whatever pattern they came by."""
    bus = LocalBus()
    assert not bus.has_subscribers("order.placed")
    exact = bus.subscribe("order.placed", print)
    pattern = bus.subscribe("order.*", print)
    assert bus.has_subscribers("order.placed", {exact})
    assert not bus.has_subscribers("order.placed", {exact, pattern})
    assert not bus.has_subscribers("invoice.paid")
    other = bus.subscribe("**", print)
    assert bus.has_subscribers("order.placed", {exact, pattern})
    other.cancel()
    assert not bus.has_subscribers("order.placed", {exact, pattern})


async def test_receivers_that_cannot_be_hashed_count_as_listeners():
    """A foreign receiver need not be hashable to be seen by `has_subscribers`."""
    bus = LocalBus()
    mine = bus.subscribe("a", print)

    class Unhashable:
        __hash__ = None

        def __call__(self, _, event): ...

    receiver = Unhashable()
    bus.signal("a").connect(receiver, weak=False)
    assert bus.has_subscribers("a", {mine})


async def test_signals_made_for_one_answer_do_not_pile_up():
    """Subscribing to many passing types leaves nothing behind once cancelled; signals handed out stay the same."""
    bus = LocalBus()
    kept = bus.signal("reply.kept")
    for number in range(100):
        bus.subscribe(f"reply.{number}", print).cancel()
    bus.subscribe("reply.kept", print).cancel()
    assert list(bus._signals) == ["reply.kept"]
    assert bus.signal("reply.kept") is kept
    assert bus.statistics().subscriptions == 0


async def test_memory_of_event_types_is_bounded():
    """Any number of event types passes through; what the bus remembers of them stays small, and correct."""
    bus, heard = LocalBus(), []
    bus.subscribe("type.*", heard.append)
    for number in range(5000):
        await bus.publish(Event(f"type.{number}"))
    assert len(heard) == 5000
    assert len(bus._routes) <= 4096


# -- looking at it
async def test_history_is_off_by_default_and_keeps_the_last_n():
    """`history(n)` keeps the last n events from then on; `history()` reads them; 0 switches it off."""
    bus = LocalBus()
    await bus.publish(Event("a"))
    assert bus.history() == []
    assert bus.history(2) == []
    for name in "abc":
        await bus.publish(Event(name))
    assert [event.type for event in bus.history()] == ["b", "c"]
    assert bus.history(0) == []
    assert [event.type for event in LocalBus(history=1).history()] == []


async def test_statistics_are_a_snapshot():
    """`statistics()` counts events, deliveries and subscriptions, and does not change afterwards."""
    bus = LocalBus()
    before = bus.statistics()
    bus.subscribe("*", lambda _: None)
    bus.subscribe("a", lambda _: None)
    await bus.publish(Event("a"))
    await bus.publish(Event("b"))
    after = bus.statistics()
    assert (after.published, after.delivered, after.failed, after.subscriptions) == (2, 3, 0, 2)
    assert before.published == 0
    assert "2 subscriptions" in repr(bus)


# -- bad input
@pytest.mark.parametrize("pattern", ["", " a", "a ", None, 5])
def test_bad_patterns_are_refused(pattern):
    """A pattern is text without outer blanks."""
    with pytest.raises(InvalidDefinition) as caught:
        LocalBus().subscribe(pattern, print)
    assert caught.value.path == "pattern"


def test_handlers_must_be_callable():
    """What cannot be called cannot be subscribed."""
    with pytest.raises(InvalidDefinition):
        LocalBus().subscribe("a", "print")


@pytest.mark.parametrize("options", [{"capacity": 0}, {"max_depth": 0}, {"history": -1}])
def test_bad_options_are_refused(options):
    """A bus without room, or with a negative history, is refused when made."""
    with pytest.raises(InvalidDefinition):
        LocalBus(**options)


@pytest.mark.parametrize("thing", ["order.placed", None, {"type": "a"}])
async def test_only_events_are_published(thing):
    """Publishing takes an Event or a Publication; anything else is InvalidEvent and nothing is counted."""
    bus = LocalBus()
    with pytest.raises(InvalidEvent):
        await bus.publish(thing)
    assert bus.statistics().published == 0


# -- threads and loops
async def test_emit_from_a_thread():
    """`emit_threadsafe` delivers on the bus's loop; its future is done when the handlers are."""
    bus, heard = LocalBus(), []
    bus.subscribe("*", lambda event: heard.append((event.type, threading.get_ident())))

    def work():
        return bus.emit_threadsafe(Event("a")).result(LAST_RESORT)

    assert await asyncio.to_thread(work) is None
    assert heard == [("a", threading.get_ident())]


async def test_emit_from_a_thread_hands_errors_back():
    """What publish raises comes out of the thread's future."""
    bus = LocalBus()
    bus.subscribe("*", print)
    outcome = await asyncio.to_thread(bus.emit_threadsafe, "no event")
    with pytest.raises(InvalidEvent):
        await asyncio.wrap_future(outcome)


async def test_emit_from_a_thread_can_be_called_off():
    """A future cancelled before the loop came to it publishes nothing."""
    bus, heard = LocalBus(), []
    bus.subscribe("*", heard.append)
    outcome = bus.emit_threadsafe(Event("a"))
    assert outcome.cancel()
    await run_until_idle()
    assert heard == []


async def test_emit_from_a_thread_ends_with_the_loop():
    """When the loop cancels what is left at its end, the thread that waits is told."""
    bus, gate = LocalBus(), Gate()
    bus.subscribe("*", gate)
    outcome = bus.emit_threadsafe(Event("a"))
    await run_until_idle()
    for task in list(bus._tasks):
        task.cancel()
    await run_until_idle()
    with pytest.raises(concurrent.futures.CancelledError):
        outcome.result(timeout=0)


def test_emit_needs_to_know_the_loop():
    """Before the bus has seen an event loop there is nowhere to deliver."""
    with pytest.raises(RuntimeError, match="no event loop yet"):
        LocalBus().emit_threadsafe(Event("a"))


def test_a_bus_follows_to_a_new_loop_once_the_old_is_closed():
    """One bus may serve several `asyncio.run` one after another, also when the last one left work in flight."""
    bus, heard = LocalBus(capacity=1), []

    async def hang(_):
        await asyncio.Event().wait()

    async def first():
        subscription = bus.subscribe("hang", hang)
        task = asyncio.create_task(bus.publish(Event("hang")))
        await run_until_idle()
        assert bus.statistics().in_flight == 1
        subscription.cancel()
        return task

    async def second():
        bus.subscribe("*", heard.append)
        await bus.publish(Event("a"))

    asyncio.run(first())
    asyncio.run(second())
    assert len(heard) == 1
    assert bus.statistics().in_flight == 0


def test_two_open_loops_are_refused():
    """A bus belongs to one loop while that is open; publishing on another one says what to do."""
    bus = LocalBus()
    bus.subscribe("*", print)
    other = asyncio.new_event_loop()

    async def here():
        await bus.publish(Event("a"))

    try:
        other.run_until_complete(here())
        with pytest.raises(RuntimeError, match="emit_threadsafe"):
            asyncio.run(here())
    finally:
        other.close()


async def test_concurrent_delivery_across_events():
    """Two publications are delivered beside each other: the second may be done before the first."""
    bus, turn, order = LocalBus(), Sequencer(), []

    async def handler(event):
        if event.type == "slow":
            async with turn(0):
                order.append("slow begins")
            async with turn(2):
                order.append("slow ends")
        else:
            async with turn(1):
                order.append("quick")

    bus.subscribe("*", handler)
    async with asyncio.TaskGroup() as group:
        group.create_task(bus.publish(Event("slow")))
        group.create_task(bus.publish(Event("quick")))
    assert order == ["slow begins", "quick", "slow ends"]


def test_subscriptions_say_what_they_are():
    """A subscription's repr names handler and pattern, and whether it was cancelled."""
    subscription = LocalBus().subscribe("order.*", print)
    assert repr(subscription) == "<subscription of print to 'order.*'>"
    subscription.cancel()
    assert repr(subscription).endswith(", cancelled>")


@pytest.mark.parametrize("name", RAISES)
@pytest.mark.parametrize("later", [False, True], ids=["now", "later"])
async def test_whatever_a_handler_raises_the_others_hear_the_event(name, later, caplog):
    """SystemExit, odd errors without a text: each is logged as that handler's failure."""

    async def fails_later(_):
        await asyncio.sleep(0)  # noqa: TID251 - it really waits
        throw(name)

    bus, heard = LocalBus(), []
    bus.subscribe("a", fails_later if later else lambda _: throw(name))
    bus.subscribe("a", heard.append)
    await bus.publish(Event("a"))
    await bus.join()
    assert len(heard) == 1
    assert bus.statistics().failed == 1
    assert "failed on event 'a'" in caplog.text
