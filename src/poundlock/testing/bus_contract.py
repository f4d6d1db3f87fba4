"""The promises of every bus, as tests: for LocalBus and for custom buses.

```python
class TestMyBus(BusContract):
    def make_bus(self, **options):
        return MyBus(**options)
```

House rules: the tests use only the port, plus `on_error=` and `capacity=` as options of the constructor. This file does
not import pytest; the tests are async, so the class needs pytest-asyncio or the like.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Any

from poundlock.model.events import Event
from poundlock.ports import Bus, Publication

__all__ = ["BusContract"]


class BusContract:
    """Inherit, implement `make_bus`, and let pytest find the tests."""

    def make_bus(self, **options: Any) -> Bus:
        """Return a new bus. Options: `on_error` (a function of publication, handler, error) and `capacity`."""
        raise NotImplementedError

    async def settle(self, bus: Bus) -> None:
        """Return when all publications have reached the handlers; empty for a bus that delivers in `publish`."""

    async def _heard(self, bus: Bus, *types: str) -> None:
        for event_type in types:
            await bus.publish(Event(event_type))
        await self.settle(bus)

    # -- routing
    async def test_exact_type_hears_that_type_only(self) -> None:
        """A subscription to a type gets events of that type and no others."""
        bus, heard = self.make_bus(), Heard()
        bus.subscribe("order.placed", heard)
        await self._heard(bus, "order.placed", "order.cancelled", "order", "order.placed.late", "order.placed")
        assert heard.types == ["order.placed", "order.placed"]

    async def test_star_is_one_segment(self) -> None:
        """`order.*` matches types with exactly one more segment."""
        bus, heard = self.make_bus(), Heard()
        bus.subscribe("order.*", heard)
        await self._heard(bus, "order", "order.placed", "order.placed.late", "orders.placed")
        assert heard.types == ["order.placed"]

    async def test_two_stars_are_any_number_of_segments(self) -> None:
        """`order.**` matches the type itself and everything below it."""
        bus, heard = self.make_bus(), Heard()
        bus.subscribe("order.**", heard)
        await self._heard(bus, "order", "order.placed", "order.placed.late", "orders")
        assert heard.types == ["order", "order.placed", "order.placed.late"]

    async def test_star_alone_is_everything(self) -> None:
        """`*` matches every event."""
        bus, heard = self.make_bus(), Heard()
        bus.subscribe("*", heard)
        await self._heard(bus, "order", "order.placed", "a.b.c.d")
        assert heard.types == ["order", "order.placed", "a.b.c.d"]

    async def test_no_subscribers(self) -> None:
        """Publishing without a matching subscriber is not an error."""
        await self._heard(self.make_bus(), "order.placed")

    async def test_overlapping_subscriptions_hear_once_each(self) -> None:
        """An event that matches several subscriptions reaches each of them once."""
        bus, exact, pattern = self.make_bus(), Heard(), Heard()
        bus.subscribe("order.placed", exact)
        bus.subscribe("order.*", pattern)
        await self._heard(bus, "order.placed")
        assert (exact.types, pattern.types) == (["order.placed"], ["order.placed"])

    async def test_event_arrives_as_it_was(self) -> None:
        """Type, payload, id, source, key, time and headers arrive as they were published."""
        bus, heard = self.make_bus(), Heard()
        bus.subscribe("order.placed", heard)
        event = Event(
            "order.placed", {"lines": [1, "ä"]}, id="e1", time=5.5, source="/shop", key="k", headers={"tenant": "t"}
        )
        await bus.publish(event)
        await self.settle(bus)
        assert heard.events == [event]

    async def test_a_publication_arrives_whole(self) -> None:
        """Publication handlers get what the emitter decided; other handlers get the event alone."""
        bus, heard, whole = self.make_bus(), Heard(), Heard()
        bus.subscribe("order.placed", heard)
        bus.subscribe_publications("order.placed", whole)
        publication = Publication(Event("order.placed"), "store-1", frozenset({("wf", "tr")}))
        await bus.publish(publication)
        await self.settle(bus)
        assert whole.got == [publication]
        assert heard.got == [publication.event]

    async def test_a_bare_event_is_a_publication_without_decisions(self) -> None:
        """An event published by a user reaches publication handlers with nothing decided."""
        bus, whole = self.make_bus(), Heard()
        bus.subscribe_publications("*", whole)
        event = Event("order.placed")
        await bus.publish(event)
        await self.settle(bus)
        assert whole.got == [Publication(event, None, frozenset())]

    # -- subscribing and cancelling
    async def test_closures_are_kept(self) -> None:
        """The bus holds a strong reference to a handler."""
        bus, heard = self.make_bus(), Heard()

        def subscribe() -> None:
            def handler(event: Event) -> None:
                heard(event)

            bus.subscribe("order.placed", handler)

        subscribe()
        gc.collect()
        await self._heard(bus, "order.placed")
        assert heard.types == ["order.placed"]

    async def test_cancel_ends_hearing(self) -> None:
        """After `cancel` the handler gets nothing; a second `cancel` does nothing; other handlers are not affected."""
        bus, gone, stays = self.make_bus(), Heard(), Heard()
        subscription = bus.subscribe("order.placed", gone)
        bus.subscribe("order.placed", stays)
        subscription.cancel()
        subscription.cancel()
        await self._heard(bus, "order.placed")
        assert (gone.types, stays.types) == ([], ["order.placed"])

    async def test_one_handler_twice_is_two_subscriptions(self) -> None:
        """A handler subscribed twice is called twice, until one subscription is cancelled."""
        bus, heard = self.make_bus(), Heard()
        bus.subscribe("order.placed", heard)
        second = bus.subscribe("order.placed", heard)
        await self._heard(bus, "order.placed")
        second.cancel()
        await self._heard(bus, "order.placed")
        assert heard.types == ["order.placed"] * 3

    async def test_has_subscribers_never_overlooks_one(self) -> None:
        """`has_subscribers` is True whenever a subscription outside `ignoring` matches."""
        bus = self.make_bus()
        ignored = bus.subscribe("order.placed", Heard())
        other = bus.subscribe("order.*", Heard())
        assert bus.has_subscribers("order.placed")
        assert bus.has_subscribers("order.placed", {ignored})
        assert bus.has_subscribers("order.cancelled")
        other.cancel()
        assert bus.has_subscribers("order.placed")

    # -- handlers at work
    async def test_registration_order(self) -> None:
        """Handlers are started in the order of their subscription, independent of their pattern and kind."""
        bus, order = self.make_bus(), list[int]()

        def plain(number: int) -> Callable[[Event], None]:
            return lambda _: order.append(number)

        def slow(number: int) -> Callable[[Event], Any]:
            async def handler(_: Event) -> None:
                order.append(number)

            return handler

        for number, pattern in enumerate(["order.*", "order.placed", "*", "order.placed", "order.**", "order.*"]):
            bus.subscribe(pattern, (slow if number in (2, 4) else plain)(number))
        await self._heard(bus, "order.placed")
        assert order == [0, 1, 2, 3, 4, 5]

    async def test_publish_waits_for_the_handlers(self) -> None:
        """When an event has been published and settled, every handler, sync or async, has returned."""
        bus, done = self.make_bus(), list[str]()

        async def two_turns(_: Event) -> None:
            await _turns(2)
            done.append("async")

        bus.subscribe("order.placed", two_turns)
        bus.subscribe("order.placed", lambda _: done.append("sync"))
        await self._heard(bus, "order.placed")
        assert sorted(done) == ["async", "sync"]

    async def test_a_slow_handler_delays_no_other(self) -> None:
        """Handlers of one event run concurrently."""
        bus, at_work, all_in = self.make_bus(), list[int](), asyncio.Event()

        async def meet(_: Event) -> None:
            at_work.append(1)
            if len(at_work) == 3:
                all_in.set()
            await all_in.wait()

        for _ in range(3):
            bus.subscribe("order.placed", meet)
        await self._heard(bus, "order.placed")
        assert len(at_work) == 3

    async def test_a_failing_handler_stops_no_other(self) -> None:
        """When handlers raise, sync or async, the others still get the event, and the publisher gets no error."""
        bus, heard = self.make_bus(on_error=lambda *_: None), Heard()
        bus.subscribe("order.placed", _fails_at_once)
        bus.subscribe("order.placed", heard)
        bus.subscribe("order.placed", _fails_later)
        bus.subscribe("order.placed", heard)
        with _quiet():
            await self._heard(bus, "order.placed", "order.placed")
        assert heard.types == ["order.placed"] * 4

    async def test_errors_are_reported(self) -> None:
        """`on_error` gets the publication, the handler and the error of each failure."""
        reports: list[tuple[Publication, Callable[..., Any], BaseException]] = []
        bus = self.make_bus(on_error=lambda *report: reports.append(report))
        bus.subscribe("order.placed", _fails_at_once)
        bus.subscribe("order.placed", _fails_later)
        event = Event("order.placed")
        with _quiet():
            await bus.publish(event)
            await self.settle(bus)
        assert [(publication.event, handler) for publication, handler, _ in reports] == [
            (event, _fails_at_once),
            (event, _fails_later),
        ]
        assert [str(error) for _, _, error in reports] == ["at once", "later"]

    async def test_a_burst_loses_nothing(self) -> None:
        """With far more publishers than capacity, every event arrives once."""
        bus, heard = self.make_bus(capacity=2), Heard()

        async def slow(event: Event) -> None:
            await _turns(1)
            heard(event)

        bus.subscribe("burst.*", slow)
        types = [f"burst.{number}" for number in range(50)]
        async with asyncio.TaskGroup() as group:
            for event_type in types:
                group.create_task(bus.publish(Event(event_type)))
        await self.settle(bus)
        assert sorted(heard.types) == sorted(types)

    async def test_a_handler_may_publish(self) -> None:
        """Publishing inside a handler works, even if the bus is full of publications that wait for that handler."""
        bus, heard = self.make_bus(capacity=1), Heard()

        async def passes_on(event: Event) -> None:
            await bus.publish(Event("order.copied", event.payload))

        bus.subscribe("order.placed", passes_on)
        bus.subscribe("order.copied", heard)
        await self._heard(bus, "order.placed", "order.placed")
        assert heard.types == ["order.copied", "order.copied"]

    async def test_subscribing_while_delivering(self) -> None:
        """A handler subscribed during a delivery gets the next event, not this one."""
        bus, heard = self.make_bus(), Heard()

        def subscribes(_: Event) -> None:
            bus.subscribe("order.placed", heard)

        first = bus.subscribe("order.placed", subscribes)
        await self._heard(bus, "order.placed")
        assert heard.types == []
        first.cancel()
        await self._heard(bus, "order.placed")
        assert heard.types == ["order.placed"]


class Heard:
    """A handler that records what it gets."""

    def __init__(self) -> None:
        self.got: list[Any] = []

    def __call__(self, got: Any) -> None:
        self.got.append(got)

    @property
    def events(self) -> list[Event]:
        """What it got, as events."""
        return [got.event if isinstance(got, Publication) else got for got in self.got]

    @property
    def types(self) -> list[str]:
        """The types of what it got."""
        return [event.type for event in self.events]


def _fails_at_once(_: Event) -> None:
    raise ValueError("at once")


async def _fails_later(_: Event) -> None:
    await _turns(1)
    raise ValueError("later")


async def _turns(count: int) -> None:
    """Let the event loop run some iterations, without any time passing."""
    loop = asyncio.get_running_loop()
    for _ in range(count):
        turned: asyncio.Future[None] = loop.create_future()
        loop.call_soon(turned.set_result, None)
        await turned


class _quiet:  # noqa: N801 - reads as a statement
    """Switch the log off while handlers fail on purpose."""

    def __enter__(self) -> None:
        logging.disable(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.disable(logging.NOTSET)
