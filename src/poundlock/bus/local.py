"""The bus inside one process.

House rules:

1. Everything happens on one event loop; other threads use `emit_threadsafe`.
2. A publication goes to all its handlers or to none: nothing is awaited between the first and the last. From then on it
   belongs to the bus. Cancelling the publisher only ends its wait.
3. A handler cannot affect others: not by raising, not by being slow, not by never returning.
4. Nothing is dropped. At capacity, publishers wait in FIFO order. Only a handler that publishes does not wait, because
   the publication it would wait for waits for this handler; `max_depth` bounds that.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextvars import ContextVar, copy_context
from typing import Any, Final

from blinker import NamedSignal

from poundlock.bus.signals import EventSignal, EventSignals
from poundlock.errors import EmitLoop, InvalidDefinition, InvalidEvent
from poundlock.guard import ends, for_the_process, log_text, repr_of
from poundlock.model.events import Event
from poundlock.model.patterns import is_pattern, type_matches
from poundlock.ports import Handler, Publication, PublicationHandler, Subscription
from poundlock.records import dataclass

__all__ = ["BusStatistics", "LocalBus"]

_log = logging.getLogger("poundlock.bus")

OnError = Callable[[Publication, Callable[..., Any], BaseException], Any]

_KNOWN_TYPES: Final = 4096  # event types may come from outside, so the cache is bounded
_SHOWN: Final = 8  # number of types that an error message shows of a chain


@dataclass(frozen=True, slots=True)
class BusStatistics:
    """The counters of a bus at one moment.

    Attributes:
        published: events published since the bus was created.
        delivered: calls of handlers that returned.
        failed: calls of handlers that raised.
        in_flight: publications with a handler that has not returned yet.
        waiting: publishers that wait for capacity.
        subscriptions: subscribed handlers.
    """

    published: int
    delivered: int
    failed: int
    in_flight: int
    waiting: int
    subscriptions: int


class _Flight:
    """One publication in flight; `parent` is the one whose handler published it."""

    __slots__ = ("depth", "ended", "event_type", "open", "parent")

    def __init__(self, event_type: str, parent: _Flight | None) -> None:
        # Not the event itself: a task that a handler starts keeps its context, and so this object, maybe for days.
        self.event_type = event_type
        self.parent = parent
        self.depth: int = 1 if parent is None else parent.depth + 1
        self.open = 1
        """Number of handlers that have not returned, plus one while handlers are being started."""
        self.ended: asyncio.Future[None] | None = None

    def chain(self) -> list[str]:
        """Return the event types from the outermost publication to this one."""
        types = []
        flight: _Flight | None = self
        while flight is not None:
            types.append(flight.event_type)
            flight = flight.parent
        return types[::-1]


# The publication whose handler is running. A task that a handler starts inherits it; it counts while `open` is not 0.
_current: ContextVar[_Flight | None] = ContextVar("poundlock_flight", default=None)


class _Subscriber:
    """A subscribed handler: the receiver for blinker, and the subscription for the user."""

    __slots__ = ("__weakref__", "_bus", "active", "handler", "number", "pattern", "whole")

    def __init__(self, bus: LocalBus, pattern: str, handler: Callable[..., Any], number: int, *, whole: bool) -> None:
        self._bus = bus
        self.pattern = pattern
        self.handler = handler
        self.number = number
        self.whole = whole
        """Whether the handler takes the Publication instead of its Event."""
        self.active = True

    def cancel(self) -> None:
        if self.active:
            self.active = False
            self._bus._remove(self)  # noqa: SLF001 - of this file

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("send to subscribers of a bus with bus.publish(event), not with the signal's send()")

    def __repr__(self) -> str:
        return f"<subscription of {_name(self.handler)} to '{self.pattern}'{'' if self.active else ', cancelled'}>"


class LocalBus:
    """Delivers events inside one process; implements the Bus port.

    Handlers are started in the order of their subscription. Plain functions run inside `publish` and should be quick;
    async ones run concurrently, so that a slow one delays only the publisher. The bus holds strong references to
    handlers; blinker decides for receivers connected to a `signal`.

    Args:
        capacity: publications that may be in flight; at this limit publishers wait.
        max_depth: how deep handlers may publish inside handlers before it counts as an endless loop.
        history: how many events `history()` keeps.
        on_error: called with (publication, handler, error) when a handler raises; the error is always logged too.
    """

    def __init__(
        self,
        *,
        capacity: int = 1000,
        max_depth: int = 64,
        history: int = 0,
        on_error: OnError | None = None,
    ) -> None:
        if capacity < 1 or max_depth < 1 or history < 0:
            raise InvalidDefinition("a bus needs capacity and max_depth of at least 1, and history of at least 0")
        self.on_error = on_error
        self._capacity = capacity
        self._max_depth = max_depth
        self._history: deque[Event] = deque(maxlen=history)
        self._signals = EventSignals()
        self._exposed: set[str] = set()
        self._routes: dict[str, tuple[EventSignal, ...]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._queue: deque[asyncio.Future[None]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._numbers = 0
        self._in_flight = 0
        self._published = 0
        self._delivered = 0
        self._failed = 0
        self._subscriptions = 0

    # -- publishing
    async def publish(self, event: Event | Publication) -> None:
        """Call every handler whose pattern matches the event; returns when all of them have returned.

        If the caller is cancelled while it waits for capacity, no handler is called. If it is cancelled later, all
        handlers still run to their end.

        Raises:
            EmitLoop: handlers publish in an endless loop; `chain` names the event types.
            InvalidEvent: it is not an Event.
        """
        bare = event.event if type(event) is Publication else event
        if not isinstance(bare, Event):
            raise InvalidEvent(f"publish takes an Event, not {bare!r:.60}: create one with Event(type, payload)")
        event_type = bare.type
        route = self._routes.get(event_type)
        for signal in self._route(event_type) if route is None else route:
            if signal.receivers:
                break
        else:  # no subscriber; this case should cost nothing
            self._note(bare)
            return
        publication = event if type(event) is Publication else Publication(bare)
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._bind_to(loop)
        parent = _current.get()
        if parent is None or not parent.open:
            parent = None
            await self._enter(loop)
        elif parent.depth >= self._max_depth:
            raise _loop_error([*parent.chain(), event_type], self._max_depth)
        else:
            self._in_flight += 1
        self._note(bare)
        flight = _Flight(event_type, parent)
        # In a copy of the context: variables set by plain handlers must not reach the publisher.
        copy_context().run(self._start, flight, publication, loop)
        if flight.open:
            flight.ended = loop.create_future()
            await flight.ended

    def emit_threadsafe(self, event: Event | Publication) -> concurrent.futures.Future[None]:
        """Publish from another thread.

        Returns:
            A future that is done when all handlers have returned. Do not wait for it on the bus's own thread: deadlock.

        Raises:
            RuntimeError: the bus has not seen its event loop yet, or the loop is closed.
        """
        loop = self._loop
        if loop is None:
            raise RuntimeError("this bus has no event loop yet: subscribe or publish on the loop first")
        outcome: concurrent.futures.Future[None] = concurrent.futures.Future()

        async def publish() -> None:
            try:
                await self.publish(event)
            except asyncio.CancelledError:
                outcome.set_exception(concurrent.futures.CancelledError())
                raise  # the loop is shutting down
            except Exception as error:  # noqa: BLE001 - the waiting thread gets it
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        def start() -> None:
            if outcome.set_running_or_notify_cancel():
                self._own(loop, publish())

        loop.call_soon_threadsafe(start)
        return outcome

    async def join(self) -> None:
        """Return when nothing is in flight and no publisher waits for capacity."""
        while self._in_flight:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle

    # -- subscribing
    def subscribe(self, pattern: str, handler: Handler) -> Subscription:
        """Call `handler` with every event whose type matches: an exact type, or `order.*`, `order.**`, `*`.

        A handler that is subscribed twice is called twice.

        Returns:
            The subscription; after its `cancel()` the handler is not started again.
        """
        return self._add(pattern, handler, whole=False)

    def subscribe_publications(self, pattern: str, handler: PublicationHandler) -> Subscription:
        """Call `handler` with the whole Publication: the event, and what its emitter has already decided."""
        return self._add(pattern, handler, whole=True)

    def has_subscribers(self, event_type: str, ignoring: Collection[Any] = ()) -> bool:
        """Whether an event of this type has a subscriber that is not in `ignoring` (subscriptions)."""
        route = self._routes.get(event_type)
        for signal in self._route(event_type) if route is None else route:
            if signal.receivers and not signal.is_muted:
                if not ignoring:
                    return True
                # Without the check whether each is still alive: a guess towards True is allowed, and this is cheaper.
                for receiver in signal.receivers.values():
                    # A receiver connected through blinker need not be hashable.
                    if type(receiver) is not _Subscriber or receiver not in ignoring:
                        return True
        return False

    def signal(self, pattern: str) -> NamedSignal:
        """Return the blinker signal of an event type or pattern.

        Any blinker receiver can connect to it. It is called as `receiver(bus, event=event)`, sync or async, after the
        bus's own subscribers. Send with `publish`, not with the signal.
        """
        _check(pattern)
        self._exposed.add(pattern)
        return self._signal(pattern)

    # -- inspection
    def history(self, n: int | None = None) -> list[Event]:
        """Return the last published events, oldest first; for debugging.

        Args:
            n: how many to keep from now on; 0 keeps none, None changes nothing.
        """
        if n is not None and n != self._history.maxlen:
            self._history = deque(self._history, maxlen=n)
        return list(self._history)

    def statistics(self) -> BusStatistics:
        """Return the current counters of the bus."""
        return BusStatistics(
            published=self._published,
            delivered=self._delivered,
            failed=self._failed,
            in_flight=self._in_flight,
            waiting=sum(not turn.done() for turn in self._queue),
            subscriptions=self._subscriptions,
        )

    def __repr__(self) -> str:
        return f"LocalBus({self._subscriptions} subscriptions, {self._in_flight} in flight)"

    # -- routing
    def _add(self, pattern: str, handler: Callable[..., Any], *, whole: bool) -> _Subscriber:
        _check(pattern)
        if not callable(handler):
            raise InvalidDefinition(f"{handler!r:.60} cannot be called: subscribe a function", path="handler")
        if self._loop is None:
            self._loop = _running()
        subscriber = _Subscriber(self, pattern, handler, self._numbers, whole=whole)
        self._numbers += 1
        self._signal(pattern).connect(subscriber, weak=False)
        self._subscriptions += 1
        return subscriber

    def _remove(self, subscriber: _Subscriber) -> None:
        signal = self._signal(subscriber.pattern)
        signal.disconnect(subscriber)
        self._subscriptions -= 1
        if not signal.receivers and subscriber.pattern not in self._exposed:
            # Otherwise signals of single-use types ("reply.<id>") would accumulate.
            del self._signals[subscriber.pattern]
            self._forget_routes(subscriber.pattern)

    def _signal(self, pattern: str) -> EventSignal:
        if pattern not in self._signals:
            self._forget_routes(pattern)
        return self._signals.signal(pattern)

    def _forget_routes(self, pattern: str) -> None:
        if is_pattern(pattern):
            self._routes.clear()
        else:
            self._routes.pop(pattern, None)

    def _route(self, event_type: str) -> tuple[EventSignal, ...]:
        route = self._routes.get(event_type)
        if route is None:
            if len(self._routes) >= _KNOWN_TYPES:
                self._routes.clear()
            names = [name for name in self._signals if name == event_type or is_pattern(name)]
            route = tuple(self._signals.signal(name) for name in names if type_matches(name, event_type))
            self._routes[event_type] = route
        return route

    def _receivers(self, event_type: str) -> list[Any]:
        found = [
            receiver
            for signal in self._route(event_type)
            if not signal.is_muted
            for receiver in signal.receivers_for(self)
        ]
        if len(found) > 1:
            found.sort(key=_order_of)
        return found

    # -- delivering
    def _note(self, event: Event) -> None:
        self._published += 1
        if self._history.maxlen:
            self._history.append(event)

    def _start(self, flight: _Flight, publication: Publication, loop: asyncio.AbstractEventLoop) -> None:
        """Start every handler, in order. Up to the first that has to be awaited they run right here."""
        _current.set(flight)
        receivers = self._receivers(publication.event.type)
        try:
            for index, receiver in enumerate(receivers):
                pending = self._call(receiver, publication)
                if pending is not None:
                    self._run_in_task(flight, self._finish(receiver, publication, pending), loop)
                    for later in receivers[index + 1 :]:
                        self._run_in_task(flight, self._deliver(later, publication), loop)
                    break
        finally:
            self._end_part(flight)

    def _call(self, receiver: Any, publication: Publication) -> Any:
        """Call one handler; return an awaitable if its result has to be awaited, else None."""
        try:
            if type(receiver) is not _Subscriber:
                pending = receiver(self, event=publication.event)
            elif receiver.active:
                pending = receiver.handler(publication if receiver.whole else publication.event)
            else:
                return None  # cancelled by an earlier handler
        # CancelledError too: nothing was awaited here, so the handler raised it; the publisher was not cancelled.
        except BaseException as error:  # user code
            if for_the_process(error):
                raise
            self._report_failure(receiver, publication, error)
            return None
        if pending is not None and inspect.isawaitable(pending):
            return pending
        self._delivered += 1
        return None

    async def _finish(self, receiver: Any, publication: Publication, pending: Awaitable[Any]) -> None:
        """Await the result of a handler."""
        task = asyncio.current_task()
        try:
            await pending
        except BaseException as error:  # user code
            if ends(error, task):
                raise  # CancelledError: the loop is shutting down
            self._report_failure(receiver, publication, error)
        else:
            self._delivered += 1

    async def _deliver(self, receiver: Any, publication: Publication) -> None:
        pending = self._call(receiver, publication)
        if pending is not None:
            await self._finish(receiver, publication, pending)

    def _run_in_task(self, flight: _Flight, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        """Run the work in a task that the bus owns, as a part of this flight."""
        flight.open += 1
        self._own(loop, work).add_done_callback(lambda _: self._end_part(flight))

    def _end_part(self, flight: _Flight) -> None:
        """One part of a flight is done; the last one passes the flight's place to the next publisher."""
        flight.open -= 1
        if flight.open:
            return
        flight.parent = None
        if flight.ended is not None and not flight.ended.done():
            flight.ended.set_result(None)
        self._leave()

    def _report_failure(self, receiver: Any, publication: Publication, error: BaseException) -> None:
        self._failed += 1
        handler = receiver.handler if type(receiver) is _Subscriber else receiver
        _log.error("handler %s failed on event '%s'\n%s", _name(handler), publication.event.type, log_text(error))
        if self.on_error is None:
            return
        try:
            self.on_error(publication, handler, error)
        except BaseException as failure:  # user code
            if for_the_process(failure):
                raise
            _log.error("on_error of the bus failed\n%s", log_text(failure))

    # -- capacity and tasks
    async def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take a place; wait in the queue while the bus is at capacity."""
        if self._in_flight < self._capacity:
            self._in_flight += 1
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._leave()  # the place was passed to this publisher already
            raise

    def _leave(self) -> None:
        """Pass the place on to the first publisher in the queue, in one step, so that no other can take it."""
        while self._queue and self._in_flight <= self._capacity:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._in_flight -= 1
        if not self._in_flight:
            idle, self._idle = self._idle, []
            for waiter in idle:
                if not waiter.done():
                    waiter.set_result(None)

    def _own(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task and keep a reference: the loop itself holds only weak ones."""
        task = loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _bind_to(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._loop is not None and not self._loop.is_closed():
            raise RuntimeError("this bus belongs to another event loop that is still open: use emit_threadsafe")
        # What was in flight ended with the old loop.
        self._loop = loop
        self._tasks.clear()
        self._queue.clear()
        self._idle.clear()
        self._in_flight = 0


def _check(pattern: Any) -> None:
    if not isinstance(pattern, str) or not pattern or pattern != pattern.strip():
        raise InvalidDefinition(
            f"{pattern!r:.60} is not an event type or pattern: use text like 'order.placed' or 'order.*'",
            path="pattern",
        )


def _order_of(receiver: Any) -> float:
    return receiver.number if type(receiver) is _Subscriber else float("inf")


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _name(handler: Any) -> str:
    return str(getattr(handler, "__qualname__", None) or repr_of(handler))


def _loop_error(chain: list[str], max_depth: int) -> EmitLoop:
    shown = ("... -> " if len(chain) > _SHOWN else "") + " -> ".join(chain[-_SHOWN:])
    return EmitLoop(
        f"handlers publish inside handlers more than {max_depth} deep ({shown}): break the loop, or publish later from "
        f"a task of your own",
        chain=chain,
    )
