"""A bus that records everything, for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from poundlock.bus import LocalBus
from poundlock.model.events import Event
from poundlock.ports import Publication, Subscription

__all__ = ["RecordingBus"]


class RecordingBus(LocalBus):
    """A LocalBus that records publications and failures.

    Attributes:
        publications: everything published, in order.
        failures: (publication, handler, error) of each handler that raised.
    """

    def __init__(self, **options: Any) -> None:
        self.publications: list[Publication] = []
        self.failures: list[tuple[Publication, Callable[..., Any], BaseException]] = []
        self._on_error = options.pop("on_error", None)
        super().__init__(on_error=self._record_failure, **options)

    @property
    def events(self) -> list[Event]:
        """The published events, in order."""
        return [publication.event for publication in self.publications]

    def types(self) -> list[str]:
        """Return the types of the published events, in order."""
        return [publication.event.type for publication in self.publications]

    async def publish(self, event: Event | Publication) -> None:
        # Recorded first: an event that a handler publishes comes after it.
        if isinstance(event, Event | Publication):
            self.publications.append(event if isinstance(event, Publication) else Publication(event))
        await super().publish(event)

    def has_subscribers(self, event_type: str, ignoring: Collection[Subscription] = ()) -> bool:  # noqa: ARG002 - the port's
        """Return True: this bus itself records every event."""
        return True

    def _record_failure(self, publication: Publication, handler: Callable[..., Any], error: BaseException) -> None:
        self.failures.append((publication, handler, error))
        if self._on_error is not None:
            self._on_error(publication, handler, error)
